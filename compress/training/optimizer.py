"""The optimizer of scores, or of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import TrainConfig

__all__ = ["load_optimizer_state", "make_optimizer"]


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum or Nesterov's, or Adam; fused: one pass over parameters, gradients and momentum."""
    lr, weight_decay = settings.lr, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(),
        lr,
        momentum=settings.momentum,
        nesterov=bool(settings.nesterov),
        weight_decay=weight_decay,
        fused=True,
    )


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore momentum; settings stay those that the optimizer was made with."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
