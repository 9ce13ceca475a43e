"""Do the weights of a model come from training? Masks would take their place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DiscardedWeightsWarning
from .maskable import MASKABLE, Chosen

__all__ = ["trained_layer", "warn_of_discarded"]

# Of a matrix of independent numbers the largest singular value is std · (√rows + √columns), whatever their
# distribution (Bai and Yin, 1993). For one of 32 rows and columns at least, 1.5 times as much comes once in 10⁷ times.
_OUTLIER, _SMALLEST, _LARGEST, _ITERATIONS = 1.5, 32, 4096, 8
_NORMS: tuple[Any, ...] = (nn.LayerNorm, nn.GroupNorm, *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []))


def warn_of_discarded(model: nn.Module, chosen: Sequence[Chosen], stacklevel: int) -> None:
    """Warn if the weights that random ones are about to replace were trained, or loaded.

    Args:
        model: as it was given.
        chosen: its weights that will be replaced.
        stacklevel: of the line that the warning is for, seen from the caller.
    """
    name = trained_layer(model, chosen)
    if name is not None:
        warnings.warn(
            f"{type(model).__name__}: its weights look trained (layer {name} does) and are replaced by random numbers "
            "of the seed, which the methods here begin with; layers with requires_grad=False, and those that "
            "filter_fn= leaves out, stay as they are",
            DiscardedWeightsWarning,
            stacklevel=stacklevel + 1,
        )


@torch.no_grad()
def trained_layer(model: nn.Module, chosen: Sequence[Chosen]) -> str | None:
    """The first layer that cannot be as a constructor leaves it; ``None`` if all of them can.

    Layers that normalise tell of the layer in front of them (if there is none, of the first one): their statistics and
    scales begin with one value. Where none tells of a chosen layer, weights are looked at, which constructors draw
    independently, and training does not leave so.

    Args:
        model: any module. What its layers that are not chosen hold does not matter: it stays.
        chosen: its weights that can be masked.
    """
    replaced = {choice.layer for choice in chosen}
    in_front = next((layer for layer in model.modules() if isinstance(layer, MASKABLE)), None)
    normalised = False
    name: str
    module: Any
    for name, module in model.named_modules():
        if isinstance(module, MASKABLE):
            in_front = module
        if in_front not in replaced:
            continue
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor) and not mean.is_meta:
            normalised = True
            batches = getattr(module, "num_batches_tracked", None)
            # One batch alone has run through a model to give its lazy layers their shapes.
            first = isinstance(batches, Tensor) and int(batches) == 1
            if not first and (bool(mean.any()) or not bool((variance == 1).all())):
                return name
        elif isinstance(module, _NORMS) and module.weight is not None and not module.weight.is_meta:
            normalised = True
            if not bool((module.weight == module.weight.flatten()[0]).all()):
                return name
    return None if normalised else next((choice.label for choice in chosen if _has_outlier(choice.weight)), None)


def _has_outlier(weight: Tensor) -> bool:
    """Whether a matrix has a singular value that independent numbers do not have."""
    if weight.is_meta or weight.ndim < 2:
        return False
    matrix = weight.detach().flatten(1)[:_LARGEST, :_LARGEST].float()
    if min(matrix.shape) < _SMALLEST:
        return False
    matrix = matrix - matrix.mean()
    bound = _OUTLIER * float(matrix.std()) * sum(math.sqrt(size) for size in matrix.shape)
    vector = matrix[matrix.square().sum(1).argmax()]
    largest = 0.0
    for _ in range(_ITERATIONS):  # a power iteration, which approaches the largest one from below
        image = matrix @ (vector / vector.norm())
        largest, vector = float(image.norm()), matrix.t() @ image
    return math.isfinite(bound) and largest > bound
