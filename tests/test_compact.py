"""The compact form of a file: the same network in fewer bytes, read as strictly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bad_files import make
from golden.make import GOLDEN, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import expected_weights, networks_of_every_kind
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import iterand_compress as ic
from conftest import fail, succeed
from iterand_compress.compress.analysis.compare import compare
from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.recover import recover_on_device
from iterand_compress.compress.seedmask import Network, StoredTensor, dumps, loads, read_seedmask
from iterand_compress.compress.seedmask.directory import WORDS, encode_directory, parse_directory

NAMES = st.lists(st.sampled_from(["conv", "0", "weight", "größe", "", "x" * 40]), min_size=1, max_size=4).map(".".join)
TEXTS = st.sampled_from(["", "weight", "name", "größer", "a.b", "😀"])
NUMBERS = st.integers(-(2**64) + 1, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
KEYS = st.sampled_from(["a", "name", "ж", "b c"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def compact(network: Network, **fields: Any) -> Network:
    return replace(network, form="compact", **fields)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    network = draw(networks_of_every_kind())
    names = draw(st.lists(NAMES.filter(bool), unique=True, min_size=len(network.tensors), max_size=9))
    tensors = tuple(replace(tensor, name=name) for tensor, name in zip(network.tensors, names, strict=False))
    dtypes = st.sampled_from([np.float32, np.float16, np.int64, np.bool_, np.uint8])
    shapes = st.lists(st.integers(0, 3), max_size=3)
    state = {
        name: StoredTensor.from_numpy(np.ones(draw(shapes), draw(dtypes))) for name in names[len(network.tensors) :]
    }
    return compact(
        network,
        tensors=tensors,
        state=state,
        constants=draw(st.booleans()),
        architecture=draw(st.none() | st.dictionaries(KEYS, SCALARS, max_size=3)),
        input=draw(
            st.sampled_from(
                [None, ic.ImageInput((1, 8, 8), 0.1, 0.25), ic.TextInput(length=5, unit="words", vocabulary=300)]
            )
        ),
        classes=draw(st.none() | st.lists(TEXTS.filter(bool), max_size=3)),
        recipe=draw(st.none() | st.dictionaries(KEYS, VALUES, max_size=3)),
    )


@settings(max_examples=100, deadline=None)
@given(networks(), st.sampled_from(["auto", "raw", "rans"]))
def test_any_network_comes_back_and_packs_to_the_same_bytes(network: Network, coding: str) -> None:
    data = dumps(network, coding=coding)
    seedmask, plain = loads(data), loads(dumps(replace(network, form="json"), coding=coding))
    for name, weights in expected_weights(network).items():
        assert seedmask.weights()[name].tobytes() == weights.tobytes()
    for name, stored in network.state.items():
        assert seedmask.state()[name].data.tobytes() == stored.data.tobytes()
    ours, theirs = (file.manifest.model_dump(mode="json") for file in (seedmask, plain))
    for entry in theirs["tensors"]:
        del entry["sha256"]
    assert ours.pop("digests")["weights"] == theirs.pop("digests")["weights"]
    assert set(ours.pop("required_features")) - set(theirs.pop("required_features")) == {"compact"}
    assert json.dumps(ours) == json.dumps(theirs), "integers, floats and their signs too"
    assert dumps(seedmask.network(), coding=coding) == data
    assert len(data) < len(dumps(replace(network, form="json"), coding=coding))


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_a_directory_has_one_form(stem: str, data: st.DataObject) -> None:
    """Whatever else parses as a directory is the directory of another manifest."""
    manifest = loads(dumps(compact(GOLDEN[stem]()))).manifest
    directory, features = encode_directory(manifest), list(manifest.required_features)
    changed = bytearray(directory)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(40, len(directory) - 1))
        changed[at : at + data.draw(st.sampled_from([0, 1, 1, 2]))] = data.draw(st.binary(max_size=2))
    try:
        other = parse_directory(bytes(changed), features, manifest.digests.payload, 2**24)
    except SeedMaskError:
        return
    assert (other == manifest) == (bytes(changed) == directory)
    assert encode_directory(other) == bytes(changed)


def test_the_file_is_a_safetensors_file_with_a_stub(tmp_path: Path) -> None:
    path = tmp_path / "t.seedmask"
    path.write_bytes(dumps(compact(tiny())))
    with safe_open(path, "np") as file:
        assert file.keys() == ["data"]
        assert json.loads(file.metadata()["seedmask"]) == {"format_version": 1, "required_features": ["compact"]}


def test_words_never_change() -> None:
    """They are a part of the format."""
    assert (len(WORDS), WORDS[0], WORDS[4], WORDS[21], WORDS[-1]) == (
        84,
        "weight",
        "num_batches_tracked",
        "conv",
        "bytes",
    )


def test_directories_that_would_take_much_memory_are_refused() -> None:
    with pytest.raises(SeedMaskError, match="directory: expected a size of at most 1000000 bytes"):
        loads(make.compact(tail=bytes(10**6)))
    new = bytes([0, 1, 84]) + make.varint(500) + b"x" * 500
    with pytest.raises(SeedMaskError, match="directory: expected at most 10000000 bytes of text, got more"):
        loads(make.compact(states=make.state(new, *[bytes([0, 1, 84])] * 50_000)))
    with pytest.raises(SeedMaskError, match=r"directory: expected at most 1000000 bytes, got .* use the form json"):
        dumps(compact(tiny(), recipe={f"{i}": "x" * 60_000 + str(i) for i in range(20)}))


def misstated(data: bytes) -> bytes:
    """A compact file with another digest of its weights, sealed again."""
    _, section = split(data)
    directory = bytearray(section[32:])
    directory[1 + 8] ^= 1
    return data[: -len(section)] + hashlib.sha256(directory).digest() + bytes(directory)


def test_the_digest_of_all_weights_is_compared_whatever_is_asked_for(tmp_path: Path) -> None:
    data = misstated(dumps(compact(GOLDEN["v1-draws"]())))
    for use in (
        lambda file: file.verify(),
        lambda file: file.weights(),
        lambda file: file.weight("c"),
        lambda file: recover_on_device(file, "cpu"),
        lambda file: recover_on_device(file, "cpu", ["c"]),
        lambda file: compare(file, loads(dumps(GOLDEN["v1-draws"]()))),
    ):
        with pytest.raises(SeedMaskError, match=r"of all tensors, got .* the file is damaged"):
            use(loads(data))
    path = tmp_path / "wrong.seedmask"
    path.write_bytes(data)
    for command in (("verify", path), ("recover", path), ("recover", path, "--tensor", "c")):
        assert "expected recovered weights with the SHA-256" in fail(1, *command)
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_of_the_user_s_choice() -> None:
    good = GOLDEN["v1-draws"]()
    file, plain = loads(dumps(compact(good))), loads(dumps(good))
    assert file.weight("c").tobytes() == plain.weight("c").tobytes()
    assert list(file.weights(["b", "a"])) == ["b", "a"]
    assert recover_on_device(file, "cpu", ["b"])["b"].numpy().tobytes() == plain.weight("b").tobytes()
    comparison = compare(file, plain)
    assert comparison.equal_weights
    assert comparison.equal_state
    assert not comparison.settings


def test_a_compact_file_is_verified_and_packed_again_in_its_form(tmp_path: Path) -> None:
    for stem in ("v1-rans", "v1-values-int8"):
        path = tmp_path / f"{stem}.seedmask"
        path.write_bytes(dumps(compact(GOLDEN[stem]())))
        assert json.loads(succeed("verify", path, "--deep", "--json"))["canonical"]
        assert json.loads(succeed("inspect", path, "--json"))["form"] == "compact"


def test_no_such_form() -> None:
    with pytest.raises(ConfigError, match="form: unknown 'compcat'; did you mean 'compact'"):
        replace(tiny(), form="compcat")


# ---- BatchNorm's counters


def trained(momentum: float | None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=momentum), nn.Flatten(), nn.Linear(288, 3))
    ic.Subnetwork(model, ic.EdgePopup(sparsity=0.5))
    model(torch.randn(4, 1, 8, 8))
    return model.eval()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_counters_are_kept_where_they_matter(tmp_path: Path, momentum: float | None) -> None:
    model, path = trained(momentum), tmp_path / "m.seedmask"
    ic.pack(model, path, form="compact")
    assert ("1.num_batches_tracked" in read_seedmask(path).state()) == (momentum is None)
    fresh = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=momentum), nn.Flatten(), nn.Linear(288, 3))
    fresh[1].num_batches_tracked.fill_(7)
    plain = ic.load(path, model=fresh)
    assert int(plain[1].num_batches_tracked) == (1 if momentum is None else 0)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(plain(images), model(images))
    out = tmp_path / "m.safetensors"
    succeed("recover", path, "--out", out)
    fresh.load_state_dict(load_file(out))  # strict


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("compact")
    files = SimpleNamespace(root=root, checkpoint=root / "d.ckpt", json=root / "json.seedmask")
    succeed("train", "--data", "digits", "--epochs", 1, "--device", "cpu", "--out", files.checkpoint)
    succeed("pack", files.checkpoint, "--out", files.json)
    for name, options in (("compact", ("--form", "compact")), ("bare", ("--bare",))):
        setattr(files, name, root / f"{name}.seedmask")
        setattr(
            files,
            f"{name}_report",
            json.loads(succeed("pack", files.checkpoint, "--out", root / f"{name}.seedmask", *options, "--json")),
        )
    return files


def overhead(path: Path) -> int:
    """Bytes of a file that are no mask, log or value of the state."""
    file = read_seedmask(path)
    payloads = sum(entry.mask.bytes + entry.log.bytes for entry in file.tensors)
    return file.file_bytes - payloads - sum(stored.data.nbytes for stored in file.state().values())


def test_the_overhead_of_the_digits_network(digits: SimpleNamespace) -> None:
    assert overhead(digits.bare) <= 500
    assert overhead(digits.compact) <= 1100
    manifest = read_seedmask(digits.bare).manifest
    assert (manifest.recipe, manifest.classes) == (None, None)
    assert manifest.architecture == read_seedmask(digits.json).manifest.architecture
    assert manifest.input == read_seedmask(digits.json).manifest.input
    assert read_seedmask(digits.compact).manifest.recipe == read_seedmask(digits.json).manifest.recipe
    assert digits.bare_report["form"] == "compact"


def test_commands_take_any_form(digits: SimpleNamespace) -> None:
    accuracies = {
        json.loads(succeed("eval", path, "--data", "digits", "--json"))["accuracy"]
        for path in (digits.json, digits.compact, digits.bare)
    }
    assert len(accuracies) == 1
    succeed("export", digits.bare, "--onnx", digits.root / "m.onnx", "--form", "packed")
    succeed("verify", digits.root / "m.onnx")
    assert "weights are equal" in succeed("diff", digits.json, digits.bare)
