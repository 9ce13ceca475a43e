"""Signed supermasks: scores choose which weights are kept, and their signs which of these are inverted.

A layer keeps the weights with the largest absolute scores, and takes those with a negative score as -w. So the mask has
three values: keep, hide, invert. The gradient passes straight through it: ∂L/∂s = ∂L/∂w_eff · w, without the sign of
the score that edge-popup has.

With v = s·sign(w), the effective weight is sign(v)·|w|, the mask goes by |v|, and ∂L/∂v = ∂L/∂w_eff · |w|: only v
matters. At the start half of the v are negative, because half of the w are, whatever the signs of the scores. So the
scores start positive, which inverts nothing: the log of the file begins empty, and holds the signs that training
changed. With random signs it would take one bit for each kept weight from the start, for the same networks.

Source: Koster, Grothe, Rettinger, "Signing the supermask: keep, hide, invert", ICLR 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["inverted_bytes", "signed_mask"]


def signed_mask(mask: Tensor, scores: Tensor) -> Tensor:
    """What the weights are multiplied with, int8 ``[n]``: 1 = keep, 0 = hide, -1 = invert, or multiples of these.

    Args:
        mask: bool, or uint8: how many of several nested masks keep each weight, up to 127; ``[n]``.
        scores: float ``[n]``; those below 0 invert.
    """
    factors = mask.view(torch.int8)
    return torch.where(scores < 0, -factors, factors)


def inverted_bytes(raw: Tensor, scores: Tensor) -> Tensor:
    """The bytes that stand for the weights as they are taken, uint8 ``[n]``.

    In every codebook, byte 255 - b stands for the negative of what byte b stands for.

    Args:
        raw: uint8 ``[n]``, the bytes of the random weights.
        scores: float ``[n]``; those below 0 invert.
    """
    return torch.where(scores < 0, ~raw, raw)
