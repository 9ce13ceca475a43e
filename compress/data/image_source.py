"""Where images come from: an array, or files. Both hand out PIL images of mode L or RGB by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files.names import printable
from .image_files import read_image

__all__ = ["ArraySource", "FileSource", "ImageSource", "Labelled", "RawData"]


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
            DataError: see ``read_image``.
        """
        return read_image(self.paths[index], self.channels)

    def subset(self, indices: NDArray[np.int64]) -> FileSource:
        """See ``ImageSource``."""
        return FileSource([self.paths[index] for index in indices], self.channels)

    def describe(self, index: int) -> str:
        """See ``ImageSource``."""
        return printable(self.paths[index])


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
        left_out: how many files and folders were not taken, by what they are.
    """

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    val: Labelled | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_size: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
