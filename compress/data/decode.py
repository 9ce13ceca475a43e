"""Decode images into one uint8 array, and count pixel values."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from .fitting import as_array, scale_and_crop
from .image_files import without_warnings
from .image_source import ArraySource, FileSource, ImageSource

__all__ = [
    "decode_all",
    "pixel_counts",
    "require_size",
    "statistics",
    "usable_cores",
]

_CHUNK = 256
# From this many files on, starting processes pays.
_MANY = 8192


def usable_cores() -> int:
    """Count the cores that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_all(source: ImageSource, shape: tuple[int, int, int], scaled_to: int | None) -> NDArray[np.uint8]:
    """Decode every image; many images in several processes.

    Threads would not help: with tiny images they mostly wait for the interpreter's lock.

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
    workers = min(8, usable_cores()) if isinstance(source, FileSource) and len(source) >= _MANY else 0
    loader: DataLoader[Any] = DataLoader(
        _Chunks(source, shape, scaled_to),
        batch_size=None,
        num_workers=workers if workers > 1 else 0,
        generator=torch.Generator(),  # else the loader would draw from the global one
    )
    out, start = np.empty((len(source), *shape), dtype=np.uint8), 0
    for chunk in loader:
        if isinstance(chunk, DataError):
            raise chunk
        out[start : start + len(chunk)] = chunk.numpy()
        start += len(chunk)
    return out


class _Chunks(Dataset[Any]):
    """Decoded images, 256 at a time."""

    def __init__(self, source: ImageSource, shape: tuple[int, int, int], scaled_to: int | None) -> None:
        self._source, self._shape, self._scaled_to = source, shape, scaled_to

    def __len__(self) -> int:
        return -(-len(self._source) // _CHUNK)

    def __getitem__(self, chunk: int) -> Tensor | DataError:
        """uint8 ``[k, C, H, W]``. An error is returned: raised in a worker, it would reach the user as a traceback."""
        indices = range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self._source)))
        try:
            with without_warnings():
                return torch.from_numpy(np.stack([self._decoded(index) for index in indices]))
        except DataError as error:
            return error

    def _decoded(self, index: int) -> NDArray[np.uint8]:
        image = self._source.image(index)
        if self._scaled_to is None:
            require_size(self._source.describe(index), image.size, self._shape)
            return as_array(image)
        return as_array(scale_and_crop(image, self._scaled_to, self._scaled_to))


def require_size(name: str, size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    """Refuse an image whose (width, height) is not that of ``shape`` (C, H, W).

    Raises:
        DataError: the sizes differ; the message names the image and both.
    """
    if size != (shape[2], shape[1]):
        raise DataError(
            f"{name}: {size[0]}×{size[1]} pixels, but the first training image has {shape[2]}×{shape[1]}: "
            "give --set data.image_size=SIDE to scale all to one size"
        )


def pixel_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each value occurs in each channel of uint8 ``[n, C, H, W]``: int64 ``[C, 256]``."""
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), _CHUNK):
        for channel in range(images.shape[1]):
            chunk = images[start : start + _CHUNK, channel]
            counts[channel] += np.bincount(chunk.reshape(-1), minlength=256)
    return counts


def statistics(counts: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation per channel of pixels in [0, 1], rounded to 6 decimals.

    They come from integer sums, so the order of the images does not matter. A channel without variation gets std 1.

    Args:
        counts: int64 ``[C, 256]``, how often each value occurs in each channel.
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
