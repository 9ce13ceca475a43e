"""The safetensors container: where every byte stands, as a pure function of what a file holds.

Source: the format section of https://github.com/huggingface/safetensors. A file is an 8-byte little-endian
header length, a JSON header padded with spaces to a multiple of 8, and the data of the tensors without holes.
Our own rules on top make the bytes unique: JSON keys are sorted, and data are ordered by item size (largest
first, so that everything is aligned) and then by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import SeedMaskError
from .byte_source import Source
from .json_text import canonical_json, parse_json
from .stored import ITEM_SIZE, data_bytes

__all__ = [
    "MAX_HEADER_BYTES",
    "Slots",
    "build_header",
    "compact_header",
    "explain_difference",
    "layout",
    "ordinary_header",
    "read_header",
]

#: The cap of the safetensors library.
MAX_HEADER_BYTES = 100_000_000

#: The one tensor of a file in compact form.
DATA = "data"

#: Tensor name → (safetensors dtype, shape): all that determines a header, apart from the metadata.
Slots = Mapping[str, tuple[str, tuple[int, ...]]]

#: The library writes the tensors of the last of these dtypes first.
_DTYPES = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64")
_LIBRARY_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPES)}


def layout(slots: Slots, rank: Mapping[str, int] = ITEM_SIZE) -> dict[str, tuple[int, int]]:
    """First and one-past-last byte of each tensor in the data section, dtypes of the highest ``rank`` first."""
    places = {}
    position = 0
    for name in sorted(slots, key=lambda name: (-rank[slots[name][0]], name)):
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
    return _framed(canonical_json(header).encode("ascii"))


def compact_header(features: list[str], size: int) -> bytes:
    """The bytes before the data section of a file in compact form.

    Args:
        features: that a reader must know.
        size: of the data section.
    """
    stub = canonical_json({"format_version": 1, "required_features": features})
    return build_header({DATA: ("U8", (size,))}, {"seedmask": stub})


def ordinary_header(slots: Slots) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The header of an ordinary weight file with the one metadata entry ``format: pt``, and the places of its data.

    The bytes are those that ``safetensors.torch.save_file`` writes, which needs all tensors in memory.

    Raises:
        SeedMaskError: a tensor has a name that safetensors reserves, or the header is larger than any reader accepts.
    """
    if "__metadata__" in slots:
        raise SeedMaskError(
            "a safetensors file cannot hold a tensor named '__metadata__'; recover the others by name, with --tensor"
        )
    places = layout(slots, _LIBRARY_RANK)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, (start, end) in places.items():
        header[name] = {"dtype": slots[name][0], "shape": slots[name][1], "data_offsets": [start, end]}
    return _framed(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()), places


def _framed(text: bytes) -> bytes:
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
