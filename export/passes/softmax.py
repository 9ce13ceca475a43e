"""Let a graph give probabilities in the place of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ..graph import Graph

__all__ = ["OUTPUT", "PROBABILITIES", "add_softmax", "softmax"]

OUTPUT = "iterand.output"
"""Metadata key: ``probabilities``; absent in files that give logits."""
PROBABILITIES = "probabilities"
"""Name of that output."""


def add_softmax(graph: Graph, number: int = 0) -> None:
    """Put a softmax over dimension 1 behind an output, which is then called ``probabilities``.

    Args:
        graph: the graph.
        number: of the output.
    """
    logits = graph.outputs[number]
    graph.values[logits.name] = logits
    graph.nodes.append(helper.make_node("Softmax", [logits.name], [PROBABILITIES], name="softmax", axis=1))
    entry = type(logits)()
    entry.CopyFrom(logits)
    entry.name = PROBABILITIES
    graph.outputs[number] = entry


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities over dimension 1, where the classes are, in double precision."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return result
