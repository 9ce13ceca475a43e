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


def attach(layer: Any, weights: Mapping[str, MaskedWeight | PrunedWeight]) -> None:
    """Let tensors of a layer be computed by parametrizations.

    Args:
        layer: without any so far.
        weights: parametrizations by the names of the parameters that they take the place of.
    """
    order = tuple(layer._parameters)
    for tensor, weight in weights.items():
        weight.parameter_order = order
        layer._parameters[tensor].requires_grad_(True)
        parametrize.register_parametrization(layer, tensor, weight)
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
        isinstance(stack[0], MaskedWeight | PrunedWeight)
        for stack in layer.parametrizations.values()  # type: ignore[operator,union-attr]
    )


@torch.no_grad()
def detach(layer: Any, name: str) -> None:
    """Make a stock layer again of one that `is_attached`: same values, and its parameters in their old order.

    Raises:
        ConfigError: something else was put on the layer as well; ``name`` is for the message.
    """
    stacks = dict(layer.parametrizations)
    foreign = [tensor for tensor, stack in stacks.items() if not isinstance(stack[0], MaskedWeight | PrunedWeight)]
    if foreign:
        raise ConfigError(f"layer {name}: its {foreign[0]} was parametrized after Subnetwork(); remove that first")
    layer.parametrizations.eval()  # in which masks are hard
    weights = {tensor: nn.Parameter(getattr(layer, tensor).clone()) for tensor in stacks}
    # Not torch's remove_parametrizations: it deletes a property of the class that copies share, and so breaks them.
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    order = next(iter(stacks.values()))[0].parameter_order
    parameters = {**layer._parameters, **weights}
    layer._parameters.clear()
    layer._parameters.update({key: parameters.pop(key) for key in order if key in parameters} | parameters)
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()


def without_cudnn(model: nn.Module) -> AbstractContextManager[None]:
    """Within, a model with recurrent layers does without cuDNN.

    Its recurrent layers have no backward pass in evaluation mode, and no second derivatives.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
