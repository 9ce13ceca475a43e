"""Accuracy of anything that turns pixels into logits, counted the same way for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .distributed import ALONE, Group

if TYPE_CHECKING:
    from ..data import Split

__all__ = ["EVAL_BATCH", "Score", "evaluate", "network_logits"]


@dataclass(frozen=True)
class Score:
    """Result of an evaluation: right answers, images, mean cross entropy."""

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
    """Run a split through a classifier.

    Args:
        logits: from pixels (float32 ``[B, C, H, W]`` in [0, 1]) to logits (``[B, classes]``).
        split: the images.
        batch_size: images at a time.
        device: where pixels are handed over.
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


def network_logits(model: nn.Module, normalize: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The classifier from pixels to logits: normalise, then the module in evaluation mode."""

    def logits(pixels: Tensor) -> Tensor:
        was_training = model.training
        model.eval()
        try:
            with parametrize.cached():
                return model(normalize(pixels))  # type: ignore[no-any-return]
        finally:
            model.train(was_training)

    return logits


#: Images at a time when a network is evaluated.
EVAL_BATCH = 500
