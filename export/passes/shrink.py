"""Remove the channels that pruning left without a purpose.

A channel is dead when it does not vary (all weights into it are pruned, so that it is its bias, or what BatchNorm and
activations make of that), or when nobody reads it (all weights out of it are pruned, or lead to channels that nobody
reads). What a constant contributes goes into the bias of the layer that reads it. Some constants must stay: one that is
not 0 in front of a convolution with padding, whose border it does not reach, and one that a residual addition adds to
a channel that varies.

The outputs stay the same up to the order in which sums are rounded. The graph's own input and outputs, and what an
operator that is not understood reads, are left alone (see `.channels`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from ..graph import Graph
from ..report import LayerShrink, ShrinkReport
from .channels import Analysis, Channels
from .cleanup import drop_unused, remove_identities
from .linear_layers import Layer, bias_name

__all__ = ["shrink"]

Bools = NDArray[np.bool_]


MULTIPLE = 4
"""Channels at a time: onnxruntime has a faster convolution for inputs that can be divided like this."""


def shrink(graph: Graph, *, multiple: int = MULTIPLE) -> ShrinkReport:
    """Remove dead channels, and operators that only compute constants.

    A value never loses its last channel. A second call finds nothing.

    Args:
        graph: with BatchNorm folded and weights written; it is changed, its inputs and outputs are not.
        multiple: where the input channels of a convolution are a multiple of this, so they stay, with up to
            ``multiple - 1`` dead channels among them; 1 removes all.
    """
    _reshape_parameters(graph)
    nodes = len(graph.nodes)
    changes: dict[str, _Change] = {}
    while True:
        analysis = Analysis(graph)
        for layer in analysis.layers:
            changes.setdefault(layer.weight, _Change(layer, _size(graph, layer)))
        replaced = _replace_constants(graph, analysis)
        if replaced:
            kept = {name: np.array(name in graph.initializers) for name in changes}
        else:
            kept = _cut(graph, analysis, multiple)
        for layer in analysis.layers:
            changes[layer.weight].count(analysis.channels[layer.node.output[0]].known, kept[layer.weight])
        if not replaced and all(channels.all() for channels in kept.values()):
            break
    return ShrinkReport(tuple(change.result(graph) for change in changes.values()), nodes - len(graph.nodes))


class _Change:
    """What happens to a layer, added up over the rounds."""

    def __init__(self, layer: Layer, before: tuple[int, int, int]) -> None:
        self.layer, self.before = layer, before
        self.constant = self.unread = self.stuck = 0

    def count(self, known: Bools, kept: Bools) -> None:
        """Add a round, in which of the channels that there were some were known to be constant, and some kept."""
        self.constant += int((~kept & known).sum())
        self.unread += int((~kept & ~known).sum())
        self.stuck = int((kept & known).sum())

    def result(self, graph: Graph) -> LayerShrink:
        """The whole."""
        name, before = self.layer.weight, self.before
        after = _size(graph, self.layer) if name in graph.initializers else (0, 0, 0)
        result = (self.constant, self.unread, self.stuck)
        return LayerShrink(name, before[0], after[0], before[1], after[1], *result, before[2], after[2])


def _size(graph: Graph, layer: Layer) -> tuple[int, int, int]:
    dims = graph.initializers[layer.weight].dims
    return dims[layer.inputs], dims[layer.outputs], math.prod(dims)


def _cut(graph: Graph, analysis: Analysis, multiple: int) -> dict[str, Bools]:
    """Remove what need not stay; return which output channels each layer keeps, by the name of its weight."""
    live = _live(graph, analysis, multiple)
    keep = {name: live[piece.units] for name, piece in analysis.channels.items()}
    for layer in analysis.layers:
        _absorb(graph, analysis, layer, keep)
    _slice(graph, analysis, keep)
    return {layer.weight: keep[layer.node.output[0]] for layer in analysis.layers}


def _reshape_parameters(graph: Graph) -> None:
    """Let a parameter have the shape that it is given, as the slopes of a PReLU are."""
    outputs, users = graph.output_names() | graph.captured(), graph.users()
    for node in list(graph.nodes):
        if node.op_type != "Reshape" or node.domain != "" or node.output[0] in outputs:
            continue
        array, shape = graph.array(node.input[0]), graph.array(node.input[1])
        if array is None or shape is None or 0 in shape or len(users[node.input[0]]) != 1:
            continue
        graph.put(node.input[0], array.reshape(shape))
        for reader in users.get(node.output[0], []):
            for slot, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[slot] = node.input[0]
        graph.remove({node.output[0]})


def _replace_constants(graph: Graph, analysis: Analysis) -> bool:
    """Where a value without any varying channel is added to or multiplied by one that varies, write it down.

    This is what becomes of a residual branch that was pruned all over.
    """
    result = False
    for node in graph.nodes:
        if node.output[0] not in analysis.channels or node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        for slot, name in enumerate(node.input):
            piece, other = analysis.channels.get(name), node.input[1 - slot]
            varies = other in analysis.channels and not analysis.channels[other].known.all()
            shape = graph.shape_of(node.output[0])
            if piece is None or not piece.known.all() or not varies or shape is None or graph.shape_of(other) != shape:
                continue
            result = True
            if node.op_type == "Add" and not piece.values.any():
                node.op_type, node.input[:] = "Identity", [other]
            else:
                node.input[slot] = graph.fresh(f"{name}.constant")
                graph.put(node.input[slot], piece.values.reshape(-1, *[1] * (-piece.axis - 1)))
            break
    if result:
        remove_identities(graph)
        drop_unused(graph)
    return result


def _live(graph: Graph, analysis: Analysis, multiple: int) -> Bools:
    """Return which units stay, bool ``[units]``: what is fixed, what a unit that stays reads, and what fills up."""
    roots = analysis.roots()
    live = np.zeros(len(roots), np.bool_)
    live[roots[sorted(analysis.fixed)]] = True
    readers = []
    for layer in reversed(analysis.layers):
        source = analysis.channels.get(layer.node.input[0])
        if layer.group == 1 and source is not None:  # a depthwise convolution hands its units on
            output = analysis.channels[layer.node.output[0]]
            reads = layer.kernels(graph).any(axis=2) & ~_free(source, layer, output)
            readers.append((reads, roots[source.units], roots[output.units]))
    convolved = {layer.node.input[0] for layer in analysis.layers if layer.node.op_type == "Conv" and layer.group == 1}
    values = [
        (roots[piece.units], piece.known, multiple if name in convolved and len(piece.units) % multiple == 0 else 1)
        for name, piece in reversed(analysis.channels.items())
    ]
    while True:
        count = -1
        while count != live.sum():
            count = live.sum()
            for reads, inputs, outputs in readers:
                live[inputs[reads[live[outputs]].any(axis=0)]] = True
        short = next(((units, known) for units, known, each in values if _is_short(live[units], each)), None)
        if short is None:
            result: Bools = live[roots]
            return result
        units, known = short
        dead = ~live[units]
        live[units[np.argmax(dead & known if (dead & known).any() else dead)]] = True  # constants read nothing


def _is_short(live: Bools, multiple: int) -> bool:
    """Whether a value has dead channels to fill up with, and no others, or no whole multiple of them."""
    count = int(live.sum())
    return count < len(live) and (count == 0 or count % multiple != 0)


def _absorbs(layer: Layer, output: Channels) -> bool:
    """Whether a constant input of a layer comes to a constant in its bias."""
    return layer.group == 1 and not layer.bordered and (layer.node.op_type != "MatMul" or output.rank == 2)


def _free(source: Channels, layer: Layer, output: Channels) -> Bools:
    """Return which inputs the layer can do without, whatever its weights."""
    result: Bools = source.known & ((source.values == 0) | _absorbs(layer, output))
    return result


def _absorb(graph: Graph, analysis: Analysis, layer: Layer, keep: Mapping[str, Bools]) -> None:
    """Put what constant inputs contribute that are about to go into the layer's bias."""
    source, output = analysis.channels.get(layer.node.input[0]), analysis.channels[layer.node.output[0]]
    if source is None or not _absorbs(layer, output):
        return
    gone = ~keep[layer.node.input[0]] & source.known & (source.values != 0)
    kernels = layer.kernels(graph)[:, gone]
    if not kernels[keep[layer.node.output[0]]].any():  # what reads it is about to go as well
        return
    shift = layer.shift(graph) + kernels.sum(axis=2, dtype=np.float64) @ source.values[gone].astype(np.float64)
    if not layer.bias:
        name = graph.fresh(bias_name(layer.weight))
        del layer.node.input[2:]
        layer.node.input.append(name)
        if layer.node.op_type == "MatMul":
            layer.node.op_type = "Gemm"  # the same product of two matrices, with room for a bias
    else:
        _own(graph, layer.node, 2)
    graph.put(layer.bias, shift.astype(np.float32))


def _slice(graph: Graph, analysis: Analysis, keep: Mapping[str, Bools]) -> None:
    """Take what stays of every constant, and write the new shapes."""
    for layer in analysis.layers:
        source, target = layer.node.input[0], layer.node.output[0]
        _take(graph, layer.holder, layer.slot, layer.outputs, keep[target])
        if layer.bias:
            _take(graph, layer.node, 2, -1, keep[target])
        if layer.group != 1:
            group = next(attribute for attribute in layer.node.attribute if attribute.name == "group")
            group.i = int(keep[source].sum())
        elif source in keep:
            _take(graph, layer.holder, layer.slot, layer.inputs, keep[source])
        if layer.holder is not layer.node:
            graph.values.pop(layer.holder.output[0], None)
    for piece in analysis.slices:
        _take(graph, piece.node, piece.slot, piece.axis, keep[piece.value])
    for node in analysis.reshapes:
        kept = keep[node.output[0]]
        shape = graph.array(node.input[1])
        if not kept.all() and shape is not None and shape[1] != -1:
            _own(graph, node, 1)
            graph.put(node.input[1], np.array([shape[0], kept.sum()], shape.dtype))
    for name, kept in keep.items():
        if name in graph.values and not kept.all():
            dims, axis = graph.values[name].type.tensor_type.shape.dim, analysis.channels[name].axis
            if len(dims) < -axis:
                del graph.values[name]
            else:
                dims[len(dims) + axis].dim_value = int(kept.sum())


def _take(graph: Graph, node: NodeProto, slot: int, axis: int, kept: Bools) -> None:
    if not kept.all():
        _own(graph, node, slot)
        name = node.input[slot]
        graph.take(name, axis % len(graph.initializers[name].dims), np.flatnonzero(kept))


def _own(graph: Graph, node: NodeProto, slot: int) -> None:
    """Give a node a copy of a constant that others read too."""
    name = node.input[slot]
    if len(graph.users()[name]) == 1:
        return
    array = graph.array(name)
    assert array is not None, name
    node.input[slot] = graph.fresh(name)
    graph.put(node.input[slot], array)
