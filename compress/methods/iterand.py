"""IteRand: edge-popup whose pruned weights are redrawn now and then ("iterative randomization").

Every K_per steps each pruned weight is redrawn with probability r from the distribution it first came from (r < 1 is
the paper's *partial randomisation*). Scores and their momentum stay.

Source: Chijiwa, Yamaguchi, Ida, Umakoshi, Inoue, "Pruning randomly initialized neural networks with iterative
randomization", NeurIPS 2021, Algorithm 1 and section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import SubnetworkConfig
from ..errors import ConfigError
from ..seed.philox_torch import DECISION_STEPS
from .preset import MethodPreset

__all__ = ["PRESET", "Resampling", "resampling_of"]

#: Scores start as the authors' code has it: Kaiming uniform for ReLU, on ±√6/√fan_in.
PRESET = MethodPreset(
    "Chijiwa et al., NeurIPS 2021, Algorithm 1", selection="signed", score_gain=math.sqrt(6), resamples=True
)


@dataclass(frozen=True)
class Resampling:
    """Every ``every`` steps each pruned weight is redrawn with chance ``threshold / 65536``; ``draws`` values cycle."""

    every: int
    threshold: int
    draws: int

    def event(self, step: int) -> int:
        """The number of the event before a training step (0, 1, …), counted from 1; 0 if there is none."""
        return (step + 1) // self.every if (step + 1) % self.every == 0 else 0


def resampling_of(config: SubnetworkConfig) -> Resampling:
    """The rule that a configuration asks for.

    Raises:
        ConfigError: a probability that 16 bits round to 0.
    """
    threshold = round(config.resample_rate * DECISION_STEPS)
    if threshold == 0 and config.resample_rate > 0:
        raise ConfigError(
            f"resample_rate: expected 0 or at least {1 / DECISION_STEPS:.1e} (1/{DECISION_STEPS}), "
            f"got {config.resample_rate}"
        )
    return Resampling(config.resample_every, threshold, config.draws)
