"""Pruning at initialisation by magnitude, and at random: the two baselines that look at no data.

Source: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
flow", NeurIPS 2020 (baselines); Frankle et al., "Pruning neural networks at initialization: why are we missing the
mark?", ICLR 2021.
"""

from __future__ import annotations

from torch import Tensor

from ..seed.philox_torch import random_scores

__all__ = ["magnitude_scores", "uniform_scores"]


def magnitude_scores(weights: list[Tensor]) -> list[Tensor]:
    """``|w|`` of each layer."""
    return [weight.detach().abs() for weight in weights]


def uniform_scores(weights: list[Tensor], seed: int) -> list[Tensor]:
    """Random numbers of the seed, uniform on [-1, 1), for each weight of each layer; flat."""
    return [random_scores(seed, i, 1.0, weight.numel(), weight.device) for i, weight in enumerate(weights)]
