"""All masked layers of a network at once, on a GPU: one search for every mask, one launch for every weight.

Layer by layer, a step of ResNet-50 would start some thousand small kernels, and a GPU would wait for the host.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .codes import code_table
from .kernels import Cuts, CutSearch, LayerTable, available, masked_weights, masks, resample
from .layers import MaskedLayer, masked_layers
from .stages import stage

__all__ = ["FusedForward", "FusedLayers"]


class FusedLayers:
    """The masked layers of a network whose masks are found and whose weights are computed together.

    Args:
        model: masked, on its device.
        layers: its masked layers.
        channels_last: whether activations have the memory format of that name, for the weights to match it.
    """

    def __init__(self, model: nn.Module, layers: Sequence[MaskedLayer], *, channels_last: bool = False) -> None:
        self._masked = [masked for _, masked, _ in layers]
        self._scores = [scores.detach() for _, _, scores in layers]
        specs = [masked.spec for masked in self._masked]
        self._device = self._scores[0].device
        self._channels_last = channels_last
        self._table = LayerTable(
            [math.prod(spec.shape) for spec in specs],
            specs[0].selection,
            self._device,
            fixed=[masked.fixed for masked in self._masked],
            kernels=[
                (spec.shape[1], math.prod(spec.shape[2:])) if channels_last and len(spec.shape) == 4 else (1, 1)
                for spec in specs
            ],
        )
        self._search = CutSearch(self._table)
        self._units = torch.tensor([spec.scale for spec in specs], dtype=torch.float32, device=self._device)
        self._tensors = torch.tensor([spec.tensor for spec in specs], dtype=torch.int64, device=self._device)
        self._book = code_table(specs[0].codebook, self._device)
        # What an embedding looks up stays float32 under autocast, so its weight must; recurrent layers choose a type
        # of their own, for all their weights and biases together.
        self._may_round = not any(
            isinstance(layer, nn.Embedding | nn.RNNBase | nn.RNNCellBase) and parametrize.is_parametrized(layer)
            for layer in model.modules()
        )
        self._counts: tuple[int, ...] = ()
        self._kept = torch.empty(len(specs), dtype=torch.int64, device=self._device)

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[MaskedLayer], *, channels_last: bool = False) -> FusedLayers | None:
        """The masked layers of a model; ``None`` where they go one by one: on a CPU, or without Triton.

        Several nested masks, soft ones, and scores of other types than float32, do so anywhere.
        """
        devices = {scores.device for _, _, scores in layers}
        if len(devices) != 1 or not available(*devices):
            return None
        if any(
            masked.spec.multiplicity > 1 or masked.softness or scores.dtype != torch.float32
            for _, masked, scores in layers
        ):
            return None
        return cls(model, layers, channels_last=channels_last)

    def belongs_to(self, layers: Sequence[MaskedLayer]) -> bool:
        """Whether these are still the layers, with their tensors in the same memory."""
        return len(layers) == len(self._masked) and all(
            masked is own and scores.data_ptr() == cached.data_ptr() and scores.device == cached.device
            for (_, masked, scores), own, cached in zip(layers, self._masked, self._scores, strict=True)
        )

    def compute(self) -> None:
        """Compute the weights of all layers (of binarised ones the masks), which forward passes use until `clear`.

        Under autocast the weights have its type, to which they would be rounded anyway. Each call makes tensors of its
        own, so a backward pass may come after another call.
        """
        cuts = self._cuts()
        if self._masked[0].spec.binarised:
            for masked, mask in zip(self._masked, masks(self._table, self._scores, cuts), strict=True):
                masked.cached_mask = mask
        else:
            for masked, weight in zip(self._masked, self._weights(cuts), strict=True):
                masked.cached_weight = self._shaped(weight, masked.spec.shape)

    @property
    def computed(self) -> bool:
        """Whether forward passes find their weights computed already."""
        return any(masked.cached_weight is not None or masked.cached_mask is not None for masked in self._masked)

    def clear(self) -> None:
        """From now on forward passes compute their weights themselves."""
        for masked in self._masked:
            masked.cached_mask = masked.cached_weight = None

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """Compute all masked weights once and reuse them inside the block, where scores must not change."""
        self.compute()
        try:
            yield
        finally:
            self.clear()

    def resample(self, event: int) -> None:
        """IteRand's event ``event`` (from 1) for all layers, in place."""
        first = self._masked[0]
        rule, draws = first.resampling, [masked.draws for masked in self._masked if masked.draws is not None]
        if rule is None or any(masked.current is not None for masked in self._masked):
            for masked, scores in zip(self._masked, self._scores, strict=True):
                masked.resample(scores, event)
            return
        resample(
            self._table, self._scores, self._cuts(), [masked.codes for masked in self._masked], draws, book=self._book,
            tensors=self._tensors, seed=first.spec.seed, event=event, chance=rule.threshold, cycle=rule.draws,
        )  # fmt: skip

    def _cuts(self) -> Cuts:
        counts = tuple(masked.spec.kept for masked in self._masked)
        if counts != self._counts:
            self._counts = counts
            self._kept.copy_(torch.tensor(counts, device="cpu"))
        with stage("selection"):
            return self._search.find(self._scores, self._kept)

    def _weights(self, cuts: Cuts) -> list[Tensor]:
        dtype = torch.float32
        if self._may_round and torch.is_autocast_enabled(self._device.type):
            asked = torch.get_autocast_dtype(self._device.type)
            dtype = asked if asked == torch.bfloat16 else dtype
        codes = [masked.codes for masked in self._masked]
        with stage("masking"):
            return masked_weights(
                self._table, self._scores, cuts, codes, self._units, dtype=dtype, channels_last=self._channels_last
            )

    def _shaped(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self._channels_last and len(shape) == 4:
            return weight.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
        return weight.view(shape)


class FusedForward:
    """Hooks around the forward passes of a model in training: compute the weights of all layers together on a GPU.

    A copy of the model gets hooks of its own. Where the model's tensors have moved, the tables of `FusedLayers` are
    made anew; where anything is unusual (evaluation, a compiler, replicas that share the hooks), the layers compute
    their weights themselves, which gives the same numbers.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._model: Any = (lambda: None) if model is None else weakref.ref(model)
        self._fused: FusedLayers | None = None
        self._computed = False

    @classmethod
    def register(cls, model: nn.Module) -> FusedForward:
        """Put the hooks on a masked model."""
        hooks = cls(model)
        model.register_forward_pre_hook(hooks.before)
        model.register_forward_hook(hooks.after, always_call=True)
        return hooks

    @staticmethod
    def unregister(model: nn.Module) -> None:
        """Take them off again."""
        for hooks in (model._forward_pre_hooks, model._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), FusedForward):
                    del hooks[key]
                    model._forward_hooks_always_called.pop(key, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedForward:
        return FusedForward(memo.get(id(self._model())))

    def __reduce__(self) -> tuple[Any, ...]:  # a pickled model computes layer by layer
        return FusedForward, (None,)

    def together(self, layers: Sequence[MaskedLayer]) -> FusedLayers | None:
        """The masked layers of the model as they are now, together; ``None`` where they go one by one."""
        model = self._model()
        if model is not None and (self._fused is None or not self._fused.belongs_to(layers)):
            self._fused = FusedLayers.of(model, layers)
        return self._fused

    def before(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        """Compute the weights, unless the layers do so themselves, or have them already (see `cached_weights`)."""
        if torch.compiler.is_compiling():
            return
        self._computed = False
        first = next(module.parameters(), None)  # on a CPU, nothing else is looked at
        if first is None or not available(first.device) or module is not self._model() or not module.training:
            return
        fused = self.together(masked_layers(module))
        if fused is not None and not fused.computed:
            fused.compute()
            self._computed = True

    def after(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        """Forget the weights; the backward pass has its own references."""
        if torch.compiler.is_compiling():
            return
        if self._computed and self._fused is not None:
            self._fused.clear()
        self._computed = False
