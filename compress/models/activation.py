"""Activations: ReLU, GELU, and the binary one of Biprop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

__all__ = ["BinaryActivation", "activation"]


class _Sign(torch.autograd.Function):
    """1 where x is at least 0, else -1; with the gradient of a piecewise quadratic step, 2·(1 - |clip(x, -1, 1)|)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        gradient: Tensor = grad * 2 * (1 - x.clamp(-1, 1).abs())
        return gradient


def _sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class BinaryActivation(nn.Module):
    """±1 of any shape; while training, with the gradient of Diffenderfer and Kailkhura (ICLR 2021, appendix)."""

    def forward(self, x: Tensor) -> Tensor:
        """1 where x is at least 0, else -1."""
        if self.training:
            signs: Tensor = _Sign.apply(x)  # type: ignore[no-untyped-call]
            return signs
        return _sign(x)


def activation(name: str) -> nn.Module:
    """The module for ``relu``, ``gelu`` or ``binary``."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": partial(nn.ReLU, inplace=True),
        "gelu": nn.GELU,
        "binary": BinaryActivation,
    }
    return kinds[name]()
