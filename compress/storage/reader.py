"""From a ``.seedmask`` file to weights. Whatever the bytes: the right weights, or a `SeedMaskError`."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import SeedMaskError
from .container import build_header, explain_difference, layout, read_header
from .manifest import DAMAGED, parse_manifest
from .seedmask import SeedMask
from .text import located

__all__ = ["MAX_WEIGHTS", "loads", "read_seedmask"]

#: Default cap on the number of weights of a file, checked before anything is allocated for them.
MAX_WEIGHTS = 2**33


def read_seedmask(path: str | os.PathLike[str], *, verify: bool = True, max_weights: int = MAX_WEIGHTS) -> SeedMask:
    """Open a file.

    Args:
        path: the file.
        verify: check the digest of the payload, and decode every mask and log once. Structure and manifest
            are checked in any case, and recovered weights are always compared with their digests.
        max_weights: refuse files that declare more weights.

    Raises:
        SeedMaskError: the file is missing, damaged, foreign, too new, or too large.
    """
    try:
        with located(path), Path(path).open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SeedMaskError("not a regular file; give the path of a .seedmask file")
            return _read(stream, status.st_size, Path(path), verify, max_weights)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SeedMaskError(f"{os.fspath(path)}: cannot be read: {reason}; check the path") from None


def loads(data: bytes, *, verify: bool = True, max_weights: int = MAX_WEIGHTS) -> SeedMask:
    """Open the bytes of a file; see `read_seedmask`.

    Raises:
        SeedMaskError: they are not those of a whole ``.seedmask`` file.
    """
    path = Path("<memory>")
    with located(path):
        return _read(io.BytesIO(data), len(data), path, verify, max_weights)


def _read(stream: BinaryIO, size: int, path: Path, verify: bool, max_weights: int) -> SeedMask:
    raw, header = read_header(stream, size)
    metadata = header.get("__metadata__")
    text = metadata.get("seedmask") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise SeedMaskError(
            "a safetensors file, but not a .seedmask: it has no 'seedmask' manifest; "
            "give a file that `pack` has written"
        )
    manifest = parse_manifest(text, max_weights)
    slots = manifest.slots()
    if build_header(slots, {"seedmask": text}) != raw:
        raise SeedMaskError(f"{explain_difference(header, slots)}; {DAMAGED}")
    expected = len(raw) + max((end for _, end in layout(slots).values()), default=0)
    if size != expected:
        kind = "truncated" if size < expected else "trailing bytes"
        raise SeedMaskError(f"{kind}: expected {expected} bytes, got {size}; {DAMAGED}")
    data = stream.read(expected - len(raw))
    if len(data) != expected - len(raw):
        raise SeedMaskError(f"truncated: expected {expected} bytes, got {len(raw) + len(data)}; {DAMAGED}")
    seedmask = SeedMask(path, manifest, memoryview(data), size)
    if verify:
        _verify(seedmask, data)
    return seedmask


def _verify(seedmask: SeedMask, data: bytes) -> None:
    expected, found = seedmask.manifest.digests.payload, hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SeedMaskError(f"payload digest: expected {expected}, got {found}; {DAMAGED}")
    for entry in seedmask.tensors:
        seedmask.mask(entry.name)
        seedmask.log(entry.name)
    seedmask.state()
