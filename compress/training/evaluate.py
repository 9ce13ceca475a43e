"""Evaluation: accuracy and loss of any function from pixels to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .distributed import ALONE, Group

if TYPE_CHECKING:
    from ..data.bundle import Split

__all__ = ["EVAL_BATCH", "Score", "evaluate", "network_logits"]


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes:
        correct: number of right answers.
        images: number of images (or texts).
        loss: mean cross entropy, in nats.
    """

    correct: int
    images: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Fraction of right answers, in [0, 1]."""
        return self.correct / self.images


@torch.no_grad()
def evaluate(
    logits: Callable[[Tensor], Tensor],
    split: Split,
    *,
    batch_size: int,
    device: torch.device,
    group: Group = ALONE,
) -> Score:
    """Evaluate a classifier on a split.

    Args:
        logits: from pixels (float32 ``[B, C, H, W]`` in [0, 1]) to logits (``[B, classes]``).
        split: the images.
        batch_size: images at a time.
        device: of the pixels that ``logits`` gets.
        group: processes that share the work; all of them get the score.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with group.agreed():
        for pixels, labels in split.batches(batch_size, device, group.shard):
            answer = logits(pixels).float()
            correct += (answer.argmax(dim=1) == labels).sum()
            loss += F.cross_entropy(answer, labels, reduction="sum").double()
    return Score(int(group.total(correct)), len(split), float(group.total(loss)) / len(split))


@contextmanager
def network_logits(model: nn.Module, normalize: Callable[[Tensor], Tensor]) -> Iterator[Callable[[Tensor], Tensor]]:
    """A classifier from pixels to logits for `evaluate`: normalise, then the module in evaluation mode.

    Inside the block the module is in evaluation mode, weights do not change, and each masked weight is computed once
    for all batches. Afterwards the module is in the mode that it was in.

    Args:
        model: takes normalised inputs, and gives logits ``[B, classes]``.
        normalize: from pixels (or tokens) to what the model takes.
    """
    was_training = model.training
    model.eval()
    try:
        with parametrize.cached():
            yield lambda pixels: model(normalize(pixels))
    finally:
        model.train(was_training)


#: Images at a time when a network is evaluated.
EVAL_BATCH = 500
