"""Decoding into one uint8 tensor, scaling to the wanted size, and counting pixels."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .source import ArraySource, ImageSource

__all__ = ["as_array", "decode_all", "pixel_counts", "require_size", "scale", "scale_and_crop", "statistics"]

_CHUNK = 256


def scale_and_crop(image: Image.Image, side: int, window: int) -> Image.Image:
    """Scale so that the shorter side has ``side`` pixels, then cut out the central ``window``×``window``."""
    image = scale(image, side)
    left, top = (image.width - window) // 2, (image.height - window) // 2
    if image.size == (window, window):
        return image
    return image.crop((left, top, left + window, top + window))


def scale(image: Image.Image, side: int) -> Image.Image:
    """Scale, bilinear with antialiasing, so that the shorter side has ``side`` pixels."""
    width, height = image.size
    shorter = min(width, height)
    if shorter == side:
        return image
    target = (max(side, round(width * side / shorter)), max(side, round(height * side / shorter)))
    return image.resize(target, Image.Resampling.BILINEAR)


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an L or RGB image, uint8 ``[C, H, W]``."""
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_all(source: ImageSource, shape: tuple[int, int, int], scaled_to: int | None) -> NDArray[np.uint8]:
    """Decode every image.

    Args:
        source: the images.
        shape: (C, H, W) of each decoded image.
        scaled_to: side to scale to; ``None`` demands that images already have that shape.

    Returns:
        uint8 ``[n, C, H, W]``.

    Raises:
        DataError: an unreadable image, or one of another size.
    """
    if isinstance(source, ArraySource) and scaled_to is None:
        images = source.images if source.images.ndim == 4 else source.images[..., None]
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    out = np.empty((len(source), *shape), dtype=np.uint8)
    if scaled_to is None:
        # In one thread: threads that decode tiny images mostly wait for the interpreter's lock, and two took longer.
        for index in range(len(source)):
            image = source.image(index)
            require_size(source.describe(index), image.size, shape)
            out[index] = as_array(image)
        return out

    def decode(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(source))):
            out[index] = as_array(scale_and_crop(source.image(index), scaled_to, scaled_to))

    pool = ThreadPoolExecutor(cpu_count() or 1)
    try:
        list(pool.map(decode, range(0, len(source), _CHUNK)))
    finally:
        pool.shutdown(cancel_futures=True)
    return out


def require_size(name: str, size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    """Refuse an image whose (width, height) is not that of ``shape`` (C, H, W).

    Raises:
        DataError: naming the image and both sizes.
    """
    if size != (shape[2], shape[1]):
        raise DataError(
            f"{name}: {size[0]}×{size[1]} pixels, but the first training image has {shape[2]}×{shape[1]}: "
            "give --image-size to scale all to one size"
        )


def pixel_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each value occurs in each channel of uint8 ``[n, C, H, W]``: int64 ``[C, 256]``."""
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), _CHUNK):
        for channel in range(images.shape[1]):
            part = images[start : start + _CHUNK, channel]
            counts[channel] += np.bincount(part.reshape(-1), minlength=256)
    return counts


def statistics(counts: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], rounded to 6 decimals.

    Computed from integer sums, so the order of the images plays no part. A channel without variation gets 1.
    """
    means, stds = [], []
    for channel in counts:
        n, values = int(channel.sum()), range(256)
        first = sum(value * int(count) for value, count in zip(values, channel, strict=True))
        second = sum(value * value * int(count) for value, count in zip(values, channel, strict=True))
        means.append(round(first / (255 * n), 6))
        variance = (second * n - first * first) / (255 * n) ** 2
        stds.append(round(math.sqrt(variance), 6) or 1.0)
    return tuple(means), tuple(stds)
