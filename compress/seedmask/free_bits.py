"""Extract the free bits of a mask with frozen weights, the only ones that a file stores, and put them back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from ..seed.frozen import Frozen, frozen_numbers
from .bits import ONES, Row, packed_bytes
from .json_text import DAMAGED

__all__ = ["expanded", "free_row"]


def free_row(seed: int, tensor: int, frozen: Frozen, mask: NDArray[np.bool_]) -> Row:
    """Extract the free bits of a mask, in order of index.

    Raises:
        SeedMaskError: the mask disagrees with a frozen weight; the message names it.
    """
    chunks = []
    for chunk, numbers in frozen_numbers(seed, tensor, len(mask)):
        free, own = numbers >= frozen.end, mask[chunk]
        wrong = ~free & (own != (numbers >= frozen.pruned))
        if wrong.any():
            index = chunk.start + int(wrong.argmax())
            said, got = ("pruned", "keeps") if mask[index] else ("kept", "prunes")
            raise SeedMaskError(
                f"expected a mask that agrees with frozen weights, got one that {got} weight {index}, which seed "
                f"{seed} and tensor index {tensor} fix to {said}; train with `frozen_masks` of the same"
            )
        chunks.append(own[free])
    return Row.pack(np.concatenate(chunks).view(np.uint8), 1)


def expanded(seed: int, tensor: int, frozen: Frozen, count: int, free: Row) -> Row:
    """Rebuild a mask from its free bits: undo `free_row`.

    Raises:
        SeedMaskError: the generator leaves another number of weights free.
    """
    out = np.empty(packed_bytes(count, 1), np.uint8)
    position = 0
    for chunk, numbers in frozen_numbers(seed, tensor, count):
        where = np.packbits(numbers >= frozen.end, bitorder="little")
        bits = np.packbits((numbers >= frozen.pruned) & (numbers < frozen.end), bitorder="little")
        if free.count:
            bits |= free.spread(where, position)
        out[chunk.start // 8 : -(-chunk.stop // 8)] = bits
        position += int(ONES[where].sum(dtype=np.int64))
    if position != free.count:
        raise SeedMaskError(f"frozen: expected {position} free weights by the generator, got {free.count}; {DAMAGED}")
    return Row(count, 1, out)
