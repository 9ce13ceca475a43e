"""Open ``.seedmask`` files. Any bytes give either the right weights or a `SeedMaskError`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import SeedMaskError
from ..files.kinds import check_kind
from .byte_source import FileSource, MemorySource, Source
from .container import build_header, explain_difference, layout, read_header
from .json_text import DAMAGED, located
from .manifest import parse_manifest
from .seedmask import SeedMask

__all__ = ["MAX_WEIGHTS", "default_max_weights", "loads", "read_seedmask"]

#: The largest default cap on the number of weights of a file.
MAX_WEIGHTS = 2**33
# The smallest default cap: 64 MiB of float32. A byte of a mask holds 700 weights at 99.9 % sparsity, 43,690 (`rans`) if
# none or all are pruned, and any number as `gaps`.
_LEAST_CAP, _WEIGHTS_PER_BYTE = 2**24, 1024


def default_max_weights(file_bytes: int) -> int:
    """The default of ``max_weights`` for a file of this size."""
    return min(max(_LEAST_CAP, _WEIGHTS_PER_BYTE * file_bytes), MAX_WEIGHTS)


def read_seedmask(path: str | os.PathLike[str], *, verify: bool = True, max_weights: int | None = None) -> SeedMask:
    """Open a file; its payloads stay on the disk until they are needed.

    Args:
        path: the file.
        verify: compare the payload with its digest now. Structure and manifest are checked in any case, and
            recovered weights are always compared with their digests.
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
    manifest = parse_manifest(text, default_max_weights(source.size) if max_weights is None else max_weights)
    slots = manifest.slots()
    if build_header(slots, {"seedmask": text}) != raw:
        raise SeedMaskError(f"{explain_difference(header, slots)}; {DAMAGED}")
    expected = len(raw) + max((end for _, end in layout(slots).values()), default=0)
    if source.size != expected:
        kind = "truncated" if source.size < expected else "trailing bytes"
        raise SeedMaskError(f"{kind}: expected {expected} bytes, got {source.size}; {DAMAGED}")
    if verify:
        digest = hashlib.sha256()
        for block in source.blocks(len(raw), expected):
            digest.update(block)
        if digest.hexdigest() != manifest.digests.payload:
            raise SeedMaskError(
                f"payload digest: expected {manifest.digests.payload}, got {digest.hexdigest()}; {DAMAGED}"
            )
    return SeedMask(path, manifest, source, len(raw))
