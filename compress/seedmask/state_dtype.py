"""Round the unmasked state to float16, fold BatchNorm, and report how much precision that loses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, SeedMaskError, did_you_mean
from .json_text import located
from .stored import StoredTensor

__all__ = ["SMALLEST_STATE", "STATE_DTYPES", "StateRounding", "round_state"]

#: What a user may ask for: every bit as it is, floating-point numbers of 32 and 64 bits rounded to 16, or that after
#: statistics of BatchNorm have been folded into its weight and bias.
STATE_DTYPES = ("exact", "float16", "folded")
#: The one that makes the smallest file.
SMALLEST_STATE = "folded"
#: Running variances below this are those of channels that are always the same: beside BatchNorm's eps, they are 0.
DEAD = 1e-14
_WIDE = ("F32", "F64")
_FLOATS = ("F16", *_WIDE)
_OF_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_ADVICE = "keep the state exact (--state-dtype exact)"


@dataclass(frozen=True)
class StateRounding:
    """Size of the state, and the error of rounding.

    Attributes:
        dtype: one of `STATE_DTYPES`.
        bytes: size of the stored state; of ``folded``, a tensor of one value takes that of an item.
        exact_bytes: its size before.
        rounded: number of tensors that were rounded.
        largest_relative_error: over all their values; 1.0 if a value became 0. Variances below `DEAD` do not count.
            Of folded layers, the error of rounding the weight and bias that stand for all four tensors.
        tensor: where that error is; ``None`` if nothing changed its value.
        folded: number of BatchNorm layers whose statistics were folded.
    """

    dtype: str
    bytes: int
    exact_bytes: int
    rounded: int
    largest_relative_error: float
    tensor: str | None
    folded: int = 0


def round_state(
    state: Mapping[str, StoredTensor], dtype: str, batch_norms: Mapping[str, float] | None = None
) -> tuple[dict[str, StoredTensor], StateRounding]:
    """Round float32 and float64 tensors to float16, to nearest; all others stay as they are.

    torch converts float16 back when a state dict is loaded into float32 buffers.

    In evaluation BatchNorm is ``weight / sqrt(running_var + eps) * (x - running_mean) + bias``. ``folded`` gives it the
    mean 0 and the variance 1, and the weight and bias, computed in float64 and rounded once, that make it the same
    function.

    Args:
        state: tensors by name.
        dtype: one of `STATE_DTYPES`; ``exact`` changes nothing.
        batch_norms: for ``folded``, eps of each BatchNorm layer by the name of the layer. A layer that lacks one of the
            four tensors, or whose function is not finite, is rounded as it is.

    Returns:
        The new state, and its size and error.

    Raises:
        ConfigError: the dtype is unknown.
        SeedMaskError: a finite value would become infinite, or a running variance 0 that is not below `DEAD`.

    Example:
        >>> state = {"bias": StoredTensor.from_numpy(np.float32([1, 0.1]))}
        >>> rounded, report = round_state(state, "float16")
        >>> rounded["bias"].dtype, report.bytes, f"{report.largest_relative_error:.1e}"
        ('F16', 4, '2.4e-04')
    """
    if dtype not in STATE_DTYPES:
        raise ConfigError(f"state dtype: unknown {dtype!r}{did_you_mean(dtype, STATE_DTYPES)}")
    result, rounded, worst, where, folded = dict(state), 0, 0.0, None, 0
    if dtype == "folded":
        for layer, eps in (batch_norms or {}).items():
            tensors = _fold(state, f"{layer}.".removeprefix("."), eps)
            result |= tensors
            folded += bool(tensors)
    for name, stored in result.items():
        if dtype != "exact" and stored.dtype in _WIDE:
            with located(f"state {name!r}"):
                result[name], error = _round(stored, is_variance=name.split(".")[-1] == "running_var")
            rounded += 1
            if error > worst:
                worst, where = error, name
    before = sum(stored.data.nbytes for stored in state.values())
    after = sum(
        len(stored.one_value or stored.data) if dtype == "folded" else stored.data.nbytes for stored in result.values()
    )
    return result, StateRounding(dtype, after, before, rounded, worst, where, folded)


def _fold(state: Mapping[str, StoredTensor], prefix: str, eps: float) -> dict[str, StoredTensor]:
    """The tensors of a BatchNorm layer, F64, with the mean 0 and the variance 1; none if it cannot be folded."""
    tensors = [state.get(prefix + name) for name in _OF_BATCH_NORM]
    if any(stored is None or stored.dtype not in _FLOATS for stored in tensors):
        return {}
    weight, bias, mean, variance = (stored.numpy().astype(np.float64) for stored in tensors if stored is not None)
    with np.errstate(all="ignore"):
        scale = weight / np.sqrt(variance + eps)
        shift = bias - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return {}
    values = scale * math.sqrt(1 + eps), shift, np.zeros_like(scale), np.ones_like(scale)
    return {prefix + name: StoredTensor.from_numpy(value) for name, value in zip(_OF_BATCH_NORM, values, strict=True)}


def _round(stored: StoredTensor, *, is_variance: bool) -> tuple[StoredTensor, float]:
    values = stored.numpy().astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        # From the stored type in one step: through another type, some values would be rounded twice.
        half = stored.numpy().astype(np.float16)
    infinite = np.isfinite(values) & ~np.isfinite(half)
    if infinite.any():
        raise SeedMaskError(
            f"{float(values[infinite].flat[0])!r} is beyond float16, whose largest number is 65504; {_ADVICE}"
        )
    dead = is_variance & (np.abs(values) < DEAD)
    vanished = (values != 0) & (half == 0) & ~dead
    if is_variance and vanished.any():
        raise SeedMaskError(
            f"the variance {float(values[vanished].flat[0])!r} would become 0 in float16, and the network would "
            f"divide by it; {_ADVICE}"
        )
    usable = np.isfinite(values) & (values != 0) & ~dead
    error = np.abs(half[usable].astype(np.float64) - values[usable]) / np.abs(values[usable])
    worst = float(error.max(initial=0.0))
    assert math.isfinite(worst)
    return StoredTensor.from_numpy(half), worst
