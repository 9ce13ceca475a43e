"""The k largest keys of a layer, or of several layers together, on a CPU, from a bracket around the last threshold.

From step to step scores move little, so the threshold does. Two comparisons of all scores with the ends of a bracket
count how many lie above either; if the number of kept weights is in between, the mask is known but for the few scores
inside, and only those are sorted. A bracket that misses costs time, never exactness: the next one comes from a sample
of the scores, and the last one holds all numbers.

Several layers are compared by their keys divided by a unit of each layer. That copy is never made: division keeps the
order, so each end of a bracket becomes the smallest score of the layer whose quotient reaches it, and only the scores
inside are divided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["HostKeys", "host_counts", "host_mask", "host_mask_operator", "new_bracket"]

#: Scores at a time where a temporary is needed: it stays in the cache.
CHUNK = 1 << 18
_SAMPLE_STRIDE = 64
# Ranks between the threshold and either end of its bracket, as shares of all keys: at least, at first, at most.
_NARROWEST, _FIRST, _WIDEST = 1 / 1024, 1 / 128, 1 / 8
# How many times as far as the threshold moved last time, in ranks, the next bracket reaches.
_REACH = 4
# Columns of a bracket.
_LOW, _HIGH, _THRESHOLD, _RANKS = range(4)


def new_bracket() -> Tensor:
    """The memory of a search, float64 ``[4]``: low end, high end, threshold, ranks to either end; NaN at first."""
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
        bool ``[n]`` with exactly ``kept`` true entries; where ``kept`` is less than the number of ``always``, those of
        them with the lowest indices.
    """
    keys = HostKeys(scores, pruned, always, magnitude=magnitude)
    memory: NDArray[np.float64] = bracket.numpy()
    result = _search([keys], kept, memory)
    if result is not None:
        return torch.from_numpy(result.masks[0])
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


def host_counts(layers: Sequence[HostKeys], kept: int, bracket: Tensor) -> list[int] | None:
    """How many of the ``kept`` largest keys of all layers each layer has; of equal keys the earlier layer's count.

    Args:
        layers: the keys of each.
        kept: from 0 to the number of all keys.
        bracket: see `new_bracket`; updated.

    Returns:
        One number for each layer; ``None`` where the threshold is not a finite number.
    """
    result = _search(layers, kept, bracket.numpy())
    if result is None or math.isinf(result.threshold):
        return None
    return [int(np.count_nonzero(mask)) for mask in result.masks]


class _Split(NamedTuple):
    """The keys of a layer and a bracket.

    Attributes:
        mask: where keys are at least the high end, bool ``[n]``.
        above: how many these are.
        inside: indices of the keys in [low, high), in ascending order.
        values: these keys.
    """

    mask: NDArray[np.bool_]
    above: int
    inside: NDArray[np.int64]
    values: NDArray[np.floating]


class _Result(NamedTuple):
    """The largest keys.

    Attributes:
        threshold: the smallest of them, or a number between it and the largest of the others.
        masks: where they are, bool ``[n]`` for each layer.
    """

    threshold: float
    masks: list[NDArray[np.bool_]]


class HostKeys:
    """The numbers that the weights of a layer are compared by.

    Args:
        scores: float ``[n]`` on the CPU.
        pruned: weights whose key is -∞, bool ``[n]``.
        always: weights whose key is ∞, bool ``[n]``; given if ``pruned`` is.
        magnitude: whether the others have the absolute values of their scores for keys.
        unit: what these are divided by, a positive number, rounded in the type of the scores.

    Attributes:
        count: number of weights.
    """

    def __init__(
        self, scores: Tensor, pruned: Tensor | None, always: Tensor | None, *, magnitude: bool, unit: float = 1.0
    ) -> None:
        if scores.dtype not in (torch.float32, torch.float64):
            # NumPy has no bfloat16, and the order is the same in float32.
            scores, unit = (scores / unit).float(), 1.0
        self._scores: NDArray[np.floating] = scores.detach().numpy()
        self._unit = self._scores.dtype.type(unit)
        self._magnitude, self._pruned, self._always = magnitude, pruned, always
        self.count = scores.numel()

    def split(self, low: float, high: float) -> _Split:
        """Compare all keys with the ends of a bracket."""
        upper, lower = np.empty(self.count, np.bool_), np.empty(self.count, np.bool_)
        lowest, highest = self._least_score(low), self._least_score(high)
        scratch = np.empty(min(CHUNK, self.count) if self._magnitude else 0, self._scores.dtype)
        for start in range(0, self.count, CHUNK):
            chunk = slice(start, start + CHUNK)
            scores, above, below = self._scores[chunk], upper[chunk], lower[chunk]
            if self._magnitude:
                scores = np.abs(scores, out=scratch[: len(scores)])
            # NumPy compares ten times as fast as torch; the second time, scores come from the cache.
            np.greater_equal(scores, highest, out=above)
            np.greater_equal(scores, lowest, out=below)
            if self._pruned is not None and self._always is not None:
                pruned, always = self._pruned[chunk].numpy(), self._always[chunk].numpy()
                for mask in (above, below):
                    np.bitwise_or(np.greater(mask, pruned, out=mask), always, out=mask)
            np.bitwise_xor(below, above, out=below)
        inside = np.flatnonzero(lower)
        return _Split(upper, int(np.count_nonzero(upper)), inside, self.at(inside))

    def at(self, index: NDArray[np.int64]) -> NDArray[np.floating]:
        """The keys of some weights, as if none were fixed."""
        return self._keys(self._scores[index])

    def fixed(self) -> tuple[int, int]:
        """How many weights are pruned, and kept, whatever their scores."""
        if self._pruned is None or self._always is None:
            return 0, 0
        return int(np.count_nonzero(self._pruned.numpy())), int(np.count_nonzero(self._always.numpy()))

    def sample(self) -> NDArray[np.floating]:
        """The key of every 64th weight, but of those that are fixed."""
        scores = self._scores[::_SAMPLE_STRIDE]
        if self._pruned is not None and self._always is not None:
            scores = scores[~(self._pruned | self._always).numpy()[::_SAMPLE_STRIDE]]
        return self._keys(scores)

    def _keys(self, scores: NDArray[np.floating]) -> NDArray[np.floating]:
        keys: NDArray[np.floating] = np.abs(scores) if self._magnitude else scores
        if self._unit != 1:
            with np.errstate(over="ignore", under="ignore"):
                keys = keys / self._unit
        return keys

    def _least_score(self, key: float) -> np.floating:
        """The smallest score whose key is at least ``key``; NaN, which no score reaches, if it is hard to find.

        It is within three steps of the product, unless that is so small or large that its precision is lost.
        """
        unit = self._unit
        with np.errstate(over="ignore", under="ignore"):
            wanted: np.floating = self._scores.dtype.type(key)
            if unit == 1 or np.isinf(wanted):
                return wanted
            score: np.floating = wanted * unit
            for _ in range(8):
                before: np.floating = np.nextafter(score, -np.inf, dtype=score.dtype)
                if before / unit >= wanted:
                    score = before
                elif score / unit >= wanted:
                    break
                else:
                    score = np.nextafter(score, np.inf, dtype=score.dtype)
            else:
                score = score * math.nan
        return score


def _search(layers: Sequence[HostKeys], kept: int, memory: NDArray[np.float64]) -> _Result | None:
    """The ``kept`` largest keys of all layers; of equal ones those of earlier layers, and of lower indices.

    ``None`` if no bracket has the right number of keys: ``kept`` is less than what is fixed to be kept, or more than
    what is not fixed to be pruned, or there are scores that are not numbers. Otherwise ``memory`` is updated.
    """
    count = sum(keys.count for keys in layers)
    for low, high in _brackets(layers, kept, memory):
        splits = [keys.split(low, high) for keys in layers]
        above = sum(split.above for split in splits)
        values = np.concatenate([split.values for split in splits])
        missing = kept - above
        if not 0 <= missing <= len(values):
            continue
        threshold, spacing = high, (high - low) / max(len(values), 1)
        if missing:
            place = len(values) - missing
            threshold = float(np.partition(values, place)[place])
            if math.isinf(spacing):
                spacing = _spacing_around(values, place)
            chosen = values > threshold
            chosen[np.flatnonzero(values == threshold)[: missing - int(np.count_nonzero(chosen))]] = True
            start = 0
            for split in splits:
                split.mask[split.inside[chosen[start : start + len(split.inside)]]] = True
                start += len(split.inside)
        ranks = count * _FIRST
        if not np.isnan(memory[_THRESHOLD]):
            shift = abs(above + int(np.count_nonzero(values >= memory[_THRESHOLD])) - kept)
            ranks = max(_REACH * shift, memory[_RANKS] / 2)
        memory[:] = _next(threshold, ranks, spacing, count)
        return _Result(threshold, [split.mask for split in splits])
    return None


def _brackets(layers: Sequence[HostKeys], kept: int, memory: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """Brackets to try: around the last threshold; by a sample, four standard deviations wide; all numbers."""
    if not np.isnan(memory[_LOW]):
        yield float(memory[_LOW]), float(memory[_HIGH])
    pruned, always = (sum(numbers) for numbers in zip(*(keys.fixed() for keys in layers), strict=True))
    free, wanted = sum(keys.count for keys in layers) - always - pruned, kept - always
    sample = np.sort(np.concatenate([keys.sample() for keys in layers]))
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
