"""How many weights each layer keeps: its own share, or what one threshold for all gives it; at once or slowly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .topk import allocate, kept_count

if TYPE_CHECKING:
    from torch import Tensor

    from .masked_weight import MaskedWeight

__all__ = ["Allocation", "settle"]


@dataclass(frozen=True)
class Allocation:
    """The rule for the numbers of kept weights.

    Attributes:
        scope: ``layerwise`` or ``global``.
        sparsity: at the end of the ramp.
        ramp_epochs: its length; 0 = the sparsity holds from the start.
    """

    scope: str
    sparsity: float
    ramp_epochs: int = 0

    @property
    def varies(self) -> bool:
        """Whether the numbers change in training."""
        return self.scope == "global" or self.ramp_epochs > 0

    def sparsity_at(self, epoch: int) -> float:
        """The sparsity in an epoch (0, 1, …): s·(1 - (1 - (epoch + 1)/ramp)³), after Zhu and Gupta 2017, equation 1.

        No epoch has sparsity 0: where all weights are kept, scores run away without a word from the loss.
        """
        left = max(0.0, 1 - (epoch + 1) / self.ramp_epochs) if self.ramp_epochs else 0.0
        return self.sparsity * (1 - left**3)

    def floor(self, part: MaskedWeight) -> int:
        """What a layer keeps at least if the scope is global.

        A weight for each row of its matrix, but no more than half of what layerwise selection would leave it.
        """
        weights = part.spec.selectable
        share = math.ceil((1 - self.sparsity) * weights / 2)
        return part.possible(max(1, min(part.spec.shape[0], share)))

    def check(self, parts: Sequence[MaskedWeight]) -> None:
        """Refuse a sparsity that the floors do not allow.

        Raises:
            ConfigError: as said.
        """
        if self.scope != "global":
            return
        weights = sum(part.spec.selectable for part in parts)
        kept, least = kept_count(weights, self.sparsity, "(all)"), sum(self.floor(part) for part in parts)
        if kept < least:
            raise ConfigError(
                f"sparsity {self.sparsity}: {kept} of {weights} weights are too few for global selection, which leaves "
                f"each layer a weight or more, {least} in all; lower the sparsity"
            )


def settle(layers: Sequence[tuple[str, MaskedWeight, Tensor]], epoch: int | None) -> None:
    """Set the number of kept weights of each layer that shares a rule which varies.

    Args:
        layers: of one model.
        epoch: 0, 1, …; ``None`` if it is not known.

    Raises:
        ConfigError: there is a ramp, and the epoch is not known.
    """
    varying = [(name, part, scores) for name, part, scores in layers if part.allocation.varies]
    if not varying:
        return
    rule = varying[0][1].allocation
    if epoch is None and rule.ramp_epochs:
        raise ConfigError("ramp: the method counts epochs; give refresh() steps_per_epoch")
    sparsity = rule.sparsity_at(epoch or 0)
    parts = [part for _, part, _ in varying]
    if rule.scope == "layerwise":
        for name, part, _ in varying:
            part.keep(part.possible(kept_count(part.spec.selectable, sparsity, name)))
        return
    weights = [part.spec.selectable for part in parts]
    kept = min(
        kept_count(sum(weights), sparsity, "(all)"),
        sum(part.possible(count) for part, count in zip(parts, weights, strict=True)),
    )
    floors = [rule.floor(part) for part in parts]
    found = allocate([part.keys(scores) for _, part, scores in varying], max(kept, sum(floors)), floors)
    for part, count in zip(parts, found, strict=True):
        part.keep(count)
