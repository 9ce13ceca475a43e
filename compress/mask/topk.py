"""Which weights are kept: from scores to a mask, exactly, on any device, without a host read-back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from .topk_cpu import host_mask, host_mask_operator, new_bracket

__all__ = ["Fixed", "allocate", "coat_sizes", "device_mask", "kept_count", "select", "selection_keys", "topk_mask"]

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
        selection: ``signed`` keeps the largest scores (IteRand's code), ``magnitude`` the largest absolute
            scores (edge-popup, Ramanujan et al. 2020, section 3).
        fixed: weights that are pruned, or kept, whatever their scores, bool ``[n]`` each.
    """
    keys = scores.abs() if selection == "magnitude" else scores
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
        looked_at = torch.compiler.is_compiling() or type(scores) not in (Tensor, torch.nn.Parameter)
        find = host_mask_operator if looked_at else host_mask
        mask: Tensor = find(scores, kept, selection == "magnitude", pruned, always, memory)
        return mask
    return device_mask(selection_keys(scores, selection, fixed), kept)


def coat_sizes(kept: int, coats: int) -> list[int]:
    """How many weights each of ``coats`` nested masks keeps: ``kept``, and from coat to coat a ``coats``-th less."""
    return [-(-kept * (coats - i) // coats) for i in range(coats)]


def allocate(keys: Sequence[Tensor], kept: int, floors: Sequence[int]) -> list[int]:
    """How many weights each layer keeps if one threshold holds for all of them, but no layer may collapse.

    Layers that would keep fewer than their floors keep just that, and the others share what is left, again by one
    threshold.

    Args:
        keys: float ``[n]`` for each layer, see `selection_keys`; of equal keys that of the earlier layer is kept.
        kept: of all layers together, at least the sum of the floors.
        floors: the least number for each layer.
    """
    found: dict[int, int] = {}
    while len(found) < len(keys):
        free = [i for i in range(len(keys)) if i not in found]
        left = kept - sum(found.values())
        parts = [keys[i] for i in free]
        mask = topk_mask(torch.cat(parts), left)
        counts = torch.stack([part.sum() for part in torch.split(mask, [part.numel() for part in parts])]).tolist()
        wanted = dict(zip(free, counts, strict=True))
        found |= {i: floors[i] for i in free if wanted[i] < floors[i]} or wanted
    return [found[i] for i in range(len(keys))]


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
    """Without a look at any value from the host, so that a GPU never waits."""
    threshold = keys.kthvalue(keys.numel() - kept + 1).values
    above = keys > threshold
    tied = keys == threshold
    room = kept - above.sum()
    return above | (tied & (tied.cumsum(0, dtype=torch.int32) <= room))
