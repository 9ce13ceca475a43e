"""examples/edge, a decoder in C written from docs/FORMAT.md alone, recovers what the package recovers, bit for bit."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from bad_files.make import edited, join, split
from golden.make import FOLDER, GOLDEN, sown
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import networks_of_every_kind
from test_storage_bad_input import FILES

from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seed.frozen import Frozen, frozen_masks
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    SeedMask,
    StoredTensor,
    dumps,
    quantise,
    read_seedmask,
    write_seedmask,
)

EDGE = Path(__file__).parent.parent / "examples" / "edge"
#: Wrong in what this decoder has no use for (input normalisation, the notation of a number), or a limit of the package.
NOT_CHECKED = {
    *("input-channels", "input-std-zero", "manifest-integer-float", "state-dimension"),
    *("compact-word-twice", "compact-value-wide"),
}
#: Of bad files that a later check would refuse as well: the check that must have done it.
MESSAGES = {
    "compact-digest-weights": "weights of all tensors: expected SHA-256 0000000000000000...",
    "compact-mask": "weights of all tensors: expected SHA-256 89d26f8e69e8d351...",
    "compact-name-shares-more": "directory: a name that shares more words than it says",
    "compact-number-overlong": "directory: expected a number below 2**64 in its shortest form",
    "compact-keys-unsorted": "keys are not sorted",
    "compact-value-deep": "directory: nested deeper than 17 levels",
    "compact-word-surrogate": "directory: a text is not UTF-8",
    "coats-128": "coats: expected at most 127, got 128",
    "coats-all-one": "coats: expected a value of 1 bits, got only smaller ones",
    "coats-of-many-values": "coats: expected a codebook of two values, got uniform",
    "coats-scale-overflows": "scale: expected positive, normal and finite, times 127 too, got 7e800000",
    "coats-too-wide": "coats: expected a value of 7 bits, got only smaller ones",
    "deltas-of-two-values": "log: deltas do not go with the codebook signed-constant",
    "deltas-too-wide": "log: expected a value of 8 bits, got only smaller ones",
    "frozen-fewer-free": "frozen: expected 1080 free weights, the generator leaves 1048",
    "frozen-free-above": "frozen: expected at most 2000 free weights, got 2001",
    "frozen-more-free": "frozen: expected 1080 free weights, the generator leaves more",
    "frozen-none-free": "frozen: expected 1080 free weights, the generator leaves 0",
    "frozen-shape-huge": "frozen: expected at most 2**35 weights, got 68719476736",
    "frozen-undeclared": "required_features: expected frozen, for the file uses it",
    "gaps-past-the-end": "mask: gaps go 1 bits beyond the end",
    "header-padding": "header: expected at most 7 spaces at its end",
    "log-draws-too-wide": "log: expected a value of 3 bits, got only smaller ones",
    "log-no-flips": "log: expected a value of 1 bits, got only smaller ones",
    "manifest-duplicate-inner": 'duplicate key: "kept"',
    "manifest-duplicate-key": 'duplicate key: "generator"',
    "manifest-unsorted": "keys are not sorted",
    "name-twice": 'expected unique names, got "a" twice',
    "rans-word-extra": "lane 0: expected the last state 65536 and no words left, got 65536 and 1",
    "scale-overflows": "scale: expected positive, normal and finite, times 127 too, got 7e800000",
    "scale-subnormal": "scale: expected positive, normal and finite, times 127 too, got 007fffff",
    "scale-zero": "scale: expected positive, normal and finite, times 127 too, got 00000000",
    "values-beside-coats": "values: expected neither a log nor coats beside them",
    "values-beside-log": "values: expected neither a log nor coats beside them",
    "values-half-nan": "values: expected finite numbers, got the bits 00007e01",
    "values-minus-128": "values: expected -127 to 127, got -128",
    "values-nan": "values: expected finite numbers, got the bits ff800001",
    "values-scale-negative": "scales: expected positive, normal and finite, times 127 too, got bf800000",
    "values-scale-of-an-empty-row": "scales: expected positive, normal and finite, times 127 too, got 00000000",
    "values-scale-overflows": "scales: expected positive, normal and finite, times 127 too, got 7e800000",
    "values-scale-subnormal": "scales: expected positive, normal and finite, times 127 too, got 007fffff",
    "state-unsorted": "expected names that are unique and sorted",
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs `seedmask` and `fuzz`."""
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None or shutil.which("make") is None:
        pytest.fail("these tests need make and a C compiler (cc, gcc or clang) in PATH; install them")
    folder = tmp_path_factory.mktemp("edge")
    command = ["make", "-C", str(EDGE), f"BUILD={folder}", f"CC={compiler}", "all", "fuzz"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def run(built: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(built / "seedmask"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def succeed(built: Path, *arguments: object) -> str:
    done = run(built, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refuse(built: Path, *arguments: object) -> str:
    """The one line about a file that is not right, without its beginning."""
    done = run(built, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    start = f"error: {arguments[0]}: "
    assert done.stderr.startswith(start)
    assert done.stderr.endswith("\n")
    line = done.stderr[len(start) : -1]
    assert line.isascii()
    assert line.isprintable(), line
    return line


def compare(built: Path, path: Path, folder: Path) -> SeedMask:
    """Decode a file in both ways, and compare each with the package; trained values have no codes."""
    expected = read_seedmask(path)
    trained = [i for i, entry in enumerate(expected.tensors) if entry.values is not None]
    succeed(built, path, "--float32", folder)
    if trained:
        assert refuse(built, path, "--int8", folder).endswith("they are not codes times one scale: ask for float32")
        assert sorted(found.name for found in folder.glob("*.i8")) == sorted(f"{i}.i8" for i in range(trained[0]))
    else:
        succeed(built, path, "--int8", folder)
    for number, (name, weights) in enumerate(expected.weights().items()):
        assert (folder / f"{number}.f32").read_bytes() == weights.astype("<f4").tobytes(), name
        if not trained or number < trained[0]:
            assert (folder / f"{number}.i8").read_bytes() == expected.codes(name).astype(np.int8).tobytes(), name
    for number, (name, tensor) in enumerate(sorted(expected.state().items())):
        raw = (folder / f"state-{number}.bin").read_bytes()
        assert raw == np.ascontiguousarray(tensor.data).tobytes(), name
    count = len(expected.tensors) + (trained or [len(expected.tensors)])[0] + len(expected.state())
    assert len(list(folder.iterdir())) == count, "a file too many"
    assert "what was written" in succeed(built, path, "--verify")
    return expected


@pytest.mark.parametrize("stem", GOLDEN)
def test_golden_files(built: Path, tmp_path: Path, stem: str) -> None:
    compare(built, FOLDER / f"{stem}.seedmask", tmp_path)


def varied() -> Network:
    """Several lanes, every log, odd sizes, a scale whose products round up to a power of two, names from abroad."""
    rng = np.random.default_rng(7)
    rounding_up = np.array(0x3F810204, np.uint32).view(np.float32)[()]  # times 127: just below 128
    few, none = np.arange(100_003) % 9973 == 5, np.zeros(33, np.bool_)
    wide = rng.integers(0, 256, 5000).astype(np.uint8)
    return Network(
        seed=0xFEDCBA9876543210,
        tensors=(
            sown("lanes", (300, 40, 10, 10), "signed-constant", 100, 0.4, 0.3, 3),
            sown("größe", (41, 50, 9), "uniform", 450, 0.6, 0.5, 5),
            MaskedTensor("重み", (5000,), "normal", rounding_up, rng.random(5000) < 0.9, wide),
            MaskedTensor("😀", (100_003,), "uniform", CODEBOOKS["uniform"].scale(9), few),
            MaskedTensor("pruned", (33,), "normal", CODEBOOKS["normal"].scale(3), none),
            MaskedTensor("scalar", (), "normal", CODEBOOKS["normal"].scale(1), np.ones(1, np.bool_)),
        ),
        state={
            "empty": StoredTensor.from_numpy(np.zeros((0, 3), np.float32)),
            "flags": StoredTensor.from_numpy(rng.random(7) < 0.5),
            "large": StoredTensor.from_numpy(rng.random((100, 30))),
            "ж": StoredTensor.from_numpy(np.arange(5, dtype=np.int16)),
        },
        classes=["größer"],
    )


@pytest.mark.parametrize("coding", ["auto", "rans", "raw"])
def test_larger_networks(built: Path, tmp_path: Path, coding: str) -> None:
    path, out = tmp_path / "varied.seedmask", tmp_path / "out"
    out.mkdir()
    write_seedmask(varied(), path, coding=coding)
    expected = compare(built, path, out)
    lines = succeed(built, path).splitlines()
    assert len(lines) == 10
    for line, entry in zip(lines, expected.tensors, strict=False):
        fields = line.split("\t")
        shape = "x".join(map(str, entry.shape)) or "scalar"
        assert fields[1:5] == [entry.name, shape, f"{np.prod(entry.shape, dtype=int)} weights", f"{entry.kept} kept"]
    assert lines[7] == "state-1\tflags\t7\tBOOL\t7 bytes"


@settings(max_examples=60, deadline=None)
@given(networks_of_every_kind(), st.sampled_from(["auto", "raw", "rans"]))
def test_random_networks_of_every_kind(built: Path, network: Network, coding: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "net.seedmask", Path(folder) / "out"
        out.mkdir()
        write_seedmask(network, path, coding=coding)
        compare(built, path, out)


def test_kinds_across_chunks(built: Path, tmp_path: Path) -> None:
    """Rows that end inside chunks and the other way round, more bytes of values than a window has."""
    rng, count, thresholds = np.random.default_rng(1), 20_003, Frozen(20000, 7000)
    pruned, kept = frozen_masks(3, 0, thresholds, count)
    mask, coats = rng.random(count) < 0.6, rng.integers(1, 128, count).astype(np.uint8)
    tensors = [
        MaskedTensor("frozen", (count,), "uniform", np.float32(1), mask & ~pruned | kept, coats, frozen=thresholds),
        MaskedTensor("coats", (count,), "signed-constant", np.float32(0.3), mask, multiplicity=coats),
        MaskedTensor("deltas", (count,), "normal", np.float32(0.3), mask, current=coats),
    ]
    for shape in ((83, 241), (3, 6667), (20_000, 1), (1, 20_001)):
        few = mask[: shape[0] * shape[1]]
        weights = rng.standard_normal(len(few)).astype(np.float32) * np.float32(1e-3)
        tensors += [
            MaskedTensor(
                f"{shape}{dtype}", shape, "normal", np.float32(1), few, trained=quantise(weights, few, shape, dtype)
            )
            for dtype in ("float32", "float16", "int8")
        ]
    path, out = tmp_path / "net.seedmask", tmp_path / "out"
    out.mkdir()
    write_seedmask(Network(seed=3, tensors=tuple(tensors)), path)
    compare(built, path, out)
    lines = succeed(built, path).splitlines()
    assert lines[0].endswith(f"\tfrozen 0.3052 pruned 0.1068 kept, {count - int((pruned | kept).sum())} free")
    assert f"\tcoats raw {-(-7 * int(mask.sum()) // 8)} bytes" in lines[1]
    entry = read_seedmask(path).tensors[5].values
    assert entry is not None
    assert lines[5].endswith(f"\tvalues I8 {entry.coding} {entry.bytes + 4 * 83} bytes")


def test_products_round_like_the_hardware_of_this_machine(built: Path, tmp_path: Path) -> None:
    """Scales in every binade that is allowed, with mantissas that round in all ways."""
    mantissas = [0, 1, 0x10204, 0x10205, 0x7FFFFF, 0x555555, 0x2AAAAB, 0x400001]
    bits = [exponent << 23 | mantissa for exponent in (1, 2, 60, 127, 200, 246) for mantissa in mantissas]
    tensors = tuple(
        MaskedTensor(f"{word:08x}", (400,), "normal", np.array(word, np.uint32).view(np.float32)[()], np.ones(400, "?"))
        for word in bits
    )
    path = tmp_path / "scales.seedmask"
    write_seedmask(Network(seed=3, tensors=tensors), path)
    out = tmp_path / "out"
    out.mkdir()
    compare(built, path, out)


def test_every_bad_file_is_refused_in_one_line(built: Path) -> None:
    files = sorted((FOLDER.parent / "bad_files").glob("*.seedmask"))
    assert len(files) > 100
    for path in files:
        if path.stem in NOT_CHECKED or path.stem.startswith("odd-"):
            succeed(built, path, "--verify")
        else:
            assert MESSAGES.get(path.stem, "") in refuse(built, path, "--verify"), path
    assert set(MESSAGES) <= {path.stem for path in files}


def moved(data: bytes, name: str, at: int, to: bytes) -> bytes:
    """The file with other bytes in one data tensor, and digests that fit."""
    header, manifest, payload = split(data)
    start = header[name]["data_offsets"][0] + at
    return join(header, manifest, payload[:start] + to + payload[start + len(to) :])


def head(stem: str, name: str) -> tuple[int, int]:
    """Where the first state of a mask in coding `rans` is, and what it is."""
    header, _, payload = split(FILES[stem])
    start, end = header[name]["data_offsets"]
    at, numbers = start, 0
    while numbers < 10:  # lane size and nine frequencies
        numbers += payload[at] < 128
        at += 1
    assert at < end
    return at - start, struct.unpack_from("<I", payload, at)[0]


def ends_with_255() -> bytes:
    """Right in every other way: a mask of 2000 zeros in gaps, one lane of the one symbol 255, which has all slots."""
    one = np.arange(2000) == 1234
    tensor = MaskedTensor("one", (2000,), "uniform", CODEBOOKS["uniform"].scale(1), one)
    header, manifest, payload = split(dumps(Network(seed=1, tensors=(tensor,))))
    assert manifest["tensors"][0]["mask"]["coding"] == "gaps"
    k, count, lane, frequencies = b"\6", b"\1", b"\1", b"\0\0\0\0\x80\x80\4"
    payload = k + count + lane + frequencies + struct.pack("<IH", 65536, 0)
    digest = hashlib.sha256(bytes(8000)).digest()
    manifest["tensors"][0].update(kept=0, sha256=digest.hex(), mask={"bytes": len(payload), "coding": "gaps"})
    manifest["digests"]["weights"] = hashlib.sha256(digest).hexdigest()
    header["mask/one"].update(data_offsets=[0, len(payload)], shape=[len(payload)])
    return join(header, manifest, payload)


def bad_inputs() -> dict[str, tuple[bytes, str]]:
    """Inputs, and a part of the line that each must get."""
    rans, none, gaps = FILES["v1-rans"], FILES["v1-none"], FILES["v1-gaps"]
    at, state = head("v1-rans", "mask/fc.weight")
    header, manifest, payload = split(none)
    return {
        "nothing": (b"", "truncated: expected at least 8 bytes, got 0"),
        "truncated": (rans[:-1], "truncated: expected"),
        "trailing": (rans + b"\0", "trailing bytes: expected"),
        "payload bit": (none[:-1] + bytes([none[-1] ^ 2]), "payload: expected SHA-256"),
        "manifest bit": (none.replace(b"0123456789abcdef", b"0123456789abcdee"), "manifest: expected SHA-256"),
        "header bit": (none.replace(b'"dtype":"U8"', b'"dtype":"I8"'), "header: does not agree with the manifest"),
        "unknown feature": (
            edited("v1-none", lambda m: m.update(required_features=["nested-masks"], new=1)),
            'required_features: this decoder does not know "nested-masks"',
        ),
        "unknown coding": (
            edited("v1-none", lambda m: m["tensors"][0]["mask"].update(coding="zstd")),
            'mask.coding: this decoder does not know "zstd"',
        ),
        "newer": (
            edited("v1-none", lambda m: m.update(format_version=2, digests="other", new=1)),
            "format_version: expected 1, got 2, from a newer version",
        ),
        "seed": (edited("v1-none", lambda m: m.update(seed="f" * 16)), '"fc.weight": weights: expected SHA-256'),
        "kept": (edited("v1-none", lambda m: m["tensors"][0].update(kept=9)), "mask: expected 9 ones, got 8"),
        "kept less": (edited("v1-none", lambda m: m["tensors"][0].update(kept=7)), "mask: expected 7 ones, got more"),
        "padding": (
            join(header, manifest, payload[:2] + bytes([payload[2] | 0x80])),
            '"fc.weight": mask: expected unused bits of 0',
        ),
        "last state": (
            # the first symbol stays the same, what follows does not
            moved(rans, "mask/fc.weight", at, struct.pack("<I", state ^ 0x10000)),
            '"fc.weight": mask, lane 0: expected the last state 65536 and no words left, got',
        ),
        "low state": (
            moved(rans, "mask/fc.weight", at, struct.pack("<I", 65535)),
            '"fc.weight": mask, lane 0: expected a first state of at least 65536, got 65535',
        ),
        "more words": (
            moved(rans, "mask/fc.weight", at + 4, b"\xff\xff"),
            '"fc.weight": mask, lane 0: expected 65535 words, got',
        ),
        "lane size": (
            moved(rans, "mask/fc.weight", 0, b"\x80\x00"),
            '"fc.weight", mask: symbols of a lane: the number is not',
        ),
        "frequencies": (
            moved(rans, "mask/fc.weight", at - 1, b"\x7f"),
            '"fc.weight", mask: frequencies: expected a sum of 65536, got',
        ),
        "gap shift": (moved(gaps, "mask/one", 0, b"\x07"), '"one", mask: k: expected 0 to 6, got 7'),
        "last symbol": (ends_with_255(), '"one": mask: the last symbol is 255'),
    }


BAD_INPUTS = bad_inputs()


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gets_one_line(built: Path, tmp_path: Path, name: str) -> None:
    data, message = BAD_INPUTS[name]
    path = tmp_path / "bad.seedmask"
    path.write_bytes(data)
    assert message in refuse(built, path, "--verify")


def test_what_was_not_decoded_to_the_end_is_removed(built: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "bad.seedmask", tmp_path / "out"
    path.write_bytes(BAD_INPUTS["seed"][0])
    out.mkdir()
    assert "weights: expected SHA-256" in refuse(built, path, "--float32", out)
    assert not list(out.iterdir())
    succeed(built, path, "--int8", out, "--skip-digests")
    assert [file.name for file in out.iterdir()] == ["0.i8"]


def test_limits(built: Path) -> None:
    path = FOLDER / "v1-draws.seedmask"  # 35, 17 and 3 weights
    succeed(built, path, "--max-weights", 55)
    assert "expected at most 54 weights in all, got 3 here" in refuse(built, path, "--max-weights", 54)
    assert "header: expected at most 1024 bytes, got" in refuse(built, path, "--max-header", 1024)


def test_exit_codes(built: Path, tmp_path: Path) -> None:
    assert refuse(built, tmp_path / "none.seedmask") == os.strerror(2)
    assert refuse(built, tmp_path)
    for arguments in ((), ("--verify",), ("a", "b"), ("a", "--int8"), ("a", "--max-weights", "-1"), ("a", "--other")):
        done = run(built, *arguments)
        assert done.returncode == 2
        assert done.stderr == "error: wrong usage; see seedmask --help\n"
    assert succeed(built, "--help").startswith("usage: seedmask FILE")
    assert "weights a second" in succeed(built, FOLDER / "v1-gaps.seedmask", "--bench", 2)


def test_fuzzing_finds_nothing(built: Path) -> None:
    """Sanitizers watch; `examples/edge/README.md` says how much longer runs were."""
    small = [FOLDER / f"{stem}.seedmask" for stem in ("v1-none", "v1-flips", "v1-draws")]
    for arguments in (
        ("--exhaustive", "--mutations", 3000, "--seed", 1, *small),
        ("--mutations", 400, "--seed", 2, FOLDER / "v1-rans.seedmask"),
        ("--mutations", 20, "--seed", 3, FOLDER / "v1-gaps.seedmask"),
        ("--mutations", 1500, "--seed", 5, *sorted(FOLDER.glob("v1-compact*.seedmask"))),
        ("--mutations", 3000, "--seed", 6, FOLDER / "v1-constants.seedmask"),
        *(
            ("--mutations", 300, "--seed", 4, FOLDER / f"v1-{stem}.seedmask")
            for stem in ("deltas", "frozen", "coats", "values-float32", "values-float16", "values-int8")
        ),
    ):
        command = [str(built / "fuzz"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "fields and payloads: " in done.stdout


def test_the_example_of_the_readme(built: Path, tmp_path: Path) -> None:
    text = (EDGE / "README.md").read_text(encoding="utf-8")
    source, program, path = tmp_path / "example.c", tmp_path / "example", FOLDER / "v1-rans.seedmask"
    source.write_text(text.split("```c\n")[1].split("```")[0])
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")))
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{EDGE}", str(source)]
    subprocess.run([*command, str(built / "libseedmask.a"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], input=path.read_bytes(), capture_output=True, check=True)
    assert done.stdout == b"".join(weights.tobytes() for weights in read_seedmask(path).weights().values())
    assert subprocess.run([str(program)], input=b"", capture_output=True, check=False).returncode == 1
