"""How a row of small integers becomes payload bytes, and back: ``raw``, ``rans`` and ``gaps`` (docs/FORMAT.md, §1).

The packer plans every coding from counts alone, encodes the one that promises the smallest payload, and falls back
to ``raw`` where that is not larger. Encoding and decoding take many rows at once: their lanes run in lockstep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, SeedMaskError, did_you_mean
from .bits import ONES, Row, packed_bytes
from .json_text import DAMAGED, located
from .rans import MAX_LANE, Alphabet, Stream, Table, alphabet, choose_lane, decode, encode, gap_alphabet

__all__ = ["CODINGS", "CODING_CHOICES", "Coded", "check_coding", "decode_rows", "encode_rows", "plan"]

#: The codings that a file may name, in the order in which ties are resolved.
CODINGS = ("raw", "rans", "gaps")
#: What a user may ask for: the smallest of all, bits as they are, or the smallest of the entropy codings.
CODING_CHOICES = ("auto", "raw", "rans")

ESCAPE = 255  # the gap symbol for 255 zeros without a one
MAX_SHIFT = 6  # of the table of gaps
_CHUNK = 1 << 18  # symbols at a time, where wide temporaries are needed


@dataclass(frozen=True, eq=False)
class Plan:
    """A row and its coding.

    Attributes:
        coding: one of `CODINGS`.
        row: what is coded.
        bytes: size of the payload; an estimate, within 1 % for long rows, unless the coding is ``raw``.
        table: frequencies; ``None`` for ``raw``.
        lane: symbols of a lane.
        shift: resolution of the table of ``gaps``.
    """

    coding: str
    row: Row
    bytes: int
    table: Table | None = None
    lane: int = 0
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Coded:
    """A payload and what is needed to read it: name of the coding, bytes, number of values, bits of a value."""

    coding: str
    payload: bytes | memoryview
    count: int
    width: int


def check_coding(name: str) -> str:
    """Return the name of a coding that this version can read.

    Raises:
        SeedMaskError: the coding is unknown.
    """
    if name not in CODINGS:
        raise SeedMaskError(f"unknown coding {name[:80]!a}; known: {', '.join(CODINGS)}; update iterand-compress")
    return name


def plan(row: Row, choice: str = "auto", *, only: Sequence[str] | None = None) -> Plan:
    """The coding that promises the smallest payload, within 0.2 %; of equals the first of `CODINGS`.

    Args:
        row: the values.
        choice: one of `CODING_CHOICES`.
        only: consider these codings instead of those of ``choice``.

    Raises:
        ConfigError: the choice is unknown.
    """
    if choice not in CODING_CHOICES:
        raise ConfigError(f"coding: unknown {choice!r}{did_you_mean(choice, CODING_CHOICES)}")
    tried = only or {"auto": CODINGS, "raw": ("raw",), "rans": ("rans", "gaps")}[choice]
    plans = []
    if "raw" in tried:
        plans.append(Plan("raw", row, packed_bytes(row.count, row.width)))
    histogram = row.histogram()
    if "rans" in tried:
        symbols = alphabet(row.width)
        plans.append(_plan("rans", row, symbols, _class_counts(histogram, symbols), 0))
    ones = int((histogram * ONES).sum())
    if "gaps" in tried and row.width == 1 and 0 < ones <= row.count // 8:  # else bytes are smaller and quicker
        # Cells of an eighth to a quarter of the mean gap follow its distribution closely enough.
        mean = row.count // ones - 1
        shift = min(max(mean.bit_length() - 3, 0), MAX_SHIFT)
        symbols = gap_alphabet(shift)
        plans.append(_plan("gaps", row, symbols, _class_counts(_gap_histogram(row), symbols), shift))
    # `gaps` decode several times faster than `rans`, which is worth 0.2 % of the size.
    return min(plans, key=lambda item: item.bytes - item.bytes // 512 * (item.coding == "gaps"))


def encode_rows(plans: Sequence[Plan], choice: str = "auto") -> list[Coded]:
    """Encode planned rows; with ``auto``, rows that entropy coding does not make smaller are stored ``raw``."""
    coded: list[Coded | None] = [None] * len(plans)
    busy = [i for i, item in enumerate(plans) if item.table is not None]
    inputs = []
    for i in busy:
        item = plans[i]
        assert item.table is not None
        inputs.append((_gaps_of(item.row) if item.coding == "gaps" else item.row.symbols, item.table, item.lane))
    for i, stream in zip(busy, encode(inputs), strict=True):
        item = plans[i]
        payload = _payload(stream, item)
        if choice == "rans" or len(payload) < packed_bytes(item.row.count, item.row.width):
            coded[i] = Coded(item.coding, payload, item.row.count, item.row.width)
    return [
        result or Coded("raw", item.row.packed(), item.row.count, item.row.width)
        for result, item in zip(coded, plans, strict=True)
    ]


def decode_rows(rows: Sequence[tuple[str, Coded]]) -> list[Row]:
    """Decode payloads.

    Args:
        rows: for each row the start of its error messages, and the payload.

    Raises:
        SeedMaskError: `encode_rows` cannot have produced a payload.
    """
    result: list[Row | None] = [None] * len(rows)
    busy: list[tuple[int, Stream]] = []
    for i, (where, coded) in enumerate(rows):
        with located(where):
            if check_coding(coded.coding) == "raw":
                result[i] = Row.unpack(coded.payload, coded.count, coded.width)
            else:
                busy.append((i, _parse(coded)))
    for (i, _), symbols in zip(busy, decode([(rows[i][0], stream) for i, stream in busy]), strict=True):
        where, coded = rows[i]
        with located(where):
            symbols = _bits_of(symbols, coded.count) if coded.coding == "gaps" else symbols
            result[i] = Row(coded.count, coded.width, symbols).checked()
    return [row for row in result if row is not None]


def _plan(coding: str, row: Row, symbols: Alphabet, counts: list[int], shift: int) -> Plan:
    table = Table.fit(symbols, counts)
    number, bits = sum(counts), table.cost(counts)
    lane = choose_lane(bits, number)
    header = len(_header(table, lane, number, shift if coding == "gaps" else None))
    return Plan(coding, row, header + 6 * -(-number // lane) + -(-bits // 8), table, lane, shift)


def _class_counts(histogram: NDArray[np.int64], symbols: Alphabet) -> list[int]:
    counts = np.zeros(len(symbols.sizes), np.int64)
    np.add.at(counts, symbols.class_of[symbols.order], histogram[symbols.order])
    return [int(count) for count in counts]


def _header(table: Table, lane: int, number: int, shift: int | None) -> bytes:
    start = b"" if shift is None else bytes([shift]) + _varint(number)
    return start + _varint(lane) + b"".join(map(_varint, table.frequencies))


def _payload(stream: Stream, item: Plan) -> bytes:
    header = _header(stream.table, stream.lane, stream.count, item.shift if item.coding == "gaps" else None)
    return b"".join(
        (
            header,
            stream.states.astype("<u4").tobytes(),
            stream.lengths.astype("<u2").tobytes(),
            stream.words.astype("<u2").tobytes(),
        )
    )


def _parse(coded: Coded) -> Stream:
    reader = _Reader(coded.payload)
    if coded.coding == "gaps":
        if coded.width != 1:
            raise SeedMaskError(f"expected values of 1 bit for coding 'gaps', got {coded.width}; {DAMAGED}")
        shift = reader.byte()
        if shift > MAX_SHIFT:
            raise SeedMaskError(f"expected a shift up to {MAX_SHIFT}, got {shift}; {DAMAGED}")
        number, symbols = reader.varint(), gap_alphabet(shift)
        if number > coded.count:
            raise SeedMaskError(f"expected at most {coded.count} gaps, got {number}; {DAMAGED}")
    else:
        number, symbols = packed_bytes(coded.count, 1) if coded.width == 1 else coded.count, alphabet(coded.width)
    lane = reader.varint()
    if not 1 <= lane <= MAX_LANE:
        raise SeedMaskError(f"expected lanes of 1 to {MAX_LANE} symbols, got {lane}; {DAMAGED}")
    table = Table(symbols, tuple(reader.varint() for _ in symbols.sizes))
    lanes = -(-number // lane)
    states, lengths = reader.array("<u4", lanes), reader.array("<u2", lanes)
    words = reader.array("<u2", int(lengths.sum(dtype=np.int64)))
    reader.finish()
    return Stream(table, number, lane, states, lengths, words)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Reader:
    """Reads the fields of a payload, never past its end."""

    def __init__(self, payload: bytes | memoryview) -> None:
        self.data = memoryview(payload)
        self.position = 0

    def byte(self) -> int:
        if self.position >= len(self.data):
            raise SeedMaskError(f"truncated payload of {len(self.data)} bytes; {DAMAGED}")
        self.position += 1
        return self.data[self.position - 1]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 42, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if not byte and shift:
                    break
                return value
        raise SeedMaskError(f"expected a number in its shortest form of at most 6 bytes; {DAMAGED}")

    def array(self, dtype: str, count: int) -> NDArray[np.unsignedinteger]:
        size = count * np.dtype(dtype).itemsize
        if size > len(self.data) - self.position:
            left = len(self.data) - self.position
            raise SeedMaskError(f"expected {size} more bytes of lanes, got {left}; {DAMAGED}")
        self.position += size
        return np.frombuffer(bytes(self.data[self.position - size : self.position]), dtype)

    def finish(self) -> None:
        if self.position != len(self.data):
            extra = len(self.data) - self.position
            raise SeedMaskError(f"expected the payload to end with the words, got {extra} more bytes; {DAMAGED}")


def _gap_histogram(row: Row) -> NDArray[np.int64]:
    histogram = np.zeros(256, np.int64)
    for gaps in _gaps(row):
        histogram += np.bincount(gaps % ESCAPE, minlength=256)
        histogram[ESCAPE] += int((gaps // ESCAPE).sum())
    return histogram


def _gaps_of(row: Row) -> NDArray[np.uint8]:
    """Gap symbols of a row, uint8: for each one, an escape for every 255 zeros before it, then the number of others."""
    chunks = []
    for gaps in _gaps(row):
        each = gaps // ESCAPE + 1
        symbols = np.full(int(each.sum()), ESCAPE, np.uint8)
        symbols[np.cumsum(each) - 1] = gaps % ESCAPE
        chunks.append(symbols)
    return np.concatenate(chunks)


def _gaps(row: Row) -> Sequence[NDArray[np.int64]]:
    """Number of zeros before each one, int64, in chunks."""
    last, chunks = -1, []
    for start in range(0, row.count, 8 * _CHUNK):
        ones = np.flatnonzero(row.values(start, min(start + 8 * _CHUNK, row.count))) + start
        if len(ones):
            chunks.append(np.diff(ones, prepend=last) - 1)
            last = int(ones[-1])
    return chunks


def _bits_of(symbols: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Packed bits from gap symbols."""
    if not len(symbols) or symbols[-1] == ESCAPE:
        raise SeedMaskError(f"expected the gaps to end with a one; {DAMAGED}")
    out = np.zeros(packed_bytes(count, 1), np.uint8)
    position = -1
    for start in range(0, len(symbols), _CHUNK):
        chunk = symbols[start : start + _CHUNK]
        places = position + np.cumsum(chunk.astype(np.int64) + (chunk != ESCAPE))
        position = int(places[-1])
        if position >= count:
            raise SeedMaskError(f"expected gaps that fill {count} bits, got more; {DAMAGED}")
        ones = places[chunk != ESCAPE]
        if len(ones):
            byte = ones >> 3
            first = np.flatnonzero(np.diff(byte, prepend=-1))
            out[byte[first]] |= np.bitwise_or.reduceat((1 << (ones & 7)).astype(np.uint8), first)
    return out
