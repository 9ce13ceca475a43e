"""From a network to the bytes of a ``.seedmask`` file. The same network always gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..codebooks import get_codebook, random_codes
from ..errors import IterandError, SeedMaskError
from .atomic import atomic_path
from .bits import Row
from .codings import Coded, Plan, decode_rows, encode_rows, plan
from .container import build_header, layout
from .log import NO_LOG, ResamplingLog, choose_log
from .manifest import (
    FORMAT_VERSION,
    NO_DIGEST,
    Manifest,
    build_manifest,
    combined_digest,
    parse_manifest,
    required_features,
    sealed,
)
from .network import MaskedTensor, Network
from .recovery import CHUNK, TensorRecovery, grouped, thread_map, weights_digest

__all__ = ["PackReport", "dumps", "write_seedmask"]

#: Weights that are packed together, so that the lanes of small tensors run in lockstep.
GROUP = 1 << 24
#: Payloads up to this size wait in memory until the header is known, larger ones in a file without a name.
SPOOL = 1 << 26
_COPY = 1 << 20


@dataclass(frozen=True)
class PackReport:
    """What packing a network gave.

    Attributes:
        path: the file.
        file_bytes: its size.
        dense_bytes: size of the same tensors, weights as float32, without a header.
        weights: number of masked weights.
        kept: how many of them are not pruned.
        mask_bits: bits of all mask payloads.
        log_bits: bits of all resampling logs.
        state_bytes: size of the state.
        weights_digest: SHA-256 that stands for all recovered weights.
        file_digest: SHA-256 of the file.
    """

    path: Path
    file_bytes: int
    dense_bytes: int
    weights: int
    kept: int
    mask_bits: int
    log_bits: int
    state_bytes: int
    weights_digest: str
    file_digest: str


def write_seedmask(network: Network, path: str | os.PathLike[str], *, coding: str = "auto") -> PackReport:
    """Pack a network into a file, atomically, in memory bounded by its largest tensor if tensors are made on demand.

    Args:
        network: what to pack.
        path: the file.
        coding: ``auto`` (each payload as small as it gets), ``raw`` (bits as they are) or ``rans`` (entropy coded
            even where that is larger).

    Raises:
        SeedMaskError: the network cannot be packed, or what was encoded does not decode to its weights.
        ConfigError: there is no such coding.
        IterandError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> tensor = MaskedTensor("w", (2, 2), "normal", np.float32(0.5), np.array([True, False, True, True]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_seedmask(Network(seed=7, tensors=(tensor,)), Path(folder) / "tiny.seedmask")
        >>> report.kept, report.mask_bits, report.log_bits
        (3, 8, 0)
    """
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        with tempfile.SpooledTemporaryFile(SPOOL, dir=os.fspath(temporary.parent)) as spool:
            try:
                manifest, pieces = _assemble(network, cast("BinaryIO", spool), coding)
            except IterandError as error:
                raise type(error)(f"{os.fspath(path)}: {error}") from error
            for piece in pieces:
                stream.write(piece)
                digest.update(piece)
        file_bytes = stream.tell()
    state_bytes = sum(len(tensor.data) for tensor in network.state.values())
    weights = sum(tensor.weights for tensor in manifest.tensors)
    return PackReport(
        path=Path(path),
        file_bytes=file_bytes,
        dense_bytes=4 * weights + state_bytes,
        weights=weights,
        kept=sum(tensor.kept for tensor in manifest.tensors),
        mask_bits=8 * sum(tensor.mask.bytes for tensor in manifest.tensors),
        log_bits=8 * sum(tensor.log.bytes for tensor in manifest.tensors),
        state_bytes=state_bytes,
        weights_digest=manifest.digests.weights,
        file_digest=digest.hexdigest(),
    )


def dumps(network: Network, *, coding: str = "auto") -> bytes:
    """The bytes of the file that `write_seedmask` writes.

    Raises:
        SeedMaskError: the network cannot be packed.
        ConfigError: there is no such coding.
    """
    return b"".join(_assemble(network, BytesIO(), coding)[1])


def _assemble(network: Network, spool: BinaryIO, coding: str) -> tuple[Manifest, Iterator[bytes]]:
    """The manifest, and the pieces whose concatenation is the file; payloads go through ``spool``."""
    places: dict[str, tuple[int, int]] = {}

    def put(name: str, data: bytes | memoryview) -> None:
        start = spool.tell()
        spool.write(data)
        places[name] = start, start + len(data)

    entries = []
    # Not `enumerate`, which holds on to the item it gave last.
    numbered = ((index, network.tensors[index]) for index in range(len(network.tensors)))
    for group in grouped(numbered, lambda item: item[1].weights, GROUP):
        for fields, mask, log in _encode(network.seed, group, coding):
            entries.append(fields)
            put(f"mask/{fields['name']}", mask)
            if log:
                put(f"log/{fields['name']}", log)
    for name, stored in network.state.items():
        put(f"state/{name}", stored.data.data)
    digests = {
        "payload": NO_DIGEST,
        "weights": combined_digest(str(fields["sha256"]) for fields in entries),
        "manifest": NO_DIGEST,
    }
    fields = {
        "format_version": FORMAT_VERSION,
        "required_features": [],
        "generator": "philox4x32-10",
        "seed": f"{network.seed:016x}",
        "tensors": entries,
        "state": [
            {"name": name, "dtype": stored.dtype, "shape": stored.shape}
            for name, stored in sorted(network.state.items())
        ],
        "architecture": network.architecture,
        "input": network.input,
        "classes": network.classes,
        "recipe": network.recipe,
        "digests": digests,
    }
    manifest = build_manifest(fields)
    fields["required_features"] = required_features(manifest.tensors, manifest.input)
    slots = manifest.slots()
    order = [places[name] for name in layout(slots)]
    payload = hashlib.sha256()
    for piece in _pieces(spool, order):
        payload.update(piece)
    digests["payload"] = payload.hexdigest()
    manifest = sealed(build_manifest(fields))
    text = manifest.to_text()
    parse_manifest(text, max_weights=sum(tensor.weights for tensor in manifest.tensors))  # what a reader will do
    header = build_header(slots, {"seedmask": text})

    def pieces() -> Iterator[bytes]:
        yield header
        yield from _pieces(spool, order)

    return manifest, pieces()


def _pieces(spool: BinaryIO, places: list[tuple[int, int]]) -> Iterator[bytes]:
    for start, end in places:
        spool.seek(start)
        for position in range(start, end, _COPY):
            yield spool.read(min(_COPY, end - position))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A tensor without its mask and draws: the digest of its weights, from the definition, and plans for payloads."""

    index: int
    name: str
    shape: tuple[int, ...]
    codebook: str
    scale: np.float32
    kept: int
    sha256: str
    mask: Plan
    log: ResamplingLog
    log_plan: Plan | None


def _encode(
    seed: int, group: list[tuple[int, MaskedTensor]], coding: str
) -> Iterator[tuple[dict[str, object], bytes | memoryview, bytes | memoryview]]:
    """For each tensor its entry, mask and log, decoded again and compared with the definition. Empties ``group``."""
    prepared = thread_map(lambda item: _prepare(seed, *item, coding), group, lambda item: item[1].weights)
    group.clear()  # tensors that were made on demand make room
    coded = iter(encode_rows([p for item in prepared for p in (item.mask, item.log_plan) if p is not None], coding))
    pairs = [(next(coded), None if item.log_plan is None else next(coded)) for item in prepared]
    rows = iter(
        decode_rows(
            [(item.name, part) for item, pair in zip(prepared, pairs, strict=True) for part in pair if part is not None]
        )
    )
    recoveries = []
    for item in prepared:
        mask = next(rows)
        log = NO_LOG if item.log_plan is None else ResamplingLog(item.log.kind, next(rows))
        recoveries.append(TensorRecovery(seed, item.index, item.codebook, item.scale, mask, log))
    found = thread_map(TensorRecovery.digest, recoveries, lambda recovery: recovery.mask.count)
    for item, (mask_payload, log_payload), digest in zip(prepared, pairs, found, strict=True):
        if digest != item.sha256:
            raise SeedMaskError(
                f"tensor {item.name!r}: expected recovered weights with SHA-256 {item.sha256}, got {digest}; "
                "this is a bug in the packer, please report it"
            )
        yield (
            _fields(item, mask_payload, log_payload),
            mask_payload.payload,
            log_payload.payload if log_payload else b"",
        )


def _fields(item: _Prepared, mask: Coded, log: Coded | None) -> dict[str, object]:
    return {
        "name": item.name,
        "shape": item.shape,
        "codebook": item.codebook,
        "scale": struct.pack(">f", item.scale).hex(),
        "kept": item.kept,
        "mask": {"coding": mask.coding, "bytes": len(mask.payload)},
        "log": {
            "kind": item.log.kind,
            "coding": log.coding if log else "raw",
            "width": item.log.width,
            "bytes": len(log.payload) if log else 0,
        },
        "sha256": item.sha256,
    }


def _prepare(seed: int, index: int, tensor: MaskedTensor, coding: str) -> _Prepared:
    book = get_codebook(tensor.codebook)
    kept = int(np.count_nonzero(tensor.mask))
    draws, differs = np.zeros(kept, np.uint8), np.zeros(kept, np.bool_)

    def chunks() -> Iterator[NDArray[np.int8]]:
        """Codes (0 = pruned); draws and differences from draw 0 of kept weights are noted on the way."""
        position = 0
        for start in range(0, tensor.weights, CHUNK):
            part = slice(start, min(start + CHUNK, tensor.weights))
            mask = tensor.mask[part]
            codes = random_codes(seed, index, book, part.start, part.stop)
            if tensor.draws is not None:
                own = tensor.draws[part] * mask
                redrawn = random_codes(seed, index, book, part.start, part.stop, own)
                where = np.flatnonzero(mask)
                here = slice(position, position + len(where))
                draws[here], differs[here] = own.take(where), (redrawn != codes).take(where)
                position, codes = here.stop, redrawn
            yield np.where(mask, codes, np.int8(0))

    digest = weights_digest(chunks(), tensor.scale)
    log, log_plan = choose_log(draws, differs, two_valued=book.two_valued, coding=coding)
    mask_plan = plan(Row.pack(tensor.mask.view(np.uint8), 1), coding)
    return _Prepared(
        index, tensor.name, tensor.shape, tensor.codebook, tensor.scale, kept, digest, mask_plan, log, log_plan
    )
