"""Evaluate what does not depend on the input.

The exporter writes ``Shape``, ``CastLike``, ``Expand`` chains for things as plain as a missing bias. Only
small expressions over constants and known shapes are evaluated: parameters stay what they are, under their
own name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from ..graph import Graph
from ..session import open_session

__all__ = ["drop_zero_biases", "evaluate", "fix_reshapes", "fold_constants"]

LIMIT = 1 << 16
"""Elements of the largest value that replaces an expression."""

_FOLDABLE = frozenset(
    """Add And Cast CastLike Ceil Concat Constant ConstantOfShape Div Equal Expand Floor Gather Greater
    GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Pow Range ReduceProd Reciprocal
    Reshape Shape Size Slice Sqrt Squeeze Sub Tile Transpose Unsqueeze Where""".split()  # noqa: SIM905 — words read better
)


def fold_constants(graph: Graph) -> None:
    """Replace constant expressions by initialisers."""
    evaluable: dict[str, NodeProto] = {}  # in topological order, by the name of their value
    for node in graph.nodes:
        candidate = _static(graph, node)
        if (
            candidate.op_type in _FOLDABLE
            and candidate.domain == ""
            and len(candidate.output) == 1
            and all(name in evaluable for name in candidate.input if name)
        ):
            evaluable[node.output[0]] = candidate
    values = evaluate(list(evaluable.values()), graph.opsets)
    outputs = graph.output_names()  # these must be computed by a node
    folded: set[str] = set()
    for name, node in evaluable.items():
        small = values[name].size <= LIMIT and name not in outputs
        if small and all(source in folded for source in node.input if source):
            folded.add(name)
            graph.put(name, values[name])
    graph.remove(folded)


def drop_zero_biases(graph: Graph, candidates: set[str]) -> None:
    """Leave out the bias of convolutions where it is zero and one of ``candidates``: those that no parameter is."""
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3 and node.input[2] in candidates:
            bias = graph.array(node.input[2])
            if bias is not None and not bias.any():
                del node.input[2]


def fix_reshapes(graph: Graph) -> None:
    """Give a Reshape whose result varies in one dimension at most a constant shape, with -1 for that one.

    What a 0 in a shape means is left at ONNX's default, unless there is one: tract and onnx2torch refuse ``allowzero``.
    """
    for node in graph.nodes:
        if node.op_type != "Reshape" or node.domain != "":
            continue
        sizes = graph.array(node.input[1])
        if sizes is None or sizes.all():  # computed sizes are those of an input, and not 0
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        if sizes is not None:
            continue
        shape = graph.shape_of(node.output[0])
        if shape is not None and 0 not in shape and shape.count(None) <= 1:
            node.input[1] = graph.fresh(f"{node.output[0]}.shape")
            graph.put(node.input[1], np.array([-1 if size is None else size for size in shape], np.int64))


def _static(graph: Graph, node: NodeProto) -> NodeProto:
    """Return an equivalent of ``node`` that reads no value where it asks only for its shape or type."""
    if node.op_type == "Shape" and node.domain == "":
        shape = graph.shape_of(node.input[0])
        if shape is not None:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            wanted = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
            sizes = [size for size in wanted if size is not None]
            if len(sizes) == len(wanted):
                tensor = numpy_helper.from_array(np.array(sizes, np.int64))
                return helper.make_node("Constant", [], node.output, value=tensor)
    if node.op_type == "CastLike" and node.domain == "":
        kind = graph.type_of(node.input[1])
        if kind is not None:
            return helper.make_node("Cast", node.input[:1], node.output, to=kind)
    return node


def evaluate(nodes: list[NodeProto], opsets: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Run nodes that need no input in onnxruntime, whose arithmetic is the one that counts."""
    if not nodes:
        return {}
    names = [node.output[0] for node in nodes]
    outputs = [ValueInfoProto(name=name) for name in names]  # types are for onnxruntime to infer
    proto = helper.make_graph(nodes, "constants", [], outputs)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opsets[""])], ir_version=8)
    return dict(zip(names, open_session(model.SerializeToString()).run(None, {}), strict=True))
