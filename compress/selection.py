"""Which weights are kept: from scores to a mask, exactly, on any device, without a host read-back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import ConfigError

__all__ = ["kept_count", "select", "topk_mask"]


def kept_count(weights: int, sparsity: float, name: str) -> int:
    """Number of weights a layer keeps: all but ``sparsity * weights``, rounded to the nearest integer.

    Raises:
        ConfigError: the layer would keep nothing.
    """
    kept = weights - math.floor(sparsity * weights + 0.5)
    if kept < 1:
        raise ConfigError(
            f"layer {name}: too small for sparsity {sparsity}: of its {weights} weights none would be kept; "
            "lower the sparsity or leave the layer out"
        )
    return kept


def select(scores: Tensor, kept: int, selection: str) -> Tensor:
    """The mask of one layer, bool of the shape of ``scores``.

    Args:
        scores: float ``[n]``.
        kept: how many are kept.
        selection: ``signed`` keeps the largest scores (IteRand's code), ``magnitude`` the largest absolute
            scores (edge-popup, Ramanujan et al. 2020, section 3).
    """
    return topk_mask(scores.abs() if selection == "magnitude" else scores, kept)


def topk_mask(keys: Tensor, kept: int) -> Tensor:
    """Mark the ``kept`` largest of ``keys``; of equal keys the one with the lower index is kept.

    Args:
        keys: float ``[n]``, no NaN.
        kept: from 1 to n.

    Returns:
        bool ``[n]`` with exactly ``kept`` true entries.
    """
    count = keys.numel()
    if kept == count:
        return torch.ones_like(keys, dtype=torch.bool)
    threshold = keys.kthvalue(count - kept + 1).values
    above = keys > threshold
    tied = keys == threshold
    room = kept - above.sum()
    return above | (tied & (tied.cumsum(0, dtype=torch.int32) <= room))
