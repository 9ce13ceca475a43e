"""SNIP: keep the connections whose removal would change the loss most, |∂L/∂m| at m = 1, that is |w·∂L/∂w|.

Source: Lee, Ajanthan, Torr, "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019, equation 5.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["scores"]


def scores(logits: Tensor, labels: Tensor, weights: list[Tensor]) -> list[Tensor | None]:
    """``|w·∂L/∂w|`` of each layer for the mean cross entropy L; ``None`` where no gradient arrives.

    Args:
        logits: float ``[B, classes]``, computed from ``weights``.
        labels: int64 ``[B]``.
        weights: one tensor a layer.
    """
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), weights, allow_unused=True)
    return [None if g is None else (w.detach() * g).abs() for w, g in zip(weights, gradients, strict=True)]
