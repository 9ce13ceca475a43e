"""The entropy codings against plain ones, written from docs/FORMAT.md §1.4 and §1.5 with loops over single symbols."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seedmask.bits import Row
from iterand_compress.compress.seedmask.codings import Coded, Plan, decode_rows, encode_rows, plan
from iterand_compress.compress.seedmask.rans import Table, alphabet, gap_alphabet

# ---- The plain coder


class DamagedError(Exception):
    """The plain decoder refuses a payload."""


def refuse_if(wrong: bool) -> None:
    if wrong:
        raise DamagedError


@dataclass(frozen=True)
class Recipe:
    """How to code a row: everything that a payload states beside the symbols."""

    coding: str
    width: int
    lane: int
    frequencies: tuple[int, ...]
    shift: int = 0


def classes_of(coding: str, width: int, shift: int) -> list[int]:
    """Class of each symbol."""
    if coding == "gaps":
        return [s // 2**shift for s in range(255)] + [254 // 2**shift + 1]
    if width == 1:
        return [bin(s).count("1") for s in range(256)]
    return list(range(2**width))


def slots_of(classes: list[int], frequencies: tuple[int, ...]) -> tuple[list[int], dict[int, int]]:
    """Symbol of each slot, and first slot of each symbol."""
    slots: list[int] = []
    first = {}
    for wanted, frequency in enumerate(frequencies):
        for symbol, own in enumerate(classes):
            if own == wanted:
                first[symbol] = len(slots)
                slots += [symbol] * frequency
    return slots, first


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def symbols_of(values: list[int], recipe: Recipe) -> list[int]:
    if recipe.coding == "gaps":
        symbols, zeros = [], 0
        for bit in values:
            zeros += 1
            if bit:
                symbols += [255] * ((zeros - 1) // 255) + [(zeros - 1) % 255]
                zeros = 0
        return symbols
    if recipe.width == 1:
        return [sum(bit << i for i, bit in enumerate(values[at : at + 8])) for at in range(0, len(values), 8)]
    return values


def values_of(symbols: list[int], recipe: Recipe, count: int) -> list[int]:
    if recipe.coding == "gaps":
        refuse_if(not symbols or symbols[-1] == 255)
        bits = []
        for symbol in symbols:
            bits += [0] * symbol + ([1] if symbol < 255 else [])
        refuse_if(len(bits) > count)
        return bits + [0] * (count - len(bits))
    if recipe.width == 1:
        bits = [symbol >> i & 1 for symbol in symbols for i in range(8)]
        refuse_if(any(bits[count:]))
        return bits[:count]
    return symbols


def plain_encode(symbols: list[int], recipe: Recipe) -> bytes:
    classes = classes_of(recipe.coding, recipe.width, recipe.shift)
    slots, first = slots_of(classes, recipe.frequencies)
    assert len(slots) == 65536
    states, lengths, words = b"", b"", b""
    for at in range(0, len(symbols), recipe.lane):
        x, own = 65536, b""
        for s in reversed(symbols[at : at + recipe.lane]):
            frequency = recipe.frequencies[classes[s]]
            if x >= 65536 * frequency:
                own = (x % 65536).to_bytes(2, "little") + own
                x = x // 65536
            x = 65536 * (x // frequency) + x % frequency + first[s]
        states += x.to_bytes(4, "little")
        lengths += (len(own) // 2).to_bytes(2, "little")
        words += own
    start = bytes([recipe.shift]) + varint(len(symbols)) if recipe.coding == "gaps" else b""
    return start + b"".join(map(varint, (recipe.lane, *recipe.frequencies))) + states + lengths + words


def plain_decode(coded: Coded) -> list[int]:
    """The values of a row, or `DamagedError`."""
    left = list(coded.payload)

    def take(size: int) -> int:
        refuse_if(len(left) < size)
        number = int.from_bytes(bytes(left[:size]), "little")
        del left[:size]
        return number

    def number() -> int:
        groups = [take(1)]
        while groups[-1] >= 128:
            refuse_if(len(groups) == 6)
            groups.append(take(1))
        refuse_if(len(groups) > 1 and groups[-1] == 0)
        return sum((group % 128) * 128**i for i, group in enumerate(groups))

    shift = 0
    if coded.coding == "gaps":
        shift = take(1)
        refuse_if(coded.width != 1 or shift > 6)
        n = number()
        refuse_if(n > coded.count)
    else:
        n = math.ceil(coded.count / 8) if coded.width == 1 else coded.count
    classes = classes_of(coded.coding, coded.width, shift)
    recipe = Recipe(coded.coding, coded.width, number(), tuple(number() for _ in range(max(classes) + 1)), shift)
    refuse_if(not 1 <= recipe.lane <= 32768)
    refuse_if(sum(recipe.frequencies[c] for c in classes) != 65536)
    slots, first = slots_of(classes, recipe.frequencies)
    lanes = math.ceil(n / recipe.lane)
    states = [take(4) for _ in range(lanes)]
    lengths = [take(2) for _ in range(lanes)]
    words = [[take(2) for _ in range(length)] for length in lengths]
    refuse_if(bool(left))
    symbols = []
    for i, (x, own) in enumerate(zip(states, words, strict=True)):
        refuse_if(x < 65536)
        for _ in range(min(recipe.lane, n - i * recipe.lane)):
            slot = x % 65536
            s = slots[slot]
            symbols.append(s)
            x = recipe.frequencies[classes[s]] * (x // 65536) + slot - first[s]
            if x < 65536:
                refuse_if(not own)
                x = 65536 * x + own.pop(0)
            assert 65536 <= x < 2**32
        refuse_if(bool(own) or x != 65536)
    return values_of(symbols, recipe, coded.count)


# ---- The same, as the vectorised coder wants it


def planned(values: list[int], recipe: Recipe) -> Plan:
    """A plan with the table and the lanes of a recipe."""
    symbols = gap_alphabet(recipe.shift) if recipe.coding == "gaps" else alphabet(recipe.width)
    row = Row.pack(np.array(values, np.uint8), recipe.width)
    return Plan(recipe.coding, row, 0, Table(symbols, recipe.frequencies), recipe.lane, recipe.shift)


def coded_plainly(values: list[int], recipe: Recipe) -> Coded:
    return Coded(recipe.coding, plain_encode(symbols_of(values, recipe), recipe), len(values), recipe.width)


def decoded(*rows: Coded) -> list[list[int]]:
    return [row.values().tolist() for row in decode_rows([(f"row {i}", coded) for i, coded in enumerate(rows)])]


def even(coding: str, width: int, shift: int = 0, *, only: int | None = None) -> tuple[int, ...]:
    """Frequencies as even as the classes allow, or all slots for the one symbol of a class of size 1."""
    classes = classes_of(coding, width, shift)
    sizes = [classes.count(c) for c in range(max(classes) + 1)]
    if only is not None:
        assert sizes[only] == 1
        return tuple(65536 if c == only else 0 for c in range(len(sizes)))
    found = [65536 // len(classes)] * len(sizes)
    found[-1] += 65536 - sum(f * size for f, size in zip(found, sizes, strict=True))
    return tuple(found)


@st.composite
def rows(draw: st.DrawFn, longest: int = 300) -> tuple[list[int], Recipe]:
    """Values of up to ``longest`` symbols; lanes of any length, and any table that can code the values."""
    coding = draw(st.sampled_from(["rans", "rans", "gaps"]))
    width = 1 if coding == "gaps" else draw(st.sampled_from([1, 1, 2, 3, 8]))
    shift = draw(st.integers(0, 6)) if coding == "gaps" else 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, longest * (8 if width == 1 else 1)))
    if width == 1:
        density = draw(st.sampled_from([0, 0.001, 0.02, 0.3, 1]))
        bits = rng.random(count) < density
        if coding == "gaps":  # at least one, and perhaps at an end
            bits[draw(st.sampled_from([0, count // 2, count - 1]))] = True
        values = bits.astype(int).tolist()
    else:
        values = (2**width * rng.random(count) ** draw(st.sampled_from([1, 4, 99]))).astype(int).tolist()
    recipe = Recipe(coding, width, draw(st.integers(1, 300)), (), shift)

    # Every class that occurs gets 1, some get parts of what is left, and the last, which has size 1, gets the rest.
    classes = classes_of(coding, width, shift)
    sizes = [classes.count(c) for c in range(max(classes) + 1)]
    found = [0] * len(sizes)
    for symbol in set(symbols_of(values, recipe)):
        found[classes[symbol]] = 1
    left = 65536 - sum(f * size for f, size in zip(found, sizes, strict=True))
    sixteenths = draw(st.lists(st.integers(0, 16), max_size=12))
    for k, part in zip(rng.permutation(len(sizes)).tolist(), sixteenths, strict=False):
        more = left * part // (16 * sizes[k])
        found[k] += more
        left -= more * sizes[k]
    found[-1] += left
    return values, replace(recipe, frequencies=tuple(found))


# ---- They agree


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=4))
def test_the_plain_coder_agrees_with_itself_and_with_ours(group: list[tuple[list[int], Recipe]]) -> None:
    plain = [coded_plainly(values, recipe) for values, recipe in group]
    assert [plain_decode(coded) for coded in plain] == [values for values, _ in group]
    assert decoded(*plain) == [values for values, _ in group], "ours decodes any table and lane, many rows at once"
    ours = encode_rows([planned(values, recipe) for values, recipe in group], "rans")
    assert [bytes(coded.payload) for coded in ours] == [coded.payload for coded in plain], "byte for byte"


@settings(max_examples=60, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=4), st.sampled_from(["auto", "rans", "raw"]))
def test_what_our_planner_chooses_decodes_plainly(group: list[tuple[list[int], Recipe]], choice: str) -> None:
    packed = [Row.pack(np.array(values, np.uint8), recipe.width) for values, recipe in group]
    coded = encode_rows([plan(row, choice) for row in packed], choice)
    for (values, recipe), item in zip(group, coded, strict=True):
        assert (item.count, item.width) == (len(values), recipe.width)
        if item.coding != "raw":
            assert choice != "raw"
            assert plain_decode(item) == values
        else:
            assert choice != "rans"
    assert decoded(*coded) == [values for values, _ in group]


@pytest.mark.parametrize(
    ("width", "count", "share", "coding"),
    [(1, 70_000, 0.3, "rans"), (1, 900_000, 0.02, "gaps"), (3, 20_000, 0.1, "rans"), (8, 20_000, 0.2, "rans")],
)
def test_rows_of_several_lanes(width: int, count: int, share: float, coding: str) -> None:
    rng = np.random.default_rng(width)
    values = (rng.geometric(1 - share, count) - 1).clip(0, 2**width - 1) if width > 1 else rng.random(count) < share
    chosen = plan(Row.pack(values.astype(np.uint8), width), "rans")
    assert chosen.coding == coding
    (coded,) = encode_rows([chosen], "rans")
    assert len(symbols_of(values.astype(int).tolist(), Recipe(coding, width, 0, ()))) > chosen.lane, "several lanes"
    assert plain_decode(coded) == values.astype(int).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "lane"), [(5000, 1), (32769, 32768), (4097, 1), (700, 64), (1300, 65), (1300, 63)])
def test_extreme_lanes(count: int, lane: int) -> None:
    """More lanes than a batch holds; the longest there are; on the borders of our stages."""
    values = np.random.default_rng(0).integers(0, 4, count).tolist()
    recipe = Recipe("rans", 2, lane, (1, 65000, 535, 0))
    values = [min(value, 2) for value in values]
    coded = coded_plainly(values, recipe)
    assert decoded(coded) == [values]
    assert bytes(encode_rows([planned(values, recipe)], "rans")[0].payload) == coded.payload


def test_a_word_for_each_symbol_of_the_longest_lane() -> None:
    values = [7] * 32768
    recipe = Recipe("rans", 8, 32768, tuple(65281 if s == 0 else 1 for s in range(256)))
    coded = coded_plainly(values, recipe)
    header = len(varint(32768)) + len(varint(65281)) + 255
    assert coded.payload[header + 4 : header + 6] == (32768).to_bytes(2, "little")
    assert decoded(coded) == [values]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 8, 9, 4096, 100_001])
@pytest.mark.parametrize(("width", "value"), [(1, 0), (1, 1), (2, 3), (5, 0), (8, 255)])
def test_rows_of_one_value(width: int, value: int, count: int) -> None:
    values = [value] * count
    (coded,) = encode_rows([plan(Row.pack(np.array(values, np.uint8), width), "rans")], "rans")
    assert plain_decode(coded) == values
    assert decoded(coded) == [values]
    if count % 8 == 0 or width > 1:
        lanes = math.ceil((count // 8 if width == 1 else count) / 16384)
        assert len(coded.payload) <= 3 + 2 + 2**width + 8 + 6 * lanes, "no words at all"


def test_one_symbol_that_has_all_slots() -> None:
    for recipe, values in (
        (Recipe("rans", 1, 3, even("rans", 1, only=0)), [0] * 77),
        (Recipe("rans", 1, 3, even("rans", 1, only=8)), [1] * 80),
        (Recipe("rans", 4, 5, even("rans", 4, only=9)), [9] * 23),
        (Recipe("gaps", 1, 2, even("gaps", 1, only=3)), [0, 0, 0, 1] * 9 + [0] * 5),
    ):
        coded = coded_plainly(values, recipe)
        assert 65536 in recipe.frequencies
        assert coded.payload.endswith(b"\0\0"), "the last length: no words"
        assert decoded(coded) == [values]


def test_a_payload_in_clear() -> None:
    """Worked by hand: 2 has frequency 32768 and first slot 32768, and the state starts at 65536."""
    # x = 65536 * (65536 // 32768) + 0 + 32768 = 163840 = 0x28000 after the last of three twos (encoded first), then
    # 65536 * 5 + 0 + 32768 = 0x58000, then 65536 * 11 + 0 + 32768 = 0xb8000.
    recipe = Recipe("rans", 2, 4, (16384, 16384, 32768, 0))
    payload = bytes.fromhex("04 808001 808001 808002 00 00800b00 0000")
    assert plain_encode([2, 2, 2], recipe) == payload
    assert decoded(Coded("rans", payload, 3, 2)) == [[2, 2, 2]]


# ---- Damage


def header(lane: int, frequencies: tuple[int, ...], *tail: int) -> bytes:
    return b"".join(map(varint, (lane, *frequencies))) + bytes(tail)


EVEN = even("rans", 2)
VALUES = [0, 1, 2, 3, 3, 1, 0, 2, 2, 1, 3, 0]  # 2 bits each: one word a lane of 8, and none for the last 4
GOOD = coded_plainly(VALUES, Recipe("rans", 2, 8, EVEN)).payload
START = len(header(8, EVEN))
GAPS = Recipe("gaps", 1, 8, even("gaps", 1, 3), 3)


def gap_payload(symbols: list[int]) -> bytes:
    return plain_encode(symbols, GAPS)


def changed(at: int, value: int) -> bytes:
    return GOOD[:at] + bytes([value]) + GOOD[at + 1 :]


DAMAGE: dict[str, tuple[Coded, str]] = {
    name: (Coded(coding, payload, count, width), message)
    for name, coding, payload, count, width, message in [
        ("lane 0", "rans", b"\0" + GOOD[1:], 12, 2, "expected lanes of 1 to 32768 symbols, got 0"),
        ("lane 32769", "rans", varint(32769) + GOOD[1:], 12, 2, "expected lanes of 1 to 32768 symbols, got 32769"),
        ("sum too large", "rans", header(8, (16384, 16384, 16384, 16385)) + GOOD[START:], 12, 2,
         "expected frequencies that sum to 65536, got 65537"),
        ("sum too small", "rans", header(8, (16384, 16384, 16384, 16383)) + GOOD[START:], 12, 2,
         "expected frequencies that sum to 65536, got 65535"),
        ("sum counts symbols, not classes", "rans", header(8, (65536 - 8, 1, 1, 1, 1, 1, 1, 1, 1)), 8, 1,
         r"expected frequencies that sum to 65536, got 65783"),  # 65528 + 8 + 28 + 56 + 70 + 56 + 28 + 8 + 1
        ("frequency of 2**41", "rans", header(8, (2**41, 0, 0, 0)) + GOOD[START:], 12, 2,
         "expected frequencies that sum to 65536, got 2199023255552"),
        ("varint of 7 bytes", "rans", b"\x88\x80\x80\x80\x80\x80\x01" + GOOD[1:], 12, 2, "shortest form of at most 6"),
        ("varint with a last byte of 0", "rans", b"\x88\0" + GOOD[1:], 12, 2, "shortest form of at most 6 bytes"),
        ("nothing", "rans", b"", 12, 2, "truncated payload of 0 bytes"),
        ("end inside a varint", "rans", GOOD[:3], 12, 2, "truncated payload of 3 bytes"),
        ("end before the states", "rans", GOOD[:START], 12, 2, "expected 8 more bytes of lanes, got 0"),
        ("end inside the states", "rans", GOOD[: START + 7], 12, 2, "expected 8 more bytes of lanes, got 7"),
        ("end inside the lengths", "rans", GOOD[: START + 11], 12, 2, "expected 4 more bytes of lanes, got 3"),
        ("end inside the words", "rans", GOOD[:-1], 12, 2, "expected 2 more bytes of lanes, got 1"),
        ("one byte more", "rans", GOOD + b"\0", 12, 2, "expected the payload to end with the words, got 1 more bytes"),
        ("a length too large", "rans", changed(START + 10, 9), 12, 2, "expected 20 more bytes of lanes, got 2"),
        ("a word moved to the next lane", "rans", GOOD[: START + 8] + b"\0\0\1\0" + GOOD[START + 12 :], 12, 2,
         "row: expected every lane to end in state 65536 with all words read, got another"),
        ("a state of 65535", "rans", GOOD[:START] + b"\xff\xff\0\0" + GOOD[START + 4 :], 12, 2,
         "row: expected every lane to start in a state from 65536, got another"),
        ("another state", "rans", changed(START + 3, GOOD[START + 3] ^ 1), 12, 2, "every lane to end in state 65536"),
        ("another word", "rans", changed(len(GOOD) - 1, GOOD[-1] ^ 1), 12, 2, "every lane to end in state 65536"),
        ("too many values", "rans", GOOD, 13, 2, "every lane to end in state 65536"),
        ("a padding bit", "rans", plain_encode([0x81], Recipe("rans", 1, 1, even("rans", 1))), 7, 1,
         "expected padding bits of 0, got last byte 0x81"),
        ("no payload of gaps", "gaps", b"", 12, 1, "truncated payload of 0 bytes"),
        ("gaps of two bits", "gaps", gap_payload([1, 2]), 12, 2, "expected values of 1 bit for coding 'gaps', got 2"),
        ("shift 7", "gaps", b"\7" + gap_payload([1, 2])[1:], 12, 1, "expected a shift up to 6, got 7"),
        ("too many gaps", "gaps", gap_payload([0] * 13), 12, 1, "expected at most 12 gaps, got 13"),
        ("no gaps", "gaps", gap_payload([]), 12, 1, "expected the gaps to end with a one"),
        ("a last escape", "gaps", gap_payload([3, 255]), 900, 1, "expected the gaps to end with a one"),
        ("gaps past the end", "gaps", gap_payload([3, 8]), 12, 1, "expected gaps that fill 12 bits, got more"),
        ("an escape past the end", "gaps", gap_payload([255, 0]), 255, 1, "expected gaps that fill 255 bits, got more"),
        ("an unknown coding", "zstd", GOOD, 12, 2, "unknown coding 'zstd'; known: raw, rans, gaps"),
    ]
}  # fmt: skip


def test_what_is_damaged_below_is_right_before() -> None:
    assert decoded(Coded("rans", GOOD, 12, 2)) == [VALUES]
    assert GOOD[START + 8 : START + 12] == b"\1\0\0\0", "one word, and none"
    assert decoded(Coded("gaps", gap_payload([3, 7]), 12, 1)) == [[0, 0, 0, 1] + [0] * 7 + [1]]
    assert decoded(Coded("gaps", gap_payload([255, 0]), 256, 1)) == [[0] * 255 + [1]]
    assert decoded(Coded("gaps", gap_payload([0] * 12), 12, 1)) == [[1] * 12]


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_with_what_is_wrong(name: str) -> None:
    coded, message = DAMAGE[name]
    with pytest.raises(SeedMaskError, match=rf"^row: .*{message.removeprefix('row: ')}") as caught:
        decode_rows([("row", coded)])
    assert "\n" not in str(caught.value)
    if coded.coding != "zstd":
        with pytest.raises(DamagedError):
            plain_decode(coded)


@pytest.mark.parametrize("name", DAMAGE)
def test_the_damaged_row_of_several_is_named(name: str) -> None:
    coded, message = DAMAGE[name]
    good = Coded("rans", GOOD, 12, 2)
    with pytest.raises(SeedMaskError, match=rf"^second: .*{message.removeprefix('row: ')}"):
        decode_rows([("first", good), ("second", coded), ("third", good)])


def verdict(decode: Callable[[Coded], list[int]], coded: Coded, error: type[Exception]) -> list[int] | None:
    try:
        return decode(coded)
    except error:
        return None


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(rows(longest=60), st.data())
def test_any_change_gets_the_verdict_of_the_plain_decoder(row: tuple[list[int], Recipe], data: st.DataObject) -> None:
    values, recipe = row
    coded = coded_plainly(values, recipe)
    payload = bytearray(coded.payload)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(payload) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert", "drop"])):
            case "flip":
                payload[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                payload[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
            case "cut":
                del payload[max(at, 1) :]
            case "insert":
                payload.insert(at, data.draw(st.integers(0, 255)))
            case "drop" if len(payload) > 1:
                del payload[at]
    count = coded.count + data.draw(st.sampled_from([0, 0, 0, -1, 1, 8]))
    damaged = replace(coded, payload=bytes(payload), count=max(count, 1))
    expected = verdict(plain_decode, damaged, DamagedError)
    assert verdict(lambda item: decoded(item)[0], damaged, SeedMaskError) == expected
