"""Layers: the nodes that multiply by a constant weight, seen as a matrix of kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from ..graph import Graph, settings

__all__ = ["Layer", "bias_name", "layer_of"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul with a weight of its own.

    Attributes:
        node: reads its input first; its bias, if it has one, third.
        holder: the node whose input ``slot`` is the weight: ``node``, or a Transpose in front of it.
        slot: index of that input.
        inputs: axis of the weight for the input channels.
        outputs: axis of the weight for the output channels.
        axis: axis of the channels in the layer's input and output, counted from the end.
        bordered: near the border of an image a constant input contributes something else than inside.
        group: of a convolution; above 1, the weight has one group's input channels.
    """

    node: NodeProto
    holder: NodeProto
    slot: int
    inputs: int
    outputs: int
    axis: int
    bordered: bool
    group: int

    @property
    def weight(self) -> str:
        """Name of the initialiser."""
        return str(self.holder.input[self.slot])

    @property
    def bias(self) -> str:
        """Name of the initialiser, or an empty one."""
        return str(self.node.input[2]) if len(self.node.input) > 2 else ""

    def kernels(self, graph: Graph) -> NDArray[np.float32]:
        """The weight as ``[outputs, inputs, taps]``."""
        array = graph.array(self.weight)
        assert array is not None, self.weight
        array = np.moveaxis(array, (self.outputs, self.inputs), (0, 1))
        return array.reshape(*array.shape[:2], -1)

    def shift(self, graph: Graph) -> NDArray[np.float64]:
        """The bias, zeros where there is none, ``[outputs]``."""
        result = graph.array(self.bias)
        if result is None:
            return np.zeros(graph.initializers[self.weight].dims[self.outputs])
        return result.astype(np.float64).reshape(-1)


def bias_name(weight: str) -> str:
    """What the bias beside a weight is called: ``fc.weight`` has ``fc.bias``, ``in_proj_weight`` ``in_proj_bias``."""
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}.bias"


def layer_of(graph: Graph, node: NodeProto, producers: dict[str, NodeProto], readings: dict[str, int]) -> Layer | None:
    """Return the layer that ``node`` is, or None: a weight that is shared, not float32 or computed; odd settings.

    Args:
        graph: around it.
        node: any node.
        producers: `Graph.producers`.
        readings: how often each value is read.
    """
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    holder, slot, turned = node, 1, False
    if node.op_type in ("Gemm", "MatMul"):
        above = producers.get(node.input[1])
        if above is not None and above.op_type == "Transpose" and settings(above).get("perm", [1, 0]) == [1, 0]:
            if readings[node.input[1]] != 1:
                return None
            holder, slot, turned = above, 0, True
    weight = graph.initializers.get(holder.input[slot])
    if weight is None or weight.data_type != TensorProto.FLOAT or readings[weight.name] != 1:
        return None
    values = settings(node)
    if node.op_type in ("Conv", "ConvTranspose"):
        inputs, outputs = (1, 0) if node.op_type == "Conv" else (0, 1)
        bordered = (
            node.op_type == "ConvTranspose"
            or any(values.get("pads", ()))
            or values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        )
        layer = Layer(node, holder, slot, inputs, outputs, 1 - len(weight.dims), bordered, values.get("group", 1))
    else:
        plain = (values.get("alpha", 1.0), values.get("beta", 1.0), values.get("transA", 0)) == (1.0, 1.0, 0)
        if not plain or len(weight.dims) != 2:
            return None
        outputs = 0 if bool(values.get("transB", 0)) != turned else 1
        layer = Layer(node, holder, slot, 1 - outputs, outputs, -1, bordered=False, group=1)
    bias = graph.initializers.get(layer.bias)
    if layer.bias and (bias is None or bias.data_type != TensorProto.FLOAT or _odd(bias, weight.dims[layer.outputs])):
        return None
    return layer


def _odd(bias: TensorProto, outputs: int) -> bool:
    """Whether a bias is anything but one number per output, in the last dimension."""
    return not bias.dims or bias.dims[-1] != outputs or int(np.prod(bias.dims)) != outputs
