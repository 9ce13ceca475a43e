"""Pruning at initialisation: find the mask of a network before its weights are trained.

One threshold holds for all layers; the kept weights are trained afterwards. The scores are those of the method's file
under ``methods/``; what they have in common is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import PruneAtInit, SubnetworkConfig
from ..errors import ConfigError, DataError
from ..methods import grasp, magnitude, snip, synflow
from ..models.copying import independent_copy
from .attachment import without_cudnn
from .layers import pruned_layers
from .topk import kept_count, topk_mask

__all__ = ["Sample", "class_sample", "find_masks", "use_masks"]

#: Network inputs ``[B, …]`` and labels int64 ``[B]``.
Sample = tuple[Tensor, Tensor]


def find_masks(model: nn.Module, config: SubnetworkConfig, inputs: Sample | tuple[int, ...] | None = None) -> None:
    """Prune a network that was masked for a method that prunes at initialisation, in place.

    Args:
        model: its weights are those of initialisation; they stay.
        config: method, sparsity, seed.
        inputs: for SNIP and GraSP, a sample with all classes: inputs of the network ``[B, …]`` and labels int64
            ``[B]``; for SynFlow, the shape of one input.

    Raises:
        ConfigError: the method does not prune at initialisation, it cannot score a layer, or inputs are missing.
    """
    prune = config.prune
    layers = pruned_layers(model)
    if prune is None or not layers:
        raise ConfigError(f"method {config.method}: it does not prune at initialisation; there is no mask to find")
    names = [name for name, _, _ in layers]
    count = sum(pruned.spec.selectable for _, pruned, _ in layers)
    kept = kept_count(count, config.sparsity, "(all)")
    if prune.criterion == "synflow":
        shape = tuple(size for size in inputs or () if isinstance(size, int))
        if not shape:
            got = "none" if inputs is None else type(inputs).__name__ + " without whole numbers"
            raise ConfigError(f"synflow: expected the shape of one input, as (3, 32, 32), got {got}")
        masks = _synflow(model, names, kept, prune.rounds or 1, shape)
    else:
        weights: list[Tensor] = [weight for _, _, weight in layers]
        if prune.criterion == "magnitude":
            scores: Sequence[Tensor | None] = magnitude.magnitude_scores(weights)
        elif prune.criterion == "random":
            scores = magnitude.uniform_scores(weights, config.seed)
        else:
            scores = _from_data(model, prune, inputs)
        all_scores = [
            pruned.without_padding(score, low=-math.inf)
            for (_, pruned, _), score in zip(layers, _checked(scores, names, prune.criterion), strict=True)
        ]
        masks = _global_masks(all_scores, kept)
    for (_, pruned, _), mask in zip(layers, masks, strict=True):
        pruned.set_mask(mask)


def use_masks(model: nn.Module, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """Prune a network by given masks instead of finding them, in place.

    Args:
        model: as for `find_masks`.
        masks: bool ``[n]`` for each layer, by the name of its weight.

    Raises:
        ConfigError: names or sizes are not those of the network.
    """
    layers = {name: pruned for name, pruned, _ in pruned_layers(model, every_name=True)}
    if set(layers) != set(masks):
        odd = sorted(set(layers) ^ set(masks))[0]
        raise ConfigError(
            f"ticket: expected masks for the {len(layers)} pruned layers of the network, got {len(masks)}; "
            f"{odd} is only in one of them; give the model and the method that the ticket was made with"
        )
    for name, pruned in layers.items():
        if masks[name].size != pruned.mask.numel():
            raise ConfigError(
                f"ticket: {name}: expected a mask of {pruned.mask.numel()} weights, got {masks[name].size}; "
                "give the model and width that the ticket was made with"
            )
    for name, pruned in layers.items():
        pruned.set_mask(torch.from_numpy(masks[name].reshape(-1)).to(pruned.mask.device))


def class_sample(batches: Iterable[Sample], classes: Sequence[str], per_class: int) -> Sample:
    """The first ``per_class`` images of each class, in the order in which they come.

    Args:
        batches: inputs and labels.
        classes: names of the classes.
        per_class: how many of each.

    Raises:
        DataError: there are fewer of a class; it is named.
    """
    chosen: list[Tensor] = []
    labels: list[int] = []
    missing = dict.fromkeys(range(len(classes)), per_class)
    for inputs, targets in batches:
        for row, label in zip(inputs, targets.tolist(), strict=True):
            if missing.get(label):
                missing[label] -= 1
                chosen.append(row)
                labels.append(label)
        if not any(missing.values()):
            return torch.stack(chosen), torch.tensor(labels, device=chosen[0].device)
    label = next(label for label, count in missing.items() if count)
    raise DataError(
        f"class {classes[label]!r}: expected {per_class} training images for the sample, got "
        f"{per_class - missing[label]}; add images, or lower samples_per_class"
    )


def _from_data(model: nn.Module, prune: PruneAtInit, inputs: object) -> Sequence[Tensor | None]:
    criterion = prune.criterion
    if not (isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], Tensor)):
        raise ConfigError(f"{criterion}: expected a sample of the data with labels, got none")
    images, labels = inputs
    # A copy, since statistics of BatchNorm must not remember the sample.
    twin = _unmasked_copy(model).train(not prune.eval_mode)
    weights: list[Tensor] = [weight for _, _, weight in pruned_layers(twin)]
    if criterion == "snip":
        with torch.enable_grad(), without_cudnn(twin) if prune.eval_mode else nullcontext():
            return snip.scores(twin(images), labels, weights)
    # Of second derivatives, the quicker kernels of attention and of recurrent layers know nothing.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), without_cudnn(twin):
        return grasp.scores(twin(images), labels, weights)


@torch.enable_grad()
def _synflow(model: nn.Module, names: list[str], kept: int, rounds: int, shape: tuple[int, ...]) -> list[Tensor]:
    twin = _unmasked_copy(model).double().eval()  # products over many layers overflow float32
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            if value.is_floating_point():
                value.abs_()
    layers = pruned_layers(twin)
    weights: list[Tensor] = [weight for _, _, weight in layers]
    ones = torch.ones(1, *shape, dtype=torch.float64, device=weights[0].device)
    count = sum(weight.numel() for weight in weights)
    masks: list[Tensor] = []
    for round_ in range(1, rounds + 1):
        scores = _checked(synflow.scores(twin(ones), weights), names, "synflow")
        if not all(bool(score.isfinite().all()) for score in scores):
            raise ConfigError("synflow: scores overflow; the network is too deep for unnormalised magnitudes")
        # What is pruned stays pruned, also beside weights that carry nothing.
        scores = [score.masked_fill(~pruned.mask, -1.0) for score, (_, pruned, _) in zip(scores, layers, strict=True)]
        masks = _global_masks(scores, synflow.kept_in_round(count, kept, round_, rounds))
        for (_, pruned, _), mask in zip(layers, masks, strict=True):
            pruned.set_mask(mask)
    return masks


def _unmasked_copy(model: nn.Module) -> nn.Module:
    """A copy whose masks keep everything, and let gradients through."""
    twin = independent_copy(model)
    for _, pruned, _ in pruned_layers(twin):
        pruned.set_mask(torch.ones_like(pruned.mask))
    return twin


def _checked(scores: Sequence[Tensor | None], names: list[str], criterion: str) -> list[Tensor]:
    for name, score in zip(names, scores, strict=True):
        if score is None:
            raise ConfigError(
                f"{criterion}: layer {name} cannot be scored: no gradient reaches it; leave the layer out, or choose "
                "another method"
            )
    return [score.reshape(-1) for score in scores if score is not None]


def _global_masks(scores: list[Tensor], kept: int) -> list[Tensor]:
    """The masks of all layers by one threshold, bool ``[n]`` each; equal scores count by their order."""
    mask = topk_mask(torch.cat(scores), kept)
    return list(torch.split(mask, [score.numel() for score in scores]))
