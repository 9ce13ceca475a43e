"""Large images: decoded by the workers of a DataLoader when a batch needs them, and augmented there by torchvision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from .augment import Augmentation, to_pixels
from .bundle import Batch, Split
from .fitting import LARGE_SIDE, as_array, scale, scale_and_crop, side_before_cut
from .image_files import without_warnings
from .image_source import ImageSource
from .order import epoch_order
from .shard import WHOLE, Shard

__all__ = ["StreamSplit", "StreamTransform"]

#: Below this many images, starting workers costs more than they save.
_TINY = 512

# What a worker gets: the indices of a batch's images, int64 ``[B]``, and their random words, uint32 ``[B, 8]``
# (none: no augmentation).
_Plan = tuple[NDArray[np.int64], NDArray[np.uint32] | None]


@dataclass(frozen=True)
class StreamTransform:
    """Turns a decoded image into one of the size that the network takes.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        scaled: whether images are scaled; otherwise they have this size already.
        augmentation: of training images.
    """

    height: int
    width: int
    scaled: bool
    augmentation: Augmentation

    @property
    def _side(self) -> int:
        return side_before_cut(self.height, self.width)

    @property
    def _large(self) -> bool:
        return max(self.height, self.width) > LARGE_SIDE

    def evaluation(self, image: Image.Image) -> Image.Image:
        """Scale and cut out the centre."""
        return scale_and_crop(image, self._side, self.height) if self.scaled else image

    def training(self, image: Image.Image, words: NDArray[np.uint32]) -> Image.Image:
        """Crop, scale and mirror by the random words (uint32 ``[8]``) of the image.

        torchvision's operations, not its transforms: these draw from a global generator.
        """
        augmentation, operations = self.augmentation, _operations()
        if augmentation.crop == "none" or not self._large:
            image = self.evaluation(image)
        elif augmentation.crop == "shift" and self.scaled:
            image = scale(image, self._side)
        boxes = augmentation.boxes(words[None], (image.height, image.width), (self.height, self.width))
        top, left, height, width, flip = boxes[0].tolist()
        if augmentation.pad:
            mode = "reflect" if augmentation.reflect else "constant"
            fill = list(augmentation.fill) or 0
            image = operations.pad(image, [augmentation.pad], fill=fill, padding_mode=mode)
        image = operations.resized_crop(image, top, left, height, width, [self.height, self.width])
        result: Image.Image = operations.horizontal_flip(image) if flip else image
        return result


@lru_cache(maxsize=1)
def _operations() -> Any:
    """The image operations of torchvision, imported on use: the import takes longer than decoding a small data set."""
    from torchvision.transforms.v2 import functional

    return functional


class StreamSplit(Split):
    """A split that decodes its images anew in every pass.

    Args:
        source: the images.
        labels: int64 ``[n]``.
        transform: to the size of the network.
        seed: decides the order of training examples and their augmentation.
        workers: decoding processes; ``None`` is one less than its share of the cores, at most 8 (few images: 0).
        sharing: processes of this machine that load the same data and share its cores.
    """

    def __init__(
        self,
        source: ImageSource,
        labels: Tensor,
        transform: StreamTransform,
        seed: int,
        workers: int | None,
        sharing: int = 1,
    ) -> None:
        self.labels = labels
        self._dataset = _Images(source, labels, transform)
        self._seed = seed
        self._augmentation = transform.augmentation
        self._augmented = self._augmentation != Augmentation()
        if self._augmented:
            _operations()  # here, so that workers inherit the import
        if workers is None:
            workers = 0 if len(source) < _TINY else min(8, max(0, (os.cpu_count() or 1) // sharing - 1))
        self._workers = workers
        self._plans = _Plans()
        self._loader: DataLoader[Any] | None = None

    def batches(self, batch_size: int, device: torch.device | str, shard: Shard = WHOLE) -> Iterator[Batch]:
        """See `Split`."""
        count = len(self)
        own = (shard.of(start, min(start + batch_size, count)) for start in range(0, count, batch_size))
        return self._load(((np.arange(at.start, at.stop), None) for at in own if at.start < at.stop), device)

    def train_batches(
        self, epoch: int, batch_size: int, device: torch.device | str, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:
        """See `Split`."""
        order = epoch_order(self._seed, epoch, len(self))
        words = self._augmentation.words(self._seed, epoch, order) if self._augmented else None
        own = (
            shard.of(step * batch_size, min((step + 1) * batch_size, len(order)))
            for step in range(start, self.steps_per_epoch(batch_size))
        )
        return self._load(((order[at], None if words is None else words[at]) for at in own), device)

    def _load(self, plans: Iterator[_Plan], device: torch.device | str) -> Iterator[Batch]:
        pin = torch.device(device).type == "cuda"
        if self._loader is None or self._loader.pin_memory != pin:
            self._loader = DataLoader(
                self._dataset,
                batch_size=None,  # the data set makes whole batches
                sampler=self._plans,
                num_workers=self._workers,
                pin_memory=pin,
                persistent_workers=self._workers > 0,
                generator=torch.Generator(),  # else the loader would draw from the global one
            )
        self._plans.current = plans
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = batch
            yield to_pixels(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)


class _Plans:
    """A sampler that yields the plans it is given before each pass, so that one set of workers serves all passes."""

    def __init__(self) -> None:
        self.current: Iterator[_Plan] = iter(())

    def __iter__(self) -> Iterator[_Plan]:
        return self.current


class _Images(Dataset[Any]):
    def __init__(self, source: ImageSource, labels: Tensor, transform: StreamTransform) -> None:
        self._source = source
        self._labels = labels
        self._transform = transform

    def __getitem__(self, plan: _Plan) -> tuple[Tensor, Tensor] | DataError:
        """A batch: images, uint8 ``[B, C, H, W]``, and their labels, int64 ``[B]``.

        An error is returned: raised in a worker, it would reach the user as a traceback.
        """
        indices, words = plan
        images = []
        for position, index in enumerate(indices.tolist()):
            try:
                with without_warnings():
                    image = self._source.image(index)
            except DataError as error:
                return error
            if words is None:
                image = self._transform.evaluation(image)
            else:
                image = self._transform.training(image, words[position])
            images.append(torch.from_numpy(as_array(image)))
        return torch.stack(images), self._labels[torch.from_numpy(indices)]
