"""The weight of one layer: random numbers from a seed, masked by trained scores, refreshed as the method has it."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .allocation import Allocation
from .codebooks import get_codebook
from .errors import CheckpointError, ConfigError
from .generator import (
    bytes_at,
    frozen_masks,
    random_bytes,
    random_scores,
    random_weights,
    weight_table,
    weights_at,
)
from .methods.biprop import alpha
from .methods.iterand import Resampling
from .methods.recycling import Recycling
from .selection import Fixed, coat_sizes, select, selection_keys

__all__ = ["MaskedWeight", "PrunedWeight", "WeightSpec", "coats_of", "fixed_of", "random_of", "spec_from_state"]


@dataclass(frozen=True)
class WeightSpec:
    """What, together with scores and draws, determines the weight of a layer for ever.

    Attributes:
        seed: 64-bit seed of the network.
        tensor: index of the layer among the masked layers of its network.
        shape: of the weight.
        codebook: name of the distribution.
        scale: float32 value of one code unit.
        kept: number of weights kept; where it changes in training, the number there is now.
        selection: rule from scores to mask; ``fixed`` for masks that were found at initialisation.
        binarised: whether kept weights are α·sign(w).
        coats: number of nested masks.
        frozen: share of the mask that the seed fixes to pruned, and to kept, in 1/65536.
    """

    seed: int
    tensor: int
    shape: tuple[int, ...]
    codebook: str
    scale: float
    kept: int
    selection: str
    binarised: bool = False
    coats: int = 1
    frozen: tuple[int, int] = (0, 0)

    @property
    def unit(self) -> np.float32:
        """What random weights are multiplied with before the mask: nothing if they are binarised, else the scale."""
        unit: np.float32 = np.float32(1.0 if self.binarised else self.scale)
        return unit


class _StraightThrough(torch.autograd.Function):
    """Masked weights; the gradient reaches the scores as if the mask were the scores."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor, random: Tensor, spec: WeightSpec, fixed: Fixed | None) -> Tensor:
        saved = (random, scores) if spec.selection == "magnitude" else (random,)
        ctx.save_for_backward(*saved)
        ctx.unit = spec.scale if spec.binarised else 1.0  # type: ignore[attr-defined]  # of the random weights
        return effective_weight(scores, random, spec, fixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        random, *scores = ctx.saved_tensors
        gradient = grad * random
        if ctx.unit != 1.0:
            gradient = gradient * ctx.unit
        if scores:
            gradient = gradient * scores[0].sign()
        return gradient, None, None, None


def effective_weight(scores: Tensor, random: Tensor, spec: WeightSpec, fixed: Fixed | None) -> Tensor:
    """The weight that the layer computes with, flat: 0 where pruned, else a multiple of the random weight or of α.

    Args:
        scores: float ``[n]``.
        random: float ``[n]``, the random weights; in units of the scale if they are binarised.
        spec: of the layer.
        fixed: weights whose part in the mask follows from the seed.
    """
    coats = coats_of(scores, spec, fixed) if spec.coats > 1 else None
    mask = select(scores, spec.kept, spec.selection, fixed) if coats is None else coats > 0
    values = random
    if spec.binarised:
        values = random.sign() * alpha(random, mask, spec.scale, spec.kept).to(random.dtype)
    if coats is not None:
        values = values * coats
    # where, not a product: -w * 0 would be -0, and a recovered pruned weight is +0.
    return torch.where(mask, values, 0.0)


def random_of(
    spec: WeightSpec, draws: Tensor | None, current: Tensor | None, device: torch.device | None = None
) -> Tensor:
    """The random weights of a layer in its present state, float32 ``[n]``, in units of the scale if binarised.

    Args:
        spec: of the layer.
        draws: uint8 ``[n]``, how often each weight was redrawn; ``None`` = never.
        current: uint8 ``[n]``, the byte that each weight stands for; where given, it says all.
        device: where to make them, if there are neither draws nor bytes.
    """
    book, unit = get_codebook(spec.codebook), spec.unit
    if current is not None:
        return weight_table(book, unit, current.device)[current.long()]
    device = device or torch.device("cpu") if draws is None else draws.device
    random = random_weights(spec.seed, spec.tensor, book, unit, math.prod(spec.shape), device)
    if draws is not None:
        index = draws.nonzero().squeeze(1)
        random[index] = weights_at(spec.seed, spec.tensor, book, unit, index, draws[index])
    return random


def coats_of(scores: Tensor, spec: WeightSpec, fixed: Fixed | None) -> Tensor:
    """How many of the nested masks keep each weight, uint8 ``[n]``.

    Source: Okoshi et al., "Multicoated supermasks enhance hidden networks", ICML 2022; each mask keeps the same number
    of weights fewer than the one before it.
    """
    masks = [select(scores, kept, spec.selection, fixed) for kept in coat_sizes(spec.kept, spec.coats)]
    return torch.stack(masks).sum(0, dtype=torch.uint8)


def fixed_of(spec: WeightSpec, device: torch.device) -> Fixed | None:
    """The weights whose part in the mask follows from the seed; ``None`` if there are none."""
    if spec.frozen == (0, 0):
        return None
    return frozen_masks(spec.seed, spec.tensor, *spec.frozen, math.prod(spec.shape), device)


class MaskedWeight(nn.Module):
    """The parametrization of one weight tensor: from scores (float, flat ``[n]``) to the masked weight.

    Buffers are flat and row-major, so no memory format reorders them. ``random`` (float32 ``[n]``: the random
    weights, in units of the scale if they are binarised) is not part of the state dict: it follows from the seed and
    ``draws`` (uint8 ``[n]``, present if the method redraws), or from ``current`` (uint8 ``[n]``, the byte that each
    weight stands for, present if the method recycles).

    Attributes:
        spec: see there.
        score_bound: scores start uniform on ± this.
        allocation: rule for the number of kept weights.
        resampling: IteRand's rule, or ``None``.
        recycling: Weight Recycling's rule, or ``None``.
    """

    random: Tensor
    draws: Tensor | None
    current: Tensor | None

    def __init__(
        self,
        spec: WeightSpec,
        score_bound: float,
        device: torch.device,
        *,
        allocation: Allocation,
        resampling: Resampling | None = None,
        recycling: Recycling | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.allocation, self.resampling, self.recycling = allocation, resampling, recycling
        self.score_bound, self._unused = score_bound, True
        count = math.prod(spec.shape)
        draws = torch.zeros(count, dtype=torch.uint8, device=device) if resampling else None
        self.register_buffer("draws", draws)
        current = random_bytes(spec.seed, spec.tensor, count, device) if recycling else None
        self.register_buffer("current", current)
        self.register_buffer("random", random_of(spec, None, current, device), persistent=False)
        for name, part in zip(("frozen_pruned", "frozen_kept"), fixed_of(spec, device) or (None, None), strict=True):
            self.register_buffer(name, part, persistent=False)
        if device.type == "meta":  # where nothing can be counted
            self._frozen_counts = tuple(count * share >> 16 for share in spec.frozen)
        else:
            self._frozen_counts = tuple(int(part.sum()) for part in self.fixed or ())
        self.keep(self.possible(spec.kept))

    @property
    def fixed(self) -> Fixed | None:
        """Weights that the seed fixes to pruned, and to kept, bool ``[n]`` each; ``None`` if there are none."""
        pruned, kept = self.frozen_pruned, self.frozen_kept
        return (pruned, kept) if isinstance(pruned, Tensor) and isinstance(kept, Tensor) else None

    def forward(self, scores: Tensor) -> Tensor:
        """The effective weight, of the layer's shape: the random weight where kept, +0 where pruned."""
        weight: Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            scores, self.random, self.spec, self.fixed
        )
        return weight.view(self.spec.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Called once by ``register_parametrization``: the initial scores take the place of the weight."""
        if not self._unused:
            raise ConfigError(
                "the weights of a subnetwork follow from seed and scores and cannot be assigned; materialise() it first"
            )
        self._unused = False
        return random_scores(self.spec.seed, self.spec.tensor, self.score_bound, weight.numel(), weight.device)

    def keys(self, scores: Tensor) -> Tensor:
        """What layers are compared by, float ``[n]``: the keys of the selection, in units of what scores start from."""
        return selection_keys(scores.detach(), self.spec.selection, self.fixed) / self.score_bound

    def mask(self, scores: Tensor) -> Tensor:
        """The mask, bool ``[n]`` with exactly ``spec.kept`` true entries."""
        return select(scores.detach(), self.spec.kept, self.spec.selection, self.fixed)

    def keep(self, kept: int) -> None:
        """Change the number of kept weights."""
        if kept != self.spec.kept:
            self.spec = replace(self.spec, kept=kept)

    def possible(self, kept: int) -> int:
        """The number nearest to ``kept`` that a mask can keep, given what the seed fixes of it."""
        pruned, always = self._frozen_counts or (0, 0)
        return min(max(kept, always), math.prod(self.spec.shape) - pruned)

    @torch.no_grad()
    def resample(self, scores: Tensor, event: int) -> None:
        """Redraw each pruned weight with the configured probability; ``event`` counts from 1."""
        if self.resampling is None or self.draws is None:
            return
        rule = self.resampling
        index = rule.redrawn(self.spec.seed, self.spec.tensor, event, self.mask(scores))
        draws = (self.draws[index].to(torch.int32) + 1) % rule.draws
        self.draws[index] = draws.to(torch.uint8)
        self._set(index, bytes_at(self.spec.seed, self.spec.tensor, index, draws))

    @torch.no_grad()
    def recycle(self, scores: Tensor) -> None:
        """Let the weights with the lowest scores take the values of those with the highest."""
        if self.recycling is None or self.current is None:
            return
        takers, givers = self.recycling.moves(selection_keys(scores.detach(), self.spec.selection))
        self._set(takers, self.current[givers].long())

    def _set(self, index: Tensor, values: Tensor) -> None:
        """Let weights (int64 ``[k]``) stand for bytes (int64 ``[k]``)."""
        table = weight_table(get_codebook(self.spec.codebook), self.spec.unit, values.device)
        self.random[index] = table[values].to(self.random.dtype)
        if self.current is not None:
            self.current[index] = values.to(torch.uint8)

    def get_extra_state(self) -> dict[str, Any]:
        """The spec travels with the state dict, so a state dict can be packed without the model."""
        return asdict(self.spec)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the scores of another network."""
        spec = spec_from_state(state)
        _check_same(self.spec, spec, varies=self.allocation.varies)
        self.keep(spec.kept)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "draws" in state_dict or prefix + "current" in state_dict:
            self.random.copy_(random_of(self.spec, self.draws, self.current))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.spec.codebook}, kept={self.spec.kept}/{math.prod(self.spec.shape)}, {self.spec.selection}"


class PrunedWeight(nn.Module):
    """The parametrization of a weight that is pruned once and trained: from a weight to the same, +0 where pruned.

    Attributes:
        spec: tells the initial weight; ``kept`` follows the mask.
        mask: bool, flat ``[n]``, row-major; True = kept.
    """

    mask: Tensor

    def __init__(self, spec: WeightSpec, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mask", torch.ones(math.prod(spec.shape), dtype=torch.bool, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight where kept, +0 where pruned."""
        return torch.where(self.mask.view(self.spec.shape), weight, 0.0)

    def set_mask(self, mask: Tensor) -> None:
        """Prune; ``mask`` is bool ``[n]``."""
        self.mask.copy_(mask)
        self.spec = replace(self.spec, kept=int(mask.sum()))

    def get_extra_state(self) -> dict[str, Any]:
        """See `MaskedWeight`."""
        return asdict(self.spec)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the weights of another network."""
        spec = spec_from_state(state)
        _check_same(self.spec, spec, varies=True)
        self.spec = spec

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"kept={self.spec.kept}/{math.prod(self.spec.shape)}, trained"


def _check_same(mine: WeightSpec, other: WeightSpec, *, varies: bool) -> None:
    here, there = asdict(mine), asdict(other)
    differing = [
        f"{key} {here[key]!r} here, {there[key]!r} there"
        for key in here
        if here[key] != there[key] and not (varies and key == "kept")
    ]
    if differing:
        raise CheckpointError("state dict of another subnetwork: " + "; ".join(differing))


def spec_from_state(state: dict[str, Any]) -> WeightSpec:
    """Rebuild a spec from the extra state of a state dict. What newer versions added may be absent.

    Raises:
        CheckpointError: a field is missing or has the wrong type.
    """
    kinds = {"int": int, "str": str, "float": float, "bool": bool, "tuple[int, ...]": tuple, "tuple[int, int]": tuple}
    known = {field.name: kinds[str(field.type)] for field in fields(WeightSpec)}
    needed = {field.name for field in fields(WeightSpec) if field.default is MISSING}
    if not needed <= set(state) <= set(known) or any(type(state[name]) is not known[name] for name in state):
        raise CheckpointError(f"subnetwork state: expected {sorted(known)}, got {str(state)[:200]}")
    spec = WeightSpec(**state)
    least = 0 if spec.selection == "fixed" else 1  # a criterion may prune a whole layer
    if not least <= spec.kept <= math.prod(spec.shape) or spec.selection not in {"signed", "magnitude", "fixed"}:
        raise CheckpointError(f"subnetwork state: impossible: {spec}")
    return spec
