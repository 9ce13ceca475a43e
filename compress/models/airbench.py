"""The convolutional network of the airbench line: small, and quick to train."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activation import activation
from .architecture import Architecture
from .convnets import scaled

__all__ = ["Airbench", "Whitening", "fit_whitening", "has_whitening"]

#: What logits are multiplied by: random weights cannot shrink, and the loss should start where logits are small.
LOGIT_SCALE = 0.3
#: Side of the patches that are whitened, and what keeps directions without variance finite.
_PATCH, _EPSILON = 2, 5e-4
# Images at a time.
_AT_ONCE = 256


class Whitening(nn.Module):
    """Makes the pixels of 2×2 patches uncorrelated, of unit variance: a convolution that is not trained.

    Its filters are the eigenvectors of the covariance of patches, each divided by the root of its eigenvalue, and their
    negatives, which the next activation cuts at the other side. Only the former are parameters (``weight``, float
    ``[4·C, C, 2, 2]``, ``requires_grad`` off); a bias for each output, float ``[8·C]``, is trained. Until
    `fit_whitening` has seen images, each filter passes on one pixel.

    Source: Page, "How to train your ResNet 8", 2019; Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024,
    section 3.2.

    Input float ``[B, C, H, W]``, output float ``[B, 8·C, H - 1, W - 1]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = channels * _PATCH**2
        self.weight = nn.Parameter(torch.eye(size).view(size, channels, _PATCH, _PATCH), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(2 * size))

    def forward(self, x: Tensor) -> Tensor:
        """The whitened patches and their negatives, plus the bias."""
        out = F.conv2d(x, self.weight)
        return torch.cat((out, -out), dim=1) + self.bias.view(-1, 1, 1)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Choose the filters for images, normalised float ``[n, C, H, W]``."""
        channels = self.weight.shape[1]
        size = channels * _PATCH**2
        covariance, count = torch.zeros(size, size, dtype=torch.float64, device=images.device), 0
        for some in torch.split(images, _AT_ONCE):
            patches = F.unfold(some.double(), _PATCH).transpose(1, 2).reshape(-1, size)
            covariance += patches.T @ patches
            count += len(patches)
        values, vectors = torch.linalg.eigh(covariance / count)
        # Largest variance first; of the two signs, the one whose largest entry is positive.
        filters = (vectors / (values + _EPSILON).sqrt()).T.flip(0)
        largest = filters.gather(1, filters.abs().argmax(dim=1, keepdim=True))
        self.weight.copy_((filters * largest.sign()).view_as(self.weight))


def has_whitening(model: nn.Module) -> bool:
    """Whether a model has layers that `fit_whitening` is for."""
    return any(isinstance(module, Whitening) for module in model.modules())


def fit_whitening(model: nn.Module, images: Tensor) -> None:
    """Choose the filters of the whitening layers of a model for normalised images, float ``[n, C, H, W]``."""
    for module in model.modules():
        if isinstance(module, Whitening):
            module.fit(images.to(module.weight.device))


class Airbench(nn.Module):
    """Whitening, and three groups conv – pool – BatchNorm – GELU – conv – BatchNorm – GELU; a maximum; a linear layer.

    The groups have 64, 256 and 256 channels, all times ``width``: 1,970,176 weights at width 1 for 32×32 RGB images and
    10 classes, 496,640 at 0.5. Source: Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024 (airbench94).
    Here the logits are multiplied by 0.3, for random weights are larger than trained ones, and BatchNorm may have
    scales (``affine``).

    Input float ``[B, in_channels, image_size, image_size]``, output float ``[B, num_classes]``.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        channels = 2 * _PATCH**2 * arch.in_channels
        self.whitening = Whitening(arch.in_channels)
        layers: list[nn.Module] = [activation(arch.activation)]
        for base in (64, 256, 256):
            out = scaled(base, arch.width)
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(out, momentum=0.4, affine=arch.affine),
                activation(arch.activation),
                nn.Conv2d(out, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out, momentum=0.4, affine=arch.affine),
                activation(arch.activation),
            ]
            channels = out
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, arch.num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return cast("Tensor", self.classifier(self.features(self.whitening(x))) * LOGIT_SCALE)
