"""How a file holds whole numbers of which many are 0: the smallest of a few layouts, chosen for each tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...compress.storage.bits import pack_values, packed_bytes
from .emitter import Emitter
from .functions import TRITS

__all__ = ["PREFERENCE", "layout_of", "write_numbers", "write_spread"]

PREFERENCE = 1.15
"""Ternary digits are taken if they need at most this many times the bytes of the smallest layout: they expand in half
the time and the memory."""
_UNPACK = {1: "Bits", 2: "Pairs", 4: "Nibbles"}


@dataclass(frozen=True)
class Layout:
    """A way to hold numbers.

    Attributes:
        name: for reports: ``ternary``, or what tells kept weights apart (``bits``, ``gaps4``, ``gaps8``).
        size: its bytes.
        write: adds it to a graph; takes the emitter and the name of the shape, returns the name of the expanded value.
    """

    name: str
    size: int
    write: Callable[[Emitter, str], str]


def write_numbers(emitter: Emitter, numbers: NDArray[np.int8] | NDArray[np.int32], shape: str) -> str:
    """Write whole numbers, and return the name of their expansion, of their dtype.

    Args:
        emitter: of the weight.
        numbers: int8 or int32 ``[n]``, at most 256 different ones apart from 0.
        shape: name of the shape, int64, that the expansion shall have.
    """
    return layout_of(numbers).write(emitter, shape)


def layout_of(numbers: NDArray[np.int8] | NDArray[np.int32]) -> Layout:
    """The layout in which numbers are written."""
    kept = numbers != 0
    values = numbers[kept]
    present = np.unique(values)
    mask = _mask(kept)
    width = _width(len(present))
    sparse = Layout(
        mask.name,
        mask.size + packed_bytes(len(values), width),
        lambda emitter, shape: _write_sparse(emitter, mask, values, present, shape),
    )
    if numbers.dtype == np.int8 and len(present) > 1 and set(present.tolist()) <= {-1, 1}:
        ternary = Layout("ternary", -(-len(numbers) // TRITS), lambda emitter, shape: _ternary(emitter, numbers, shape))
        if ternary.size <= PREFERENCE * sparse.size:
            return ternary
    return sparse


def write_spread(emitter: Emitter, numbers: NDArray[np.floating], shape: str) -> str:
    """Write floating-point numbers, 0 where they are pruned, as a mask and the values of the others.

    Args:
        emitter: of the weight.
        numbers: float16 or float32 ``[n]``.
        shape: name of the shape, int64, that the expansion shall have.

    Returns:
        The name of the expansion, of the dtype of ``numbers``.
    """
    kept = numbers != 0
    values = emitter.tensor("values", np.concatenate([numbers[:0], np.zeros(1, numbers.dtype), numbers[kept]]))
    return emitter.call("Spread", [_mask(kept).write(emitter, ""), values, shape], "codes")


def _width(values: int) -> int:
    """Bits of a number below ``values``, as far as bytes divide evenly."""
    return next(width for width in (0, 1, 2, 4, 8) if values <= 2**width)


def _write_sparse(
    emitter: Emitter,
    mask: Layout,
    values: NDArray[np.int8] | NDArray[np.int32],
    present: NDArray[np.int8] | NDArray[np.int32],
    shape: str,
) -> str:
    table = emitter.tensor("table", np.concatenate([np.zeros(1, present.dtype), present]))
    kept = mask.write(emitter, "")
    if len(present) <= 1:
        return emitter.call("Fill", [kept, table, shape], "codes")
    numbers = np.searchsorted(present, values).astype(np.uint8)
    fields = _write_fields(emitter, "values", numbers, _width(len(present)))
    return emitter.call("Spread", [kept, emitter.call("Lookup", [fields, table], "kept_values"), shape], "codes")


def _ternary(emitter: Emitter, codes: NDArray[np.int8], shape: str) -> str:
    digits = np.zeros(-(-len(codes) // TRITS) * TRITS, np.uint8)
    digits[: len(codes)] = np.where(codes == -1, 2, codes)
    weights = 3 ** np.arange(TRITS, dtype=np.uint8)
    packed = emitter.tensor("digits", (digits.reshape(-1, TRITS) * weights).sum(axis=1, dtype=np.uint8))
    return emitter.call("Ternary", [packed, emitter.shape("size", len(codes)), shape], "codes")


def _mask(kept: NDArray[np.bool_]) -> Layout:
    """The smallest layout of a mask."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1  # pruned weights in front of each kept one
    choices = [Layout("bits", packed_bytes(len(kept), 1), lambda emitter, _: _write_bits(emitter, kept))]
    for width in (4, 8):
        limit = 2**width - 1
        entries = len(gaps) + int((gaps // limit).sum())
        choices.append(Layout(f"gaps{width}", packed_bytes(entries, width), _gap_writer(gaps, width, len(kept))))
    return min(choices, key=lambda layout: layout.size)


def _write_bits(emitter: Emitter, kept: NDArray[np.bool_]) -> str:
    return _write_fields(emitter, "mask", kept.astype(np.uint8), 1)


def _gap_writer(gaps: NDArray[np.intp], width: int, count: int) -> Callable[[Emitter, str], str]:
    def write(emitter: Emitter, _: str) -> str:
        limit = 2**width - 1
        ends = np.cumsum(gaps // limit + 1)
        entries = np.full(int(ends[-1]) if len(ends) else 0, limit, np.uint8)
        entries[ends - 1] = gaps % limit
        fields = _write_fields(emitter, "gaps", entries, width)
        inputs = [fields, emitter.tensor("limit", np.array([limit], np.int32)), emitter.shape("size", count)]
        return emitter.call("Gaps", inputs, "mask")

    return write


def _write_fields(emitter: Emitter, part: str, fields: NDArray[np.uint8], width: int) -> str:
    packed = emitter.tensor(f"{part}.packed", np.frombuffer(pack_values(fields, width), np.uint8))
    if width == 8:
        return packed
    return emitter.call(_UNPACK[width], [packed, emitter.shape(f"{part}.size", len(fields))], part)
