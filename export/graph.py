"""An ONNX graph that passes can edit: Python lists and dictionaries, written back once at the end."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
)

from .coded import CodedWeight

__all__ = ["Graph", "producers", "rename", "rename_in", "settings"]


class Graph:
    """A model without what an exporter adds: stack traces, doc strings and local paths are dropped.

    Names are unique (ONNX is in single-assignment form), so a value is known by its name and a node by the
    name of its first output. `nodes` stays in topological order.

    Attributes:
        inputs: the graph's inputs (initialisers are not among them).
        outputs: the graph's outputs.
        nodes: in topological order.
        expansion: nodes in front of these, that compute weights from other initialisers.
        initializers: constant tensors by name; parameters carry their dotted name, ``layer1.0.conv1.weight``.
        coded: codes, scale and origin of weights, by the name of their initialiser.
        values: type and shape of intermediate values, as far as they are known, by name.
        opsets: version of each operator domain; ``""`` is ONNX's own.
        functions: model-local functions that nodes call; those of the model itself are inlined.
    """

    def __init__(self, model: ModelProto) -> None:
        if model.functions:
            model = inliner.inline_local_functions(model)
        proto = model.graph
        self.inputs: list[ValueInfoProto] = list(proto.input)
        self.outputs: list[ValueInfoProto] = list(proto.output)
        self.nodes: list[NodeProto] = list(proto.node)
        self.expansion: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in proto.initializer}
        self.coded: dict[str, CodedWeight] = {}
        self.values: dict[str, ValueInfoProto] = {value.name: value for value in proto.value_info}
        used = {node.domain for node in self.nodes}
        self.opsets: dict[str, int] = {
            entry.domain: entry.version for entry in model.opset_import if entry.domain in {"", *used}
        }
        self.functions: list[FunctionProto] = []

    def copy(self) -> Graph:
        """A graph whose change does not change this one; tensors are shared until they are replaced."""
        twin = copy.copy(self)
        for field in ("inputs", "outputs", "nodes", "expansion"):
            setattr(twin, field, copy.deepcopy(getattr(self, field)))
        for field in ("initializers", "coded", "values", "opsets", "functions"):
            setattr(twin, field, copy.copy(getattr(self, field)))
        return twin

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the value of an initialiser (a copy), or None when ``name`` is not one."""
        tensor = self.initializers.get(name)
        return None if tensor is None else np.array(numpy_helper.to_array(tensor))

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Set the initialiser ``name``; it is no longer a coded weight."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self.coded.pop(name, None)

    def put_coded(self, name: str, weight: CodedWeight) -> None:
        """Set the initialiser ``name`` to the values of a coded weight."""
        self.put(name, weight.values())
        self.coded[name] = weight

    def take(self, name: str, axis: int, index: NDArray[np.intp]) -> None:
        """Reduce the initialiser ``name`` to some indices of an axis; a coded weight stays one."""
        weight, array = self.coded.get(name), self.array(name)
        if weight is not None:
            self.put_coded(name, weight.take(axis, index))
        elif array is not None:
            self.put(name, array.take(index, axis))

    def transpose(self, name: str) -> None:
        """Transpose the initialiser ``name``, a matrix; a coded weight stays one."""
        weight, array = self.coded.get(name), self.array(name)
        if weight is not None:
            self.put_coded(name, weight.transpose())
        elif array is not None:
            self.put(name, array.T)

    def producers(self) -> dict[str, NodeProto]:
        """Return the node that computes each value."""
        return producers(self.nodes)

    def users(self) -> dict[str, list[NodeProto]]:
        """Return the nodes that read each value, also from inside their subgraphs; once per reading."""
        users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in _inputs(node):
                users.setdefault(name, []).append(node)
        return users

    def captured(self) -> set[str]:
        """Return the values that subgraphs read by name."""
        return {name for node in self.nodes for graph in _subgraphs(node) for name in _reads(graph)}

    def output_names(self) -> set[str]:
        """Return the names of the graph's outputs."""
        return {output.name for output in self.outputs}

    def type_of(self, name: str) -> int | None:
        """Return the element type (a `TensorProto.DataType`) of a value, or None when unknown."""
        if name in self.initializers:
            return self.initializers[name].data_type
        value = self._value(name)
        return value.type.tensor_type.elem_type or None if value is not None else None

    def shape_of(self, name: str) -> list[int | None] | None:
        """Return the shape of a value, with None for what varies; None when nothing is known."""
        if name in self.initializers:
            return list(self.initializers[name].dims)
        value = self._value(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]

    def fresh(self, name: str) -> str:
        """Return ``name``, or ``name`` with a number behind it when it is taken."""
        taken = {*self.initializers, *self.producers(), *(value.name for value in self.inputs)}
        candidate, number = name, 1
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        return candidate

    def remove(self, dead: set[str]) -> None:
        """Remove the nodes whose first output is in ``dead``."""
        self.nodes = [node for node in self.nodes if node.output[0] not in dead]

    def model(self, *, name: str = "main_graph") -> ModelProto:
        """Write the graph as a model that holds nothing but nodes, tensors and the shapes that are known."""
        computed = self.producers().keys() - self.output_names()
        graph = helper.make_graph(
            self.nodes,
            name,
            self.inputs,
            self.outputs,
            initializer=list(self.initializers.values()),
            value_info=[self.values[value] for value in sorted(computed & self.values.keys())],
        )
        _strip(graph)
        opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(self.opsets.items())]
        return helper.make_model(graph, opset_imports=opsets, functions=self.functions)

    def _value(self, name: str) -> ValueInfoProto | None:
        if name in self.values:
            return self.values[name]
        return next((value for value in (*self.inputs, *self.outputs) if value.name == name), None)


def producers(nodes: Iterable[NodeProto]) -> dict[str, NodeProto]:
    """Return the node that computes each value."""
    return {output: node for node in nodes for output in node.output if output}


def settings(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values of a graph other names wherever they are read or written, also inside subgraphs."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    rename_in(graph.node, names)


def rename_in(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Give values other names in the nodes that read or write them."""
    for node in nodes:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for inner in _subgraphs(node):
            rename(inner, names)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _inputs(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads; a subgraph reads the values around it by name."""
    yield from (name for name in node.input if name)
    for graph in _subgraphs(node):
        yield from _reads(graph)


def _reads(graph: GraphProto) -> Iterator[str]:
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from _inputs(node)


def _strip(graph: GraphProto) -> None:
    """Clear every place where an exporter leaves stack traces, paths and notes."""
    for item in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        for inner in _subgraphs(node):
            _strip(inner)
