"""From an architecture to a network: the registry of built-in models, and the way out to others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from ..errors import ConfigError, did_you_mean
from .architecture import (
    FAMILIES,
    STEMS,
    TEXT_MODELS,
    TORCHVISION,
    AnyArchitecture,
    Architecture,
    TextArchitecture,
    model_names,
)
from .convnets import ConvNet, DigitsCNN
from .external import from_factory, from_torchvision
from .resnet import BasicBlock, Bottleneck, ResNet
from .transformer import TextTransformer

__all__ = ["BUILDERS", "TEXT_BUILDERS", "build"]

BUILDERS: dict[str, Callable[[Architecture], nn.Module]] = {
    "digits-cnn": DigitsCNN,
    "conv2": partial(ConvNet, depth=2),
    "conv4": partial(ConvNet, depth=4),
    "conv6": partial(ConvNet, depth=6),
    "conv8": partial(ConvNet, depth=8),
    "resnet18": partial(ResNet, block=BasicBlock, counts=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, block=BasicBlock, counts=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, block=Bottleneck, counts=(3, 4, 6, 3)),
    "resnet101": partial(ResNet, block=Bottleneck, counts=(3, 4, 23, 3)),
    "wideresnet50-2": partial(ResNet, block=Bottleneck, counts=(3, 4, 6, 3), inner_factor=2),
}
TEXT_BUILDERS: dict[str, Callable[[TextArchitecture], nn.Module]] = {
    "text-transformer": partial(TextTransformer, depth=2),
}


def build(arch: AnyArchitecture, *, allow_import: bool) -> nn.Module:
    """See ``build_model``."""
    if isinstance(arch, Architecture) and arch.name.startswith(TORCHVISION):
        return from_torchvision(arch)
    if ":" in arch.name:
        if not allow_import:
            raise ConfigError(
                f"model: {arch.name} is code of yours, and a file never makes us import code: "
                f"give it yourself with --model {arch.name}"
            )
        return from_factory(arch)
    builders = BUILDERS if isinstance(arch, Architecture) else TEXT_BUILDERS
    if arch.name not in builders:
        if arch.name in model_names():
            kinds = ("texts", "images") if arch.name in TEXT_MODELS else ("images", "texts")
            raise ConfigError(f"model: {arch.name} takes {kinds[0]}, and this architecture describes {kinds[1]}")
        raise ConfigError(f"model: unknown {arch.name!r}{did_you_mean(arch.name, builders)}")
    if isinstance(arch, TextArchitecture):
        return TEXT_BUILDERS[arch.name](arch)
    family = FAMILIES[arch.name]
    if arch.image_size < family.smallest_image:
        raise ConfigError(
            f"model: {arch.name} needs images of at least {family.smallest_image} pixels, got {arch.image_size}"
        )
    expected = tuple(stem for stem in STEMS if (stem != "none") == family.has_stem)
    if arch.stem not in expected:
        raise ConfigError(f"model: {arch.name}: expected stem {' or '.join(expected)}, got {arch.stem}")
    return BUILDERS[arch.name](arch)
