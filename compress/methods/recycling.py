"""Iterative Weight Recycling: now and then the least wanted weights take the values of the most wanted.

Every F epochs, but not in the first nor in the last, the k = ⌊rate·n⌋ weights of a layer with the lowest scores take
the values of the k with the highest, rank by rank. Scores stay.

Source: Gorbett and Whitley, "Randomly initialized subnetworks with iterative weight recycling", 2023. It may be put on
any method that trains scores (``recycle_every``).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .preset import MethodPreset

__all__ = ["ON_BIPROP", "PRESET", "RATE", "Recycling"]

_SOURCE = "Gorbett and Whitley 2023, Algorithm 1"
_EVERY = 10
#: Share of a layer that is overwritten, unless the user says otherwise.
RATE = 0.2
PRESET = MethodPreset(_SOURCE, recycle_every=_EVERY)
ON_BIPROP = MethodPreset(_SOURCE, binarised=True, recycle_every=_EVERY)


@dataclass(frozen=True)
class Recycling:
    """When and how much: every ``every`` epochs from epoch ``after`` on, the share ``rate`` of each layer."""

    every: int
    rate: float
    after: int

    def happens(self, epoch: int, epochs: int) -> bool:
        """Whether weights are recycled before an epoch (0, 1, …) of a run."""
        return epoch % self.every == 0 and max(1, self.after) <= epoch < epochs - 1

    def moves(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Which weights take a value, and from which: int64 ``[k]`` each, both in ascending order of their keys.

        Args:
            keys: float ``[n]``, what the selection sorts by; equal keys count as ascending with their index.
        """
        order = keys.argsort(stable=True)
        count = int(self.rate * keys.numel())
        return order[:count], order[keys.numel() - count :]
