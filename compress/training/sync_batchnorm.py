"""BatchNorm over the batch of all processes, not over the shard of each.

On GPUs this is torch's own. That one refuses tensors of the CPU, for which there is a small one here, with the same
results as ``torch.nn.BatchNorm`` has on the whole batch, up to rounding; shards may have different sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from .distributed import Group

__all__ = ["SyncBatchNorm", "synchronise_batchnorm"]

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronise_batchnorm(model: nn.Module, group: Group, device: torch.device) -> None:
    """Let each BatchNorm in a model, in place, normalise by the batch of all processes; with one, nothing changes.

    Parameters, buffers and their names stay, so the state dict is that of the plain model.
    """
    if group.size == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model, group.channel(device))  # type: ignore[no-untyped-call]
        return
    # torch.compile leaves it as it is. Here and not as a decorator, which loads the compiler for every run; and on the
    # class, as copies of a layer would share what is bound to it.
    SyncBatchNorm.forward = torch.compiler.disable(_forward)  # type: ignore[method-assign,no-untyped-call]
    for layer in model.modules():
        if type(layer) in _KINDS:
            layer.__class__ = SyncBatchNorm
            layer.group = group  # type: ignore[assignment]


class SyncBatchNorm(_BatchNorm):
    """A BatchNorm whose statistics are those of the batch of all processes.

    Attributes:
        group: the processes.
    """

    group: Group

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's name)
        if input.dim() < 2:
            raise ValueError(f"BatchNorm: expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Normalise ``[B, C, …]`` by the statistics of all shards; in evaluation mode, by the running ones."""
        self._check_input_dim(input)
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        result: tuple[Tensor, Tensor, Tensor, Tensor] = _Normalised.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps, self.group.channel(input.device)
        )
        output, mean, variance, count = result
        if self.training and self.track_running_stats:
            self._remember(mean, variance, count)
        return output

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked or 1)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            if running is not None:
                running.lerp_(value.to(running.dtype), momentum)


_forward = SyncBatchNorm.forward


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) · weight + bias over all processes; also mean, variance and count (float64)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, channel: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = x if x.dtype == torch.float64 else x.float()
        axes, channels = _axes(x), x.shape[1]
        variance, mean = torch.var_mean(values, axes, correction=0)
        variance, mean = variance.double(), mean.double()
        # Of each shard: count, sum and sum of squares, in double precision, so that their difference loses nothing.
        count = torch.full((1,), x.numel() // channels, dtype=torch.float64, device=x.device)
        sums = torch.cat((count, count * mean, count * (variance + mean.square())))
        dist.all_reduce(sums, group=channel)
        count, mean = sums[0], sums[1 : channels + 1] / sums[0]
        variance = (sums[channels + 1 :] / count - mean.square()).clamp_min(0)
        factor = (variance + eps).rsqrt()
        # The input, not what is made of it: that may be the output, and is lost to an activation that works in place.
        ctx.save_for_backward(x, mean, factor, count, weight)
        ctx.channel, ctx.has_bias = channel, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        output, shape = _normal(values, mean, factor), _shape(x)
        if weight is not None:
            output = output * weight.view(shape)
        if bias is not None:
            output = output + bias.view(shape)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, mean, factor, count, weight = ctx.saved_tensors
        normal = _normal(x if x.dtype == torch.float64 else x.float(), mean, factor)
        values, shape, axes = grad.to(normal.dtype), _shape(x), _axes(x)
        of_bias, of_weight = values.sum(axes), (values * normal).sum(axes)
        sums = torch.cat((of_bias, of_weight)).double()
        dist.all_reduce(sums, group=ctx.channel)
        offset, slope = (sums / count).to(normal.dtype).chunk(2)
        scale = factor.to(normal.dtype) if weight is None else factor.to(normal.dtype) * weight
        result = (values - offset.view(shape) - normal * slope.view(shape)) * scale.view(shape)
        return (
            result.to(grad.dtype),
            of_weight if weight is not None else None,
            of_bias if ctx.has_bias else None,
            None,
            None,
        )


def _normal(values: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    shape = _shape(values)
    return (values - mean.to(values.dtype).view(shape)) * factor.to(values.dtype).view(shape)


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _shape(x: Tensor) -> list[int]:
    return [1, -1] + [1] * (x.dim() - 2)
