"""Which weights are kept: from scores to a mask, exactly, on any device, without a host read-back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import ConfigError

__all__ = ["kept_count", "select", "topk_mask"]

_SAMPLE_STRIDE = 64


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
    if kept == keys.numel():
        return torch.ones_like(keys, dtype=torch.bool)
    return _host_mask(keys, kept) if keys.device.type == "cpu" else _device_mask(keys, kept)


def _device_mask(keys: Tensor, kept: int) -> Tensor:
    """Without a look at any value from the host, so that a GPU never waits."""
    threshold = keys.kthvalue(keys.numel() - kept + 1).values
    above = keys > threshold
    tied = keys == threshold
    room = kept - above.sum()
    return above | (tied & (tied.cumsum(0, dtype=torch.int32) <= room))


# An operator of its own, because it branches on values and torch.compile must not look inside.
@torch.library.custom_op("iterand_compress::host_mask", mutates_args=())
def _host_mask(keys: Tensor, kept: int) -> Tensor:
    """The same on a CPU, where looking at a value costs nothing: a third of the time."""
    threshold = _kth_largest(keys, kept)
    mask = keys >= threshold
    excess = int(mask.sum()) - kept
    if excess:
        tied = (keys == threshold).nonzero().squeeze(1)
        mask[tied[-excess:]] = False
    return mask


@_host_mask.register_fake
def _(keys: Tensor, kept: int) -> Tensor:  # noqa: ARG001
    return torch.empty_like(keys, dtype=torch.bool)


def _kth_largest(keys: Tensor, k: int) -> float:
    """The k-th largest value, exactly.

    The sorted sample of every 64th key brackets it with a margin of four standard deviations; only what lies
    in the bracket is selected from. If the bracket misses (keys with a structure of that period), all are.
    """
    rank = keys.numel() - k
    sample = keys[::_SAMPLE_STRIDE].sort().values
    size = sample.numel()
    place, margin = rank * size // keys.numel(), 4 * math.isqrt(size) + 1
    if size > 8 * margin:
        low, high = sample[max(place - margin, 0)], sample[min(place + margin, size - 1)]
        inside = keys[(keys >= low) & (keys <= high)]
        rank_inside = rank - int((keys < low).sum())
        if 0 <= rank_inside < inside.numel():
            return float(inside.kthvalue(rank_inside + 1).values)
    return float(keys.kthvalue(rank + 1).values)
