"""Random crops and flips: drawn with NumPy for one epoch, applied to batches on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..config import DataConfig
from .order import below

__all__ = ["Augmentation", "augment", "to_pixels"]

# Ranges of a resized crop: share of the area, and width / height (Szegedy et al. 2015).
SMALLEST_AREA = 0.08
LARGEST_ASPECT = 4 / 3
# Columns of the random words.
_TOP, _LEFT, _FLIP, _AREA, _ASPECT = range(5)


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random.

    Attributes:
        pad: pixels added on each side before cropping.
        fill: colour of these pixels, 0 to 255 for each channel; empty means black.
        crop: ``none``, ``shift`` or ``resized``.
        flip: mirror half of the images.
    """

    pad: int = 0
    fill: tuple[int, ...] = ()
    crop: str = "none"
    flip: bool = False

    @classmethod
    def from_config(cls, config: DataConfig, mean: Sequence[float]) -> Augmentation:
        """Return the augmentation of a data section, for images of a mean colour in [0, 1].

        Without a crop, images are not padded.
        """
        pad = config.pad if config.crop != "none" else 0
        fill = tuple(round(255 * value) for value in mean) if pad and config.pad_value == "mean" else ()
        return cls(pad, fill, config.crop, config.flip)

    def boxes(self, words: NDArray[np.uint32], size: tuple[int, int], window: tuple[int, int]) -> NDArray[np.int64]:
        """Choose a box for each image, in pixels of the padded image, and whether to mirror it.

        Args:
            words: uint32 ``[n, 8]``, the random words of the images.
            size: (height, width) of the images before padding.
            window: (height, width) of the box, unless the crop is ``resized``.

        Returns:
            int64 ``[n, 5]``: top, left, height, width, and 1 to mirror.
        """
        height, width = size[0] + 2 * self.pad, size[1] + 2 * self.pad
        table = np.empty((len(words), 5), dtype=np.int64)
        if self.crop == "resized":
            area = height * width * (SMALLEST_AREA + (1 - SMALLEST_AREA) * _unit(words[:, _AREA]))
            aspect = np.exp(math.log(LARGEST_ASPECT) * (2 * _unit(words[:, _ASPECT]) - 1))
            table[:, 2] = np.clip(np.rint(np.sqrt(area / aspect)), 1, height)
            table[:, 3] = np.clip(np.rint(np.sqrt(area * aspect)), 1, width)
        else:
            table[:, 2:4] = window
        table[:, 0] = below(words[:, _TOP], height - table[:, 2] + 1)
        table[:, 1] = below(words[:, _LEFT], width - table[:, 3] + 1)
        table[:, 4] = words[:, _FLIP] >> 31 if self.flip else 0
        return table


def _unit(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    return words.astype(np.float64) / 2**32


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def augment(images: Tensor, table: Tensor, augmentation: Augmentation) -> Tensor:
    """Crop and mirror a batch, without a host read-back.

    Args:
        images: uint8 ``[B, C, H, W]``.
        table: int64 ``[B, 5]`` on the same device: the ``boxes`` of these images.
        augmentation: the one that chose the boxes.

    Returns:
        float32 ``[B, C, H, W]`` in [0, 1].
    """
    height, width = images.shape[2:]
    if augmentation.pad:
        images = _padded(images, augmentation)
    top, left, box_height, box_width, flip = table.unsqueeze(-1).unbind(1)
    down = torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    across = torch.where(flip == 1, width - 1 - across, across)
    if augmentation.crop == "resized":
        rows = top + _bilinear_positions(down, box_height, height)
        columns = left + _bilinear_positions(across, box_width, width)
        return _sample(to_pixels(images), rows, columns)
    return to_pixels(_gather(images, top + down, left + across))


def _padded(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Add a rim of ``augmentation.fill`` around each image."""
    rim = [augmentation.pad] * 4
    if not augmentation.fill:
        return F.pad(images, rim)
    channels = zip(images.unbind(dim=1), augmentation.fill, strict=True)
    return torch.stack([F.pad(channel, rim, value=value) for channel, value in channels], dim=1)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels at integer rows ``[B, H]`` and columns ``[B, W]`` of each image."""
    batch, channels = images.shape[:2]
    first = torch.arange(batch, device=images.device)[:, None, None, None]
    second = torch.arange(channels, device=images.device)[:, None, None]
    return images[first, second, rows[:, None, :, None], columns[:, None, None, :]]


def _bilinear_positions(out: Tensor, box: Tensor, size: int) -> Tensor:
    """Where the centres of ``size`` output pixels lie in a box, clamped to its outermost pixel centres."""
    positions = (out + 0.5) * (box / size) - 0.5
    return torch.minimum(positions.clamp_min(0), box - 1.0)


def _sample(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values at rows ``[B, H]`` and columns ``[B, W]`` of each image."""
    height, width = pixels.shape[2:]
    y = (2 * rows + 1) / height - 1
    x = (2 * columns + 1) / width - 1
    shape = (len(pixels), y.shape[1], x.shape[1])
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
