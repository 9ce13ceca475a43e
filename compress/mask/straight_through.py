"""From random codes and a mask to the weight that a layer computes with, and from its gradient to that of the scores.

Source: Ramanujan et al., "What's hidden in a randomly weighted neural network?", CVPR 2020, section 3: the gradient
passes straight through the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..methods.biprop import alpha
from .kernels import score_gradient
from .spec import WeightSpec
from .stages import stage
from .topk_cpu import CHUNK

__all__ = ["CachedWeight", "StraightThrough", "effective_weight"]


class StraightThrough(torch.autograd.Function):
    """The effective weight; the gradient reaches the scores as if the mask were the scores."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        scores: Tensor,
        codes: Tensor,
        mask: Tensor,
        factors: Tensor | None,
        share: Tensor | None,
        spec: WeightSpec,
    ) -> Tensor:
        """See `effective_weight`; ``scores``, float ``[n]``, give it its dtype, ``share`` the share of each weight."""
        saved = (codes, scores) if spec.selection == "magnitude" else (codes,)
        ctx.save_for_backward(*saved)
        ctx.scale = spec.scale  # type: ignore[attr-defined]
        with stage("masking"):
            weight = effective_weight(codes, mask, factors, spec, scores.dtype)
            return weight if share is None else weight * share

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # type: ignore[override]
        """Gradient of the loss times the random weight, and times the sign of the score for ``magnitude``."""
        codes, *scores = ctx.saved_tensors
        with stage("masking"):
            gradient = _score_gradient(grad, codes, ctx.scale, scores[0] if scores else None)
        return gradient, None, None, None, None, None


class CachedWeight(torch.autograd.Function):
    """An effective weight that was computed before, together with all others of its network (see ``fused.py``)."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor, codes: Tensor, weight: Tensor, spec: WeightSpec) -> Tensor:
        """The weight, of the layer's shape, float32 or bfloat16."""
        saved = (codes, scores) if spec.selection == "magnitude" else (codes,)
        ctx.save_for_backward(*saved)
        ctx.scale = spec.scale  # type: ignore[attr-defined]
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        """As that of `StraightThrough`; the gradient, like the weight, may have its channels last."""
        codes, *scores = ctx.saved_tensors
        signs = scores[0] if scores else None
        if torch.compiler.is_compiling():
            return _score_gradient(grad.float().reshape(-1), codes, ctx.scale, signs), None, None, None
        with stage("masking"):
            kernel = None
            if grad.dim() == 4 and not grad.is_contiguous():
                kernel = (grad.shape[1], grad.shape[2] * grad.shape[3])
                grad = grad.permute(0, 2, 3, 1)
            gradient = score_gradient(grad.contiguous(), codes, ctx.scale, signs, kernel=kernel)
        return gradient, None, None, None


def effective_weight(
    codes: Tensor, mask: Tensor, factors: Tensor | None, spec: WeightSpec, dtype: torch.dtype
) -> Tensor:
    """The weight that the layer computes with, flat: +0 where pruned, else a multiple of the random weight or of ±α.

    Args:
        codes: int8 ``[n]``, the random weights in units of the scale.
        mask: bool ``[n]``.
        factors: int8 ``[n]``, how many times each weight is taken, negative if inverted, 0 where pruned; ``None`` = as
            the mask says. A code times its factor fits int8.
        spec: of the layer.
        dtype: of the result; other types than float32 are rounded once, from float32.
    """
    scale: Tensor | float = spec.scale
    if spec.binarised:
        scale = alpha(codes, mask, spec.scale, spec.kept)
        codes = codes.sign()
    # Multiplied in integers, where a product with 0 has no sign: a recovered pruned weight is +0, never -0.
    factors = mask.view(torch.int8) if factors is None else factors
    if _on_host(codes, dtype):
        return _host_product(codes, factors, float(scale))
    return ((codes * factors).to(torch.float32) * scale).to(dtype)


def _score_gradient(grad: Tensor, codes: Tensor, scale: float, scores: Tensor | None) -> Tensor:
    if _on_host(codes, grad.dtype):
        return _host_gradient(grad, codes, scale, scores)
    gradient = grad * (codes.to(torch.float32) * scale).to(grad.dtype)
    return gradient if scores is None else gradient * scores.sign()


def _on_host(codes: Tensor, dtype: torch.dtype) -> bool:
    """Whether to go through a layer in chunks: a quarter of the time on a CPU, where temporaries leave the cache."""
    return codes.device.type == "cpu" and dtype == torch.float32 and not torch.compiler.is_compiling()


def _host_product(codes: Tensor, factors: Tensor, scale: float) -> Tensor:
    out = torch.empty(codes.shape, dtype=torch.float32, device="cpu")
    scratch = torch.empty(min(CHUNK, len(codes)), dtype=torch.int8, device="cpu")
    chunks = (torch.split(values, CHUNK) for values in (codes, factors, out))
    for code, factor, product in zip(*chunks, strict=True):
        product.copy_(torch.mul(code, factor, out=scratch[: len(code)])).mul_(scale)
    return out


def _host_gradient(grad: Tensor, codes: Tensor, scale: float, scores: Tensor | None) -> Tensor:
    out = torch.empty_like(grad)
    scratch = torch.empty(min(CHUNK, len(codes)), dtype=torch.float32, device="cpu")
    chunks = [torch.split(values, CHUNK) for values in (grad, codes, out)]
    signs = torch.split(scores, CHUNK) if scores is not None else [None] * len(chunks[0])
    for above, code, gradient, sign in zip(*chunks, signs, strict=True):
        weight = scratch[: len(code)].copy_(code).mul_(scale)
        torch.mul(above, weight, out=gradient)
        if sign is not None:
            gradient.mul_(torch.sign(sign, out=weight))
    return out
