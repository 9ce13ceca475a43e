"""Put masks on a model, refresh pruned weights between training steps, and take the masks off again.

The parametrization `MaskedWeight` (``torch.nn.utils.parametrize``) makes the layer's parameter the scores, and its
weight ``mask(scores) * random weight``, with the gradient passed straight through the mask to the scores. Methods that
prune at initialisation get a `PrunedWeight` instead: the parameter stays the weight, under a mask that
``prune_at_init.py`` finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from ..config import Selection, SubnetworkConfig
from ..errors import ConfigError
from ..methods.iterand import resampling_event
from ..methods.recycling import recycling_is_due
from ..models.copying import independent_copy
from ..models.state import require_module
from ..seed.codebooks import get_codebook
from ..seed.philox_torch import random_weights
from ..tensors import check_storable
from .attachment import attach, detach, is_attached
from .discarded import warn_of_discarded
from .fused import FusedForward, FusedLayers
from .layers import MaskedLayer
from .maskable import IN_PYTHON, Chosen, LayerFilter, chosen_weights, fan_in, refuse_second_names
from .masked_weight import MaskedWeight
from .pruned_weight import PrunedWeight
from .sparsity import Allocation
from .spec import WeightSpec
from .topk import kept_count

__all__ = ["mask_model", "refresh", "require_settings", "to_dense", "update_kept_counts"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def require_settings(config: object) -> None:
    """Refuse what is no settings of a method, such as the function that makes them.

    Raises:
        ConfigError: it is.
    """
    if not isinstance(config, SubnetworkConfig):
        name = getattr(config, "__name__", type(config).__name__)
        hint = f"call it: {name}()" if callable(config) else "make them with IteRand(), EdgePopup() and the like"
        raise ConfigError(f"config: expected the settings of a method, got {name}; {hint}")


def mask_model(
    model: ModuleT,
    config: SubnetworkConfig,
    *,
    filter_fn: LayerFilter | None = None,
    warn: int | None = None,
) -> ModuleT:
    """Turn a module, in place, into one whose weights come from a seed.

    For dense training the weights become the initial random ones and stay ordinary parameters.

    Args:
        model: any module; every layer of a type in ``MASKABLE`` is taken, with all its matrices. Those whose
            ``requires_grad`` is off stay as they are.
        config: method, distribution, sparsity, seed, refresh.
        filter_fn: called with a layer and its name (of several, the first); return ``False`` to leave a layer as it is.
        warn: warn of weights that look trained; the stack level of the line that the warning is for.

    Returns:
        ``model`` itself.

    Raises:
        ConfigError: no module, no layer to mask, a layer too small for the sparsity, or one whose weight is shared,
            known under another name, parametrized, computed, or not yet made. The model is as it was.
        SeedMaskError: an entry of the state dict that no file can hold.
    """
    require_settings(config)
    require_module(model)
    chosen = chosen_weights(model, filter_fn)
    selection = config.selection
    if config.has_masks:
        for name, value in model.state_dict().items():
            check_storable(value, name)
    rule = selection or Selection()
    allocation = Allocation(rule.scope, config.sparsity, rule.ramp_epochs)  # of all layers but the first and the last
    weights: dict[nn.Module, dict[str, MaskedWeight | PrunedWeight]] = {}
    initial: list[tuple[nn.Parameter, WeightSpec]] = []
    for tensor, choice in enumerate(chosen):
        weight, inputs = choice.weight, fan_in(choice.layer, choice.tensor)
        sparsity = config.sparsity_of(tensor, len(chosen))
        scale = config.codebook.scale(inputs * config.fan_factor(sparsity) if config.scale_fan else inputs)
        spec = _spec(config, tensor, choice, float(scale), sparsity)
        if selection is not None:
            weights.setdefault(choice.layer, {})[choice.tensor] = MaskedWeight(
                spec,
                selection.score_bound / math.sqrt(inputs),
                weight.device,
                allocation=allocation if sparsity == config.sparsity else replace(allocation, sparsity=sparsity),
                resampling=config.resample,
                recycling=config.recycle,
                softness=selection.softness,
                soft_until=selection.soft_until,
            ).to(weight.dtype)
            continue
        initial.append((weight, spec))
        if config.prune is not None:
            weights.setdefault(choice.layer, {})[choice.tensor] = PrunedWeight(spec, weight.device)
    masked = [weight for group in weights.values() for weight in group.values() if isinstance(weight, MaskedWeight)]
    allocation.check([weight.size("") for weight in masked])
    if weights:
        refuse_second_names(model, chosen)
    if warn is not None:
        warn_of_discarded(model, chosen, warn + 1)
    # Only now: a refused layer leaves the model as it was.
    for parameter, spec in initial:
        _initialise(parameter, spec)
    for layer, group in weights.items():
        attach(layer, group)
    return model


@torch.no_grad()
def _initialise(weight: nn.Parameter, spec: WeightSpec) -> None:
    """Give a weight that is trained its initial values."""
    scale = np.float32(spec.scale)
    book = get_codebook(spec.codebook)
    weight.copy_(random_weights(spec.seed, spec.tensor, book, scale, weight.numel(), weight.device).view(weight.shape))
    if spec.padding >= 0:
        weight[spec.padding] = 0


def _spec(config: SubnetworkConfig, tensor: int, choice: Chosen, scale: float, sparsity: float) -> WeightSpec:
    selection, frozen = config.selection, config.frozen
    spec = WeightSpec(
        seed=config.seed,
        tensor=tensor,
        shape=tuple(choice.weight.shape),
        codebook=config.distribution,
        scale=scale,
        kept=0,
        selection="unpruned" if selection is None else selection.rule,
        binarised=config.binarised,
        multiplicity=1 if selection is None else selection.multiplicity,
        frozen=(frozen.pruned, frozen.kept) if frozen else (0, 0),
        padding=choice.padding,
    )
    if spec.padding >= 0 and spec.frozen[1]:
        raise ConfigError(
            f"layer {choice.label}: its row {spec.padding} is padding, which stays 0, and frozen weights that are kept "
            f"may be among it; give selection.frozen_kept = 0 {IN_PYTHON}"
        )
    count = spec.selectable
    return replace(spec, kept=count if selection is None else _initially_kept(count, sparsity, selection, choice.label))


def _initially_kept(count: int, sparsity: float, selection: Selection, name: str) -> int:
    if selection.scope == "global":  # whose counts are set before the first step
        return max(1, math.floor((1 - sparsity) * count))
    return kept_count(count, sparsity, name)


def update_kept_counts(layers: Sequence[MaskedLayer], epoch: int | None) -> None:
    """Set the number of kept weights of each layer where training changes it (ramps and global selection).

    Args:
        layers: the masked layers of a model.
        epoch: 0, 1, …; ``None`` if it is not known.

    Raises:
        ConfigError: there is a ramp, and the epoch is not known.
    """
    varying = [(name, masked, scores) for name, masked, scores in layers if masked.allocation.varies]
    if not varying:
        return
    # Layers may have sparsities of their own, unless one threshold holds for all.
    for group in [varying] if varying[0][1].allocation.scope == "global" else [[layer] for layer in varying]:
        _update_together(group, epoch)


def _update_together(layers: Sequence[MaskedLayer], epoch: int | None) -> None:
    sizes = [masked.size(name) for name, masked, _ in layers]
    rule = layers[0][1].allocation
    counts = rule.kept_counts(sizes, lambda: [masked.keys(scores) for _, masked, scores in layers], epoch)
    for (_, masked, _), count in zip(layers, counts, strict=True):
        masked.set_kept(count)


def refresh(
    layers: Sequence[MaskedLayer],
    step: int,
    *,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    fused: FusedLayers | None = None,
) -> bool:
    """Do what the method does before training step ``step`` (0, 1, …).

    Ramp and global selection: set how many weights each layer keeps. Soft masks: set their width. Weight Recycling:
    before the first step of some epochs, let weights take the values of others. IteRand: before every K_per-th step,
    redraw each pruned weight with probability r. Scores stay; what is redrawn follows from the seed and the step alone.

    Args:
        layers: the masked layers of a model; none for methods that train weights, where nothing is done.
        step: number of the step.
        steps_per_epoch: needed by methods that count epochs.
        epochs: of the whole run; needed by Weight Recycling and soft masks.
        fused: the same layers, to redraw the weights of all of them in one launch.

    Returns:
        Whether weights changed.

    Raises:
        ConfigError: the method counts epochs, and their length is not given.
    """
    changed, event = False, 0
    update_kept_counts(layers, None if steps_per_epoch is None else step // steps_per_epoch)
    for _, masked, scores in layers:
        if masked.softness:
            if steps_per_epoch is None or epochs is None:
                raise ConfigError("soft masks: they harden as the run goes on; give steps_per_epoch and epochs")
            masked.soften(step / (steps_per_epoch * epochs))
        if masked.recycling is not None:
            if steps_per_epoch is None or epochs is None:
                raise ConfigError("recycling: the method counts epochs; give steps_per_epoch and epochs")
            if step % steps_per_epoch == 0 and recycling_is_due(masked.recycling, step // steps_per_epoch, epochs):
                masked.recycle(scores)
                changed = True
        if masked.resampling is not None and (event := resampling_event(masked.resampling, step)):
            changed = True
            if fused is None:
                masked.resample(scores, event)
    if fused is not None and event:
        fused.resample(event)
    return changed


def to_dense(model: ModuleT) -> ModuleT:
    """A copy of the model made of stock layers only, with bit-equal weights. ``model`` is not changed.

    Its parameters are in the order in which they were before the model was masked.

    Raises:
        ConfigError: it is no module, the model cannot be copied, or a layer was parametrized by others as well.
    """
    require_module(model)
    plain = independent_copy(model)
    FusedForward.unregister(plain)
    for name, layer in list(plain.named_modules()):
        if is_attached(layer):
            detach(layer, name)
    return plain
