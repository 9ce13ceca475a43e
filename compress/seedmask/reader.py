"""Open ``.seedmask`` files. Any bytes give either the right weights or a `SeedMaskError`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from ..errors import SeedMaskError
from ..files.kinds import check_kind
from .byte_source import FileSource, MemorySource, Source
from .container import DATA, build_header, compact_header, explain_difference, layout, read_header
from .directory import MAX_DIRECTORY_BYTES, parse_directory, varint
from .json_text import DAMAGED, located
from .manifest import COMPACT, Manifest, parse_manifest, parse_stub
from .seedmask import SeedMask

__all__ = ["MAX_WEIGHTS", "default_max_weights", "loads", "read_seedmask"]

#: The largest default cap on the number of weights of a file.
MAX_WEIGHTS = 2**33
# The smallest default cap: 64 MiB of float32. A byte of a mask holds 700 weights at 99.9 % sparsity, 43,690 (`rans`) if
# none or all are pruned, and any number as `gaps`.
_LEAST_CAP, _WEIGHTS_PER_BYTE = 2**24, 1024
_DIGEST_BYTES = 32


def default_max_weights(file_bytes: int) -> int:
    """The default of ``max_weights`` for a file of this size."""
    return min(max(_LEAST_CAP, _WEIGHTS_PER_BYTE * file_bytes), MAX_WEIGHTS)


def read_seedmask(path: str | os.PathLike[str], *, verify: bool = True, max_weights: int | None = None) -> SeedMask:
    """Open a file; its payloads stay on the disk until they are needed.

    Args:
        path: the file.
        verify: compare the payload with its digest now; of a compact file that is always done. Structure and manifest
            are checked in any case, and recovered weights are always compared with their digests.
        max_weights: refuse files that declare more weights, before memory is taken for them; by default
            `default_max_weights`, as a small file can stand for very many.

    Raises:
        SeedMaskError: the file is missing, damaged, foreign, too new, or too large.
    """
    check_kind(Path(path), "seedmask")
    with located(os.fspath(path)):
        return _read(FileSource(Path(path)), Path(path), verify, max_weights)


def loads(data: bytes, *, verify: bool = True, max_weights: int | None = None) -> SeedMask:
    """Open the bytes of a file; see `read_seedmask`.

    Raises:
        SeedMaskError: they are not a complete ``.seedmask`` file.
    """
    path = Path("<memory>")
    with located(path):
        return _read(MemorySource(data), path, verify, max_weights)


def _read(source: Source, path: Path, verify: bool, max_weights: int | None) -> SeedMask:
    raw, header = read_header(source)
    metadata = header.get("__metadata__")
    text = metadata.get("seedmask") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise SeedMaskError(
            "a safetensors file, but not a .seedmask: it has no 'seedmask' manifest; "
            "give a file that `pack` has written"
        )
    max_weights = default_max_weights(source.size) if max_weights is None else max_weights
    stub = parse_stub(text)
    if COMPACT in stub["required_features"]:
        return SeedMask(path, *_read_compact(source, raw, header, stub, max_weights))
    manifest = parse_manifest(text, max_weights)
    slots = manifest.slots()
    if build_header(slots, {"seedmask": text}) != raw:
        raise SeedMaskError(f"{explain_difference(header, slots)}; {DAMAGED}")
    expected = len(raw) + max((end for _, end in layout(slots).values()), default=0)
    _check_size(source, expected)
    if verify:
        _check_payload(source, len(raw), manifest.digests.payload)
    return SeedMask(path, manifest, source, len(raw))


def _read_compact(
    source: Source, raw: bytes, header: dict[str, Any], stub: dict[str, Any], max_weights: int
) -> tuple[Manifest, Source, int]:
    """Manifest, source and begin of the payloads of a file in compact form.

    The digest of the payload is compared in any case: it is the only one of the directory.
    """
    features = stub["required_features"]
    if sorted(stub) != ["format_version", "required_features"]:
        raise SeedMaskError(
            "manifest: expected format_version and required_features alone in a compact file, got "
            f"{ascii(sorted(stub))[:200]}; {DAMAGED}"
        )
    shape = header[DATA].get("shape") if isinstance(header.get(DATA), dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or not 0 <= shape[0] < 2**63:
        raise SeedMaskError(f"header: expected the one tensor {DATA!r} of a compact file, with its size; {DAMAGED}")
    expected = compact_header(features, shape[0])
    if expected != raw:
        raise SeedMaskError(f"{explain_difference(header, {DATA: ('U8', (shape[0],))})}; {DAMAGED}")
    _check_size(source, len(raw) + shape[0])
    start = len(raw) + _DIGEST_BYTES
    if source.size < start + 1:
        raise SeedMaskError(f"{DATA}: expected a digest and a directory, got {shape[0]} bytes; {DAMAGED}")
    digest = bytes(source.read(len(raw), start)).hex()
    _check_payload(source, start, digest)
    prefix, size = bytes(source.read(start, min(start + 4, source.size))), 0
    for place, byte in enumerate(prefix):
        size |= (byte & 127) << 7 * place
        if byte < 128:
            start += place + 1
            break
    if not prefix.startswith(varint(size)) or size > min(MAX_DIRECTORY_BYTES, source.size - start):
        limit = min(MAX_DIRECTORY_BYTES, source.size - start)
        raise SeedMaskError(f"directory: expected a size of at most {limit} bytes in its shortest form; {DAMAGED}")
    directory = source.read(start, start + size)
    manifest = parse_directory(directory, features, digest, max_weights)
    needed = sum(end - begin for begin, end in layout(manifest.slots()).values())
    if needed != source.size - start - size:
        raise SeedMaskError(
            f"directory: expected {needed} bytes of payloads behind it, got {source.size - start - size}; {DAMAGED}"
        )
    return manifest, source, start + size


def _check_size(source: Source, expected: int) -> None:
    if source.size != expected:
        kind = "truncated" if source.size < expected else "trailing bytes"
        raise SeedMaskError(f"{kind}: expected {expected} bytes, got {source.size}; {DAMAGED}")


def _check_payload(source: Source, start: int, expected: str) -> None:
    digest = hashlib.sha256()
    for block in source.blocks(start, source.size):
        digest.update(block)
    if digest.hexdigest() != expected:
        raise SeedMaskError(f"payload digest: expected {expected}, got {digest.hexdigest()}; {DAMAGED}")
