"""The weight of one layer: random numbers from a seed, masked by trained scores, redrawn where pruned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .codebooks import get_codebook
from .errors import CheckpointError, ConfigError
from .generator import random_scores, random_weights, resampling_decisions, weights_at
from .selection import select

__all__ = ["MaskedWeight", "Resampling", "WeightSpec", "spec_from_state"]


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


def spec_from_state(state: dict[str, Any]) -> WeightSpec:
    """Rebuild a spec from the extra state of a state dict.

    Raises:
        CheckpointError: a field is missing or has the wrong type.
    """
    expected = {field.name: field.type for field in fields(WeightSpec)}
    kinds = {"int": int, "str": str, "float": float, "tuple[int, ...]": tuple}
    if set(state) != set(expected) or any(type(state[name]) is not kinds[str(kind)] for name, kind in expected.items()):
        raise CheckpointError(f"subnetwork state: expected {expected}, got {str(state)[:200]}")
    spec = WeightSpec(**state)
    if not 0 < spec.kept <= math.prod(spec.shape) or spec.selection not in {"signed", "magnitude"}:
        raise CheckpointError(f"subnetwork state: impossible: {spec}")
    return spec
