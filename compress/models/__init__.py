"""Architectures by name: the papers' networks, torchvision's, and the user's own.

Importing this package does not import torch; building a model does.
"""

from __future__ import annotations

from .architecture import (
    AnyArchitecture,
    Architecture,
    TextArchitecture,
    has_batch_norm,
    is_factory,
    is_foreign,
    model_names,
    read_architecture,
    resolve,
)

__all__ = [
    "AnyArchitecture",
    "Architecture",
    "TextArchitecture",
    "has_batch_norm",
    "is_factory",
    "is_foreign",
    "model_names",
    "read_architecture",
    "resolve",
]
