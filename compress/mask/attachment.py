"""Put masked weights on a layer, and take them off again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import ConfigError
from .masked_weight import MaskedWeight
from .pruned_weight import PrunedWeight

__all__ = ["attach", "detach", "is_attached", "without_cudnn"]


def attach(layer: Any, parts: Mapping[str, MaskedWeight | PrunedWeight]) -> None:
    """Let tensors of a layer be computed by parametrizations.

    Args:
        layer: without any so far.
        parts: by the names of parameters.
    """
    order = tuple(layer._parameters)
    for tensor, part in parts.items():
        part.order = order
        layer._parameters[tensor].requires_grad_(True)
        parametrize.register_parametrization(layer, tensor, part)
    kind: Any = type(layer)  # which torch has just made, for this layer alone
    plain: Any = kind.__bases__[0]
    if isinstance(layer, nn.MultiheadAttention):

        def attend(self: Any, *args: Any, **kwargs: Any) -> Any:
            # A forward pass asks for the weight three times and more.
            traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
            with nullcontext() if traced else parametrize.cached():
                return plain.forward(self, *args, **kwargs)

        kind.forward = attend
    elif isinstance(layer, nn.RNNBase):
        # Stock layers keep a list of their weights between passes. These belong to one pass each, and to its graph.
        def forget(self: Any) -> None:
            self._flat_weights, self._flat_weight_refs = [None] * len(self._flat_weights_names), []

        def compute(self: Any) -> None:
            self._flat_weights = [getattr(self, name) for name in self._flat_weights_names]

        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return plain.forward(self, *args, **kwargs)
            finally:
                self._init_flat_weights()

        kind._init_flat_weights, kind._update_flat_weights, kind.forward = forget, compute, run
        layer._init_flat_weights()


def is_attached(layer: nn.Module) -> bool:
    """Whether weights of a layer are masked or pruned."""
    return parametrize.is_parametrized(layer) and any(
        isinstance(part[0], MaskedWeight | PrunedWeight)
        for part in layer.parametrizations.values()  # type: ignore[operator,union-attr]
    )


@torch.no_grad()
def detach(layer: Any, name: str) -> None:
    """Make a stock layer again of one that `is_attached`: same values, and its parameters in their old order.

    Raises:
        ConfigError: something else was put on the layer as well; ``name`` is for the message.
    """
    parts = dict(layer.parametrizations)
    odd = [tensor for tensor, part in parts.items() if not isinstance(part[0], MaskedWeight | PrunedWeight)]
    if odd:
        raise ConfigError(f"layer {name}: its {odd[0]} was parametrized after make_subnetwork(); remove that first")
    weights = {tensor: nn.Parameter(getattr(layer, tensor).clone()) for tensor in parts}
    # Not torch's remove_parametrizations: it deletes a property of the class that copies share, and so breaks them.
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    order = next(iter(parts.values()))[0].order
    found = {**layer._parameters, **weights}
    layer._parameters.clear()
    layer._parameters.update({key: found.pop(key) for key in order if key in found} | found)
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()


def without_cudnn(model: nn.Module) -> AbstractContextManager[None]:
    """Within, a model with recurrent layers does without cuDNN.

    Its recurrent layers have no backward pass in evaluation mode, and no second derivatives.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
