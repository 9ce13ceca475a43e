"""Triton kernels in Triton's interpreter, against NumPy and torch, bit for bit.

Triton decides when it is imported whether it interprets, so the kernels run in a process of their own, in
kernel_worker.py.
A torch without GPUs brings no Triton: what is left to test there is that the package says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask import kernels
from iterand_compress.compress.mask.kernels import LayerTable, available
from iterand_compress.compress.mask.topk import select
from iterand_compress.compress.seed.codebooks import CODEBOOKS, get_codebook, random_codes
from iterand_compress.compress.seed.philox import KNOWN_ANSWERS, Purpose, random_words

CPU = torch.device("cpu")
INFINITY = np.float32(np.inf)


def test_without_triton_or_interpreter_nothing_is_available(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not available(CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available(CPU) == (importlib.util.find_spec("triton") is not None)
    monkeypatch.setattr(kernels.layer_table, "find_spec", lambda name: None)
    assert not available(CPU)
    assert not available(torch.device("cuda"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], "signed"), "layer sizes: expected numbers from 1"),
        (([3, 0], "signed"), "layer sizes: expected numbers from 1"),
        (([2**31], "signed"), "layer sizes: expected numbers from 1"),
        (([3], "largest"), "selection: expected signed, magnitude or invert, got 'largest'"),
    ],
)
def test_impossible_tables_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LayerTable(*arguments, CPU)


def test_impossible_blocks_and_kernels_are_refused():
    for block, tile in ((64, 48), (64, 8), (32, 64), (100, 64), (2**15, 64)):
        with pytest.raises(ConfigError, match="tile and block: expected a power of 2"):
            LayerTable([3], "signed", CPU, block=block, tile=tile)
    with pytest.raises(ConfigError, match=r"kernels: expected channels × positions to divide 20, got \(3, 9\)"):
        LayerTable([20], "signed", CPU, kernels=[(3, 9)])


def interpreted() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    warnings.simplefilter("error")
    # Interpreters of Triton before 3.3, with today's NumPy.
    warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0", DeprecationWarning)


def triton_is_imported() -> bool:
    """After this file, and with it the package, was imported."""
    return "triton" in sys.modules


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module("kernel_worker"), name)(*args, **kwargs)


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    """Calls a function of kernel_worker in the process with the interpreter."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=interpreted) as pool:
        assert not pool.submit(triton_is_imported).result(timeout=300)  # only who launches a kernel needs it
        yield lambda *args, **kwargs: pool.submit(call, *args, **kwargs).result(timeout=300)


def keys_of(scores: np.ndarray, selection: str, fixed: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    keys = scores.copy() if selection == "signed" else np.abs(scores)
    if fixed is not None:
        keys[fixed[0]] = -INFINITY
        keys[fixed[1]] = INFINITY
    return keys


def check(found: dict[str, Any], scores: list, kept: list[int], selection: str, fixed: list | None = None) -> None:
    """Masks, thresholds and counts against a stable sort."""
    assert found["proven"].all()
    for index, (score, k) in enumerate(zip(scores, kept, strict=True)):
        keys = keys_of(score, selection, fixed[index] if fixed else None)
        expected = np.zeros(len(keys), bool)
        expected[np.argsort(-keys, kind="stable")[:k]] = True
        np.testing.assert_array_equal(found["masks"][index], expected)
        threshold, last = found["thresholds"][index], found["last"][index]
        by_cut = (keys > threshold) | ((keys == threshold) & (np.arange(len(keys)) <= last))
        np.testing.assert_array_equal(by_cut, expected)
        if k:
            assert threshold == np.sort(keys)[len(keys) - k]
            assert found["above"][index] == (keys > threshold).sum()
            assert found["equal"][index] == (keys == threshold).sum()


DENORMAL = np.float32(1e-45)
VALUES = {
    "random": lambda rng, n: rng.standard_normal(n, dtype=np.float32),
    "few values": lambda rng, n: rng.choice(np.array([-1.5, -0.0, 0.0, 0.25, 2.0], np.float32), n),
    "all equal": lambda rng, n: np.full(n, rng.choice([-2.5, 0.0, 3.0]), np.float32),
    "zeros of both signs": lambda rng, n: np.where(rng.random(n) < 0.5, np.float32(-0.0), np.float32(0.0)),
    "denormals": lambda rng, n: rng.integers(-9, 10, n).astype(np.float32) * DENORMAL,
    "24 bits": lambda rng, n: rng.integers(-(2**23), 2**23, n).astype(np.float32) * np.float32(2.0**-23 * 0.1),
    "every magnitude": lambda rng, n: (
        rng.integers(0, 0x7F800000, n) | rng.integers(0, 2, n) << 31
    ).astype(np.uint32).view(np.float32),
    "infinities": lambda rng, n: rng.choice(np.array([-np.inf, 1, np.inf], np.float32), n),
}  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3),
    sizes=st.lists(st.sampled_from([1, 2, 127, 128, 256, 300]), min_size=3, max_size=3),
    selection=st.sampled_from(["signed", "magnitude", "invert"]),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_cuts_equal_a_stable_sort(worker, kinds, sizes, selection, masked, seed):
    rng = np.random.default_rng(seed)
    sizes = sizes[: len(kinds)]
    fixed = [tuple(rng.random((2, n)) < 0.2) if rng.random() < 0.7 else None for n in sizes] if masked else None
    calls = []
    for change in (0.0, 1e-3, 1e20):  # a cold start, a guess that is nearly right, and one that is far off
        if not calls or change > 1:
            with np.errstate(over="ignore"):
                scores = [VALUES[kind](rng, n) * np.float32(1 + change) for kind, n in zip(kinds, sizes, strict=True)]
        else:
            scores = [score + np.float32(change) * rng.standard_normal(len(score), np.float32) for score in scores]
        scores = [np.nan_to_num(score, nan=1.0, posinf=np.inf, neginf=-np.inf) for score in scores]
        kept = [int(rng.choice([0, 1, n, n // 2, rng.integers(0, n + 1)])) for n in sizes]
        calls.append((scores, [min(k, n) for k, n in zip(kept, sizes, strict=True)]))
    for found, (scores, kept) in zip(worker("search", calls, selection, fixed), calls, strict=True):
        check(found, scores, kept, selection, fixed)


@pytest.mark.parametrize("selection", ["signed", "magnitude"])
def test_long_layers_in_blocks_as_on_a_gpu(worker, selection):
    rng = np.random.default_rng(5)
    sizes = [40_001, 1, 16_384, 20_000]
    scores = [VALUES["24 bits"](rng, n) for n in sizes]
    scores[3] = np.round(scores[3], 3)  # hundreds of ties in each of its blocks
    calls = []
    for _ in range(2):
        calls.append(([score.copy() for score in scores], [16_000, 1, 6_000, 12_345]))
        scores = [score + np.float32(1e-4) * rng.standard_normal(len(score), np.float32) for score in scores]
        scores[3] = np.round(scores[3], 3)
    results = worker("search", calls, selection, None, {"block": 16_384, "tile": 4096})
    assert results[0]["equal"][3] > 50
    for found, (arrays, kept) in zip(results, calls, strict=True):
        check(found, arrays, kept, selection)
        for array, k, mask in zip(arrays, kept, found["masks"], strict=True):
            np.testing.assert_array_equal(mask, select(torch.from_numpy(array), k, selection).numpy())


def test_ties_over_more_blocks_than_are_counted_at_a_time(worker):
    scores = np.zeros(16 * 30, np.float32)
    scores[5] = 1.0
    calls = [([scores], [kept]) for kept in (16 * 19 + 3, 16 * 24, 16 * 24 + 1)]
    results = worker("search", calls, "signed", None, {"block": 16, "tile": 16}, chunk=8)
    for found, (_, (kept,)) in zip(results, calls, strict=True):
        check(found, [scores], [kept], "signed")
        assert found["last"].tolist() == [kept - 1]


def test_every_distance_between_guess_and_threshold(worker):
    # From one representable number to all of them apart, upwards and downwards: each window is hit, and missed.
    steps = [0, 1, -1, 1023, -1024, 2048, -(2**20), 2**21, 2**24, -(2**26), 2**27]
    places = 0x80000000 + 0x3F800000 + np.cumsum(steps)
    base = np.random.default_rng(2).integers(-40, 41, 100)
    calls = []
    for place in places:
        keys = np.uint32(place) + base.astype(np.uint32)
        calls.append(([(keys ^ np.uint32(0x80000000)).view(np.float32)], [37]))
    for found, (scores, kept) in zip(worker("search", calls, "signed"), calls, strict=True):
        check(found, scores, kept, "signed")


def test_thresholds_just_inside_and_outside_of_the_window(worker):
    # The second window reaches 2**21 keys down from the first threshold; a move by m widens the next ones to 4 m.
    place, calls = 0xC0000000, []
    for move in (0, -(2**21) - 1, 2**24, -(2**27), 2**30 - 1):
        place += move
        keys = np.uint32(place) + np.array([-1, 0, 0, 1, 2, -2, 0], np.int64)
        calls.append(([(keys.astype(np.uint32) ^ np.uint32(0x80000000)).view(np.float32)], [4]))
    for found, (scores, kept) in zip(worker("search", calls, "signed"), calls, strict=True):
        check(found, scores, kept, "signed")


def test_not_a_number_does_no_harm(worker):
    scores = np.where(np.arange(150) % 3 == 0, np.float32(np.nan), np.float32(1.0))
    scores[::2] *= -1
    (found,) = worker("search", [([scores], [70])], "signed")
    assert found["masks"][0].sum() == 70
    assert -1 <= found["last"][0] < 150


def make_layers(rng: np.random.Generator) -> tuple[list, list[int], list, np.ndarray, list[tuple[int, int]]]:
    kernels = [(3, 9), (5, 1), (1, 49), (7, 4)]
    sizes = [4 * 27, 6 * 5, 2 * 49, 10 * 28]
    scores = [rng.standard_normal(n, dtype=np.float32) for n in sizes]
    scores[1] = np.round(scores[1])
    codes = [rng.choice(get_codebook("uniform").entries, n) for n in sizes]
    codes[0][:] = np.where(codes[0] < 0, -1, 1)
    units = rng.random(4, dtype=np.float32) + np.float32(1e-3)
    units[0] = 1 + 3 / 256  # half-way between two bfloat16
    return scores, [n * 2 // 5 for n in sizes], codes, units, kernels


@pytest.mark.parametrize("selection", ["signed", "magnitude", "invert"])
def test_masked_weights_have_the_bits_of_torch(worker, selection):
    scores, kept, codes, units, kernels = make_layers(np.random.default_rng(1))
    scores[2][:2], kept[2] = [0.0, -0.0], len(scores[2])  # neither inverts
    found = worker("weights", scores, kept, codes, units, selection, kernels)
    for index, (channels, positions) in enumerate(kernels):
        mask = select(torch.from_numpy(scores[index]), kept[index], selection)
        signs = np.where(scores[index] < 0, -1, 1) if selection == "invert" else 1
        full = torch.where(mask, torch.from_numpy(codes[index] * signs).float() * float(units[index]), 0.0)
        for dtype, bits in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16)):
            expected = full.to(dtype)
            np.testing.assert_array_equal(found[str(dtype), False][index], expected.view(bits).numpy())
            last = expected.view(-1, channels, positions).transpose(1, 2).reshape(-1)
            np.testing.assert_array_equal(found[str(dtype), True][index], last.view(bits).numpy())
        assert (found["torch.float32", False][index] == 0).sum() == len(scores[index]) - kept[index]  # +0, never -0


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [False, True])
def test_score_gradients_have_the_bits_of_torch(worker, magnitude, dtype, channels_last):
    rng = np.random.default_rng(3)
    scores, _, codes, units, kernels = make_layers(rng)
    score, code, unit, (channels, positions) = scores[3], codes[3], float(units[3]), kernels[3]
    score[:8] = [0.0, -0.0, 1e-45, -1e-45, 1, -1, np.inf, -np.inf]
    grad = torch.from_numpy(rng.standard_normal(len(score), dtype=np.float32)).to(dtype)
    grad[:6] = torch.tensor([1e-40, -1.0, 0.0, -0.0, 1e30, 1e-30])
    expected = grad.float() * (torch.from_numpy(code).float() * unit)
    if magnitude:
        expected = expected * torch.from_numpy(score).sign()
    given_grad = grad.view(-1, channels, positions).transpose(1, 2).reshape(-1) if channels_last else grad
    bits = given_grad.contiguous().view(torch.int16 if dtype == torch.bfloat16 else torch.int32).numpy()
    found = worker(
        "gradient", bits, dtype == torch.bfloat16, code, unit, score if magnitude else None,
        (channels, positions) if channels_last else None,
    )  # fmt: skip
    np.testing.assert_array_equal(found.view(np.int32), expected.view(torch.int32).numpy())


def resampled(
    codes: list, draws: list, pruned: list, seed: int, tensors: list[int], book: str, events: list[int], chance: int,
    cycle: int,
) -> tuple[list, list]:  # fmt: skip
    """IteRand by the NumPy generator alone."""
    codes, draws = [code.copy() for code in codes], [draw.copy() for draw in draws]
    for code, draw, free, tensor in zip(codes, draws, pruned, tensors, strict=True):
        for event in events:
            words = random_words(seed, -(-len(free) // 2), draw=event, tensor=tensor, purpose=Purpose.RESAMPLING)
            halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)[: len(free)]
            chosen = free & (halves < chance)
            draw[chosen] = (draw[chosen].astype(np.int64) + 1) % cycle
            code[chosen] = random_codes(seed, tensor, get_codebook(book), 0, len(free), draw)[chosen]
    return codes, draws


@pytest.mark.parametrize(
    ("seed", "book", "chance", "cycle"),
    [
        (0, "signed-constant", 6554, 2),
        (1, "uniform", 65536, 256),
        (2**63 + 5, "normal", 30000, 3),
        (2**64 - 1, "uniform", 0, 7),
        (0xFFFFFFFF, "normal", 65535, 1),
    ],
)
def test_resampling_has_the_bits_of_numpy(worker, seed, book, chance, cycle):
    rng = np.random.default_rng(4)
    sizes, tensors, events = [200, 1, 77], [0, 5, 2**20], [1, 2, 300]
    scores = [np.round(rng.standard_normal(n, dtype=np.float32), 1) for n in sizes]
    kept = [80, 0, 30]
    draws = [rng.integers(0, cycle, n).astype(np.uint8) for n in sizes]
    draws[0][:5] = cycle - 1
    codes = [
        random_codes(seed, tensor, CODEBOOKS[book], 0, n, draw)
        for tensor, n, draw in zip(tensors, sizes, draws, strict=True)
    ]
    pruned = [~select(torch.from_numpy(s), k, "signed").numpy() for s, k in zip(scores, kept, strict=True)]
    rule = {"seed": seed, "tensors": tensors, "chance": chance, "cycle": cycle}
    entries = get_codebook(book).entries
    got_codes, got_draws = worker("redraw", scores, kept, codes, draws, events, book=entries, **rule)
    want_codes, want_draws = resampled(codes, draws, pruned, book=book, events=events, **rule)
    for got, want in zip(got_codes + got_draws, want_codes + want_draws, strict=True):
        np.testing.assert_array_equal(got, want)
    assert any((got != before).any() for got, before in zip(got_draws, draws, strict=True)) == (
        chance > 0 and cycle > 1
    )


@pytest.mark.parametrize(("counter", "seed", "expected"), KNOWN_ANSWERS)
def test_known_answers_of_random123(worker, counter, seed, expected):
    first, other = worker("philox_of", [list(counter), [7, 7, 7, 7]], seed & 0xFFFFFFFF, seed >> 32)
    assert first == list(expected)
    assert other != first


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("count", "scores: expected 2 tensors, got 1"),
        ("dtype", "scores of layer 1: expected a contiguous torch.float32 of 6 elements, got torch.float64"),
        ("strides", "scores of layer 1: expected a contiguous torch.float32 of 6 elements, got torch.float32"),
        ("gradient", "grad: expected 6 contiguous elements, got shape (3, 2), strides (1, 3)"),
        ("out", "out: expected 128 aligned torch.float32, got 3 torch.float32"),
        ("cycle", "resampling: impossible: chance 1, cycle 257, event 1"),
    ],
)
def test_wrong_inputs_are_refused(worker, what, message):
    assert message in worker("refused", what)


def test_the_interpreter_counts_as_available(worker):
    assert worker("is_available")


if importlib.util.find_spec("triton") is None:
    for name in [name for name in globals() if name.startswith("test_")]:
        if "worker" in inspect.signature(globals()[name]).parameters or hasattr(globals()[name], "hypothesis"):
            del globals()[name]
