"""Plain convolutional networks: Conv-2/4/6/8 of the supermask papers, and the default net for the digits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .activation import activation
from .architecture import Architecture

__all__ = ["ConvNet", "DigitsCNN"]


def scaled(channels: int, width: float) -> int:
    """``channels * width``, rounded down as in the papers' code, but at least 1."""
    return max(1, int(channels * width))


class ConvNet(nn.Module):
    """Conv-``depth``: pairs of 3×3 convolutions, each followed by 2×2 max-pooling, and three linear layers.

    Channels are 64, 128, 256, 512 per pair and 256, 256 in the linear layers, all times ``width``. No biases
    and no BatchNorm. Source: Frankle & Carbin 2019 (figure 2) and Ramanujan et al. 2020 (Conv-8).

    Input float ``[B, in_channels, image_size, image_size]``, output float ``[B, num_classes]``.
    """

    def __init__(self, arch: Architecture, *, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = arch.in_channels
        for pair in range(depth // 2):
            out = scaled(64 * 2**pair, arch.width)
            for inputs in (channels, out):
                layers += [nn.Conv2d(inputs, out, 3, padding=1, bias=False), activation(arch.activation)]
            layers.append(nn.MaxPool2d(2))
            channels = out
        hidden = scaled(256, arch.width)
        side = arch.image_size // 2 ** (depth // 2)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden, bias=False),
            activation(arch.activation),
            nn.Linear(hidden, hidden, bias=False),
            activation(arch.activation),
            nn.Linear(hidden, arch.num_classes, bias=False),
        )

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
                activation(arch.activation),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            channels = out
        side = arch.image_size // 4
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * side * side, arch.num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return cast("Tensor", self.classifier(torch.flatten(self.features(x), 1)))
