"""Fold BatchNorm into the layer in front of it.

In evaluation BatchNorm is ``y = (x - mean) / sqrt(var + epsilon) * weight + bias``: one factor and one shift
per channel. The shift goes into the layer's bias. The factors are *returned*: the form in which the weights
are written decides what becomes of them (see `.dense`), so that a form with integer codes can keep the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from ..graph import Graph, settings
from .linear_layers import bias_name

__all__ = ["fold_batch_norms"]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Fold:
    """A layer with the factors and the shift it gets; in double precision until the end."""

    layer: NodeProto
    factor: Doubles  # [channels]
    shift: Doubles  # [channels]


def fold_batch_norms(graph: Graph) -> dict[str, Doubles]:
    """Remove every BatchNorm that directly follows a Conv, ConvTranspose, Gemm or MatMul of its own.

    It stays where the layer's output, its weight or the running statistics serve someone else too, where the
    weight is not a float32 constant, and behind any other operator.

    Returns:
        For each weight initialiser that must be multiplied: the factors, float64, in a shape that broadcasts
        against the weight.
    """
    users, producers, outputs = graph.users(), graph.producers(), graph.output_names()
    folds: dict[str, _Fold] = {}  # by the name of the value that the layer computes once all is folded
    dead: set[str] = set()
    for node in graph.nodes:
        affine = _affine(graph, node)
        if affine is None:
            continue
        source, target = node.input[0], node.output[0]
        if source in outputs or len(users[source]) != 1:
            continue
        fold = folds.get(source) or _start(graph, producers.get(source), users)
        if fold is None or fold.factor.shape != affine[0].shape:
            continue
        folds.pop(source, None)
        factor, shift = affine
        folds[target] = _Fold(fold.layer, fold.factor * factor, fold.shift * factor + shift)
        dead.add(target)
    graph.remove(dead)
    for target, fold in folds.items():
        fold.layer.output[0] = target
        _write_bias(graph, fold, users)
    return {fold.layer.input[1]: _broadcast(graph, fold) for fold in folds.values()}


def _affine(graph: Graph, node: NodeProto) -> tuple[Doubles, Doubles] | None:
    """Return factor and shift of a BatchNorm whose four tensors are constants; None for any other node."""
    if node.op_type != "BatchNormalization" or node.domain != "" or any(node.output[1:]):
        return None
    values = settings(node)
    arrays = [_floats(graph, name) for name in node.input[1:]]
    if values.get("training_mode", 0) or any(array is None for array in arrays):
        return None
    weight, bias, mean, variance = (array for array in arrays if array is not None)
    factor = weight / np.sqrt(variance + values.get("epsilon", 1e-5))
    return factor, bias - mean * factor


def _start(graph: Graph, layer: NodeProto | None, users: dict[str, list[NodeProto]]) -> _Fold | None:
    """Return the layer with factor 1 and its own bias as the shift; None when nothing folds into it."""
    if layer is None or layer.domain != "" or layer.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight = graph.initializers.get(layer.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or len(users[weight.name]) != 1:
        return None
    values = settings(layer)
    if layer.op_type == "Gemm" and (values.get("alpha", 1.0), values.get("beta", 1.0)) != (1.0, 1.0):
        return None
    if layer.op_type == "MatMul" and (len(weight.dims) != 2 or len(graph.shape_of(layer.output[0]) or ()) != 2):
        return None  # with more dimensions the channels of a BatchNorm are not the columns of the product
    channels = _channels(layer, weight)
    if len(layer.input) < 3 or not layer.input[2]:
        return _Fold(layer, np.ones(channels), np.zeros(channels))
    bias = _floats(graph, layer.input[2])
    if bias is None or bias.shape != (channels,):
        return None
    return _Fold(layer, np.ones(channels), bias)


def _write_bias(graph: Graph, fold: _Fold, users: dict[str, list[NodeProto]]) -> None:
    layer = fold.layer
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"  # the same product of two matrices, with an input for a bias
    name = layer.input[2] if len(layer.input) > 2 else ""
    if not name or len(users[name]) != 1:
        name = graph.fresh(bias_name(layer.input[1]))
    del layer.input[2:]
    layer.input.append(name)
    graph.put(name, fold.shift.astype(np.float32))


def _broadcast(graph: Graph, fold: _Fold) -> Doubles:
    """Return the factors in a shape that broadcasts against the layer's weight."""
    layer, dims = fold.layer, graph.initializers[fold.layer.input[1]].dims
    if layer.op_type == "Conv":  # [out, in / group, ...]
        return fold.factor.reshape(-1, *[1] * (len(dims) - 1))
    if layer.op_type == "ConvTranspose":  # [in, out / group, ...]
        group = int(settings(layer).get("group", 1))
        rows = np.repeat(fold.factor.reshape(group, dims[1]), dims[0] // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (len(dims) - 2))
    return fold.factor.reshape((-1, 1) if settings(layer).get("transB", 0) else (1, -1))


def _channels(layer: NodeProto, weight: TensorProto) -> int:
    values = settings(layer)
    if layer.op_type == "ConvTranspose":
        return int(weight.dims[1]) * int(values.get("group", 1))
    return int(weight.dims[0] if layer.op_type == "Conv" or values.get("transB", 0) else weight.dims[1])


def _floats(graph: Graph, name: str) -> Doubles | None:
    """Return a float32 initialiser in double precision."""
    array = graph.array(name)
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else None
