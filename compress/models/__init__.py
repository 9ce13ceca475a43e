"""Architectures by name: the papers' networks, torchvision's, and the user's own.

Importing this package does not import torch; building a model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import (
    AnyArchitecture,
    Architecture,
    TextArchitecture,
    is_factory,
    is_foreign,
    model_names,
    read_architecture,
    resolve,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "AnyArchitecture",
    "Architecture",
    "TextArchitecture",
    "build_model",
    "is_factory",
    "is_foreign",
    "model_names",
    "read_architecture",
    "resolve",
]


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
    from .build import build

    return build(arch, seed=seed, allow_import=allow_import, device=device)
