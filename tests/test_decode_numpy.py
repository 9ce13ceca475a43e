"""examples/decode_numpy.py, written from docs/FORMAT.md alone, recovers what the package recovers, bit for bit."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden.make import FOLDER, GOLDEN, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import networks_of_every_kind
from safetensors.numpy import load_file

from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seed.frozen import Frozen, frozen_masks
from iterand_compress.compress.seed.philox import KNOWN_ANSWERS
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    StoredTensor,
    dumps,
    loads,
    quantise,
    read_seedmask,
)
from iterand_compress.compress.seedmask.bits import Row
from iterand_compress.compress.seedmask.codings import Coded, decode_rows, encode_rows, plan

SCRIPT = Path(__file__).parent.parent / "examples" / "decode_numpy.py"
KINDS = ("constants", "deltas", "frozen", "coats", "values")
FILES = sorted(FOLDER.glob("*.seedmask"))


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decode_numpy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


decode_numpy = load_script()
decode: Callable[[Any], dict[str, np.ndarray]] = decode_numpy.decode


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes(), name


def codings(network: Network, coding: str) -> set[str]:
    """The codings of the file of a network, after the comparison of both decoders."""
    data = dumps(network, coding=coding)
    seedmask = loads(data)
    assert_same(decode(data), seedmask.weights())
    return {row.coding for entry in seedmask.tensors for row in (entry.mask, entry.log) if row.bytes}


# ---- The same weights


def test_there_are_golden_files() -> None:
    assert {path.stem for path in FILES} == set(GOLDEN)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files(path: Path) -> None:
    expected = read_seedmask(path).weights()
    for source in (path, str(path), path.read_bytes()):
        assert_same(decode(source), expected)


def test_the_codebooks() -> None:
    assert decode_numpy.CODEBOOKS.keys() == CODEBOOKS.keys()
    for name, book in CODEBOOKS.items():
        assert decode_numpy.CODEBOOKS[name].tolist() == book.entries.tolist()


@pytest.mark.parametrize(("counter", "seed", "words"), KNOWN_ANSWERS)
def test_the_generator(counter: tuple[int, ...], seed: int, words: tuple[int, ...]) -> None:
    got = decode_numpy.philox([np.array([c], np.uint64) for c in counter], (seed & 0xFFFFFFFF, seed >> 32))
    assert tuple(int(word[0]) for word in got) == words


@st.composite
def networks(draw: st.DrawFn) -> Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensors = []
    for i in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(1, 17), max_size=4)))
        count = math.prod(shape)
        mask = rng.random(count) < draw(st.sampled_from([0, 0.01, 0.1, 0.3, 0.5, 1]))
        most = draw(st.sampled_from([0, 1, 2, 5, 255]))
        redrawn = rng.random(count) < draw(st.sampled_from([0.02, 0.5, 1]))
        draws = (rng.integers(0, most + 1, count) * redrawn).astype(np.uint8) if most else None
        book = CODEBOOKS[draw(st.sampled_from(sorted(CODEBOOKS)))]
        tensors.append(MaskedTensor(f"layer{i}", shape, book.name, book.scale(draw(st.integers(1, 9999))), mask, draws))
    state = {"bias": StoredTensor.from_numpy(rng.random(3)), "flag": StoredTensor.from_numpy(np.array([True]))}
    return Network(
        seed=draw(st.integers(0, 2**64 - 1)),
        tensors=tuple(tensors),
        state=draw(st.sampled_from([{}, state])),
        classes=draw(st.sampled_from([None, ["größer", '"\\/😀']])),
        recipe=draw(st.sampled_from([None, {"lr": 1e-05, "tiny": 5e-324, "list": [None, -0.0, {"digests": 1}]}])),
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from(["auto", "raw", "rans"]))
def test_random_networks(network: Network, coding: str) -> None:
    found = codings(network, coding)
    assert coding != "raw" or found <= {"raw"}
    assert coding != "rans" or found <= {"rans", "gaps"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codebook", "coding"),
    [("normal", "auto"), ("uniform", "rans"), ("signed-constant", "rans"), ("signed-constant", "raw")],
)
def test_networks_of_many_lanes_and_chunks(codebook: str, coding: str) -> None:
    """Masks of more than 2048 bytes, sparse ones, draws of many values; more weights than the decoder takes at once."""
    rng = np.random.default_rng(0)

    def tensor(name: str, count: int, kept: float, redrawn: float) -> MaskedTensor:
        draws = np.minimum(rng.geometric(1 - redrawn, count) - 1, 255).astype(np.uint8)
        return MaskedTensor(name, (count,), codebook, np.float32(0.1), rng.random(count) < kept, draws)

    tensors = (
        tensor("half", 200_001, 0.5, 0.3),
        tensor("dense", 70_000, 1, 0.02),
        tensor("sparse", 300_000, 0.1, 0.9),
        tensor("sparser", 900_007, 0.001, 0.98),
        tensor("never", 65_536, 0.3, 0),
    )
    found = codings(Network(seed=2**63 + 1, tensors=tensors), coding)
    assert found >= ({"raw"} if coding == "raw" else {"rans", "gaps"})


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(networks_of_every_kind(), st.sampled_from(["auto", "raw", "rans"]))
def test_random_networks_of_every_kind(network: Network, coding: str) -> None:
    codings(network, coding)


def test_a_frozen_mask_and_rows_of_several_chunks() -> None:
    rng, count, thresholds = np.random.default_rng(1), 200_003, Frozen(20000, 7000)
    pruned, kept = frozen_masks(3, 0, thresholds, count)
    mask, wide = (rng.random(count) < 0.3) & ~pruned | kept, rng.random(200_000) < 0.4
    values = quantise(rng.standard_normal(200_000).astype(np.float32), wide, (1000, 200), "int8")
    tensors = (
        MaskedTensor("frozen", (count,), "uniform", np.float32(1), mask, frozen=thresholds),
        MaskedTensor("rows", (1000, 200), "uniform", np.float32(1), wide, trained=values),
    )
    codings(Network(seed=3, tensors=tensors), "auto")


@pytest.mark.parametrize("scale", [2.0**-126, (2 - 2**-23) * 2.0**120])
def test_extreme_scales(scale: float) -> None:
    tensor = MaskedTensor("w", (500,), "normal", np.float32(scale), np.ones(500, np.bool_))
    data = dumps(Network(seed=5, tensors=(tensor,)))
    assert_same(decode(data), loads(data).weights())


# ---- As a script

PROBE = """
import sys
names = ("iterand_compress", "torch", "safetensors")
assert not set(names) & set(sys.modules)
before = set(sys.modules)
sys.argv = sys.argv[1:]
import runpy
scope = runpy.run_path(sys.argv[0], run_name="__main__")
import json
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))))
"""


def run(*arguments: object, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    start = ["-I", "-c", PROBE] if isolated else []
    return subprocess.run([sys.executable, *start, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.processes
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_script_needs_numpy_alone(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    done = run(path, "--out", out, isolated=True)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, modules = done.stdout.splitlines()
    assert json.loads(modules) == ["numpy"], "and the standard library"
    weights = read_seedmask(path).weights()
    assert lines == [
        f"{name!a}: {list(values.shape)}, {np.count_nonzero(values)} of {values.size} weights are not 0"
        for name, values in weights.items()
    ]
    loaded = load_file(out)
    assert_same({name: loaded[name] for name in weights}, weights)
    assert len(loaded) == len(weights)


NAMES = ("conv/weight", "../../up", "/abs", "a", "a.npy", "file", "allow_pickle", "ümläut 😀", "names", "tensor_0")


def network_of(names: tuple[str, ...]) -> Network:
    mask = np.arange(6) % 3 < 2
    return Network(3, tuple(MaskedTensor(name, (2, 3), "uniform", np.float32(1), mask) for name in names))


@pytest.mark.processes
def test_names_are_never_paths(tmp_path: Path) -> None:
    path = tmp_path / "in" / "net.seedmask"
    path.parent.mkdir()
    path.write_bytes(dumps(network_of(NAMES)))
    expected = read_seedmask(path).weights()
    for suffix in ("npz", "safetensors"):
        done = run(path, "--out", path.with_suffix(f".{suffix}"))
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", len(NAMES))
    with np.load(path.with_suffix(".npz")) as file:
        names = file["names"].tolist()
        assert_same({name: file[f"tensor_{t}"] for t, name in enumerate(names)}, expected)
        assert len(file.files) == 1 + len(NAMES)
    loaded = load_file(path.with_suffix(".safetensors"))
    assert_same({name: loaded[name] for name in NAMES}, expected)
    assert {found.name for found in tmp_path.rglob("*")} == {"in", "net.seedmask", "net.npz", "net.safetensors"}


def assert_one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.processes
def test_failures_are_one_line(tmp_path: Path) -> None:
    path, out = tmp_path / "net.seedmask", tmp_path / "out.npz"
    assert_one_line(run(path, "--out", out), "No such file")
    data = bytearray(dumps(tiny()))
    data[-1] ^= 4
    path.write_bytes(data)
    assert_one_line(run(path, "--out", out), "net.seedmask: the digest of the data differs: the file is damaged")
    path.write_bytes(b"\x10" + bytes(50))
    assert_one_line(run(path, "--out", out), "net.seedmask: Expecting value")
    path.write_bytes(dumps(network_of(("__metadata__",))))
    assert_one_line(run(path, "--out", tmp_path / "out.safetensors"), "safetensors cannot hold")
    assert run(path, "--out", tmp_path / "out.txt").returncode == 2
    assert [found.name for found in tmp_path.iterdir()] == ["net.seedmask"], "nothing is written"


# ---- Damage


def test_every_bit_of_a_file_matters() -> None:
    data = (FOLDER / "v1-none.seedmask").read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            damaged = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(ValueError):
                decode(damaged)


@pytest.mark.parametrize("stem", GOLDEN)
def test_every_length_but_the_right_one_is_refused(stem: str) -> None:
    data = (FOLDER / f"{stem}.seedmask").read_bytes()
    for size in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(ValueError):
            decode(data[:size])
    with pytest.raises(ValueError, match=r"the digest of the data differs|not that of a compact file of this size"):
        decode(data + b"\0")


def taken_apart(stem: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and payloads of a golden file."""
    data = (FOLDER / f"{stem}.seedmask").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    manifest = json.loads(header.pop("__metadata__")["seedmask"])
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return manifest, {name: data[start + first : start + last] for name, (first, last) in places.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put_together(manifest: dict[str, Any], parts: dict[str, bytes]) -> bytes:
    """A file whose sizes, header, and digests of payload and manifest are right, whatever else is not."""
    by_name = {entry["name"]: entry for entry in manifest.get("tensors", [])}
    stored = [entry for entry in manifest.get("state") or [] if "value" not in entry]
    dtypes = {f"state/{entry['name']}": (entry["dtype"], entry["shape"]) for entry in stored}
    for name, payload in parts.items():
        kind, _, tensor = name.partition("/")
        dtype = by_name[tensor]["values"]["dtype"] if kind == "values" else "F32" if kind == "scales" else "I8"
        if kind != "state":
            item = {"F32": 4, "F16": 2, "I8": 1}[dtype]
            dtypes[name] = ("U8" if dtype == "I8" else dtype, [len(payload) // item])
        if kind not in ("state", "scales"):
            by_name[tensor][kind]["bytes"] = len(payload)
    sizes = {"I64": 8, "F32": 4, "BF16": 2, "F16": 2, "U16": 2}
    data = b"".join(parts[name] for name in sorted(dtypes, key=lambda name: (-sizes.get(dtypes[name][0], 1), name)))
    manifest.setdefault("digests", {}).update(payload=sha256(data), manifest="0" * 64)
    manifest["digests"]["manifest"] = sha256(decode_numpy.canonical(manifest).encode())
    begin, _ = decode_numpy.header_of({"seedmask": decode_numpy.canonical(manifest)}, dtypes)
    return bytes(begin) + data


@pytest.mark.parametrize("stem", [stem for stem in GOLDEN if "compact" not in stem])
def test_taken_apart_and_put_together(stem: str) -> None:
    assert put_together(*taken_apart(stem)) == (FOLDER / f"{stem}.seedmask").read_bytes()


def change(part: str, payload: Callable[[bytes], bytes]) -> Callable[[dict[str, Any], dict[str, bytes]], object]:
    return lambda manifest, parts: parts.update({part: payload(parts[part])})


def edit(**fields: object) -> Callable[[dict[str, Any], dict[str, bytes]], object]:
    """Change fields of the manifest, or (`tensor_x`) of the first tensor, or (`log_x`, `mask_x`) of its rows."""

    def apply(manifest: dict[str, Any], parts: dict[str, bytes]) -> None:
        first = manifest["tensors"][0]
        places = {"tensor": first, "log": first["log"], "mask": first["mask"], "digests": manifest["digests"]}
        for field, value in fields.items():
            place, _, name = field.partition("_")
            if place in places and name:
                places[place][name] = value
            else:
                manifest[field] = value

    return apply


def part(name: str, **fields: object) -> Callable[[dict[str, Any], dict[str, bytes]], object]:
    """Change fields of a part of the first tensor."""
    return lambda manifest, parts: manifest["tensors"][0][name].update(fields)


def clear(manifest: dict[str, Any], parts: dict[str, bytes]) -> None:
    """Leave the version alone."""
    manifest.clear()
    manifest.update(format_version=2, tensors=[])
    parts.clear()


def twins(manifest: dict[str, Any], parts: dict[str, bytes]) -> None:
    manifest["tensors"].append(manifest["tensors"][0])


# The mask of conv.weight begins with a lane length and a frequency, of two bytes each.
@pytest.mark.parametrize(
    ("stem", "damage", "message"),
    [
        ("v1-none", clear, "format version 2 is newer than 1"),
        ("v1-none", edit(format_version=2), "format version 2 is newer than 1"),
        ("v1-none", edit(format_version=0), "there is no format version 0"),
        ("v1-none", edit(format_version="1"), r"does not have the structure of a \.seedmask file \(TypeError"),
        ("v1-none", edit(required_features=["zstd"]), "unknown required feature 'zstd'"),
        ("v1-none", edit(required_features=["rans"]), r"required features \['rans'\], but the file uses \['raw'\]"),
        ("v1-rans", edit(required_features=[]), r"required features \[\], but the file uses \['rans', 'raw'\]"),
        ("v1-gaps", edit(required_features=["rans", "gaps"]), r"features \['rans', 'gaps'\], but the file uses"),
        ("v1-none", edit(generator="mt19937"), "unknown generator 'mt19937'"),
        ("v1-none", edit(seed="0123456789abcdee"), "'fc.weight': the digest of the recovered weights differs"),
        ("v1-none", edit(digests_weights="0" * 64), "the digest of all weights differs"),
        ("v1-none", edit(state=None), r"structure of a \.seedmask file \(TypeError"),
        ("v1-none", lambda m, p: m.pop("seed"), r"structure of a \.seedmask file \(KeyError\('seed'\)\)"),
        ("v1-none", twins, "two tensors have the same name"),
        ("v1-none", edit(tensor_codebook="cauchy"), "tensor 'fc.weight': unknown codebook 'cauchy'"),
        ("v1-none", edit(tensor_scale="7f800000"), "scale '7f800000' is not possible"),
        ("v1-none", edit(tensor_scale="bf800000"), "scale 'bf800000' is not possible"),
        ("v1-none", edit(tensor_scale="007fffff"), "scale '007fffff' is not possible"),
        ("v1-none", edit(tensor_scale="7fc00000"), "scale '7fc00000' is not possible"),
        ("v1-none", edit(tensor_scale="3f8000003f800000"), "scale '3f8000003f800000' is not 8 hexadecimal digits"),
        ("v1-none", edit(tensor_kept=9), "the mask keeps 8 weights, the manifest says 9"),
        ("v1-none", edit(tensor_sha256="0" * 64), "'fc.weight': the digest of the recovered weights differs"),
        ("v1-none", edit(tensor_shape=[-4, -5]), r"shape \[-4, -5\] is not possible"),
        ("v1-none", edit(tensor_shape=[4, 50]), "200 values of 1 bits fill 25 bytes, not 3"),
        ("v1-none", edit(tensor_shape=[2**34]), "17179869184 weights: more than 16777216"),
        ("v1-none", edit(mask_coding="zip"), "the file uses \\['raw', 'zip'\\]"),
        ("v1-none", edit(log_width=1), "tensor 'fc.weight': a log 'none' is not empty"),
        ("v1-none", change("mask/fc.weight", lambda b: b[:2] + b"\x81"), "unused bits of the last byte are not 0"),
        ("v1-flips", edit(log_width=2), "tensor 'conv.weight': a log 'flips' of width 2"),
        ("v1-flips", edit(log_kind="drums"), r"structure of a \.seedmask file \(KeyError\('drums'\)\)"),
        ("v1-flips", edit(tensor_codebook="normal"), "log 'flips' needs a codebook of two values"),
        ("v1-flips", change("log/conv.weight", lambda b: bytes(len(b))), "width 1 does not need that width"),
        ("v1-draws", edit(log_width=9), "tensor 'a': a log 'draws' of width 9"),
        ("v1-rans", change("mask/conv.weight", lambda b: b[:-1]), r"the payload ends early: \d+ bytes, \d+ expected"),
        ("v1-rans", change("mask/conv.weight", lambda b: b + b"\0"), "'conv.weight': 1 bytes follow the last word"),
        ("v1-rans", change("mask/conv.weight", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
         "'conv.weight': a lane does not end in state 65536|does not read exactly its own words"),
        ("v1-rans", change("mask/conv.weight", lambda b: b[:2] + bytes([b[2] ^ 1]) + b[3:]),
         "tensor 'conv.weight': the frequencies sum to 6553[57], not 65536"),
        ("v1-rans", change("mask/conv.weight", lambda b: b"\0" + b[2:]), "lanes of 0 symbols: 1 to 32768 expected"),
        ("v1-rans", change("mask/conv.weight", lambda b: b"\x81\x80\x02" + b[2:]), "lanes of 32769 symbols"),
        ("v1-rans", change("mask/conv.weight", lambda b: b"\x81\0" + b[2:]), "a varint is not in its shortest form"),
        ("v1-rans", change("mask/conv.weight", lambda b: b"\x81" * 6 + b), "a varint has more than 6 bytes"),
        ("v1-rans", change("mask/conv.weight", lambda b: b[:2] + b"\x81\x80\x04" + b[3:]), "a frequency is 65537"),
        ("v1-gaps", change("mask/one", lambda b: b"\x07" + b[1:]), "'one': symbols are grouped by k = 7: at most 6"),
        ("v1-gaps", change("mask/one", lambda b: b[:1] + b"\xd1\x0f" + b[2:]), "2001 gaps in a row of 2000 bits"),
        ("v1-gaps", change("mask/one", lambda b: b[:1] + b"\0" + b[2:]), "0 gaps in a row of 2000 bits"),
        ("v1-gaps", lambda m, p: m["tensors"][3].update(shape=[1234]), "gaps reach bit 1234 of a row of 1234 bits"),
        ("v1-gaps", lambda m, p: m["tensors"][3].update(shape=[1235]), "'one': the digest of the recovered weights"),
        ("v1-deltas", edit(required_features=["rans"]), r"features \['rans'\], but the file uses \['deltas', "),
        ("v1-deltas", edit(tensor_codebook="signed-constant"), "'deltas' needs a codebook of more than two values"),
        ("v1-deltas", edit(log_width=9), "tensor 'conv.weight': a log 'deltas' of width 9"),
        ("v1-deltas", change("log/fc.weight", lambda b: bytes(49)), "the log of width 8 does not need that width"),
        ("v1-deltas", change("log/fc.weight", lambda b: b"\x4c" + b[1:]), "'fc.weight': the digest of the rec"),
        ("v1-frozen", part("frozen", free=1081), "1081 values of 1 bits fill 136 bytes, not 135"),
        ("v1-frozen", part("frozen", pruned=15000), "the generator leaves more than 1080 weights free"),
        ("v1-frozen", part("frozen", kept=11000), "leaves 10[0-9]{2} weights free, the manifest says 1080"),
        ("v1-frozen", part("frozen", pruned=65536), "frozen by thresholds of 65536 and 10000"),
        ("v1-frozen", part("frozen", pruned=60000), "frozen by thresholds of 60000 and 10000"),
        ("v1-frozen", part("frozen", kept=-1), "frozen by thresholds of 20000 and -1"),
        ("v1-frozen", part("frozen", more=1), "fields .*'more': 1.* of a frozen mask"),
        ("v1-frozen", lambda m, p: m["tensors"][0].pop("frozen"), "'flips': 2000 values of 1 bits fill 250 bytes"),
        ("v1-coats", part("coats", width=8), "'conv.weight': coats .*'width': 8"),
        ("v1-coats", part("coats", width=2), "'conv.weight': the payload ends early|the frequencies sum"),
        ("v1-coats", edit(tensor_codebook="normal"), "coats need a codebook of two values"),
        ("v1-coats", edit(tensor_scale="7e800000"), "scale '7e800000' is not possible"),
        ("v1-coats", change("coats/two", lambda b: bytes(3)), "'two': 1 coats, of width 1"),
        ("v1-coats", change("coats/most", lambda b: b"\x7f" + b[1:]), "'most': 128 coats, of width 7"),
        ("v1-coats", lambda m, p: m["tensors"][0].update(values={"bytes": 0, "coding": "raw", "dtype": "F64"}),
         "unknown dtype 'F64' of values"),
        ("v1-values-float32", change("values/fc.weight", lambda b: b"\0\0\x80\x7f" + b[4:]), "value is not finite"),
        ("v1-values-float16", change("values/fc.weight", lambda b: b"\1\x7c" + b[2:]), "value is not finite"),
        ("v1-values-float16", part("values", coding="rans"), "values that are not 1858 bytes"),
        ("v1-values-int8", lambda m, p: (m["tensors"][0]["values"].update(coding="gaps"),
                                         m.update(required_features=["frozen", "gaps", "values"])),
         "tensor 'conv.weight': values .*'gaps'"),
        ("v1-values-int8", change("values/fc.weight", lambda b: b"\x80" + b[1:]), "a trained value is -128"),
        ("v1-values-int8", change("values/fc.weight", lambda b: b"\1" + b[1:]), "'fc.weight': the digest of the rec"),
        ("v1-values-int8", change("scales/fc.weight", lambda b: bytes(4) + b[4:]), r"scale \[0\.\] of a row"),
        ("v1-values-int8", change("scales/fc.weight", lambda b: b"\0\0\x80\x7e" + b[4:]), r"scale \[8\..*e\+37\] of a"),
    ],
)  # fmt: skip
def test_damage_is_refused_with_what_is_wrong(
    stem: str, damage: Callable[[dict[str, Any], dict[str, bytes]], object], message: str
) -> None:
    manifest, parts = taken_apart(stem)
    damage(manifest, parts)
    data = put_together(manifest, parts)
    with pytest.raises(ValueError, match=message) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    with pytest.raises(SeedMaskError):
        loads(data).weights()


@pytest.mark.parametrize(
    ("payload", "coding", "width", "message"),
    [
        ("06 01 01 00000000808004 00000100 0000", "gaps", 1, "zeros without a one after them at the end of the gaps"),
        ("06 01 01 00000000808004 00000100 0000", "gaps", 2, "coding 'gaps' is for width 1, not 2"),
        ("20 808004000000 ffff0000 0000", "rans", 2, "a lane begins with a state below 65536"),
        ("20 808004000000 00000100 0100 0000", "rans", 2, "a lane does not read exactly its own words"),
        ("20 808004000000 00000200 0000", "rans", 2, "a lane does not end in state 65536"),
        ("00", "zstd", 2, "unknown coding 'zstd'"),
    ],
)
def test_damaged_rows_are_refused_with_what_is_wrong(payload: str, coding: str, width: int, message: str) -> None:
    assert decode_numpy.decode_row(bytes.fromhex("20 808004000000 00000100 0000"), "rans", 20, 2).tolist() == [0] * 20
    with pytest.raises(ValueError, match=message):
        decode_numpy.decode_row(bytes.fromhex(payload), coding, 20, width)


#: Wrong in what weights do not depend on: settings, the shortest form, the order of state tensors, odd names.
NOT_CHECKED = {
    *("architecture-list", "input-number", "key-twice", "keys-unsorted", "name-empty", "name-escape"),
    *("states-unsorted", "value-above", "value-below", "value-deep", "value-escape", "value-nan", "value-wide"),
}
NEWER = [
    path
    for path in (FOLDER.parent / "bad_files").glob("*.seedmask")
    if path.stem.split("-")[0] in (*KINDS, "compact") and path.stem.removeprefix("compact-") not in NOT_CHECKED
]


@pytest.mark.parametrize("path", NEWER, ids=lambda path: path.stem)
def test_bad_files_of_the_newer_kinds_are_refused(path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        decode(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_manifest_that_is_not_canonical_is_refused() -> None:
    data = (FOLDER / "v1-none.seedmask").read_bytes()
    text = json.loads(data[8:-3])["__metadata__"]["seedmask"].replace('"state":[]', '"state": []')
    begin, _ = decode_numpy.header_of({"seedmask": text}, {"mask/fc.weight": ("U8", [3])})
    with pytest.raises(ValueError, match="the manifest is not canonical JSON"):
        decode(begin + data[-3:])


def test_a_nested_header_does_not_crash() -> None:
    header = b"[" * 200_000
    with pytest.raises(ValueError):
        decode(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("data", [b"", b"\x08", bytes(8), bytes(100), b"\xff" * 100, (10**8 + 8).to_bytes(8, "little")])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a \.seedmask file: no header of the length it states"):
        decode(data)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_payloads_get_the_verdict_of_the_package(data: st.DataObject) -> None:
    """The payloads alone, without digests: both decoders find the same values, or both refuse."""
    width = data.draw(st.sampled_from([1, 1, 2, 8]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count = data.draw(st.integers(1, 3000))
    values = (rng.random(count) < data.draw(st.sampled_from([0.01, 0.1, 0.4]))) * rng.integers(1, 2**width, count)
    (coded,) = encode_rows([plan(Row.pack(values.astype(np.uint8), width), "rans")], "rans")
    payload = bytearray(coded.payload)
    for _ in range(data.draw(st.integers(0, 2))):
        # The begin of a payload has most of what can be wrong.
        at = min(data.draw(st.integers(0, len(payload) - 1)), data.draw(st.sampled_from([30, 10**6])), len(payload) - 1)
        payload[at] = data.draw(st.integers(0, 255))
    payload = payload[: len(payload) - data.draw(st.sampled_from([0, 0, 0, 1, 2]))]
    damaged = Coded(coded.coding, bytes(payload), count, width)
    try:
        expected = decode_rows([("row", damaged)])[0].values().tolist()
    except SeedMaskError:
        with pytest.raises(ValueError):
            decode_numpy.decode_row(damaged.payload, coded.coding, count, width)
    else:
        assert decode_numpy.decode_row(damaged.payload, coded.coding, count, width).tolist() == expected
