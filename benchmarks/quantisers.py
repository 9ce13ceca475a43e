"""Weights in few bits: how a tensor of weights becomes symbols and scales, and how it learns to.

brevitas 0.13.4 was tried with torch 2.14.1: its layers train binary, ternary and 4-bit weights by straight-through
gradients, under bfloat16 autocast as well. The binary and the ternary quantiser that were tried have one constant scale
for a tensor, where these have one for each output channel, of the formulas below; and its layers would have to take the
place of ours in every checkpoint. torchao was not tried.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["QUANTISERS", "SYMBOL_BITS", "Pruned", "attach", "quantised"]

#: Symbols are signed integers, one for each weight; scales are float ``[outputs]``, one for each output channel.
Quantiser = Callable[[Tensor], tuple[Tensor, Tensor]]


def binary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sign, times the mean magnitude of the channel. Source: Rastegari et al., "XNOR-Net", 2016, equation 6."""
    rows = weight.flatten(1)
    return torch.where(rows >= 0, 1.0, -1.0), rows.abs().mean(dim=1)


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sign where the magnitude is above 0.7 times its mean, else 0; times the mean magnitude of those above.

    Source: Li, Zhang, Liu, "Ternary Weight Networks", 2016, section 2.2; here for each channel.
    """
    rows = weight.flatten(1)
    size = rows.abs()
    kept = size > 0.7 * size.mean(dim=1, keepdim=True)
    scales = (size * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    return rows.sign() * kept, scales


def integers(largest: int) -> Quantiser:
    """Integers from ``-largest`` to ``largest``; the largest magnitude of a channel becomes ``largest``.

    Source: Jacob et al., "Quantization and training of neural networks", 2018; symmetric, for each channel.
    """

    def quantiser(weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = weight.flatten(1)
        scales = rows.abs().amax(dim=1).clamp(min=1e-12) / largest
        return (rows / scales[:, None]).round().clamp(-largest, largest), scales

    return quantiser


int4, int8 = integers(7), integers(127)
#: By method; those whose name begins with ``pruned`` train with `Pruned` and are stored as int8.
QUANTISERS: dict[str, Quantiser] = {"binary": binary, "ternary": ternary, "int4": int4, "int8": int8}
#: Bits of a symbol.
SYMBOL_BITS = {"binary": 1, "ternary": 2, "int4": 4, "int8": 8}


def quantised(quantiser: Quantiser, weight: Tensor) -> Tensor:
    """The weights that the symbols stand for; gradients pass straight through (Bengio et al., 2013)."""
    symbols, scales = quantiser(weight.detach())
    return weight + ((symbols * scales[:, None]).view_as(weight) - weight).detach()


class Pruned:
    """Keeps the largest magnitudes of each layer; the sparsity grows from 0 to its end between 1/6 and 2/3 of training.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, equation 1.

    Attributes:
        sparsity: in the end.
        done: fraction of all steps that are done.
    """

    def __init__(self, sparsity: float, done: float = 1.0) -> None:
        self.sparsity, self.done = sparsity, done

    def __call__(self, weight: Tensor) -> Tensor:
        """The kept weights, and 0 elsewhere."""
        along = min(max((self.done - 1 / 6) / (2 / 3 - 1 / 6), 0.0), 1.0)
        dropped = round(self.sparsity * (1 - (1 - along) ** 3) * weight.numel())
        if not dropped:
            return weight
        size = weight.detach().abs().flatten()
        mask = torch.ones_like(size)
        mask[size.topk(dropped, largest=False).indices] = 0
        return weight * mask.view_as(weight)


class _Conv2d(nn.Conv2d):
    through: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.through(self.weight), self.bias)


class _Linear(nn.Linear):
    through: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.through(self.weight), self.bias)


def attach(model: nn.Module, through: Callable[[Tensor], Tensor]) -> nn.Module:
    """Let convolutions and linear layers compute with ``through(weight)``.

    Parameters and their names stay, unlike with torch's parametrizations: a checkpoint holds the latent weights.
    """
    for module in model.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.__class__ = _Conv2d if isinstance(module, nn.Conv2d) else _Linear
            module.through = through  # type: ignore[assignment]
    return model
