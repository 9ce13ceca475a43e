"""Inputs that any machine can make again, to ask whether two networks compute the same. Without torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .data.tokens import TextSpec
from .seed.philox import Purpose, random_bytes, random_words

__all__ = ["probe_pixels", "probe_tokens"]

_SAMPLES = 2


def probe_pixels(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Images of noise, float32 ``[2, C, H, W]`` in [0, 1]: bytes of the generator with seed 0, divided by 255."""
    count = _SAMPLES * math.prod(shape)
    noise = random_bytes(0, 0, count, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
    pixels: NDArray[np.float32] = noise.astype(np.float32) / np.float32(255)
    return pixels.reshape(_SAMPLES, *shape)


def probe_tokens(text: TextSpec) -> NDArray[np.int64]:
    """Texts of any tokens, int64 ``[2, length]``, none of them padding: words of the generator with seed 0."""
    words = random_words(0, _SAMPLES * text.length, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
    return (1 + words.astype(np.int64) % (text.vocabulary - 1)).reshape(_SAMPLES, text.length)
