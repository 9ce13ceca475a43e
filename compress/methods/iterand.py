"""IteRand: edge-popup whose pruned weights are redrawn now and then ("iterative randomization").

Every K_per steps each pruned weight is redrawn with probability r from the distribution it first came from (r < 1 is
the paper's *partial randomisation*). Scores and their momentum stay.

Source: Chijiwa, Yamaguchi, Ida, Umakoshi, Inoue, "Pruning randomly initialized neural networks with iterative
randomization", NeurIPS 2021, Algorithm 1 and section 4.2.
"""

from __future__ import annotations

from ..config import Resample

__all__ = ["resampling_event"]


def resampling_event(rule: Resample, step: int) -> int:
    """The number of the resampling event before a training step (0, 1, …), counted from 1; 0 if none is due."""
    return (step + 1) // rule.every if (step + 1) % rule.every == 0 else 0
