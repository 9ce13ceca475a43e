"""Small images: all of them as one uint8 tensor on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .augment import Augmentation, augment, to_pixels
from .bundle import Batch, Split
from .order import augmentation_words, epoch_order
from .shard import WHOLE, Shard

__all__ = ["MemorySplit"]


class MemorySplit(Split):
    """A split whose decoded images move to a device once and stay there.

    Args:
        images: uint8 ``[n, C, H, W]``.
        labels: int64 ``[n]``.
        augmentation: of ``train_batches``.
        seed: of order and augmentation.
    """

    def __init__(self, images: Tensor, labels: Tensor, augmentation: Augmentation, seed: int) -> None:
        self.labels = labels
        self._images = images
        self._device_labels = labels
        self._augmentation = augmentation
        self._seed = seed

    def _move(self, device: torch.device | str) -> None:
        if self._images.device != torch.empty(0, device=device).device:  # "cuda" is "cuda:0"
            self._images = self._images.to(device)
            self._device_labels = self.labels.to(device)

    def batches(self, batch_size: int, device: torch.device | str, shard: Shard = WHOLE) -> Iterator[Batch]:
        """See ``Split``."""
        self._move(device)
        for start in range(0, len(self), batch_size):
            part = shard.of(start, min(start + batch_size, len(self)))
            if part.start < part.stop:
                yield to_pixels(self._images[part]), self._device_labels[part]

    def train_batches(
        self, epoch: int, batch_size: int, device: torch.device | str, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:
        """See ``Split``. The choices of the whole epoch are drawn and moved to the device at once."""
        self._move(device)
        order = torch.from_numpy(epoch_order(self._seed, epoch, len(self))).to(device)
        table = self._table(epoch)
        if table is not None:
            table = table.to(device)
        for step in range(start, self.steps_per_epoch(batch_size)):
            part = shard.of(step * batch_size, min((step + 1) * batch_size, len(self)))
            images = self._images[order[part]]
            labels = self._device_labels[order[part]]
            if table is None:
                yield to_pixels(images), labels
            else:
                yield augment(images, table[part], self._augmentation), labels

    def _table(self, epoch: int) -> Tensor | None:
        """The boxes of an epoch as int64 ``[n, 5]``, or ``None`` if images stay as they are."""
        if self._augmentation == Augmentation():
            return None
        height, width = self._images.shape[2:]
        words = augmentation_words(self._seed, epoch, len(self))
        return torch.from_numpy(self._augmentation.boxes(words, (height, width), (height, width)))
