"""Theorem 4.1 of IteRand: how wide a random network must be to hold a subnetwork that acts like a target network.

Source: Chijiwa et al., "Pruning Randomly Initialized Neural Networks with Iterative Randomization" (NeurIPS 2021).
The target has depth l, widths d_0 ... d_l, ReLU between its layers and weight matrices of Frobenius norm at most 1.
The random network is twice as deep, its weights are uniform on [-1, 1], and each may be drawn R times in all. Where

    width_(2i-1) >= 2 d_(i-1) n_i,    n_i = ceil(64 l^2 d_(i-1)^2 d_i / (epsilon^2 R^2) * log(2 l d_(i-1) d_i / delta)),

and layer 2i is d_i wide, some mask comes within epsilon of the target in the Euclidean norm, for all inputs of
[-1, 1]^d_0 at once, with probability 1 - delta at least.

Why the formula has this form. A weight w is replaced by two hidden units, because a unit v relu(u x) passes one sign
of x: u > 0 serves positive x, u < 0 negative x, and both need u v close to w. Hence the factor 2, in the width and in
the logarithm. Each of the two is chosen out of n candidates (u, v). With one draw each (R = 1), u comes within e of
any wanted value with probability e/2 or more, and so does v; both do with e^2/4, all n candidates miss with
(1 - e^2/4)^n <= exp(-n e^2/4), and a hit is off by |u v - w| <= 2e. That this be at most
delta / (2 l d_(i-1) d_i), for e = epsilon / (4 l d_(i-1) sqrt(d_i)), is the formula. The 2e of all weights add up to
epsilon/(2l) per layer, and half of epsilon is left for what later layers make of it. R draws of u and R of v make
R^2 products of each candidate: the formula counts them as if they were R^2 candidates, which they are not, because
they share draws. `path_miss_probability` has no such step: it is exact, where w = 1 or -1. By it the formula keeps its
promise for one weight with a margin, down to delta = 1e-4; below, with n < 5 and R in the hundreds, the choice
of one unit for each sign is not quite enough, and the theorem must count on weights below 1 or on larger masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import cache
from itertools import pairwise
from operator import index
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

__all__ = [
    "Experiment",
    "LayerWidth",
    "Number",
    "RandomNetwork",
    "check_range",
    "guaranteed_error",
    "open_fraction",
    "path_miss_probability",
    "required_widths",
    "weight_miss_probability",
]

#: ``path``: a weight is a product of two, as in the theorem. ``weight``: it is one, the simplest case.
Experiment = Literal["path", "weight"]
#: A number that is taken as it is written: 0.1 is one tenth, not the closest binary fraction.
Number: TypeAlias = "float | str | Decimal | Fraction"

_LARGEST_WIDTH = 2**63 - 1
_SMALLEST = Fraction(1, 10**100)


@dataclass(frozen=True)
class LayerWidth:
    """What the theorem asks for one layer of the target.

    Attributes:
        inputs: d_(i-1), width of the target before the layer.
        outputs: d_i, width after it.
        candidates: n_i, out of how many pairs of random weights each half of a weight is chosen.
        width: of the random network between its two layers that stand for this one, 2 d_(i-1) n_i.
        enough_resamples: the smallest R with which one candidate is enough, so that the width is 2 d_(i-1). The
            theorem says R > (8 l d_(i-1) / epsilon) sqrt(d_i log(2 l d_(i-1) d_i / delta)), the formula for n_i says
            R >= that; the number on the right is never whole (a logarithm of a fraction is transcendental), so no
            R is on one side only.
    """

    inputs: int
    outputs: int
    candidates: int
    width: int
    enough_resamples: int

    @property
    def ratio(self) -> int:
        """The width by the inputs of the target's layer."""
        return self.width // self.inputs


@dataclass(frozen=True)
class RandomNetwork:
    """The random network that the theorem asks for.

    Attributes:
        resamples: R, draws of each weight, the first one counted.
        layers: one entry for each layer of the target, two layers of this network.
    """

    resamples: int
    layers: tuple[LayerWidth, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """All 2l + 1 widths, inputs and outputs included."""
        between = [width for layer in self.layers for width in (layer.width, layer.outputs)]
        return (self.layers[0].inputs, *between)

    @property
    def parameters(self) -> int:
        """Number of its weights; there are no biases."""
        return sum(layer.width * (layer.inputs + layer.outputs) for layer in self.layers)

    @property
    def target_parameters(self) -> int:
        """Number of weights of the target."""
        return sum(layer.inputs * layer.outputs for layer in self.layers)


def required_widths(widths: Sequence[int], epsilon: Number, delta: Number, resamples: int = 1) -> RandomNetwork:
    """The random network that Theorem 4.1 asks for, in exact whole numbers.

    Args:
        widths: d_0 ... d_l of the target, inputs first.
        epsilon: the largest error of an output vector, between 0 and 1.
        delta: probability of failure, between 0 and 1.
        resamples: R, draws of each weight; 1 = it is never redrawn.

    Raises:
        ConfigError: fewer than two widths, or a number out of its range.

    Example:
        >>> required_widths([2, 1], 0.5, 0.1, resamples=10).widths
        (2, 152, 1)
    """
    if len(widths) < 2:
        raise ConfigError(f"widths: expected at least 2, those of inputs and outputs, got {len(widths)}")
    widths = [index(width) for width in widths]  # NumPy's would overflow
    for width in widths:
        check_range("widths", width, 1, _LARGEST_WIDTH)
    if resamples < 1:
        raise ConfigError(f"resamples: expected at least 1, the first draw, got {resamples}")
    error, failure = open_fraction("epsilon", epsilon), open_fraction("delta", delta)
    depth = len(widths) - 1
    layers = []
    for inputs, outputs in pairwise(widths):
        factor = 64 * depth**2 * inputs**2 * outputs / error**2
        argument = 2 * depth * inputs * outputs / failure
        candidates = _ceil_times_log(factor / resamples**2, argument)
        # The smallest whole R with R^2 >= factor * log(argument).
        enough = math.isqrt(_ceil_times_log(factor, argument) - 1) + 1
        layers.append(LayerWidth(inputs, outputs, candidates, 2 * inputs * candidates, enough))
    return RandomNetwork(resamples, tuple(layers))


def _ceil_times_log(factor: Fraction, argument: Fraction) -> int:
    """The product of ``factor`` and the natural logarithm of ``argument`` > 1, rounded up without any error."""
    digits = max(0, len(str(factor.numerator)) - len(str(factor.denominator))) + 30
    while True:
        context = Context(prec=digits)
        logarithm = context.ln(context.divide(argument.numerator, argument.denominator))
        product = context.multiply(context.divide(factor.numerator, factor.denominator), logarithm)
        doubt = context.scaleb(context.abs(product), 5 - digits)
        low, high = (math.ceil(end) for end in (context.subtract(product, doubt), context.add(product, doubt)))
        if low == high:
            return low
        digits *= 2  # ends: the product is no whole number


def guaranteed_error(candidates: int, resamples: int, delta: float, experiment: Experiment = "path") -> float:
    """The error for one weight that is exceeded with probability ``delta`` at most, by the formulas of the theorem.

    Args:
        candidates: n.
        resamples: R.
        delta: probability of failure.
        experiment: ``path`` solves the formula for a target of one weight (l = d_0 = d_1 = 1) for epsilon:
            (8/R) sqrt(log(2/delta) / n). ``weight`` is the lemma of one draw, n R >= (2/epsilon) log(1/delta).

    Errors above 1 say nothing: a mask that keeps nothing is off by |w| <= 1.
    """
    if experiment == "path":
        return 8 / resamples * math.sqrt(math.log(2 / delta) / candidates)
    return 2 * math.log(1 / delta) / (candidates * resamples)


def weight_miss_probability(draws: int, epsilon: float, target: float = 1.0) -> float:
    """The exact probability that none of ``draws`` uniform numbers on [-1, 1] is within ``epsilon`` of ``target``.

    Targets at the border are the hardest, (1 - epsilon/2)^draws: half of their neighbourhood is outside. 0 where
    ``epsilon`` >= |target|, because a mask that keeps nothing is within.
    """
    if epsilon >= abs(target):
        return 0.0
    hit = (min(epsilon, 1 - target) + min(epsilon, 1 + target)) / 2  # of the neighbourhood, above and below
    return math.exp(draws * math.log1p(-hit))


def path_miss_probability(candidates: int, resamples: int, epsilon: float) -> float:
    """The exact probability that a target weight of 1, or -1, is missed by more than ``epsilon``.

    The experiment is the one of `theory_check.empirical_errors`. For w = 1 a candidate of the half u > 0 hits if
    max(u) max(v) >= 1 - epsilon, the maxima over its R draws, of which P(max <= s) = ((1 + s)/2)^R. With
    a = -R log((1 + u)/2), which is exponentially distributed, it misses with

        F = exp(-a_0) + integral over a from 0 to a_0 of exp(-a) ((1 + (1 - epsilon)/u(a)) / 2)^R,

    a_0 being where u = 1 - epsilon. For R = 1 this is 1 - (epsilon + (1 - epsilon) log(1 - epsilon)) / 4. All n
    miss with F^n, and one of the two halves with 1 - (1 - F^n)^2. No weight is harder than 1 when R = 1: the density
    of u v at w is log(1/|w|)/4 in each half, which falls to 0 there.
    """
    if epsilon >= 1:
        return 0.0
    if epsilon <= 0:
        return 1.0
    end = -resamples * math.log1p(-epsilon / 2)
    nodes, weights = _quadrature()
    a = end * (1 + nodes) / 2
    u = 1 + 2 * np.expm1(-a / resamples)
    exponent = resamples * np.log1p(((1 - epsilon) / u - 1) / 2) - a
    miss = math.exp(-end) + end / 2 * float(weights @ np.exp(exponent))
    all_miss = miss**candidates
    return all_miss * (2 - all_miss)


@cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(200)


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Refuse a whole number that is out of its range.

    Raises:
        ConfigError: it is.
    """
    if not least <= value <= most:
        raise ConfigError(f"{name}: expected whole numbers from {least:,} to {most:,}, got {value:,}")


def open_fraction(name: str, value: Number) -> Fraction:
    """Exactly what is written.

    Raises:
        ConfigError: it is no number strictly between 0 and 1, or so small that whole numbers would fill pages.
    """
    try:
        number = value if isinstance(value, Fraction) else Decimal(str(value))
        inside = 0 < number < 1
    except InvalidOperation:  # no number, or NaN
        inside = False
    if not inside:
        raise ConfigError(f"{name}: expected a number between 0 and 1, got {value}")
    if number < _SMALLEST:
        raise ConfigError(f"{name}: expected at least 1e-100, got {value}")
    return Fraction(number)
