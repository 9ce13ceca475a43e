"""Philox4x32-10 in NumPy: the reference that every other implementation must equal bit for bit.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and the
known-answer vectors of Random123. Only integer arithmetic is used, so the stream is the same on every
machine, for ever.

Address of a block: key = the 64-bit seed (low word, high word), counter = (block, draw, tensor, purpose).
One block holds four 32-bit words, that is 16 bytes, little end first.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

__all__ = [
    "DECISION_STEPS",
    "KNOWN_ANSWERS",
    "MAX_SEED",
    "Purpose",
    "check_seed",
    "philox4x32",
    "random_bytes",
    "random_words",
]

MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
#: Decisions about single weights compare 16 random bits with a threshold: shares are in units of 1 / 65536.
DECISION_STEPS = 1 << 16
MAX_SEED = 2**64 - 1
#: Counter, key and output words of Philox4x32-10: the known-answer vectors of Random123.
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, MAX_SEED, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(MULTIPLIER_0), np.uint64(MULTIPLIER_1)
# Blocks at a time: six arrays of them stay inside an L2 cache, and are long enough for threads not to fight over the
# interpreter's lock between two operations (with 4096, two threads were slower than one).
CHUNK_BLOCKS = 1 << 14
#: The same in weights, of which each takes a byte.
CHUNK_WEIGHTS = 16 * CHUNK_BLOCKS


class Purpose(IntEnum):
    """What a stream is for: the last word of the counter. Numbers are never reused."""

    WEIGHTS = 0
    SCORES = 1
    RESAMPLING = 2
    SHUFFLING = 3
    DATA_ORDER = 4
    AUGMENTATION = 5
    DATA_SPLIT = 6
    FREEZING = 7
    THEORY = 8


def check_seed(seed: int) -> int:
    """Return ``seed`` if it fits 64 bits unsigned.

    Raises:
        ConfigError: it does not.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed: expected an integer from 0 to 2**64 - 1, got {seed}")
    return seed


def round_keys(seed: int) -> list[tuple[int, int]]:
    """The ten round keys of a seed."""
    low, high = seed & 0xFFFFFFFF, seed >> 32
    return [((low + i * WEYL_0) & 0xFFFFFFFF, (high + i * WEYL_1) & 0xFFFFFFFF) for i in range(ROUNDS)]


def philox4x32(
    seed: int,
    block: NDArray[np.uint64],
    draw: NDArray[np.uint64] | int,
    tensor: int,
    purpose: int,
) -> NDArray[np.uint32]:
    """Evaluate Philox4x32-10 at many counters.

    Args:
        seed: 64-bit key.
        block: uint64 ``[n]``, first counter word of each block (below 2**32).
        draw: second counter word, one for all or uint64 ``[n]``.
        tensor: third counter word.
        purpose: fourth counter word.

    Returns:
        uint32 ``[n, 4]``: the four output words of each block.
    """
    check_seed(seed)
    out = np.empty((len(block), 4), dtype="<u4")
    draws = np.broadcast_to(np.asarray(draw, dtype=np.uint64), block.shape)
    keys = [(np.uint64(key0), np.uint64(key1)) for key0, key1 in round_keys(seed)]
    # In place: allocating each intermediate anew costs half as much again.
    scratch = np.empty((6, min(CHUNK_BLOCKS, len(block))), np.uint64)
    for start in range(0, len(block), CHUNK_BLOCKS):
        chunk = slice(start, min(start + CHUNK_BLOCKS, len(block)))
        x0, x1, x2, x3, product0, product1 = scratch[:, : chunk.stop - start]
        x0[...], x1[...], x2[...], x3[...] = block[chunk], draws[chunk], tensor, purpose
        for key0, key1 in keys:
            np.multiply(x0, _MULTIPLIER_0, out=product0)
            np.multiply(x2, _MULTIPLIER_1, out=product1)
            np.right_shift(product1, _32, out=x0)
            x0 ^= x1
            x0 ^= key0
            np.right_shift(product0, _32, out=x2)
            x2 ^= x3
            x2 ^= key1
            np.bitwise_and(product1, _LOW, out=x1)
            np.bitwise_and(product0, _LOW, out=x3)
        for column, word in enumerate((x0, x1, x2, x3)):
            out[chunk, column] = word
    return out


def random_words(seed: int, count: int, *, draw: int, tensor: int, purpose: int) -> NDArray[np.uint32]:
    """The first ``count`` words of a stream, uint32 ``[count]``; word ``i`` is word ``i % 4`` of block ``i // 4``."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    return philox4x32(seed, blocks, draw, tensor, purpose).reshape(-1)[:count]


def random_bytes(
    seed: int, start: int, stop: int, *, draw: int, tensor: int, purpose: int = Purpose.WEIGHTS
) -> NDArray[np.uint8]:
    """Bytes ``start`` to ``stop`` of a stream, uint8; byte ``i`` is byte ``i % 16`` of block ``i // 16``."""
    first, last = start // 16, -(-stop // 16)
    words = philox4x32(seed, np.arange(first, last, dtype=np.uint64), draw, tensor, purpose)
    return words.reshape(-1).view(np.uint8)[start - 16 * first : stop - 16 * first]
