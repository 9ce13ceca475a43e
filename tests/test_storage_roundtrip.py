"""Network → bytes → network and weights; the same bytes always; readable by the safetensors library."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden.make import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import expected_weights
from safetensors import safe_open
from safetensors.numpy import load_file, save

from iterand_compress.compress.errors import IterandError, SeedMaskError
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seed.frozen import frozen_masks
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    StoredTensor,
    codings,
    dumps,
    loads,
    payloads,
    read_seedmask,
    stored,
    write_seedmask,
    write_tensors,
)
from iterand_compress.compress.seedmask.bits import Row
from iterand_compress.compress.seedmask.container import build_header

NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters="\u2028\u2029"), min_size=1, max_size=9)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    masked = draw(st.integers(1, len(names)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensors = []
    for name in names[:masked]:
        shape = tuple(draw(st.lists(st.integers(1, 7), max_size=4)))
        count = math.prod(shape)
        mask = rng.random(count) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
        limit = draw(st.sampled_from([0, 1, 2, 5, 256]))
        draws = rng.integers(0, limit, count).astype(np.uint8) if limit else None
        book = CODEBOOKS[draw(st.sampled_from(sorted(CODEBOOKS)))]
        tensors.append(MaskedTensor(name, shape, book.name, book.scale(draw(st.integers(1, 9999))), mask, draws))
    state = {}
    for name in names[masked:]:
        dtype = draw(st.sampled_from(["?", "u1", "f2", "f4", "i8"]))
        state[name] = StoredTensor.from_numpy(rng.integers(0, 2, draw(st.integers(0, 5))).astype(dtype))
    settings_ = draw(
        st.none() | st.dictionaries(NAMES, st.integers(-9, 9) | st.booleans() | NAMES | st.floats(-1e9, 1e9))
    )
    return Network(
        seed=draw(st.integers(0, 2**64 - 1)),
        tensors=tuple(tensors),
        state=state,
        architecture=settings_,
        classes=draw(st.none() | st.lists(NAMES, max_size=3)),
        recipe=None if settings_ is None else {"section": settings_, "list": [None, settings_]},
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(networks())
def test_round_trip(network: Network) -> None:
    data = dumps(network)
    seedmask = loads(data)
    expected = expected_weights(network)
    weights = seedmask.weights()
    assert list(weights) == list(expected)
    for name, values in weights.items():
        assert values.dtype == np.float32
        assert values.shape == expected[name].shape
        assert values.tobytes() == expected[name].tobytes(), "bit for bit, no -0.0"
    back = seedmask.network()
    assert dumps(back) == data, "packing again gives the same bytes"
    assert (back.seed, back.architecture, back.classes, back.recipe) == (
        network.seed, network.architecture, network.classes, network.recipe,
    )  # fmt: skip
    for before, after in zip(network.tensors, back.tensors, strict=True):
        assert np.array_equal(before.mask, after.mask)
        assert np.array_equal(before.mask, seedmask.mask(before.name))
        assert (before.scale, before.codebook, before.shape) == (after.scale, after.codebook, after.shape)
        codes = seedmask.codes(before.name)
        assert np.array_equal(codes != 0, before.mask.reshape(before.shape)), "0 = pruned, and only that"
        assert np.array_equal(codes.astype(np.float32) * before.scale, weights[before.name])
    state = seedmask.state()
    assert {name: (t.dtype, t.shape, t.data.tobytes()) for name, t in state.items()} == {
        name: (t.dtype, t.shape, t.data.tobytes()) for name, t in network.state.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("codebook", sorted(CODEBOOKS))
@pytest.mark.parametrize("redrawn", [False, True])
def test_tensors_of_several_chunks(codebook: str, redrawn: bool) -> None:
    rng = np.random.default_rng(0)
    tensors = []
    for i, count in enumerate((200_001, 65_536, 65_537, 7)):
        draws = rng.geometric(0.5, count).astype(np.uint8) - np.uint8(1) if redrawn else None
        tensors.append(MaskedTensor(str(i), (count,), codebook, np.float32(0.1), rng.random(count) < 0.4, draws))
    network = Network(seed=99, tensors=tuple(tensors))
    seedmask = loads(dumps(network))
    for name, values in expected_weights(network).items():
        assert np.array_equal(seedmask.weights()[name], values)
    assert dumps(seedmask.network()) == dumps(network)


def test_draws_of_pruned_weights_change_nothing() -> None:
    mask = np.array([True, False] * 20)
    draws = np.zeros(40, np.uint8)
    networks_ = []
    for pruned_draws in (0, 7):
        draws[1::2] = pruned_draws
        tensor = MaskedTensor("w", (40,), "uniform", np.float32(1), mask, draws.copy())
        networks_.append(dumps(Network(seed=1, tensors=(tensor,))))
    assert networks_[0] == networks_[1]
    assert loads(networks_[0]).tensors[0].log.kind == "none"


def test_the_order_of_the_state_changes_nothing() -> None:
    network = GOLDEN["v1-flips"]()
    turned = dict(reversed(list(network.state.items())))
    recipe = dict(reversed(list((network.recipe or {}).items())))
    other = Network(network.seed, network.tensors, turned, network.architecture, network.input, network.classes, recipe)
    assert dumps(other) == dumps(network)


@pytest.mark.processes
def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); from golden.make import flips;"
        "from iterand_compress.compress.seedmask import dumps;"
        "print(hashlib.sha256(dumps(flips())).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }  # fmt: skip
    assert outputs == {hashlib.sha256(dumps(GOLDEN["v1-flips"]())).hexdigest() + "\n"}


@pytest.mark.processes
def test_storage_does_not_import_torch() -> None:
    script = "import sys, iterand_compress.compress.seedmask; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_write_and_read(tmp_path: Path) -> None:
    network = GOLDEN["v1-flips"]()
    path = tmp_path / "net.seedmask"
    report = write_seedmask(network, path)
    data = path.read_bytes()
    assert data == dumps(network)
    seedmask = read_seedmask(path)
    assert (report.path, report.file_bytes) == (path, len(data)) == (seedmask.path, seedmask.file_bytes)
    assert report.file_digest == hashlib.sha256(data).hexdigest()
    assert (report.weights, report.kept) == (54 + 6, 22 + 4)
    assert (report.mask_bits, report.log_bits) == (8 * (7 + 1), 8 * 3)
    assert (report.state_bytes, report.dense_bytes) == (8 + 8 + 2 + 2, 4 * 60 + 20)
    raw = b"".join(hashlib.sha256(values.tobytes()).digest() for values in seedmask.weights().values())
    assert report.weights_digest == seedmask.weights_digest == hashlib.sha256(raw).hexdigest()


def test_layer_report() -> None:
    rows = loads(dumps(GOLDEN["v1-flips"]())).layer_report()
    conv, fc = rows
    assert (conv.name, conv.shape, conv.weights, conv.kept, conv.log_kind) == (
        "conv.weight",
        (3, 2, 3, 3),
        54,
        22,
        "flips",
    )
    assert conv.sparsity == pytest.approx(32 / 54)
    assert conv.mask_bits_per_weight == 8 * 7 / 54
    assert conv.mask_bound == pytest.approx(-(22 * math.log2(22 / 54) + 32 * math.log2(32 / 54)) / 54)
    assert conv.log_bits_per_weight == 8 * 3 / 54
    assert 0 < conv.log_bound <= 22 / 54
    assert (fc.log_kind, fc.log_bits_per_weight, fc.log_bound) == ("none", 0, 0)


def test_unknown_tensor_names_are_refused_with_the_known_ones() -> None:
    seedmask = loads(dumps(GOLDEN["v1-none"]()))
    for method in (seedmask.mask, seedmask.log, seedmask.codes, seedmask.weight):
        with pytest.raises(SeedMaskError, match=r"<memory>: no masked tensor 'nope'; it has: fc\.weight"):
            method("nope")


@pytest.mark.parametrize("stem", GOLDEN)
def test_the_safetensors_library_reads_it(stem: str, tmp_path: Path) -> None:
    network = GOLDEN[stem]()
    path = tmp_path / "net.seedmask"
    write_seedmask(network, path, coding="raw")
    with safe_open(path, "np") as file:
        assert list(file.metadata()) == ["seedmask"]
        names = set(file.keys())
    if network.form == "compact":
        assert names == {"data"}
        return
    assert names >= {f"mask/{tensor.name}" for tensor in network.tensors}
    if stem == "v1-flips":  # NumPy cannot load BF16
        return
    arrays, first = load_file(path), network.tensors[0]
    kinds = {"F32": np.float32, "F16": np.float16, "I8": np.uint8}
    for name, array in arrays.items():
        kind, _, tensor = name.partition("/")
        if kind in ("mask", "log", "coats"):
            assert array.dtype == np.uint8, name
        elif kind == "values":
            trained = next(item.trained for item in network.tensors if item.name == tensor)
            assert array.dtype == kinds[trained.dtype], name
    free = np.ones(first.weights, bool)
    if first.frozen:
        free = ~np.logical_or(*frozen_masks(network.seed, 0, first.frozen, first.weights))
    bits = np.unpackbits(arrays[f"mask/{first.name}"], bitorder="little")[: np.count_nonzero(free)]
    assert np.array_equal(bits, first.mask[free])


def test_recovered_files_have_the_bytes_of_the_safetensors_library(tmp_path: Path) -> None:
    """Ours is written piece by piece: state of every dtype, an empty tensor, a scalar, and names that need escapes."""
    import torch
    from safetensors.torch import save_file

    from iterand_compress.compress.tensors import recovered_state

    rng = np.random.default_rng(3)
    state = {
        f"{name}.{dtype}": StoredTensor(dtype, (2, 3), rng.integers(0, 2, 6 * size).astype(np.uint8))
        for name in ("z", 'quote"', "\\ü重😀")
        for dtype, size in stored.ITEM_SIZE.items()
    }
    state |= {"empty": StoredTensor.from_numpy(np.zeros((0, 2))), "scalar": StoredTensor.from_numpy(np.array(7))}
    network = GOLDEN["v1-rans"]()
    file = loads(dumps(Network(network.seed, network.tensors, state)))
    size, count = write_tensors(file, tmp_path / "ours")
    assert (size, count) == ((tmp_path / "ours").stat().st_size, len(network.tensors) + len(state))
    save_file(recovered_state(file), tmp_path / "library", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()
    write_tensors(file, tmp_path / "ours", masks=True)
    masks = {tensor.name: torch.from_numpy(tensor.mask.reshape(tensor.shape)) for tensor in network.tensors}
    save_file(masks, tmp_path / "library", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def test_data_stand_in_the_order_of_the_safetensors_library() -> None:
    arrays = {
        "z": np.zeros(3, np.float32),
        "a": np.ones(3, np.uint8),
        "m": np.full(2, 2.0),
        "b": np.full(2, 3, np.float32),
    }
    library = save(arrays)
    length = int.from_bytes(library[:8], "little")
    ours = b"".join(arrays[name].tobytes() for name in ("m", "b", "z", "a"))
    assert library[8 + length :] == ours
    header = build_header({k: (StoredTensor.from_numpy(v).dtype, v.shape) for k, v in arrays.items()})
    assert len(header) % 8 == 0


def test_a_packer_that_does_not_recover_the_weights_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(rows: list[tuple[str, codings.Coded]]) -> list[Row]:  # weight 0 is pruned then, and 2 kept
        return [Row(row.count, row.width, row.symbols ^ np.uint8([5, 0, 0])) for row in codings.decode_rows(rows)]

    monkeypatch.setattr(payloads, "decode_rows", swapped)
    with pytest.raises(IterandError, match=r"net: tensor 'fc.weight': expected recovered weights .* bug in the packer"):
        write_seedmask(GOLDEN["v1-none"](), tmp_path / "net")
    assert not list(tmp_path.iterdir())
