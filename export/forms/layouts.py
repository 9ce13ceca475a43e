"""How a file holds whole numbers of which many are equal: the smallest of a few layouts, chosen for each tensor.

A mask is a bit for each number, or the distances between those that it keeps, in 2 to 8 bits each. Numbers that are
kept are fields of as few bits as tell them apart, or again a mask, of those that are not the commonest, and these.
Codes -1, 0 and 1 may also be digits of base 3, five to a byte. Fields whose width does not divide a byte are split into
some that do: 7 bits into 4, 2 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...compress.seedmask.bits import packed_bytes
from .emitter import Emitter

__all__ = ["TERNARY_ALLOWANCE", "layout_of", "write_numbers", "write_spread"]

TERNARY_ALLOWANCE = 1.15
"""Digits of base 3 are taken if they need at most this many times the bytes of the smallest layout: they expand with
half the memory, and every runtime has the operators."""
_FEW = 16  # different numbers: of more, the commonest is too rare for a mask of the others to be worth a level
_TRITS = 5  # digits 0, 1, 2 (base 3) in a byte; they stand for the codes 0, 1, -1
_CODES = np.array([0, 1, -1], np.int8)
Numbers = NDArray[np.int8] | NDArray[np.int32]
Lead = NDArray[Any]  # [1]: the number of all weights that a mask leaves out


@dataclass(frozen=True)
class Layout:
    """A way to hold numbers.

    Attributes:
        name: for reports: ``ternary``, or how the mask is stored, ``bits`` or ``gaps2`` to ``gaps8``.
        size: its bytes.
        write: adds it to a graph; takes the emitter and the name of the shape that the expansion shall have; returns
            the name of the expansion.
    """

    name: str
    size: int
    write: Callable[[Emitter, str], str]


@dataclass(frozen=True)
class _Mask:
    """Which numbers are kept.

    Attributes:
        name: as in `Layout`.
        size: its bytes.
        write: adds its expansion to a graph: takes the emitter, the level, the value that all others get, the name of
            the values (this one in front, and those of kept numbers), whether these have one value only, and the name
            of the shape; returns the name of the expansion.
    """

    name: str
    size: int
    write: Callable[[Emitter, int, Lead, str, bool, str], str]


@dataclass(frozen=True)
class _Values:
    """Numbers in a row, to be preceded by one more.

    Attributes:
        size: their bytes.
        write: adds them to a graph; takes the emitter, the level and the number in front; returns their name.
        only: the one number that all are, if they are so many times the same.
    """

    size: int
    write: Callable[[Emitter, int, Lead], str]
    only: int | None = None


def write_numbers(emitter: Emitter, numbers: Numbers, shape: str, *, allowance: float = 1.0) -> str:
    """Write whole numbers, and return the name of their expansion, of their dtype.

    Args:
        emitter: of the weight.
        numbers: int8 or int32 ``[n]``, at most 256 different ones apart from 0.
        shape: name of the shape, int64, that the expansion shall have.
        allowance: see `layout_of`.
    """
    return layout_of(numbers, allowance=allowance).write(emitter, shape)


def layout_of(numbers: Numbers, *, allowance: float = 1.0) -> Layout:
    """The smallest layout of whole numbers, 0 being the one that a mask leaves out.

    Args:
        numbers: int8 or int32 ``[n]``.
        allowance: take digits of base 3 even if they need this many times the bytes.
    """
    sparse = _sparse(numbers, 0, 0)
    if numbers.dtype == np.int8 and set(np.unique(numbers).tolist()) == {-1, 0, 1}:
        ternary = Layout("ternary", -(-len(numbers) // _TRITS), _ternary_writer(numbers))
        if ternary.size <= allowance * sparse.size:
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
    kept = numbers.view(f"u{numbers.itemsize}") != 0  # -0 is a value
    values = emitter.tensor("values", np.concatenate([np.zeros(1, numbers.dtype), numbers[kept]]))
    return _mask(kept).write(emitter, 0, np.zeros(1, numbers.dtype), values, False, shape)


def _sparse(numbers: Numbers, lead: int, level: int) -> Layout:
    """A mask of the numbers that are not ``lead``, and these. Levels tell masks inside of values apart by name."""
    kept = numbers != lead
    mask, values = _mask(kept), _values(numbers[kept], level)

    def write(emitter: Emitter, shape: str) -> str:
        first = np.array([lead], numbers.dtype)
        if values.only is not None:
            table = emitter.tensor(f"table{level}", np.array([lead, values.only], numbers.dtype))
            return mask.write(emitter, level, first, table, True, shape)
        return mask.write(emitter, level, first, values.write(emitter, level, first), False, shape)

    return Layout(mask.name, mask.size + values.size, write)


def _values(numbers: Numbers, level: int) -> _Values:
    present, counts = np.unique(numbers, return_counts=True)
    if len(present) <= 1:
        only = int(present[0]) if len(present) else 0
        return _Values(0, lambda *_: "", only)
    width = (len(present) - 1).bit_length()
    size = _fields_size(len(numbers), width)

    def write(emitter: Emitter, level: int, lead: Lead) -> str:
        index = np.searchsorted(present, numbers).astype(np.uint8)
        fields = _write_fields(emitter, f"numbers{level}", index, width, ragged=True)
        return emitter.call(
            "Lookup", [fields, emitter.tensor(f"table{level}", present), _first(emitter, lead)], f"values{level}"
        )

    if len(present) <= _FEW:
        split = _sparse(numbers, int(present[counts.argmax()]), level + 1)
        if split.size < size:
            return _Values(split.size, _split_writer(split, numbers))
    return _Values(size, write)


def _split_writer(split: Layout, numbers: Numbers) -> Callable[[Emitter, int, Lead], str]:
    def write(emitter: Emitter, level: int, lead: Lead) -> str:
        spread = split.write(emitter, emitter.shape(f"shape{level + 1}", len(numbers)))
        return emitter.node("Concat", [_first(emitter, lead), spread], f"values{level}", axis=0)

    return write


def _ternary_writer(codes: Numbers) -> Callable[[Emitter, str], str]:
    def write(emitter: Emitter, shape: str) -> str:
        digits = np.zeros(-(-len(codes) // _TRITS) * _TRITS, np.uint8)
        digits[: len(codes)] = np.where(codes == -1, 2, codes)
        weights = 3 ** np.arange(_TRITS, dtype=np.uint8)
        packed = emitter.tensor("digits", (digits.reshape(-1, _TRITS) * weights).sum(axis=1, dtype=np.uint8))
        table = emitter.shared("iterand.digits", _CODES[np.arange(3**_TRITS)[:, None] // weights % 3])
        flat = emitter.call("Digits", [packed, table, emitter.shape("size", len(codes))], "flat")
        return emitter.node("Reshape", [flat, shape], "codes")

    return write


def _mask(kept: NDArray[np.bool_]) -> _Mask:
    """The smallest way to hold a mask."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1  # pruned weights in front of each kept one
    choices = [_Mask("bits", packed_bytes(len(kept), 1), _bit_writer(kept))]
    for width in range(2, 9):
        entries = len(gaps) + int((gaps // (2**width - 1)).sum())
        choices.append(_Mask(f"gaps{width}", _fields_size(entries, width), _gap_writer(gaps, width, len(kept))))
    return min(choices, key=lambda mask: mask.size)


def _bit_writer(kept: NDArray[np.bool_]) -> Callable[[Emitter, int, Lead, str, bool, str], str]:
    def write(emitter: Emitter, level: int, _: Lead, values: str, single: bool, shape: str) -> str:
        flags = _write_fields(emitter, f"mask{level}", kept.astype(np.uint8), 1)
        if single:
            return emitter.call("Fill", [flags, values, shape], f"codes{level}")
        return emitter.call("Spread", [flags, values, shape, _axis(emitter)], f"codes{level}")

    return write


def _gap_writer(gaps: NDArray[np.intp], width: int, count: int) -> Callable[[Emitter, int, Lead, str, bool, str], str]:
    def write(emitter: Emitter, level: int, lead: Lead, values: str, single: bool, shape: str) -> str:
        limit = 2**width - 1
        ends = np.cumsum(gaps // limit + 1)
        entries = np.full(int(ends[-1]) if len(ends) else 0, limit, np.uint8)
        entries[ends - 1] = gaps % limit
        fields = _write_fields(emitter, f"gaps{level}", entries, width)
        bound = emitter.shared(f"iterand.limit{limit}", np.array([limit], np.int32))
        one = emitter.shared("iterand.one32", np.array([1], np.int32))
        inputs = [
            fields,
            bound,
            values,
            _first(emitter, lead),
            emitter.shape(f"size{level}", count),
            shape,
            _axis(emitter),
            one,
        ]
        return emitter.call("PlaceOne" if single else "Place", inputs, f"codes{level}")

    return write


def _planes(width: int) -> list[int]:
    """The widths into which fields are split; their bits add up to ``width``, lowest first."""
    return [plane for plane in (8, 4, 2, 1) if width & plane]


def _fields_size(count: int, width: int) -> int:
    planes = _planes(width)
    count += -count % (8 // planes[-1])  # all planes end together
    return sum(packed_bytes(count, plane) for plane in planes)


def _first(emitter: Emitter, lead: Lead) -> str:
    return emitter.shared(f"iterand.{lead.dtype}.{lead[0]}", lead)


def _axis(emitter: Emitter) -> str:
    # Constants that functions share are inputs: each one inside of a function would be a node for each weight.
    return emitter.shared("iterand.axis", np.array(0, np.int64))


def _write_fields(emitter: Emitter, suffix: str, fields: NDArray[np.uint8], width: int, *, ragged: bool = False) -> str:
    """Write fields below ``2**width``, and return the name of their expansion, uint8.

    With ``ragged`` it may be longer, by up to 7 fields of any value below: for readers that take what they need.
    """
    if width == 8:
        return emitter.tensor(f"{suffix}.bits", fields)
    planes, result, up = _planes(width), "", 0
    count = len(fields)
    fields = np.concatenate([fields, np.zeros(-count % (8 // planes[-1]), np.uint8)])  # all planes end together
    flat = emitter.shared("iterand.flat", np.array([-1], np.int64))
    for plane in planes:
        name = suffix if len(planes) == 1 else f"{suffix}.{plane}"
        shifts = np.arange(0, 8, plane, dtype=np.uint8)[:, None]
        parts = (fields >> np.uint8(up) & np.uint8(2**plane - 1)).reshape(len(shifts), -1)
        inputs = [
            emitter.tensor(f"{name}.bits", np.bitwise_or.reduce(parts << shifts, axis=0)),
            emitter.shared(f"iterand.masks{plane}", np.uint8(2**plane - 1) << shifts),
            emitter.shared(f"iterand.shifts{plane}", shifts),
            flat,
        ]
        if result:
            inputs += [emitter.shared(f"iterand.up{up}", np.array(up, np.uint8)), result]
        result = emitter.call("HigherBits" if result else "Fields", inputs, name)
        up += plane
    if ragged or count == len(fields):
        return result
    start = emitter.shared("iterand.start", np.array([0], np.int64))
    return emitter.node("Slice", [result, start, emitter.shape(f"{suffix}.count", count)], f"{suffix}.exact")
