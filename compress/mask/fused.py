"""All masked layers of a network at once, on a GPU: one search for every mask, one launch for every weight.

Layer by layer, a step of ResNet-50 would start some thousand small kernels, and a GPU would wait for the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .codes import code_table
from .kernels import Cuts, CutSearch, LayerTable, available, masked_weights, masks, resample
from .layers import masked_layers
from .stages import stage

if TYPE_CHECKING:
    from .masked_weight import MaskedWeight

__all__ = ["FusedLayers"]


class FusedLayers:
    """The masked layers of a network whose masks are found and whose weights are computed together.

    Args:
        model: made by ``make_subnetwork``, on its device.
        layers: its masked layers.
        channels_last: whether activations have the memory format of that name, for the weights to match it.
    """

    def __init__(
        self, model: nn.Module, layers: list[tuple[str, MaskedWeight, nn.Parameter]], *, channels_last: bool = False
    ) -> None:
        self._parts = [part for _, part, _ in layers]
        self._scores = [scores.detach() for _, _, scores in layers]
        specs = [part.spec for part in self._parts]
        self._device = self._scores[0].device
        self._channels_last = channels_last
        self._table = LayerTable(
            [math.prod(spec.shape) for spec in specs],
            specs[0].selection,
            self._device,
            fixed=[part.fixed for part in self._parts],
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
        self._rooms: dict[torch.dtype, Tensor] = {}
        self._counts: tuple[int, ...] = ()
        self._kept = torch.empty(len(specs), dtype=torch.int64, device=self._device)

    @classmethod
    def of(cls, model: nn.Module, *, channels_last: bool = False) -> FusedLayers | None:
        """The masked layers of a model; ``None`` where they go one by one: on a CPU, or without Triton.

        Several coats, and scores of other types than float32, do so anywhere.
        """
        layers = list(masked_layers(model))
        devices = {scores.device for _, _, scores in layers}
        if len(devices) != 1 or not available(*devices):
            return None
        if any(part.spec.coats > 1 or scores.dtype != torch.float32 for _, part, scores in layers):
            return None
        return cls(model, layers, channels_last=channels_last)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, scores do not change, and forward passes find every weight made already.

        Backward passes of what was computed within come before the next such context, which overwrites the weights.
        Under autocast the weights have its type, to which they would be rounded anyway.
        """
        cuts = self._cuts()
        if self._parts[0].spec.binarised:
            for part, mask in zip(self._parts, masks(self._table, self._scores, cuts), strict=True):
                part.held_mask = mask
        else:
            for part, weight in zip(self._parts, self._weights(cuts), strict=True):
                part.held_weight = self._shaped(weight, part.spec.shape)
        try:
            yield
        finally:
            for part in self._parts:
                part.held_mask = part.held_weight = None

    def resample(self, event: int) -> None:
        """IteRand's event ``event`` (from 1) for all layers, in place."""
        first = self._parts[0]
        rule, draws = first.resampling, [part.draws for part in self._parts if part.draws is not None]
        if rule is None or any(part.current is not None for part in self._parts):
            for part, scores in zip(self._parts, self._scores, strict=True):
                part.resample(scores, event)
            return
        resample(
            self._table, self._scores, self._cuts(), [part.codes for part in self._parts], draws, book=self._book,
            tensors=self._tensors, seed=first.spec.seed, event=event, chance=rule.threshold, cycle=rule.draws,
        )  # fmt: skip

    def _cuts(self) -> Cuts:
        counts = tuple(part.spec.kept for part in self._parts)
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
        room = self._rooms.get(dtype)
        if room is None:
            room = self._rooms[dtype] = torch.empty(self._table.elements, dtype=dtype, device=self._device)
        # A backward pass that comes too late is then refused, and not wrong.
        torch.autograd.graph.increment_version(room)
        codes = [part.codes for part in self._parts]
        with stage("masking"):
            return masked_weights(
                self._table, self._scores, cuts, codes, self._units, dtype=dtype, channels_last=self._channels_last,
                out=room,
            )  # fmt: skip

    def _shaped(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self._channels_last and len(shape) == 4:
            return weight.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
        return weight.view(shape)
