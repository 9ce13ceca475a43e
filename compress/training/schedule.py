"""Learning rate: linear warm-up, cosine, constant cool-down; constant within an epoch."""

from __future__ import annotations

import math

from ..config import TrainConfig
from ..errors import ConfigError

__all__ = ["check_schedule", "learning_rate"]


def check_schedule(config: TrainConfig) -> None:
    """Refuse a schedule without room for its cosine.

    Raises:
        ConfigError: warm-up and cool-down take all epochs.
    """
    if config.warmup_epochs + config.cooldown_epochs >= config.epochs:
        raise ConfigError(
            f"train: warmup_epochs ({config.warmup_epochs}) and cooldown_epochs ({config.cooldown_epochs}) must "
            f"leave at least one of epochs ({config.epochs})"
        )


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch (0, 1, …)."""
    if epoch < config.warmup_epochs:
        return config.lr * (epoch + 1) / config.warmup_epochs
    if epoch >= config.epochs - config.cooldown_epochs:
        return config.cooldown_lr
    span = config.epochs - config.warmup_epochs - config.cooldown_epochs
    return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / span))
