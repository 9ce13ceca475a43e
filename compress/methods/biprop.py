"""Biprop: kept weights are binarised, w_eff = α·m·sign(w) with α the mean magnitude of the kept weights of the layer.

The gradient goes to the scores as in edge-popup, with the weights as they were before they were binarised.

Source: Diffenderfer and Kailkhura, "Multi-prize lottery ticket hypothesis: finding accurate binary neural networks by
pruning a randomly weighted network", ICLR 2021, Algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["alpha"]


def alpha(codes: Tensor, mask: Tensor, scale: float, kept: int) -> Tensor:
    """α of a layer, a float32 scalar: Σ|w|·m over the number of kept weights.

    The sum is over whole numbers, so it is exact in any order and α has the same bits on every device.

    Args:
        codes: int8 ``[n]``, the weights in units of ``scale``.
        mask: bool ``[n]``.
        scale: float32 value of a unit.
        kept: number of true entries in ``mask``.
    """
    total = torch.where(mask, codes.abs(), 0).sum(dtype=torch.int64)
    return (total.to(torch.float64) * scale / kept).to(torch.float32)
