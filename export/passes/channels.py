"""What is known about the channels of every value in a graph: which are constant, which stand and fall together.

A *unit* is what can be removed: the channels, of one or more values, that no operator mixes with others. ReLU and
pooling hand a unit on, a residual addition makes one of two, flattening gives one unit to all positions of a channel,
and every layer begins new ones. What an operator does that is not listed here is not guessed: the units it reads are
fixed, and nothing is said about what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from ..graph import Graph, settings
from .constants import evaluate
from .linear_layers import Layer, layer_of

__all__ = ["Analysis", "Channels", "Slice"]

Bools = NDArray[np.bool_]

_ELEMENTWISE = frozenset(
    """Abs Add And Cast Ceil Celu Clip Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish
    Identity LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu
    Sigmoid Sign Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu Where Xor""".split()  # noqa: SIM905 — reads better
)


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a value.

    Attributes:
        axis: where they are, counted from the end, so that it stays through broadcasting.
        rank: number of dimensions, or None.
        units: number of the unit of each channel, ``[C]``.
        known: whether the channel is the same number at every position for every input, bool ``[C]``.
        values: that number, ``[C]``; anything where it is not known.
    """

    axis: int
    rank: int | None
    units: NDArray[np.intp]
    known: Bools
    values: NDArray[Any]

    @property
    def second(self) -> bool:
        """Whether the channels are the dimension behind the batch."""
        return self.rank is not None and self.rank + self.axis == 1

    def unknown_unless(self, kept: Bools) -> Channels:
        """The same with less known."""
        return replace(self, known=self.known & kept)


@dataclass(frozen=True)
class Slice:
    """A constant that must lose what a value loses.

    Attributes:
        node: reads it.
        slot: index of the input.
        axis: of the constant.
        value: name of the value.
    """

    node: NodeProto
    slot: int
    axis: int
    value: str


class Analysis:
    """The channels of a graph, once through its nodes in order; the graph is only read.

    Attributes:
        channels: by the name of the value; what is not here has channels that nothing is known about.
        layers: whose output channels are known about, in order. Of grouped convolutions the depthwise ones, with one
            input channel per group.
        slices: constants other than the layers' weights and biases.
        reshapes: flattening nodes whose shape names the number of features.
        fixed: units that must stay.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels: dict[str, Channels] = {}
        self.layers: list[Layer] = []
        self.slices: list[Slice] = []
        self.reshapes: list[NodeProto] = []
        self.fixed: set[int] = set()
        self._parents: list[int] = []
        self._producers = graph.producers()
        self._readings = {name: len(nodes) for name, nodes in graph.users().items()}
        for node in graph.nodes:
            rule = _RULES.get(node.op_type) if node.domain == "" and len(node.output) == 1 else None
            result = rule(self, node) if rule is not None else None
            if result is None:
                self.fix(node.input)
            else:
                self.channels[node.output[0]] = result
        self.fix([*graph.output_names(), *graph.captured()])

    def roots(self) -> NDArray[np.intp]:
        """Return, for each unit's number, the one that stands for all it was tied to."""
        return np.array([self._root(unit) for unit in range(len(self._parents))], np.intp)

    def fix(self, names: Sequence[str]) -> None:
        """Let all channels of some values stay."""
        for name in names:
            if name in self.channels:
                self.fixed.update(self.channels[name].units.tolist())

    def new(self, count: int) -> NDArray[np.intp]:
        """Begin units."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tie(self, one: NDArray[np.intp], other: NDArray[np.intp]) -> None:
        """Let units stand and fall together, one by one."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self._parents[self._root(a)] = self._root(b)

    def computed(self, node: NodeProto, parts: Sequence[Channels]) -> tuple[Bools, NDArray[Any]]:
        """Run an operator that works on each channel for itself on the known constants.

        Returns:
            Which results are known, and the results.
        """
        count = len(parts[0].units)
        known = np.logical_and.reduce([piece.known for piece in parts])
        if not known.any():
            return known, np.zeros(count, np.float32)
        feeds, inputs = [], []
        for index, name in enumerate(node.input):
            piece = self.channels.get(name)
            if piece is not None:
                filled = np.where(known, piece.values, np.zeros_like(piece.values))
                tensor = numpy_helper.from_array(filled.reshape(1, -1, *[1] * (-piece.axis - 1)))
            elif name:
                tensor = self.graph.initializers[name]
            inputs.append(f"constant_{index}" if name else "")
            if name:
                feeds.append(helper.make_node("Constant", [], inputs[-1:], value=tensor))
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        result = evaluate([*feeds, copy], self.graph.opsets)[node.output[0]]
        if result.size != count:  # a constant that varies over positions
            return np.zeros(count, np.bool_), np.zeros(count, np.float32)
        result = result.reshape(-1)
        return known & np.isfinite(result), result

    def layer(self, node: NodeProto) -> Channels | None:
        """A layer begins units; a constant input plays no part where it is 0, or where there is no border."""
        layer = layer_of(self.graph, node, self._producers, self._readings)
        if layer is None:
            return None
        source, kernels, shift = self.channels.get(node.input[0]), layer.kernels(self.graph), layer.shift(self.graph)
        if layer.group != 1:
            return self._depthwise(layer, kernels[:, 0], shift)
        if source is not None and (source.axis != layer.axis or len(source.units) != kernels.shape[1]):
            return None
        known = np.zeros(kernels.shape[1], np.bool_) if source is None else source.known
        values = np.zeros(kernels.shape[1]) if source is None else np.where(known, source.values, 0).astype(np.float64)
        used = kernels.any(axis=2)
        varies = used & (~known | (layer.bordered & (values != 0)))
        constant = shift + kernels.sum(axis=2, dtype=np.float64) @ values
        self.layers.append(layer)
        rank = 1 - layer.axis if node.op_type != "MatMul" else self._rank(node, source)
        return _rounded(~varies.any(axis=1), constant, layer.axis, rank, self.new(len(kernels)))

    def _depthwise(self, layer: Layer, kernels: NDArray[np.float32], shift: NDArray[np.float64]) -> Channels | None:
        source = self.channels.get(layer.node.input[0])
        count = 0 if source is None else len(source.units)
        if source is None or source.axis != layer.axis or layer.group != count or layer.outputs != 0:
            return None
        each = len(kernels) // count
        known = np.repeat(source.known, each)
        values = np.where(known, np.repeat(source.values, each), 0).astype(np.float64)
        varies = kernels.any(axis=1) & (~known | (layer.bordered & (values != 0)))
        constant = shift + kernels.sum(axis=1, dtype=np.float64) * values
        self.layers.append(layer)
        return _rounded(~varies, constant, layer.axis, source.rank, np.repeat(source.units, each))

    def elementwise(self, node: NodeProto) -> Channels | None:
        """An operator that computes each number from the ones at its place ties its inputs channel by channel."""
        constants = {slot: name for slot, name in enumerate(node.input) if name in self.graph.initializers}
        names = [name for slot, name in enumerate(node.input) if name and slot not in constants]
        parts = [self.channels[name] for name in names if name in self.channels]
        if not parts or len(parts) != len(names):
            return None
        first, count = parts[0], len(parts[0].units)
        if any(piece.axis != first.axis or len(piece.units) != count for piece in parts):
            return None
        extents = {slot: self._extent(name, first.axis) for slot, name in constants.items()}
        if not set(extents.values()) <= {1, count}:
            return None
        for piece in parts[1:]:
            self.tie(first.units, piece.units)
        self.slices += [Slice(node, slot, first.axis, node.output[0]) for slot, size in extents.items() if size > 1]
        known, values = self.computed(node, parts)
        ranks = [piece.rank for piece in parts] + [
            len(self.graph.initializers[name].dims) for name in constants.values()
        ]
        rank = None if None in ranks else max(rank for rank in ranks if rank is not None)
        return Channels(first.axis, rank, first.units, known, values)

    def batch_norm(self, node: NodeProto) -> Channels | None:
        """A BatchNorm that was not folded: four numbers per channel."""
        source = self.channels.get(node.input[0])
        constant = all(name in self.graph.initializers for name in node.input[1:])
        if source is None or not source.second or not constant or settings(node).get("training_mode", 0):
            return None
        self.slices += [Slice(node, slot, 0, node.output[0]) for slot in range(1, len(node.input))]
        known, values = self.computed(node, [source])
        return replace(source, known=known, values=values)

    def pool(self, node: NodeProto) -> Channels | None:
        """Pooling leaves constants as they are, unless it averages over zeros around the image."""
        source, values = self.channels.get(node.input[0]), settings(node)
        if source is None or not source.second:
            return None
        padded = any(values.get("pads", ())) or values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        if node.op_type == "AveragePool" and (padded or values.get("ceil_mode", 0)):
            return source.unknown_unless(source.values == 0)
        return source

    def reduce(self, node: NodeProto) -> Channels | None:
        """Mean or maximum over dimensions that are neither the batch nor the channels."""
        source = self.channels.get(node.input[0])
        axes = self.graph.array(node.input[1]) if len(node.input) > 1 else None
        if source is None or source.rank is None or axes is None or not axes.size:
            return None
        rank, gone = source.rank, {int(axis) % source.rank for axis in axes}
        if gone & {0, rank + source.axis}:
            return None
        if settings(node).get("keepdims", 1):
            return source
        behind = sum(axis > rank + source.axis for axis in gone)
        return replace(source, axis=source.axis + behind, rank=rank - len(gone))

    def flatten(self, node: NodeProto) -> Channels | None:
        """``[N, C, ...]`` to ``[N, C * ...]``, as Flatten or as Reshape to a constant shape."""
        source = self.channels.get(node.input[0])
        shape = self.graph.shape_of(node.input[0])
        if source is None or not source.second or shape is None or len(shape) != source.rank:
            return None
        places = [size for size in shape[2:] if size is not None]
        if shape[1] != len(source.units) or len(places) != len(shape) - 2:
            return None
        each = math.prod(places)
        if node.op_type == "Flatten":
            if settings(node).get("axis", 1) != 1:
                return None
        else:
            target = self.graph.array(node.input[1])
            if target is None or len(target) != 2 or not each or target[1] not in (-1, each * len(source.units)):
                return None
            if target[0] not in (-1, 0) or (target[0] == 0 and settings(node).get("allowzero", 0)):
                return None
            self.reshapes.append(node)
        result = (np.repeat(piece, each) for piece in (source.units, source.known, source.values))
        return Channels(-1, 2, *result)

    def transpose(self, node: NodeProto) -> Channels | None:
        """The channels move."""
        source, perm = self.channels.get(node.input[0]), settings(node).get("perm")
        if source is None or source.rank is None or perm is None:
            return None
        return replace(source, axis=list(perm).index(source.rank + source.axis) - source.rank)

    def concat(self, node: NodeProto) -> Channels | None:
        """Channels behind channels; those of values that nothing is known about stay."""
        ranks = {self.channels[name].rank for name in node.input if name in self.channels}
        rank = next(iter(ranks), None)
        if rank is None or len(ranks) != 1:
            return None
        axis = settings(node)["axis"] % rank - rank
        parts = []
        for name in node.input:
            shape = self.graph.shape_of(name)
            size = shape[axis] if shape is not None and len(shape) == rank else None
            piece = self.channels.get(name)
            if piece is None and size is not None:
                piece = Channels(axis, rank, self.new(size), np.zeros(size, np.bool_), np.zeros(size, np.float32))
                self.fixed.update(piece.units.tolist())
            if piece is None or piece.axis != axis:
                return None
            parts.append(piece)
        units, known, values = (
            np.concatenate([getattr(piece, field) for piece in parts]) for field in ("units", "known", "values")
        )
        return Channels(axis, rank, units, known, values)

    def _rank(self, node: NodeProto, source: Channels | None) -> int | None:
        if source is not None:
            return source.rank
        shape = self.graph.shape_of(node.input[0])
        return None if shape is None else len(shape)

    def _extent(self, name: str, axis: int) -> int:
        dims = self.graph.initializers[name].dims
        return int(dims[axis]) if len(dims) >= -axis else 1

    def _root(self, unit: int) -> int:
        while self._parents[unit] != unit:
            self._parents[unit] = self._parents[self._parents[unit]]
            unit = self._parents[unit]
        return unit


def _rounded(
    known: Bools, values: NDArray[np.float64], axis: int, rank: int | None, units: NDArray[np.intp]
) -> Channels:
    """What a layer computes, in float32; a number that is too large for that is not known."""
    rounded = values.astype(np.float32)
    return Channels(axis, rank, units, known & np.isfinite(rounded), rounded)


_RULES: dict[str, Callable[[Analysis, NodeProto], Channels | None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), Analysis.layer),
    **dict.fromkeys(_ELEMENTWISE, Analysis.elementwise),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), Analysis.pool),
    **dict.fromkeys(("ReduceMax", "ReduceMean"), Analysis.reduce),
    **dict.fromkeys(("Flatten", "Reshape"), Analysis.flatten),
    "BatchNormalization": Analysis.batch_norm,
    "Transpose": Analysis.transpose,
    "Concat": Analysis.concat,
}
