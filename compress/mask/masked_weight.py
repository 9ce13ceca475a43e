"""A weight of a layer: random numbers from a seed, masked by trained scores, refreshed as the method has it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Recycle, Resample
from ..errors import ConfigError
from ..methods.recycling import recycling_moves
from ..methods.signed_supermask import signed_mask
from ..seed.frozen import Frozen, frozen_masks
from ..seed.philox_torch import random_scores
from .codes import codes_of, initial_bytes, redraw
from .softness import soft_share, width_at
from .sparsity import Allocation, LayerSize
from .spec import WeightSpec, require_same, spec_from_state, state_of_spec
from .stages import stage
from .straight_through import CachedWeight, StraightThrough
from .topk import Fixed, LayerKeys, nested_counts, select, selection_keys
from .topk_cpu import new_bracket

__all__ = ["MaskedWeight", "fixed_by_seed", "multiples"]


def multiples(scores: Tensor, spec: WeightSpec, fixed: Fixed | None, brackets: list[Tensor] | None = None) -> Tensor:
    """How many of the nested masks keep each weight, uint8 ``[n]``.

    Each mask keeps the same number of weights fewer than the one before it.

    Source: Okoshi et al., "Multicoated supermasks enhance hidden networks", ICML 2022.

    Args:
        scores: float ``[n]``.
        spec: of the weight; its ``multiplicity`` is the number of masks.
        fixed: weights that are pruned, and kept, whatever their scores; ``None`` if there are none.
        brackets: what a CPU remembers of each mask (see ``topk_cpu.py``).
    """
    memory: list[Tensor | None] = [*brackets] if brackets else [None] * spec.multiplicity
    masks = [
        select(scores, kept, spec.selection, fixed, bracket)
        for kept, bracket in zip(nested_counts(spec.kept, spec.multiplicity), memory, strict=True)
    ]
    return torch.stack(masks).sum(0, dtype=torch.uint8)


def fixed_by_seed(spec: WeightSpec, device: torch.device) -> Fixed | None:
    """The weights whose place in the mask follows from the seed, or from being padding; ``None`` if there are none."""
    if spec.frozen == (0, 0) and spec.padding < 0:
        return None
    count = math.prod(spec.shape)
    if spec.frozen == (0, 0) or device.type == "meta":
        pruned, kept = torch.zeros(2, count, dtype=torch.bool, device=device)
    else:
        masks = frozen_masks(spec.seed, spec.tensor, Frozen(*spec.frozen), count)
        pruned, kept = (torch.from_numpy(mask).to(device) for mask in masks)
    if spec.padding >= 0:
        pruned.view(spec.shape)[spec.padding] = True
    return pruned, kept


class MaskedWeight(nn.Module):
    """The parametrization of one weight tensor: from scores (float, flat ``[n]``) to the masked weight.

    Buffers are flat and row-major, so no memory format reorders them. ``codes`` (int8 ``[n]``: the random weights in
    units of the scale) is not in the state dict: it follows from the seed and ``draws`` (uint8 ``[n]``, present if the
    method redraws), or from ``current`` (uint8 ``[n]``, the byte that each weight stands for, present if the method
    recycles).

    Attributes:
        spec: what determines the weight, together with scores, draws and current bytes.
        score_bound: scores start uniform on ± this, or for ``invert`` from 0 to this.
        allocation: rule for the number of kept weights.
        resampling: IteRand's rule, or ``None``.
        recycling: Weight Recycling's rule, or ``None``.
        softness: width of the sigmoid that stands for the mask in training, at the start; 0 = masks are hard.
        soft_until: share of the steps from which they are hard anyway.
        cached_mask: the mask, bool ``[n]``, while scores do not change; ``None`` = compute it in each forward pass.
        cached_weight: the effective weight in the layer's shape, likewise.
        parameter_order: names of all parameters of the layer, in the order of the plain one.
    """

    codes: Tensor
    draws: Tensor | None
    current: Tensor | None
    soft_width: Tensor

    def __init__(
        self,
        spec: WeightSpec,
        score_bound: float,
        device: torch.device,
        *,
        allocation: Allocation,
        resampling: Resample | None = None,
        recycling: Recycle | None = None,
        softness: float = 0.0,
        soft_until: float = 1.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.allocation, self.resampling, self.recycling = allocation, resampling, recycling
        self.softness, self.soft_until = softness, soft_until
        self.score_bound, self._unused = score_bound, True
        self.cached_mask: Tensor | None = None
        self.cached_weight: Tensor | None = None
        self.parameter_order: tuple[str, ...] = ()
        self._brackets = [new_bracket() for _ in range(spec.multiplicity)]
        count = math.prod(spec.shape)
        draws = torch.zeros(count, dtype=torch.uint8, device=device) if resampling else None
        self.register_buffer("draws", draws)
        current = initial_bytes(spec, device) if recycling else None
        self.register_buffer("current", current)
        self.register_buffer("codes", codes_of(spec, None, current, device), persistent=False)
        self._is_soft = False
        self.register_buffer("soft_width", torch.zeros((), device=device) if softness else None, persistent=False)
        fixed = fixed_by_seed(spec, device)
        for name, mask in zip(("fixed_pruned", "fixed_kept"), fixed or (None, None), strict=True):
            self.register_buffer(name, mask, persistent=False)
        if device.type == "meta":  # where nothing can be counted
            pruned, kept = (count * share >> 16 for share in spec.frozen)
            self._fixed_counts: tuple[int, ...] = (max(pruned, count - spec.selectable), kept)
        else:
            self._fixed_counts = tuple(int(mask.sum()) for mask in fixed or ())
        self.set_kept(self.size("").possible(spec.kept))
        self._kept_is_set = not allocation.varies

    @property
    def fixed(self) -> Fixed | None:
        """Weights that are pruned, and kept, whatever their scores, bool ``[n]`` each; ``None`` if there are none."""
        pruned, kept = self.fixed_pruned, self.fixed_kept
        return (pruned, kept) if isinstance(pruned, Tensor) and isinstance(kept, Tensor) else None

    @property
    def random(self) -> Tensor:
        """The random weights, masked or not, float32 ``[n]``."""
        return self.codes.to(torch.float32) * self.spec.scale

    def forward(self, scores: Tensor) -> Tensor:
        """The effective weight, of the layer's shape: the random weight where kept, or its inverse, +0 where pruned.

        Raises:
            ConfigError: in the backward pass, if the number of kept weights changes in training, and nothing sets it.
        """
        if self.cached_weight is not None:
            return CachedWeight.apply(  # type: ignore[no-untyped-call,no-any-return]
                scores, self.codes, self.cached_weight, self.spec
            )
        factors = None
        if self.spec.multiplicity > 1:
            times = multiples(scores.detach(), self.spec, self.fixed, self._brackets)
            mask, factors = times > 0, times.view(torch.int8)
        else:
            mask = self.mask(scores) if self.cached_mask is None else self.cached_mask
        share = None
        if self._is_soft and self.training:
            share = soft_share(scores.detach(), mask, self.soft_width, self.spec.selection, self.fixed)
            mask = torch.ones_like(mask)
        if self.spec.selection == "invert":
            factors = signed_mask(mask if factors is None else factors, scores.detach())
        weight: Tensor = StraightThrough.apply(  # type: ignore[no-untyped-call]
            scores, self.codes, mask, factors, share, self.spec
        )
        if not self._kept_is_set and weight.requires_grad:
            weight.register_hook(_refuse_training)  # type: ignore[no-untyped-call]
        return weight.view(self.spec.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Called once by ``register_parametrization``: the initial scores take the place of the weight."""
        if not self._unused:
            raise ConfigError(
                "the weights of a subnetwork follow from seed and scores and cannot be assigned; take to_dense() first"
            )
        self._unused = False
        scores = random_scores(self.spec.seed, self.spec.tensor, self.score_bound, weight.numel(), weight.device)
        return (scores.abs() if self.spec.selection == "invert" else scores).to(weight.dtype)

    def keys(self, scores: Tensor) -> LayerKeys:
        """What layers are compared by: the keys of the selection, in units of the bound of the initial scores."""
        return LayerKeys(scores.detach(), self.spec.selection, self.fixed, self.score_bound)

    def mask(self, scores: Tensor) -> Tensor:
        """The mask, bool ``[n]`` with exactly ``spec.kept`` true entries."""
        with stage("selection"):
            return select(scores.detach(), self.spec.kept, self.spec.selection, self.fixed, self._brackets[0])

    def set_kept(self, kept: int) -> None:
        """Change the number of kept weights."""
        self._kept_is_set = True
        if kept != self.spec.kept:
            self.spec = replace(self.spec, kept=kept)

    def soften(self, done: float) -> None:
        """Set the width of soft masks to what it is when a share ``done`` of the steps is done."""
        if self.softness:
            width = width_at(self.softness, self.soft_until, done)
            self._is_soft = width > 0
            self.soft_width.fill_(width)

    def size(self, name: str) -> LayerSize:
        """How many weights the mask may keep, given what is fixed of it; ``name`` is the weight's."""
        pruned, always = self._fixed_counts or (0, 0)
        spec = self.spec
        return LayerSize(name, spec.shape[0], spec.selectable, always, math.prod(spec.shape) - pruned)

    @torch.no_grad()
    def resample(self, scores: Tensor, event: int) -> None:
        """Redraw each pruned weight with the rule's probability; ``event`` counts from 1."""
        if self.resampling is None or self.draws is None:
            return
        redraw(self.spec, self.resampling, event, self.mask(scores), self.codes, self.draws, self.current)

    @torch.no_grad()
    def recycle(self, scores: Tensor) -> None:
        """Let the weights with the lowest scores take the values of those with the highest."""
        if self.recycling is None or self.current is None:
            return
        keys = selection_keys(scores.detach(), self.spec.selection)
        if self.spec.padding >= 0:  # whose scores do not learn: it gives nothing
            keys = keys.clone()
            keys.view(self.spec.shape)[self.spec.padding] = -math.inf
        takers, givers = recycling_moves(self.recycling, keys)
        self.current[takers] = self.current[givers]
        self.codes[takers] = self.codes[givers]

    def get_extra_state(self) -> dict[str, Any]:
        """The spec travels with the state dict, so a state dict can be packed without the model."""
        return state_of_spec(self.spec)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the scores of another network."""
        spec = spec_from_state(state)
        require_same(self.spec, spec, varies=self.allocation.varies)
        self.set_kept(spec.kept)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "draws" in state_dict or prefix + "current" in state_dict:
            self.codes.copy_(codes_of(self.spec, self.draws, self.current))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.spec.codebook}, kept={self.spec.kept}/{math.prod(self.spec.shape)}, {self.spec.selection}"


def _refuse_training(_: Tensor) -> None:
    raise ConfigError(
        "global selection and ramps set the number of weights that a layer keeps before each step, and nothing did: "
        "create the network with Subnetwork(), and call its step() after each optimizer.step()"
    )
