"""Frozen masks: weights that the generator fixes to pruned or kept before training, so that no file holds their bits.

Weight ``i`` of tensor ``t`` has the 16-bit number ``v`` = unit ``i`` of the stream (seed, draw 0, ``t``, purpose 7),
low half of a word first, as in ``generator.resampling_decisions``. It is fixed to pruned if ``v`` is below the
threshold ``pruned``, else fixed to kept if ``v`` is below ``pruned + kept``, else free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from ..seed.philox import CHUNK_BLOCKS, Purpose, random_bytes
from .bits import ONES, Row, packed_bytes
from .json_text import DAMAGED

__all__ = ["Frozen", "check_frozen_weights", "expanded", "free_row", "frozen_masks"]

#: A block number has 32 bits and a block holds 8 numbers.
MAX_FROZEN_WEIGHTS = 2**35
_LIMIT = 1 << 16
_CHUNK = 8 * CHUNK_BLOCKS  # weights at a time


@dataclass(frozen=True)
class Frozen:
    """Which share of the weights is fixed, in units of 1 / 65536.

    Attributes:
        pruned: threshold of the weights that are fixed to pruned, 0 to 65535.
        kept: the same of those that are fixed to kept.

    Raises:
        SeedMaskError: a threshold is out of range, both are 0, or they sum to more than 65536.

    Example:
        >>> pruned, kept = frozen_masks(7, 0, Frozen(pruned=32768, kept=16384), 10)
        >>> pruned.astype(int).tolist(), kept.astype(int).tolist()
        ([1, 0, 1, 0, 0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1, 1, 0, 0, 0])
    """

    pruned: int
    kept: int

    def __post_init__(self) -> None:
        if min(self.pruned, self.kept) < 0 or max(self.pruned, self.kept) >= _LIMIT or not 0 < self.end <= _LIMIT:
            raise SeedMaskError(
                f"frozen: expected thresholds from 0 to 65535, not both 0, that sum to at most 65536, "
                f"got {self.pruned} and {self.kept}"
            )

    @property
    def end(self) -> int:
        """The first number of a free weight."""
        return self.pruned + self.kept


def check_frozen_weights(count: int) -> None:
    """Refuse tensors with more weights than the stream has numbers.

    Raises:
        SeedMaskError: there are more.
    """
    if count > MAX_FROZEN_WEIGHTS:
        raise SeedMaskError(f"frozen: expected at most 2**35 weights, got {count}")


def frozen_masks(seed: int, tensor: int, frozen: Frozen, count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which weights are fixed.

    Args:
        seed: 64-bit seed of the network.
        tensor: index of the tensor in its network.
        frozen: the thresholds.
        count: number of weights.

    Returns:
        bool ``[count]`` each: fixed to pruned, and fixed to kept.

    Raises:
        SeedMaskError: more weights than the stream has numbers.
    """
    check_frozen_weights(count)
    pruned, kept = np.empty(count, np.bool_), np.empty(count, np.bool_)
    for part, numbers in _numbers(seed, tensor, count):
        np.less(numbers, frozen.pruned, out=pruned[part])
        np.less(numbers, frozen.end, out=kept[part])
        kept[part] &= ~pruned[part]
    return pruned, kept


def free_row(seed: int, tensor: int, frozen: Frozen, mask: NDArray[np.bool_]) -> Row:
    """The bits of a mask that are free, in order of index.

    Raises:
        SeedMaskError: the mask disagrees with a frozen weight, which is named.
    """
    parts = []
    for part, numbers in _numbers(seed, tensor, len(mask)):
        free, own = numbers >= frozen.end, mask[part]
        wrong = ~free & (own != (numbers >= frozen.pruned))
        if wrong.any():
            index = part.start + int(wrong.argmax())
            said, got = ("pruned", "keeps") if mask[index] else ("kept", "prunes")
            raise SeedMaskError(
                f"expected a mask that agrees with frozen weights, got one that {got} weight {index}, which seed "
                f"{seed} and tensor index {tensor} fix to {said}; train with `frozen_masks` of the same"
            )
        parts.append(own[free])
    return Row.pack(np.concatenate(parts).view(np.uint8), 1)


def expanded(seed: int, tensor: int, frozen: Frozen, count: int, free: Row) -> Row:
    """The whole mask from its free bits: undo `free_row`.

    Raises:
        SeedMaskError: the generator leaves another number of weights free.
    """
    out = np.empty(packed_bytes(count, 1), np.uint8)
    position = 0
    for part, numbers in _numbers(seed, tensor, count):
        where = np.packbits(numbers >= frozen.end, bitorder="little")
        bits = np.packbits((numbers >= frozen.pruned) & (numbers < frozen.end), bitorder="little")
        if free.count:
            bits |= free.spread(where, position)
        out[part.start // 8 : -(-part.stop // 8)] = bits
        position += int(ONES[where].sum(dtype=np.int64))
    if position != free.count:
        raise SeedMaskError(f"frozen: expected {position} free weights by the generator, got {free.count}; {DAMAGED}")
    return Row(count, 1, out)


def _numbers(seed: int, tensor: int, count: int) -> Iterator[tuple[slice, NDArray[np.uint32]]]:
    """The number of each weight, chunk by chunk: its place, and uint32 values below 65536."""
    for start in range(0, count, _CHUNK):
        part = slice(start, min(start + _CHUNK, count))
        raw = random_bytes(seed, 2 * part.start, 2 * part.stop, draw=0, tensor=tensor, purpose=Purpose.FREEZING)
        yield part, raw.view("<u2").astype(np.uint32)  # which can be compared with 65536, too
