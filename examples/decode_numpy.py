"""Recover the weights of a .seedmask file with NumPy alone: docs/FORMAT.md, format version 1, as a program.

    python decode_numpy.py model.seedmask
    python decode_numpy.py model.seedmask --out weights.npz
    python decode_numpy.py model.seedmask --out weights.safetensors

or ``decode("model.seedmask")`` from Python: a dictionary of float32 arrays by name, checked against their digests.
Section numbers are those of FORMAT.md, from which alone this file was written; it needs nothing else of the project.

A .seedmask file is a safetensors file, so any reader of those gets the tensors that are stored as they are
(``state/…``), but for those that the manifest gives as one value; they are checked and left out here.

Names are the file's own words and never become paths. A .safetensors output has them as keys. A .npz output has keys
``tensor_0``, ``tensor_1``, …, and ``names`` lists the names in that order, because NumPy makes a path inside the
archive of each key, and mistakes some keys ("file", "a.npy") for something else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSION = 1
FEATURES = ("coats", "compact", "constants", "deltas", "frozen", "gaps", "rans", "text", "values")
CHUNK = 2**16  # weights whose random bytes are made at once

# ---- 1.1 Random bytes


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Philox4x32-10 of many counters: four arrays of uint64 that hold 32-bit words."""
    c0, c1, c2, c3 = counter
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for turn in range(10):
        k0, k1 = ((k + turn * step) % 2**32 for k, step in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True))
        p0 = c0 * np.uint64(0xD2511F53)  # below 2**64: nothing wraps
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & low
    return [c0, c1, c2, c3]


def random_bytes(seed: int, t: int, draws: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """byte(seed, t, draws[j], indices[j]) for each j."""
    result = np.empty(len(indices), np.uint8)
    for start in range(0, len(indices), CHUNK):
        part = slice(start, start + CHUNK)
        i = indices[part]
        counter = [i // 16, draws[part], np.full(len(i), t), np.zeros(len(i))]  # purpose 0
        words = philox([c.astype(np.uint64) for c in counter], (seed % 2**32, seed // 2**32))
        word = np.choose(i % 16 // 4, words).astype(np.int64)
        result[part] = word >> 8 * (i % 4) & 255
    return result


# ---- 1.2 Codebooks

H = """
  1   1   1   2   2   2   3   3   4   4   5   5   5   6   6   7
  7   8   8   8   9   9  10  10  11  11  12  12  12  13  13  14
 14  15  15  16  16  17  17  17  18  18  19  19  20  20  21  21
 22  22  23  23  24  24  25  25  26  26  27  27  28  28  29  29
 30  31  31  32  32  33  33  34  34  35  36  36  37  37  38  39
 39  40  41  41  42  43  43  44  45  46  46  47  48  49  49  50
 51  52  53  54  55  56  57  57  59  60  61  62  63  64  65  67
 68  70  71  73  75  77  79  81  83  86  89  93  97 103 111 127
"""
HALF = np.array(H.split(), np.float32)
CODEBOOKS = {
    "signed-constant": np.repeat(np.array([-1, 1], np.float32), 128),
    "uniform": (2 * (np.arange(256) // 2) - 127).astype(np.float32),
    "normal": np.concatenate([-HALF[::-1], HALF]),
}

# ---- 1.3 Masks and logs: a payload becomes a row of `count` values of `width` bits


def decode_row(payload: bytes, coding: str, count: int, width: int) -> np.ndarray:
    """The values of a row, uint8."""
    if coding == "raw":
        return raw_values(payload, count, width)
    cursor = Cursor(payload)
    if coding == "gaps":
        check(width == 1, f"coding 'gaps' is for width 1, not {width}")
        return gap_bits(cursor, count)
    check(coding == "rans", f"unknown coding {coding!a}")
    if width > 1:
        return rans_symbols(cursor, count, np.arange(2**width))
    ones = np.array([bin(byte).count("1") for byte in range(256)])
    return raw_values(rans_symbols(cursor, -(-count // 8), ones).tobytes(), count, 1)


def raw_values(payload: bytes, count: int, width: int) -> np.ndarray:
    size = -(-count * width // 8)
    check(len(payload) == size, f"{count} values of {width} bits fill {size} bytes, not {len(payload)}")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
    check(not bits[count * width :].any(), "unused bits of the last byte are not 0")
    return bits[: count * width].reshape(count, width) @ np.left_shift(1, np.arange(width)).astype(np.uint8)


# ---- 1.4 Entropy coding


class Cursor:
    """Reads a payload from begin to end."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.at = payload, 0

    def take(self, size: int) -> bytes:
        self.at += size
        check(self.at <= len(self.payload), f"the payload ends early: {len(self.payload)} bytes, {self.at} expected")
        return self.payload[self.at - size : self.at]

    def varint(self) -> int:
        value = 0
        for place in range(6):
            (byte,) = self.take(1)
            value += (byte & 127) << 7 * place
            if byte < 128:
                check(byte > 0 or place == 0, "a varint is not in its shortest form")
                return value
        raise ValueError("a varint has more than 6 bytes")


def rans_symbols(cursor: Cursor, count: int, classes: np.ndarray) -> np.ndarray:
    """The symbols of the rest of a payload, uint8; `classes` has the class of each symbol."""
    lane = cursor.varint()
    check(1 <= lane <= 32768, f"lanes of {lane} symbols: 1 to 32768 expected")
    of_class = [cursor.varint() for _ in range(classes.max() + 1)]
    check(max(of_class) <= 65536, f"a frequency is {max(of_class)}: at most 65536 expected")
    frequency = np.array(of_class)[classes]  # of each symbol
    check(frequency.sum() == 65536, f"the frequencies sum to {frequency.sum()}, not 65536")

    order = np.argsort(classes, kind="stable")  # the symbols class by class
    first = np.empty_like(frequency)
    first[order] = np.cumsum(frequency[order]) - frequency[order]
    symbol_of_slot = np.repeat(order, frequency[order])

    lanes = -(-count // lane)
    state = np.frombuffer(cursor.take(4 * lanes), "<u4").astype(np.int64)
    sizes = np.frombuffer(cursor.take(2 * lanes), "<u2").astype(np.int64)
    check(bool((state >= 65536).all()), "a lane begins with a state below 65536")
    total = int(sizes.sum())
    words = np.frombuffer(cursor.take(2 * total), "<u2").astype(np.int64)
    check(cursor.at == len(cursor.payload), f"{len(cursor.payload) - cursor.at} bytes follow the last word")

    # All lanes in lockstep, one symbol of each at a time. The last lane may be shorter: it stops first.
    # A lane that wants too many words gets those of the next one, or zeros: the check after the loop finds it.
    steps = min(lane, count)
    shortest = count - (lanes - 1) * lane
    words = np.concatenate([words, np.zeros(steps, np.int64)])
    ends = np.cumsum(sizes)
    place = ends - sizes  # of the next word of each lane
    symbols = np.zeros((steps, lanes), np.uint8)
    for step in range(steps):
        running = lanes if step < shortest else lanes - 1
        x, at = state[:running], place[:running]
        slot = x % 65536
        s = symbol_of_slot[slot]
        symbols[step, :running] = s
        x[:] = frequency[s] * (x // 65536) + slot - first[s]
        wants = x < 65536
        x[:] = np.where(wants, 65536 * x + words[at], x)
        at += wants
    check(np.array_equal(place, ends), "a lane does not read exactly its own words")
    check(bool((state == 65536).all()), "a lane does not end in state 65536")
    return symbols.T.ravel()[:count]


# ---- 1.5 Entropy coding of sparse bits


def gap_bits(cursor: Cursor, count: int) -> np.ndarray:
    """A row of bits from the zeros before each one."""
    (k,) = cursor.take(1)
    check(k <= 6, f"symbols are grouped by k = {k}: at most 6 expected")
    n = cursor.varint()
    check(1 <= n <= count, f"{n} gaps in a row of {count} bits")
    classes = np.append(np.arange(255) >> k, (254 >> k) + 1)
    symbols = rans_symbols(cursor, n, classes).astype(np.int64)
    check(bool(symbols[-1] < 255), "zeros without a one after them at the end of the gaps")
    ends = np.cumsum(np.where(symbols < 255, symbols + 1, 255))  # bits up to and with each symbol
    check(bool(ends[-1] <= count), f"the gaps reach bit {ends[-1] - 1} of a row of {count} bits")
    bits = np.zeros(count, np.uint8)
    bits[ends[symbols < 255] - 1] = 1
    return bits


# ---- 1.6 Frozen masks


def whole_mask(seed: int, t: int, count: int, pruned: int, kept: int, free: np.ndarray) -> np.ndarray:
    """The mask of which the generator fixes a part, and `free` has the other bits."""
    inside = min(pruned, kept) >= 0 and max(pruned, kept) < 65536 and 0 < pruned + kept <= 65536
    check(inside, f"a mask cannot be frozen by thresholds of {pruned} and {kept}")
    check(count <= 2**35, f"{count} weights: a frozen mask has at most 2**35")
    mask, used = np.empty(count, np.uint8), 0
    for start in range(0, count, CHUNK):
        blocks = np.arange(start // 8, -(-min(start + CHUNK, count) // 8))
        counter = [blocks, np.zeros(len(blocks)), np.full(len(blocks), t), np.full(len(blocks), 7)]  # purpose 7
        words = np.stack(philox([c.astype(np.uint64) for c in counter], (seed % 2**32, seed // 2**32)), axis=1)
        part = mask[start : start + CHUNK]
        number = np.stack([words % 65536, words >> np.uint64(16)], axis=2).ravel()[: len(part)].astype(np.int64)
        part[:] = number >= pruned  # of those that are fixed
        own = number >= pruned + kept
        bits = free[used : used + np.count_nonzero(own)]
        used += np.count_nonzero(own)
        check(used <= len(free), f"the generator leaves more than {len(free)} weights free")
        part[own] = bits
    check(used == len(free), f"the generator leaves {used} weights free, the manifest says {len(free)}")
    return mask


# ---- 2. The container

ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4}
ITEM_BYTES |= {"U64": 8, "I64": 8, "F64": 8}


def canonical(value: object) -> str:
    """Canonical JSON, which is what Python writes with these options."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def header_of(metadata: dict[str, str], tensors: dict[str, tuple[str, list[int]]]) -> tuple[bytes, dict[str, Any]]:
    """Length and header for the dtypes and shapes of data tensors; the same as a dictionary."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name][0]], name)):
        dtype, shape = tensors[name]
        start, end = end, end + ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"data_offsets": [start, end], "dtype": dtype, "shape": shape}
    text = canonical(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, header


# ---- 3. The manifest, and 1. from a seed to weights


ENTRY = {
    "codebook",
    "kept",
    "log",
    "mask",
    "name",
    "scale",
    "shape",
}  # "sha256", which compact files lack, and "frozen", "coats", "values" may follow


def decode(source: str | os.PathLike[str] | bytes, max_weights: int | None = None) -> dict[str, np.ndarray]:
    """The weights of a file, given as path or content: float32 arrays in their shape, in the order of the manifest.

    A small file can promise any number of weights: more than ``max_weights`` are refused (section 3 has the default).

    Raises:
        ValueError: the file is damaged, newer than this program, or not a .seedmask file.
        OSError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        return decode_file(data, max_weights or min(max(2**24, 1024 * len(data)), 2**33))
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        # A field that is absent or of another type; the checks below are about values.
        raise ValueError(f"the file does not have the structure of a .seedmask file ({error!r})") from error


def decode_file(data: bytes, max_weights: int) -> dict[str, np.ndarray]:
    length = int.from_bytes(data[:8], "little")
    check(8 < 8 + length <= min(len(data), 8 + 100_000_000), "not a .seedmask file: no header of the length it states")
    text = json.loads(data[8 : 8 + length].decode("ascii"))["__metadata__"]["seedmask"]
    manifest = json.loads(text)

    version = manifest["format_version"]
    check(version <= FORMAT_VERSION, f"format version {version} is newer than {FORMAT_VERSION}")
    check(version == FORMAT_VERSION, f"there is no format version {version}")
    features = manifest["required_features"]
    for feature in features:
        check(feature in FEATURES, f"unknown required feature {feature!a}")
    if "compact" in features:
        manifest, payload = compact_manifest(data, length, manifest)
    else:
        payload = checked_payload(data, text, manifest)
    check(manifest["generator"] == "philox4x32-10", f"unknown generator {manifest['generator']!a}")

    tensors = manifest["tensors"]
    names = [entry["name"] for entry in tensors + manifest["state"]]
    check(len(set(names)) == len(names), "two tensors have the same name")
    stored = stored_tensors(manifest)
    _, header = header_of({}, stored)
    end = max(entry["data_offsets"][1] for entry in header.values())
    check(end == len(payload), f"{len(payload)} bytes of payloads, {end} expected")
    parts = {name: payload[slice(*header[name]["data_offsets"])] for name in stored}

    used = set().union(*map(features_of, tensors)) | ({"compact"} & set(features))
    constants = [entry for entry in manifest["state"] if "value" in entry]
    used |= {"constants"} if constants else set()
    if isinstance(manifest["input"], dict) and "vocabulary" in manifest["input"]:
        used.add("text")  # section 5; the weights do not depend on it
    check(features == sorted(used - {"raw"}), f"required features {features}, but the file uses {sorted(used)}")
    for entry in manifest["state"]:
        check_state(entry, parts.get(f"state/{entry['name']}"), bool(constants))
    total = sum(math.prod(entry["shape"]) for entry in tensors)
    total += sum(-(-math.prod(entry["shape"]) * ITEM_BYTES[entry["dtype"]] // 4) for entry in constants)
    check(total <= max_weights, f"{total} weights: more than {max_weights}; --max-weights {total} allows them")
    seed, weights, digests = int(manifest["seed"], 16), {}, b""
    for t, entry in enumerate(tensors):
        name = entry["name"]
        try:
            weights[name] = recover(seed, t, entry, {part: parts[f"{part}/{name}"] for part in slots_of(entry)})
            found = sha256(weights[name].astype("<f4").tobytes())
            check(entry.get("sha256", found) == found, "the digest of the recovered weights differs")
        except ValueError as error:
            raise ValueError(f"tensor {name!a}: {error}") from error
        digests += bytes.fromhex(found)
    check(sha256(digests) == manifest["digests"]["weights"], "the digest of all weights differs")
    return weights


def checked_payload(data: bytes, text: str, manifest: dict[str, Any]) -> bytes:
    """The data section of a file whose manifest is JSON; header and manifest have their one form and right digests."""
    check(canonical(manifest) == text, "the manifest is not canonical JSON")
    digests = manifest["digests"]
    zeroed = canonical({**manifest, "digests": {**digests, "manifest": "0" * 64}})
    check(sha256(zeroed.encode()) == digests["manifest"], "the digest of the manifest differs: the file is damaged")

    # The header follows from the manifest; so do the places of all data.
    begin, _ = header_of({"seedmask": text}, stored_tensors(manifest))
    check(data.startswith(begin), "the header does not follow from the manifest: the file is damaged")
    payload = data[len(begin) :]
    check(sha256(payload) == digests["payload"], "the digest of the data differs: the file is damaged")
    for entry in manifest["tensors"]:
        check("sha256" in entry, "a tensor has no digest")
    return payload


def stored_tensors(manifest: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of all data tensors by their names."""
    stored = {f"{part}/{e['name']}": slot for e in manifest["tensors"] for part, slot in slots_of(e).items()}
    state = [entry for entry in manifest["state"] if "value" not in entry]
    return stored | {f"state/{entry['name']}": (entry["dtype"], entry["shape"]) for entry in state}


def check_state(entry: dict[str, Any], content: bytes | None, constants: bool) -> None:
    """A state tensor: one value of several items, or content that is not several times one value."""
    item = ITEM_BYTES[entry["dtype"]]
    if content is None:
        value, shape = entry["value"], entry["shape"]
        check(set(entry) == {"dtype", "name", "shape", "value"}, f"fields {sorted(entry)} of a state tensor")
        check(len(value) == 2 * item and set(value) <= set("0123456789abcdef"), f"{value!a} is no value")
        check(entry["dtype"] != "BOOL" or value in ("00", "01"), f"{value!a} is no value of a BOOL tensor")
        check(all(type(size) is int and size >= 0 for size in shape), f"shape {shape} is not possible")
        check(len(shape) <= 16 and math.prod(shape) >= 2, f"one value of the shape {shape}")
    elif constants and len(content) > item:
        check(content != content[:item] * (len(content) // item), f"{entry['name']!a} repeats one value")


# ---- 6. The compact form

WORDS = """
weight bias running_mean running_var num_batches_tracked
0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
conv conv1 conv2 conv3 bn bn1 bn2 bn3 norm norm1 norm2 norm3 fc fc1 fc2 fc3
linear head classifier features layers layer layer1 layer2 layer3 layer4
blocks block stages stem downsample shortcut embedding encoder attention
query key value out proj mlp tokens places scale whiten
name num_classes in_channels image_size width depth affine activation batch_norm none
shape mean std length unit vocabulary words bytes
"""


def compact_manifest(data: bytes, length: int, stub: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The manifest that the directory of a compact file stands for, and the payloads behind the directory."""
    check(set(stub) == {"format_version", "required_features"}, "the stub of a compact file has other fields")
    section = data[8 + length :]
    begin, _ = header_of({"seedmask": canonical(stub)}, {"data": ("U8", [len(section)])})
    check(data.startswith(begin), "the header is not that of a compact file of this size: the file is damaged")
    check(sha256(section[32:]) == section[:32].hex(), "the digest of the data differs: the file is damaged")
    start = Directory(section[32:])
    directory = Directory(start.take(start.number()), "constants" in stub["required_features"])
    manifest = directory.manifest()
    check(directory.at == len(directory.payload), "bytes follow the directory")
    return stub | manifest, start.payload[start.at :]


class Directory(Cursor):
    """Reads a directory from begin to end."""

    def __init__(self, payload: bytes, constants: bool = False) -> None:
        super().__init__(payload)
        self.constants = constants
        self.words, self.last = WORDS.split(), []

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value, place = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            check(place < 10 and value < 2**64, "a number is above 2**64 - 1")
            if byte < 128:
                check(byte > 0 or place == 0, "a number is not in its shortest form")
                return value
            place += 1

    def numbers(self, count: int) -> list[int]:
        return [self.number() for _ in range(count)]

    def word(self) -> str:
        index = self.number()
        if index == len(self.words):
            word = self.take(self.number()).decode()
            check(word not in self.words, f"the word {word!a} is new for the second time")
            self.words.append(word)
        return self.words[index]

    def name(self) -> str:
        shared, more = self.numbers(2)
        check(shared <= len(self.last), "a name shares more words than there are")
        words = self.last[:shared] + [self.word() for _ in range(more)]
        check(words[: shared + 1] != self.last[: shared + 1] or len(words) == shared, "a name shares more words")
        self.last = words
        name = ".".join(words)
        check(len(name.encode()) <= 512, "a name has more than 512 bytes")
        return name

    def value(self) -> Any:
        kind = self.byte()
        if kind >= 10:
            return kind - 10
        if kind in (3, 4):
            return self.number() + 246 if kind == 3 else -1 - self.number()
        if kind in (5, 6):
            return float(np.frombuffer(self.take(4 * kind - 16), "<f4" if kind == 5 else "<f8")[0])
        if kind == 7:
            return self.word()
        if kind == 8:
            return [self.value() for _ in range(self.number())]
        if kind == 9:
            return {self.word(): self.value() for _ in range(self.number())}
        return (None, False, True)[kind]

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = {"generator": "philox4x32-10", "seed": self.take(8)[::-1].hex()}
        found["digests"] = {"weights": self.take(32).hex()}
        for key in ("architecture", "input", "classes", "recipe"):
            found[key] = self.value()
        found["tensors"] = [self.tensor() for _ in range(self.number())]
        found["state"] = [self.state() for _ in range(self.number())]
        return found

    def tensor(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name()}
        kind = self.byte()
        more = self.byte() if kind >= 128 else 0
        check(more < 8 and (more > 0) == (kind >= 128), f"the kind {kind} goes on with {more}")
        entry["shape"] = self.numbers(self.number())
        entry["codebook"] = ("signed-constant", "uniform", "normal")[kind % 4]
        entry["scale"] = self.take(4)[::-1].hex()
        entry["kept"] = self.number()
        count = math.prod(entry["shape"])
        if more % 2:
            entry["frozen"] = dict(zip(("pruned", "kept", "free"), self.numbers(3), strict=True))
            count = entry["frozen"]["free"]
        entry["mask"] = self.row(kind // 4 % 4, count, 1)
        log = ("none", "flips", "draws", "deltas")[kind // 16 % 4]
        empty = {"bytes": 0, "coding": "raw", "width": 0}
        entry["log"] = {**(self.wide_row(entry["kept"]) if log != "none" else empty), "kind": log}
        if kind // 64 % 2:
            entry["coats"] = self.wide_row(entry["kept"])
        if more > 1:
            dtype = ("F32", "F16", "I8")[more // 2 - 1]
            row = self.row(self.byte() if dtype == "I8" else 0, entry["kept"], 8 * ITEM_BYTES[dtype])
            entry["values"] = {**row, "dtype": dtype}
        return entry

    def wide_row(self, count: int) -> dict[str, Any]:
        kind = self.byte()
        return {**self.row(kind % 4, count, kind // 4 + 1), "width": kind // 4 + 1}

    def row(self, coding: int, count: int, width: int) -> dict[str, Any]:
        name = ("raw", "rans", "gaps")[coding]
        return {"bytes": -(-count * width // 8) if name == "raw" else self.number(), "coding": name}

    def state(self) -> dict[str, Any]:
        name = self.name()
        kind, constant = divmod(self.number(), 2) if self.constants else (self.number(), 0)
        rank, index = divmod(kind, len(ITEM_BYTES))
        dtype, item = list(ITEM_BYTES.items())[index]
        entry = {"dtype": dtype, "name": name, "shape": self.numbers(rank)}
        return {**entry, "value": self.take(item)[::-1].hex()} if constant else entry


def slots_of(entry: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of each data tensor of a masked tensor, by the part in front of its name."""
    unknown = set(entry) - ENTRY - {"frozen", "coats", "values", "sha256"}
    check(not unknown and set(entry) >= ENTRY, f"fields {sorted(entry)}: others expected")
    parts = ["mask"] + ["log"] * (entry["log"]["kind"] != "none") + ["coats"] * ("coats" in entry)
    slots = {part: ("U8", [entry[part]["bytes"]]) for part in parts}
    if "values" in entry:
        values, shape = entry["values"], entry["shape"]
        check(values["dtype"] in ("F32", "F16", "I8"), f"unknown dtype {values['dtype']!a} of values")
        slots["values"] = ("U8", [values["bytes"]])
        if values["dtype"] == "I8":
            slots["scales"] = ("F32", shape[:1] or [1])
        else:
            size = entry["kept"] * ITEM_BYTES[values["dtype"]]
            check(
                values == {"bytes": size, "coding": "raw", "dtype": values["dtype"]},
                f"values that are not {size} bytes",
            )
            slots["values"] = (values["dtype"], [entry["kept"]])
    return slots


def features_of(entry: dict[str, Any]) -> set[str]:
    """What a reader must know to decode a masked tensor, and `raw`."""
    rows = [entry[part] for part in ("mask", "log", "coats", "values") if part in entry]
    features = {row["coding"] for row in rows} | {part for part in ("frozen", "coats", "values") if part in entry}
    return features | {kind for kind in (entry["log"]["kind"],) if kind == "deltas"}


def recover(seed: int, t: int, entry: dict[str, Any], parts: dict[str, bytes]) -> np.ndarray:
    """Section 1: the weights of masked tensor `t` from its entry in the manifest and its data tensors."""
    shape, kind, width = entry["shape"], entry["log"]["kind"], entry["log"]["width"]
    check(len(shape) <= 16 and all(size >= 1 for size in shape), f"shape {shape} is not possible")
    check(entry["codebook"] in CODEBOOKS, f"unknown codebook {entry['codebook']!a}")
    codebook = CODEBOOKS[entry["codebook"]]
    scale = np.frombuffer(bytes.fromhex(entry["scale"]), ">f4").astype(np.float32)
    check(scale.size == 1, f"scale {entry['scale']!a} is not 8 hexadecimal digits")
    with np.errstate(all="ignore"):
        products = scale * (127 if "coats" in entry else np.abs(codebook))
    check(bool((scale >= 2.0**-126) & np.isfinite(products).all()), f"scale {entry['scale']!a} is not possible")

    count = math.prod(shape)
    frozen = entry.get("frozen")
    check(frozen is None or set(frozen) == {"free", "kept", "pruned"}, f"fields {frozen} of a frozen mask")
    bits = decode_row(parts["mask"], entry["mask"]["coding"], count if frozen is None else frozen["free"], 1)
    if frozen is not None:
        bits = whole_mask(seed, t, count, frozen["pruned"], frozen["kept"], bits)
    kept = np.flatnonzero(bits)
    check(len(kept) == entry["kept"], f"the mask keeps {len(kept)} weights, the manifest says {entry['kept']}")

    values = draws = np.zeros(len(kept), np.uint8)
    if "log" not in parts:
        check(entry["log"] == {"bytes": 0, "coding": "raw", "kind": "none", "width": 0}, "a log 'none' is not empty")
    else:
        widths = {"flips": range(1, 2), "draws": range(1, 9), "deltas": range(1, 9)}
        check(width in widths[kind], f"a log {kind!a} of width {width}")
        two_valued = entry["codebook"] == "signed-constant"
        check(kind != "flips" or two_valued, "log 'flips' needs a codebook of two values")
        check(kind != "deltas" or not two_valued, "log 'deltas' needs a codebook of more than two values")
        values = decode_row(parts["log"], entry["log"]["coding"], len(kept), width)
        check(int(values.max(initial=0)).bit_length() == width, f"the log of width {width} does not need that width")
        draws = values if kind == "draws" else draws

    weights = np.zeros(count, np.float32)
    if "values" in parts:
        check(kind == "none" and "coats" not in entry, "trained values beside a log or coats")
        weights[kept] = trained_values(entry, kept, parts)
    else:
        found = random_bytes(seed, t, draws, kept)
        codes = codebook[found ^ values if kind == "deltas" else found]
        if kind == "flips":
            codes[values == 1] *= -1
        if "coats" in parts:
            codes *= coats_of(entry, parts["coats"], len(kept))
        weights[kept] = codes * scale
    return weights.reshape(shape)


def coats_of(entry: dict[str, Any], payload: bytes, kept: int) -> np.ndarray:
    """Section 1.7: the coats of the kept weights."""
    coats = entry["coats"]
    check(entry["codebook"] == "signed-constant", "coats need a codebook of two values")
    check(set(coats) == {"bytes", "coding", "width"} and 1 <= coats["width"] <= 7, f"coats {coats}")
    values = decode_row(payload, coats["coding"], kept, coats["width"])
    largest = int(values.max(initial=0))
    check(largest < 127 and largest.bit_length() == coats["width"], f"{largest + 1} coats, of width {coats['width']}")
    return values.astype(np.float32) + 1


def trained_values(entry: dict[str, Any], kept: np.ndarray, parts: dict[str, bytes]) -> np.ndarray:
    """Section 1.8: the weights that are kept."""
    about = entry["values"]
    if about["dtype"] != "I8":
        values = np.frombuffer(parts["values"], "<f4" if about["dtype"] == "F32" else "<f2").astype(np.float32)
        check(bool(np.isfinite(values).all()), "a trained value is not finite")
        return values
    check(set(about) == {"bytes", "coding", "dtype"} and about["coding"] != "gaps", f"values {about}")
    values = decode_row(parts["values"], about["coding"], len(kept), 8).view(np.int8)
    check(bool((values > -128).all()), "a trained value is -128")
    scales = np.frombuffer(parts["scales"], "<f4").astype(np.float32)
    with np.errstate(all="ignore"):
        fine = (scales >= 2.0**-126) & np.isfinite(scales * np.float32(127))
    check(bool(fine.all()), f"scale {scales[~fine][:1]} of a row is not possible")
    row = kept // (math.prod(entry["shape"]) // len(scales))
    return values.astype(np.float32) * scales[row]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# ---- The command line


def save(path: Path, weights: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        arrays = {f"tensor_{t}": values for t, values in enumerate(weights.values())}
        np.savez(path, names=np.array(list(weights)), **arrays)
        return
    check("__metadata__" not in weights, "safetensors cannot hold a tensor of the name '__metadata__'")
    header, _ = header_of({}, {name: ("F32", list(values.shape)) for name, values in weights.items()})
    path.write_bytes(header + b"".join(weights[name].astype("<f4").tobytes() for name in sorted(weights)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the .seedmask file")
    parser.add_argument("--out", type=Path, help="write the weights to this .npz or .safetensors file")
    parser.add_argument(
        "--max-weights", type=int, help="refuse more weights; by default 1024 for each byte of the file"
    )
    args = parser.parse_args()
    if args.out and args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        parser.error("--out is the input")
    if args.out and args.out.suffix not in (".npz", ".safetensors"):
        parser.error("--out must end in .npz or .safetensors")
    try:
        weights = decode(args.file, args.max_weights)
        if args.out:
            save(args.out, weights)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {args.file}: {error}")
    for name, values in weights.items():
        print(f"{name!a}: {list(values.shape)}, {np.count_nonzero(values)} of {values.size} weights are not 0")


if __name__ == "__main__":
    main()
