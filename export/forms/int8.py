"""The int8 form: a byte for each weight, times a scale; for runtimes without operators on bits."""

from __future__ import annotations

import numpy as np

from ..coded import CodedWeight
from .emitter import Emitter
from .packed import write_scaled

__all__ = ["write_int8", "write_quantized"]


def write_int8(emitter: Emitter, weight: CodedWeight) -> None:
    """Write a weight as its codes and its scale; runtimes fold the product into a constant when they load it."""
    write_scaled(emitter, emitter.tensor("codes", weight.codes), weight)


def write_quantized(emitter: Emitter, weight: CodedWeight) -> None:
    """The same as a DequantizeLinear, which onnxruntime keeps: bytes in memory, expanded at each inference.

    A scale that varies along two axes (of grouped transposed convolutions) cannot be said so, nor can values that were
    trained in floating point: these fold.
    """
    axes = [axis for axis, size in enumerate(weight.scale.shape) if size > 1]
    if len(axes) > 1 or weight.codes.dtype != np.int8:
        write_int8(emitter, weight)
        return
    scale = emitter.tensor("scale", weight.scale.reshape(-1) if axes else weight.scale.reshape(()))
    settings = {"axis": axes[0]} if axes else {}
    emitter.node("DequantizeLinear", [emitter.tensor("codes", weight.codes), scale], "", **settings)
