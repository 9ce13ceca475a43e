"""SynFlow: keep what carries the flow of a network without signs, in many rounds, without data.

All parameters are replaced by their magnitudes, the input is all ones, R is the sum of the outputs, and the score of a
weight is |w|·∂R/∂|w|. Each of 100 rounds keeps the highest (1 - sparsity)^(round/100) of all weights and scores again.

Source: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
flow", NeurIPS 2020, Algorithm 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["kept_in_round", "scores"]


def kept_in_round(weights: int, kept: int, round_: int, rounds: int) -> int:
    """How many of all weights round 1, 2, …, ``rounds`` keeps; the last keeps ``kept``, each at least so many."""
    return max(kept, round(weights * math.pow(kept / weights, round_ / rounds)))


def scores(outputs: Tensor, weights: list[Tensor]) -> list[Tensor | None]:
    """``|w·∂R/∂w|`` of each layer, R the sum of the outputs; ``None`` where no gradient arrives.

    Args:
        outputs: of the network with all parameters replaced by their magnitudes, for an input of ones.
        weights: one tensor a layer.
    """
    gradients = torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
    return [None if g is None else (w.detach() * g).abs() for w, g in zip(weights, gradients, strict=True)]
