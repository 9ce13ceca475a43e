"""The normalisation of pixels as the first two nodes of a graph."""

from __future__ import annotations

import numpy as np
from onnx import helper

from ...compress.inputs import ImageInput
from ..graph import Graph

__all__ = ["PIXELS", "bake_normalization"]

PIXELS = "pixels"
"""Name of the graph's input when the graph normalises."""


def bake_normalization(graph: Graph, image: ImageInput) -> None:
    """Put ``(pixels - mean) / std`` in front of a graph; its only input is then called ``pixels``."""
    (old,) = graph.inputs
    centred = graph.fresh("normalize.centred")
    mean, std = graph.fresh("normalize.mean"), graph.fresh("normalize.std")
    for name, values in ((mean, image.mean), (std, image.std)):
        graph.put(name, np.array(values, np.float32).reshape(1, -1, 1, 1))
    graph.nodes[:0] = [
        helper.make_node("Sub", [PIXELS, mean], [centred], name="normalize.subtract"),
        helper.make_node("Div", [centred, std], [old.name], name="normalize.divide"),
    ]
    entry = type(old)()
    entry.CopyFrom(old)
    entry.name = PIXELS
    graph.inputs[:] = [entry]
