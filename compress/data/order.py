"""Random choices about data, drawn from Philox: each is a pure function of (seed, epoch, position).

No generator has a state, so a run that is resumed in the middle of an epoch sees the same batches.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..seed.philox import Purpose, random_words

__all__ = [
    "augmentation_words",
    "below",
    "epoch_order",
    "first_flips",
    "fixed_order",
    "generated_words",
    "held_out",
    "permutation",
]

WORDS_PER_IMAGE = 8
# Streams of Purpose.DATA_SPLIT (the third counter word).
_VALIDATION, _FIXED_TEST, _GENERATED = 0, 1, 2
# Stream of Purpose.AUGMENTATION that belongs to images, not to positions of an epoch (stream 0).
_FLIPS = 1


def permutation(seed: int, count: int, *, draw: int, tensor: int, purpose: Purpose) -> NDArray[np.int64]:
    """Draw a random order of ``count`` items, int64 ``[count]``: each is sorted by 64 random bits of its own."""
    words = random_words(seed, 2 * count, draw=draw, tensor=tensor, purpose=purpose)
    return np.argsort(words.view("<u8"), kind="stable").astype(np.int64)


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of ``count`` training examples in an epoch, int64 ``[count]``."""
    return permutation(seed, count, draw=epoch, tensor=0, purpose=Purpose.DATA_ORDER)


def fixed_order(count: int) -> NDArray[np.int64]:
    """Return a permutation, int64 ``[count]``, that does not depend on any seed, for test sets."""
    return permutation(0, count, draw=0, tensor=_FIXED_TEST, purpose=Purpose.DATA_SPLIT)


def generated_words(count: int) -> NDArray[np.uint32]:
    """Return the first ``count`` random words of generated data, uint32 ``[count]``; no seed changes them."""
    return random_words(0, count, draw=0, tensor=_GENERATED, purpose=Purpose.DATA_SPLIT)


def held_out(seed: int, count: int, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split ``count`` examples into (kept, held out), both sorted int64 indices.

    At least one example is held out if ``fraction`` is above 0, and at least one is kept.

    Raises:
        DataError: there are fewer than two examples.
    """
    if fraction == 0:
        return np.arange(count), np.arange(0)
    if count < 2:
        raise DataError(f"{count} training image cannot be split for validation: add images, or set validation 0")
    size = min(max(1, math.floor(fraction * count + 0.5)), count - 1)
    order = permutation(seed, count, draw=0, tensor=_VALIDATION, purpose=Purpose.DATA_SPLIT)
    return np.sort(order[size:]), np.sort(order[:size])


def augmentation_words(seed: int, epoch: int, count: int) -> NDArray[np.uint32]:
    """Draw the random words of the image at each position of an epoch, uint32 ``[count, 8]``."""
    words = random_words(seed, WORDS_PER_IMAGE * count, draw=epoch, tensor=0, purpose=Purpose.AUGMENTATION)
    return words.reshape(count, WORDS_PER_IMAGE)


def first_flips(seed: int, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` training images are mirrored in epoch 0, and every second one after it, bool ``[count]``."""
    words = random_words(seed, count, draw=0, tensor=_FLIPS, purpose=Purpose.AUGMENTATION)
    return words >= 2**31


def below(words: NDArray[np.uint32], bound: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Map words to integers in [0, bound) by ``word * bound >> 32``. ``bound`` must be below 2**31."""
    product: NDArray[np.uint64] = words.astype(np.uint64) * np.asarray(bound, dtype=np.uint64)
    return np.asarray(product >> np.uint64(32), dtype=np.int64)
