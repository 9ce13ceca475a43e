"""Learning rates of scores in units of the weights: one for each layer, so that masks move as fast as weights would.

Dense training moves a weight of magnitude σ by ``lr·g``, relative to its size ``lr·g/σ``. A score that starts within
±b gets the gradient ``g·σ``; it moves as far, relative to its own size, if SGD's rate is ``lr·b/σ²``. Adam takes the
size out of the gradient, so there the factor is ``b/σ``. The bound of the initial scores then makes no difference.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn

from ..errors import ConfigError
from ..seed.codebooks import get_codebook
from .layers import masked_layers
from .masked_weight import MaskedWeight

__all__ = ["OPTIMIZERS", "OptimizerName", "rate_factor", "score_groups"]

OptimizerName = Literal["sgd", "adam", "adamw"]
OPTIMIZERS = ("sgd", "adam", "adamw")


def rate_factor(masked: MaskedWeight, optimizer: OptimizerName = "sgd") -> float:
    """What a learning rate of weights is multiplied by for the scores of a layer: b/σ² for SGD, b/σ for Adam.

    Args:
        masked: of the layer. b bounds its initial scores; σ is the root mean square of its random weights.
        optimizer: that trains the scores.
    """
    entries = get_codebook(masked.spec.codebook).entries.astype(float)
    size = masked.spec.scale * math.sqrt((entries**2).mean())
    return masked.score_bound / (size**2 if optimizer == "sgd" else size)


def score_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, *, optimizer: OptimizerName = "sgd"
) -> list[dict[str, Any]]:
    """The parameters of a model as groups for an optimizer: scores by layer, then, as they are, all others.

    Each group has ``params``, ``lr``, ``weight_decay`` and ``lr_factor``, by which its rate differs from ``lr``:
    schedulers of torch keep the factor, and who sets rates by hand multiplies by it. Weight decay changes inversely, so
    that scores shrink as weights would.

    Args:
        model: masked or not.
        lr: learning rate of weights.
        weight_decay: of weights.
        optimizer: that the groups are for: ``sgd``, ``adam``, or ``adamw``, whose decay is not part of the gradient.

    Raises:
        ConfigError: another optimizer, or a rate that is not positive.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"param_groups: optimizer: expected one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    for name, value, least in (("lr", lr, "above"), ("weight_decay", weight_decay, "at least")):
        if not (math.isfinite(value) and (value > 0 or (value == 0 and least == "at least"))):
            raise ConfigError(f"param_groups: {name}: expected a number {least} 0, got {value!r}")
    groups: list[dict[str, Any]] = []
    seen = set()
    for _, masked, scores in masked_layers(model):
        factor = rate_factor(masked, optimizer)
        decay = weight_decay / (rate_factor(masked) if optimizer == "adam" else factor)
        groups.append({"params": [scores], "lr": lr * factor, "weight_decay": decay, "lr_factor": factor})
        seen.add(id(scores))
    others = [parameter for parameter in model.parameters() if id(parameter) not in seen and parameter.requires_grad]
    if others or not groups:
        groups.append({"params": others, "lr": lr, "weight_decay": weight_decay, "lr_factor": 1.0})
    return groups
