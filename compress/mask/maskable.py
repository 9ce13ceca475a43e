"""Which tensors of which layers can be masked, and whether a model lets them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ConfigError

__all__ = ["IN_PYTHON", "MASKABLE", "Chosen", "LayerFilter", "chosen_weights", "fan_in", "refuse_second_names"]

#: Layers with tensors that can be masked: ``weight``, the input projections of attention, all matrices of recurrent
#: layers.
MASKABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.MultiheadAttention,
    nn.RNN,
    nn.LSTM,
    nn.GRU,
    nn.RNNCell,
    nn.LSTMCell,
    nn.GRUCell,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

LayerFilter = Callable[[nn.Module, str], bool]


class Chosen(NamedTuple):
    """A tensor to be masked.

    Attributes:
        layer: it belongs to; a module of `MASKABLE`.
        tensor: name of the parameter there.
        label: for messages: the layer's name, and the tensor's where that is not ``weight``.
    """

    layer: Any
    tensor: str
    label: str

    @property
    def weight(self) -> nn.Parameter:
        """The parameter itself."""
        weight: nn.Parameter = getattr(self.layer, self.tensor)
        return weight

    @property
    def padding(self) -> int:
        """The row of an embedding that PyTorch keeps at 0 and gives no gradient; -1 = there is none."""
        row = self.layer.padding_idx if isinstance(self.layer, nn.Embedding) else None
        return -1 if row is None else int(row)


#: Ends the messages about a layer that cannot be masked; the command line masks all that can.
IN_PYTHON = "(in Python, the argument filter_fn= of Subnetwork() can leave layers out)"


def chosen_weights(model: nn.Module, filter_fn: LayerFilter | None) -> list[Chosen]:
    """The tensors of a model that can be masked, in the order that numbers them; frozen ones (requires_grad) apart.

    Raises:
        ConfigError: a layer whose weight is no parameter of its own: not yet made, computed from others, or shared.
    """
    chosen = list(_chosen(model, filter_fn))
    if not chosen:
        frozen = sum(not parameter.requires_grad for parameter in model.parameters())
        advice = f" (layers with requires_grad=False stay as they are: {frozen} parameters have it)" if frozen else ""
        raise ConfigError(
            f"{type(model).__name__}: no layer to mask; expected at least one of "
            + ", ".join(kind.__name__ for kind in MASKABLE)
            + advice
        )
    owners = _Owners()
    for choice in chosen:
        other = owners.find(choice.weight)
        if other is not None:
            raise ConfigError(
                f"layers {other.label} and {choice.label} share one weight; give each of them a weight of its own "
                f"{IN_PYTHON}"
            )
        owners.add(choice)
    return chosen


def _chosen(model: nn.Module, filter_fn: LayerFilter | None) -> Iterator[Chosen]:
    for name, layer in model.named_modules():
        if not isinstance(layer, MASKABLE) or (filter_fn is not None and not filter_fn(layer, name)):
            continue
        name = name or type(layer).__name__
        if parametrize.is_parametrized(layer):
            raise ConfigError(
                f"layer {name}: parametrized already; build the model without it, or take it away first with "
                f"to_dense() or remove_parametrizations() {IN_PYTHON}"
            )
        if isinstance(layer, nn.Embedding) and layer.sparse:
            raise ConfigError(f"layer {name}: sparse gradients cannot reach the scores; use sparse=False")
        for tensor in _tensors(layer):
            weight = layer._parameters.get(tensor)
            if isinstance(weight, nn.parameter.UninitializedParameter):
                raise ConfigError(f"layer {name}: a lazy layer without a shape; run one batch through the model first")
            if weight is None or not weight.is_floating_point():
                given = "something computed" if weight is None else str(weight.dtype)
                raise ConfigError(
                    f"layer {name}: {tensor}: expected a floating-point parameter, got {given}; build the model "
                    f"without what replaced it (weight_norm, spectral_norm, prune, quantisation) {IN_PYTHON}"
                )
            if not weight.requires_grad:
                continue
            yield Chosen(layer, tensor, name if tensor == "weight" else f"{name}.{tensor}")


def _tensors(layer: nn.Module) -> Sequence[str]:
    """Names of the tensors of a layer that can be masked."""
    if isinstance(layer, nn.MultiheadAttention):
        return ["in_proj_weight"] if layer._qkv_same_embed_dim else [f"{name}_proj_weight" for name in "qkv"]
    if isinstance(layer, nn.RNNBase):
        return [name for name in layer._flat_weights_names if name.startswith("weight_")]
    return ["weight_ih", "weight_hh"] if isinstance(layer, nn.RNNCellBase) else ["weight"]


def refuse_second_names(model: nn.Module, chosen: Sequence[Chosen]) -> None:
    """Refuse weights that are to become scores while the model also uses them under another name.

    A layer under two names is one layer, and no second name.

    Raises:
        ConfigError: there is one.
    """
    owners = _Owners()
    for choice in chosen:
        owners.add(choice)
    for name, module in model.named_modules():
        for key, value in _tensors_of(module):
            owner = owners.find(value)
            if owner is not None and (owner.layer, owner.tensor) != (module, key):
                raise ConfigError(
                    f"layer {owner.label}: its weight is {f'{name}.{key}'.lstrip('.')} as well, which would then hold "
                    f"scores; give {key} a copy of its own {IN_PYTHON}"
                )


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors that a module holds: parameters, buffers, attributes, and those in lists and dictionaries of it."""
    for key, value in [*module._parameters.items(), *module._buffers.items()]:
        if value is not None:
            yield key, value
    own = {"_parameters", "_buffers", "_modules", *(["_flat_weights"] if isinstance(module, nn.RNNBase) else [])}
    for key, value in vars(module).items():
        if key not in own:
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            for item in items:
                if isinstance(item, Tensor):
                    yield key, item


class _Owners:
    """Which weight a tensor is, or shares memory with."""

    def __init__(self) -> None:
        self._by_storage: dict[int, list[tuple[int, int, Chosen]]] = {}

    def add(self, choice: Chosen) -> None:
        """Remember a weight."""
        storage, start, stop = _extent(choice.weight)
        self._by_storage.setdefault(storage, []).append((start, stop, choice))

    def find(self, tensor: Tensor) -> Chosen | None:
        """The weight that holds some of the numbers of a tensor."""
        storage, start, stop = _extent(tensor)
        for first, last, choice in self._by_storage.get(storage, ()):
            if start < last and first < stop:
                return choice
        return None


def _extent(tensor: Tensor) -> tuple[int, int, int]:
    """Storage, and where in it the elements begin and end; what has no memory has a storage of its own."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.numel() == 0:
        return id(tensor), 0, 1
    first = int(tensor.storage_offset())
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().data_ptr(), first, first + reach + 1


def fan_in(layer: Any, tensor: str) -> int:
    """Inputs that add up to one output.

    Of attention those of one projection, of recurrent layers those of one of the two products: the columns of the
    matrix.

    An embedding looks one row up, but a fan-in of 1 would give it entries of ±√2, beside which what the layers behind
    it add is small, and scores that hardly move. That of a linear layer of the same width learns more: 95 and 98 %
    against 83 and 93 % on ``sentences`` (seeds 1 and 2, width 0.5, 8 epochs).
    """
    if isinstance(layer, nn.Embedding):
        return max(layer.embedding_dim, 1)
    if not hasattr(layer, "kernel_size"):
        return max(int(getattr(layer, tensor).shape[1]), 1)
    inputs = layer.in_channels // layer.groups
    # A transposed convolution spreads each input over kernel/stride outputs per axis.
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, _TRANSPOSED):
        taps = max(taps // math.prod(layer.stride), 1)
    return int(inputs * taps)
