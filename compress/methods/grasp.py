"""GraSP: prune what hinders the flow of gradients, the weights with the highest -w·(Hg).

H is the Hessian of the loss and g its gradient; the logits are divided by a temperature of 200.

Source: Wang, Zhang, Grosse, "Picking winning tickets before training by preserving gradient flow", ICLR 2020,
equation 8 and Algorithm 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["TEMPERATURE", "scores"]

TEMPERATURE = 200.0


def scores(logits: Tensor, labels: Tensor, weights: list[Tensor]) -> list[Tensor | None]:
    """``w·(Hg)`` of each layer, so that the highest are kept; ``None`` where no gradient arrives.

    Args:
        logits: float ``[B, classes]``, computed from ``weights``.
        labels: int64 ``[B]``.
        weights: one tensor a layer.
    """
    loss = F.cross_entropy(logits / TEMPERATURE, labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    reached = [g for g in gradients if g is not None and g.requires_grad]
    if not reached:
        return [None] * len(weights)
    # The derivative of g·stop(g) is Hg.
    products = torch.autograd.grad(
        torch.stack([(g * g.detach()).sum() for g in reached]).sum(), weights, allow_unused=True
    )
    return [
        None if g is None else torch.zeros_like(w) if h is None else w.detach() * h
        for w, g, h in zip(weights, gradients, products, strict=True)
    ]
