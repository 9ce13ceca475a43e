"""Pruning at initialisation by magnitude, and at random: the two baselines that look at no data.

Source: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
flow", NeurIPS 2020 (baselines); Frankle et al., "Pruning neural networks at initialization: why are we missing the
mark?", ICLR 2021.
"""

from __future__ import annotations

from torch import Tensor

from ..generator import random_scores
from .preset import MethodPreset

__all__ = ["MAGNITUDE", "RANDOM", "magnitude_scores", "uniform_scores"]

_TRAINED = {"trains": "weights", "selection": None, "distribution": "normal"}
MAGNITUDE = MethodPreset("Frankle et al., ICLR 2021", criterion="magnitude", **_TRAINED)  # type: ignore[arg-type]
RANDOM = MethodPreset("Tanaka et al., NeurIPS 2020", criterion="random", **_TRAINED)  # type: ignore[arg-type]


def magnitude_scores(weights: list[Tensor]) -> list[Tensor]:
    """``|w|`` of each layer."""
    return [weight.detach().abs() for weight in weights]


def uniform_scores(weights: list[Tensor], seed: int) -> list[Tensor]:
    """Random numbers of the seed, uniform on [-1, 1), for each weight of each layer; flat."""
    return [random_scores(seed, i, 1.0, weight.numel(), weight.device) for i, weight in enumerate(weights)]
