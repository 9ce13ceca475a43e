"""The packed form: a mask and the codes of kept weights, in bits, expanded by standard operators."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..coded import CodedWeight
from .emitter import Emitter
from .layouts import TERNARY_ALLOWANCE, write_numbers, write_spread

__all__ = ["write_packed", "write_scaled"]


def write_packed(emitter: Emitter, weight: CodedWeight) -> None:
    """Write a weight as packed codes times its scale."""
    shape = emitter.shape("shape", *weight.codes.shape)
    codes = weight.codes.reshape(-1)
    if codes.dtype == np.int8:
        written = write_numbers(emitter, codes, shape, allowance=TERNARY_ALLOWANCE)
    else:
        written = write_spread(emitter, codes, shape)
    write_scaled(emitter, written, weight)


def write_scaled(emitter: Emitter, codes: str, weight: CodedWeight) -> None:
    """Multiply codes, of any type, with the scale, under the name of the weight."""
    if emitter.guarded and weight.codes.dtype == np.int8:
        # OpenVINO takes int8 times a scale for a layer that may be computed with rounded activations.
        codes = emitter.node("Cast", [codes], "wide_codes", to=TensorProto.INT32)
    exact = emitter.node("Cast", [codes], "float_codes", to=TensorProto.FLOAT)
    emitter.node("Mul", [exact, emitter.tensor("scale", weight.scale)], "")
