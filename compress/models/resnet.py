"""Residual networks in the papers' CIFAR and ImageNet forms.

Sources: He et al. 2016 (ResNet), Zagoruyko & Komodakis 2016 (wide bottlenecks), Ramanujan et al. 2020 and
Chijiwa et al. 2021 (supermask forms: no biases, BatchNorm without affine, a stem that stays 64 wide). Layers
are named as in torchvision, so that tools written for its ResNets find their way.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .activation import activation
from .architecture import Architecture
from .convnets import scaled

__all__ = ["BasicBlock", "Bottleneck", "ResNet"]


def _shortcut(inputs: int, outputs: int, stride: int, affine: bool) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs, affine=affine)
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the first has the stride.

    Input float ``[B, inputs, H, W]``, output float ``[B, channels, H / stride, W / stride]`` (rounded up).
    """

    expansion = 1

    def __init__(self, inputs: int, channels: int, inner: int, stride: int, arch: Architecture) -> None:
        super().__init__()
        affine, self.act = arch.affine, activation(arch.activation)
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, affine=affine)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, affine=affine)
        self.downsample = _shortcut(inputs, channels, stride, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Residual plus shortcut."""
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return cast("Tensor", self.act(out + (x if self.downsample is None else self.downsample(x))))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions beside a shortcut; the 3×3 has the stride.

    Input float ``[B, inputs, H, W]``, output float ``[B, channels, H / stride, W / stride]`` (rounded up).
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, inner: int, stride: int, arch: Architecture) -> None:
        super().__init__()
        affine, self.act = arch.affine, activation(arch.activation)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, affine=affine)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, affine=affine)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels, affine=affine)
        self.downsample = _shortcut(inputs, channels, stride, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Residual plus shortcut."""
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return cast("Tensor", self.act(out + (x if self.downsample is None else self.downsample(x))))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a linear layer without bias.

    Stage ``s`` has ``first * 2**s * width`` base channels; the stem has ``first`` whatever the width. The CIFAR stem
    is a 3×3 convolution, the ImageNet stem a 7×7 one with stride 2 and a 3×3 max-pool with stride 2.

    ResNet-20 and ResNet-32 (three stages from 16 channels; He et al. 2016, section 4.2) have 1×1 convolutions with
    BatchNorm where a shortcut changes its shape, as Diffenderfer & Kailkhura 2021 have it (``models/resnet_cifar.py``
    of their code), so that shortcuts are masked too: option B of He et al., who take option A here, without weights.

    Input float ``[B, in_channels, H, W]``, output float ``[B, num_classes]``.

    Args:
        arch: classes, channels, width, stem, affine, activation.
        block: kind of the residual blocks.
        counts: blocks per stage.
        first: channels of the stem and of the first stage.
        inner_factor: factor on the inner channels of a block (2 in WideResNet-50-2).
    """

    def __init__(
        self,
        arch: Architecture,
        *,
        block: type[BasicBlock | Bottleneck],
        counts: tuple[int, ...],
        first: int = 64,
        inner_factor: int = 1,
    ) -> None:
        super().__init__()
        if arch.stem == "imagenet":
            self.conv1 = nn.Conv2d(arch.in_channels, first, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(arch.in_channels, first, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(first, affine=arch.affine)
        self.act = activation(arch.activation)
        channels = first
        self.stages = [f"layer{stage + 1}" for stage in range(len(counts))]
        for stage, count in enumerate(counts):
            base = scaled(first * 2**stage, arch.width)
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                outputs = base * block.expansion
                blocks.append(block(channels, outputs, base * inner_factor, stride, arch))
                channels = outputs
            self.add_module(self.stages[stage], nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, arch.num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        # The pooling before the activation: see `convnets`.
        x = self.act(self.maxpool(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return cast("Tensor", self.fc(torch.flatten(self.avgpool(x), 1)))
