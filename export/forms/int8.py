"""The int8 form: a byte for each weight, times a scale; for runtimes without operators on bits."""

from __future__ import annotations

import numpy as np

from ..coded import CodedWeight
from .emitter import Emitter
from .packed import write_scaled

__all__ = ["write_int8", "write_quantized"]

_TAKE_QUANTIZED = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators that onnxruntime 1.16 to 1.32 leaves alone behind a DequantizeLinear."""


def write_int8(emitter: Emitter, weight: CodedWeight) -> None:
    """Write a weight as its codes and its scale; runtimes fold the product into a constant when they load it."""
    write_scaled(emitter, emitter.tensor("codes", weight.codes), weight)


def write_quantized(emitter: Emitter, weight: CodedWeight) -> None:
    """The same with a DequantizeLinear, which onnxruntime does not fold: bytes in memory, expanded at each inference.

    In front of other operators than `_TAKE_QUANTIZED`, and for a scale that varies along two axes (of grouped
    transposed convolutions), it only makes floats of the codes, and a Mul applies the scale. Otherwise onnxruntime
    would treat it as a quantised operator: up to 1.27 it moves a Transpose or Reshape before it, and the
    codes become uint8; since 1.25 it computes a MatMul behind it with activations rounded to int8.

    Values that were trained in floating point are no codes, and fold.
    """
    if weight.codes.dtype != np.int8:
        write_int8(emitter, weight)
        return
    codes = emitter.tensor("codes", weight.codes)
    axes = [axis for axis, size in enumerate(weight.scale.shape) if size > 1]
    if emitter.readers() <= _TAKE_QUANTIZED and len(axes) <= 1:
        scale = emitter.tensor("scale", weight.scale.reshape(-1) if axes else weight.scale.reshape(()))
        settings = {"axis": axes[0]} if axes else {}
        emitter.node("DequantizeLinear", [codes, scale], "", **settings)
        return
    one = emitter.shared("iterand.one", np.array(1, np.float32))
    exact = emitter.node("DequantizeLinear", [codes, one], "float_codes")
    emitter.node("Mul", [exact, emitter.tensor("scale", weight.scale)], "")
