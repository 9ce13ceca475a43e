"""What a loaded data set offers: splits that hand out batches, and what a network must know of its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ..inputs import TextSpec
from .shard import WHOLE, Shard

__all__ = ["Batch", "DataBundle", "Split", "normalize"]

#: Pixels float32 ``[B, C, H, W]`` in [0, 1], or tokens int64 ``[B, length]``; and labels int64 ``[B]``.
Batch = tuple[Tensor, Tensor]


class Split(ABC):
    """Images or texts with labels, on their way to a device.

    Attributes:
        labels: int64 ``[n]``, on the CPU.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Training batches of an epoch: the last partial batch is dropped, unless it is the only one."""
        return max(1, len(self) // batch_size)

    @abstractmethod
    def batches(self, batch_size: int, device: torch.device | str, shard: Shard = WHOLE) -> Iterator[Batch]:
        """All of them in order, not augmented, the last partial batch included.

        With a ``shard``, only its part of each batch; a part without anything in it is left out.
        """

    @abstractmethod
    def train_batches(
        self, epoch: int, batch_size: int, device: torch.device | str, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:
        """The shuffled, augmented batches of an epoch, from batch ``start`` on; with a ``shard``, its part of each.

        What an image looks like follows from its place in the order of all, so that it does not depend on the shard.
        """


@dataclass(frozen=True)
class DataBundle:
    """A data set, split.

    Attributes:
        name: of the data set.
        classes: names of the classes; the index is the label.
        image_shape: (channels, height, width); empty for texts, as are mean and std.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        train: what is learned from.
        val: held out of the training images, ``None`` if nothing was.
        test: never used for a decision.
        text: how texts became tokens; ``None`` for images.
        left_out: how many files and folders were not taken, by what they are.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    val: Split | None
    test: Split
    text: TextSpec | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def normalize(self, pixels: Tensor) -> Tensor:
        """``(pixels - mean) / std`` per channel of float ``[B, C, H, W]``; tokens stay as they are."""
        return pixels if self.text is not None else normalize(pixels, self.mean, self.std)

    def example(self, count: int) -> Tensor:
        """Inputs of the right shape and type that mean nothing, on the CPU."""
        if self.text is not None:
            return torch.ones(count, self.text.length, dtype=torch.int64, device="cpu")
        return torch.zeros(count, *self.image_shape, device="cpu")


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(pixels - mean) / std`` per channel of float ``[B, C, H, W]``."""
    return (pixels - _per_channel(tuple(mean), pixels.device)) / _per_channel(tuple(std), pixels.device)


@lru_cache(maxsize=32)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the cached tensor must also serve where gradients are recorded
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
