"""Packing of small unsigned integers, and the least number of bits that they need.

Bit ``i`` of a packed stream is bit ``i % 8`` (least significant first) of byte ``i // 8``. A value of
``width`` bits fills ``width`` consecutive bits, least significant first. Padding bits of the last byte are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .json_text import DAMAGED

__all__ = ["ONES", "Row", "binary_entropy", "pack_values", "packed_bytes", "symbol_entropy", "unpack_values"]

_CHUNK = 1 << 16  # values at a time, so that temporaries stay inside the cache; a multiple of 8
#: uint8 ``[256]``, number of ones of each byte.
ONES: NDArray[np.uint8] = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)


def packed_bytes(count: int, width: int) -> int:
    """Number of bytes that ``count`` values of ``width`` bits fill."""
    return -(-count * width // 8)


def pack_values(values: NDArray[np.uint8], width: int) -> bytes:
    """Pack values below ``2**width``.

    Args:
        values: uint8 ``[n]``.
        width: bits per value, 1 to 8.

    Returns:
        ``packed_bytes(n, width)`` bytes.
    """
    if width == 1:
        return np.packbits(values, bitorder="little").tobytes()
    if width == 8:
        return values.tobytes()
    chunks = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        groups = np.zeros((-(-len(chunk) // 8), 8), np.uint64)
        groups.reshape(-1)[: len(chunk)] = chunk
        # Eight values fill exactly `width` bytes: gather them in one 64-bit word and keep its low bytes.
        words = np.zeros(len(groups), "<u8")
        for column in range(8):
            words |= groups[:, column] << np.uint64(width * column)
        packed = words.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
        chunks.append(packed[: packed_bytes(len(chunk), width)])
    return b"".join(chunks)


def unpack_values(payload: bytes | memoryview, count: int, width: int) -> NDArray[np.uint8]:
    """Undo `pack_values`.

    Args:
        payload: the packed bytes.
        count: number of values.
        width: bits per value, 1 to 8.

    Returns:
        uint8 ``[count]``.

    Raises:
        SeedMaskError: the payload is larger or smaller than ``count`` values, or its padding bits are not 0.
    """
    expected = _check_payload(payload, count, width)
    data: NDArray[np.uint8] = np.frombuffer(payload, np.uint8) if expected else np.empty(0, np.uint8)
    if width == 1:
        bits: NDArray[np.uint8] = np.unpackbits(data, count=count, bitorder="little")
        return bits
    if width == 8:
        return np.array(data)
    out = np.empty(count, np.uint8)
    limit = np.uint64((1 << width) - 1)
    for start in range(0, count, _CHUNK):
        chunk = data[start * width // 8 : packed_bytes(min(start + _CHUNK, count), width)]
        groups = np.zeros((-(-len(chunk) // width), 8), np.uint8)
        full = len(chunk) // width
        groups[:full, :width] = chunk[: full * width].reshape(full, width)
        groups[full:, : len(chunk) - full * width] = chunk[full * width :]
        words = groups.view("<u8").reshape(-1)
        values = np.empty((len(groups), 8), np.uint8)
        for column in range(8):
            values[:, column] = (words >> np.uint64(width * column)) & limit
        stop = min(start + _CHUNK, count)
        out[start:stop] = values.reshape(-1)[: stop - start]
    return out


def _check_payload(payload: bytes | memoryview, count: int, width: int) -> int:
    expected = packed_bytes(count, width)
    if len(payload) != expected:
        raise SeedMaskError(
            f"expected {expected} bytes for {count} values of {width} bits, got {len(payload)}; {DAMAGED}"
        )
    used = count * width % 8
    if used and payload[-1] >> used:
        raise SeedMaskError(f"expected padding bits of 0, got last byte {payload[-1]:#04x}; the file is damaged")
    return expected


@dataclass(frozen=True, eq=False)
class Row:
    """Values of a fixed width in memory: packed if they are bits, one a byte otherwise.

    Attributes:
        count: number of values.
        width: bits of a value, 1 to 8.
        symbols: uint8; ``[ceil(count / 8)]`` packed bits for width 1, else ``[count]`` values.
    """

    count: int
    width: int
    symbols: NDArray[np.uint8]

    @classmethod
    def pack(cls, values: NDArray[np.uint8], width: int) -> Row:
        """A row of uint8 values below ``2**width``."""
        symbols = np.packbits(values, bitorder="little") if width == 1 else values
        return cls(len(values), width, symbols)

    @classmethod
    def unpack(cls, payload: bytes | memoryview, count: int, width: int) -> Row:
        """Undo `packed`.

        Raises:
            SeedMaskError: the payload is larger or smaller than ``count`` values, or its padding bits are not 0.
        """
        if width > 1:
            return cls(count, width, unpack_values(payload, count, width))
        return cls(count, 1, np.frombuffer(payload, np.uint8)).checked()

    def packed(self) -> bytes:
        """The bytes of coding ``raw``."""
        return self.symbols.tobytes() if self.width == 1 else pack_values(self.symbols, self.width)

    def checked(self) -> Row:
        """This row, if its padding bits are 0.

        Raises:
            SeedMaskError: they are not.
        """
        if self.width == 1:
            _check_payload(self.symbols.data, self.count, 1)
        return self

    def values(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Values ``start`` to ``stop``, uint8, one a byte."""
        stop = self.count if stop is None else stop
        if self.width > 1:
            return self.symbols[start:stop]
        chunk = self.symbols[start // 8 : -(-stop // 8)]
        bits: NDArray[np.uint8] = np.unpackbits(chunk, count=start % 8 + stop - start, bitorder="little")
        return bits[start % 8 :]

    def spread(self, mask: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
        """Bits of this row, from ``start`` on, put one after the other where a mask has ones; for width 1.

        Args:
            mask: packed bits, uint8 ``[b]``.
            start: the value that belongs to the first one of the mask.

        Returns:
            packed bits, uint8 ``[b]``; 0 where the mask is 0.
        """
        ones = ONES[mask]
        begin = start + np.cumsum(ones, dtype=np.int64) - ones
        byte = begin >> 3
        # Eight values from `begin` on; those past the last byte do not matter.
        low, high = self.symbols.take(byte, mode="clip"), self.symbols.take(byte + 1, mode="clip")
        window = (low | high.astype(np.uint16) << 8) >> (begin & 7).astype(np.uint16)
        spread: NDArray[np.uint8] = _deposits().take(mask.astype(np.uint16) << 8 | window & 255)
        return spread

    def histogram(self) -> NDArray[np.int64]:
        """How often each symbol occurs, int64 ``[256]``."""
        result = np.zeros(256, np.int64)
        for start in range(0, len(self.symbols), _CHUNK):  # `bincount` makes 64-bit integers of its input
            result += np.bincount(self.symbols[start : start + _CHUNK], minlength=256)
        return result

    def ones(self) -> int:
        """Number of ones; for bits."""
        return int((self.histogram() * ONES).sum())

    def largest(self) -> int:
        """The largest value; 0 if there is none."""
        largest = int(self.symbols.max(initial=0))
        return min(largest, 1) if self.width == 1 else largest

    def entropy(self) -> float:
        """Bits that an ideal coder of independent symbols needs."""
        return binary_entropy(self.ones(), self.count) if self.width == 1 else symbol_entropy(self.histogram())


@cache
def _deposits() -> NDArray[np.uint8]:
    """uint8 ``[65536]``: entry ``256 m + v`` has the bits of ``v``, lowest first, at the ones of ``m``."""
    masks, values = np.arange(65536) >> 8, np.arange(65536) & 255
    out = np.zeros(65536, np.int64)
    for bit in range(8):
        chosen = masks >> bit & 1
        out |= (values & chosen) << bit
        values = values >> chosen
    return out.astype(np.uint8)


def symbol_entropy(counts: NDArray[np.int64]) -> float:
    """Bits that an ideal coder of independent symbols needs for all of them: sum of c * log2(total / c)."""
    total = int(counts.sum())
    return math.fsum(count * math.log2(total / count) for count in counts.tolist() if count)


def binary_entropy(ones: int, total: int) -> float:
    """Bits that an ideal coder needs for ``total`` independent bits of which ``ones`` are set."""
    return symbol_entropy(np.array([ones, total - ones], np.int64))
