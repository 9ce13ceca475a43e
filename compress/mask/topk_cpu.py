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
    return torch.full((4,), math.nan, dtype=torch.float64, device="cpu")


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
        bool ``[n]`` with exactly ``kept`` true entries; where ``kept`` leaves no room for all that is fixed to kept,
        those of them with the lowest indices.
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
        threshold, spacing = high, (high - low) / max(len(inside), 1)
        if missing:
            place = len(inside) - missing
            threshold = float(np.partition(values, place)[place])
            if math.isinf(spacing):
                spacing = _spacing_around(values, place)
            chosen = values > threshold
            mask[inside[chosen]] = True
            mask[inside[values == threshold][: missing - int(np.count_nonzero(chosen))]] = True
        ranks = keys.count * _FIRST
        if not np.isnan(memory[_THRESHOLD]):
            shift = abs(above + int(np.count_nonzero(values >= memory[_THRESHOLD])) - kept)
            ranks = max(_REACH * shift, memory[_RANKS] / 2)
        memory[:] = _next(threshold, ranks, spacing, keys.count)
        return torch.from_numpy(mask)
    # Fewer than what is fixed, as the inner ones of nested masks may keep; or scores that are not numbers, for which
    # the training loop ends the run.
    memory[:] = math.nan
    order = keys.at(np.arange(keys.count))
    if pruned is not None and always is not None:
        order = np.where(always.numpy(), math.inf, np.where(pruned.numpy(), -math.inf, order))
    mask = np.zeros(keys.count, np.bool_)
    mask[np.argsort(-order, kind="stable")[:kept]] = True
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
        upper, lower = np.empty(self.count, np.bool_), np.empty(self.count, np.bool_)
        scores: NDArray[np.floating] = self.scores.numpy()
        room = np.empty(min(CHUNK, self.count) if self.magnitude else 0, scores.dtype)
        for start in range(0, self.count, CHUNK):
            part = slice(start, start + CHUNK)
            keys, above, below = scores[part], upper[part], lower[part]
            if self.magnitude:
                keys = np.abs(keys, out=room[: len(keys)])
            # NumPy compares ten times as fast as torch; the second time, keys come from the cache.
            np.greater_equal(keys, high, out=above)
            np.greater_equal(keys, low, out=below)
            if self.pruned is not None and self.always is not None:
                pruned, always = self.pruned[part].numpy(), self.always[part].numpy()
                for found in (above, below):
                    np.bitwise_or(np.greater(found, pruned, out=found), always, out=found)
            np.bitwise_xor(below, above, out=below)
        return upper, lower, int(np.count_nonzero(upper))

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


def _spacing_around(values: NDArray[np.floating], place: int) -> float:
    """The mean distance of neighbours around the value of rank ``place``, as far as the next bracket will reach."""
    ranks = math.ceil(len(values) * _FIRST)
    first, last = max(place - ranks, 0), min(place + ranks, len(values) - 1)
    ordered = np.partition(values, (first, last))
    with np.errstate(invalid="ignore"):  # infinite scores have no distance, and leave no bracket
        return float((ordered[last] - ordered[first]) / max(last - first, 1))


def _next(threshold: float, ranks: float, spacing: float, count: int) -> tuple[float, float, float, float]:
    """The bracket for the next scores; ``spacing`` is the distance of two neighbouring keys near the threshold."""
    if not (math.isfinite(threshold) and math.isfinite(spacing)):
        return (math.nan,) * 4
    ranks = min(max(ranks, count * _NARROWEST), count * _WIDEST)
    # Where many keys are equal, they have no distance; a bracket of no width would be of no use.
    reach = max(ranks * spacing, 1e-6 * abs(threshold))
    return threshold - reach, threshold + reach, threshold, ranks
