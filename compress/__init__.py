"""The science and the storage: from a seed to a trained subnetwork to a ``.seedmask`` file and back.

Names are imported when they are first used, so that reading a file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.theory import required_widths
    from .analysis.theory_check import check_bound
    from .config import DataConfig, ModelConfig, Recipe, SubnetworkConfig, TrainConfig
    from .errors import IterandError, SeedMaskError
    from .mask.layers import masked_layers, pruned_layers
    from .mask.masking import make_subnetwork, materialise, refresh
    from .mask.prune_at_init import find_ticket
    from .pack import pack
    from .recover import load_network, recover
    from .seedmask import read_seedmask
    from .training.recipe import load_recipe
    from .training.run import RunOptions
    from .training.trainer import train

__all__ = [
    "DataConfig",
    "IterandError",
    "ModelConfig",
    "Recipe",
    "RunOptions",
    "SeedMaskError",
    "SubnetworkConfig",
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

_HOME = {
    "config": ("DataConfig", "ModelConfig", "Recipe", "SubnetworkConfig", "TrainConfig"),
    "errors": ("IterandError", "SeedMaskError"),
    "pack": ("pack",),
    "recover": ("load_network", "recover"),
    "seedmask": ("read_seedmask",),
    "subnetwork": ("make_subnetwork", "masked_layers", "materialise", "pruned_layers", "refresh"),
    "analysis.theory": ("required_widths",),
    "analysis.theory_check": ("check_bound",),
    "mask.prune_at_init": ("find_ticket",),
    "training.recipe": ("load_recipe",),
    "training.run_options": ("RunOptions",),
    "training.trainer": ("train",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
