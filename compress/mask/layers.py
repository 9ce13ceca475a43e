"""Find the masked weights of a model, and keep their masks for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..errors import ConfigError
from .masked_weight import MaskedWeight
from .pruned_weight import PrunedWeight

__all__ = ["held_masks", "masked_layers", "pruned_layers"]


PartT = TypeVar("PartT", MaskedWeight, PrunedWeight)


def masked_layers(model: nn.Module) -> Iterator[tuple[str, MaskedWeight, nn.Parameter]]:
    """All masked weights of a model as (name of the weight, parametrization, scores)."""
    return _parametrized(model, MaskedWeight)


def pruned_layers(model: nn.Module, *, every_name: bool = False) -> Iterator[tuple[str, PrunedWeight, nn.Parameter]]:
    """All weights that are pruned once and trained, as (name of the weight, parametrization, weight).

    Of a layer under two names the first counts, unless ``every_name``.
    """
    return _parametrized(model, PrunedWeight, every_name=every_name)


def _parametrized(
    model: nn.Module, kind: type[PartT], *, every_name: bool = False
) -> Iterator[tuple[str, PartT, nn.Parameter]]:
    found = []
    for name, module in model.named_modules(remove_duplicate=not every_name):
        if isinstance(module, parametrize.ParametrizationList) and isinstance(part := module[0], kind):
            original = module.original
            assert isinstance(original, nn.Parameter)
            layer, _, tensor = name.rpartition(".")
            name = layer.removesuffix("parametrizations") + tensor
            if len(module) > 1:
                raise ConfigError(f"{name}: has another parametrization on top of the mask, which no file can hold")
            found.append((name, part, original))
    # As they are numbered: torch has put what it parametrized behind the other modules of a layer.
    yield from sorted(found, key=lambda one: one[1].spec.tensor)


@contextmanager
def held_masks(model: nn.Module) -> Iterator[None]:
    """Within, scores do not change, and forward passes find every mask made already (but of networks with coats)."""
    parts = []
    for _, part, scores in masked_layers(model):
        part.held_mask = part.mask(scores) if part.spec.coats == 1 else None
        parts.append(part)
    try:
        yield
    finally:
        for part in parts:
            part.held_mask = None
