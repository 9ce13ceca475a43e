"""A copy of a module that shares nothing with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["independent_copy"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def independent_copy(model: ModuleT) -> ModuleT:
    """``copy.deepcopy``, also of modules that keep a tensor that was computed with gradients; its value is kept.

    Examples are features that ``forward`` stores in the module, and the weight of ``torch.nn.utils.weight_norm``.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors(vars(module))
        if not tensor.is_leaf
    }
    return copy.deepcopy(model, memo)


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
