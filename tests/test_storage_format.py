"""Golden files open for ever; docs/FORMAT.md says what they hold; a decoder written from it alone agrees."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from golden.make import FOLDER, GOLDEN

from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seed.philox import random_bytes
from iterand_compress.compress.seedmask import dumps, loads, read_seedmask
from iterand_compress.compress.seedmask.directory import WORDS

DOCUMENT = (Path(__file__).parent.parent / "docs" / "FORMAT.md").read_text()

# Digest of the file, and the first weights of each tensor as little-endian float32. Never edit a line.
PROMISES = {
    "v1-none": (
        "f5b74e51af629dc4bc14acbdcdea0e07491fe98b3ed1d09417d17d5ae0b9a368",
        {"fc.weight": "246213bf 6c8b34bf 00000000 00000000 00000000 281fa23e 2462933d 00000000"},
    ),
    "v1-flips": (
        "acefbe2429d4044ede07809ef7bbc0dd852bb8c51dbb3a14bda0f8d9628bf9bf",
        {
            "conv.weight": "abaaaabe abaaaabe 00000000 00000000 00000000 abaaaabe abaaaabe 00000000 00000000 "
            "00000000 abaaaabe abaaaa3e",
            "fc.weight": "ec05513f ec0551bf 00000000 ec05513f 00000000 ec0551bf",
        },
    ),
    "v1-draws": (
        "bdcc452d6e0fa307bd42b9937d643f580f8b356d1e42e89dee91feaa4b3ff658",
        {
            "a": "b1631d3f 176c423f 00000000 9dfb153f 00000000 2120463f d5592abe 00000000 96b6f0be 00000000",
            "b": "a936d63f f749fbbf 00000000 00000000 00000000 e4dac93f 6e92e2bf 00000000 00000000 00000000 "
            "c0000ac0 ded2833d",
            "c": "91a5cbbd ba12763f cb5cafbe",
        },
    ),
    "v1-rans": (
        "31995b02e83c8c1f2f89986b7225ea14262f29e5c4304f02a52ec1f1ef1b2b86",
        {
            "conv.weight": "91c8663d 00000000 00000000 00000000 00000000 00000000",
            "fc.weight": "9ba9d63c 00000000 00000000 a9df54be 00000000 2acc80bc",
            "full": "d388213e e61c17be f0e691bd 037b07be 72a455be b62a31be",
            "small": "d1b8063f 7ed88cbf 00000000 00000000 00000000 3f74dcbe",
        },
    ),
    "v1-gaps": (
        "f25cac8cec778d8e8af9ed3af5e0d25ded92dfc078c72711f6cce84af0e65a4f",
        {
            "sparse": "00000000 00000000 00000000 00000000 00000000 00000000",
            "sparser": "00000000 00000000 00000000 00000000 00000000 00000000",
            "flipped": "a532843e a53284be a53284be a532843e a532843e a532843e",
            "one": "00000000 00000000 00000000 00000000 00000000 00000000",
        },
    ),
    "v1-deltas": (
        "65fba89f33001301a62925cd0715427ee6cf09bada486b3f9c8179eaa075718c",
        {
            "conv.weight": "2e813dbf 00000000 2dbc983e 00000000 00000000 00000000 00000000 00000000",
            "fc.weight": "a6c01a3e 00000000 00000000 69cea5be 00000000 77c2e03e 7405d23e 00000000",
            "one-bit": "607a6ebe 04ec28be 6d88173f 00000000 00000000 7d473fbf 8ccb3cbe 00000000",
            "signs": "00000000 2ef9e43e 00000000 2ef9e43e 2ef9e43e 00000000 00000000 2ef9e43e",
            "same": "00000000 00000000 7b8241bf 6a0fbf3e 7ed88c3f 00000000 00000000 e32b893d",
        },
    ),
    "v1-frozen": (
        "e4cee490dd07f9a00d95d0c249643ac374e258e079865c02b6a109e18a957327",
        {
            "flips": "cdcc4cbe cdcc4cbe 00000000 cdcc4c3e cdcc4cbe 00000000 cdcc4c3e 00000000",
            "deltas": "00000000 00000000 00000000 aa7da93e 2cdc30bd 00000000 00000000 00000000",
            "kept": "92e2e7be ff5c303e 95aa213f 00000000 aa266b3d 8df5c33d 38bf7ebe 00000000",
            "sparse": "c8a283be 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "all": "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "half": "00000000 68453e3e 00000000 953005bf 773eab3e 00000000 4953643e 00000000",
        },
    ),
    "v1-coats": (
        "d59b93c3a5dda62b637b7f2cf48900e548a7859c0567d264c7e461685ed239b0",
        {
            "conv.weight": "f304353f ef5bf1bd f304b53e 00000000 00000000 00000000 00000000 00000000",
            "two": "9be8a13f 9be8213f 00000000 00000000 00000000 9be821bf 9be821bf 00000000",
            "most": "f304b5bf e1f55642 00000000 425540c2 00000000 f304b5bf f304b5bf 00000000",
            "both": "00000000 00000000 2ef9e4be 00000000 2ef9e4be 00000000 00000000 2ef9e4be",
            "once": "000000bf 000000bf 00000000 00000000 00000000 0000003f 000000bf 00000000",
        },
    ),
    "v1-text": (
        "bfde7cb8c33e709a4fc395747ebbd6e8ca811e2a41bdcaaf7a207305aa55dcfc",
        {
            "tokens.weight": "f304353f f30435bf 00000000 00000000 00000000 f30435bf f304353f 00000000",
            "classifier.weight": "f304353f f304353f 00000000 00000000 00000000 f304353f f304353f 00000000",
        },
    ),
    "v1-values-float32": (
        "e2e62e31fa347ba2f62c0a2daee6eea69d94edcec51c5541519f0a33a952ef1b",
        {
            "conv.weight": "00000080 00000000 130ce7bc 00000000 00000000 00000000 00000000 00000000",
            "fc.weight": "00000080 398e63a2 00000000 00000000 00000000 9fb7d73b 153717bb 00000000",
            "temperature": "00000080",
            "frozen": "00000080 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "empty": "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
        },
    ),
    "v1-values-float16": (
        "5b9e26c5dad606ced2fb425bab404d012f807e3f1f14b536003226d4f7250be9",
        {
            "conv.weight": "00000080 00000000 0000e7bc 00000000 00000000 00000000 00000000 00000000",
            "fc.weight": "00000080 00000080 00000000 00000000 00000000 00c0d73b 004017bb 00000000",
            "temperature": "00000080",
            "frozen": "00000080 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "empty": "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
        },
    ),
    "v1-values-int8": (
        "0b7250a19b506322a67241e8f2f8cefdbe5be96bf02475f0508244dd9b3cb5d2",
        {
            "conv.weight": "00000000 00000000 2f1de6bc 00000000 00000000 00000000 00000000 00000000",
            "fc.weight": "00000000 00000000 00000000 00000000 00000000 9fb7d73b dade18bb 00000000",
            "temperature": "00000000",
            "frozen": "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
            "empty": "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
        },
    ),
    "v1-compact": (
        "3c7f359395e8ece468e9d28985fce7550a5d3d201421ede637dc770b2025dedb",
        {
            "blocks.0.flips": "cdcc4cbe cdcc4cbe 00000000 cdcc4c3e cdcc4cbe 00000000",
            "blocks.0.deltas": "00000000 00000000 00000000 aa7da93e 2cdc30bd 00000000",
            "größe": "92e2e7be ff5c303e 95aa213f 00000000 aa266b3d 8df5c33d",
            "größe..0.größe": "c8a283be 00000000 00000000 00000000 00000000 00000000",
            "blocks.2.all": "00000000 00000000 00000000 00000000 00000000 00000000",
            "blocks.2.half": "00000000 68453e3e 00000000 953005bf 773eab3e 00000000",
            "blocks.3.fc.weight": "a6c01a3e 00000000 00000000 69cea5be 00000000 77c2e03e",
            "blocks.3.one-bit": "607a6ebe 04ec28be 6d88173f 00000000 00000000 7d473fbf",
            "blocks.4.signs": "00000000 2ef9e43e 00000000 2ef9e43e 2ef9e43e 00000000",
            "blocks.4.two": "9be8a13f 9be8213f 00000000 00000000 00000000 9be8213f",
            "blocks.5.most": "f304b5bf e1f556c2 00000000 42554042 00000000 f304b53f",
            "blocks.5.flipped": "a53284be a532843e a53284be a53284be a532843e a532843e",
            "blocks.6.one": "00000000 00000000 00000000 00000000 00000000 00000000",
            "blocks.6.fc.weight": "00000080 398e63a2 00000000 00000000 00000000 9fb7d73b",
            "blocks.7.temperature": "00000080",
            "blocks.7.fc.weight": "00000080 00000080 00000000 00000000 00000000 00c0d73b",
            "blocks.8.temperature": "00000080",
            "blocks.8.fc.weight": "00000000 00000000 00000000 00000000 00000000 9fb7d73b",
            "blocks.9.temperature": "00000000",
        },
    ),
    "v1-compact-none": (
        "cb57ef8489a88f416532746d1fffbaa1aa5a0c8fe96d17347d174644e6be7325",
        {
            "fc.weight": "246213bf 6c8b34bf 00000000 00000000 00000000 281fa23e",
        },
    ),
    "v1-compact-text": (
        "7a1994fe2cc844e56568d7fdd4d01d2926a6ae52ec955f60c2ba10e53002b8a4",
        {
            "tokens.weight": "f304353f f30435bf 00000000 00000000 00000000 f30435bf",
            "classifier.weight": "f304353f f304353f 00000000 00000000 00000000 f304353f",
        },
    ),
    "v1-constants": (
        "81a4e34cab7a5cddcf5f82b092fa53da025acee48fb5a005b689c1adbdcb67ed",
        {"fc.weight": "e0f500bf 21a584be 00000000 00000000 00000000 3ad06bbd"},
    ),
    "v1-compact-constants": (
        "641046d595327cf96eec511e7d38f2ea4b60b95c07c112cb3eaa0cda009f8930",
        {"fc.weight": "e0f500bf 21a584be 00000000 00000000 00000000 3ad06bbd"},
    ),
}


@pytest.mark.parametrize("stem", PROMISES)
def test_golden_files_are_as_they_always_were(stem: str) -> None:
    digest, _ = PROMISES[stem]
    assert hashlib.sha256((FOLDER / f"{stem}.seedmask").read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("stem", PROMISES)
def test_golden_files_give_the_same_weights(stem: str) -> None:
    weights = read_seedmask(FOLDER / f"{stem}.seedmask").weights()
    _, promised = PROMISES[stem]
    assert list(weights) == list(promised)
    for name, first in promised.items():
        expected = bytes.fromhex(first)
        assert weights[name].astype("<f4").tobytes()[: len(expected)] == expected


@pytest.mark.parametrize("stem", PROMISES)
def test_golden_networks_still_pack_to_the_same_bytes(stem: str) -> None:
    data = (FOLDER / f"{stem}.seedmask").read_bytes()
    assert dumps(GOLDEN[stem]()) == data
    assert dumps(loads(data).network()) == data


def test_what_a_golden_file_says_about_the_model() -> None:
    seedmask = read_seedmask(FOLDER / "v1-flips.seedmask")
    manifest = seedmask.manifest
    assert seedmask.seed == 2**64 - 1
    assert manifest.architecture == {
        "name": "tiny",
        "width": 0.25,
        "affine": False,
        "stem": None,
        "classes": 2,
    }
    assert manifest.input is not None
    assert manifest.input.to_dict() == {"shape": [2, 3, 3], "mean": [0.5, 0.25], "std": [0.25, 1.0]}
    assert manifest.classes == ("größer", "kleiner")
    assert manifest.recipe == {"train": {"lr": 1e-05, "epochs": 3}, "tags": ["a", ""]}
    state = seedmask.state()
    assert {name: (t.dtype, t.numpy().tolist()) for name, t in state.items()} == {
        "bn.count": ("I64", 39000),
        "bn.half": ("BF16", [0x3F80]),
        "fc.bias": ("F32", [0.5, -0.25]),
        "flag": ("BOOL", [[True, False]]),
    }


def test_every_golden_file_has_a_promise() -> None:
    assert {path.stem for path in FOLDER.glob("*.seedmask")} == set(PROMISES)


# ---- A decoder of its own, from docs/FORMAT.md and with the standard library only.


def philox(counter: list[int], key: list[int]) -> list[int]:
    c, k = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 % 2**32, p0 >> 32 ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def byte(seed: int, t: int, draw: int, i: int) -> int:
    words = philox([i // 16, draw, t, 0], [seed % 2**32, seed // 2**32])
    return (words[i % 16 // 4] >> 8 * (i % 4)) % 256


def number(seed: int, t: int, i: int) -> int:
    words = philox([i // 8, 0, t, 7], [seed % 2**32, seed // 2**32])
    return (words[i % 8 // 2] >> 16 * (i % 2)) % 65536


def table() -> list[int]:
    return [int(word) for word in block("text normal").split()]


def entry(codebook: str, b: int) -> int:
    if codebook == "signed-constant":
        return -1 if b < 128 else 1
    if codebook == "uniform":
        return 2 * (b // 2) - 127
    assert codebook == "normal"
    return table()[b - 128] if b >= 128 else -table()[127 - b]


def row(coding: str, payload: bytes, count: int, width: int) -> list[int]:
    if coding == "gaps":
        bits: list[int] = []
        for s in symbols(payload, None, width):
            bits += [0] * s + ([] if s == 255 else [1])
        return bits + [0] * (count - len(bits))
    if coding == "rans":
        payload_symbols = symbols(payload, math.ceil(count / 8) if width == 1 else count, width)
        if width > 1:
            return payload_symbols
        payload = bytes(payload_symbols)
    number = int.from_bytes(payload, "little")
    return [(number >> i * width) % 2**width for i in range(count)]


def symbols(payload: bytes, count: int | None, width: int) -> list[int]:
    """The symbols of coding ``rans``, or of ``gaps`` if their number stands in the payload."""
    rest = iter(payload)

    def varint() -> int:
        byte = next(rest)
        return byte if byte < 128 else byte % 128 + 128 * varint()

    def little(size: int) -> int:
        return int.from_bytes(bytes(next(rest) for _ in range(size)), "little")

    if count is None:
        k = next(rest)
        count = varint()
        classes = [s // 2**k if s < 255 else 254 // 2**k + 1 for s in range(256)]
    else:
        classes = [s.bit_count() for s in range(256)] if width == 1 else list(range(2**width))
    lane = varint()
    frequency = [varint() for _ in range(max(classes) + 1)]
    order = sorted(range(len(classes)), key=lambda s: (classes[s], s))
    slots = [s for s in order for _ in range(frequency[classes[s]])]
    assert len(slots) == 65536
    lanes = math.ceil(count / lane)
    states = [little(4) for _ in range(lanes)]
    lengths = [little(2) for _ in range(lanes)]
    found = []
    for i, (x, length) in enumerate(zip(states, lengths, strict=True)):
        words = iter([little(2) for _ in range(length)])
        for _ in range(min(lane, count - i * lane)):
            slot = x % 65536
            s = slots[slot]
            x = frequency[classes[s]] * (x // 65536) + slot - slots.index(s)
            if x < 65536:
                x = 65536 * x + next(words)
            found.append(s)
        assert x == 65536
        assert not list(words)
    assert not list(rest)
    return found


def decode(data: bytes) -> dict[str, bytes]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header["__metadata__"]["seedmask"])

    def payload(name: str) -> bytes:
        start, end = header[name]["data_offsets"]
        return data[8 + length + start : 8 + length + end]

    weights = {}
    for t, tensor in enumerate(manifest["tensors"]):
        name, book, log = tensor["name"], tensor["codebook"], tensor["log"]
        scale = struct.unpack(">f", bytes.fromhex(tensor["scale"]))[0]
        seed, n, frozen = int(manifest["seed"], 16), math.prod(tensor["shape"]), tensor.get("frozen")
        mask = row(tensor["mask"]["coding"], payload(f"mask/{name}"), frozen["free"] if frozen else n, 1)
        if frozen:
            free, end = iter(mask), frozen["pruned"] + frozen["kept"]
            numbers = [number(seed, t, i) for i in range(n)]
            mask = [next(free) if v >= end else int(v >= frozen["pruned"]) for v in numbers]
            assert not list(free)
        kept = [i for i, bit in enumerate(mask) if bit]
        values = [0] * len(kept)
        if log["kind"] != "none":
            values = row(log["coding"], payload(f"log/{name}"), len(kept), log["width"])
        coats = [0] * len(kept)
        if "coats" in tensor:
            coats = row(tensor["coats"]["coding"], payload(f"coats/{name}"), len(kept), tensor["coats"]["width"])
        found = [0.0] * n
        for i, value, more in zip(kept, values, coats, strict=True):
            raw = byte(seed, t, value if log["kind"] == "draws" else 0, i)
            code = entry(book, raw ^ value if log["kind"] == "deltas" else raw) * (1 + more)
            # An 8-bit times a 24-bit number is exact in double precision, so that `pack` rounds once.
            found[i] = (-code if log["kind"] == "flips" and value else code) * scale
        if "values" in tensor:
            dtype, rows = tensor["values"]["dtype"], tensor["shape"][0] if tensor["shape"] else 1
            own: list[float] = []
            if dtype == "I8":
                bytes_ = row(tensor["values"]["coding"], payload(f"values/{name}"), len(kept), 8)
                scales = struct.unpack(f"<{rows}f", payload(f"scales/{name}"))
                signed = [b - 256 * (b > 127) for b in bytes_]
                own = [b * scales[i // (n // rows)] for i, b in zip(kept, signed, strict=True)]
            else:
                own = list(struct.unpack(f"<{len(kept)}{'f' if dtype == 'F32' else 'e'}", payload(f"values/{name}")))
            for i, weight in zip(kept, own, strict=True):
                found[i] = weight
        weights[name] = struct.pack(f"<{n}f", *found)
        assert hashlib.sha256(weights[name]).hexdigest() == tensor["sha256"]
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("stem", [stem for stem in PROMISES if "compact" not in stem])  # of these: test_decode_numpy.py
def test_a_decoder_written_from_the_specification_agrees(stem: str) -> None:
    data = (FOLDER / f"{stem}.seedmask").read_bytes()
    ours = {name: values.astype("<f4").tobytes() for name, values in loads(data).weights().items()}
    assert decode(data) == ours


# ---- The document.


def block(tag: str) -> str:
    """The content of the one fenced block of the document with a tag."""
    (content,) = re.findall(rf"^```{tag}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(content)


def test_the_documented_normal_table() -> None:
    assert CODEBOOKS["normal"].entries.tolist() == [-code for code in reversed(table())] + table()


def test_the_documented_example_is_the_golden_file() -> None:
    header = block("json header").rstrip("\n").encode() + b" " * 3
    data = bytes.fromhex(block("hex length")) + header + bytes.fromhex(block("hex data"))
    assert data == (FOLDER / "v1-none.seedmask").read_bytes()


def test_the_documented_bytes_codes_and_weights() -> None:
    seedmask = read_seedmask(FOLDER / "v1-none.seedmask")
    raw = random_bytes(0x0123456789ABCDEF, 0, 20, draw=0, tensor=0)
    assert raw.tobytes() == bytes.fromhex(block("hex bytes"))
    assert np.array_equal(seedmask.codes("fc.weight").ravel(), [int(code) for code in block("text codes").split()])
    assert seedmask.weights()["fc.weight"].astype("<f4").tobytes() == bytes.fromhex(block("hex weights"))
    for phrase in ("-H[81]` = -40", "-H[93]` = -49"):
        index, code = re.findall(r"-?\d+", phrase)
        assert phrase in DOCUMENT
        assert -table()[int(index)] == int(code)
    assert f"({float(seedmask.tensors[0].scale_value)!r})" in DOCUMENT
    assert "b850222e c58cb04b 14a7a020 7a84fff9" in DOCUMENT
    assert philox([0, 0, 0, 0], [0x89ABCDEF, 0x01234567]) == [0xB850222E, 0xC58CB04B, 0x14A7A020, 0x7A84FFF9]


def test_the_documented_entropy_coded_row_is_that_of_the_golden_file() -> None:
    data = (FOLDER / "v1-gaps.seedmask").read_bytes()
    payload = bytes.fromhex(block("hex gaps"))
    assert data.count(payload) == 1
    assert symbols(payload, None, 1) == [255, 255, 255, 255, 214]
    assert np.flatnonzero(row("gaps", payload, 2000, 1)).tolist() == [1234]
    example = DOCUMENT[DOCUMENT.index("### 4.1") :]
    for state, slot, symbol in re.findall(r"^\| (0x[0-9a-f]{8}) \| (\d+) \| (\d+) \|", example, re.MULTILINE):
        assert int(state, 16) % 65536 == int(slot)
        assert (int(slot) >= 13104) == (symbol == "255")


def test_the_documented_compact_example_is_the_golden_file() -> None:
    header = block("json compact header").rstrip("\n").encode() + b" " * 5
    blocks = (block(f"hex compact {what}") for what in ("digest", "settings", "tensors", "data"))
    data = bytes.fromhex(block("hex compact length")) + header + b"".join(map(bytes.fromhex, blocks))
    assert data == (FOLDER / "v1-compact-none.seedmask").read_bytes()
    assert len(bytes.fromhex(block("hex compact settings") + block("hex compact tensors"))) == 59
    section = bytes.fromhex("3b" + block("hex compact settings") + block("hex compact tensors") + "63 8c 01")
    assert hashlib.sha256(section).digest() == bytes.fromhex(block("hex compact digest"))[:32]


def test_the_documented_words() -> None:
    assert tuple(block("text words").split()) == WORDS
    assert (WORDS[33], WORDS[0], len(WORDS)) == ("fc", "weight", 84)


def test_the_documented_fields_are_those_of_the_manifest() -> None:
    manifest = read_seedmask(FOLDER / "v1-flips.seedmask").manifest.model_dump()
    section = DOCUMENT[DOCUMENT.index("## 3.") : DOCUMENT.index("**Limits.**")]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    entries = [
        entry
        for stem in PROMISES
        for entry in read_seedmask(FOLDER / f"{stem}.seedmask").manifest.model_dump()["tensors"]
    ]
    assert documented == set(manifest).union(*entries)


def test_the_documented_deltas() -> None:
    seedmask = read_seedmask(FOLDER / "v1-deltas.seedmask")
    deltas = bytes.fromhex(block("hex deltas"))
    assert seedmask.log("fc.weight").values.tobytes().startswith(deltas)
    kept = np.flatnonzero(seedmask.mask("fc.weight"))[:6]
    assert kept.tolist() == [0, 3, 5, 6, 8, 18]
    raw = random_bytes(0xDE17A5, 0, 120, draw=0, tensor=1)[kept]
    assert raw.tobytes().hex(" ") == "e7 27 5e e6 8d 6f"
    codes = [int(code) for code in block("text delta codes").split()]
    assert [entry("normal", a ^ b) for a, b in zip(raw, deltas, strict=True)] == codes
    assert seedmask.codes("fc.weight").ravel()[kept].tolist() == codes
    assert (table()[47], -table()[88], table()[106]) == (21, -45, 61)


def test_the_documented_frozen_mask() -> None:
    seedmask = read_seedmask(FOLDER / "v1-frozen.seedmask")
    words = philox([0, 0, 2, 7], [0xF0F0, 0])
    assert " ".join(f"{word:08x}" for word in words) in DOCUMENT
    numbers = [int(text) for text in block("text numbers").split()]
    assert numbers == [word >> shift & 0xFFFF for word in words for shift in (0, 16)]
    frozen = seedmask.tensors[2].frozen
    assert frozen is not None
    assert (frozen.pruned, frozen.kept, frozen.free) == (0, 30000, 34)
    assert (FOLDER / "v1-frozen.seedmask").read_bytes().count(bytes.fromhex(block("hex free"))) == 1
    assert seedmask.mask("kept")[:8].astype(int).tolist() == [1, 1, 1, 0, 1, 1, 1, 0]


def test_the_documented_coats() -> None:
    seedmask = read_seedmask(FOLDER / "v1-coats.seedmask")
    assert (seedmask.tensors[1].kept, seedmask.tensors[1].scale) == (22, "3f21e89b")
    payload = bytes.fromhex(block("hex coats"))
    assert (FOLDER / "v1-coats.seedmask").read_bytes().count(payload) == 1
    assert row("raw", payload, 22, 1)[:2] == [1, 0]
    assert seedmask.weight("two").astype(">f4").tobytes()[:8].hex(" ", 4) == "3fa1e89b 3f21e89b"


def test_the_documented_constant() -> None:
    data = (FOLDER / "v1-constants.seedmask").read_bytes()
    assert data.count(block("json constant").strip().replace('"', '\\"').encode()) == 1
    assert (FOLDER / "v1-compact-constants.seedmask").read_bytes().count(bytes.fromhex(block("hex constant"))) == 1
    assert (WORDS[3], 2 * (13 * 1 + 5) + 1) == ("running_var", 0x25)
    assert loads(data).state()["bn.running_var"].numpy().tolist() == [1, 1, 1]


def test_the_documented_values() -> None:
    seedmask = read_seedmask(FOLDER / "v1-values-int8.seedmask")
    data = (FOLDER / "v1-values-int8.seedmask").read_bytes()
    assert data.count(bytes.fromhex(block("hex values"))) == 1
    assert data.count(bytes.fromhex(block("hex scales"))) == 1
    assert seedmask.weight("fc.weight")[0].astype("<f4").tobytes() == bytes.fromhex(block("hex first row"))
