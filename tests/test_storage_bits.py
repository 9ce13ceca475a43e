"""Bit packing, codings, and the choice of the resampling log."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.seedmask.bits import (
    Row,
    binary_entropy,
    pack_values,
    packed_bytes,
    symbol_entropy,
    unpack_values,
)
from iterand_compress.compress.seedmask.codings import check_coding, decode_rows, encode_rows, plan
from iterand_compress.compress.seedmask.log import ResamplingLog, choose_log


def naive_pack(values: list[int], width: int) -> bytes:
    number = sum(value << width * i for i, value in enumerate(values))
    return number.to_bytes(packed_bytes(len(values), width), "little")


@given(st.data())
def test_packing_is_one_long_little_endian_number(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 8))
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=70))
    packed = pack_values(np.array(values, np.uint8), width)
    assert packed == naive_pack(values, width)
    assert unpack_values(packed, len(values), width).tolist() == values


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(-9, 9), st.integers(0, 2**32))
def test_round_trip_across_the_chunk_border(width: int, more: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**width, 65536 + more).astype(np.uint8)
    packed = pack_values(values, width)
    assert len(packed) == packed_bytes(len(values), width)
    assert np.array_equal(unpack_values(packed, len(values), width), values)


def test_packed_bytes_in_clear() -> None:
    assert pack_values(np.array([1, 0, 0, 0, 0, 0, 0, 0, 1, 1], np.uint8), 1).hex() == "0103"
    assert pack_values(np.array([1, 2, 3, 4, 5], np.uint8), 3).hex() == "d158"
    assert pack_values(np.array([255, 1], np.uint8), 8).hex() == "ff01"


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_payload_of_another_size_is_refused(width: int, wrong: int) -> None:
    size = packed_bytes(20, width) + wrong
    with pytest.raises(SeedMaskError, match=rf"expected {size - wrong} bytes for 20 values .* got {size};"):
        unpack_values(bytes(size), 20, width)


@pytest.mark.parametrize(("count", "width"), [(1, 1), (15, 1), (3, 3), (5, 7)])
def test_padding_bits_must_be_zero(count: int, width: int) -> None:
    payload = bytearray(packed_bytes(count, width))
    payload[-1] = 0x80
    with pytest.raises(SeedMaskError, match="expected padding bits of 0, got last byte 0x80"):
        unpack_values(bytes(payload), count, width)


def test_entropy_bounds() -> None:
    assert binary_entropy(4, 10) / 10 == pytest.approx(0.971, abs=5e-4)
    assert binary_entropy(0, 10) == binary_entropy(10, 10) == binary_entropy(0, 0) == 0
    assert symbol_entropy(np.array([4, 0, 4])) == 8
    assert symbol_entropy(np.array([1, 2, 5])) == pytest.approx(3 + 2 * 2 + 5 * math.log2(8 / 5))


def test_an_unknown_coding_is_refused_by_name() -> None:
    with pytest.raises(SeedMaskError, match="unknown coding 'zstd'; known: raw, rans, gaps; update iterand-compress"):
        check_coding("zstd")
    with pytest.raises(ConfigError, match="coding: unknown 'ran'; did you mean 'rans'"):
        plan(Row.pack(np.zeros(3, np.uint8), 1), "ran")


@pytest.mark.parametrize(("density", "coding"), [(0.5, "raw"), (0.4, "rans"), (0.005, "gaps")])
def test_the_smallest_coding_is_taken_and_reaches_the_bound(density: float, coding: str) -> None:
    bits = (np.random.default_rng(0).random(1_000_000) < density).astype(np.uint8)
    row = Row.pack(bits, 1)
    (coded,) = encode_rows([plan(row)])
    assert coded.coding == coding
    bound = binary_entropy(int(bits.sum()), len(bits)) / 8
    assert bound <= len(coded.payload) < 1.005 * bound + 60
    others = [encode_rows([plan(row, choice)], choice)[0] for choice in ("raw", "rans")]
    assert len(coded.payload) <= min(len(other.payload) for other in others)
    for item in (coded, *others):
        assert np.array_equal(decode_rows([("", item)])[0].values(), bits)


def test_more_rows_than_are_decoded_at_a_time() -> None:
    """Each needs a table of 64 KiB: 4000 at once took 600 MB."""
    rng = np.random.default_rng(0)
    rows = [Row.pack(rng.integers(0, 8, int(rng.integers(1, 50))).astype(np.uint8), 3) for _ in range(300)]
    coded = encode_rows([plan(row, "rans") for row in rows], "rans")
    for row, found in zip(rows, decode_rows([("", item) for item in coded]), strict=True):
        assert np.array_equal(row.values(), found.values())


@pytest.mark.parametrize("choice", ["auto", "raw", "rans"])
@pytest.mark.parametrize("width", [1, 3])
def test_a_row_without_values(width: int, choice: str) -> None:
    (coded,) = encode_rows([plan(Row.pack(np.zeros(0, np.uint8), width), choice)], choice)
    assert not len(decode_rows([("", coded)])[0].values())


@given(st.binary(max_size=40), st.integers(0, 80), st.integers(0, 80))
def test_any_part_of_a_row_of_bits(data: bytes, start: int, stop: int) -> None:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little") if data else np.empty(0, np.uint8)
    row = Row.pack(bits, 1)
    start, stop = min(start, len(bits)), min(stop, len(bits))
    if start <= stop:
        assert row.values(start, stop).tolist() == bits[start:stop].tolist()
    assert row.ones() == bits.sum()


def log_of(draws: list[int], differs: list[bool], *, two_valued: bool) -> tuple[str, int, bytes]:
    log = choose_log(np.array(draws, np.uint8), np.array(differs, np.bool_), two_valued=two_valued)
    if log.kind == "none":
        return log.kind, log.row.width, log.row.packed()
    (coded,) = encode_rows([plan(log.row)])
    assert np.array_equal(decode_rows([("", coded)])[0].values(), log.values)
    return log.kind, log.row.width, bytes(coded.payload)


def test_the_smallest_log_wins() -> None:
    assert log_of([0, 0, 0], [False] * 3, two_valued=True) == ("none", 0, b"")
    assert log_of([0, 3, 1], [False] * 3, two_valued=False) == ("none", 0, b""), "redrawn, same value"
    assert log_of([0, 3, 1], [False, True, False], two_valued=True) == ("flips", 1, b"\x02")
    assert log_of([0, 1, 1], [False, True, True], two_valued=True)[0] == "flips", "ties go to the first kind"
    assert log_of([0, 3, 1], [False, True, False], two_valued=False) == ("draws", 2, b"\x1c")
    assert log_of([255, 1], [True, True], two_valued=False) == ("draws", 8, b"\xff\x01")


@pytest.mark.parametrize(
    ("kind", "width", "values", "message"),
    [
        ("flips", 1, [0, 0, 0], "expected at least one flip, got none"),
        ("draws", 2, [1, 1, 0], "expected draws of 2 bits, got 1 as the largest"),
        ("draws", 1, [0, 0, 0], "expected draws of 1 bits, got 0 as the largest"),
    ],
)
def test_logs_that_the_packer_cannot_have_written(kind: str, width: int, values: list[int], message: str) -> None:
    with pytest.raises(SeedMaskError, match=message):
        ResamplingLog(kind, Row.pack(np.array(values, np.uint8), width))


def test_bounds_of_logs() -> None:
    flips = choose_log(np.array([1, 0, 0, 0], np.uint8), np.array([True, False, False, False]), two_valued=True)
    assert flips.row.entropy() == pytest.approx(4 * 0.811278, rel=1e-5)
    draws = choose_log(np.array([0, 1, 2, 3], np.uint8), np.array([False, True, True, True]), two_valued=False)
    assert draws.row.entropy() == 8
    assert choose_log(np.zeros(4, np.uint8), np.zeros(4, np.bool_), two_valued=True).row.entropy() == 0
