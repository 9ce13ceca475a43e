"""The weight of one layer of a network that is pruned once, at initialisation, and trained."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .weight_spec import WeightSpec, require_same, spec_from_state

__all__ = ["PrunedWeight"]


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
        """The weight where kept, +0 where pruned.

        Raises:
            ConfigError: it is to be trained, and no mask was set.
        """
        if self.spec.selection == "unpruned" and self.training and torch.is_grad_enabled():
            raise ConfigError(
                "the network is to be pruned before its weights are trained, and was not: call find_ticket(model, "
                "config, inputs) after make_subnetwork(model, config)"
            )
        return torch.where(self.mask.view(self.spec.shape), weight, 0.0)

    def set_mask(self, mask: Tensor) -> None:
        """Prune; ``mask`` is bool ``[n]``."""
        self.mask.copy_(mask)
        self.spec = replace(self.spec, kept=int(mask.sum()), selection="fixed")

    def get_extra_state(self) -> dict[str, Any]:
        """See `MaskedWeight`."""
        return asdict(self.spec)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the weights of another network."""
        spec = spec_from_state(state)
        require_same(replace(self.spec, selection=spec.selection), spec, varies=True)
        self.spec = spec

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"kept={self.spec.kept}/{math.prod(self.spec.shape)}, trained"
