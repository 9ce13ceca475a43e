"""Where images come from: an array, or files. Both hand out PIL images of mode L or RGB by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError

__all__ = ["ArraySource", "FileSource", "ImageSource", "Labelled", "RawData", "image_header"]

#: 16-bit and floating-point images would be clipped to white by a conversion.
_TOO_DEEP = ("I", "F")


class ImageSource(ABC):
    """A sequence of images.

    Attributes:
        channels: 1 or 3.
    """

    channels: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Decode an image, mode L or RGB."""

    @abstractmethod
    def subset(self, indices: NDArray[np.int64]) -> ImageSource:
        """The images at ``indices``, in that order."""

    def describe(self, index: int) -> str:
        """How a message names the image."""
        return f"image {index}"


class ArraySource(ImageSource):
    """Images in one array, uint8 ``[n, H, W]`` or ``[n, H, W, 3]``."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images
        self.channels = 1 if images.ndim == 3 else images.shape[3]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """See ``ImageSource``."""
        return Image.fromarray(self.images[index])

    def subset(self, indices: NDArray[np.int64]) -> ArraySource:
        """See ``ImageSource``."""
        return ArraySource(self.images[indices])


class FileSource(ImageSource):
    """Images in files, decoded with Pillow and converted to ``channels`` channels."""

    def __init__(self, paths: Sequence[str], channels: int) -> None:
        self.paths = paths
        self.channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """See ``ImageSource``.

        Raises:
            DataError: the file cannot be read or decoded; its path is named.
        """
        path = self.paths[index]
        image: Image.Image
        try:
            with Image.open(path) as image:
                _refuse_deep(image, path)
                wanted = "L" if self.channels == 1 else "RGB"
                if image.mode == wanted and "transparency" not in image.info:
                    image.load()
                    return image
                if "transparency" in image.info:  # a palette with alpha only converts by way of RGBA
                    image = image.convert("RGBA")
                return image.convert(wanted)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error

    def subset(self, indices: NDArray[np.int64]) -> FileSource:
        """See ``ImageSource``."""
        return FileSource([self.paths[index] for index in indices], self.channels)

    def describe(self, index: int) -> str:
        """See ``ImageSource``."""
        return self.paths[index]


def image_header(path: str) -> tuple[tuple[int, int], str]:
    """((width, height), mode) of an image file, without decoding it.

    Raises:
        DataError: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            _refuse_deep(image, path)
            return image.size, image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _refuse_deep(image: Image.Image, path: str) -> None:
    if image.mode.startswith(_TOO_DEEP):
        raise DataError(f"{path}: an image with more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")


def _unreadable(path: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{path}: not a readable image ({reason}): repair or remove it")


@dataclass(frozen=True)
class Labelled:
    """Images and their labels (int64 ``[n]``)."""

    source: ImageSource
    labels: NDArray[np.int64]

    def subset(self, indices: NDArray[np.int64]) -> Labelled:
        """The part at ``indices``."""
        return Labelled(self.source.subset(indices), self.labels[indices])


@dataclass(frozen=True)
class RawData:
    """A data set as its provider has it, before splitting, scaling and decoding.

    Attributes:
        classes: names by label.
        train: training images.
        test: test images.
        val: validation images, if the provider separates them.
        statistics: published (mean, std) per channel; ``None`` to compute them.
        image_size: side to scale to if the settings do not say; ``None`` keeps the images' own.
    """

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    val: Labelled | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_size: int | None = None
