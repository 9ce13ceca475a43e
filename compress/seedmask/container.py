"""The safetensors container: where every byte stands, as a pure function of what a file holds.

Source: the format section of https://github.com/huggingface/safetensors. A file is an 8-byte little-endian
header length, a JSON header padded with spaces to a multiple of 8, and the data of the tensors without holes.
Our own rules on top make the bytes unique: JSON keys are sorted, and data are ordered by item size (largest
first, so that everything is aligned) and then by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import SeedMaskError
from ..files.atomic import atomic_path
from .byte_source import Source
from .json_text import canonical_json, parse_json
from .stored import ITEM_SIZE, StoredTensor, data_bytes

__all__ = ["MAX_HEADER_BYTES", "Slots", "build_header", "layout", "read_header", "write_safetensors"]

#: The cap of the safetensors library.
MAX_HEADER_BYTES = 100_000_000

#: Tensor name → (safetensors dtype, shape): all that determines a header, apart from the metadata.
Slots = Mapping[str, tuple[str, tuple[int, ...]]]


def layout(slots: Slots) -> dict[str, tuple[int, int]]:
    """First and one-past-last byte of each tensor in the data section, in the order of the data."""
    places = {}
    position = 0
    for name in sorted(slots, key=lambda name: (-ITEM_SIZE[slots[name][0]], name)):
        end = position + data_bytes(*slots[name])
        places[name] = (position, end)
        position = end
    return places


def build_header(slots: Slots, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes before the data section: length, canonical JSON, padding.

    Raises:
        SeedMaskError: the header is larger than any reader accepts.
    """
    header: dict[str, object] = {
        name: {"dtype": slots[name][0], "shape": list(slots[name][1]), "data_offsets": [start, end]}
        for name, (start, end) in layout(slots).items()
    }
    if metadata:
        header["__metadata__"] = dict(metadata)
    text = canonical_json(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise SeedMaskError(f"header: expected at most {MAX_HEADER_BYTES} bytes, got {len(text)}; too many tensors")
    return len(text).to_bytes(8, "little") + text


def read_header(source: Source) -> tuple[bytes, dict[str, Any]]:
    """Read the header of a file, and nothing after it.

    Returns:
        The raw bytes up to the data section, and the parsed JSON.

    Raises:
        SeedMaskError: the file is empty, truncated, not a safetensors file, or has a bad header.
    """
    size = source.size
    if not size:
        raise SeedMaskError("the file is empty; get it again")
    start = bytes(source.read(0, min(9, size)))
    if len(start) == 9 and start[8:] != b"{":
        raise SeedMaskError("not a .seedmask file (no safetensors header); give a file that `pack` has written")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or 8 + length > size:
        declared = f"{8 + length} bytes of header" if len(start) == 9 else "9 bytes or more"
        raise SeedMaskError(f"truncated: expected {declared}, got a file of {size} bytes; get it again")
    if length > MAX_HEADER_BYTES:
        raise SeedMaskError(f"header: expected at most {MAX_HEADER_BYTES} bytes, got {length}; not a file of ours")
    raw = bytes(source.read(0, 8 + length))
    return raw, parse_json(raw[8:], "header")


def explain_difference(result: dict[str, Any], slots: Slots) -> str:
    """Say in what a header differs from the one that its manifest implies."""
    implied = parse_json(build_header(slots)[8:], "header")
    for name, entry in implied.items():
        if name not in result:
            return f"tensor {name!r}: declared by the manifest, but absent from the header"
        if result[name] != entry:
            expected, got = canonical_json(entry), canonical_json(result[name])[:200]
            return f"tensor {name!r}: expected the header entry {expected}, got {got}"
    for name in result:
        if name != "__metadata__" and name not in implied:
            return f"tensor {name[:80]!a}: in the header, but not declared by the manifest"
    return "header: not in canonical form"


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write an ordinary safetensors file, atomically and tensor by tensor; return its size in bytes.

    Raises:
        IterandError: the file cannot be written.
    """
    slots = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    header = build_header(slots, metadata)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        for name in layout(slots):
            stream.write(tensors[name].data.data)
        return stream.tell()
