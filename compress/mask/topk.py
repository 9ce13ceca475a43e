"""Which weights are kept: from scores to a mask, exactly, on any device, without a host read-back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .topk_cpu import HostKeys, host_counts, host_mask, host_mask_operator, new_bracket

__all__ = [
    "Fixed",
    "LayerKeys",
    "allocate",
    "device_mask",
    "kept_count",
    "nested_counts",
    "select",
    "selection_keys",
    "topk_mask",
]

#: Weights that are pruned and weights that are kept whatever their scores, bool ``[n]`` each.
Fixed = tuple[Tensor, Tensor]


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


def selection_keys(scores: Tensor, selection: str, fixed: Fixed | None = None) -> Tensor:
    """What is sorted by, float ``[n]``: the largest are kept.

    Args:
        scores: float ``[n]``.
        selection: ``signed`` keeps the largest scores (IteRand's code), ``magnitude`` and ``invert`` the largest
            absolute scores (edge-popup, Ramanujan et al. 2020, section 3).
        fixed: weights that are pruned, or kept, whatever their scores, bool ``[n]`` each.
    """
    keys = scores if selection == "signed" else scores.abs()
    if fixed is None:
        return keys
    pruned, kept = fixed
    return keys.masked_fill(pruned, -math.inf).masked_fill(kept, math.inf)


def select(
    scores: Tensor, kept: int, selection: str, fixed: Fixed | None = None, bracket: Tensor | None = None
) -> Tensor:
    """The mask of one layer, bool ``[n]``; see `selection_keys`.

    ``bracket`` is what a CPU remembers of the layer (`new_bracket`), to be quicker the next time.
    """
    if kept in (0, scores.numel()):
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    if scores.device.type == "cpu":
        pruned, always = fixed or (None, None)
        memory = new_bracket() if bracket is None else bracket
        traced = torch.compiler.is_compiling() or type(scores) not in (Tensor, torch.nn.Parameter)
        search = host_mask_operator if traced else host_mask
        mask: Tensor = search(scores, kept, selection != "signed", pruned, always, memory)
        return mask
    return device_mask(selection_keys(scores, selection, fixed), kept)


def nested_counts(kept: int, multiplicity: int) -> list[int]:
    """How many weights each of ``multiplicity`` nested masks keeps: ``kept``, and each one an equal share less."""
    return [-(-kept * (multiplicity - i) // multiplicity) for i in range(multiplicity)]


@dataclass(frozen=True)
class LayerKeys:
    """What the weights of one layer are compared by with those of other layers.

    Attributes:
        scores: float ``[n]``.
        selection: see `selection_keys`.
        fixed: see `selection_keys`.
        unit: what the keys of the selection are divided by: the bound of the layer's initial scores.
    """

    scores: Tensor
    selection: str
    fixed: Fixed | None
    unit: float

    def values(self) -> Tensor:
        """The keys, float ``[n]``, of the type of the scores."""
        return selection_keys(self.scores, self.selection, self.fixed) / self.unit

    def on_host(self) -> HostKeys:
        """The keys without a copy of them, on a CPU."""
        pruned, always = self.fixed or (None, None)
        return HostKeys(self.scores, pruned, always, magnitude=self.selection != "signed", unit=self.unit)


def allocate(
    layers: Sequence[LayerKeys], kept: int, floors: Sequence[int], brackets: list[Tensor] | None = None
) -> list[int]:
    """How many weights each layer keeps if one threshold holds for all of them, but no layer may collapse.

    Layers that would keep fewer than their floors keep just that, and the others share the remaining ones, again by
    one threshold, and so on.

    Args:
        layers: of equal keys that of the earlier layer is kept.
        kept: number of weights that all layers together keep, at least the sum of the floors.
        floors: the least number for each layer.
        brackets: what a CPU remembers of each threshold (`new_bracket`), to be quicker the next time; it grows as
            needed. It changes no result.
    """
    brackets = [] if brackets is None else brackets
    counts: dict[int, int] = {}
    for threshold in itertools.count():
        free = [i for i in range(len(layers)) if i not in counts]
        if not free:
            break
        if len(brackets) == threshold:
            brackets.append(new_bracket())
        shares = _shares([layers[i] for i in free], kept - sum(counts.values()), brackets[threshold])
        wanted = dict(zip(free, shares, strict=True))
        counts |= {i: floors[i] for i in free if wanted[i] < floors[i]} or wanted
    return [counts[i] for i in range(len(layers))]


def _shares(layers: Sequence[LayerKeys], kept: int, bracket: Tensor) -> list[int]:
    """How many of the ``kept`` largest keys of all layers each layer has; reads back from a GPU."""
    counts = None
    if all(layer.scores.device.type == "cpu" for layer in layers):
        counts = host_counts([layer.on_host() for layer in layers], kept, bracket)
    if counts is None:
        mask = topk_mask(torch.cat([layer.values() for layer in layers]), kept)
        own = torch.split(mask, [layer.scores.numel() for layer in layers])
        counts = torch.stack([chosen.sum() for chosen in own]).tolist()
    return counts


def topk_mask(keys: Tensor, kept: int) -> Tensor:
    """Mark the ``kept`` largest of ``keys``; of equal keys the one with the lower index is kept.

    Args:
        keys: float ``[n]``, no NaN.
        kept: from 0 to n.

    Returns:
        bool ``[n]`` with exactly ``kept`` true entries.
    """
    return select(keys, kept, "signed")


def device_mask(keys: Tensor, kept: int) -> Tensor:
    """The same as `topk_mask`, without a value read back to the host, so that a GPU never waits."""
    threshold = keys.kthvalue(keys.numel() - kept + 1).values
    above = keys > threshold
    tied = keys == threshold
    missing = kept - above.sum()
    return above | (tied & (tied.cumsum(0, dtype=torch.int32) <= missing))
