"""From an architecture to a network: the registry of built-in models, and models from elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from ..errors import ConfigError, did_you_mean
from ..files.names import shell_word
from .airbench import Airbench
from .architecture import (
    FAMILIES,
    STEMS,
    TEXT_MODELS,
    TORCHVISION,
    AnyArchitecture,
    Architecture,
    TextArchitecture,
    is_factory,
    model_names,
)
from .convnets import ConvNet, DigitsCNN, VGGSmall
from .external import from_factory, from_torchvision, import_factory
from .resnet import BasicBlock, Bottleneck, ResNet
from .transformer import TextTransformer

__all__ = ["BUILDERS", "TEXT_BUILDERS", "build_model"]

BUILDERS: dict[str, Callable[[Architecture], nn.Module]] = {
    "digits-cnn": DigitsCNN,
    "airbench": Airbench,
    "conv2": partial(ConvNet, depth=2),
    "conv4": partial(ConvNet, depth=4),
    "conv6": partial(ConvNet, depth=6),
    "conv8": partial(ConvNet, depth=8),
    "vgg-small": VGGSmall,
    "resnet20": partial(ResNet, block=BasicBlock, counts=(3, 3, 3), first=16),
    "resnet32": partial(ResNet, block=BasicBlock, counts=(5, 5, 5), first=16),
    "resnet18": partial(ResNet, block=BasicBlock, counts=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, block=BasicBlock, counts=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, block=Bottleneck, counts=(3, 4, 6, 3)),
    "resnet101": partial(ResNet, block=Bottleneck, counts=(3, 4, 23, 3)),
    "wideresnet50-2": partial(ResNet, block=Bottleneck, counts=(3, 4, 6, 3), inner_factor=2),
}
TEXT_BUILDERS: dict[str, Callable[[TextArchitecture], nn.Module]] = {
    "text-transformer": partial(TextTransformer, depth=2),
}


def build_model(arch: AnyArchitecture, *, seed: int, allow_import: bool = False, device: str = "cpu") -> nn.Module:
    """Build the network that ``arch`` describes, in float32.

    Built-in models and ``torchvision:NAME`` are looked up in a registry. ``package.module:factory`` is
    imported (also from the working directory) and called as ``factory(num_classes=N)``, for texts as
    ``factory(num_classes=N, length=L, vocabulary=V)``, if ``allow_import`` is set.

    Whatever a constructor draws from the global generators of torch, NumPy and Python follows from ``seed``; it may
    keep that outside the state dict, so a network is rebuilt by the seed it was trained with. The generators go on
    afterwards as if nothing had been drawn.

    Args:
        arch: what `resolve` gives.
        seed: of the network, 64 bits.
        allow_import: set it only for a name that the user typed, never for one that was read from a file.
        device: where tensors are made; ``meta`` for shapes alone.

    Raises:
        ConfigError: an unknown name, a network that does not fit the images, an import that is not allowed
            or fails.
    """
    factory = None
    if is_factory(arch):
        if not allow_import:
            raise ConfigError(
                f"model: {arch.name} is code of yours, and a file never makes us import code: "
                f"give it yourself with --model {shell_word(arch.name)}"
            )
        with _generators(0):  # a module is imported once, whatever the seeds of the networks that come from it
            factory = import_factory(arch)
    with _generators(seed), torch.device(device):
        return _built_in(arch) if factory is None else from_factory(arch, factory)


@contextmanager
def _generators(seed: int) -> Iterator[None]:
    """Seed the global generators inside the block, and restore them afterwards."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what models draw from)
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed % 2**63)
        np.random.seed([seed % 2**32, seed >> 32])  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _built_in(arch: AnyArchitecture) -> nn.Module:
    if isinstance(arch, Architecture) and arch.name.startswith(TORCHVISION):
        return from_torchvision(arch)
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
    if arch.batch_norm and not family.chooses_batch_norm:
        raise ConfigError(f"model: {arch.name}: expected batch_norm false, for it has no such choice, got true")
    model = BUILDERS[arch.name](arch)
    if arch.bias:
        _add_biases(model)
    return model


def _add_biases(model: nn.Module) -> None:
    """Biases of 0, as in Chijiwa et al.'s code: for all layers of a network without BatchNorm, else for the last."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    for layer in layers[-1:] if normalised else layers:
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))
