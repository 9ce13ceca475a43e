"""Damage anywhere in a file is noticed; `bad_files` has a file for each kind of fault, with what is said about it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from bad_files.make import change, edited, golden, join, split
from golden.make import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seedmask import loads, read_seedmask

FIRST = ("v1-none", "v1-flips", "v1-draws", "v1-rans", "v1-gaps")
FILES = {stem: golden(stem) for stem in GOLDEN}


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


def test_a_header_above_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as stream:
        stream.write((2 * 10**8).to_bytes(8, "little") + b"{")
        stream.truncate(3 * 10**8)  # sparse: takes no space
    with pytest.raises(SeedMaskError, match="big: header: expected at most 100000000 bytes, got 200000000"):
        read_seedmask(path)


def test_a_number_written_as_text_is_refused() -> None:
    refuse(edited("v1-none", change("tensors.0.kept", "8")), "manifest: tensors.0.kept: .* integer, got '8'")


def test_nesting_that_no_parser_survives_is_refused() -> None:
    header, _, payload = split(FILES["v1-none"])
    refuse(join(header, '{"a":' * 99999 + "1" + "}" * 99999, payload), "manifest: nested too deeply")
    refuse((60008).to_bytes(8, "little") + b'{"a":' + b"[" * 60003, "header: nested too deeply")


def test_max_weights_is_a_parameter() -> None:
    assert loads(FILES["v1-none"], max_weights=20).tensors
    with pytest.raises(SeedMaskError, match="expected at most 19 weights, got 20"):
        loads(FILES["v1-none"], max_weights=19)


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
