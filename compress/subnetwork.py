"""Subnetworks: modules whose weights are random numbers from a seed, kept or pruned by trained scores.

``make_subnetwork`` puts a ``MaskedWeight`` on the weight of each chosen layer through
``torch.nn.utils.parametrize``. The layer's parameter becomes its scores; its weight becomes
``mask(scores) * random weight``, with the gradient passed straight through the mask to the scores.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .codebooks import get_codebook
from .config import SubnetworkConfig
from .errors import ConfigError
from .generator import DECISION_STEPS, random_weights
from .masked_weight import MaskedWeight, Resampling, WeightSpec
from .methods import PRESETS
from .selection import kept_count

__all__ = [
    "MASKABLE",
    "make_subnetwork",
    "masked_layers",
    "materialise",
    "refresh",
]

#: Layers whose ``weight`` can be masked.
MASKABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LayerFilter = Callable[[str, nn.Module], bool]


def make_subnetwork(model: ModuleT, config: SubnetworkConfig, *, where: LayerFilter | None = None) -> ModuleT:
    """Turn a module, in place, into one whose weights come from a seed.

    For ``method="dense"`` the weights become the initial random ones and stay ordinary parameters.

    Args:
        model: any module; every layer of a type in ``MASKABLE`` is taken.
        config: method, distribution, sparsity, seed, resampling.
        where: called with name and layer; return ``False`` to leave a layer as it is.

    Returns:
        ``model`` itself.

    Raises:
        ConfigError: no layer to mask, tied weights, a layer too small for the sparsity, an uninitialised or
            already parametrized layer.
    """
    preset = PRESETS[config.method]
    codebook = get_codebook(config.distribution)
    chosen = list(_maskable_layers(model, where))
    if not chosen:
        raise ConfigError(
            f"{type(model).__name__}: no layer to mask; expected at least one of "
            + ", ".join(kind.__name__ for kind in MASKABLE)
        )
    selection = config.selection or preset.selection
    resampling = _resampling(config) if preset.refresh == "resample" else None
    parts = []
    for tensor, (name, layer) in enumerate(chosen):
        weight, fan_in = layer.weight, _fan_in(layer)
        scale = codebook.scale(fan_in)
        if preset.selection is None or selection is None:
            random = random_weights(config.seed, tensor, codebook, scale, weight.numel(), weight.device)
            with torch.no_grad():
                weight.copy_(random.view(weight.shape))
            continue
        kept = kept_count(weight.numel(), config.sparsity, name or type(layer).__name__)
        spec = WeightSpec(config.seed, tensor, tuple(weight.shape), codebook.name, float(scale), kept, selection)
        bound = config.score_scale * preset.score_gain / math.sqrt(fan_in)
        parts.append((layer, MaskedWeight(spec, bound, resampling, weight.device).to(weight.dtype)))
    for layer, part in parts:  # only now: a refused layer leaves the model as it was
        layer.weight.requires_grad_(True)
        parametrize.register_parametrization(layer, "weight", part)
    return model


def _resampling(config: SubnetworkConfig) -> Resampling:
    threshold = round(config.resample_rate * DECISION_STEPS)
    if threshold == 0 and config.resample_rate > 0:
        raise ConfigError(
            f"resample_rate: expected 0 or at least {1 / DECISION_STEPS:.1e} (1/{DECISION_STEPS}), "
            f"got {config.resample_rate}"
        )
    return Resampling(config.resample_every, threshold, config.draws)


def _maskable_layers(model: nn.Module, where: LayerFilter | None) -> Iterator[tuple[str, Any]]:
    owners: dict[int, str] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, MASKABLE) or (where is not None and not where(name, layer)):
            continue
        if parametrize.is_parametrized(layer):
            raise ConfigError(f"layer {name}: parametrized already; materialise() or remove that first")
        if isinstance(layer.weight, nn.parameter.UninitializedParameter):
            raise ConfigError(f"layer {name}: a lazy layer without a shape; run one batch through the model first")
        if isinstance(layer, nn.Embedding) and layer.sparse:
            raise ConfigError(f"layer {name}: sparse gradients cannot reach the scores; use sparse=False")
        other = owners.setdefault(id(layer.weight), name)
        if other != name:
            raise ConfigError(f"layers {other} and {name} share one weight; untie them, or leave one out with where=")
        yield name, layer


def _fan_in(layer: Any) -> int:
    """Inputs that add up to one output. An embedding looks one row up, so its fan-in is 1."""
    if isinstance(layer, nn.Embedding):
        return 1
    if isinstance(layer, nn.Linear):
        return max(layer.in_features, 1)
    inputs = layer.in_channels // layer.groups
    # A transposed convolution spreads each input over kernel/stride outputs per axis.
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, _TRANSPOSED):
        taps = max(taps // math.prod(layer.stride), 1)
    return int(inputs * taps)


def masked_layers(model: nn.Module) -> Iterator[tuple[str, MaskedWeight, nn.Parameter]]:
    """All masked weights of a model as (name of the weight, parametrization, scores)."""
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            part = module[0]
            if isinstance(part, MaskedWeight):
                layer = name.removesuffix("parametrizations.weight")
                scores = module.original
                assert isinstance(scores, nn.Parameter)
                yield layer + "weight", part, scores


def refresh(model: nn.Module, step: int) -> bool:
    """Do what the method does to pruned weights before training step ``step`` (0, 1, …).

    IteRand: before every ``resample_every``-th step each pruned weight is redrawn with probability
    ``resample_rate``; scores stay. What is redrawn follows from the seed and the step alone.

    Returns:
        Whether this step had a resampling event.
    """
    happened = False
    for _, part, scores in masked_layers(model):
        if part.resampling is not None and (step + 1) % part.resampling.every == 0:
            part.resample(scores, (step + 1) // part.resampling.every)
            happened = True
    return happened


def materialise(model: ModuleT) -> ModuleT:
    """A copy of the model made of stock layers only, with bit-equal weights. ``model`` is not changed."""
    plain = copy.deepcopy(model)
    for layer in list(plain.modules()):
        if parametrize.is_parametrized(layer, "weight") and isinstance(_first(layer), MaskedWeight):
            # Not torch's remove_parametrizations: it deletes a property of the class that copy and
            # original share, and so breaks the original.
            weight: Tensor = layer.weight.detach().clone()  # type: ignore[operator,union-attr,assignment]
            del layer.parametrizations
            layer.__class__ = type(layer).__bases__[0]
            layer.register_parameter("weight", nn.Parameter(weight))
    return plain


def _first(layer: nn.Module) -> nn.Module:
    return layer.parametrizations["weight"][0]  # type: ignore[index,return-value,operator,union-attr]
