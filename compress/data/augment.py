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
from ..seed.philox import Purpose, philox4x32
from .order import augmentation_words, below, first_flips

__all__ = ["Augmentation", "augment", "to_pixels"]

# Ranges of a resized crop: share of the area, and width / height (Szegedy et al. 2015).
SMALLEST_AREA = 0.08
LARGEST_ASPECT = 4 / 3
#: How often a box is drawn that does not fit into the image, before the central one is taken.
ATTEMPTS = 10
# Columns of the random words. From the last two, further attempts are drawn.
_TOP, _LEFT, _FLIP, _AREA, _ASPECT, _RETRY, _RETRY_TOO = range(7)


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random.

    Attributes:
        pad: pixels added on each side before cropping.
        fill: colour of these pixels, 0 to 255 for each channel; empty means black.
        crop: ``none``, ``shift`` or ``resized``. Boxes of the last are distributed as torchvision's
            ``RandomResizedCrop`` draws them: one that sticks out is drawn again, ten times at most.
        flip: mirror half of the images: others in each epoch, or, ``alternating``, those that were not mirrored in the
            epoch before. Source of the latter: Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024.
        reflect: whether the pixels added on each side mirror the image, without repeating its edge.
    """

    pad: int = 0
    fill: tuple[int, ...] = ()
    crop: str = "none"
    flip: bool | str = False
    reflect: bool = False

    @classmethod
    def from_config(cls, config: DataConfig, mean: Sequence[float]) -> Augmentation:
        """Return the augmentation of a data section, for images of a mean colour in [0, 1].

        Without a crop, images are not padded.
        """
        pad = config.pad if config.crop != "none" else 0
        fill = tuple(round(255 * value) for value in mean) if pad and config.pad_value == "mean" else ()
        return cls(pad, fill, config.crop, config.flip, pad > 0 and config.pad_value == "reflect")

    def words(self, seed: int, epoch: int, order: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The random words of the images of an epoch, uint32 ``[n, 8]``.

        Args:
            seed: of the data.
            epoch: counted from 0.
            order: int64 ``[n]``, which image stands at each position of the epoch.
        """
        words = augmentation_words(seed, epoch, len(order))
        if self.flip == "alternating":
            mirrored = first_flips(seed, len(order))[order] ^ (epoch % 2 == 1)
            words[:, _FLIP] = mirrored.astype(np.uint32) << np.uint32(31)
        return words

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
        central = np.zeros(len(words), dtype=bool)
        if self.crop == "resized":
            table[:, 2:4], central = _box_sizes(words, height, width)
        else:
            table[:, 2:4] = window
        for column, word, room in ((0, _TOP, height - table[:, 2]), (1, _LEFT, width - table[:, 3])):
            table[:, column] = np.where(central, room // 2, below(words[:, word], room + 1))
        table[:, 4] = words[:, _FLIP] >> 31 if self.flip else 0
        return table


def _box_sizes(words: NDArray[np.uint32], height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Height and width of the boxes of a resized crop, int64 ``[n, 2]``, and which boxes are central."""
    sizes = np.empty((len(words), 2), dtype=np.int64)
    sizes[:] = _largest_box(height, width)
    left = np.arange(len(words))
    for attempt in range(ATTEMPTS):
        drawn = words[left, _AREA : _ASPECT + 1] if not attempt else _retried(words[left], attempt)
        area = height * width * (SMALLEST_AREA + (1 - SMALLEST_AREA) * _unit(drawn[:, 0]))
        aspect = np.exp(math.log(LARGEST_ASPECT) * (2 * _unit(drawn[:, 1]) - 1))
        size = np.rint(np.sqrt(np.stack((area / aspect, area * aspect), axis=1)))
        fits = ((size > 0) & (size <= (height, width))).all(axis=1)
        sizes[left[fits]] = size[fits]
        left = left[~fits]
        if not len(left):
            break
    central = np.zeros(len(words), dtype=bool)
    central[left] = True
    return sizes, central


def _retried(words: NDArray[np.uint32], attempt: int) -> NDArray[np.uint32]:
    """Two more random words for each image, uint32 ``[n, 2]``: few images need them, so nobody draws them before."""
    block, draw = (words[:, column].astype(np.uint64) for column in (_RETRY, _RETRY_TOO))
    return philox4x32(0, block, draw, attempt, Purpose.AUGMENTATION)[:, :2]


def _largest_box(height: int, width: int) -> tuple[int, int]:
    """The largest (height, width) in an image whose aspect is in the range."""
    if width * LARGEST_ASPECT < height:
        return round(width * LARGEST_ASPECT), width
    return height, min(width, round(height * LARGEST_ASPECT))


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
        padded_height, padded_width = images.shape[2:]
        rows = _resampling(down, top, box_height, height, padded_height)
        columns = _resampling(across, left, box_width, width, padded_width)
        return _resample(images, rows, columns)
    return to_pixels(_gather(images, top + down, left + across))


def _padded(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Add a rim of ``augmentation.fill`` around each image."""
    rim = [augmentation.pad] * 4
    if augmentation.reflect:
        return F.pad(images.float(), rim, mode="reflect").to(images.dtype)
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


def _resampling(out: Tensor, start: Tensor, box: Tensor, size: int, full: int) -> Tensor:
    """How much each pixel of a box counts in each output pixel: bilinear, antialiased where the box is larger.

    A pixel counts the less, the farther its centre is from that of the output pixel: linearly, and not at all from the
    distance of a neighbouring pixel on, of the image or the result, whichever lie farther apart (as Pillow has it).

    Args:
        out: int64 ``[size]`` or ``[B, size]``: positions of the output pixels.
        start: int64 ``[B, 1]``: the first pixel of the box.
        box: int64 ``[B, 1]``: number of pixels of the box.
        size: number of output pixels.
        full: number of pixels of the image.

    Returns:
        float32 ``[B, size, full]``; each row adds up to 1.
    """
    scale = box / size
    centre = start + (out + 0.5) * scale
    pixel = torch.arange(full, device=out.device)
    distance = (pixel + 0.5 - centre.unsqueeze(-1)).abs()
    weights = (1 - distance / scale.clamp_min(1).unsqueeze(-1)).clamp_min(0)
    weights = weights * ((pixel >= start) & (pixel < start + box)).unsqueeze(1)
    return weights / weights.sum(-1, keepdim=True)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels in [0, 1] of uint8 ``[B, C, H, W]``, resampled by the weights of rows and columns."""
    batch, channels, height, width = images.shape
    pixels = to_pixels(images.transpose(1, 2)).reshape(batch, height, channels * width)
    mixed = torch.bmm(rows, pixels).view(batch, -1, width)
    mixed = torch.bmm(mixed, columns.transpose(1, 2)).view(batch, rows.shape[1], channels, columns.shape[1])
    return mixed.transpose(1, 2).contiguous()
