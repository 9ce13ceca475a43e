"""The directory of a file in compact form: the manifest in a few bytes (docs/FORMAT.md, section 6).

A directory and a manifest determine each other, so that what is read can be written again and compared.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from ..errors import SeedMaskError
from ..files.names import MAX_NAME_BYTES
from .bits import packed_bytes
from .json_text import DAMAGED, MAX_DEPTH, located
from .manifest import CONSTANTS, FORMAT_VERSION, GENERATORS, Manifest, TensorEntry, build_manifest, check_meaning
from .stored import ITEM_SIZE
from .trained import VALUE_DTYPES

__all__ = ["MAX_DIRECTORY_BYTES", "WORDS", "encode_directory", "parse_directory", "varint"]

#: Some 60,000 tensors. A few bytes are enough for a small one, so that more would let a small file take much memory.
MAX_DIRECTORY_BYTES = 1_000_000
#: Of all names, keys and texts together, each counted as often as it occurs, for a word is stored once.
MAX_TEXT_BYTES = 10_000_000
MAX_NUMBER = 2**64 - 1

# These lists are parts of the format: nothing in them may ever change its place.
CODEBOOK_ORDER = ("signed-constant", "uniform", "normal")
CODING_ORDER = ("raw", "rans", "gaps")
LOG_ORDER = ("none", "flips", "draws", "deltas")
VALUE_ORDER = ("", "F32", "F16", "I8")
DTYPE_ORDER = tuple(ITEM_SIZE)
_WORDS = """
weight bias running_mean running_var num_batches_tracked
0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
conv conv1 conv2 conv3 bn bn1 bn2 bn3 norm norm1 norm2 norm3 fc fc1 fc2 fc3
linear head classifier features layers layer layer1 layer2 layer3 layer4
blocks block stages stem downsample shortcut embedding encoder attention
query key value out proj mlp tokens places scale whiten
name num_classes in_channels image_size width depth affine activation batch_norm none
shape mean std length unit vocabulary words bytes
"""
#: Words that every directory knows.
WORDS = tuple(_WORDS.split())
SETTINGS = ("architecture", "input", "classes", "recipe")

# Kinds of values; from SMALL on, a byte is an integer itself.
NULL, FALSE, TRUE, LARGE, NEGATIVE, FLOAT32, FLOAT64, TEXT, LIST, OBJECT, SMALL = range(11)
_SMALL_INTEGERS = 256 - SMALL


def varint(value: int) -> bytes:
    """A number below 2**64 in groups of 7 bits, least significant first."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_directory(manifest: Manifest) -> bytes:
    """The directory of a manifest.

    Raises:
        SeedMaskError: it is larger than readers accept.
    """
    encoder = _Encoder()
    encoder.out += int(manifest.seed, 16).to_bytes(8, "little") + bytes.fromhex(manifest.digests.weights)
    settings = manifest.model_dump(mode="json", include=set(SETTINGS))
    for key in SETTINGS:
        encoder.value(settings[key])
    encoder.number(len(manifest.tensors))
    for tensor in manifest.tensors:
        encoder.tensor(tensor)
    encoder.number(len(manifest.state))
    constants = any(entry.value is not None for entry in manifest.state)
    for entry in manifest.state:
        encoder.name(entry.name)
        kind = len(DTYPE_ORDER) * len(entry.shape) + DTYPE_ORDER.index(entry.dtype)
        encoder.number(2 * kind + (entry.value is not None) if constants else kind)
        encoder.numbers(entry.shape)
        if entry.value is not None:
            encoder.out += bytes.fromhex(entry.value)[::-1]
    if len(encoder.out) > MAX_DIRECTORY_BYTES:
        raise SeedMaskError(
            f"directory: expected at most {MAX_DIRECTORY_BYTES} bytes, got {len(encoder.out)}; too many tensors: "
            "use the form json"
        )
    return bytes(encoder.out)


def parse_directory(data: bytes | memoryview, features: list[str], payload_digest: str, max_weights: int) -> Manifest:
    """Read a directory, check what it says as strictly as a manifest in JSON, and that it has no other form.

    Args:
        data: the directory, to its end.
        features: those that the file requires.
        payload_digest: SHA-256 that the file states, hexadecimal.
        max_weights: refuse files that declare more.

    Raises:
        SeedMaskError: the directory is damaged, or describes something impossible.
    """
    with located("directory"):
        fields = _Decoder(bytes(data), constants=CONSTANTS in features).fields()
    fields |= {"format_version": FORMAT_VERSION, "required_features": features, "generator": GENERATORS[0]}
    fields["digests"]["payload"] = payload_digest
    manifest = build_manifest(fields)
    check_meaning(manifest, max_weights)
    if encode_directory(manifest) != data:
        raise SeedMaskError(f"directory: not in its shortest form; {DAMAGED}")
    return manifest


class _Encoder:
    def __init__(self) -> None:
        self.out = bytearray()
        self._words = {word: i for i, word in enumerate(WORDS)}
        self._last: list[str] = []

    def number(self, value: int) -> None:
        self.out += varint(value)

    def numbers(self, values: Sequence[int]) -> None:
        for value in values:
            self.number(value)

    def word(self, word: str) -> None:
        self.number(self._words.setdefault(word, index := len(self._words)))
        if self._words[word] == index:
            encoded = word.encode()
            self.number(len(encoded))
            self.out += encoded

    def name(self, name: str) -> None:
        words, shared = name.split("."), 0
        while shared < min(len(words), len(self._last)) and words[shared] == self._last[shared]:
            shared += 1
        self.numbers((shared, len(words) - shared))
        for word in words[shared:]:
            self.word(word)
        self._last = words

    def value(self, value: Any) -> None:
        if value is None or isinstance(value, bool):
            self.out.append({None: NULL, False: FALSE, True: TRUE}[value])
        elif isinstance(value, int) and 0 <= value < _SMALL_INTEGERS:
            self.out.append(SMALL + value)
        elif isinstance(value, int):
            self.out.append(LARGE if value > 0 else NEGATIVE)
            self.number(value - _SMALL_INTEGERS if value > 0 else -1 - value)
        elif isinstance(value, float):
            single = _is_float32(value)
            self.out.append(FLOAT32 if single else FLOAT64)
            self.out += struct.pack("<f" if single else "<d", value)
        elif isinstance(value, str):
            self.out.append(TEXT)
            self.word(value)
        elif isinstance(value, dict):
            self.out.append(OBJECT)
            self.number(len(value))
            for key in sorted(value):
                self.word(key)
                self.value(value[key])
        else:
            self.out.append(LIST)
            self.number(len(value))
            for item in value:
                self.value(item)

    def tensor(self, entry: TensorEntry) -> None:
        frozen, log, coats, values = entry.frozen, entry.log, entry.coats, entry.values
        self.name(entry.name)
        more = (frozen is not None) + 2 * VALUE_ORDER.index(values.dtype if values else "")
        kind = CODEBOOK_ORDER.index(entry.codebook) + 4 * CODING_ORDER.index(entry.mask.coding)
        self.out.append(kind + 16 * LOG_ORDER.index(log.kind) + 64 * (coats is not None) + 128 * (more > 0))
        if more:
            self.out.append(more)
        self.number(len(entry.shape))
        self.numbers(entry.shape)
        self.out += struct.pack("<f", entry.scale_value)
        self.number(entry.kept)
        if frozen is not None:
            self.numbers((frozen.pruned, frozen.kept, frozen.free))
        self._size(entry.mask.coding, entry.mask.bytes)
        if log.kind != "none":
            self.out.append(CODING_ORDER.index(log.coding) + 4 * (log.width - 1))
            self._size(log.coding, log.bytes)
        if coats is not None:
            self.out.append(CODING_ORDER.index(coats.coding) + 4 * (coats.width - 1))
            self._size(coats.coding, coats.bytes)
        if values is not None and values.dtype == "I8":
            self.out.append(CODING_ORDER.index(values.coding))
            self._size(values.coding, values.bytes)

    def _size(self, coding: str, size: int) -> None:
        """The size of a payload, unless it follows from the number of values."""
        if coding != "raw":
            self.number(size)


class _Decoder:
    """Reads a directory from begin to end, never past it, and takes no more memory than a multiple of its size."""

    def __init__(self, data: bytes, *, constants: bool) -> None:
        self._data, self._at = data, 0
        self._constants = constants
        self._words = list(WORDS)
        self._last: list[str] = []
        self._text_bytes = 0

    def fields(self) -> dict[str, Any]:
        """The fields of a manifest that a directory determines."""
        fields: dict[str, Any] = {"seed": f"{int.from_bytes(self._take(8), 'little'):016x}"}
        fields["digests"] = {"weights": self._take(32).hex()}
        for key in SETTINGS:
            with located(key):
                fields[key] = self._value(0)
        fields["tensors"] = [self._tensor() for _ in range(self._count("tensors"))]
        fields["state"] = [self._state() for _ in range(self._count("state tensors"))]
        if self._at != len(self._data):
            raise SeedMaskError(f"expected it to end after {self._at} bytes, got {len(self._data)}; {DAMAGED}")
        return fields

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            left = len(self._data) - self._at
            raise SeedMaskError(f"expected {size} more bytes at byte {self._at}, got {left}; {DAMAGED}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if (byte or not shift) and value <= MAX_NUMBER:
                    return value
                break
        raise SeedMaskError(f"expected a number below 2**64 in its shortest form before byte {self._at}; {DAMAGED}")

    def _count(self, what: str) -> int:
        """A number of items, each of which takes a byte or more."""
        count = self._number()
        left = len(self._data) - self._at
        if count > left:
            raise SeedMaskError(f"expected at most {left} {what}, got {count}; {DAMAGED}")
        return count

    def _choice(self, index: int, names: Sequence[str], what: str) -> str:
        if index >= len(names):
            raise SeedMaskError(f"{what}: expected a number below {len(names)}, got {index}; {DAMAGED}")
        return names[index]

    def _word(self) -> str:
        index = self._number()
        if index < len(self._words):
            return self._words[index]
        if index > len(self._words):
            raise SeedMaskError(f"expected at most word {len(self._words)}, got word {index}; {DAMAGED}")
        try:
            self._words.append(self._take(self._number()).decode())
        except UnicodeDecodeError:
            raise SeedMaskError(f"a word before byte {self._at} is not UTF-8; {DAMAGED}") from None
        return self._words[-1]

    def _name(self) -> str:
        shared, more = self._number(), self._count("words of a name")
        if shared > len(self._last):
            raise SeedMaskError(f"name: expected at most {len(self._last)} words of the last one, got {shared}")
        words, size = self._last[:shared], sum(len(word) for word in self._last[:shared])
        for _ in range(more):
            words.append(self._word())
            size += 1 + len(words[-1])
            if size > MAX_NAME_BYTES + 1:
                raise SeedMaskError(f"name: expected at most {MAX_NAME_BYTES} bytes, got more; {DAMAGED}")
        self._last = words
        return self._text(".".join(words))

    def _text(self, text: str) -> str:
        self._text_bytes += len(text.encode())
        if self._text_bytes > MAX_TEXT_BYTES:
            raise SeedMaskError(f"expected at most {MAX_TEXT_BYTES} bytes of text, got more; not a file of ours")
        return text

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise SeedMaskError(f"nested deeper than {MAX_DEPTH} levels; not a file of ours")
        kind = self._byte()
        if kind >= SMALL:
            return kind - SMALL
        if kind <= TRUE:
            return {NULL: None, FALSE: False, TRUE: True}[kind]
        if kind == LARGE:
            return self._number() + _SMALL_INTEGERS
        if kind == NEGATIVE:
            return -1 - self._number()
        if kind == FLOAT32:
            return float(struct.unpack("<f", self._take(4))[0])
        if kind == FLOAT64:
            return float(struct.unpack("<d", self._take(8))[0])
        if kind == TEXT:
            return self._text(self._word())
        if kind == LIST:
            return [self._value(depth + 1) for _ in range(self._count("items"))]
        result: dict[str, Any] = {}
        for _ in range(self._count("keys")):
            key = self._text(self._word())
            if key in result:
                raise SeedMaskError(f"duplicate key {key[:80]!a}; {DAMAGED}")
            result[key] = self._value(depth + 1)
        return result

    def _tensor(self) -> dict[str, Any]:
        name = self._name()
        with located(f"tensor {name[:80]!a}"):
            kind = self._byte()
            more = self._byte() if kind & 128 else 0
            if more > 7:
                raise SeedMaskError(f"kind: expected a second byte below 8, got {more}; {DAMAGED}")
            shape = self._shape(self._number())
            fields: dict[str, Any] = {"name": name, "shape": shape}
            fields["codebook"] = self._choice(kind & 3, CODEBOOK_ORDER, "codebook")
            fields["scale"] = self._take(4)[::-1].hex()
            kept = fields["kept"] = self._number()
            count = 1
            for size in shape:
                count *= size
            if more & 1:
                pruned, fixed, count = self._number(), self._number(), self._number()
                fields["frozen"] = {"pruned": pruned, "kept": fixed, "free": count}
            fields["mask"] = self._row(kind >> 2 & 3, count, 1)
            log = LOG_ORDER[kind >> 4 & 3]
            fields["log"] = {"kind": log, "coding": "raw", "bytes": 0, "width": 0}
            if log != "none":
                fields["log"] |= self._wide_row(kept)
            if kind & 64:
                fields["coats"] = self._wide_row(kept)
            if more > 1:
                dtype = VALUE_ORDER[more >> 1]
                item = VALUE_DTYPES[dtype].itemsize
                row = self._row(self._byte() if dtype == "I8" else 0, kept, 8 * item)
                fields["values"] = {"dtype": dtype, **row}
            return fields

    def _wide_row(self, count: int) -> dict[str, Any]:
        kind = self._byte()
        width = 1 + (kind >> 2)
        return {"width": width, **self._row(kind & 3, count, width)}

    def _row(self, coding: int, count: int, width: int) -> dict[str, Any]:
        name = self._choice(coding, CODING_ORDER, "coding")
        return {"coding": name, "bytes": packed_bytes(count, width) if name == "raw" else self._number()}

    def _state(self) -> dict[str, Any]:
        name = self._name()
        with located(f"state {name[:80]!a}"):
            kind, constant = divmod(self._number(), 2) if self._constants else (self._number(), 0)
            rank, dtype = divmod(kind, len(DTYPE_ORDER))
            fields = {"name": name, "dtype": DTYPE_ORDER[dtype], "shape": self._shape(rank)}
            if constant:
                fields["value"] = self._take(ITEM_SIZE[DTYPE_ORDER[dtype]])[::-1].hex()
            return fields

    def _shape(self, rank: int) -> list[int]:
        if rank > 16:
            raise SeedMaskError(f"shape: expected at most 16 dimensions, got {rank}; {DAMAGED}")
        return [self._number() for _ in range(rank)]


def _is_float32(value: float) -> bool:
    """Whether binary32 holds a finite number exactly."""
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False
