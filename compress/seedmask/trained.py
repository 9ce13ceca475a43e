"""Values of kept weights that were trained, for networks that are pruned at initialisation (docs/FORMAT.md, §1.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, SeedMaskError, did_you_mean
from .bits import Row

__all__ = ["VALUE_DTYPES", "Trained", "quantise", "rows_of"]

#: The dtypes that values may have, as safetensors names them.
VALUE_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "I8": np.dtype(np.int8),
}
_TAGS = {"float32": "F32", "float16": "F16", "int8": "I8"}
_LIMITS = np.finfo(np.float32)


@dataclass(frozen=True, eq=False)
class Trained:
    """The values of the kept weights of a tensor, in order of index.

    A weight is ``float32(value)``, which is exact; of I8, ``float32(value) * scales[row]``, rounded once, where the
    row is the index of the weight along the first dimension.

    Attributes:
        dtype: ``F32``, ``F16`` or ``I8``.
        values: float32, float16 or int8 ``[kept]``; finite; from -127 to 127.
        scales: of I8 float32 ``[rows]``; positive, finite, normal, and finite when multiplied by 127, so that no
            product is subnormal or infinite. ``None`` otherwise.

    Raises:
        SeedMaskError: a field does not fit the others.
    """

    dtype: str
    values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]
    scales: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in VALUE_DTYPES:
            raise SeedMaskError(f"values: unknown dtype {self.dtype[:80]!a}; known: {', '.join(VALUE_DTYPES)}")
        if self.values.dtype != VALUE_DTYPES[self.dtype] or self.values.ndim != 1:
            raise SeedMaskError(
                f"values: expected {VALUE_DTYPES[self.dtype]} of one dimension for {self.dtype}, "
                f"got {self.values.dtype} of shape {list(self.values.shape)}"
            )
        if (self.scales is None) == (self.dtype == "I8"):
            raise SeedMaskError(f"values: expected scales for I8 and for nothing else, got {self.dtype}")
        if self.scales is None:
            _refuse(self.values, ~np.isfinite(self.values), "values", "finite numbers")
            return
        _refuse(self.values, self.values == -128, "values", "integers from -127 to 127")
        if self.scales.dtype != np.float32 or self.scales.ndim != 1:
            raise SeedMaskError(
                f"scales: expected float32 of one dimension, got {self.scales.dtype} of shape {list(self.scales.shape)}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            fine = (self.scales >= _LIMITS.tiny) & (self.scales * np.float32(127) <= _LIMITS.max)
        _refuse(self.scales, ~fine, "scales", "positive, finite, normal numbers, 127 times them finite too")

    def chunks(
        self, mask: Row, size: int, output: Callable[[slice], NDArray[np.float32]]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The weights of a whole tensor, 0 where they are pruned.

        Args:
            mask: which weights are kept.
            size: weights of a chunk.
            output: returns the float32 array of a chunk's length, little-endian, that its weights are written to.

        Yields:
            The place of a chunk, and its weights.
        """
        position = 0
        for start in range(0, mask.count, size):
            chunk = slice(start, min(start + size, mask.count))
            where = np.flatnonzero(mask.values(chunk.start, chunk.stop))
            here = slice(position, position + len(where))
            kept_values = self.values[here].astype("<f4")
            if self.scales is not None:
                kept_values *= self.scales[(where + start) // (mask.count // len(self.scales))]
            out = output(chunk)
            out[...] = 0
            out[where] = kept_values
            position = here.stop
            yield chunk, out

    def largest_error(self, weights: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
        """The largest absolute difference between kept weights and what is recovered; 0 if there are none.

        Args:
            weights: float32 ``[n]``, before rounding.
            mask: bool ``[n]``.
        """
        row = Row.pack(mask.view(np.uint8), 1)
        recovered = np.empty(len(mask), "<f4")
        for _ in self.chunks(row, max(len(mask), 1), recovered.__getitem__):
            pass
        differences = np.abs(weights[mask].astype(np.float64) - recovered[mask])
        return float(differences.max(initial=0.0))


def quantise(
    weights: NDArray[np.float32], mask: NDArray[np.bool_], shape: Sequence[int], dtype: str = "float32"
) -> Trained:
    """Round trained weights to what a file can hold.

    ``float32`` is exact and ``float16`` rounds to nearest, ties to even. ``int8`` has a scale for each index of the
    first dimension: the largest kept magnitude divided by 127, in double precision, rounded to float32, and at least
    the smallest normal number; a value is the nearest integer to the weight divided by the scale. A row without kept
    weights other than 0 has scale 1.

    Args:
        weights: float32 ``[n]``, row-major.
        mask: bool ``[n]``; True = kept.
        shape: of the tensor.
        dtype: ``float32``, ``float16`` or ``int8``.

    Raises:
        ConfigError: the dtype is unknown.
        SeedMaskError: a kept weight is not finite or too large for float16; the message names it.

    Example:
        >>> weights, mask = np.float32([0.504, -1.27, 9.0, 127.0]), np.array([True, True, False, True])
        >>> trained = quantise(weights, mask, (2, 2), "int8")
        >>> trained.values.tolist(), trained.scales.tolist()
        ([50, -127, 127], [0.009999999776482582, 1.0])
        >>> round(trained.largest_error(weights, mask), 6)
        0.004
    """
    if dtype not in _TAGS:
        raise ConfigError(f"values: unknown dtype {dtype!r}{did_you_mean(dtype, _TAGS)}")
    where = np.flatnonzero(mask)
    kept = weights[where].astype(np.float32, copy=False)
    _refuse(weights, np.isfinite(weights) | ~mask, "weights", "finite numbers", wrong=False)
    if dtype == "float32":
        return Trained("F32", kept)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            halves = kept.astype(np.float16)
        wide = np.flatnonzero(np.isinf(halves))
        if len(wide):
            index = int(where[wide[0]])
            raise SeedMaskError(
                f"weights: expected numbers that float16 can hold, got {float(weights[index])!r} at index {index}; "
                "store these values as float32 or int8"
            )
        return Trained("F16", halves)
    rows = rows_of(tuple(shape))
    row = where // (len(mask) // rows)
    largest = np.zeros(rows, np.float64)
    np.maximum.at(largest, row, np.abs(kept).astype(np.float64))
    scales = np.maximum((largest / 127).astype(np.float32), _LIMITS.tiny)
    with np.errstate(over="ignore"):  # a scale that was rounded up may overflow when multiplied by 127
        scales = np.where(np.isfinite(scales * np.float32(127)), scales, np.nextafter(scales, np.float32(0)))
    scales[largest == 0] = 1
    values = np.clip(np.rint(kept / scales[row].astype(np.float64)), -127, 127).astype(np.int8)
    return Trained("I8", values, scales)


def rows_of(shape: tuple[int, ...]) -> int:
    """How many scales a tensor has: the size of its first dimension, or 1."""
    return int(shape[0]) if shape else 1


def _refuse(
    values: NDArray[np.generic], flags: NDArray[np.bool_], what: str, expected: str, *, wrong: bool = True
) -> None:
    """Refuse values where ``flags`` is ``wrong``, naming the first."""
    index = int((flags == wrong).argmax()) if len(flags) else 0
    if len(flags) and flags[index] == wrong:
        raise SeedMaskError(f"{what}: expected {expected}, got {values[index].item()!r} at {index}")
