"""Moments of a sample, and distances between the distributions of two, in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments", "ks_statistic", "moments", "wasserstein"]

Sample = NDArray[np.floating]


@dataclass(frozen=True)
class Moments:
    """Of a sample as it is, not estimates for what it was drawn from; ``None`` where they have no meaning.

    Attributes:
        mean: ``None`` without values.
        std: root of the mean squared deviation; ``None`` without values.
        kurtosis: mean fourth power of the deviation by the square of the variance, minus 3, so that a normal
            distribution has 0, a uniform one -1.2, and two equally frequent values -2; ``None`` without values, or if
            all are equal.
    """

    mean: float | None
    std: float | None
    kurtosis: float | None


def moments(values: Sample) -> Moments:
    """Mean, standard deviation and excess kurtosis of ``values``, ``[n]``.

    Example:
        >>> moments(np.array([-1.0, 1.0, -1.0, 1.0]))
        Moments(mean=0.0, std=1.0, kurtosis=-2.0)
    """
    if len(values) == 0:
        return Moments(None, None, None)
    if values.min() == values.max():  # rounding would leave a variance, and a kurtosis of noise
        return Moments(float(values[0]), 0.0, None)
    exact = values.astype(np.float64)
    mean = exact.mean()
    squares = (exact - mean) ** 2
    variance = squares.mean()
    return Moments(float(mean), float(np.sqrt(variance)), float((squares**2).mean() / variance**2 - 3))


def ks_statistic(first: Sample, second: Sample) -> float | None:
    """The two-sample Kolmogorov–Smirnov statistic: the largest difference between the distribution functions.

    Args:
        first: ``[n]``.
        second: ``[m]``.

    Returns:
        A number in [0, 1]; ``None`` if a sample is empty.

    Example:
        >>> ks_statistic(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]))
        0.5
    """
    result = _differences(first, second)
    return None if result is None else float(result[1].max())


def wasserstein(first: Sample, second: Sample) -> float | None:
    """The 1-Wasserstein distance: the area between the distribution functions, in the unit of the values.

    Args:
        first: ``[n]``.
        second: ``[m]``.

    Returns:
        How far values have to move on average; ``None`` if a sample is empty.

    Example:
        >>> wasserstein(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]))
        2.0
    """
    result = _differences(first, second)
    return None if result is None else float((np.diff(result[0]) * result[1][:-1]).sum())


def _differences(first: Sample, second: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """All values in ascending order, and the absolute difference of the distribution functions from each on."""
    if len(first) == 0 or len(second) == 0:
        return None
    values = np.sort(np.concatenate([first, second]).astype(np.float64))
    shares = [
        np.searchsorted(np.sort(sample.astype(np.float64)), values, side="right") / len(sample)
        for sample in (first, second)
    ]
    return values, np.abs(shares[0] - shares[1])
