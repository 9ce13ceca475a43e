"""Subnetworks: modules whose weights are random numbers from a seed, kept or pruned by trained scores.

``make_subnetwork`` puts a ``MaskedWeight`` on the weight of each chosen layer through
``torch.nn.utils.parametrize``. The layer's parameter becomes its scores; its weight becomes
``mask(scores) * random weight``, with the gradient passed straight through the mask to the scores.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.utils import parametrize

from .codebooks import get_codebook
from .config import SubnetworkConfig
from .errors import CheckpointError, ConfigError
from .generator import (
    DECISION_STEPS,
    random_scores,
    random_weights,
    resampling_decisions,
    weights_at,
)
from .methods import PRESETS
from .selection import kept_count, select

__all__ = [
    "MASKABLE",
    "MaskedWeight",
    "WeightSpec",
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


@dataclass(frozen=True)
class WeightSpec:
    """What, together with scores and draws, determines the weight of a layer for ever.

    Attributes:
        seed: 64-bit seed of the network.
        tensor: index of the layer among the masked layers of its network.
        shape: of the weight.
        codebook: name of the distribution.
        scale: float32 value of one code unit.
        kept: number of weights kept.
        selection: rule from scores to mask.
    """

    seed: int
    tensor: int
    shape: tuple[int, ...]
    codebook: str
    scale: float
    kept: int
    selection: str


@dataclass(frozen=True)
class Resampling:
    """IteRand's refresh: every ``every`` steps each pruned weight is redrawn with chance ``threshold / 65536``."""

    every: int
    threshold: int
    draws: int


class _MaskedProduct(torch.autograd.Function):
    """``mask(scores) * weights``; the gradient reaches the scores as if the mask were the scores."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor, weights: Tensor, kept: int, selection: str) -> Tensor:
        saved = (weights, scores) if selection == "magnitude" else (weights,)
        ctx.save_for_backward(*saved)
        # where, not a product: -w * 0 would be -0, and a recovered pruned weight is +0.
        return torch.where(select(scores, kept, selection), weights, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        weights, *scores = ctx.saved_tensors
        gradient = grad * weights
        if scores:
            gradient = gradient * scores[0].sign()
        return gradient, None, None, None


class MaskedWeight(nn.Module):
    """The parametrization of one weight tensor: from scores (float, flat ``[n]``) to the masked weight.

    Buffers are flat and row-major, so no memory format reorders them. ``random`` (float32 ``[n]``) is not
    part of the state dict: it follows from the seed and ``draws`` (uint8 ``[n]``, present if the method redraws).
    """

    random: Tensor
    draws: Tensor | None

    def __init__(
        self,
        spec: WeightSpec,
        score_bound: float,
        resampling: Resampling | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.resampling = resampling
        self._score_bound: float | None = score_bound
        count = math.prod(spec.shape)
        self.register_buffer("random", self._initial_weights(count, device), persistent=False)
        draws = torch.zeros(count, dtype=torch.uint8, device=device) if resampling else None
        self.register_buffer("draws", draws)

    def _initial_weights(self, count: int, device: torch.device) -> Tensor:
        spec = self.spec
        return random_weights(
            spec.seed, spec.tensor, get_codebook(spec.codebook), np.float32(spec.scale), count, device
        )

    def forward(self, scores: Tensor) -> Tensor:
        """The effective weight, of the layer's shape: the random weight where kept, +0 where pruned."""
        weight: Tensor = _MaskedProduct.apply(  # type: ignore[no-untyped-call]
            scores, self.random, self.spec.kept, self.spec.selection
        )
        return weight.view(self.spec.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Called once by ``register_parametrization``: the initial scores take the place of the weight."""
        if self._score_bound is None:
            raise ConfigError(
                "the weights of a subnetwork follow from seed and scores and cannot be assigned; materialise() it first"
            )
        bound, self._score_bound = self._score_bound, None
        return random_scores(self.spec.seed, self.spec.tensor, bound, weight.numel(), weight.device)

    def mask(self, scores: Tensor) -> Tensor:
        """The mask, bool ``[n]`` with exactly ``spec.kept`` true entries."""
        return select(scores.detach(), self.spec.kept, self.spec.selection)

    @torch.no_grad()
    def resample(self, scores: Tensor, event: int) -> None:
        """Redraw each pruned weight with the configured probability; ``event`` counts from 1."""
        if self.resampling is None or self.draws is None:
            return
        spec, rule = self.spec, self.resampling
        chosen = resampling_decisions(
            spec.seed, spec.tensor, event, rule.threshold, self.draws.numel(), self.draws.device
        )
        index = (chosen & ~self.mask(scores)).nonzero().squeeze(1)
        draws = (self.draws[index].to(torch.int32) + 1) % rule.draws
        self.draws[index] = draws.to(torch.uint8)
        self.random[index] = self._at(index, draws)

    def _at(self, index: Tensor, draws: Tensor) -> Tensor:
        spec = self.spec
        weights = weights_at(spec.seed, spec.tensor, get_codebook(spec.codebook), np.float32(spec.scale), index, draws)
        return weights.to(self.random.dtype)

    def get_extra_state(self) -> dict[str, Any]:
        """The spec travels with the state dict, so a state dict can be packed without the model."""
        return asdict(self.spec)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the scores of another network."""
        mine = asdict(self.spec)
        differing = [
            f"{key} {mine[key]!r} here, {state.get(key)!r} there" for key in mine if mine[key] != state.get(key)
        ]
        if differing:
            raise CheckpointError("state dict of another subnetwork: " + "; ".join(differing))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.draws is not None and prefix + "draws" in state_dict:
            self.random.copy_(self._initial_weights(self.random.numel(), self.random.device))
            index = self.draws.nonzero().squeeze(1)
            self.random[index] = self._at(index, self.draws[index])

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.spec.codebook}, kept={self.spec.kept}/{math.prod(self.spec.shape)}, {self.spec.selection}"


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


def spec_from_state(state: dict[str, Any]) -> WeightSpec:
    """Rebuild a spec from the extra state of a state dict.

    Raises:
        CheckpointError: a field is missing or has the wrong type.
    """
    expected = {field.name: field.type for field in fields(WeightSpec)}
    kinds = {"int": int, "str": str, "float": float, "tuple[int, ...]": tuple}
    if set(state) != set(expected) or any(type(state[name]) is not kinds[str(kind)] for name, kind in expected.items()):
        raise CheckpointError(f"subnetwork state: expected {expected}, got {state!r:.200}")
    return WeightSpec(**state)
