"""Iterative Weight Recycling: now and then the least wanted weights take the values of the most wanted.

After epochs F, 2F, … (counted from 0), but not after the last, the k = ⌊rate·n⌋ weights of a layer with the lowest
scores take the values of the k with the highest, rank by rank. Scores stay.

Source: Gorbett and Whitley, "Randomly initialized subnetworks with iterative weight recycling", 2023, Algorithm 1; the
epochs are those of the authors' code (main.py; main_parallel.py has the warm-up).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Recycle

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["recycling_is_due", "recycling_moves"]


def recycling_is_due(rule: Recycle, epoch: int, epochs: int) -> bool:
    """Whether weights are recycled before an epoch (0, 1, …) of a run of ``epochs``."""
    if rule.after is not None:  # as runs of earlier versions count
        return epoch % rule.every == 0 and max(1, rule.after) <= epoch < epochs - 1
    done = epoch - 1
    return done % rule.every == 0 and done > rule.warmup and epoch < epochs


def recycling_moves(rule: Recycle, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Which weights take a value, and from which: int64 ``[k]`` each, both in ascending order of their keys.

    Args:
        rule: says which share of the layer is overwritten.
        keys: float ``[n]``, what the selection sorts by; equal keys count as ascending with their index.
    """
    order = keys.argsort(stable=True)
    count = int(rule.rate * keys.numel())
    return order[:count], order[keys.numel() - count :]
