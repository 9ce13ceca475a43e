"""An interleaved range coder of asymmetric numeral systems (rANS), in integers only. Specified in docs/FORMAT.md, §1.4.

A row of symbols is cut into lanes of equal length. Each lane is a stream of its own: a 32-bit state in
[2**16, 2**32), 16-bit words, frequencies that sum to 2**16. So lanes can be decoded one after the other in little
memory, or thousands of them in lockstep, which is what the vectorised code here does, across rows.

Source: Duda, "Asymmetric numeral systems", arXiv:1311.2540; Giesen, "Interleaved entropy coders", arXiv:1402.3392.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .bits import ONES
from .json_text import DAMAGED

__all__ = ["MAX_LANE", "Alphabet", "Stream", "Table", "alphabet", "choose_lane", "decode", "encode", "gap_alphabet"]

BITS = 16
TOTAL = 1 << BITS  # frequencies sum to this; also the least state
MAX_LANE = 1 << 15  # symbols of a lane at most, which bounds the sequential work of a reader

# Limits of a batch: lanes, symbols, and rows (each needs a table of 64 KiB). Large enough for NumPy to be efficient.
_BATCH_LANES, _BATCH_BYTES, _BATCH_ROWS = 1 << 12, 1 << 24, 1 << 7
_STAGE = 64  # steps whose symbols are gathered before they are transposed into place
_LANE_BITS = 1 << 14  # the least coded bits that a lane should have, as each lane costs 48 bits of overhead
_LEAST_LANE, _LARGEST_LANE = 1 << 11, 1 << 14


@dataclass(frozen=True, eq=False)
class Alphabet:
    """The symbols of a row. Symbols of one class share a frequency.

    Attributes:
        order: uint8 ``[S]``, all symbols, class by class and ascending in each.
        sizes: number of symbols of each class.
        class_of: uint8 ``[256]``, class of each symbol.
    """

    order: NDArray[np.uint8]
    sizes: tuple[int, ...]
    class_of: NDArray[np.uint8]


@cache
def alphabet(width: int) -> Alphabet:
    """The alphabet of rows of ``width`` bits: bytes by their number of ones for 1 bit, else the values themselves."""
    if width == 1:
        order = np.argsort(ONES, kind="stable").astype(np.uint8)
        return Alphabet(order, tuple(math.comb(8, k) for k in range(9)), ONES)
    values = np.arange(1 << width).astype(np.uint8)
    return Alphabet(values, (1,) * len(values), np.arange(256, dtype=np.uint8))


@cache
def gap_alphabet(shift: int) -> Alphabet:
    """Symbols 0 to 254 in classes of ``2**shift`` neighbours (the last may be smaller), and 255 alone."""
    values = np.arange(256).astype(np.uint8)
    class_of: NDArray[np.uint8] = (values >> shift).astype(np.uint8)
    class_of[255] = class_of[254] + 1
    return Alphabet(values, tuple(np.bincount(class_of).tolist()), class_of)


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of an alphabet.

    Attributes:
        symbols: the alphabet.
        frequencies: of one symbol of each class; with all symbols counted they sum to 65536.
    """

    symbols: Alphabet
    frequencies: tuple[int, ...]

    def __post_init__(self) -> None:
        total = sum(f * size for f, size in zip(self.frequencies, self.symbols.sizes, strict=True))
        if total != TOTAL:
            raise SeedMaskError(f"expected frequencies that sum to {TOTAL}, got {total}; the file is damaged")

    @classmethod
    def fit(cls, symbols: Alphabet, counts: Sequence[int]) -> Table:
        """Fit frequencies, in integers, to a row in which class ``k`` occurs ``counts[k]`` times."""
        # Each class that occurs gets 1, the remainder is shared in proportion to the counts, and the units that
        # rounding leaves over go one by one to the class in which a unit saves most.
        number = sum(counts)
        free = TOTAL - sum(size for size, count in zip(symbols.sizes, counts, strict=True) if count)
        frequencies = [
            1 + free * count // (number * size) if count else 0
            for size, count in zip(symbols.sizes, counts, strict=True)
        ]
        remaining = TOTAL - sum(f * size for f, size in zip(frequencies, symbols.sizes, strict=True))

        def gain(k: int) -> tuple[float, int]:  # log((f + 1) / f) ≈ 2 / (2 f + 1)
            return -counts[k] / (symbols.sizes[k] * (2 * frequencies[k] + 1)), k

        queue = [gain(k) for k in range(len(frequencies))]
        heapq.heapify(queue)
        while remaining:
            k = heapq.heappop(queue)[1]
            if symbols.sizes[k] <= remaining:
                frequencies[k] += 1
                remaining -= symbols.sizes[k]
                heapq.heappush(queue, gain(k))
        return cls(symbols, tuple(frequencies))

    def cost(self, counts: Sequence[int]) -> int:
        """Number of coded bits of a row with these class counts, in integers: equal on every machine."""
        saved = sum(count * _log2(f) for f, count in zip(self.frequencies, counts, strict=True) if count)
        return BITS * sum(counts) - (saved >> _LOG_BITS)

    @cached_property
    def frequency_of(self) -> NDArray[np.int64]:
        """int64 ``[256]``, frequency of each symbol."""
        out = np.zeros(256, np.int64)
        out[self.symbols.order] = np.array(self.frequencies, np.int64)[self.symbols.class_of[self.symbols.order]]
        return out

    @cached_property
    def start_of(self) -> NDArray[np.int64]:
        """int64 ``[256]``, first slot of each symbol."""
        out = np.zeros(256, np.int64)
        ordered = self.frequency_of[self.symbols.order]
        out[self.symbols.order] = np.cumsum(ordered) - ordered
        return out

    def slots(self) -> NDArray[np.uint8]:
        """uint8 ``[65536]``, the symbol of each slot."""
        order = self.symbols.order
        return np.repeat(order, self.frequency_of[order])


_LOG_BITS = 12


@cache
def _log2(value: int) -> int:
    """``floor(2**12 * log2(value))``, bit by bit: squaring doubles the logarithm."""
    result = value.bit_length() - 1
    power = value << 48 - result  # the value over 2**result, in [1, 2), with 48 bits after the point
    for _ in range(_LOG_BITS):
        power = power * power >> 48
        bit = power >> 49
        result = 2 * result + bit
        power >>= bit
    return result


@dataclass(frozen=True, eq=False)
class Stream:
    """A coded row.

    Attributes:
        table: its frequencies.
        count: number of symbols.
        lane: symbols of each lane; the last one may have fewer.
        states: uint32 ``[lanes]``, with which decoding starts.
        lengths: uint16 ``[lanes]``, number of words.
        words: uint16 ``[sum of lengths]``, lane after lane, in the order of decoding.
    """

    table: Table
    count: int
    lane: int
    states: NDArray[np.uint32]
    lengths: NDArray[np.uint16]
    words: NDArray[np.uint16]


def choose_lane(bits: int, count: int) -> int:
    """Symbols of a lane for a row of ``count`` symbols of ``bits`` coded bits in all; a power of two."""
    wanted = _LANE_BITS * count * 8 // (5 * max(bits, 1))
    return min(max(1 << (max(wanted, 1).bit_length() - 1), _LEAST_LANE), _LARGEST_LANE)


def encode(rows: Sequence[tuple[NDArray[np.uint8], Table, int]]) -> list[Stream]:
    """Encode rows of symbols.

    Args:
        rows: for each row its symbols, uint8 ``[n]``, all with frequencies above 0; its table; the symbols of a lane.
    """
    if not rows:
        return []
    lanes = _Lanes.cut([len(symbols) for symbols, _, _ in rows], [lane for _, _, lane in rows])
    frequency = np.concatenate([table.frequency_of for _, table, _ in rows])
    start = np.concatenate([table.start_of for _, table, _ in rows])
    source = np.concatenate([symbols for symbols, _, _ in rows])
    states = np.empty(len(lanes.row), np.uint32)
    words: list[NDArray[np.uint16]] = [np.empty(0, np.uint16)] * len(lanes.row)
    for batch in lanes.batches():
        final, coded = _encode_batch(batch, frequency, start, source)
        states[batch.number] = final
        for number, lane_words in zip(batch.number.tolist(), coded, strict=True):
            words[number] = lane_words
    streams = []
    first = 0
    for symbols, table, lane in rows:
        stop = first + -(-len(symbols) // lane)
        own = words[first:stop]
        lengths = np.array([len(lane_words) for lane_words in own], np.uint16)
        streams.append(
            Stream(
                table, len(symbols), lane, states[first:stop], lengths, np.concatenate([*own, np.empty(0, np.uint16)])
            )
        )
        first = stop
    return streams


def decode(named: Sequence[tuple[str, Stream]]) -> list[NDArray[np.uint8]]:
    """Decode rows: undo `encode`. Whatever the input, time and memory are bounded by the counts.

    Args:
        named: for each row the start of its error messages, and the row.

    Returns:
        The symbols of each row, uint8 ``[count]``.

    Raises:
        SeedMaskError: a state is out of range, or a lane does not end in its initial state with all words read.
    """
    streams = [stream for _, stream in named]
    if not streams:
        return []
    lanes = _Lanes.cut([stream.count for stream in streams], [stream.lane for stream in streams])
    states = np.concatenate([stream.states for stream in streams]).astype(np.int64)
    _require(states >= TOTAL, lanes.row, named, f"every lane to start in a state from {TOTAL}")
    lengths = np.concatenate([stream.lengths for stream in streams]).astype(np.int64)
    ends = np.cumsum(lengths)
    words = np.concatenate([*(stream.words for stream in streams), np.zeros(1, np.uint16)])
    out = np.empty(sum(stream.count for stream in streams), np.uint8)
    for batch in lanes.batches():
        complete = _decode_batch(batch, streams, states, ends - lengths, ends, words, out)
        _require(complete, batch.row, named, f"every lane to end in state {TOTAL} with all words read")
    stops = np.cumsum([stream.count for stream in streams]).tolist()
    return [out[stop - stream.count : stop] for stream, stop in zip(streams, stops, strict=True)]


@dataclass(frozen=True, eq=False)
class _Lanes:
    """Lanes of several rows; all arrays int64 ``[lanes]``: number of the lane, its row, first symbol, symbols."""

    number: NDArray[np.int64]
    row: NDArray[np.int64]
    first: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def cut(cls, counts: Sequence[int], lane: Sequence[int]) -> _Lanes:
        each = [-(-count // size) for count, size in zip(counts, lane, strict=True)]
        row = np.repeat(np.arange(len(each)), each)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(each, dtype=np.int64) - each, each)
        begin = inside * np.array(lane, np.int64)[row]
        size = np.minimum(np.array(lane, np.int64)[row], np.array(counts, np.int64)[row] - begin)
        base = np.cumsum(counts, dtype=np.int64) - counts
        return cls(np.arange(len(row)), row, base[row] + begin, size)

    def batches(self) -> Iterator[_Lanes]:
        """Batches of bounded size, longest lanes first, so that the lanes that still run are always the first ones."""
        order = np.argsort(-self.size, kind="stable")
        position = 0
        while position < len(order):
            longest = int(self.size[order[position]])
            batch = order[position : position + min(_BATCH_LANES, max(1, _BATCH_BYTES // longest))]
            seen = np.sort(np.unique(self.row[batch], return_index=True)[1])  # where each row comes up first
            batch = batch[: seen[_BATCH_ROWS] if len(seen) > _BATCH_ROWS else len(batch)]
            yield _Lanes(self.number[batch], self.row[batch], self.first[batch], self.size[batch])
            position += len(batch)

    def running(self) -> list[tuple[int, int, int]]:
        """(first step, one past the last, number of lanes that run in them), from step 0 on."""
        phases = []
        begin = 0
        for end in np.unique(self.size).tolist():
            phases.append((begin, end, int(np.count_nonzero(self.size >= end))))
            begin = end
        return phases


def _encode_batch(
    lanes: _Lanes, frequency: NDArray[np.int64], start: NDArray[np.int64], source: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], list[NDArray[np.uint16]]]:
    """Final states, and the words of each lane in the order of decoding: encoding runs backwards."""
    stride = int(lanes.size[0]) + 1
    buffer = np.empty(len(lanes.row) * stride, np.uint16)
    ends = np.arange(1, len(lanes.row) + 1) * stride - 1
    places = ends.copy()
    states = np.full(len(lanes.row), TOTAL, np.int64)
    offsets = lanes.row * 256
    for begin, end, active in reversed(lanes.running()):
        x, place, offset, first = states[:active], places[:active], offsets[:active], lanes.first[:active]
        for step in range(end - 1, begin - 1, -1):
            index = source[first + step] + offset
            f = frequency[index]
            buffer[place] = x & (TOTAL - 1)
            full = x >= f << BITS
            place -= full
            x >>= full * np.int64(BITS)
            quotient = x // f
            x += quotient * (TOTAL - f) + start[index]  # = (quotient << 16) + x % f + start
    return states, [buffer[place + 1 : end + 1] for place, end in zip(places.tolist(), ends.tolist(), strict=True)]


def _decode_batch(
    lanes: _Lanes,
    streams: Sequence[Stream],
    states: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    words: NDArray[np.uint16],
    out: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Decode lanes into ``out``; return for each whether it ended in its initial state with all words read."""
    used, table_of = np.unique(lanes.row, return_inverse=True)
    tables = [streams[row].table for row in used.tolist()]
    slots = np.concatenate([table.slots() for table in tables])
    entries = np.concatenate([(table.frequency_of << BITS) | table.start_of for table in tables])
    number, width = len(lanes.row), int(lanes.size[0])
    states, places, end = states[lanes.number], begins[lanes.number], ends[lanes.number]
    slot_offsets, entry_offsets = table_of * TOTAL, table_of * 256
    symbols = np.empty((number, width), np.uint8)
    stage = np.empty((_STAGE, number), np.uint8)
    work = np.empty((4, number), np.int64)
    fetched = np.empty(number, np.uint16)
    low, bits, sign, least = (np.array(value, np.int64) for value in (TOTAL - 1, BITS, 63, TOTAL))
    # Positional arguments, arrays for constants and `clip` (indices are in range by construction) halve the time.
    symbols_at, entries_at, words_at = slots.take, entries.take, words.take
    add, subtract, multiply = np.add, np.subtract, np.multiply
    both, shift = np.bitwise_and, np.right_shift
    for begin, stop, active in lanes.running():
        x, place, word = states[:active], places[:active], fetched[:active]
        slot_offset, entry_offset = slot_offsets[:active], entry_offsets[:active]
        slot, index, entry, factor = work[:, :active]
        for chunk in range(begin, stop, _STAGE):
            steps = min(_STAGE, stop - chunk)
            for row in stage[:steps, :active]:
                both(x, low, slot)
                add(slot, slot_offset, index)
                symbols_at(index, None, row, "clip")
                add(row, entry_offset, index)
                entries_at(index, None, entry, "clip")
                # x = frequency * (x >> 16) + slot - start
                shift(entry, bits, factor)
                both(entry, low, entry)
                shift(x, bits, x)
                multiply(x, factor, x)
                subtract(slot, entry, slot)
                add(x, slot, x)
                # Where x < 2**16: x = (x << 16) | next word. `factor` is -1 there, and 0 elsewhere.
                subtract(x, least, factor)
                shift(factor, sign, factor)
                words_at(place, None, word, "clip")
                both(word, factor, entry)
                subtract(place, factor, place)
                both(factor, bits, factor)
                np.left_shift(x, factor, x)
                np.bitwise_or(x, entry, x)
            symbols[:active, chunk : chunk + steps] = stage[:steps, :active].T
    for i, (first, size) in enumerate(zip(lanes.first.tolist(), lanes.size.tolist(), strict=True)):
        out[first : first + size] = symbols[i, :size]
    complete: NDArray[np.bool_] = (states == TOTAL) & (places == end)
    return complete


def _require(
    right: NDArray[np.bool_], row_of: NDArray[np.int64], named: Sequence[tuple[str, Stream]], what: str
) -> None:
    if not right.all():
        where = named[int(row_of[np.argmin(right)])][0]
        raise SeedMaskError(f"{where}: expected {what}, got another; {DAMAGED}")
