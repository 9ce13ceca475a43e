"""Networks for tests: settings by name, refreshes step by step, and BatchNorm that is not the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from iterand_compress import SubnetworkConfig
from iterand_compress.compress.mask import masking
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.methods.presets import PRESETS


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics and affine values that a wrong folding cannot survive."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
            if module.affine:
                module.weight.data.normal_(generator=generator)
                module.bias.data.normal_(generator=generator)
    return model


def settings(method: str = "iterand", **options: Any) -> SubnetworkConfig:
    """The settings of a method by its name in recipes."""
    if method == "biprop-recycling":
        method, options = "recycling", {"binarise": True, **options}
    if method == "dense":
        options.pop("sparsity", None)
    return PRESETS[method](**options)


def refresh(model: nn.Module, step: int, **counts: int) -> bool:
    """What the method does before a training step, for a masked model."""
    return masking.refresh(masked_layers(model), step, **counts)
