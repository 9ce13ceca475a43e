"""The mask of a layer on a CPU: a bracket around the last threshold, proven by counting, and a selection inside it.

From step to step scores move little, so the threshold does. Two comparisons of all scores with the ends of a bracket
count how many lie above either; if the number of kept weights is in between, the mask is known but for the few scores
inside, and only those are sorted out. A bracket that misses costs time, never exactness: the next one comes from a
sample of the scores, and the last one holds all numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["host_mask", "host_mask_operator", "new_bracket"]

#: Scores at a time where a temporary is needed: it stays in the cache.
CHUNK = 1 << 18
_SAMPLE_STRIDE = 64
# Ranks between the threshold and either end of its bracket, as shares of a layer: at least, at first, at most.
_NARROWEST, _FIRST, _WIDEST = 1 / 1024, 1 / 128, 1 / 8
# How many times as far as the threshold moved last time, in ranks, the next bracket reaches.
_REACH = 4
_LOW, _HIGH, _THRESHOLD, _RANKS = range(4)


def new_bracket() -> Tensor:
    """What `host_mask` remembers of a layer, float64 ``[4]``: low end, high end, threshold, ranks to either end."""
    return torch.full((4,), math.nan, dtype=torch.float64)


def host_mask(
    scores: Tensor, kept: int, magnitude: bool, pruned: Tensor | None, always: Tensor | None, bracket: Tensor
) -> Tensor:
    """Mark the ``kept`` largest keys; of equal ones that with the lower index.

    Args:
        scores: float ``[n]`` on the CPU.
        kept: from 0 to n.
        magnitude: whether the keys are absolute scores.
        pruned: weights that are pruned whatever their scores, bool ``[n]``.
        always: weights that are kept whatever their scores, bool ``[n]``; given if ``pruned`` is.
        bracket: see `new_bracket`; updated.

    Returns:
        bool ``[n]`` with exactly ``kept`` true entries, if ``kept`` leaves room for what is fixed.
    """
    keys = _Keys(scores, pruned, always, magnitude=magnitude)
    memory: NDArray[np.float64] = bracket.numpy()
    for low, high in _brackets(keys, kept, memory):
        mask, unsure, above = keys.split(low, high)
        missing = kept - above
        inside = np.flatnonzero(unsure)
        if not 0 <= missing <= len(inside):
            continue
        values = keys.at(inside)
        threshold = high
        if missing:
            place = len(inside) - missing
            threshold = float(np.partition(values, place)[place])
            chosen = values > threshold
            mask[inside[chosen]] = True
            mask[inside[values == threshold][: missing - int(np.count_nonzero(chosen))]] = True
        ranks = keys.count * _FIRST
        if not np.isnan(memory[_THRESHOLD]):
            shift = abs(above + int(np.count_nonzero(values >= memory[_THRESHOLD])) - kept)
            ranks = max(_REACH * shift, memory[_RANKS] / 2)
        memory[:] = _next(threshold, ranks, (high - low) / max(len(inside), 1), keys.count)
        return torch.from_numpy(mask)
    # Scores that are not numbers; the training loop ends the run for that.
    memory[:] = math.nan
    mask = np.zeros(keys.count, np.bool_)
    mask[np.argsort(-keys.at(np.arange(keys.count)), kind="stable")[:kept]] = True
    return torch.from_numpy(mask)


# The same as an operator, because it branches on values and torch.compile must not look inside. Its first call imports
# the compiler, which takes seconds, so others call the function.
host_mask_operator = torch.library.custom_op("iterand_compress::host_mask", host_mask, mutates_args=("bracket",))


@host_mask_operator.register_fake
def _(
    scores: Tensor,
    kept: int,  # noqa: ARG001
    magnitude: bool,  # noqa: ARG001
    pruned: Tensor | None,  # noqa: ARG001
    always: Tensor | None,  # noqa: ARG001
    bracket: Tensor,  # noqa: ARG001
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


class _Keys:
    """What a layer is sorted by."""

    def __init__(self, scores: Tensor, pruned: Tensor | None, always: Tensor | None, *, magnitude: bool) -> None:
        # NumPy has no bfloat16, and the order is the same in float32.
        self.scores = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
        self.magnitude, self.pruned, self.always = magnitude, pruned, always
        self.count = scores.numel()

    def split(self, low: float, high: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
        """Where keys are at least ``high``, where they are in [low, high), and the number of the former."""
        upper = torch.empty(self.count, dtype=torch.bool)
        lower = torch.empty_like(upper)
        if self.magnitude:
            room = torch.empty(min(CHUNK, self.count), dtype=self.scores.dtype)
            parts = (torch.split(part, CHUNK) for part in (self.scores, upper, lower))
            for scores, above, below in zip(*parts, strict=True):
                keys = torch.abs(scores, out=room[: len(scores)])
                torch.ge(keys, high, out=above)
                torch.ge(keys, low, out=below)
        else:
            torch.ge(self.scores, high, out=upper)
            torch.ge(self.scores, low, out=lower)
        if self.pruned is not None and self.always is not None:
            for part in (upper, lower):
                part.masked_fill_(self.pruned, value=False).masked_fill_(self.always, value=True)
        torch.bitwise_xor(lower, upper, out=lower)
        mask: NDArray[np.bool_] = upper.numpy()
        return mask, lower.numpy(), int(np.count_nonzero(mask))

    def at(self, index: NDArray[np.int64]) -> NDArray[np.floating]:
        """The keys at some places."""
        values: NDArray[np.floating] = self.scores.numpy()[index]
        return np.abs(values) if self.magnitude else values

    def sample(self) -> NDArray[np.floating]:
        """Every 64th key of those that are not fixed, in ascending order."""
        values: NDArray[np.floating] = self.scores.numpy()[::_SAMPLE_STRIDE]
        if self.pruned is not None and self.always is not None:
            values = values[~(self.pruned | self.always).numpy()[::_SAMPLE_STRIDE]]
        return np.sort(np.abs(values) if self.magnitude else values)


def _brackets(keys: _Keys, kept: int, memory: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """Brackets to try: around the last threshold; by a sample, four standard deviations wide; all numbers."""
    if not np.isnan(memory[_LOW]):
        yield float(memory[_LOW]), float(memory[_HIGH])
    free, wanted = keys.count, kept
    if keys.always is not None and keys.pruned is not None:
        always, pruned = (int(np.count_nonzero(part.numpy())) for part in (keys.always, keys.pruned))
        free, wanted = free - always - pruned, wanted - always
    sample = keys.sample()
    margin = 4 * math.isqrt(len(sample)) + 1
    if len(sample) > 8 * margin and np.isfinite(sample[[0, -1]]).all():
        place = (free - wanted) * len(sample) // max(free, 1)
        yield float(sample[max(place - margin, 0)]), float(sample[min(place + margin, len(sample) - 1)])
    yield -math.inf, math.inf


def _next(threshold: float, ranks: float, spacing: float, count: int) -> tuple[float, float, float, float]:
    """The bracket for the next scores; ``spacing`` is the distance of two neighbouring keys near the threshold."""
    if not (math.isfinite(threshold) and math.isfinite(spacing)):
        return (math.nan,) * 4
    ranks = min(max(ranks, count * _NARROWEST), count * _WIDEST)
    # Where many keys are equal, they have no distance; a bracket of no width would be of no use.
    reach = max(ranks * spacing, 1e-6 * abs(threshold))
    return threshold - reach, threshold + reach, threshold, ranks
