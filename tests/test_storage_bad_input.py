"""Every damaged, foreign, newer or hostile file gets one clear line, and never wrong weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.make import FOLDER, GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seedmask import loads, read_seedmask
from iterand_compress.compress.seedmask.json_text import canonical_json

FIRST = ("v1-none", "v1-flips", "v1-draws", "v1-rans", "v1-gaps")
FILES = {stem: (FOLDER / f"{stem}.seedmask").read_bytes() for stem in GOLDEN}


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header without metadata, manifest, data section."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")["seedmask"])
    return header, manifest, data[8 + length :]


def join(header: dict[str, Any], manifest: dict[str, Any] | str, payload: bytes, *, seal: bool = True) -> bytes:
    """A file with the given parts, whose digests of manifest and payload are right unless ``seal`` is off."""
    if isinstance(manifest, dict):
        if seal and isinstance(manifest.get("digests"), dict):
            manifest["digests"]["payload"] = hashlib.sha256(payload).hexdigest()
            manifest["digests"]["manifest"] = "0" * 64
            digest = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
            manifest["digests"]["manifest"] = digest
        manifest = canonical_json(manifest)
    text = canonical_json({**header, "__metadata__": {"seedmask": manifest}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def misstated(data: bytes) -> bytes:
    """The file with wrong digests of the weights, those of manifest and payload being right."""
    header, manifest, payload = split(data)
    for entry in manifest["tensors"]:
        entry["sha256"] = "0" * 64
    manifest["digests"]["weights"] = hashlib.sha256(bytes(32 * len(manifest["tensors"]))).hexdigest()
    return join(header, manifest, payload)


def refuse(data: bytes, message: str) -> None:
    with pytest.raises(SeedMaskError, match=message) as caught:
        loads(data).verify()
    assert str(caught.value).startswith("<memory>: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stem", FILES)
def test_join_undoes_split(stem: str) -> None:
    assert join(*split(FILES[stem])) == FILES[stem]


@pytest.mark.slow
@pytest.mark.parametrize("stem", FILES)
def test_every_single_bit_flip_is_noticed(stem: str) -> None:
    """Every one in files of the first release; of the others one in 11, and all in benchmarks/fuzz_storage.py."""
    data = bytearray(FILES[stem])
    for position in range(0, 8 * len(data), 1 if stem in FIRST else 11):
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(SeedMaskError):
            loads(bytes(data))
        data[position // 8] ^= 1 << position % 8
    assert bytes(data) == FILES[stem]


@pytest.mark.slow
@pytest.mark.parametrize("stem", FILES)
def test_every_truncation_and_every_addition_is_noticed(stem: str) -> None:
    data = FILES[stem]
    refuse(b"", "the file is empty")
    for length in range(1, len(data)):
        refuse(data[:length], f"truncated: expected .*, got .*{length}")
    refuse(data + b"\0", f"trailing bytes: expected {len(data)} bytes, got {len(data) + 1}")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_damage_raises_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    original = bytes(damaged)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged)))
        damaged[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    if damaged != original:
        with pytest.raises(SeedMaskError):
            loads(bytes(damaged)).weights()


FOREIGN = {
    "a pickle": (b"\x80\x04\x95" + bytes(40), "not a .seedmask file"),
    "a zip": (b"PK\x03\x04" + bytes(40), "not a .seedmask file"),
    "text": (b"hello, this is a text file\n", "not a .seedmask file"),
    "zeros": (bytes(100), "not a .seedmask file"),
    "an ordinary safetensors file": (save({"a": np.zeros(3)}), "a safetensors file, but not a .seedmask"),
    "with other metadata": (save({"a": np.zeros(3)}, {"x": "y"}), "a safetensors file, but not a .seedmask"),
    "an array": ((8).to_bytes(8, "little") + b"{]      ", "header: not valid JSON"),
    "not UTF-8": ((8).to_bytes(8, "little") + b'{"\xff":1} ', "header: not valid JSON"),
    "duplicate names": ((16).to_bytes(8, "little") + b'{"a":1,"a":2}   ', "header: duplicate key 'a'"),
    "a list as metadata": ((24).to_bytes(8, "little") + b'{"__metadata__":[1,2]}  ', "not a .seedmask"),
    "deep": ((60008).to_bytes(8, "little") + b'{"a":' + b"[" * 60003, "header: nested too deeply"),
    "not quite as deep": (
        (816).to_bytes(8, "little") + b'{"a":' + b"[" * 405 + b"]" * 405 + b"}",
        "header: nested too deeply",
    ),
    "NaN": ((16).to_bytes(8, "little") + b'{"a":NaN}       ', "header: expected a finite number, got NaN"),
    "1e999": (
        (16).to_bytes(8, "little") + b'{"a":1e999}     ',
        "header: expected a finite number, got 1e999",
    ),
    "a huge number": (
        (40).to_bytes(8, "little") + b'{"a":' + b"1" * 30 + b"}    ",
        "header: a number of 30 digits",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(name: str) -> None:
    refuse(*FOREIGN[name])


def test_a_header_above_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as stream:
        stream.write((2 * 10**8).to_bytes(8, "little") + b"{")
        stream.truncate(3 * 10**8)  # sparse: takes no space
    with pytest.raises(SeedMaskError, match="big: header: expected at most 100000000 bytes, got 200000000"):
        read_seedmask(path)


def edited(stem: str, edit: Callable[[dict[str, Any]], object]) -> bytes:
    header, manifest, payload = split(FILES[stem])
    edit(manifest)
    return join(header, manifest, payload)


def change(where: str, to: object) -> Callable[[dict[str, Any]], None]:
    """An edit of the field with a path such as ``tensors.0.kept``."""

    def edit(manifest: Any) -> None:
        *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
        for key in path:
            manifest = manifest[key]
        manifest[last] = to

    return edit


MANIFESTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "newer": (
        "v1-none",
        lambda m: m.update(format_version=2, something_new=1, digests="other"),
        "format version 2 was made by a newer iterand-compress; this one reads up to 1; update: pip install",
    ),
    "version 0": ("v1-none", change("format_version", 0), "expected a format_version of 1 or more, got 0"),
    "version text": (
        "v1-none",
        change("format_version", "1"),
        "expected a format_version of 1 or more, got '1'",
    ),
    "version true": (
        "v1-none",
        change("format_version", True),
        "expected a format_version of 1 or more, got True",
    ),
    "feature": (
        "v1-none",
        lambda m: m.update(required_features=["nested-masks"], something_new=1),
        "the file requires the feature 'nested-masks', which this version lacks; update",
    ),
    "features": (
        "v1-none",
        change("required_features", [1]),
        "expected required_features as a list of names",
    ),
    "generator": (
        "v1-none",
        change("generator", "mt19937"),
        "unknown generator 'mt19937'; known: philox4x32-10; update",
    ),
    "unknown field": ("v1-none", change("extra", 1), "manifest: extra: Extra inputs are not permitted"),
    "absent field": ("v1-none", lambda m: m.pop("seed"), "manifest: seed: Field required"),
    "seed": ("v1-none", change("seed", "12"), "manifest: seed: String should match"),
    "capital hex": ("v1-none", change("seed", "0123456789ABCDEF"), "manifest: seed: String should match"),
    "kept text": ("v1-none", change("tensors.0.kept", "8"), "manifest: tensors.0.kept: .* integer, got '8'"),
    "no tensors": ("v1-none", change("tensors", []), "manifest: tensors: Tuple should have at least 1 item"),
    "codebook": (
        "v1-none",
        change("tensors.0.codebook", "cauchy"),
        "tensor 'fc.weight': unknown codebook 'cauchy'; known: signed-constant, uniform, normal; update",
    ),
    "mask coding": (
        "v1-none",
        change("tensors.0.mask.coding", "zstd"),
        "tensor 'fc.weight': unknown coding 'zstd'; known: raw, rans, gaps; update",
    ),
    "log coding": (
        "v1-flips",
        change("tensors.0.log.coding", "zstd"),
        "tensor 'conv.weight': unknown coding 'zstd'",
    ),
    "feature absent": (
        "v1-flips",
        change("tensors.0.log.coding", "rans"),
        r"manifest: expected required_features \['rans'\], got \[\]",
    ),
    "feature without need": (
        "v1-none",
        change("required_features", ["gaps"]),
        r"manifest: expected required_features \[\], got \['gaps'\]",
    ),
    "log kind": (
        "v1-flips",
        change("tensors.0.log.kind", "events"),
        "tensor 'conv.weight': unknown log kind 'events'; known: none, flips, draws, deltas; update",
    ),
    "log width": (
        "v1-flips",
        change("tensors.0.log.width", 2),
        r"log 'flips': expected a width in \[1\], got 2",
    ),
    "log width 0": (
        "v1-draws",
        change("tensors.0.log.width", 0),
        "log 'draws': expected a width in .*, got 0",
    ),
    "log width 9": ("v1-draws", change("tensors.0.log.width", 9), "manifest: tensors.0.log.width"),
    "log none": (
        "v1-none",
        change("tensors.0.log.bytes", 1),
        "log 'none': expected an empty raw payload, got 1 bytes",
    ),
    "flips of many": (
        "v1-flips",
        change("tensors.0.codebook", "normal"),
        "log 'flips': expected a two-valued codebook, got 'normal'",
    ),
    "scale 0": (
        "v1-none",
        change("tensors.0.scale", "00000000"),
        "tensor 'fc.weight': scale: expected a positive, finite, normal float32 as scale, got 0.0",
    ),
    "scale negative": ("v1-none", change("tensors.0.scale", "bf800000"), "as scale, got -1.0"),
    "scale NaN": ("v1-none", change("tensors.0.scale", "7fc00000"), "as scale, got nan"),
    "scale inf": ("v1-none", change("tensors.0.scale", "7f800000"), "as scale, got inf"),
    "scale text": (
        "v1-none",
        change("tensors.0.scale", "3f80000"),
        "manifest: tensors.0.scale: String should match",
    ),
    "shape 0": (
        "v1-none",
        change("tensors.0.shape", [0, 5]),
        r"tensor 'fc.weight': shape: expected a shape of integers >= 1, got \[0, 5\]",
    ),
    "shape huge": (
        "v1-none",
        change("tensors.0.shape", [2**20, 2**20]),
        r"tensor 'fc.weight': shape: expected at most 2\*\*36 items",
    ),
    "shape overflow": ("v1-none", change("tensors.0.shape", [2**32, 2**32, 2**32]), r"at most 2\*\*36 items"),
    "rank": ("v1-none", change("tensors.0.shape", [1] * 99), "at most 16 dimensions, got 99"),
    "above the cap": (
        "v1-none",
        change("tensors.0.shape", [2**17, 2**17]),
        r"expected at most 16777216 weights, got 17179869184; raise max_weights \(--max-weights 17179869184\)",
    ),
    "kept above": ("v1-none", change("tensors.0.kept", 21), "expected at most 20 kept weights, got 21"),
    "kept negative": ("v1-none", change("tensors.0.kept", -1), "manifest: tensors.0.kept"),
    "kept other": (
        "v1-none",
        change("tensors.0.kept", 9),
        "tensor 'fc.weight': expected a mask that keeps 9 of 20 weights, got 8",
    ),
    "name twice": (
        "v1-draws",
        change("tensors.1.name", "a"),
        "tensor 'a': expected unique names, got it twice",
    ),
    "name of state": (
        "v1-flips",
        change("state.0.name", "fc.weight"),
        "tensor 'fc.weight': expected unique names",
    ),
    "name escape": (
        "v1-none",
        change("tensors.0.name", "\x1b[2J"),
        r"tensor name: '\\x1b\[2J' contains the control character",
    ),
    "name surrogate": (
        "v1-none",
        change("tensors.0.name", "\ud800"),
        "manifest: tensors.0.name|control character",
    ),
    "class escape": ("v1-flips", change("classes", ["a\x07", "b"]), "class name: .* control character"),
    "recipe escape": ("v1-none", change("recipe", {"a\x00": 1}), "recipe: .* control character"),
    "recipe deep": (
        "v1-none",
        change("recipe", {"a": json.loads("[" * 20 + "]" * 20)}),
        "recipe.a: nested deeper than 16",
    ),
    "input": (
        "v1-flips",
        change("input.std", [0.0, 1.0]),
        "manifest: input: image: std: expected finite and positive float32 numbers",
    ),
    "integer std": (
        "v1-flips",
        change("input.std", [1, 1]),
        "manifest: a value is not in its canonical form",
    ),
    "state dtype": ("v1-flips", change("state.0.dtype", "F4"), "state 'bn.count': unknown dtype 'F4'"),
    "state shape": (
        "v1-flips",
        change("state.0.shape", [-1]),
        r"state 'bn.count': expected a shape of integers >= 0, got \[-1\]",
    ),
    "state larger": (
        "v1-flips",
        change("state.0.shape", [2]),
        r"tensor 'log/conv.weight': expected the header entry .*\[26,29\].*, got .*\[18,21\]",
    ),
    "mask larger": (
        "v1-none",
        change("tensors.0.mask.bytes", 4),
        "tensor 'mask/fc.weight': expected the header entry",
    ),
    "absent tensor": (
        "v1-none",
        change("tensors.0.name", "other"),
        "tensor 'mask/other': declared by the manifest, but absent",
    ),
    "weights digest": (
        "v1-none",
        change("digests.weights", "1" * 64),
        "weights digest: expected .*, got 1111",
    ),
    "tensor digest": ("v1-none", change("tensors.0.sha256", "1" * 64), "weights digest: expected .*, got "),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(name: str) -> None:
    stem, edit, message = MANIFESTS[name]
    refuse(edited(stem, edit), message)


def test_max_weights_is_a_parameter() -> None:
    assert loads(FILES["v1-none"], max_weights=20).tensors
    with pytest.raises(SeedMaskError, match="expected at most 19 weights, got 20"):
        loads(FILES["v1-none"], max_weights=19)


def test_another_text_of_the_same_manifest_is_refused() -> None:
    header, manifest, payload = split(FILES["v1-none"])
    refuse(join(header, json.dumps(manifest), payload), "manifest: expected canonical JSON")
    text = canonical_json(manifest)
    refuse(
        join(header, text.replace('{"arch', '{"kept":1,"kept":1,"arch'), payload),
        "manifest: duplicate key 'kept'",
    )
    refuse(join(header, "[]", payload), "manifest: expected a JSON object, got list")
    refuse(join(header, "{", payload), "manifest: not valid JSON")
    refuse(join(header, '{"a":' * 99999 + "1" + "}" * 99999, payload), "manifest: nested too deeply")


def test_a_changed_manifest_with_the_old_digest() -> None:
    header, manifest, payload = split(FILES["v1-none"])
    manifest["seed"] = "0" * 16
    refuse(
        join(header, manifest, payload, seal=False),
        "manifest digest: expected [0-9a-f]{64}, got [0-9a-f]{64}; the file is damaged",
    )


def test_a_changed_payload() -> None:
    header, manifest, payload = split(FILES["v1-none"])
    refuse(
        join(header, manifest, bytes([payload[0] ^ 1]) + payload[1:], seal=False),
        "payload digest: expected .*, got ",
    )


def test_headers_that_hold_more_than_the_manifest_says() -> None:
    header, manifest, payload = split(FILES["v1-none"])
    extra = {**header, "mask/evil": {"dtype": "U8", "shape": [0], "data_offsets": [3, 3]}}
    refuse(join(extra, manifest, payload), "tensor 'mask/evil': in the header, but not declared by the manifest")
    field = {"mask/fc.weight": {**header["mask/fc.weight"], "x": 1}}
    refuse(join(field, manifest, payload), "tensor 'mask/fc.weight': expected the header entry")
    good = FILES["v1-none"]
    length = int.from_bytes(good[:8], "little")
    padded = (length + 8).to_bytes(8, "little") + good[8 : 8 + length] + b" " * 8 + good[8 + length :]
    refuse(padded, "header: not in canonical form")


def test_a_mask_with_padding_bits_or_another_count() -> None:
    header, manifest, payload = split(FILES["v1-none"])
    refuse(
        join(header, manifest, payload[:2] + bytes([payload[2] | 0x80])),
        "tensor 'fc.weight': expected padding bits of 0",
    )
    refuse(
        join(header, manifest, bytes([payload[0] ^ 1]) + payload[1:]),
        "tensor 'fc.weight': expected a mask that keeps 8",
    )


def test_other_weights_are_never_returned() -> None:
    """A payload that is whole in every other way: two bits of the mask have changed places."""
    header, manifest, payload = split(FILES["v1-none"])
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
    kept, pruned = np.flatnonzero(bits)[0], np.flatnonzero(bits[:20] == 0)[0]
    bits[[kept, pruned]] = bits[[pruned, kept]]
    seedmask = loads(join(header, manifest, np.packbits(bits, bitorder="little").tobytes()))
    expected = seedmask.tensors[0].sha256
    with pytest.raises(
        SeedMaskError, match=f"tensor 'fc.weight': expected recovered weights with SHA-256 {expected}, got"
    ):
        seedmask.weights()


def test_without_verification_weights_are_still_compared() -> None:
    data = bytearray(FILES["v1-flips"])
    header, _, payload = split(bytes(data))
    start, _ = header["log/conv.weight"]["data_offsets"]
    data[len(data) - len(payload) + start] ^= 1
    with pytest.raises(SeedMaskError, match="payload digest"):
        loads(bytes(data))
    seedmask = loads(bytes(data), verify=False)
    with pytest.raises(SeedMaskError, match=r"tensor 'conv\.weight': expected recovered weights"):
        seedmask.weights()


def test_a_missing_file_a_folder_and_a_device(tmp_path: Path) -> None:
    with pytest.raises(
        SeedMaskError, match=r"none\.seedmask: cannot be read: No such file or directory; check the path"
    ):
        read_seedmask(tmp_path / "none.seedmask")
    with pytest.raises(SeedMaskError, match=r"not a regular file; give the path of a \.seedmask file"):
        read_seedmask(tmp_path)
    with pytest.raises(SeedMaskError, match="/dev/null: not a regular file"):
        read_seedmask("/dev/null")


def test_the_path_stands_in_front_of_every_message(tmp_path: Path) -> None:
    path = tmp_path / "x.seedmask"
    path.write_bytes(FILES["v1-none"][:-1])
    with pytest.raises(SeedMaskError, match=f"^{path}: truncated: expected 867 bytes, got 866; the file is damaged"):
        read_seedmask(path)
