"""Sources of images: an array, or files. Both give PIL images of mode L or RGB by their index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files.names import printable
from .image_files import read_image

__all__ = ["ArraySource", "FileSource", "ImageSource", "LabelledImages"]


class ImageSource(ABC):
    """A sequence of images, decoded one at a time.

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
        """Take the images at ``indices``, in that order."""

    def describe(self, index: int) -> str:
        """Name an image in a message."""
        return f"image {index}"


class ArraySource(ImageSource):
    """Images in one array, uint8 ``[n, H, W]`` or ``[n, H, W, 3]``."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images
        self.channels = 1 if images.ndim == 3 else images.shape[3]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Do what `ImageSource` says."""
        return Image.fromarray(self.images[index])

    def subset(self, indices: NDArray[np.int64]) -> ArraySource:
        """Do what `ImageSource` says."""
        return ArraySource(self.images[indices])


class FileSource(ImageSource):
    """Images in files, decoded with Pillow and converted to ``channels`` channels."""

    def __init__(self, paths: Sequence[str], channels: int) -> None:
        self.paths = paths
        self.channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """Decode an image.

        Raises:
            DataError: it cannot be read or decoded, or has more than 8 bits a channel.
        """
        return read_image(self.paths[index], self.channels)

    def subset(self, indices: NDArray[np.int64]) -> FileSource:
        """Do what `ImageSource` says."""
        return FileSource([self.paths[index] for index in indices], self.channels)

    def describe(self, index: int) -> str:
        """Do what `ImageSource` says."""
        return printable(self.paths[index])


@dataclass(frozen=True)
class LabelledImages:
    """Images, and their labels int64 ``[n]``."""

    source: ImageSource
    labels: NDArray[np.int64]

    def subset(self, indices: NDArray[np.int64]) -> LabelledImages:
        """Take the images at ``indices``, in that order."""
        return LabelledImages(self.source.subset(indices), self.labels[indices])
