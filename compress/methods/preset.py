"""What a method of the literature is: a few independent choices with a name and a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Criterion", "MethodPreset", "Scope", "Selection", "pruned_first"]

Selection = Literal["signed", "magnitude"]
Scope = Literal["layerwise", "global"]
Criterion = Literal["magnitude", "random", "snip", "grasp", "synflow"]


@dataclass(frozen=True)
class MethodPreset:
    """A method of the literature; whatever is not said is as in edge-popup, or absent.

    Attributes:
        source: where it is defined.
        trains: what gradient descent moves: ``scores`` of frozen random weights, or the ``weights``.
        selection: rule that turns scores into a mask; ``None`` for methods that train weights.
        score_gain: scores start uniform on ±``score_gain / sqrt(fan_in)``.
        binarised: kept weights become α·sign(w).
        resamples: pruned weights are redrawn now and then.
        recycle_every: epochs between two recyclings; 0 = never.
        criterion: what a mask that is found once, at initialisation, keeps the most of; ``None`` for other methods.
        distribution: of the random weights, unless the user says otherwise.
    """

    source: str
    trains: Literal["scores", "weights"] = "scores"
    selection: Selection | None = "magnitude"
    score_gain: float = 1.0
    binarised: bool = False
    resamples: bool = False
    recycle_every: int = 0
    criterion: Criterion | None = None
    distribution: str = "signed-constant"


def pruned_first(source: str, criterion: Criterion) -> MethodPreset:
    """A method that finds its mask at initialisation and then trains the kept weights, which start Kaiming normal."""
    return MethodPreset(source, trains="weights", selection=None, criterion=criterion, distribution="normal")
