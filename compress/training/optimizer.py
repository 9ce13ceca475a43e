"""What moves scores, or weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import TrainConfig

__all__ = ["make_optimizer"]


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, as the settings have it; fused: one pass over parameters, gradients and momentum."""
    about: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **about)
    return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **about)
