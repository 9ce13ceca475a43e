"""theory: the formula against rational arithmetic, the experiment against scalar loops and exact probabilities."""

import json
import math
import sys
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_packaging import modules_after
from test_philox import naive_philox

from conftest import fail, invoke, succeed
from iterand_compress import check_bound, required_widths
from iterand_compress.compress.analysis import theory_check
from iterand_compress.compress.analysis.theory import guaranteed_error, path_miss_probability, weight_miss_probability
from iterand_compress.compress.analysis.theory_check import BoundCheck, empirical_errors
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.seed.philox import Purpose

# ------------------------------------------------------------------------------------------------- the formula


def log_bounds(x: Fraction, bits: int = 700) -> tuple[Fraction, Fraction]:
    """Rational numbers below and above the natural logarithm of x >= 1, from log y = 2 artanh((y-1)/(y+1))."""

    def series(z: Fraction) -> tuple[Fraction, Fraction]:
        one = 1 << bits
        term = square = z.numerator * one // z.denominator
        square = square * square >> bits
        total, k = 0, 0
        while term:
            total += term // (2 * k + 1)
            term = term * square >> bits
            k += 1
        return Fraction(2 * total, one), Fraction(2 * total + 8 * k + 8, one)  # every step rounds down by less than 2

    halvings = 0
    while x > 2:
        x, halvings = x / 2, halvings + 1
    (low, high), (low2, high2) = series((x - 1) / (x + 1)), series(Fraction(1, 3))
    return low + halvings * low2, high + halvings * high2


def test_the_bounds_of_this_test():
    low, high = log_bounds(Fraction(2400))
    assert float(low) == float(high) == math.log(2400)
    assert 0 < high - low < Fraction(1, 2**680)


def test_one_layer_by_hand():
    """Depth 1, d = 2, d' = 1, epsilon 1/2, delta 1/10: 64 * 4 / (1/4) = 1024, times log(2*2/0.1) = 3.68888: 3777.4."""
    once, ten, enough, less = (required_widths([2, 1], 0.5, 0.1, r) for r in (1, 10, 62, 61))
    assert (once.layers[0].candidates, once.widths) == (3778, (2, 2 * 2 * 3778, 1))
    assert (ten.layers[0].candidates, ten.widths) == (38, (2, 152, 1)), "37.77 rounded up"
    assert (ten.parameters, ten.target_parameters) == (2 * 152 + 152, 2)
    assert ten.layers[0].ratio == 76
    # 8 * 2 / 0.5 * sqrt(3.68888) = 61.46
    assert {network.layers[0].enough_resamples for network in (once, ten, enough)} == {62}
    assert enough.widths == (2, 4, 1)
    assert less.widths == (2, 8, 1)


def test_two_layers_by_hand():
    """Depth 2, epsilon 1/5, delta 1/100, R = 3.

    3 to 2: 64*4*9*2 / (9/25) = 12800, times log(2*2*3*2/0.01 = 2400) = 7.78322 is 99625.3.
    2 to 1: 64*4*4*1 / (9/25) = 2844.4, times log(2*2*2*1/0.01 = 800) = 6.68461 is 19014.01.
    """
    network = required_widths([3, 2, 1], "0.2", "0.01", 3)
    assert [layer.candidates for layer in network.layers] == [99626, 19015]
    assert network.widths == (3, 6 * 99626, 2, 4 * 19015, 1)
    assert network.parameters == 6 * 99626 * 5 + 4 * 19015 * 3


WIDTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2**63 - 1)), min_size=2, max_size=5)
SHARES = st.fractions(Fraction(1, 10**9), Fraction(999, 1000), max_denominator=10**9)
RESAMPLES = st.one_of(st.integers(1, 50), st.integers(1, 10**12))


@settings(max_examples=60, deadline=None)
@given(widths=WIDTHS, epsilon=SHARES, delta=SHARES, resamples=RESAMPLES)
def test_exact_whole_numbers(widths, epsilon, delta, resamples):
    network = required_widths(widths, epsilon, delta, resamples)
    depth = len(widths) - 1
    assert (network.resamples, network.widths[::2], len(network.widths)) == (resamples, tuple(widths), 2 * depth + 1)
    assert network.parameters == sum(a * b for a, b in pairwise(network.widths))
    assert network.target_parameters == sum(a * b for a, b in pairwise(widths))
    for layer, inputs, outputs in zip(network.layers, widths, widths[1:], strict=False):
        low, high = log_bounds(2 * depth * inputs * outputs / delta)
        once = 64 * depth**2 * inputs**2 * outputs / epsilon**2
        assert layer.candidates - 1 < once / resamples**2 * low
        assert layer.candidates >= once / resamples**2 * high
        assert layer.width == 2 * inputs * layer.candidates == layer.ratio * inputs
        # The two sides of R > (8 l d / epsilon) sqrt(d' log ...), squared.
        assert layer.enough_resamples**2 > once * high
        assert (layer.enough_resamples - 1) ** 2 < once * low


@settings(max_examples=40, deadline=None)
@given(widths=WIDTHS, epsilon=SHARES, delta=SHARES)
def test_one_candidate_is_enough_from_there_on_and_not_before(widths, epsilon, delta):
    for i, layer in enumerate(required_widths(widths, epsilon, delta).layers):
        at, above, below = (
            required_widths(widths, epsilon, delta, max(1, layer.enough_resamples + step)).layers[i].candidates
            for step in (0, 1, -1)
        )
        assert (at, above) == (1, 1)
        assert below > 1 or layer.enough_resamples == 1


@settings(max_examples=40, deadline=None)
@given(widths=WIDTHS, epsilon=SHARES, delta=SHARES, resamples=RESAMPLES)
def test_what_makes_the_network_wider(widths, epsilon, delta, resamples):
    def width_of(*arguments):
        return required_widths(*arguments).widths[1]

    width = width_of(widths, epsilon, delta, resamples)
    assert width_of(widths, epsilon, delta, resamples + 1) <= width
    assert width_of(widths, epsilon / 2, delta, resamples) >= width
    assert width_of(widths, epsilon, delta / 2, resamples) >= width
    assert width_of([*widths, 1], epsilon, delta, resamples) >= width, "a deeper target"


def test_numbers_are_taken_as_written():
    tenth, *others = (required_widths([10**15, 10**15], value, 0.05) for value in (Fraction(1, 10), 0.1, "0.1"))
    assert others == [tenth, tenth]
    assert required_widths([10**15, 10**15], Fraction(0.1), 0.05) != tenth, "the binary fraction is another number"
    assert required_widths(np.array([784, 300]), 0.1, 0.05) == required_widths([784, 300], 0.1, 0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3], 0.1, 0.1), "widths: expected at least 2, those of inputs and outputs, got 1"),
        (([3, 0], 0.1, 0.1), "widths: expected whole numbers from 1 to 9,223,372,036,854,775,807, got 0"),
        (([3, 2], 0, 0.1), "epsilon: expected a number between 0 and 1, got 0"),
        (([3, 2], 1.0, 0.1), "epsilon: expected a number between 0 and 1, got 1.0"),
        (([3, 2], 0.1, -0.5), "delta: expected a number between 0 and 1, got -0.5"),
        (([3, 2], 0.1, 1), "delta: expected a number between 0 and 1, got 1"),
        (([3, 2], 0.1, float("nan")), "delta: expected a number between 0 and 1, got nan"),
        (([3, 2], "1e-999999999", 0.1), "epsilon: expected at least 1e-100, got 1e-999999999"),
        (([3, 2], 0.1, 0.1, 0), "resamples: expected at least 1, the first draw, got 0"),
    ],
)
def test_what_the_formula_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        required_widths(*arguments)


# ------------------------------------------------------------------------------------------- exact probabilities


@pytest.mark.parametrize(
    ("draws", "epsilon", "target", "expected"),
    [
        (1, 0.5, 1.0, 0.75),  # [0.5, 1] is a quarter of [-1, 1]
        (3, 0.5, -1.0, 0.75**3),
        (2, 0.5, 0.9, 0.7**2),  # [0.4, 1]
        (2, 0.25, 0.5, 0.75**2),  # [0.25, 0.75]
        (5, 0.5, 0.25, 0.0),  # 0 is close enough
    ],
)
def test_misses_of_single_draws_by_hand(draws, epsilon, target, expected):
    assert weight_miss_probability(draws, epsilon, target) == pytest.approx(expected, rel=1e-12)


def slow_path_miss(candidates: int, resamples: int, epsilon: float, cells: int = 200_000) -> float:
    """The largest u of R draws is in a cell with the difference of P(u <= s) at its ends; likewise v is above."""

    def below(s):
        return ((1 + s) / 2) ** resamples

    ends = np.linspace(1 - epsilon, 1, cells + 1)
    middles = (ends[1:] + ends[:-1]) / 2
    hit = np.sum(np.diff(below(ends)) * (1 - below((1 - epsilon) / middles)))
    half = (1 - hit) ** candidates
    return 1 - (1 - half) ** 2


@pytest.mark.parametrize("resamples", [1, 2, 10, 300])
@pytest.mark.parametrize("epsilon", [0.001, 0.03, 0.4, 0.97])
def test_misses_of_products(resamples, epsilon):
    for candidates in (1, 7):
        found = path_miss_probability(candidates, resamples, epsilon)
        assert found == pytest.approx(slow_path_miss(candidates, resamples, epsilon), rel=1e-6, abs=1e-12)
    assert path_miss_probability(3, resamples, 1.0) == 0
    assert path_miss_probability(3, resamples, 0.0) == 1


def test_misses_of_products_drawn_once():
    """The area of u v >= 3/4 in the unit square is 1/4 + 3/4 log(3/4); the square is a quarter of [-1, 1]^2."""
    half = 1 - (0.25 + 0.75 * math.log(0.75)) / 4
    assert path_miss_probability(1, 1, 0.25) == pytest.approx(1 - (1 - half) ** 2, rel=1e-12)


def test_guaranteed_errors_by_hand():
    """8/10 sqrt(log(40)/4) = 0.8 * 0.960323; 2 log(20) / 16 = 0.374467."""
    assert guaranteed_error(4, 10, 0.05) == pytest.approx(0.768258, abs=1e-6)
    assert guaranteed_error(4, 4, 0.05, "weight") == pytest.approx(0.374467, abs=1e-6)
    # They invert the formula: a slightly larger error asks for n candidates, a slightly smaller one for n + 1.
    bound = guaranteed_error(30, 20, 0.01)
    assert required_widths([1, 1], bound * 1.0001, 0.01, 20).widths[1] == 2 * 30
    assert required_widths([1, 1], bound * 0.9999, 0.01, 20).widths[1] == 2 * 31


@settings(max_examples=100, deadline=None)
@given(
    candidates=st.integers(1, 10_000),
    resamples=st.integers(1, 10_000),
    delta=st.floats(1e-4, 0.999),
)
def test_the_bounds_hold_exactly_at_the_border(candidates, resamples, delta):
    error = guaranteed_error(candidates, resamples, delta)
    assert path_miss_probability(candidates, resamples, error) <= delta
    error = guaranteed_error(candidates, resamples, delta, "weight")
    assert weight_miss_probability(candidates * resamples, error) <= delta * (1 + 1e-9)


def test_where_one_unit_for_each_sign_is_not_enough():
    """The formula counts R^2 products as independent: for rare failures and one candidate that is too many."""
    assert path_miss_probability(1, 10_000, guaranteed_error(1, 10_000, 1e-4)) < 1e-4
    assert path_miss_probability(1, 10_000, guaranteed_error(1, 10_000, 1e-5)) > 1.5e-5
    assert path_miss_probability(8, 10_000, guaranteed_error(8, 10_000, 1e-12)) < 1e-12


# ------------------------------------------------------------------------------------------------ the experiment


def uniform(word: int) -> float:
    return (2 * word + 1) / 2**32 - 1


def relu(x: float) -> float:
    return max(x, 0.0)


def slow_error(seed: int, trial: int, candidates: int, resamples: int, w: float) -> float:
    """All masks with at most one hidden unit for each sign, all draws; the output at x = 1 and x = -1."""

    def words(candidate: int, draw: int) -> list[float]:
        counter = [trial * 65_536 + candidate, draw, 0, Purpose.THEORY]
        return [uniform(word) for word in naive_philox(counter, [seed, 0])]

    units = {(c, r): words(c, r) for c in range(candidates) for r in range(resamples)}
    choices = list(product(range(candidates), range(resamples), range(resamples)))
    pairs = [[(0.0, 0.0)] + [(units[c, i][half], units[c, j][half + 1]) for c, i, j in choices] for half in (0, 2)]
    best = math.inf
    for (u, v), (s, t) in product(*pairs):
        if u < 0 or s > 0:
            continue  # a unit that serves the other sign
        outputs = {x: v * relu(u * x) + t * relu(s * x) for x in (1.0, -1.0)}
        best = min(best, max(abs(value - w * x) for x, value in outputs.items()))
    return best


@pytest.mark.parametrize("target", [0.3, -0.75, 1.0, 0.0])
def test_paths_equal_scalar_loops(target):
    errors = empirical_errors([1, 3], [1, 2], 4, 99, target)
    for (i, n), (j, r), trial in product(enumerate((1, 3)), enumerate((1, 2)), range(4)):
        assert errors[i, j, trial] == pytest.approx(slow_error(99, trial, n, r, target), abs=1e-15)


def test_random_targets_equal_scalar_loops():
    errors = empirical_errors([2], [2], 6, 5, None)[0, 0]
    targets = [uniform(naive_philox([trial // 4, 0, 1, Purpose.THEORY], [5, 0])[trial % 4]) for trial in range(6)]
    assert errors == pytest.approx([slow_error(5, trial, 2, 2, w) for trial, w in enumerate(targets)], abs=1e-15)


def test_single_weights_equal_scalar_loops():
    errors = empirical_errors([3], [4], 3, 7, 0.6, experiment="weight")[0, 0]
    for trial in range(3):
        draws = [
            uniform(naive_philox([trial * 65_536 + candidate, draw, 0, Purpose.THEORY], [7, 0])[0])
            for candidate, draw in product(range(3), range(4))
        ]
        assert errors[trial] == pytest.approx(min(0.6, *(abs(w - 0.6) for w in draws)), abs=1e-15)


def assert_share(errors: np.ndarray, epsilon: float, expected: float) -> None:
    """Five standard deviations, or a count by chance where hardly any is expected."""
    deviation = math.sqrt(expected * (1 - expected) / len(errors))
    assert np.mean(errors > epsilon) == pytest.approx(expected, abs=5 * deviation + 1 / len(errors))


@pytest.mark.parametrize("target", [1.0, -1.0, 0.4])
def test_single_weights_miss_as_often_as_they_must(target):
    errors = empirical_errors([1, 5], [1, 6], 20_000, 3, target, experiment="weight")
    for (i, n), (j, r) in product(enumerate((1, 5)), enumerate((1, 6))):
        for epsilon in (0.02, 0.1, 0.3):
            assert_share(errors[i, j], epsilon, weight_miss_probability(n * r, epsilon, target))


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_products_miss_as_often_as_they_must(target):
    errors = empirical_errors([1, 5], [1, 6], 20_000, 4, target)
    for (i, n), (j, r) in product(enumerate((1, 5)), enumerate((1, 6))):
        for epsilon in (0.1, 0.3, 0.6, 0.9):
            assert_share(errors[i, j], epsilon, path_miss_probability(n, r, epsilon))


def test_more_candidates_or_draws_contain_fewer(monkeypatch):
    counts, draws = [5, 1, 8], [3, 7, 1, 3]
    errors = empirical_errors(counts, draws, 50, 11, 0.8)
    assert errors.shape == (3, 4, 50)
    assert np.all(errors[1] >= errors[0])
    assert np.all(errors[0] >= errors[2])
    assert np.all(errors[:, 2] >= errors[:, 0])
    assert np.all(errors[:, 0] >= errors[:, 1])
    assert np.array_equal(errors[:, 0], errors[:, 3])
    assert np.array_equal(empirical_errors([5], [7], 20, 11, 0.8)[0, 0], errors[0, 1, :20])
    assert not np.array_equal(empirical_errors([5], [7], 50, 12, 0.8)[0, 0], errors[0, 1])
    for name, small in (("_DRAWS_AT_A_TIME", 21), ("_PRODUCTS_AT_A_TIME", 10)):
        monkeypatch.setattr(theory_check, name, small)
    assert np.array_equal(empirical_errors(counts, draws, 50, 11, 0.8), errors), "however the work is cut"


@pytest.mark.slow
def test_rates_at_the_border_and_inside():
    """Errors fall with R sqrt(n) for the hardest weights, as in the theorem, and with R^2 n for others."""
    for target, rate in ((1.0, 1), (None, 2)):
        (a, b), (c, _) = np.median(empirical_errors([8, 32], [8, 32], 2000, 1, target), axis=2)
        assert math.log(a / b) / math.log(4) == pytest.approx(rate, abs=0.15)
        assert math.log(a / c) / math.log(4) == pytest.approx(rate / 2, abs=0.15)


def test_a_check_is_a_summary_of_the_errors():
    results = check_bound([2, 8], [5, 20], delta=0.1, trials=300, seed=8)
    assert [(r.resamples, r.candidates) for r in results] == [(5, 2), (5, 8), (20, 2), (20, 8)]
    errors = empirical_errors([2, 8], [5, 20], 300, 8)
    for result in results:
        mine = np.sort(errors[(2, 8).index(result.candidates), (5, 20).index(result.resamples)])
        assert result.median == (mine[149] + mine[150]) / 2
        assert result.quantile == mine[269], "270 of 300 do not exceed it"
        assert result.bound == guaranteed_error(result.candidates, result.resamples, 0.1)
        assert result.misses == np.count_nonzero(mine > result.bound)
        assert result.misses_allowed == pytest.approx(30 + 4 * math.sqrt(27))
        assert path_miss_probability(result.candidates, result.resamples, result.exact) == pytest.approx(0.1, rel=1e-9)
        assert result.exact == pytest.approx(result.quantile, rel=0.15)
        assert result.quantile <= result.bound
        assert result.within
    (single,) = check_bound([3], [4], delta=0.1, trials=20, target=-0.7, experiment="weight")
    assert weight_miss_probability(12, single.exact, -0.7) == pytest.approx(0.1, rel=1e-9)
    for target in (0.5, None):
        assert [result.exact for result in check_bound([2], [3], trials=20, target=target)] == [None]


def test_when_a_bound_is_broken():
    fields = {"candidates": 1, "resamples": 1, "median": 0.1, "quantile": 0.2}
    held = {"exact": 0.2, "bound": 0.3, "misses": 3, "misses_allowed": 5.5}
    assert BoundCheck(**fields, **held).within
    assert BoundCheck(**fields, **{**held, "exact": None}).within
    assert not BoundCheck(**fields, **{**held, "exact": 0.31}).within
    assert not BoundCheck(**fields, **{**held, "misses": 6}).within


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [1], 5, 0), "candidates: expected whole numbers from 1 to 65,536, got 0"),
        (([], [1], 5, 0), "candidates: expected at least one number, got none"),
        (([1], [32_769], 5, 0), "resamples: expected whole numbers from 1 to 32,768, got 32,769"),
        (([1], [1], 0, 0), "trials: expected whole numbers from 1 to 65,536, got 0"),
        (([1], [1], 5, -1), "seed: expected an integer"),
        (([1], [1], 5, 0, 1.5), "target: expected a weight from -1 to 1, got 1.5"),
        (([1], [1], 5, 0, math.nan), "target: expected a weight from -1 to 1, got nan"),
        (([100], [1000], 1000, 0), "expected at most 17,179,869,184 products of weights, got 200,000,000,000"),
    ],
)
def test_what_the_experiment_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        empirical_errors(*arguments)


# -------------------------------------------------------------------------------------------------- the command


def test_table():
    lines = succeed("theory", "--widths", "2,1", "--epsilon", 0.5, "--delta", 0.1, "--resamples", 10).splitlines()
    assert lines[0] == "R = 10"
    assert lines[2].split() == ["1", "2", "1", "38", "152", "76", "62"]
    assert lines[3] == "random network: 456 weights, 228 times the 2 of the target"
    assert "error 0.5 with probability 1 - 0.1 at least" in lines
    assert lines[-1].startswith("What carries over is the direction: the more often pruned weights are redrawn, the")
    assert "measured" not in "".join(lines)
    assert "R = 1,000" in succeed("theory", "--widths", "2,1", "--resamples", 1, "--resamples", 1000).splitlines()
    huge = succeed("theory", "--widths", f"{2**63 - 1},{2**63 - 1}", "--epsilon", "1e-100", "--delta", "1e-100")
    assert f"{2**63 - 1:,}" in huge


def test_json():
    found = json.loads(succeed("theory", "--widths", "784,300,100,10", "--epsilon", "0.1", "--resamples", 7, "--json"))
    assert (found["widths"], found["epsilon"], found["delta"]) == ([784, 300, 100, 10], 0.1, 0.05)
    assert (found["check"], found["plot"]) == (None, None)
    (network,) = found["networks"]
    expected = required_widths([784, 300, 100, 10], 0.1, 0.05, 7)
    assert network["widths"] == list(expected.widths)
    assert (network["parameters"], network["target_parameters"]) == (expected.parameters, 266_200)
    assert [(layer["candidates"], layer["ratio"], layer["enough_resamples"]) for layer in network["layers"]] == [
        (layer.candidates, 2 * layer.candidates, layer.enough_resamples) for layer in expected.layers
    ]


CHECK = ("--candidates", "1,8", "--resamples", 2, "--resamples", 9, "--trials", 200, "--delta", "0.1", "--seed", 6)


def test_check():
    found = json.loads(succeed("theory", "--check", *CHECK, "--json"))
    assert (found["networks"], found["widths"]) == ([], None)
    check = found["check"]
    assert (check["experiment"], check["target"], check["trials"], check["seed"]) == ("path", 1.0, 200, 6)
    expected = check_bound([1, 8], [2, 9], delta=0.1, trials=200, seed=6)
    assert [result["median"] for result in check["results"]] == [result.median for result in expected]
    assert [result["bound"] for result in check["results"]] == [result.bound for result in expected]
    assert all(result["within"] for result in check["results"])
    lines = succeed("theory", "--check", *CHECK).splitlines()
    last = expected[-1]
    numbers = [f"{value:.4g}" for value in (last.median, last.quantile, last.exact, last.bound)]
    assert lines[4].split() == ["9", "8", *numbers, f"{last.quantile / last.bound:.3f}", "yes"]
    assert lines[-2] == "path, target weight 1, 200 trials, seed 6; quantile of 0.9"
    assert lines[-1] == "the bound holds everywhere; 3 of 4 bounds are 1 or more, which every mask keeps"
    random = json.loads(succeed("theory", "--check", *CHECK, "--target", "random", "--json"))["check"]
    assert random["results"][0]["median"] == check_bound([1], [2], trials=200, seed=6, target=None)[0].median
    assert (random["target"], random["results"][0]["exact"]) == (None, None)
    single = succeed("theory", "--check", *CHECK, "--target", "-0.5", "--experiment", "weight")
    assert "weight, target weight -0.5, 200 trials" in single


def test_a_broken_bound_is_said(monkeypatch):
    monkeypatch.setattr(theory_check, "guaranteed_error", lambda *arguments: 1e-3)
    lines = succeed("theory", "--check", *CHECK).splitlines()
    assert lines[-1] == "the bound is broken in 4 of 4 places; 0 of 4 bounds are 1 or more, which every mask keeps"
    assert {line.split()[-1] for line in lines[1:5]} == {"NO"}


@pytest.mark.slow
def test_plot(tmp_path):
    path = tmp_path / "theory.png"
    found = json.loads(succeed("theory", "--plot", path, *CHECK, "--json"))
    assert found["plot"] == {"file": str(path), "file_bytes": path.stat().st_size}
    assert len(found["check"]["results"]) == 4
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (840, 600))
        assert len(image.convert("RGB").getcolors(1_000_000)) > 10, "an empty plot has few colours"
    before = path.read_bytes()
    message = fail(2, "theory", "--plot", path, *CHECK)
    assert message == f"error: {path}: exists already; --force replaces it, --plot writes elsewhere"
    assert path.read_bytes() == before
    text = succeed("theory", "--plot", path, "--force", *CHECK, "--seed", 7)
    assert text.splitlines()[-1] == f"{path}: {path.stat().st_size:,} bytes"
    assert path.read_bytes() != before
    assert [name.name for name in tmp_path.iterdir()] == ["theory.png"]


def test_a_plot_that_cannot_be_written(tmp_path):
    message = fail(1, "theory", "--plot", tmp_path / "absent" / "a.png", *CHECK)
    assert "absent/a.png: cannot be written: No such file or directory; create the folder first" in message


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = fail(2, "theory", "--plot", tmp_path / "a.png", *CHECK)
    assert message.endswith("which is not installed: pip install 'matplotlib>=3.8' (the extra 'plots')")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--widths' (or '--check')"),
        (("--widths", "3,x"), "expected whole numbers with commas between them, got '3,x'"),
        (("--widths", "3"), "widths: expected at least 2"),
        (("--widths", "3,-1"), "widths: expected whole numbers from 1"),
        (("--widths", "3,2", "--epsilon", "0"), "epsilon: expected a number between 0 and 1, got 0"),
        (("--widths", "3,2", "--epsilon", "little"), "epsilon: expected a number between 0 and 1, got little"),
        (("--widths", "3,2", "--delta", "1"), "delta: expected a number between 0 and 1, got 1"),
        (("--widths", "3,2", "--resamples", "0"), "Invalid value for '--resamples'"),
        (("--check", "--epsilon", "little"), "epsilon: expected a number between 0 and 1, got little"),
        (("--check", "--target", "big"), "expected a number from -1 to 1, or random, got 'big'"),
        (("--check", "--target", "1.01"), "target: expected a weight from -1 to 1, got 1.01"),
        (("--check", "--candidates", "0"), "candidates: expected whole numbers from 1 to 65,536, got 0"),
        (("--check", "--trials", 10), "trials: expected at least 1/delta = 20, got 10"),
        (("--check", "--seed", -1), "seed: expected an integer from 0"),
        (("--check", "--experiment", "none"), "Invalid value for '--experiment'"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    assert message in fail(2, "theory", *arguments)


def test_no_torch():
    assert not {"torch", "onnx", "onnxruntime", "matplotlib"} & modules_after("theory", "--widths", "3,2", "--check")


def test_help_has_an_example():
    assert "Example: iterand-compress theory" in invoke("theory", "--help").stdout
