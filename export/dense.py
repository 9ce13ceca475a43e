"""The dense form: every weight is a float32 tensor under the parameter's name.

A form is the last of the passes: it decides how the graph holds the weights, given the factors per channel
that folding BatchNorm left over.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .graph import Graph

__all__ = ["write_dense"]


def write_dense(graph: Graph, factors: Mapping[str, NDArray[np.float64]]) -> None:
    """Multiply each weight by its factors in float64 and round once to float32."""
    for name, factor in factors.items():
        weight = graph.array(name)
        assert weight is not None, name
        graph.put(name, (weight.astype(np.float64) * factor).astype(np.float32))
