"""Recycled weights, frozen masks, coats and trained values: round trips, refusals, and every way to the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.make import FOLDER, GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import expected_weights, frozen_numbers, networks_of_every_kind, values
from safetensors.numpy import load_file

from conftest import succeed
from iterand_compress.compress.analysis.compare import compare
from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.recover import recover_on_device
from iterand_compress.compress.seed.codebooks import CODEBOOKS, get_codebook
from iterand_compress.compress.seed.frozen import Frozen, frozen_masks
from iterand_compress.compress.seed.philox import Purpose, random_bytes
from iterand_compress.compress.seed.philox_torch import _units
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    Trained,
    dumps,
    loads,
    quantise,
    read_seedmask,
    write_seedmask,
)

CODINGS = st.sampled_from(["auto", "raw", "rans"])
ONES = np.ones(40, np.bool_)


def masked(codebook: str = "normal", mask: np.ndarray = ONES, **fields: Any) -> MaskedTensor:
    return MaskedTensor("w", (len(mask),), codebook, np.float32(0.5), mask, **fields)


def packed(tensor: MaskedTensor, seed: int = 7) -> Any:
    return loads(dumps(Network(seed=seed, tensors=(tensor,))))


# ---- Round trips


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(networks_of_every_kind(), CODINGS)
def test_round_trip(network: Network, coding: str) -> None:
    data = dumps(network, coding=coding)
    seedmask, expected = loads(data), expected_weights(network)
    weights = seedmask.weights()
    assert {name: array.tobytes() for name, array in weights.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    back = seedmask.network()
    assert dumps(back, coding=coding) == data
    assert dumps(seedmask.lazy_network(), coding=coding) == data
    assert expected_weights(back)["layer0"].tobytes() == expected["layer0"].tobytes()
    features = set(seedmask.manifest.required_features)
    for before, after, entry in zip(network.tensors, back.tensors, seedmask.tensors, strict=True):
        assert before.frozen == after.frozen
        assert np.array_equal(before.mask, seedmask.mask(before.name))
        if before.multiplicity is not None:
            coats = before.multiplicity[before.mask]
            assert (entry.coats is None) == (coats.max(initial=1) == 1)
            assert np.array_equal(
                coats, after.multiplicity[before.mask] if after.multiplicity is not None else np.ones_like(coats)
            )
        if before.trained is None:
            codes = seedmask.codes(before.name)
            assert np.array_equal(codes != 0, before.mask.reshape(before.shape)), "0 = pruned, and only that"
            assert np.array_equal(codes.astype(np.float32) * before.scale, weights[before.name])
        else:
            assert after.trained is not None
            assert after.trained.values.tobytes() == before.trained.values.tobytes()
    assert ("frozen" in features) == any(tensor.frozen is not None for tensor in network.tensors)
    assert ("values" in features) == any(tensor.trained is not None for tensor in network.tensors)
    assert ("coats" in features) == any(tensor.multiplicity is not None for tensor in back.tensors)
    assert ("deltas" in features) == any(tensor.current is not None for tensor in back.tensors)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(networks_of_every_kind())
def test_torch_recovers_the_same_bits(network: Network) -> None:
    seedmask = loads(dumps(network))
    found = recover_on_device(seedmask, "cpu")
    for name, weights in expected_weights(network).items():
        assert found[name].numpy().tobytes() == weights.tobytes(), name


@pytest.mark.parametrize("coding", ["auto", "raw"])
def test_tensors_of_several_chunks(coding: str, tmp_path: Path) -> None:
    """More weights than are recovered at a time, of every kind; the last chunk ends inside a byte."""
    rng, count, seed = np.random.default_rng(0), 300_007, 12
    mask, thresholds = rng.random(count) < 0.4, Frozen(20000, 9000)
    fixed = frozen_masks(seed, 1, thresholds, count)
    recycled = np.roll(random_bytes(seed, 0, count, draw=0, tensor=0), 5)
    coats = rng.integers(1, 5, count).astype(np.uint8)
    weights = rng.standard_normal(count - 7).astype(np.float32)
    shape, few = (100, (count - 7) // 100), mask[: count - 7]
    tensors = [
        MaskedTensor("current", (count,), "normal", np.float32(0.1), mask, current=recycled),
        MaskedTensor("frozen", (count,), "uniform", np.float32(0.1), mask & ~fixed[0] | fixed[1], frozen=thresholds),
        MaskedTensor("coats", (count,), "signed-constant", np.float32(0.1), mask, coats % 3, multiplicity=coats),
    ]
    for dtype in ("float32", "float16", "int8"):
        own = quantise(weights, few, shape, dtype)
        tensors.append(MaskedTensor(dtype, shape, "normal", np.float32(0.1), few, trained=own))
    path = tmp_path / "net.seedmask"
    write_seedmask(Network(seed=seed, tensors=tuple(tensors)), path, coding=coding)
    found = read_seedmask(path).weights()
    codes = get_codebook("normal").entries[recycled].astype(np.float32) * np.float32(0.1)
    assert np.array_equal(found["current"], np.where(mask, codes, np.float32(0)))
    assert np.array_equal(found["frozen"] != 0, tensors[1].mask)
    book = get_codebook("signed-constant")
    for i in (0, 1, 131_071, 131_072, 262_143, 262_144, 300_006):
        raw = random_bytes(seed, i, i + 1, draw=int(coats[i] % 3), tensor=2)
        weight = np.float32(int(book.entries[raw[0]]) * int(coats[i])) * np.float32(0.1)
        assert found["coats"][i] == (weight if mask[i] else 0)
    assert np.array_equal(found["float32"].ravel(), np.where(few, weights, np.float32(0)))
    halves = weights.astype(np.float16).astype(np.float32)
    assert np.array_equal(found["float16"].ravel(), np.where(few, halves, np.float32(0)))
    assert np.abs(found["int8"].ravel() - weights)[few].max() < 0.02
    assert json.loads(succeed("verify", path, "--deep", "--json"))["coding"] == coding


def test_absent_fields_leave_the_bytes_as_they_were() -> None:
    """Each extension with nothing in it: the same file as without it."""
    plain = dumps(Network(seed=7, tensors=(masked(),)))
    own = random_bytes(7, 0, 40, draw=0, tensor=0)
    assert dumps(Network(seed=7, tensors=(masked(current=own),))) == plain
    assert dumps(Network(seed=7, tensors=(masked(current=own ^ 0),))) == plain
    signs = dumps(Network(seed=7, tensors=(masked("signed-constant"),)))
    once = np.ones(40, np.uint8)
    assert dumps(Network(seed=7, tensors=(masked("signed-constant", multiplicity=once),))) == signs
    assert dumps(Network(seed=7, tensors=(masked("signed-constant", current=own | 1),))) == signs, "the same signs"
    for text in (b"coats", b"frozen", b"values", b"deltas", b'null,\\"kept'):
        assert text not in plain


def test_numbers_of_pruned_weights_change_nothing() -> None:
    mask = np.arange(40) % 2 == 0
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (2, 40)).astype(np.uint8)
    for codebook, field, least in (("normal", "current", 0), ("signed-constant", "multiplicity", 1)):
        found = []
        for row in noise:
            numbers = np.where(mask, np.uint8(3), np.maximum(row, least)).astype(np.uint8)
            if field == "multiplicity":
                numbers[1] = 0
            found.append(dumps(Network(seed=7, tensors=(masked(codebook, mask, **{field: numbers}),))))
        assert found[0] == found[1]


# ---- Deltas


@pytest.mark.parametrize("codebook", sorted(CODEBOOKS))
def test_deltas_are_the_smallest(codebook: str) -> None:
    """Against a search through all 256."""
    rng = np.random.default_rng(1)
    current = rng.integers(0, 256, 5000).astype(np.uint8)
    mask = rng.random(5000) < 0.7
    seedmask = packed(masked(codebook, mask, current=current))
    log, book = seedmask.log("w"), get_codebook(codebook)
    own = random_bytes(7, 0, 5000, draw=0, tensor=0)
    if book.two_valued:
        assert log.kind == "flips"
        assert log.values.tolist() == (book.entries[own] != book.entries[current])[mask].astype(int).tolist()
        return
    expected = [
        next(d for d in range(256) if book.entries[byte ^ d] == book.entries[now])
        for byte, now in zip(own[mask], current[mask], strict=True)
    ]
    assert (log.kind, log.row.width) == ("deltas", max(expected).bit_length())
    assert log.values.tolist() == expected


def test_recycled_weights_come_back_as_bytes_of_the_same_codes() -> None:
    current = np.random.default_rng(2).integers(0, 256, 40).astype(np.uint8)
    back = packed(masked("uniform", current=current)).network().tensors[0]
    assert back.draws is None
    own = random_bytes(7, 0, 40, draw=0, tensor=0)
    assert back.current.tolist() == (current // 2 * 2 + own % 2).tolist(), "no code depends on the last bit"


# ---- Frozen masks


@pytest.mark.parametrize(("seed", "tensor", "count"), [(0, 0, 1), (2**64 - 1, 3, 17), (12345, 2**20, 1000)])
def test_frozen_masks_are_those_of_the_specification(seed: int, tensor: int, count: int) -> None:
    numbers = frozen_numbers(seed, tensor, count)
    first = int(numbers[0])  # of which one less and one more are on both sides of each threshold
    borders = [(first + i, 1) for i in (-1, 0, 1)] + [(0, first + i) for i in (0, 1)]
    for pruned, kept in ((0, 1), (20000, 30000), (65535, 1), (1, 65535), (32768, 0), *borders):
        masks = frozen_masks(seed, tensor, Frozen(pruned, kept), count)
        assert masks[0].dtype == masks[1].dtype == np.bool_
        assert np.array_equal(masks[0], numbers < pruned)
        assert np.array_equal(masks[1], (pruned <= numbers) & (numbers < pruned + kept))


def test_frozen_masks_have_the_units_of_resampling() -> None:
    """Across chunks: the layout that training uses, on torch."""
    count = 200_003
    about: Any = {"draw": 0, "tensor": 5, "purpose": Purpose.FREEZING, "device": torch.device("cpu")}
    numbers = np.concatenate([part.numpy() for _, part in _units(9, count, 16, **about)])
    pruned, kept = frozen_masks(9, 5, Frozen(30000, 5000), count)
    assert np.array_equal(pruned, numbers < 30000)
    assert np.array_equal(kept, (numbers >= 30000) & (numbers < 35000))
    assert pruned.mean() == pytest.approx(30000 / 65536, abs=0.005)


def test_only_free_bits_are_stored() -> None:
    thresholds = Frozen(30000, 20000)
    pruned, kept = frozen_masks(7, 0, thresholds, 40)
    mask = kept | (~pruned & (np.arange(40) % 2 == 0))
    seedmask = packed(masked(mask=mask, frozen=thresholds))
    free = ~pruned & ~kept
    entry = seedmask.tensors[0]
    assert entry.frozen is not None
    assert entry.frozen.free == free.sum() < 20
    assert entry.mask.bytes == -(-int(free.sum()) // 8)
    assert np.array_equal(seedmask.mask("w"), mask)


@pytest.mark.parametrize("keep", [True, False])
def test_a_mask_that_disagrees_is_refused_and_the_weight_named(keep: bool) -> None:
    thresholds = Frozen(30000, 20000)
    pruned, kept = frozen_masks(7, 0, thresholds, 40)
    index = int((pruned if keep else kept).argmax())
    mask = kept.copy()
    mask[index] = keep
    said = f"one that {'keeps' if keep else 'prunes'} weight {index}, which seed 7 and tensor index 0 fix to"
    with pytest.raises(SeedMaskError, match=f"tensor 'w': expected a mask that agrees with frozen weights, got {said}"):
        packed(masked(mask=mask, frozen=thresholds))


@pytest.mark.parametrize(("pruned", "kept"), [(0, 0), (-1, 5), (5, -1), (65536, 0), (0, 65536), (32768, 32769)])
def test_thresholds_that_cannot_be(pruned: int, kept: int) -> None:
    with pytest.raises(SeedMaskError, match=rf"frozen: expected thresholds .*, got {pruned} and {kept}$"):
        Frozen(pruned, kept)


def test_more_weights_than_there_are_numbers() -> None:
    with pytest.raises(SeedMaskError, match=r"frozen: expected at most 2\*\*35 weights, got 34359738369"):
        frozen_masks(0, 0, Frozen(1, 1), 2**35 + 1)


# ---- What does not fit together


def several(largest: int) -> np.ndarray:
    return np.full(40, largest, np.uint8)


FLOATS = Trained("F32", np.zeros(40, np.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masked(draws=several(1), current=several(1)), "expected draws or current, got both"),
        (lambda: masked(current=np.zeros(3, np.uint8)), r"expected current as uint8 of shape \[40\]"),
        (lambda: masked("signed-constant", multiplicity=several(1).astype(int)), "expected multiplicity as uint8"),
        (lambda: masked("normal", multiplicity=several(2)), "expected multiplicity with a two-valued codebook only"),
        (lambda: masked("signed-constant", multiplicity=several(128)), "expected multiplicity from .*got 128 to 128"),
        (lambda: masked("signed-constant", multiplicity=several(0)), "expected multiplicity from .*got 0 to 0"),
        (
            lambda: replace(masked("signed-constant", multiplicity=several(2)), scale=np.float32(1e38)),
            "expected a positive, finite, normal float32 as scale, got 9.99",
        ),
        (lambda: masked(draws=several(1), trained=FLOATS), "expected no draws beside trained values"),
        (lambda: masked(current=several(1), trained=FLOATS), "expected no current beside trained values"),
        (
            lambda: masked("signed-constant", multiplicity=several(1), trained=FLOATS),
            "expected no multiplicity beside trained values",
        ),
        (
            lambda: masked(mask=np.arange(40) < 39, trained=FLOATS),
            "expected a value for each of 39 kept weights, got 40",
        ),
        (
            lambda: masked(trained=Trained("I8", np.zeros(40, np.int8), np.ones(3, np.float32))),
            "expected 40 scales, one for each index of the first dimension, got 3",
        ),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit(make: Callable[[], MaskedTensor], message: str) -> None:
    with pytest.raises(SeedMaskError, match=f"tensor 'w': {message}"):
        make()


@pytest.mark.parametrize(
    ("dtype", "found", "scales", "message"),
    [
        ("F64", np.zeros(2), None, "values: unknown dtype 'F64'; known: F32, F16, I8"),
        ("F32", np.zeros(2), None, "values: expected float32 of one dimension for F32, got float64"),
        ("F16", np.zeros((2, 2), np.float16), None, r"values: expected float16 .*, got float16 of shape \[2, 2\]"),
        ("F32", np.array([0, np.nan], np.float32), None, "values: expected finite numbers, got nan at 1"),
        ("F16", np.array([-np.inf], np.float16), None, "values: expected finite numbers, got -inf at 0"),
        ("F32", np.zeros(2, np.float32), np.ones(1, np.float32), "scales for I8 and for nothing else, got F32"),
        ("I8", np.zeros(2, np.int8), None, "expected scales for I8 and for nothing else, got I8"),
        ("I8", np.array([1, -128], np.int8), np.ones(1, np.float32), "integers from -127 to 127, got -128 at 1"),
        ("I8", np.zeros(2, np.int8), np.ones(1), "scales: expected float32 of one dimension, got float64"),
        *(
            ("I8", np.zeros(1, np.int8), np.array([1, scale], np.float32), rf"scales: .*, got {text}.* at 1")
            for scale, text in ((0, 0.0), (-1, -1.0), (np.nan, "nan"), (np.inf, "inf"), (1e-39, "1.00"), (1e37, "9.99"))
        ),
    ],
)  # fmt: skip
def test_values_that_cannot_be(dtype: str, found: Any, scales: Any, message: str) -> None:
    with pytest.raises(SeedMaskError, match=message):
        Trained(dtype, found, scales)


# ---- Trained values


def test_float16_rounds_to_nearest_and_refuses_what_is_too_large() -> None:
    weights = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 1e-7, -65519, 1e9])
    mask = np.array([True, True, True, True, False])
    found = quantise(weights, mask, (5,), "float16")
    assert found.values.tolist() == [1, 1 + 2**-9, 2**-23, -65504], "ties to even; the smallest are subnormal"
    assert found.largest_error(weights, mask) == 15
    with pytest.raises(SeedMaskError, match=r"that float16 can hold, got 65520.0 at index 2; store .* float32 or int8"):
        quantise(np.float32([9e9, 1, 65520]), np.array([False, True, True]), (3,), "float16")


def test_int8_has_a_scale_for_each_row() -> None:
    weights = np.float32(
        [[1.27, 0.5, -0.006], [0, 0, 9], [-2.54, 0.01, 0.03], [3e38, -3.4e38, 1e30], [1e-44, 0, -1e-38]]
    )
    mask = np.ones((5, 3), np.bool_)
    mask[1, 2] = False
    found = quantise(weights.ravel(), mask.ravel(), (5, 3), "int8")
    assert found.scales is not None
    assert found.scales.dtype == np.float32
    assert found.scales[:3].tolist() == [np.float32(np.float32(1.27) / 127.0), 1, np.float32(np.float32(2.54) / 127.0)]
    assert found.scales[4] == np.float32(2**-126), "no smaller: products must not be subnormal"
    assert found.values.tolist() == [127, 50, -1, 0, 0, -127, 0, 2, 112, -127, 0, 0, 0, -1]
    assert found.scales[2] * np.float32(127) == np.float32(2.54)
    largest = np.finfo(np.float32).max
    edge = quantise(np.float32([largest, -largest]), np.ones(2, np.bool_), (1, 2), "int8")
    assert edge.values.tolist() == [127, -127]
    assert np.isfinite(edge.scales * np.float32(127)).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([(), (1,), (7,), (3, 5), (4, 2, 3)]), st.floats(-30, 30))
def test_int8_is_off_by_half_a_step_at_most(seed: int, shape: tuple[int, ...], size: float) -> None:
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=int))
    weights = (rng.standard_normal(count) * 2.0**size).astype(np.float32)
    mask = rng.random(count) < 0.7
    found = quantise(weights, mask, shape, "int8")
    assert found.scales is not None
    tensor = MaskedTensor("w", shape, "normal", np.float32(1), mask, trained=found)
    back = packed(tensor).weight("w").ravel()
    steps = np.repeat(found.scales.astype(np.float64), count // len(found.scales))
    errors = np.abs(back.astype(np.float64) - weights)
    assert (errors <= steps * (0.5 + 1e-4))[mask].all()
    assert found.largest_error(weights, mask) == errors[mask].max(initial=0)
    rows = [mask.reshape(len(found.scales), -1)[row].any() for row in range(len(found.scales))]
    assert all((scale == 1) or kept for scale, kept in zip(found.scales, rows, strict=True))


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(ConfigError, match=r"values: unknown dtype 'float61'.*float16"):
        quantise(np.zeros(1, np.float32), np.ones(1, np.bool_), (1,), "float61")
    for dtype in ("float32", "float16", "int8"):
        with pytest.raises(SeedMaskError, match="weights: expected finite numbers, got nan at 1"):
            quantise(np.float32([1, np.nan, 1]), np.ones(3, np.bool_), (3,), dtype)
        assert quantise(np.float32([1, np.nan]), np.array([True, False]), (2,), dtype).values.shape == (1,)


def test_trained_tensors_have_no_codes() -> None:
    seedmask = packed(masked(trained=FLOATS))
    with pytest.raises(SeedMaskError, match="tensor 'w': its values were trained, so they are not codes"):
        seedmask.codes("w")
    assert seedmask.log("w").kind == "none"


# ---- Reports and commands


def every_kind() -> Network:
    rng, count = np.random.default_rng(5), 4000
    mask, thresholds = rng.random(count) < 0.4, Frozen(16384, 8192)
    fixed = frozen_masks(1, 0, thresholds, count)
    signs, shape = "signed-constant", (40, 100)
    coats = rng.integers(1, 4, count).astype(np.uint8)
    return Network(
        seed=1,
        tensors=(
            MaskedTensor("frozen", shape, signs, np.float32(1), mask & ~fixed[0] | fixed[1], frozen=thresholds),
            MaskedTensor("coats", shape, signs, np.float32(1), mask, multiplicity=coats),
            MaskedTensor("recycled", shape, "uniform", np.float32(1), mask, current=coats),
            MaskedTensor("int8", shape, "uniform", np.float32(1), mask, trained=values(rng, "I8", mask.sum(), shape)),
            MaskedTensor("half", shape, "uniform", np.float32(1), mask, trained=values(rng, "F16", mask.sum(), shape)),
        ),
    )


def test_reports_count_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "net.seedmask"
    report = write_seedmask(every_kind(), path)
    entries = {entry.name: entry for entry in read_seedmask(path).tensors}
    coats, int8, half = entries["coats"].coats, entries["int8"].values, entries["half"].values
    assert coats is not None
    assert int8 is not None
    assert half is not None
    assert report.coat_bits == 8 * coats.bytes
    assert report.value_bits == 8 * (int8.bytes + 4 * 40 + 2 * entries["half"].kept)
    found = json.loads(succeed("inspect", path, "--json"))
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert (layers["frozen"]["frozen_pruned"], layers["frozen"]["frozen_kept"]) == (0.25, 0.125)
    assert layers["frozen"]["mask_bits_per_weight"] < 0.65 < layers["coats"]["mask_bits_per_weight"]
    assert layers["frozen"]["mask_bound"] == pytest.approx(0.971 * 0.625, abs=0.02)
    assert layers["coats"]["coats_bits_per_weight"] == 8 * coats.bytes / 4000
    assert layers["coats"]["coats_bound"] == pytest.approx(0.4 * np.log2(3), abs=0.03)
    assert layers["recycled"]["log_kind"] == "deltas"
    assert layers["int8"]["values_bits_per_weight"] == 8 * (int8.bytes + 160) / 4000
    assert layers["int8"]["values_bound"] <= layers["int8"]["values_bits_per_weight"]
    assert (layers["half"]["values_dtype"], layers["half"]["values_coding"]) == ("F16", "raw")
    stored = report.mask_bits + report.log_bits + report.coat_bits + report.value_bits
    assert found["totals"]["bits_per_weight"] == pytest.approx(stored / 20_000)
    assert path.stat().st_size - stored // 8 < 3500, "the rest is the header"
    lines = succeed("inspect", path).splitlines()
    assert lines[0].split()[4:] == [
        *("frozen", "mask", "bits", "bound", "log", "bits", "bound"),
        *("coats", "bits", "bound", "values", "bits", "bound"),
    ]
    assert lines[1].split()[4:6] == ["0.2500", "0.1250"]
    assert lines[7].startswith("mask, log, coats and values")
    assert "; frozen: shares that the seed fixes to pruned and to kept" in lines[9]


def test_columns_that_would_be_empty_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "net.seedmask"
    write_seedmask(Network(seed=1, tensors=(every_kind().tensors[1],)), path)
    lines = succeed("inspect", path).splitlines()
    assert lines[0].split()[4:] == ["mask", "bits", "bound", "log", "bits", "bound", "coats", "bits", "bound"]
    assert lines[3].startswith("mask, log and coats")


def test_recover_and_masks(tmp_path: Path) -> None:
    network = every_kind()
    path, out = tmp_path / "net.seedmask", tmp_path / "out.safetensors"
    write_seedmask(network, path)
    for more in ((), ("--device", "cpu")):
        succeed("recover", path, "--out", out, *more)
        loaded = load_file(out)
        for name, weights in expected_weights(network).items():
            assert loaded[name].tobytes() == weights.tobytes()
    succeed("recover", path, "--masks", "--out", out)
    loaded = load_file(out)
    assert all(np.array_equal(loaded[tensor.name].ravel(), tensor.mask) for tensor in network.tensors)


def test_diff_counts_kept_weights_that_are_zero() -> None:
    """A trained value may be 0, and the weight is kept all the same."""
    mask = np.arange(40) < 20
    first = packed(masked(mask=mask, trained=Trained("F32", np.zeros(20, np.float32))))
    second = packed(masked(mask=mask, trained=Trained("F32", np.arange(20, dtype=np.float32))))
    overlap = compare(first, second).layers[0].overlap
    assert (overlap.kept, overlap.in_both, overlap.equal_values, overlap.hamming) == ((20, 20), 20, 1, 0)


@pytest.mark.parametrize(
    "stem", [stem for stem in GOLDEN if stem[3:] not in ("none", "flips", "draws", "rans", "gaps")]
)
def test_golden_files_on_a_device_and_packed_again(stem: str) -> None:
    path = FOLDER / f"{stem}.seedmask"
    found, expected = recover_on_device(read_seedmask(path), "cpu"), expected_weights(GOLDEN[stem]())
    assert {name: w.numpy().tobytes() for name, w in found.items()} == {n: w.tobytes() for n, w in expected.items()}
    assert json.loads(succeed("verify", path, "--deep", "--json"))["coding"] == "auto"
