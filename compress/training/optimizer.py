"""The optimizer of scores, or of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import TrainConfig
from ..mask.layers import masked_layers
from ..mask.rates import score_groups

__all__ = ["load_optimizer_state", "make_optimizer", "set_learning_rate", "trains_scores_scale_free"]


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum or Nesterov's, or Adam; fused: one pass over parameters, gradients and momentum.

    With ``settings.scale_free`` there is a group of parameters for each layer, whose ``lr_factor`` `set_learning_rate`
    keeps.
    """
    lr, weight_decay = settings.lr, settings.weight_decay
    name = settings.optimizer or "sgd"
    parameters: Any = model.parameters()
    if settings.scale_free:
        parameters = score_groups(model, lr, weight_decay, optimizer=name)
    if name == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(
        parameters,
        lr,
        momentum=settings.momentum,
        nesterov=bool(settings.nesterov),
        weight_decay=weight_decay,
        fused=True,
    )


def trains_scores_scale_free(model: nn.Module) -> bool:
    """Whether that is the default for a model: it has scores, and layers that normalise what the scores scale."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return bool(masked_layers(model)) and any(isinstance(module, kinds) for module in model.modules())


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of all groups, each in proportion to its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore momentum; settings stay those that the optimizer was made with."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
