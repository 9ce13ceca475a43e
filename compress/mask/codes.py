"""The random weights of a layer as int8 codes: made from the seed, and redrawn in place.

On a CPU by NumPy, elsewhere by torch. Both give the same bits (see ``philox.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..seed.codebooks import get_codebook, random_bytes_at, random_codes
from ..seed.philox import Purpose
from ..seed.philox import random_bytes as host_bytes
from ..seed.philox_torch import bytes_at, random_bytes, resampling_decisions
from .spec import WeightSpec

if TYPE_CHECKING:
    from ..config import Resample

__all__ = ["code_table", "codes_of", "initial_bytes", "redraw"]

# Weights at a time: temporaries stay in the cache. A multiple of the 16 weights of a block. Two threads were no quicker
# than one: NumPy's operations on such chunks are short beside what handing over the interpreter's lock costs.
_CHUNK = 1 << 18


def code_table(codebook: str, device: torch.device) -> Tensor:
    """int8 ``[256]``: the code of each random byte."""
    return torch.tensor(get_codebook(codebook).entries, device=device)


def initial_bytes(spec: WeightSpec, device: torch.device) -> Tensor:
    """The random bytes of a layer at draw 0, uint8 ``[n]``."""
    count = math.prod(spec.shape)
    if device.type != "cpu":
        return random_bytes(spec.seed, spec.tensor, count, device)
    out = np.empty(count, np.uint8)
    for start, stop in _chunks(count):
        out[start:stop] = host_bytes(spec.seed, start, stop, draw=0, tensor=spec.tensor)
    return torch.from_numpy(out)


def codes_of(
    spec: WeightSpec, draws: Tensor | None, current: Tensor | None, device: torch.device | None = None
) -> Tensor:
    """The random weights of a layer in its present state, int8 ``[n]`` in units of its scale.

    Args:
        spec: of the layer.
        draws: uint8 ``[n]``, how often each weight was redrawn; ``None`` = never.
        current: uint8 ``[n]``, the byte that each weight stands for; where given, draws play no role.
        device: where to make them, if there are neither draws nor bytes.
    """
    if current is not None:
        return code_table(spec.codebook, current.device)[current.long()]
    device = device or torch.device("cpu") if draws is None else draws.device
    if device.type != "cpu":
        codes = code_table(spec.codebook, device)[initial_bytes(spec, device).long()]
        if draws is not None:
            index = draws.nonzero().squeeze(1)
            codes[index] = code_table(spec.codebook, device)[bytes_at(spec.seed, spec.tensor, index, draws[index])]
        return codes
    count, book = math.prod(spec.shape), get_codebook(spec.codebook)
    drawn = None if draws is None else draws.numpy()
    out = np.empty(count, np.int8)
    for start, stop in _chunks(count):
        chunk = None if drawn is None else drawn[start:stop]
        out[start:stop] = random_codes(spec.seed, spec.tensor, book, start, stop, chunk)
    return torch.from_numpy(out)


def redraw(
    spec: WeightSpec, rule: Resample, event: int, mask: Tensor, codes: Tensor, draws: Tensor, current: Tensor | None
) -> None:
    """Redraw each pruned weight with the rule's probability, in place.

    Args:
        spec: of the layer.
        rule: of the resampling.
        event: its number, from 1.
        mask: bool ``[n]``, True where kept.
        codes: int8 ``[n]``, changed.
        draws: uint8 ``[n]``, changed.
        current: uint8 ``[n]``, the bytes that weights stand for, changed; ``None`` if they follow from ``draws``.
    """
    if codes.device.type == "cpu":
        bytes_ = None if current is None else current.numpy()
        _host_redraw(spec, rule, event, mask.numpy(), codes.numpy(), draws.numpy(), bytes_)
        return
    chosen = resampling_decisions(spec.seed, spec.tensor, event, rule.threshold, mask.numel(), mask.device)
    index = (chosen & ~mask).nonzero().squeeze(1)
    drawn = (draws[index].to(torch.int32) + 1) % rule.draws
    draws[index] = drawn.to(torch.uint8)
    raw = bytes_at(spec.seed, spec.tensor, index, drawn)
    codes[index] = code_table(spec.codebook, codes.device)[raw]
    if current is not None:
        current[index] = raw.to(torch.uint8)


def _host_redraw(
    spec: WeightSpec,
    rule: Resample,
    event: int,
    mask: NDArray[np.bool_],
    codes: NDArray[np.int8],
    draws: NDArray[np.uint8],
    current: NDArray[np.uint8] | None,
) -> None:
    book = get_codebook(spec.codebook)
    for start, stop in _chunks(len(mask)):
        # Two bytes of the event's stream for each weight.
        stream = host_bytes(spec.seed, 2 * start, 2 * stop, draw=event, tensor=spec.tensor, purpose=Purpose.RESAMPLING)
        index = np.flatnonzero((stream.view("<u2") < rule.threshold) & ~mask[start:stop]) + start
        drawn = ((draws[index].astype(np.uint16) + 1) % rule.draws).astype(np.uint8)
        draws[index] = drawn
        raw = random_bytes_at(spec.seed, spec.tensor, index, drawn)
        codes[index] = book.codes(raw)
        if current is not None:
            current[index] = raw


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Where the chunks of a layer start and stop."""
    return ((start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
