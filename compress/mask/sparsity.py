"""How many weights each layer keeps: its own share, or what one threshold for all gives it; at once or slowly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .topk import LayerKeys, allocate, kept_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Allocation", "LayerSize"]


@dataclass(frozen=True)
class LayerSize:
    """How many weights the mask of a layer may keep.

    Attributes:
        name: of the layer's weight, for messages.
        rows: of its matrix.
        selectable: number of weights that the mask chooses from.
        least: number of weights that are kept whatever their scores.
        most: number of weights that are not pruned whatever their scores.
    """

    name: str
    rows: int
    selectable: int
    least: int
    most: int

    def possible(self, kept: int) -> int:
        """The number nearest to ``kept`` that a mask can keep."""
        return min(max(kept, self.least), self.most)


@dataclass(frozen=True)
class Allocation:
    """The rule for the numbers of kept weights.

    Attributes:
        scope: ``layerwise`` or ``global``.
        sparsity: at the end of the ramp.
        ramp_epochs: its length; 0 = the sparsity holds from the start.
        brackets: what a CPU remembers of the last thresholds of global selection; it changes no result.
    """

    scope: str
    sparsity: float
    ramp_epochs: int = 0
    brackets: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

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

    def floor(self, layer: LayerSize) -> int:
        """What a layer keeps at least if the scope is global.

        A weight for each row of its matrix, but no more than half of what layerwise selection would leave it.
        """
        share = math.ceil((1 - self.sparsity) * layer.selectable / 2)
        return layer.possible(max(1, min(layer.rows, share)))

    def check(self, layers: Sequence[LayerSize]) -> None:
        """Refuse a sparsity that leaves less than the floors of global selection.

        Raises:
            ConfigError: it does.
        """
        if self.scope != "global":
            return
        weights = sum(layer.selectable for layer in layers)
        kept, least = kept_count(weights, self.sparsity, "(all)"), sum(self.floor(layer) for layer in layers)
        if kept < least:
            raise ConfigError(
                f"sparsity {self.sparsity}: {kept} of {weights} weights are too few for global selection, which leaves "
                f"each layer a weight or more, {least} in all; lower the sparsity"
            )

    def kept_counts(
        self, layers: Sequence[LayerSize], keys: Callable[[], Sequence[LayerKeys]], epoch: int | None
    ) -> list[int]:
        """The number of kept weights of each layer.

        Args:
            layers: all that share this rule.
            keys: gives what the layers are compared by; called where the scope is global.
            epoch: 0, 1, …; ``None`` if it is not known.

        Raises:
            ConfigError: there is a ramp, and the epoch is not known.
        """
        if epoch is None and self.ramp_epochs:
            raise ConfigError("ramp: the method counts epochs; give refresh() steps_per_epoch")
        sparsity = self.sparsity_at(epoch or 0)
        if self.scope == "layerwise":
            return [layer.possible(kept_count(layer.selectable, sparsity, layer.name)) for layer in layers]
        kept = min(
            kept_count(sum(layer.selectable for layer in layers), sparsity, "(all)"),
            sum(layer.possible(layer.selectable) for layer in layers),
        )
        floors = [self.floor(layer) for layer in layers]
        return allocate(keys(), max(kept, sum(floors)), floors, self.brackets)
