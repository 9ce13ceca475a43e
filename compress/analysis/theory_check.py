"""Theorem 4.1 of IteRand in an experiment: how close random weights really come to a target weight.

The theorem and its formulas are in `theory`. Everything random here has an address in the project's generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..seed.philox import Purpose, check_seed, philox4x32, random_words
from .theory import (
    Experiment,
    Number,
    check_range,
    guaranteed_error,
    open_fraction,
    path_miss_probability,
    weight_miss_probability,
)

__all__ = ["BoundCheck", "check_bound", "empirical_errors"]

_MAX_CANDIDATES = _MAX_TRIALS = 1 << 16  # trial and candidate share a word of the counter
_MAX_RESAMPLES = 1 << 15
_MAX_PRODUCTS = 1 << 34  # about a minute
_DRAWS_AT_A_TIME = 1 << 16
_PRODUCTS_AT_A_TIME = 1 << 17  # 1 MiB of float64
_TARGETS = 1  # stream (third counter word) of random targets; that of the draws is 0


def empirical_errors(
    candidates: Sequence[int],
    resamples: Sequence[int],
    trials: int,
    seed: int,
    target: float | None = 1.0,
    *,
    experiment: Experiment = "path",
) -> NDArray[np.float64]:
    """How close the best choice among random weights comes to one target weight, in many trials.

    ``path`` is the theorem for the smallest target, f(x) = w x: a random network of one input, 2n hidden ReLU units
    and one output, every weight of which is drawn R times. n units serve positive x, n negative x; of each half the
    mask keeps the unit, and the resampling the draws u and v of its two weights, whose product is closest to w (or
    nothing, if 0 is closer). The error is the largest of |g(x) - f(x)| over [-1, 1], which is the larger of the two
    |u v - w|. Masks that keep several units of a half may do better; the theorem needs none of them.

    ``weight`` is the closest of n R uniform draws to w (or 0): no second layer, no ReLU.

    Draws have fixed addresses, so a trial with more candidates or draws contains those with fewer.

    Args:
        candidates: values of n, each from 1 to 65,536.
        resamples: values of R, each from 1 to 32,768; the work grows with the square of the largest.
        trials: repetitions, 1 to 65,536.
        seed: 64 bits; the result is a function of it and of the other arguments.
        target: w, in [-1, 1]; ``None`` draws another one, uniformly, for every trial.
        experiment: see above.

    Returns:
        float64 ``[len(candidates), len(resamples), trials]``. Random weights are multiples of 2^-32.

    Raises:
        ConfigError: a number is out of its range, or the work of hours is asked for.
    """
    check_seed(seed)
    for name, values, largest in (
        ("candidates", candidates, _MAX_CANDIDATES),
        ("resamples", resamples, _MAX_RESAMPLES),
        ("trials", (trials,), _MAX_TRIALS),
    ):
        if not values:
            raise ConfigError(f"{name}: expected at least one number, got none")
        for value in values:
            check_range(name, value, 1, largest)
    if target is not None and not -1 <= target <= 1:
        raise ConfigError(f"target: expected a weight from -1 to 1, got {target}")
    products = 2 * trials * max(candidates) * max(resamples) ** (2 if experiment == "path" else 1)
    if products > _MAX_PRODUCTS:
        raise ConfigError(
            f"trials, candidates, resamples: expected at most {_MAX_PRODUCTS:,} products of weights, got {products:,}; "
            "take fewer trials, or leave out the largest of the others"
        )
    if target is None:
        targets = _uniform(random_words(seed, trials, draw=0, tensor=_TARGETS, purpose=Purpose.THEORY))
    else:
        targets = np.full(trials, float(target))
    distances = _path_distances if experiment == "path" else _weight_distances
    rows = max(1, _DRAWS_AT_A_TIME // max(resamples))
    most = max(candidates)
    width = min(rows, most)
    height = max(1, rows // width)
    best = np.full((len(candidates), len(resamples), trials, 2), np.inf)
    for top in range(0, trials, height):
        chunk = slice(top, min(top + height, trials))
        for first in range(0, most, width):
            draws = _draws(seed, range(chunk.start, chunk.stop), range(first, min(first + width, most)), max(resamples))
            result = distances(draws, targets[chunk], resamples)
            for i, count in enumerate(candidates):
                if count > first:
                    closest = result[:, :, : count - first].min(axis=2)
                    best[i, :, chunk] = np.minimum(best[i, :, chunk], closest)
    # A mask that keeps nothing is off by |w|.
    return np.asarray(np.minimum(best.max(axis=-1), np.abs(targets)))


def _uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The middle of one of 2^32 equal parts of [-1, 1]."""
    return np.asarray((words.astype(np.float64) + 0.5) * 2.0**-31 - 1.0)


def _draws(seed: int, trials: range, candidates: range, resamples: int) -> NDArray[np.float64]:
    """Float64 ``[trials, candidates, resamples, 4]``: u and v for positive x, u and v for negative x."""
    trial, candidate, draw = np.ix_(*(np.arange(r.start, r.stop) for r in (trials, candidates, range(resamples))))
    block = np.broadcast_to(trial * _MAX_CANDIDATES + candidate, (len(trials), len(candidates), resamples))
    draw = np.broadcast_to(draw, block.shape)
    words = philox4x32(seed, block.ravel().astype(np.uint64), draw.ravel().astype(np.uint64), 0, Purpose.THEORY)
    return _uniform(words).reshape(*block.shape, 4)


def _path_distances(
    draws: NDArray[np.float64], targets: NDArray[np.float64], resamples: Sequence[int]
) -> NDArray[np.float64]:
    """Of each candidate the distance of the closest u v, float64 ``[resamples, trials, candidates, 2 halves]``."""
    u, v = (np.swapaxes(draws[..., i::2], 2, 3) for i in (0, 1))
    shape = u.shape[:3]
    # relu(u x) = 0 for x > 0 > u: such a unit is as good as none.
    u = np.stack([np.maximum(u[:, :, 0], 0), np.minimum(u[:, :, 1], 0)], axis=2).reshape(-1, u.shape[3])
    v = v.reshape(u.shape)
    w = np.broadcast_to(targets[:, None, None], shape).ravel()
    closest = np.full(len(w), np.inf)
    result: dict[int, NDArray[np.float64]] = {}
    seen = 0
    for count in sorted(set(resamples)):  # each product is computed once, for the smallest R that has it
        for left, right in ((u[:, seen:count], v[:, :count]), (u[:, :seen], v[:, seen:count])):
            closest = np.minimum(closest, _closest_products(left, right, w))
        result[count], seen = closest.reshape(shape), count
    return np.stack([result[count] for count in resamples])


def _closest_products(
    left: NDArray[np.float64], right: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Smallest distance of the products of a row of ``left`` and that row of ``right`` from ``w``, a few at a time."""
    closest = np.full(len(w), np.inf)
    if not left.size:
        return closest
    columns = min(left.shape[1], max(1, _PRODUCTS_AT_A_TIME // right.shape[1]))
    rows = max(1, _PRODUCTS_AT_A_TIME // (columns * right.shape[1]))
    for top in range(0, len(w), rows):
        chunk = slice(top, top + rows)
        for first in range(0, left.shape[1], columns):
            products = left[chunk, first : first + columns, None] * right[chunk, None, :]
            products -= w[chunk, None, None]
            np.abs(products, out=products)
            closest[chunk] = np.minimum(closest[chunk], products.min(axis=(1, 2)))
    return closest


def _weight_distances(
    draws: NDArray[np.float64], targets: NDArray[np.float64], resamples: Sequence[int]
) -> NDArray[np.float64]:
    """Of each candidate the distance of its closest draw, twice, float64 ``[resamples, trials, candidates, 2]``."""
    closest = np.minimum.accumulate(np.abs(draws[..., 0] - targets[:, None, None]), axis=2)
    result = np.stack([closest[:, :, count - 1] for count in resamples])
    return np.stack([result, result], axis=-1)


@dataclass(frozen=True)
class BoundCheck:
    """Measured errors beside the bound, for one number of candidates and one of draws.

    Attributes:
        candidates: n.
        resamples: R.
        median: of the errors of all trials.
        quantile: the error that the share 1 - delta of the trials does not exceed.
        exact: the same from the exact probability instead of trials; ``None`` where there is no formula for it.
        bound: what the theorem guarantees with probability 1 - delta.
        misses: in how many trials the error was above the bound.
        misses_allowed: delta times the number of trials, and four standard deviations of their number.
    """

    candidates: int
    resamples: int
    median: float
    quantile: float
    exact: float | None
    bound: float
    misses: int
    misses_allowed: float

    @property
    def within(self) -> bool:
        """Whether the bound holds: exactly, where the exact quantile is known, and as far as the trials tell."""
        return self.misses <= self.misses_allowed and (self.exact is None or self.exact <= self.bound)


def check_bound(
    candidates: Sequence[int],
    resamples: Sequence[int],
    *,
    delta: Number = 0.05,
    trials: int = 1000,
    seed: int = 0,
    target: float | None = 1.0,
    experiment: Experiment = "path",
) -> list[BoundCheck]:
    """Compare what `empirical_errors` measures with `guaranteed_error`, for every R and every n.

    Raises:
        ConfigError: as in `empirical_errors`, or there are too few trials for a quantile.
    """
    failure = float(open_fraction("delta", delta))
    if trials * failure < 1:
        raise ConfigError(f"trials: expected at least 1/delta = {math.ceil(1 / failure):,}, got {trials:,}")
    errors = empirical_errors(candidates, resamples, trials, seed, target, experiment=experiment)
    expected = trials * failure
    checks = []
    for j, r in enumerate(resamples):
        for i, n in enumerate(candidates):
            bound = guaranteed_error(n, r, failure, experiment)
            checks.append(
                BoundCheck(
                    candidates=n,
                    resamples=r,
                    median=float(np.median(errors[i, j])),
                    quantile=float(np.quantile(errors[i, j], 1 - failure, method="inverted_cdf")),
                    exact=_exact_quantile(n, r, failure, target, experiment),
                    bound=bound,
                    misses=int(np.count_nonzero(errors[i, j] > bound)),
                    misses_allowed=expected + 4 * math.sqrt(expected * (1 - failure)),
                )
            )
    return checks


def _exact_quantile(
    candidates: int, resamples: int, delta: float, target: float | None, experiment: Experiment
) -> float | None:
    if target is None or (experiment == "path" and abs(target) != 1):
        return None

    def miss(error: float) -> float:
        if experiment == "path":
            return path_miss_probability(candidates, resamples, error)
        return weight_miss_probability(candidates * resamples, error, target)

    low, high = 0.0, abs(target)
    for _ in range(60):  # the probability falls with the error
        middle = (low + high) / 2
        low, high = (middle, high) if miss(middle) > delta else (low, middle)
    return high
