"""Round the unmasked state to float16, and report how much precision that loses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, SeedMaskError, did_you_mean
from .json_text import located
from .stored import StoredTensor

__all__ = ["SMALLEST_STATE", "STATE_DTYPES", "StateRounding", "round_state"]

#: What a user may ask for: every bit as it is, or floating-point numbers of 32 and 64 bits rounded to 16.
STATE_DTYPES = ("exact", "float16")
#: The one that makes the smallest file.
SMALLEST_STATE = "float16"
#: Running variances below this are those of channels that are always the same: beside BatchNorm's eps, they are 0.
DEAD = 1e-14
_WIDE = ("F32", "F64")
_ADVICE = "keep the state exact (--state-dtype exact)"


@dataclass(frozen=True)
class StateRounding:
    """Size of the state, and the error of rounding.

    Attributes:
        dtype: one of `STATE_DTYPES`.
        bytes: size of the stored state.
        exact_bytes: its size before.
        rounded: number of tensors that were rounded.
        largest_relative_error: over all their values; 1.0 if a value became 0. Variances below `DEAD` do not count.
        tensor: where that error is; ``None`` if nothing changed its value.
    """

    dtype: str
    bytes: int
    exact_bytes: int
    rounded: int
    largest_relative_error: float
    tensor: str | None


def round_state(state: Mapping[str, StoredTensor], dtype: str) -> tuple[dict[str, StoredTensor], StateRounding]:
    """Round float32 and float64 tensors to float16, to nearest; all others stay as they are.

    torch converts float16 back when a state dict is loaded into float32 buffers.

    Args:
        state: tensors by name.
        dtype: one of `STATE_DTYPES`; ``exact`` changes nothing.

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
    result, rounded, worst, where = dict(state), 0, 0.0, None
    for name, stored in state.items():
        if dtype == "float16" and stored.dtype in _WIDE:
            with located(f"state {name!r}"):
                result[name], error = _round(stored, is_variance=name.split(".")[-1] == "running_var")
            rounded += 1
            if error > worst:
                worst, where = error, name
    before, after = (sum(stored.data.nbytes for stored in tensors.values()) for tensors in (state, result))
    return result, StateRounding(dtype, after, before, rounded, worst, where)


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
