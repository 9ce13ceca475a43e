"""The generator against its published vectors, the C++ standard, and a scalar implementation written here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.seed.philox import (
    KNOWN_ANSWERS,
    MAX_SEED,
    check_seed,
    philox4x32,
    random_bytes,
    random_words,
)

MASK = 0xFFFFFFFF


def naive_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10, one block, straight from the paper."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 & MASK, (p0 >> 32) ^ x3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [x0, x1, x2, x3]


def naive_byte(seed: int, position: int, draw: int, tensor: int, purpose: int) -> int:
    words = naive_philox([position // 16, draw, tensor, purpose], [seed & MASK, seed >> 32])
    return words[position % 16 // 4] >> 8 * (position % 4) & 0xFF


KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    block, draw, tensor, purpose = (int(word, 16) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    words = philox4x32(high << 32 | low, np.array([block], np.uint64), draw, tensor, purpose)
    assert [f"{word:08x}" for word in words[0]] == expected.split()
    assert naive_philox([block, draw, tensor, purpose], [low, high]) == words[0].tolist()
    assert ((block, draw, tensor, purpose), high << 32 | low, tuple(words[0].tolist())) in KNOWN_ANSWERS
    assert len(KNOWN_ANSWERS) == len(KNOWN)


def test_the_ten_thousandth_output_that_the_cpp26_standard_demands() -> None:
    # std::philox4x32 with its default seed 20111115: key (seed, 0), counter from 0, four words a block.
    assert random_words(20111115, 10000, draw=0, tensor=0, purpose=0)[9999] == 1955073260


@given(
    seed=st.integers(0, MAX_SEED),
    block=st.integers(0, MASK),
    draw=st.integers(0, 255),
    tensor=st.integers(0, MASK),
    purpose=st.integers(0, 6),
)
def test_equals_the_scalar_implementation(seed: int, block: int, draw: int, tensor: int, purpose: int) -> None:
    got = philox4x32(seed, np.array([block], np.uint64), draw, tensor, purpose)
    assert got[0].tolist() == naive_philox([block, draw, tensor, purpose], [seed & MASK, seed >> 32])


@given(start=st.integers(0, 300), count=st.integers(0, 70), draw=st.integers(0, 3))
def test_bytes_are_addressed_by_position_not_by_history(start: int, count: int, draw: int) -> None:
    got = random_bytes(5, start, start + count, draw=draw, tensor=9)
    assert got.tolist() == [naive_byte(5, i, draw, 9, 0) for i in range(start, start + count)]


def test_bytes_are_the_words_little_end_first() -> None:
    words = random_words(3, 8, draw=1, tensor=2, purpose=0)
    assert random_bytes(3, 0, 32, draw=1, tensor=2).tobytes() == words.astype("<u4").tobytes()


def test_chunks_join_without_a_seam() -> None:
    count = 16 * 4096 * 2 + 5
    whole = random_bytes(1, 0, count, draw=0, tensor=0)
    for cut in (16 * 4096 - 1, 16 * 4096, 16 * 4096 + 17):
        parts = [random_bytes(1, *ends, draw=0, tensor=0) for ends in ((0, cut), (cut, count))]
        assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=r"seed: expected an integer from 0 to 2\*\*64 - 1, got"):
        check_seed(seed)
