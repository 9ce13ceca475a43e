"""Subnetworks: modules whose weights are random numbers from a seed, kept or pruned by trained scores.

``make_subnetwork`` puts a ``MaskedWeight`` on the weights of each chosen layer through
``torch.nn.utils.parametrize``. The layer's parameter becomes its scores; its weight becomes
``mask(scores) * random weight``, with the gradient passed straight through the mask to the scores. Methods that prune
at initialisation get a ``PrunedWeight`` instead: the parameter stays the weight, under a mask that ``tickets.py``
finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from ..config import SubnetworkConfig
from ..errors import ConfigError
from ..methods import Method, resolve
from ..models.copying import independent_copy
from ..seed.codebooks import get_codebook
from ..seed.philox_torch import random_weights
from ..tensors import check_storable
from .attachment import attach, detach, is_attached
from .fused import FusedLayers
from .layers import masked_layers
from .maskable import IN_PYTHON, Chosen, LayerFilter, chosen_weights, fan_in, refuse_second_names
from .masked_weight import MaskedWeight
from .pruned_weight import PrunedWeight
from .sparsity import Allocation
from .spec import WeightSpec
from .topk import kept_count

__all__ = ["make_subnetwork", "materialise", "refresh", "update_kept_counts"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def make_subnetwork(model: ModuleT, config: SubnetworkConfig, *, where: LayerFilter | None = None) -> ModuleT:
    """Turn a module, in place, into one whose weights come from a seed.

    For ``method="dense"`` the weights become the initial random ones and stay ordinary parameters.

    Args:
        model: any module; every layer of a type in ``MASKABLE`` is taken, with all its matrices.
        config: method, distribution, sparsity, seed, resampling.
        where: called with name (of several, the first) and layer; return ``False`` to leave a layer as it is.

    Returns:
        ``model`` itself.

    Raises:
        ConfigError: no layer to mask, a layer too small for the sparsity, or one whose weight is no parameter of its
            own: shared, known under another name, parametrized, computed, or not yet made. The model is as it was.
        SeedMaskError: an entry of the state dict that no file can hold.
    """
    method = resolve(config)
    chosen = chosen_weights(model, where)
    if config.method != "dense":
        for name, value in model.state_dict().items():
            check_storable(value, name)
    allocation = Allocation(method.scope, config.sparsity, method.ramp_epochs)
    parts: dict[nn.Module, dict[str, MaskedWeight | PrunedWeight]] = {}
    initial: list[tuple[nn.Parameter, WeightSpec]] = []
    for tensor, one in enumerate(chosen):
        weight, inputs = one.weight, fan_in(one.layer, one.tensor)
        scale = method.codebook.scale(inputs * method.fan_factor(config.sparsity) if method.scale_fan else inputs)
        spec = _spec(config, method, tensor, one, float(scale))
        if method.trains == "weights":
            initial.append((weight, spec))
            if method.criterion is not None:
                parts.setdefault(one.layer, {})[one.tensor] = PrunedWeight(spec, weight.device)
            continue
        masked = MaskedWeight(
            spec,
            method.score_bound / math.sqrt(inputs),
            weight.device,
            allocation=allocation,
            resampling=method.resampling,
            recycling=method.recycling,
        )
        parts.setdefault(one.layer, {})[one.tensor] = masked.to(weight.dtype)
    allocation.check([p.size("") for group in parts.values() for p in group.values() if isinstance(p, MaskedWeight)])
    if parts:
        refuse_second_names(model, chosen)
    # Only now: a refused layer leaves the model as it was.
    for weight, spec in initial:
        _initialise(weight, spec)
    for layer, group in parts.items():
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


def _spec(config: SubnetworkConfig, method: Method, tensor: int, one: Chosen, scale: float) -> WeightSpec:
    searched = method.trains == "scores"
    spec = WeightSpec(
        seed=config.seed,
        tensor=tensor,
        shape=tuple(one.weight.shape),
        codebook=method.codebook.name,
        scale=scale,
        kept=0,
        selection=str(method.selection) if searched else "unpruned",
        binarised=method.binarised,
        coats=method.coats,
        frozen=(method.freezing.pruned, method.freezing.kept) if method.freezing else (0, 0),
        padding=one.padding,
    )
    if spec.padding >= 0 and spec.frozen[1]:
        raise ConfigError(
            f"layer {one.label}: its row {spec.padding} is padding, which stays 0, and frozen weights that are kept "
            f"may be among it; give frozen_kept = 0 (--frozen-kept 0) {IN_PYTHON}"
        )
    count = spec.selectable
    return replace(spec, kept=_initially_kept(count, config.sparsity, one.label, method) if searched else count)


def _initially_kept(count: int, sparsity: float, name: str, method: Method) -> int:
    if method.scope == "global":  # which settles the numbers before the first step
        return max(1, math.floor((1 - sparsity) * count))
    return kept_count(count, sparsity, name)


def update_kept_counts(layers: Sequence[tuple[str, MaskedWeight, nn.Parameter]], epoch: int | None) -> None:
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
    sizes = [masked.size(name) for name, masked, _ in varying]
    rule = varying[0][1].allocation
    counts = rule.kept_counts(sizes, lambda: [masked.keys(scores) for _, masked, scores in varying], epoch)
    for (_, masked, _), count in zip(varying, counts, strict=True):
        masked.keep(count)


def refresh(
    model: nn.Module,
    step: int,
    *,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    fused: FusedLayers | None = None,
) -> bool:
    """Do what the method does before training step ``step`` (0, 1, …).

    Ramp and global selection: settle how many weights each layer keeps. Weight Recycling: before the first step of
    some epochs, let weights take the values of others. IteRand: before every ``resample_every``-th step, redraw each
    pruned weight with probability ``resample_rate``. Scores stay; what is redrawn follows from the seed and the step
    alone.

    Args:
        model: made by `make_subnetwork`.
        step: number of the step.
        steps_per_epoch: needed by methods that count epochs.
        epochs: of the whole run; needed by Weight Recycling.
        fused: the layers of the model, to redraw the weights of all of them in one launch.

    Returns:
        Whether weights changed.

    Raises:
        ConfigError: the method counts epochs, and their length is not given.
    """
    layers = list(masked_layers(model))
    happened, event = False, 0
    update_kept_counts(layers, None if steps_per_epoch is None else step // steps_per_epoch)
    for _, part, scores in layers:
        if part.recycling is not None:
            if steps_per_epoch is None or epochs is None:
                raise ConfigError("recycling: the method counts epochs; give refresh() steps_per_epoch and epochs")
            if step % steps_per_epoch == 0 and part.recycling.happens(step // steps_per_epoch, epochs):
                part.recycle(scores)
                happened = True
        if part.resampling is not None and (event := part.resampling.event(step)):
            happened = True
            if fused is None:
                part.resample(scores, event)
    if fused is not None and event:
        fused.resample(event)
    return happened


def materialise(model: ModuleT) -> ModuleT:
    """A copy of the model made of stock layers only, with bit-equal weights. ``model`` is not changed.

    Its parameters are in the order in which they were before ``make_subnetwork``.

    Raises:
        ConfigError: the model cannot be copied, or a layer was parametrized by others as well.
    """
    plain = independent_copy(model)
    for name, layer in list(plain.named_modules()):
        if is_attached(layer):
            detach(layer, name)
    return plain
