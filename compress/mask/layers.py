"""Find the masked weights of a model, and keep their masks while scores do not change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..errors import ConfigError
from .masked_weight import MaskedWeight
from .pruned_weight import PrunedWeight

__all__ = ["MaskedLayer", "cached_masks", "masked_layers", "pruned_layers"]

#: Name of the weight in the plain model, its parametrization, and its scores.
MaskedLayer = tuple[str, MaskedWeight, nn.Parameter]
WeightT = TypeVar("WeightT", MaskedWeight, PrunedWeight)


def masked_layers(model: nn.Module) -> list[MaskedLayer]:
    """All masked weights of a model as (name of the weight, parametrization, scores), in the order of their indices.

    Raises:
        ConfigError: another parametrization was put on top of a mask.
    """
    return _parametrized(model, MaskedWeight)


def pruned_layers(model: nn.Module, *, every_name: bool = False) -> list[tuple[str, PrunedWeight, nn.Parameter]]:
    """All weights that are pruned once and trained, as (name of the weight, parametrization, weight).

    Args:
        model: any module.
        every_name: list a layer under each of its names, not only under the first.

    Raises:
        ConfigError: another parametrization was put on top of a mask.
    """
    return _parametrized(model, PrunedWeight, every_name=every_name)


def _parametrized(
    model: nn.Module, kind: type[WeightT], *, every_name: bool = False
) -> list[tuple[str, WeightT, nn.Parameter]]:
    layers = []
    for name, module in model.named_modules(remove_duplicate=not every_name):
        if isinstance(module, parametrize.ParametrizationList) and isinstance(weight := module[0], kind):
            original = module.original
            assert isinstance(original, nn.Parameter)
            layer, _, tensor = name.rpartition(".")
            name = layer.removesuffix("parametrizations") + tensor
            if len(module) > 1:
                raise ConfigError(f"{name}: has another parametrization on top of the mask, which no file can hold")
            layers.append((name, weight, original))
    # By index: torch has put what it parametrized behind the other modules of a layer.
    return sorted(layers, key=lambda layer: layer[1].spec.tensor)


@contextmanager
def cached_masks(layers: Sequence[MaskedLayer]) -> Iterator[None]:
    """Compute the masks of all layers once and reuse them inside the block, where scores must not change.

    Layers with several nested masks compute theirs in each forward pass.
    """
    for _, masked, scores in layers:
        masked.cached_mask = masked.mask(scores) if masked.spec.multiplicity == 1 else None
    try:
        yield
    finally:
        for _, masked, _ in layers:
            masked.cached_mask = None
