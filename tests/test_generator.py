"""The torch generator against the NumPy reference, bit for bit."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.seed import philox
from iterand_compress.compress.seed import philox_torch as generator
from iterand_compress.compress.seed.codebooks import CODEBOOKS, get_codebook, random_codes

CPU = torch.device("cpu")


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint32)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    block=st.integers(0, 2**32 - 1),
    draw=st.integers(0, 2**32 - 1),
    tensor=st.integers(0, 2**32 - 1),
    purpose=st.integers(0, 2**32 - 1),
)
def test_torch_equals_numpy_on_any_counter(seed, block, draw, tensor, purpose):
    expected = philox.philox4x32(seed, np.array([block], np.uint64), draw, tensor, purpose)
    words = generator.philox4x32(seed, torch.tensor([block]), draw, tensor, purpose)
    assert [int(word) for word in words] == expected[0].tolist()


@pytest.mark.parametrize("count", [1, 16, 40_961])
@pytest.mark.parametrize("name", sorted(CODEBOOKS))
def test_initial_weights_equal_reference(name, count):
    book = get_codebook(name)
    scale = book.scale(27)
    expected = random_codes(99, 3, book, 0, count).astype(np.float32) * scale
    got = generator.random_weights(99, 3, book, scale, count, CPU).numpy()
    np.testing.assert_array_equal(bits(got), bits(expected))


def test_single_weights_equal_reference_at_any_draw():
    book, count = get_codebook("normal"), 20_000
    scale = book.scale(9)
    draws = (np.arange(count) * 7 % 256).astype(np.uint8)
    expected = random_codes(5, 1, book, 0, count, draws).astype(np.float32) * scale
    index = torch.arange(count).flip(0)
    got = generator.weights_at(5, 1, book, scale, index, torch.from_numpy(draws).flip(0)).flip(0)
    np.testing.assert_array_equal(bits(got.numpy()), bits(expected))


def test_scores_follow_their_definition():
    words = philox.random_words(11, 1001, draw=0, tensor=2, purpose=philox.Purpose.SCORES)
    unit = (words >> 8).astype(np.float64) / 2**23 - 1
    expected = (unit.astype(np.float32) * np.float32(0.3)).astype(np.float32)
    got = generator.random_scores(11, 2, 0.3, 1001, CPU).numpy()
    np.testing.assert_array_equal(bits(got), bits(expected))
    assert got.min() < -0.29
    assert got.max() > 0.29


def test_decisions_follow_their_definition():
    words = philox.random_words(11, 501, draw=9, tensor=4, purpose=philox.Purpose.RESAMPLING)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)[:1001]
    got = generator.resampling_decisions(11, 4, 9, 6554, 1001, CPU).numpy()
    np.testing.assert_array_equal(got, halves < 6554)
    edge = int(halves[5])  # a threshold that occurs: strictly below, or the rate would be off by 1/65536
    np.testing.assert_array_equal(generator.resampling_decisions(11, 4, 9, edge, 1001, CPU).numpy(), halves < edge)
    assert 60 < got.sum() < 140


def test_chunks_do_not_show(monkeypatch):
    whole = generator.random_weights(1, 0, get_codebook("uniform"), np.float32(1), 10_000, CPU)
    monkeypatch.setattr(generator, "_CHUNK_CPU", 7)
    parts = generator.random_weights(1, 0, get_codebook("uniform"), np.float32(1), 10_000, CPU)
    assert torch.equal(whole, parts)


@pytest.mark.processes
def test_same_bits_without_vector_instructions():
    program = (
        "import hashlib, numpy as np, torch\n"
        "from iterand_compress.compress.seed import philox_torch as generator\n"
        "from iterand_compress.compress.seed.codebooks import get_codebook\n"
        "book = get_codebook('normal')\n"
        "w = generator.random_weights(7, 1, book, book.scale(27), 40961, torch.device('cpu'))\n"
        "s = generator.random_scores(7, 1, 0.1, 40961, torch.device('cpu'))\n"
        "print(hashlib.sha256(w.numpy().tobytes() + s.numpy().tobytes()).hexdigest())\n"
    )
    digests = set()
    for capability in ("default", None):
        environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
        if capability:
            environment["ATEN_CPU_CAPABILITY"] = capability
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    book = get_codebook("normal")
    reference = random_codes(7, 1, book, 0, 40961).astype(np.float32) * book.scale(27)
    got = generator.random_weights(7, 1, book, book.scale(27), 40961, CPU).numpy()
    np.testing.assert_array_equal(bits(got), bits(reference))


def test_seed_beyond_64_bits_is_refused():
    with pytest.raises(ConfigError, match=r"seed: expected an integer from 0 to 2\*\*64 - 1, got 18446744073709551616"):
        generator.random_scores(2**64, 0, 1.0, 4, CPU)
