"""Mutants of good files: each must be refused with a `SeedMaskError`, or give the very weights that it promises.

python benchmarks/fuzz_storage.py --mutations 100000 --exhaustive

A mutant is a golden file, or one of a few small networks packed here, in which raw bytes, header entries, manifest
fields, bytes and numbers of a directory, or the fields of a payload (lanes, frequencies, states, lengths, words) were
changed. Half of them are sealed again: digests and header are made right, so that the decoders see them. Each depends
on the seed and its number only. Workers may grow by 1 GiB of address space; more is a failure like any exception that
is not a `SeedMaskError`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import random
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from common import environment, save
from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seed.frozen import Frozen, frozen_masks
from iterand_compress.compress.seed.philox import random_bytes
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, dumps, loads, quantise
from iterand_compress.compress.seedmask.container import build_header, compact_header, layout
from iterand_compress.compress.seedmask.json_text import canonical_json

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
MAX_WEIGHTS = 1 << 24
ROOM = 1 << 30
CHUNK = 250
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
EDGES = (0, 1, 2, 3, 7, 8, 9, 127, 128, 255, 256, 32767, 32768, 32769, 65535, 65536, 65537, 2**24, 2**31, 2**32 - 1)
HUGE = (2**32, 2**33, 2**36, 2**36 + 1, 2**41, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**20 - 1)
TEXTS = (
    "", "raw", "rans", "gaps", "zstd", "none", "flips", "draws", "deltas", "frozen", "coats", "values",
    "uniform", "normal", "signed-constant", "BOOL", "U8", "I8", "F16", "F32", "F64", "\x1b[2J", "\u202e", "\ud800",
    "a\nb", "3f800000", "7f800000", "00000000", "0" * 64, "../../x",
)  # fmt: skip


#: Parts of a tensor that are rows of values, and those that may be absent and are features then.
ROWS, OPTIONAL = ("mask", "log", "coats", "values"), ("coats", "frozen", "values")


def small(rng: np.random.Generator, coding: str) -> bytes:
    """A network of all codebooks, dense and sparse, redrawn and not."""

    def tensor(name: str, shape: tuple[int, ...], codebook: str, kept: float, redrawn: float) -> MaskedTensor:
        count = int(np.prod(shape))
        draws = np.where(rng.random(count) < redrawn, rng.integers(1, 9, count), 0).astype(np.uint8)
        return MaskedTensor(name, shape, codebook, CODEBOOKS[codebook].scale(9), rng.random(count) < kept, draws)

    tensors = (
        tensor("sparse", (90, 40), "signed-constant", 0.03, 0.3),
        tensor("dense", (30, 20), "uniform", 0.9, 0.2),
        tensor("flipped", (40, 30), "signed-constant", 1, 0.05),
        tensor("plain", (7, 11), "normal", 0.5, 0),
    )
    state = {"bias": StoredTensor.from_numpy(np.arange(3, dtype=np.float32))}
    return dumps(Network(seed=int(rng.integers(2**63)), tensors=tensors, state=state), coding=coding)


def kinds(rng: np.random.Generator, coding: str) -> bytes:
    """A network of recycled weights, frozen masks, coats, and trained values of each dtype."""
    seed, shape, thresholds, tensors = int(rng.integers(2**63)), (40, 30), Frozen(20000, 9000), []

    def add(codebook: str, *, frozen: bool = False, dtype: str = "", **fields: Any) -> None:
        mask = rng.random(1200) < 0.4
        if frozen:
            pruned, kept = frozen_masks(seed, len(tensors), thresholds, 1200)
            mask, fields["frozen"] = mask & ~pruned | kept, thresholds
        if dtype:
            weights = (rng.standard_normal(1200) ** 5).astype(np.float32)
            fields["trained"] = quantise(weights, mask, shape, dtype)
        name, scale = f"layer{len(tensors)}", CODEBOOKS[codebook].scale(30)
        tensors.append(MaskedTensor(name, shape, codebook, scale, mask, **fields))

    few = np.where(rng.random(1200) < 0.2, 3, 0).astype(np.uint8)
    add("normal", current=rng.integers(0, 256, 1200).astype(np.uint8))
    add("uniform", frozen=True, current=random_bytes(seed, 0, 1200, draw=0, tensor=1) ^ few)
    add("signed-constant", frozen=True, draws=few, multiplicity=rng.geometric(0.6, 1200).astype(np.uint8))
    add("signed-constant", multiplicity=(1 + few // 3).astype(np.uint8))
    add("normal", frozen=True, draws=few)
    for dtype in ("float32", "float16", "int8"):
        add("uniform", frozen=dtype == "int8", dtype=dtype)
    return dumps(Network(seed=seed, tensors=tuple(tensors)), coding=coding)


@cache
def seeds() -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted(GOLDEN.glob("*.seedmask"))}
    for i, coding in enumerate(("auto", "rans", "raw")):
        found[f"small-{coding}"] = small(np.random.Generator(np.random.PCG64(i)), coding)
        found[f"kinds-{coding}"] = kinds(np.random.Generator(np.random.PCG64(i)), coding)
        found[f"compact-{coding}"] = dumps(
            replace(loads(found[f"kinds-{coding}"]).network(), form="compact"), coding=coding
        )
    return found


@cache
def promised(name: str) -> tuple[str, dict[str, bytes]]:
    seedmask = loads(seeds()[name])
    return seedmask.weights_digest, {key: value.tobytes() for key, value in seedmask.weights().items()}


# A file taken apart, and put together again.


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")["seedmask"])
    return header, manifest, data[8 + length :]


def container(header: dict[str, Any], manifest: dict[str, Any], data: bytes) -> bytes:
    text = canonical_json({**header, "__metadata__": {"seedmask": canonical_json(manifest)}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def sealed(header: dict[str, Any], manifest: dict[str, Any], data: bytes) -> bytes:
    """Digests of the payload and the manifest are made right, and the header, where the manifest implies one."""
    digests = manifest.get("digests")
    slots = slots_of(manifest)
    if isinstance(digests, dict):
        if slots is not None:  # cut or fill the data, so that they are not simply truncated
            size = max((end for _, end in layout(slots).values()), default=0)
            data = data[:size].ljust(size, b"\x55") if size < 1 << 20 else data
        digests["payload"] = hashlib.sha256(data).hexdigest()
        digests["manifest"] = "0" * 64
        digests["manifest"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    if slots is None:
        return container(header, manifest, data)
    return build_header(slots, {"seedmask": canonical_json(manifest)}) + data


def slots_of(manifest: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """What the header must declare; None if the manifest makes no sense any more."""
    try:
        slots: dict[str, tuple[str, tuple[int, ...]]] = {}
        for tensor in manifest["tensors"]:
            slots[f"mask/{tensor['name']}"] = ("U8", (tensor["mask"]["bytes"],))
            if tensor["log"]["kind"] != "none":
                slots[f"log/{tensor['name']}"] = ("U8", (tensor["log"]["bytes"],))
            if "coats" in tensor:
                slots[f"coats/{tensor['name']}"] = ("U8", (tensor["coats"]["bytes"],))
            if "values" in tensor and tensor["values"]["dtype"] == "I8":
                slots[f"values/{tensor['name']}"] = ("U8", (tensor["values"]["bytes"],))
                slots[f"scales/{tensor['name']}"] = ("F32", tuple(tensor["shape"][:1]) or (1,))
            elif "values" in tensor:
                slots[f"values/{tensor['name']}"] = (tensor["values"]["dtype"], (tensor["kept"],))
        for entry in (entry for entry in manifest["state"] if "value" not in entry):
            slots[f"state/{entry['name']}"] = (entry["dtype"], tuple(entry["shape"]))
        if any(type(size) is not int or size < 0 for _, shape in slots.values() for size in shape):
            return None
        layout(slots)
    except (KeyError, TypeError, IndexError, AttributeError):
        return None
    return slots


def compact(data: bytes) -> bytes | None:
    """What stands behind the digest in a compact file; None for a file in JSON."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return data[8 + length + 32 :] if list(header) == ["__metadata__", "data"] else None


# Mutations. Each takes a good file and returns a bad one, and says whether it was sealed.


def bytes_changed(data: bytes, rng: random.Random, times: int = 0) -> bytes:
    out = bytearray(data)
    for _ in range(times or rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        size = min(rng.choice((1, 1, 2, 4, 8, 64)), len(out) - at)
        kind = rng.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            out[at:at] = rng.randbytes(size)
        elif kind == 3:
            del out[at : at + size]
        elif kind == 4:
            out[at:at] = out[at : at + size]
        elif kind == 5:
            out[at : at + size] = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * size
        else:
            other = rng.randrange(len(out) + 1)
            out[at : at + size] = out[other : other + size]
    return bytes(out)


def mutate_raw(data: bytes, rng: random.Random, _: bool) -> bytes:
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data))]
    if rng.random() < 0.1:
        return data + rng.randbytes(rng.randint(1, 64))
    return bytes_changed(data, rng)


def mutate_header(data: bytes, rng: random.Random, seal: bool) -> bytes:
    header, manifest, section = split(data)
    for _ in range(rng.choice((1, 1, 2))):
        change_json(header, rng)
    if seal:  # the text of the manifest is right in any case; here the digest fits changed data, too
        section = bytes_changed(section, rng, 1)
        manifest["digests"]["payload"] = hashlib.sha256(section).hexdigest()
        manifest["digests"]["manifest"] = "0" * 64
        manifest["digests"]["manifest"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    return container(header, manifest, section)


def mutate_manifest(data: bytes, rng: random.Random, seal: bool) -> bytes:
    header, manifest, section = split(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Aim at one tensor often: most other fields are refused at once.
        part = "state" if "constants" in str(manifest.get("required_features")) and rng.random() < 0.7 else "tensors"
        aim = manifest[part] if rng.random() < 0.6 and isinstance(manifest.get(part), list) else manifest
        change_json(aim, rng)
    if seal and rng.random() < 0.5:
        fix_features(manifest)
    return sealed(header, manifest, section) if seal else container(header, manifest, section)


def mutate_payload(data: bytes, rng: random.Random, seal: bool) -> bytes:
    header, manifest, section = split(data)
    contents = {name: section[slice(*entry["data_offsets"])] for name, entry in header.items()}
    parts = [
        (tensor, part) for tensor in manifest["tensors"] for part in ROWS if part in tensor and tensor[part]["bytes"]
    ]
    coded = [item for item in parts if item[0][item[1]]["coding"] != "raw"]
    scales = [name for name in contents if name.startswith("scales/")]
    for _ in range(rng.choice((1, 1, 1, 2))):
        tensor, part = rng.choice(coded if coded and rng.random() < 0.8 else parts)
        name = f"{part}/{tensor['name']}"
        if scales and rng.random() < 0.1:
            name = rng.choice(scales)
        if name in scales or (part == "values" and tensor["values"]["dtype"] != "I8"):  # as long as its shape says
            size = len(contents[name])
            contents[name] = bytes_changed(contents[name], rng, 1)[:size].ljust(size, b"\x7f")
            continue
        contents[name] = change_payload(contents[name], tensor, part, rng)
        tensor[part]["bytes"] = len(contents[name])
        if rng.random() < 0.05:
            tensor[part]["coding"] = rng.choice(("raw", "rans", "gaps"))
            fix_features(manifest)
    slots = slots_of(manifest)
    assert slots is not None
    section = b"".join(contents[name] for name in layout(slots))
    if seal:
        return sealed(header, manifest, section)
    return build_header(slots, {"seedmask": canonical_json(manifest)}) + section


def fix_features(manifest: dict[str, Any]) -> None:
    try:
        used = {tensor[part]["coding"] for tensor in manifest["tensors"] for part in ROWS if part in tensor}
        used |= {part for tensor in manifest["tensors"] for part in OPTIONAL if part in tensor}
        used |= {tensor["log"]["kind"] for tensor in manifest["tensors"]}
        used |= {"constants" for entry in manifest["state"] if "value" in entry}
        manifest["required_features"] = sorted(used & {"constants", "rans", "gaps", "deltas", *OPTIONAL})
    except (KeyError, TypeError):
        pass


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside a JSON value with every key or index of it."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def change_json(root: Any, rng: random.Random) -> None:
    found = list(places(root))
    if not found:
        return
    inner, key = rng.choice(found)
    old = inner[key]
    kind = rng.randrange(10)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, list):
        inner.insert(rng.randrange(len(inner) + 1), copy.deepcopy(old))
    elif kind == 1:
        inner[rng.choice((*TEXTS, "extra"))] = copy.deepcopy(old)
    elif kind == 2:
        other, name = rng.choice(found)
        inner[key] = copy.deepcopy(other[name])
    elif isinstance(old, str) and kind < 7 and old:
        at = rng.randrange(len(old))
        inner[key] = old[:at] + rng.choice("0123456789abcdef\x1b\u202e/Z") + old[at + rng.randrange(2) :]
    elif isinstance(old, str):
        inner[key] = rng.choice(TEXTS)
    elif isinstance(old, list) and kind < 8:
        rng.shuffle(old)
    elif type(old) is int and kind < 7:
        inner[key] = old + rng.choice((-8, -1, 1, 1, 8, old))
    elif kind == 9:
        inner[key] = rng.choice((None, True, [], {}, 1.5, -1, 1e300, [[[[[]]]]], "x" * 600))
    else:
        inner[key] = rng.choice(EDGES + HUGE)


def varint(value: int, rng: random.Random | None = None) -> bytes:
    """With a generator, now and then longer than needed."""
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    if rng is not None and rng.random() < 0.1:
        out[-1] |= 128
        out += b"\x80" * rng.randrange(4) + bytes([rng.choice((0, 1))])
    return bytes(out)


@dataclass
class Payload:
    """The fields of an entropy coded payload."""

    shift: int | None
    number: int
    lane: int
    frequencies: list[int]
    states: list[int]
    lengths: list[int]
    words: list[int]

    @classmethod
    def parse(cls, data: bytes, count: int, width: int, coding: str) -> Payload:
        position = 0

        def take() -> int:
            nonlocal position
            value, shift = 0, 0
            while True:
                value |= (data[position] & 127) << shift
                position, shift = position + 1, shift + 7
                if data[position - 1] < 128:
                    return value

        shift, number = None, -(-count // 8) if width == 1 else count
        classes = 9 if width == 1 else 1 << width
        if coding == "gaps":
            shift, position = data[0], 1
            number = take()
            classes = (254 >> shift) + 2
        lane = take()
        frequencies = [take() for _ in range(classes)]
        lanes = -(-number // lane)
        states = np.frombuffer(data, "<u4", lanes, position).tolist()
        lengths = np.frombuffer(data, "<u2", lanes, position + 4 * lanes).tolist()
        words = np.frombuffer(data, "<u2", -1, position + 6 * lanes).tolist()
        return cls(shift, number, lane, frequencies, states, lengths, words)

    def change(self, rng: random.Random) -> None:
        kind = rng.randrange(11)
        rows = [row for row in (self.states, self.lengths, self.words) if row]
        if kind == 0:
            self.lane = rng.choice((*EDGES, self.lane - 1, self.lane + 1, 2 * self.lane, self.number))
        elif kind == 1:
            self.frequencies[rng.randrange(len(self.frequencies))] = rng.choice(EDGES + HUGE)
        elif kind == 2:  # the sum over classes of one symbol each may stay right
            a, b = rng.randrange(len(self.frequencies)), rng.randrange(len(self.frequencies))
            step = min(rng.choice((1, 8, 256)), self.frequencies[a])
            self.frequencies[a] -= step
            self.frequencies[b] += step
        elif kind == 3:
            rng.shuffle(self.frequencies)
        elif kind == 4 and self.shift is not None:
            self.shift = rng.choice((*range(9), 127, 255))
        elif kind == 5 and self.shift is not None:
            self.number = max(0, rng.choice((self.number - 1, self.number + 1, 2 * self.number, *EDGES, *HUGE)))
        elif kind == 6 and self.states:
            self.states[rng.randrange(len(self.states))] = rng.choice((*(e for e in EDGES if e < 2**32), 65536))
        elif kind == 7 and len(self.lengths) > 1:
            a, b = rng.sample(range(len(self.lengths)), 2)
            self.lengths[a], self.lengths[b] = self.lengths[a] - 1, self.lengths[b] + 1
        elif kind == 8 and self.words:
            at = rng.randrange(len(self.words))
            self.words[at : at + rng.randrange(2)] = [rng.randrange(65536) for _ in range(rng.randrange(3))]
        elif rows:
            row = rng.choice(rows)
            at = rng.randrange(len(row))
            row[at] ^= 1 << rng.randrange(16)

    def pack(self, rng: random.Random) -> bytes:
        start = b"" if self.shift is None else bytes([self.shift]) + varint(self.number, rng)
        numbers = b"".join(varint(max(value, 0), rng if rng.random() < 0.1 else None) for value in self.frequencies)
        arrays = ((self.states, "<u4"), (self.lengths, "<u2"), (self.words, "<u2"))
        packed = (np.array([v % 2**32 for v in row], np.int64).astype(dtype).tobytes() for row, dtype in arrays)
        return start + varint(max(self.lane, 0), rng) + numbers + b"".join(packed)


def change_payload(content: bytes, tensor: dict[str, Any], part: str, rng: random.Random) -> bytes:
    coding = tensor[part]["coding"]
    if coding == "raw" or rng.random() < 0.25:
        return bytes_changed(content, rng, 1)
    stored = tensor["frozen"]["free"] if "frozen" in tensor else int(np.prod(tensor["shape"]))
    count = stored if part == "mask" else tensor["kept"]
    width = {"mask": 1, "values": 8}.get(part) or tensor[part]["width"]
    try:
        payload = Payload.parse(content, count, width, coding)
    except (IndexError, ValueError, ArithmeticError):  # it was changed before
        return bytes_changed(content, rng, 1)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        payload.change(rng)
    return payload.pack(rng)


def mutate_directory(data: bytes, rng: random.Random, seal: bool) -> bytes:
    """The front of the data of a compact file, with or without a right digest, under a header of its size."""
    section = compact(data)
    assert section is not None
    features = loads(data).manifest.required_features
    digest = data[-len(section) - 32 : -len(section)]
    end = section[0] + 1 if section[0] < 128 else (section[0] & 127) + 128 * section[1] + 2
    directory = section[:end]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(directory))
        if rng.random() < 0.5:
            directory = bytes_changed(directory, rng, 1) or b"\0"
        else:  # another number in place of a byte
            directory = directory[:at] + varint(rng.choice(EDGES + HUGE[:-2]), rng) + directory[at + 1 :]
    if rng.random() < 0.7:  # of the size that it has now
        prefix = 1 if section[0] < 128 else 2
        directory = varint(len(directory[prefix:])) + directory[prefix:]
    section = directory + section[end:]
    if seal:
        digest = hashlib.sha256(section).digest()
    return compact_header(list(features), len(section) + 32) + digest + section


MUTATORS: dict[str, Callable[[bytes, random.Random, bool], bytes]] = {
    "raw": mutate_raw,
    "header": mutate_header,
    "manifest": mutate_manifest,
    "payload": mutate_payload,
}
SHARES = (2, 1, 4, 5)


def mutant(seed: int, number: int) -> tuple[str, str, bytes]:
    """Name of the file it comes from, what was done, and the bytes."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(seeds()))
    kind = rng.choices(list(MUTATORS), SHARES)[0]
    seal = kind != "raw" and rng.random() < 0.6  # raw ones never are: half of all in the end
    if kind != "raw" and compact(seeds()[name]) is not None:
        kind = "directory"
        return name, f"{kind}, sealed" if seal else kind, mutate_directory(seeds()[name], rng, seal)
    return name, f"{kind}, sealed" if seal else kind, MUTATORS[kind](seeds()[name], rng, seal)


# What happens to a mutant.


def kind_of(message: str) -> str:
    """A message without what is particular to one file."""
    text = message.removeprefix("<memory>: ").split("; ")[0].split(", got ")[0]
    text = re.sub(r"(not valid JSON) \(.*", r"\1", text)
    text = re.sub(r"(?s)^manifest: .*: (?=[A-Z][a-z]+ )", "manifest: …: ", text)  # the field, and what pydantic says
    text = re.sub(r"(?s)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\{.*|\[.*", "…", text)
    text = re.sub(r"^(architecture|recipe)[^:]*:", r"\1…:", text)
    return re.sub(r"\b[0-9a-f]{64}\b|-?\b\d[\d.e+]*\b", "N", text)[:100]


def outcome(data: bytes, origin: str) -> tuple[str, str | None]:
    """Kind of the outcome, and what is wrong with it, if anything."""
    try:
        seedmask = loads(data, max_weights=MAX_WEIGHTS)
        seedmask.verify()
        weights = seedmask.weights()
        for stored in seedmask.state().values():
            stored.numpy()
    except SeedMaskError as error:
        message = str(error)
        return kind_of(message), f"unprintable message {message!a}" if UNPRINTABLE.search(message) else None
    except Exception as error:  # noqa: BLE001 - everything else is what is looked for
        return f"{type(error).__name__}", f"{type(error).__name__}: {error!a}"
    found = [hashlib.sha256(weights[entry.name].astype("<f4").tobytes()) for entry in seedmask.tensors]
    for entry, digest in zip(seedmask.tensors, found, strict=True):
        if entry.sha256 not in (None, digest.hexdigest()):
            return "WRONG WEIGHTS", f"tensor {entry.name!a} is not that of its digest"
    if hashlib.sha256(b"".join(digest.digest() for digest in found)).hexdigest() != seedmask.weights_digest:
        return "WRONG WEIGHTS", "tensors are not those of the digest of all"
    if data == seeds()[origin]:
        return "accepted: unchanged", None
    stated, expected = promised(origin)
    if seedmask.weights_digest == stated:
        if [value.tobytes() for value in weights.values()] != list(expected.values()):
            return "WRONG WEIGHTS", "weights are not those of the file that it comes from"
        return "accepted: the same weights", None
    return "accepted: other weights, as its digests say", None


@dataclass
class Tally:
    """Outcomes of some mutants."""

    mutants: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    peak_kib: int = 0
    start_kib: int = 0

    def add(self, data: bytes, origin: str, kind: str, label: str) -> None:
        began = time.perf_counter()
        found, problem = outcome(data, origin)
        self.slowest = max(self.slowest, (time.perf_counter() - began, f"{label}, of {origin}, {kind}: {found}"))
        self.mutants += 1
        self.kinds[kind] += 1
        self.outcomes[found] += 1
        if problem is not None:
            self.failures.append(f"{label}, of {origin}, {kind}: {problem}"[:400])
            self.problems[problem[:19] if problem.startswith("unprintable") else found] += 1

    def merge(self, other: Tally) -> None:
        self.mutants += other.mutants
        self.kinds += other.kinds
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.problems += other.problems
        self.slowest = max(self.slowest, other.slowest)
        self.peak_kib = max(self.peak_kib, other.peak_kib)
        self.start_kib = max(self.start_kib, other.start_kib)


def kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


_START = 0


def prepare() -> None:
    """In a worker: decode every good file once, then allow 1 GiB of address space more."""
    global _START
    for name in seeds():
        promised(name)
    _START = kib("VmHWM")
    limit = (kib("VmSize") << 10) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def random_mutants(seed: int, begin: int, end: int) -> Tally:
    tally = Tally(start_kib=_START)
    for number in range(begin, end):
        origin, kind, data = mutant(seed, number)
        tally.add(data, origin, kind, f"--seed {seed} --only {number}")
    tally.peak_kib = kib("VmHWM")
    return tally


def exhaustive_mutants(name: str, begin: int, end: int) -> Tally:
    """Every flip of a bit of bytes ``begin`` to ``end``, and every truncation in front of one of them."""
    tally = Tally(start_kib=_START)
    data = bytearray(seeds()[name])
    for position in range(begin, end):
        for bit in range(8):
            data[position] ^= 1 << bit
            tally.add(bytes(data), name, "bit flip", f"bit {bit} of byte {position}")
            data[position] ^= 1 << bit
        tally.add(bytes(data[:position]), name, "truncation", f"{position} bytes")
    accepted = sum(count for found, count in tally.outcomes.items() if found.startswith("accepted"))
    if accepted:
        tally.failures.append(f"{name}, bytes {begin} to {end}: {accepted} damaged files were accepted")
        tally.problems["damage accepted"] += 1
    tally.peak_kib = kib("VmHWM")
    return tally


def gather(futures: list[Future[Tally]], what: str) -> Tally:
    total, began, shown = Tally(), time.perf_counter(), 0.0
    for future in as_completed(futures):
        if future.exception() is not None:
            for other in futures:
                other.cancel()
        total.merge(future.result())
        if time.perf_counter() - shown > 30:
            shown = time.perf_counter()
            print(f"{what}: {total.mutants} in {shown - began:.0f} s, {len(total.failures)} failures", flush=True)
    return total


def report(what: str, tally: Tally) -> dict[str, Any]:
    print(f"\n{what}: {tally.mutants} mutants, {len(tally.failures)} failures")
    for name, counter in (("kind", tally.kinds), ("outcome", tally.outcomes), ("failure", tally.problems)):
        for key, count in counter.most_common():
            print(f"  {count:8} {name}: {key}")
    print(f"  slowest {tally.slowest[0]:.3f} s: {tally.slowest[1]}")
    print(f"  peak resident memory of a worker: {tally.peak_kib >> 10} MiB; before the first mutant: ", end="")
    print(f"{tally.start_kib >> 10} MiB")
    for line in tally.failures[:20]:
        print(f"  FAILURE {line}")
    return {
        "mutants": tally.mutants,
        "failures": len(tally.failures),
        "failures_by_kind": dict(tally.problems.most_common()),
        "first_failures": sorted(tally.failures, key=lambda line: (len(line), line))[:10],
        "kinds": dict(tally.kinds.most_common()),
        "outcomes": dict(tally.outcomes.most_common()),
        "slowest_seconds": round(tally.slowest[0], 3),
        "slowest": tally.slowest[1],
        "peak_rss_mib": round(tally.peak_kib / 1024, 1),
        "start_rss_mib": round(tally.start_kib / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exhaustive", action="store_true", help="every bit flip and truncation of golden files too")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one mutant, in this process: to look at a failure")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.only is not None:
        origin, kind, data = mutant(args.seed, args.only)
        print(origin, kind, f"{len(data)} bytes", outcome(data, origin), sep="\n")
        return
    results: dict[str, Any] = {"environment": environment(), "seed": args.seed, "max_weights": MAX_WEIGHTS}
    results["files"] = {name: len(data) for name, data in seeds().items()}
    failures = 0
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context, initializer=prepare) as pool:
        numbers = range(0, args.mutations, CHUNK)
        futures = [pool.submit(random_mutants, args.seed, n, min(n + CHUNK, args.mutations)) for n in numbers]
        tally = gather(futures, "random")
        results["random"] = report("random", tally)
        failures += len(tally.failures)
        if args.exhaustive:
            futures = [
                pool.submit(exhaustive_mutants, name, start, min(start + CHUNK, len(data)))
                for name, data in seeds().items()
                if name.endswith(".seedmask")
                for start in range(0, len(data), CHUNK)
            ]
            tally = gather(futures, "exhaustive")
            results["exhaustive"] = report("exhaustive", tally)
            failures += len(tally.failures)
    results["seconds"] = round(time.perf_counter() - began, 1)
    save(results, args.json)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
