"""Learning rate: linear warm-up, cosine, steps or a straight line, constant cool-down."""

from __future__ import annotations

import math

from ..config import Recipe, TrainConfig
from ..errors import ConfigError
from ..methods.recycling import recycling_is_due

__all__ = ["check_refresh", "check_schedule", "learning_rate"]

#: Where the schedule ``linear`` begins, as a share of the peak (Jordan, "94% on CIFAR-10 in 3.29 seconds", 2024).
FIRST = 0.2


def check_schedule(config: TrainConfig) -> None:
    """Refuse a schedule without an epoch between warm-up and cool-down, or with a step that never comes.

    Raises:
        ConfigError: warm-up and cool-down take all epochs, or a milestone lies outside of what they leave.
    """
    if config.warmup_epochs + config.cooldown_epochs >= config.epochs:
        raise ConfigError(
            f"train: warmup_epochs ({config.warmup_epochs}) and cooldown_epochs ({config.cooldown_epochs}) must "
            f"leave at least one of epochs ({config.epochs}): give --set train.warmup_epochs=0, or more --epochs"
        )
    first, last = config.warmup_epochs, config.epochs - config.cooldown_epochs - 1
    for milestone in config.milestones or ():
        if not first < milestone <= last:
            raise ConfigError(
                f"train: milestones: expected epochs from {first + 1} to {last}, between warm-up and cool-down, got "
                f"{milestone}: change train.milestones, or --epochs"
            )


def check_refresh(recipe: Recipe) -> None:
    """Refuse a ramp or a recycling that the run is too short for.

    Raises:
        ConfigError: the full sparsity is never reached, or no recycling is ever due.
    """
    epochs, config = recipe.train.epochs, recipe.subnetwork
    ramp = config.selection.ramp_epochs if config.selection else 0
    if ramp > epochs:
        raise ConfigError(
            f"selection.ramp_epochs: expected at most the {epochs} epochs of the run, so that the full sparsity is "
            f"reached, got {ramp}"
        )
    rule = config.recycle
    if rule is not None and not any(recycling_is_due(rule, epoch, epochs) for epoch in range(epochs)):
        raise ConfigError(
            f"recycling: every {rule.every} epochs, after a warm-up of {rule.after or rule.warmup}, comes never in "
            f"{epochs} epochs; lower recycle.every or recycle.warmup"
        )


def learning_rate(config: TrainConfig, epoch: int, progress: float = 0.0) -> float:
    """Learning rate of an epoch (0, 1, …); if the recipe says which batch it is for, in proportion to the batch.

    Source of the linear rule: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.1.

    Args:
        config: the settings.
        epoch: counted from 0.
        progress: share of the epoch that is done, in [0, 1); only the schedule ``linear`` changes within an epoch.
    """
    return _for_its_batch(config, epoch, progress) * (config.batch_size / config.lr_batch if config.lr_batch else 1.0)


def _for_its_batch(config: TrainConfig, epoch: int, progress: float) -> float:
    linear = config.schedule == "linear"
    if epoch < config.warmup_epochs:
        if linear:
            done = (epoch + progress) / config.warmup_epochs
            return config.lr * (FIRST + (1 - FIRST) * done)
        return config.lr * (epoch + 1) / config.warmup_epochs
    if epoch >= config.epochs - config.cooldown_epochs:
        return config.cooldown_lr
    if config.milestones is not None:
        gamma = 0.1 if config.gamma is None else config.gamma
        return config.lr * gamma ** sum(epoch >= milestone for milestone in config.milestones)
    span = config.epochs - config.warmup_epochs - config.cooldown_epochs
    if linear:
        return config.lr * (1 - (epoch + progress - config.warmup_epochs) / span)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / span))
