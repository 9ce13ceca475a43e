"""Plain convolutional networks: Conv-2/4/6/8 and VGG-Small of the supermask papers, and the default net for digits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .activation import activation
from .architecture import Architecture

__all__ = ["ConvNet", "DigitsCNN", "VGGSmall"]


def scaled(channels: int, width: float) -> int:
    """``channels * width``, rounded down as in the papers' code, but at least 1."""
    return max(1, int(channels * width))


def _hidden(layer: nn.Conv2d | nn.Linear, arch: Architecture, *, pool: bool, batch_norm: bool) -> list[nn.Module]:
    """The layer, 2×2 max-pooling, BatchNorm and the activation, in that order.

    Pooling stands before the activation, as in the code of Diffenderfer and Kailkhura: behind it, all values of a
    window are mostly equal if they are ±1, and the gradient of a tie goes to the first of them, whatever its sign was
    computed from. The values are the same in either order, for ReLU the gradients too.
    """
    modules: list[nn.Module] = [layer]
    if pool:
        modules.append(nn.MaxPool2d(2))
    if batch_norm:
        outputs = layer.weight.shape[0]
        kind = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
        modules.append(kind(outputs, affine=arch.affine))
    return [*modules, activation(arch.activation)]


class ConvNet(nn.Module):
    """Conv-``depth``: pairs of 3×3 convolutions, each followed by 2×2 max-pooling, and three linear layers.

    Channels are 64, 128, 256, 512 per pair and 256, 256 in the linear layers, all times ``width``. No biases.
    Source: Frankle & Carbin 2019 (figure 2) and Ramanujan et al. 2020 (Conv-8), both without BatchNorm. With
    ``batch_norm`` it stands in front of every activation, those of the hidden linear layers included: the layout of
    Diffenderfer & Kailkhura (ICLR 2021) for binary activations, from their code (``models/frankle.py``).

    Input float ``[B, in_channels, image_size, image_size]``, output float ``[B, num_classes]``.
    """

    def __init__(self, arch: Architecture, *, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = arch.in_channels
        for index in range(depth):
            out = scaled(64 * 2 ** (index // 2), arch.width)
            layer = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            layers += _hidden(layer, arch, pool=index % 2 == 1, batch_norm=arch.batch_norm)
            channels = out
        hidden = scaled(256, arch.width)
        side = arch.image_size // 2 ** (depth // 2)
        self.features = nn.Sequential(*layers)
        linear = [nn.Linear(inputs, hidden, bias=False) for inputs in (channels * side * side, hidden)]
        self.classifier = nn.Sequential(
            *(module for layer in linear for module in _hidden(layer, arch, pool=False, batch_norm=arch.batch_norm)),
            nn.Linear(hidden, arch.num_classes, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return cast("Tensor", self.classifier(torch.flatten(self.features(x), 1)))


class VGGSmall(nn.Module):
    """VGG-Small: six 3×3 convolutions, each second one followed by 2×2 max-pooling, and one linear layer.

    Channels are 128, 128, 256, 256, 512, 512, all times ``width``. No biases. The four layouts in the code of
    Diffenderfer & Kailkhura (ICLR 2021, ``models/frankle.py``) are those of activation and ``batch_norm``:

    * ``relu`` without: BatchNorm behind pooling only, ReLU behind the first and the last convolution only
      (``VGG_Small``, of their configurations for real activations).
    * ``relu`` with: BatchNorm and ReLU behind every convolution (``Wide_VGG_Small_132``), as VGG networks have it.
    * ``binary`` without: BatchNorm behind pooling only, signs behind every convolution (``VGG_Small_BinAct``).
    * ``binary`` with: BatchNorm and signs behind every convolution (``Wide_VGG_Small``, at width 1.25 their best
      network with binary activations).

    The last activation is a ReLU in all of them.

    Input float ``[B, in_channels, image_size, image_size]``, output float ``[B, num_classes]``.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, last = arch.in_channels, 5
        for index in range(last + 1):
            out = scaled(128 * 2 ** (index // 2), arch.width)
            layer = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            pool = index % 2 == 1
            *modules, act = _hidden(layer, arch, pool=pool, batch_norm=arch.batch_norm or pool)
            layers += modules
            if index == last:
                layers.append(nn.ReLU(inplace=True))
            elif arch.batch_norm or arch.activation == "binary" or index == 0:
                layers.append(act)
            channels = out
        side = arch.image_size // 8
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * side * side, arch.num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return cast("Tensor", self.classifier(torch.flatten(self.features(x), 1)))


class DigitsCNN(nn.Module):
    """The default net for 8×8 digits: three 3×3 convolutions with BatchNorm, two pooled, then a linear layer.

    Wide for its task, because an untrained network needs choice: at ``width`` 1 it has 226,880 weights for
    8×8×1 images and 10 classes.

    Input float ``[B, in_channels, image_size, image_size]``, output float ``[B, num_classes]``.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = arch.in_channels
        for base, pooled in ((64, False), (128, True), (128, True)):
            out = scaled(base, arch.width)
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out, affine=arch.affine),
                *([nn.MaxPool2d(2)] if pooled else []),
                activation(arch.activation),
            ]
            channels = out
        side = arch.image_size // 4
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * side * side, arch.num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return cast("Tensor", self.classifier(torch.flatten(self.features(x), 1)))
