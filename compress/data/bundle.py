"""A loaded data set: splits that give batches, the names of the classes, and the network's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..inputs import AnyInput
from .shard import WHOLE, Shard

__all__ = ["Batch", "DataBundle", "Split"]

#: Pixels float32 ``[B, C, H, W]`` in [0, 1], or tokens int64 ``[B, length]``; and labels int64 ``[B]``.
Batch = tuple[Tensor, Tensor]


class Split(ABC):
    """Images or texts with labels, given in batches on a device.

    Attributes:
        labels: int64 ``[n]``, on the CPU.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Count the training batches of an epoch: the last partial batch is dropped, unless it is the only one."""
        return max(1, len(self) // batch_size)

    @abstractmethod
    def batches(self, batch_size: int, device: torch.device | str, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Give all examples in order, not augmented, the last partial batch included.

        Args:
            batch_size: examples of a batch, over all processes.
            device: receives the batches.
            shard: the slice of each batch that this process gets; empty slices are left out.
        """

    @abstractmethod
    def train_batches(
        self, epoch: int, batch_size: int, device: torch.device | str, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:
        """Give the shuffled, augmented batches of an epoch.

        Augmentation follows from the position of an example in the epoch, so it does not depend on the shard.

        Args:
            epoch: counted from 0.
            batch_size: examples of a batch, over all processes.
            device: receives the batches.
            start: number of the first batch to give.
            shard: the slice of each batch that this process gets.
        """


@dataclass(frozen=True)
class DataBundle:
    """A data set, split.

    Attributes:
        name: of the data set.
        classes: names of the classes; the index is the label.
        input: the images or texts: shape and normalisation, or tokeniser.
        train: training examples.
        val: validation examples, ``None`` if there are none.
        test: test examples, never used for a decision.
        left_out: number of files and folders that were not read, by their kind.
        split_note: a sentence that says how training and test examples were told apart; empty if the data set does.
    """

    name: str
    classes: tuple[str, ...]
    input: AnyInput
    train: Split
    val: Split | None
    test: Split
    left_out: Mapping[str, int] = field(default_factory=dict)
    split_note: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each split that is there."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}
