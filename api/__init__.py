"""Neural networks as a seed, a mask and a few bits of log: train them, pack them bit for bit, export them to ONNX.

Names are imported when they are first used, so that reading a file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compress.analysis.theory import required_widths
    from .compress.analysis.theory_check import check_bound
    from .compress.config import DataConfig, ModelConfig, Recipe, SubnetworkConfig, TrainConfig
    from .compress.errors import IterandError, SeedMaskError
    from .compress.inputs import ImageInput, TextInput
    from .compress.mask.layers import masked_layers, pruned_layers
    from .compress.mask.masking import make_subnetwork, materialise, refresh
    from .compress.mask.prune_at_init import find_ticket
    from .compress.pack import pack
    from .compress.recover import load_network, recover
    from .compress.seedmask import read_seedmask
    from .compress.training.recipe import load_recipe
    from .compress.training.run_options import RunOptions
    from .compress.training.trainer import train

__all__ = [
    "DataConfig",
    "ImageInput",
    "IterandError",
    "ModelConfig",
    "Recipe",
    "RunOptions",
    "SeedMaskError",
    "SubnetworkConfig",
    "TextInput",
    "TrainConfig",
    "check_bound",
    "find_ticket",
    "load_network",
    "load_recipe",
    "make_subnetwork",
    "masked_layers",
    "materialise",
    "pack",
    "pruned_layers",
    "read_seedmask",
    "recover",
    "refresh",
    "required_widths",
    "train",
]

_MODULES = {
    "compress.config": ("DataConfig", "ModelConfig", "Recipe", "SubnetworkConfig", "TrainConfig"),
    "compress.errors": ("IterandError", "SeedMaskError"),
    "compress.inputs": ("ImageInput", "TextInput"),
    "compress.pack": ("pack",),
    "compress.recover": ("load_network", "recover"),
    "compress.seedmask": ("read_seedmask",),
    "compress.mask.layers": ("masked_layers", "pruned_layers"),
    "compress.mask.masking": ("make_subnetwork", "materialise", "refresh"),
    "compress.analysis.theory": ("required_widths",),
    "compress.analysis.theory_check": ("check_bound",),
    "compress.mask.prune_at_init": ("find_ticket",),
    "compress.training.recipe": ("load_recipe",),
    "compress.training.run_options": ("RunOptions",),
    "compress.training.trainer": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("iterand-compress")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
