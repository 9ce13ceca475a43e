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
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import IterandError, SeedMaskError
from ..files.atomic import atomic_path
from ..seed.codebooks import get_codebook, random_codes
from ..seed.philox import random_bytes
from .bits import Row
from .coats import Coats
from .codings import Coded, Plan, encode_rows, plan
from .container import build_header, layout
from .free_bits import free_row
from .json_text import located
from .log import NO_LOG, ResamplingLog, choose_log
from .manifest import (
    FORMAT_VERSION,
    NO_DIGEST,
    Manifest,
    TensorEntry,
    build_manifest,
    combined_digest,
    parse_manifest,
    required_features,
    sealed,
)
from .network import MaskedTensor, Network
from .payloads import Payloads
from .tensor_recovery import CHUNK, TensorRecovery, find_deltas, grouped, thread_map, weights_digest
from .trained import Trained

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
        coat_bits: bits of all coats.
        value_bits: bits of all trained values and their scales.
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
    coat_bits: int
    value_bits: int
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
        coat_bits=sum(tensor.coat_bits for tensor in manifest.tensors),
        value_bits=sum(tensor.value_bits for tensor in manifest.tensors),
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
        for entry, payloads in _encode(network.seed, group, coding):
            entries.append(entry)
            for slot, data in payloads.items():
                put(slot, data)
    for name, stored in network.state.items():
        put(f"state/{name}", stored.data.data)
    digests = {
        "payload": NO_DIGEST,
        "weights": combined_digest(entry.sha256 for entry in entries),
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
    """A tensor without its large arrays: the digest of its weights, from the definition, and plans for payloads.

    Attributes:
        index: of the tensor.
        fields: those of its entry that do not depend on how payloads are coded.
        log: its resampling log.
        plans: rows of values, by part.
        stored: arrays that are stored as they are, by part.
    """

    index: int
    fields: dict[str, Any]
    log: ResamplingLog
    plans: dict[str, Plan]
    stored: dict[str, NDArray[np.generic]]


def _encode(
    seed: int, group: list[tuple[int, MaskedTensor]], coding: str
) -> Iterator[tuple[TensorEntry, dict[str, bytes | memoryview]]]:
    """For each tensor its entry and payloads, decoded again and compared with the definition. Empties ``group``."""
    prepared = thread_map(lambda item: _prepare(seed, *item, coding), group, lambda item: item[1].weights)
    group.clear()  # tensors that were made on demand make room
    coded = iter(encode_rows([plan_ for item in prepared for plan_ in item.plans.values()], coding))
    entries: list[tuple[int, TensorEntry]] = []
    payloads: list[dict[str, bytes | memoryview]] = []
    for item in prepared:
        rows = {part: next(coded) for part in item.plans}
        entry = _entry(item, rows)
        entries.append((item.index, entry))
        payloads.append(
            {f"{part}/{entry.name}": row.payload for part, row in rows.items()}
            | {f"{part}/{entry.name}": array.view(np.uint8).data for part, array in item.stored.items()}
        )
    slots = {slot: data for parts in payloads for slot, data in parts.items()}
    recoveries = Payloads(seed, slots.__getitem__, lambda entry: f"tensor {entry.name!r}").recoveries(entries)
    found = thread_map(TensorRecovery.digest, recoveries, lambda recovery: recovery.mask.count)
    for (_, entry), parts, digest in zip(entries, payloads, found, strict=True):
        if digest != entry.sha256:
            raise SeedMaskError(
                f"tensor {entry.name!r}: expected recovered weights with SHA-256 {entry.sha256}, got {digest}; "
                "this is a bug in the packer, please report it"
            )
        yield entry, parts


def _entry(item: _Prepared, rows: dict[str, Coded]) -> TensorEntry:
    sizes = {part: {"coding": row.coding, "bytes": len(row.payload)} for part, row in rows.items()}
    fields = item.fields | {"mask": sizes["mask"]}
    empty = {"coding": "raw", "bytes": 0}
    fields["log"] = {"kind": item.log.kind, "width": item.log.width, **sizes.get("log", empty)}
    if "coats" in rows:
        fields["coats"] = {"width": rows["coats"].width, **sizes["coats"]}
    if "values" in rows:
        fields["values"] = {"dtype": "I8", **sizes["values"]}
    return TensorEntry.model_validate(fields)


def _prepare(seed: int, index: int, tensor: MaskedTensor, coding: str) -> _Prepared:
    with located(f"tensor {tensor.name!r}"):
        fields: dict[str, Any] = {
            "name": tensor.name,
            "shape": tensor.shape,
            "codebook": tensor.codebook,
            "scale": struct.pack(">f", tensor.scale).hex(),
            "kept": int(np.count_nonzero(tensor.mask)),
        }
        mask = Row.pack(tensor.mask.view(np.uint8), 1)
        plans = {"mask": plan(mask, coding)}
        if tensor.frozen is not None:
            free = free_row(seed, index, tensor.frozen, tensor.mask)
            plans["mask"] = plan(free, coding)
            fields["frozen"] = {"pruned": tensor.frozen.pruned, "kept": tensor.frozen.kept, "free": free.count}
        if tensor.trained is not None:
            fields["sha256"], stored = _prepare_trained(tensor.trained, mask, fields, plans, coding)
            return _Prepared(index, fields, NO_LOG, plans, stored)
        fields["sha256"], log = _prepare_random(seed, index, tensor, plans, coding)
        return _Prepared(index, fields, log, plans, {})


def _prepare_trained(
    trained: Trained, mask: Row, fields: dict[str, Any], plans: dict[str, Plan], coding: str
) -> tuple[str, dict[str, NDArray[np.generic]]]:
    """Digest of the weights, and arrays that are stored as they are."""
    digest = hashlib.sha256()
    for _, weights in trained.chunks(mask, CHUNK, lambda part: np.empty(part.stop - part.start, "<f4")):
        digest.update(weights.data)
    if trained.scales is not None:
        plans["values"] = plan(Row(len(trained.values), 8, trained.values.view(np.uint8)), coding)
        return digest.hexdigest(), {"scales": np.ascontiguousarray(trained.scales, "<f4")}
    values = np.ascontiguousarray(trained.values, trained.values.dtype.newbyteorder("<"))
    fields["values"] = {"dtype": trained.dtype, "coding": "raw", "bytes": values.nbytes}
    return digest.hexdigest(), {"values": values}


def _prepare_random(
    seed: int, index: int, tensor: MaskedTensor, plans: dict[str, Plan], coding: str
) -> tuple[str, ResamplingLog]:
    """Digest of the weights, and the log."""
    book = get_codebook(tensor.codebook)
    kept = int(np.count_nonzero(tensor.mask))
    values, differs = np.zeros(kept, np.uint8), np.zeros(kept, np.bool_)

    def chunks() -> Iterator[NDArray[np.int8]]:
        """Codes (0 = pruned); draws, or deltas, and differences from draw 0 of kept weights are noted on the way."""
        position = 0
        for start in range(0, tensor.weights, CHUNK):
            part = slice(start, min(start + CHUNK, tensor.weights))
            mask = tensor.mask[part]
            raw = random_bytes(seed, part.start, part.stop, draw=0, tensor=index)
            codes = book.codes(raw)
            own: NDArray[np.uint8] | None = None
            if tensor.draws is not None:
                own = tensor.draws[part] * mask
                now = random_codes(seed, index, book, part.start, part.stop, own)
            elif tensor.current is not None:
                now = book.codes(tensor.current[part])
                own = find_deltas(book, raw, now)
            if own is not None:
                where = np.flatnonzero(mask)
                here = slice(position, position + len(where))
                values[here], differs[here] = own.take(where), (now != codes).take(where)
                position, codes = here.stop, now
            if tensor.coats is not None:
                codes = codes * tensor.coats[part].view(np.int8)
            yield np.where(mask, codes, np.int8(0))

    digest = weights_digest(chunks(), tensor.scale)
    kind = "draws" if tensor.current is None else "deltas"
    log, log_plan = choose_log(values, differs, two_valued=book.two_valued, kind=kind, coding=coding)
    if log_plan is not None:
        plans["log"] = log_plan
    coats = None if tensor.coats is None else Coats.of(tensor.coats[tensor.mask])
    if coats is not None:
        plans["coats"] = plan(coats.row, coding)
    return digest, log
