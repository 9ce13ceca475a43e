"""Images of any size, as pixels of the size that a network takes: the same in training, evaluation and prediction.

Importing it does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .image_files import read_image, upright, without_warnings

__all__ = ["LARGE_SIDE", "as_array", "network_pixels", "scale", "scale_and_crop", "side_before_cut", "were_scaled"]

#: Images with a longer side are large: they are scaled with a margin, from which a window is cut.
LARGE_SIDE = 96


def side_before_cut(height: int, width: int) -> int:
    """What the shorter side is scaled to before a window of this size is cut out: 256 for a window of 224."""
    return round(height * 256 / 224) if max(height, width) > LARGE_SIDE else height


def scale_and_crop(image: Image.Image, side: int, window: int) -> Image.Image:
    """Scale so that the shorter side has ``side`` pixels, then cut out the central ``window``×``window``."""
    return _centre(scale(image, side), window, window)


def scale(image: Image.Image, side: int) -> Image.Image:
    """Scale, bilinear with antialiasing, so that the shorter side has ``side`` pixels."""
    return _cover(image, side, side)


def _cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale an image, keeping its aspect, to the smallest size that covers ``width``×``height``."""
    if image.width * height < image.height * width:
        target = (width, max(height, round(image.height * width / image.width)))
    else:
        target = (max(width, round(image.width * height / image.height)), height)
    return image if image.size == target else image.resize(target, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if image.size == (width, height):
        return image
    return image.crop((left, top, left + width, top + height))


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of an L or RGB image, uint8 ``[C, H, W]``."""
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def were_scaled(data: Mapping[str, Any] | None, height: int, width: int) -> bool:
    """Whether a network learned from images that were scaled to its size.

    Args:
        data: data section of its recipe; ``None`` if that is not known: then all square images may have been scaled.
        height: of its images, in pixels.
        width: of its images, in pixels.
    """
    if data is None:
        return height == width
    return data.get("image_size") is not None or data.get("name") == "imagenet"


def network_pixels(
    images: Sequence[str | os.PathLike[str] | Image.Image], shape: tuple[int, int, int], *, scaled: bool
) -> NDArray[np.float32]:
    """Read images as a network takes them, before normalisation: upright, scaled and cut to its size.

    Args:
        images: paths, and images of Pillow.
        shape: channels (1 or 3), height and width of the result.
        scaled: whether the network learned from scaled images (`were_scaled`). If not, images of its size are taken as
            they are; others are scaled to cover it, without a margin.

    Returns:
        float32 ``[N, C, H, W]`` in [0, 1].

    Raises:
        DataError: a file cannot be read or decoded; an image has more than 8 bits a channel; the network takes
            neither 1 nor 3 channels.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise DataError(f"the network takes images of {channels} channels, image files have 1 or 3: give an array")
    pixels = np.empty((len(images), *shape), np.uint8)
    with without_warnings():
        for place, image in zip(pixels, images, strict=True):
            whole = (
                upright(image, channels) if isinstance(image, Image.Image) else read_image(os.fspath(image), channels)
            )
            if scaled:
                fitted = scale_and_crop(whole, side_before_cut(height, width), height)
            else:
                fitted = _centre(_cover(whole, width, height), width, height)
            place[:] = as_array(fitted)
    return np.asarray(pixels.astype(np.float32) / np.float32(255))
