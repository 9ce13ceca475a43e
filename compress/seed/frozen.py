"""Frozen masks: weights that the generator fixes to pruned or kept before training, so that no file holds their bits.

Weight ``i`` of tensor ``t`` has the 16-bit number ``v`` = unit ``i`` of the stream (seed, draw 0, ``t``, purpose 7),
low half of a word first. It is fixed to pruned if ``v`` is below the threshold ``pruned``, else fixed to kept if ``v``
is below ``pruned + kept``, else free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .philox import CHUNK_BLOCKS, Purpose, random_bytes

__all__ = ["Frozen", "check_frozen_weights", "frozen_masks", "frozen_numbers"]


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
    for chunk, numbers in frozen_numbers(seed, tensor, count):
        np.less(numbers, frozen.pruned, out=pruned[chunk])
        np.less(numbers, frozen.end, out=kept[chunk])
        kept[chunk] &= ~pruned[chunk]
    return pruned, kept


def frozen_numbers(seed: int, tensor: int, count: int) -> Iterator[tuple[slice, NDArray[np.uint32]]]:
    """The number of each weight, chunk by chunk: its place, and uint32 values below 65536."""
    for start in range(0, count, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, count))
        raw = random_bytes(seed, 2 * chunk.start, 2 * chunk.stop, draw=0, tensor=tensor, purpose=Purpose.FREEZING)
        yield chunk, raw.view("<u2").astype(np.uint32)  # which can be compared with 65536, too
