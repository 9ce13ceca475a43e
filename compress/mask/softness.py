"""Soft masks: while training begins, a sigmoid around the threshold stands for the mask, and gets steeper.

Weights near the threshold then count in part, those far from it as ever, so that the network notices what it would have
of a weight before the mask takes it. From some share of the steps on masks are hard; files, evaluation and `to_dense`
have hard masks at any time. The gradient of the scores is the straight-through one.

Sources: Savarese, Silva, Maire, "Winning the lottery with continuous sparsification", NeurIPS 2020, anneal sigmoids
(around 0, with their own gradient); the straight-through gradient is Ramanujan et al.'s, CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .topk import Fixed, selection_keys

__all__ = ["soft_share", "width_at"]


def width_at(softness: float, until: float, done: float) -> float:
    """Width of the sigmoid when a share ``done`` of the steps is done, in standard deviations of the keys: a line to 0.

    Args:
        softness: the width at the start.
        until: share of the steps from which masks are hard.
        done: share of the steps that are done.
    """
    return softness * max(0.0, 1 - done / until)


def soft_share(scores: Tensor, mask: Tensor, width: Tensor, selection: str, fixed: Fixed | None) -> Tensor:
    """How much each weight counts, float ``[n]`` in [0, 1]: ½ at the threshold.

    Args:
        scores: float ``[n]``.
        mask: bool ``[n]``, with the weights that a hard mask keeps.
        width: of the sigmoid, above 0, a scalar: in standard deviations of what scores are compared by.
        selection: rule from scores to mask, see `selection_keys`.
        fixed: weights that are pruned, and kept, whatever their scores; they count 0 and 1.
    """
    spread = selection_keys(scores, selection).std(correction=0).clamp_min(torch.finfo(scores.dtype).tiny)
    keys = selection_keys(scores, selection, fixed)
    threshold = torch.where(mask, keys, torch.inf).amin()
    share = torch.sigmoid((keys - threshold) / (width * spread))
    return torch.where(keys == torch.inf, 1.0, share)  # also where all that is kept is fixed
