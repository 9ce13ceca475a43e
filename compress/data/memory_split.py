"""Splits of texts and small images: one tensor on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augment import Augmentation, augment, to_pixels
from .bundle import Batch, Split
from .order import epoch_order
from .shard import WHOLE, Shard

__all__ = ["MemorySplit"]


class MemorySplit(Split):
    """A split that moves to a device once and stays there.

    Args:
        inputs: images uint8 ``[n, C, H, W]``, or tokens int32 ``[n, length]``.
        labels: int64 ``[n]``.
        seed: decides the order of training examples and their augmentation.
        augmentation: of training images.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, seed: int, augmentation: Augmentation | None = None) -> None:
        self.labels = labels
        self._inputs = inputs
        self._device_labels = labels
        self._seed = seed
        self._augmentation = augmentation or Augmentation()

    def _move(self, device: torch.device | str) -> None:
        if self._inputs.device != torch.empty(0, device=device).device:  # "cuda" is "cuda:0"
            self._inputs = self._inputs.to(device)
            self._device_labels = self.labels.to(device)

    def batches(self, batch_size: int, device: torch.device | str, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Give all examples in order (see `Split`)."""
        self._move(device)
        for start in range(0, len(self), batch_size):
            rows = shard.of(start, min(start + batch_size, len(self)))
            if rows.start < rows.stop:
                yield _for_network(self._inputs[rows]), self._device_labels[rows]

    def train_batches(
        self, epoch: int, batch_size: int, device: torch.device | str, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:
        """Give the batches of an epoch (see `Split`). Its random choices are drawn and moved to the device at once."""
        self._move(device)
        shuffled = epoch_order(self._seed, epoch, len(self))
        order, boxes = torch.from_numpy(shuffled).to(device), self._boxes(epoch, shuffled)
        if boxes is not None:
            boxes = boxes.to(device)
        for step in range(start, self.steps_per_epoch(batch_size)):
            places = shard.of(step * batch_size, min((step + 1) * batch_size, len(self)))
            inputs, labels = self._inputs[order[places]], self._device_labels[order[places]]
            if boxes is None:
                yield _for_network(inputs), labels
            else:
                yield augment(inputs, boxes[places], self._augmentation), labels

    def _boxes(self, epoch: int, order: NDArray[np.int64]) -> Tensor | None:
        """The boxes of an epoch as int64 ``[n, 5]``, or ``None`` if inputs stay as they are."""
        if self._augmentation == Augmentation():
            return None
        height, width = self._inputs.shape[2:]
        words = self._augmentation.words(self._seed, epoch, order)
        return torch.from_numpy(self._augmentation.boxes(words, (height, width), (height, width)))


def _for_network(inputs: Tensor) -> Tensor:
    return to_pixels(inputs) if inputs.dtype == torch.uint8 else inputs.long()
