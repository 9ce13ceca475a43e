"""What moves scores, or weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig

__all__ = ["load_optimizer_state", "make_optimizer", "optimizer_state", "set_learning_rate"]


def make_optimizer(model: nn.Module, settings: TrainConfig, *, adjustable: bool = False) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, as the settings have it; fused: one pass over parameters, gradients and momentum.

    Args:
        model: its parameters are moved.
        settings: of the run.
        adjustable: keep the learning rate on the device, where a recorded step finds it when it has changed.
    """
    lr: float | Tensor = settings.lr
    if adjustable:
        lr = torch.tensor(settings.lr, dtype=torch.float32, device=next(model.parameters()).device)
    about: dict[str, Any] = {"lr": lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), capturable=adjustable, **about)
    return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **about)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Change the learning rate from now on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict, with the learning rate as a number wherever it is kept."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over momentum; settings stay as they were made."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
