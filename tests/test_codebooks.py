"""The distributions: properties of the tables, and codes against a scalar implementation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from test_philox import naive_byte

from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.seed.codebooks import CODEBOOKS, Codebook, get_codebook, random_codes

BOOKS = list(CODEBOOKS.values())


def by_name(book: Codebook) -> str:
    return book.name


@pytest.mark.parametrize("book", BOOKS, ids=by_name)
def test_tables_are_256_ascending_symmetric_entries_without_zero(book: Codebook) -> None:
    entries = book.entries.astype(int)
    assert book.entries.dtype == np.int8
    assert entries.shape == (256,)
    assert np.all(entries != 0)
    assert np.all(np.diff(entries) >= 0)
    assert np.array_equal(entries, -entries[::-1])
    with pytest.raises(ValueError, match="read-only"):
        book.entries[0] = 1


@pytest.mark.parametrize("fan_in", [1, 9, 4608])
@pytest.mark.parametrize("book", BOOKS, ids=by_name)
def test_variance_is_that_of_kaiming_initialisation(book: Codebook, fan_in: int) -> None:
    scale = book.scale(fan_in)
    assert isinstance(scale, np.float32)
    weights = book.entries.astype(np.float64) * float(scale)
    # 128 equidistant levels have 1 - 2**-14 of the variance of the continuous distribution.
    expected = (1 - 2**-14 if book.name == "uniform" else 1) * 2 / fan_in
    assert np.mean(weights**2) == pytest.approx(expected, rel=2e-7)


def test_signed_constant_takes_its_sign_from_the_highest_bit() -> None:
    book = get_codebook("signed-constant")
    assert book.two_valued
    assert book.entries.tolist() == [-1] * 128 + [1] * 128
    assert book.scale(18) == np.float32(1 / 3)


def test_uniform_has_the_128_odd_integers_twice() -> None:
    book = get_codebook("uniform")
    assert not book.two_valued
    assert book.entries.tolist() == [odd for odd in range(-127, 128, 2) for _ in range(2)]
    assert book.scale(1) == np.float32(math.sqrt(6) / 128)


def test_normal_is_the_rounded_quantiles() -> None:
    book = get_codebook("normal")
    assert not book.two_valued
    quantile = NormalDist().inv_cdf
    largest = quantile(255.5 / 256)
    positive = [max(1, round(127 * quantile((b + 0.5) / 256) / largest)) for b in range(128, 256)]
    assert book.entries.tolist() == [-code for code in reversed(positive)] + positive


def test_an_unknown_distribution_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"distribution: unknown 'unifrom'; did you mean 'uniform'\?"):
        get_codebook("unifrom")


@pytest.mark.parametrize("book", BOOKS, ids=by_name)
def test_codes_equal_a_scalar_implementation(book: Codebook) -> None:
    draws = (np.arange(100) * 7 % 5).astype(np.uint8)
    draws[3] = 255
    expected = [int(book.entries[naive_byte(2**63 + 5, i, int(draws[i]), 3, 0)]) for i in range(100)]
    assert random_codes(2**63 + 5, 3, book, 0, 100, draws).tolist() == expected
    assert random_codes(2**63 + 5, 3, book, 37, 90, draws[37:90]).tolist() == expected[37:90]


def test_no_draws_means_draw_zero() -> None:
    book = get_codebook("normal")
    zeros = np.zeros(40, np.uint8)
    assert np.array_equal(random_codes(1, 0, book, 0, 40), random_codes(1, 0, book, 0, 40, zeros))


def test_streams_of_tensors_and_seeds_differ() -> None:
    book = get_codebook("normal")
    base = random_codes(1, 0, book, 0, 64)
    for seed, tensor in ((2, 0), (1 + 2**32, 0), (1, 1)):
        assert not np.array_equal(base, random_codes(seed, tensor, book, 0, 64))
