"""The science and the storage: from a seed to a trained subnetwork to a ``.seedmask`` file and back.

Names are imported when they are first used, so that reading a file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import DataConfig, ModelConfig, Recipe, SubnetworkConfig, TrainConfig
    from .errors import IterandError, SeedMaskError
    from .packing import pack
    from .recovery import load_network, recover
    from .storage import read_seedmask
    from .subnetwork import make_subnetwork, masked_layers, materialise, pruned_layers, refresh
    from .theory import required_widths
    from .theory_check import check_bound
    from .tickets import find_ticket
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
    "packing": ("pack",),
    "recovery": ("load_network", "recover"),
    "storage": ("read_seedmask",),
    "subnetwork": ("make_subnetwork", "masked_layers", "materialise", "pruned_layers", "refresh"),
    "theory": ("required_widths",),
    "theory_check": ("check_bound",),
    "tickets": ("find_ticket",),
    "training.recipe": ("load_recipe",),
    "training.run": ("RunOptions",),
    "training.trainer": ("train",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
