"""Neural networks as a seed, a mask and a few bits of log: train them, pack them bit for bit, export them to ONNX.

Names are imported when they are first used, so that reading a file does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compress.analysis.search import search
    from .compress.analysis.theory import required_widths
    from .compress.analysis.theory_check import check_bound
    from .compress.config import (
        DataConfig,
        ModelConfig,
        PruneAtInit,
        Recipe,
        Recycle,
        Resample,
        Selection,
        SubnetworkConfig,
        TrainConfig,
    )
    from .compress.errors import DiscardedWeightsWarning, IterandError, SeedMaskError
    from .compress.inputs import ImageInput, TextInput
    from .compress.mask.masking import to_dense
    from .compress.methods.presets import (
        Biprop,
        Dense,
        EdgePopup,
        Grasp,
        IteRand,
        MagnitudePruning,
        RandomPruning,
        SignedSupermask,
        Snip,
        SynFlow,
        WeightRecycling,
    )
    from .compress.pack import pack
    from .compress.recover import load, load_network
    from .compress.seedmask import read_seedmask
    from .compress.subnetwork import Subnetwork, prune_at_init
    from .compress.training.loop import train
    from .compress.training.recipe import load_recipe
    from .compress.training.run_options import RunOptions
    from .export.exporter import export_onnx
    from .export.runtime.classifier import OnnxClassifier
    from .export.runtime.expansion import load_session
    from .export.runtime.verification import verify_onnx

__all__ = [
    "Biprop",
    "DataConfig",
    "Dense",
    "DiscardedWeightsWarning",
    "EdgePopup",
    "Grasp",
    "ImageInput",
    "IteRand",
    "IterandError",
    "MagnitudePruning",
    "ModelConfig",
    "OnnxClassifier",
    "PruneAtInit",
    "RandomPruning",
    "Recipe",
    "Recycle",
    "Resample",
    "RunOptions",
    "SeedMaskError",
    "Selection",
    "SignedSupermask",
    "Snip",
    "Subnetwork",
    "SubnetworkConfig",
    "SynFlow",
    "TextInput",
    "TrainConfig",
    "WeightRecycling",
    "check_bound",
    "export_onnx",
    "load",
    "load_network",
    "load_recipe",
    "load_session",
    "pack",
    "prune_at_init",
    "read_seedmask",
    "required_widths",
    "search",
    "to_dense",
    "train",
    "verify_onnx",
]

_MODULES = {
    "compress.analysis.search": ("search",),
    "compress.analysis.theory": ("required_widths",),
    "compress.analysis.theory_check": ("check_bound",),
    "compress.config": (
        "DataConfig",
        "ModelConfig",
        "PruneAtInit",
        "Recipe",
        "Recycle",
        "Resample",
        "Selection",
        "SubnetworkConfig",
        "TrainConfig",
    ),
    "compress.errors": ("DiscardedWeightsWarning", "IterandError", "SeedMaskError"),
    "compress.inputs": ("ImageInput", "TextInput"),
    "compress.mask.masking": ("to_dense",),
    "compress.methods.presets": (
        "Biprop",
        "Dense",
        "EdgePopup",
        "Grasp",
        "IteRand",
        "MagnitudePruning",
        "RandomPruning",
        "SignedSupermask",
        "Snip",
        "SynFlow",
        "WeightRecycling",
    ),
    "compress.pack": ("pack",),
    "compress.recover": ("load", "load_network"),
    "compress.seedmask": ("read_seedmask",),
    "compress.subnetwork": ("Subnetwork", "prune_at_init"),
    "compress.training.recipe": ("load_recipe",),
    "compress.training.run_options": ("RunOptions",),
    "compress.training.loop": ("train",),
    "export.exporter": ("export_onnx",),
    "export.runtime.classifier": ("OnnxClassifier",),
    "export.runtime.expansion": ("load_session",),
    "export.runtime.verification": ("verify_onnx",),
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
