"""Write what expands one weight: its tensors and nodes, named after it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ..graph import Graph
from .functions import DOMAIN

__all__ = ["Emitter"]


class Emitter:
    """Adds initialisers and nodes to a graph, all under the name of one weight.

    Attributes:
        weight: the name.
        functions: names of the functions that were called.
        guarded: whether a runtime must be kept from taking codes times a scale for quantisation.
    """

    def __init__(self, graph: Graph, weight: str, functions: set[str], *, guarded: bool = False) -> None:
        self.weight = weight
        self.functions = functions
        self.guarded = guarded
        self._graph = graph
        self._nodes = graph.expansion

    def readers(self) -> set[str]:
        """The operators that read the weight."""
        return {node.op_type for node in self._graph.users().get(self.weight, [])}

    def tensor(self, suffix: str, array: NDArray[Any]) -> str:
        """Add an initialiser ``weight.suffix``, and return its name."""
        name = self._graph.fresh(f"{self.weight}.{suffix}")
        self._graph.put(name, array)
        return name

    def shared(self, name: str, array: NDArray[Any]) -> str:
        """Add an initialiser that several weights use, unless it is there, and return its name."""
        if name not in self._graph.initializers:
            self._graph.put(name, array)
        return name

    def shape(self, suffix: str, *sizes: int) -> str:
        """Add an initialiser int64 ``[len(sizes)]``."""
        return self.tensor(suffix, np.array(sizes, np.int64))

    def call(self, function: str, inputs: list[str], suffix: str) -> str:
        """Call one of our functions, and return the name of its value."""
        self.functions.add(function)
        return self.node(function, inputs, suffix, domain=DOMAIN)

    def node(self, operator: str, inputs: list[str], suffix: str, **settings: Any) -> str:
        """Add a node, and return the name of its value: ``weight.suffix``, or the name of the weight without one."""
        name = f"{self.weight}.{suffix}" if suffix else self.weight
        # A node is known by its value; a name of its own would be a quarter of what small networks take.
        self._nodes.append(helper.make_node(operator, inputs, [name], **settings))
        return name
