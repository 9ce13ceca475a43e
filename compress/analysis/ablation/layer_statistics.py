"""What a change of masks or random weights does to a layer, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from ...seedmask import Network
from .altered import start_weights
from .statistics import Moments, ks_statistic, moments, wasserstein

__all__ = ["LayerStatistics", "layer_statistics"]


@dataclass(frozen=True)
class LayerStatistics:
    """A layer of a variant at the moment training starts (a subnetwork: as it is), compared with the baseline.

    Attributes:
        name: of the weight.
        weights: number of weights.
        kept: how many are not pruned.
        kept_weights: mean, standard deviation and excess kurtosis of those.
        mask_changed: share of the bits of the mask that differ.
        changed_by_chance: what that share would be on average for a random permutation, 2k(1 - k) at density k.
        values_changed: of the weights that both keep, the share with another value; ``None`` if there are none.
        ks: Kolmogorov–Smirnov statistic between the kept weights of both; ``None`` if nothing is kept.
        wasserstein: 1-Wasserstein distance between them by the standard deviation in the baseline; ``None`` if nothing
            is kept, or all of it is equal.
    """

    name: str
    weights: int
    kept: int
    kept_weights: Moments
    mask_changed: float
    changed_by_chance: float
    values_changed: float | None
    ks: float | None
    wasserstein: float | None


def layer_statistics(network: Network, original: Network, index: int) -> LayerStatistics:
    """Compare a layer of a changed network with that of the original.

    Args:
        network: the changed one.
        original: it has the same tensors.
        index: of the layer.
    """
    tensor, mask, before = network.tensors[index], network.tensors[index].mask, original.tensors[index].mask
    weights, start = start_weights(network, index), start_weights(original, index)
    kept, kept_before = weights[mask], start[before]
    both, density = mask & before, int(before.sum()) / tensor.weights
    distance, spread = wasserstein(kept, kept_before), moments(kept_before).std
    return LayerStatistics(
        name=tensor.name,
        weights=tensor.weights,
        kept=len(kept),
        kept_weights=moments(kept),
        mask_changed=float((mask != before).mean()),
        changed_by_chance=2 * density * (1 - density),
        values_changed=float((weights[both] != start[both]).mean()) if both.any() else None,
        ks=ks_statistic(kept, kept_before),
        wasserstein=distance / spread if distance is not None and spread else None,
    )
