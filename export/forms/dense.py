"""The dense form: every weight is a float32 tensor under the parameter's name.

A form is the last of the passes: it decides how the graph holds the weights, given the factors per channel
that folding BatchNorm left over. All forms hold the values that this one holds, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..coded import CodedWeight
from ..graph import Graph

__all__ = ["write_dense"]


def write_dense(
    graph: Graph, factors: Mapping[str, NDArray[np.float64]], coded: Mapping[str, CodedWeight] | None = None
) -> None:
    """Multiply weights by their factors.

    Of coded weights the scale is multiplied, in float64, and rounded once to float32; of others, the values are.

    Args:
        graph: its initialisers are set.
        factors: float64, by the names of weights that have any; each broadcasts against its weight.
        coded: weights whose codes are known, by name.
    """
    known = {name: weight for name, weight in (coded or {}).items() if name in graph.initializers}
    for name, weight in known.items():
        graph.put_coded(name, weight.times(factors[name]) if name in factors else weight)
    for name in factors.keys() - known.keys():
        array = graph.array(name)
        assert array is not None, name
        graph.put(name, (array.astype(np.float64) * factors[name]).astype(np.float32))
