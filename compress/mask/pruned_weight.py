"""The weight of one layer of a network that is pruned once, at initialisation, and trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .spec import WeightSpec, require_same, spec_from_state, state_of_spec

__all__ = ["PrunedWeight"]


class PrunedWeight(nn.Module):
    """The parametrization of a weight that is pruned once and trained: from a weight to the same, +0 where pruned.

    Attributes:
        spec: tells the initial weight; ``kept`` follows the mask.
        mask: bool, flat ``[n]``, row-major; True = kept.
        parameter_order: names of all parameters of the layer, in the order of the plain one.
    """

    mask: Tensor

    def __init__(self, spec: WeightSpec, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        self.parameter_order: tuple[str, ...] = ()
        mask = torch.ones(math.prod(spec.shape), dtype=torch.bool, device=device)
        self.register_buffer("mask", self.without_padding(mask, low=False))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight where kept, +0 where pruned.

        Raises:
            ConfigError: in the backward pass, if it is to be trained, and no mask was set.
        """
        masked = torch.where(self.mask.view(self.spec.shape), weight, 0.0)
        if self.spec.selection == "unpruned" and masked.requires_grad:
            masked.register_hook(_refuse_training)  # type: ignore[no-untyped-call]
        return masked

    def set_mask(self, mask: Tensor) -> None:
        """Prune; ``mask`` is bool ``[n]``. The row of padding is pruned whatever it says."""
        self.mask.copy_(self.without_padding(mask, low=False))
        self.spec = replace(self.spec, kept=int(self.mask.sum()), selection="fixed")

    def without_padding(self, values: Tensor, *, low: float) -> Tensor:
        """A copy of a tensor ``[n]``, with ``low`` in the row of padding, if there is one."""
        values = values.clone()
        if self.spec.padding >= 0:
            values.view(self.spec.shape)[self.spec.padding] = low
        return values

    def get_extra_state(self) -> dict[str, Any]:
        """The spec travels with the state dict, so a state dict can be packed without the model."""
        return state_of_spec(self.spec)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the weights of another network."""
        spec = spec_from_state(state)
        require_same(replace(self.spec, selection=spec.selection), spec, varies=True)
        self.spec = spec

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"kept={self.spec.kept}/{math.prod(self.spec.shape)}, trained"


def _refuse_training(_: Tensor) -> None:
    raise ConfigError(
        "the network is to be pruned before its weights are trained, and was not: call prune_at_init(subnet, …) after "
        "Subnetwork(model, config)"
    )
