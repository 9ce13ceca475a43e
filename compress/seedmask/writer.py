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

from ..errors import IterandError
from ..files.atomic import atomic_path
from .bits import Row
from .codings import Coded, Plan, encode_rows, plan
from .container import build_header, compact_header, layout
from .directory import encode_directory, parse_directory, varint
from .free_bits import free_row
from .json_text import located
from .manifest import (
    COMPACT,
    FORMAT_VERSION,
    NO_DIGEST,
    FrozenEntry,
    Manifest,
    StateEntry,
    TensorEntry,
    build_manifest,
    parse_manifest,
    required_features,
    sealed,
)
from .network import PACKER_BUG, MaskedTensor, Network
from .parallel import grouped, thread_map
from .payloads import Payloads
from .tensor_recovery import TensorRecovery, combined_digest, map_checked

__all__ = ["PackReport", "dumps", "write_seedmask"]

#: Weights that are packed together, so that the lanes of small tensors run in lockstep.
GROUP = 1 << 24
#: Payloads up to this size wait in memory until the header is known, larger ones in an unnamed temporary file.
SPOOL = 1 << 26
_COPY = 1 << 20


@dataclass(frozen=True)
class PackReport:
    """Result of packing a network.

    Attributes:
        path: the file.
        file_bytes: its size.
        dense_bytes: size of the same tensors, weights as float32, without a header.
        weights: number of masked weights.
        kept: how many of them are not pruned.
        mask_bits: bits of all mask payloads.
        log_bits: bits of all resampling logs.
        coat_bits: bits of all multiplicities.
        value_bits: bits of all trained values and their scales.
        state_bytes: size of the state in the file.
        weights_digest: SHA-256 over the digests of all recovered weights.
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
        ConfigError: the coding is unknown.
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
                manifest, chunks = _assemble(network, cast("BinaryIO", spool), coding)
            except IterandError as error:
                raise type(error)(f"{os.fspath(path)}: {error}") from error
            for chunk in chunks:
                stream.write(chunk)
                digest.update(chunk)
        file_bytes = stream.tell()
    weights = sum(tensor.weights for tensor in manifest.tensors)
    return PackReport(
        path=Path(path),
        file_bytes=file_bytes,
        dense_bytes=4 * weights + sum(entry.bytes for entry in manifest.state),
        weights=weights,
        kept=sum(tensor.kept for tensor in manifest.tensors),
        mask_bits=8 * sum(tensor.mask.bytes for tensor in manifest.tensors),
        log_bits=8 * sum(tensor.log.bytes for tensor in manifest.tensors),
        coat_bits=sum(tensor.coat_bits for tensor in manifest.tensors),
        value_bits=sum(tensor.value_bits for tensor in manifest.tensors),
        state_bytes=sum(entry.stored_bytes for entry in manifest.state),
        weights_digest=manifest.digests.weights,
        file_digest=digest.hexdigest(),
    )


def dumps(network: Network, *, coding: str = "auto") -> bytes:
    """The bytes of the file that `write_seedmask` writes.

    Raises:
        SeedMaskError: the network cannot be packed.
        ConfigError: the coding is unknown.
    """
    return b"".join(_assemble(network, BytesIO(), coding)[1])


def _assemble(network: Network, spool: BinaryIO, coding: str) -> tuple[Manifest, Iterator[bytes]]:
    """The manifest, and the chunks whose concatenation is the file; payloads go through ``spool``."""
    places: dict[str, tuple[int, int]] = {}

    def put(name: str, data: bytes | memoryview) -> None:
        start = spool.tell()
        spool.write(data)
        places[name] = start, start + len(data)

    entries = []
    # Not `enumerate`, which keeps a reference to its last item.
    numbered = ((index, network.tensors[index]) for index in range(len(network.tensors)))
    for group in grouped(numbered, lambda item: item[1].weights, GROUP):
        for entry, payloads in _encode(network.seed, group, coding):
            entries.append(entry)
            for slot, data in payloads.items():
                put(slot, data)
    state = []
    for name, stored in sorted(network.state.items()):
        one = stored.one_value if network.constants else None
        value = None if one is None else one[::-1].hex()
        state.append(StateEntry(name=name, dtype=stored.dtype, shape=stored.shape, value=value))
        if one is None:
            put(f"state/{name}", stored.data.data)
    compact = network.form == COMPACT
    digests = {"payload": NO_DIGEST, "weights": combined_digest(entry.sha256 or "" for entry in entries)}
    if compact:
        entries = [entry.model_copy(update={"sha256": None}) for entry in entries]
    else:
        digests["manifest"] = NO_DIGEST
    fields = {
        "format_version": FORMAT_VERSION,
        "required_features": [],
        "generator": "philox4x32-10",
        "seed": f"{network.seed:016x}",
        "tensors": entries,
        "state": state,
        "architecture": network.architecture,
        "input": network.input,
        "classes": network.classes,
        "recipe": network.recipe,
        "digests": digests,
    }
    manifest = build_manifest(fields)
    fields["required_features"] = features = required_features(manifest, network.form)
    slots = manifest.slots()
    order = [places[name] for name in layout(slots)]
    directory = encode_directory(manifest) if compact else b""
    prefix = varint(len(directory)) if compact else b""
    payload = hashlib.sha256(prefix + directory)
    for chunk in _chunks(spool, order):
        payload.update(chunk)
    digests["payload"] = payload.hexdigest()
    # Either form is parsed as a reader does.
    if compact:
        manifest = parse_directory(directory, features, digests["payload"], manifest.expanded)
        size = payload.digest_size + len(prefix) + len(directory)
        header = compact_header(features, size + sum(end - begin for begin, end in order))
        header += payload.digest() + prefix + directory
    else:
        manifest = sealed(build_manifest(fields))
        text = manifest.to_text()
        parse_manifest(text, manifest.expanded)
        header = build_header(slots, {"seedmask": text})

    def chunks() -> Iterator[bytes]:
        yield header
        yield from _chunks(spool, order)

    return manifest, chunks()


def _chunks(spool: BinaryIO, places: list[tuple[int, int]]) -> Iterator[bytes]:
    for start, end in places:
        spool.seek(start)
        for position in range(start, end, _COPY):
            yield spool.read(min(_COPY, end - position))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A tensor with the digest of its weights, and the codings of its payloads.

    Attributes:
        recovery: the tensor.
        frozen: the field of its entry, if the seed fixes bits of its mask.
        plans: rows to encode, by section of the file.
        stored: arrays that are stored as they are, by section.
    """

    recovery: TensorRecovery
    frozen: FrozenEntry | None
    plans: dict[str, Plan]
    stored: dict[str, NDArray[np.generic]]


def _encode(
    seed: int, group: list[tuple[int, MaskedTensor]], coding: str
) -> Iterator[tuple[TensorEntry, dict[str, bytes | memoryview]]]:
    """For each tensor its entry and payloads, decoded again and compared with the definition. Empties ``group``."""
    prepared = thread_map(lambda item: _prepare(seed, *item, coding), group, lambda item: item[1].weights)
    group.clear()  # frees tensors that were made on demand
    coded = iter(encode_rows([plan_ for item in prepared for plan_ in item.plans.values()], coding))
    entries: list[tuple[int, TensorEntry]] = []
    payloads: list[dict[str, bytes | memoryview]] = []
    for item in prepared:
        rows = {section: next(coded) for section in item.plans}
        entry = _entry(item, rows)
        entries.append((item.recovery.index, entry))
        payloads.append(
            {f"{section}/{entry.name}": row.payload for section, row in rows.items()}
            | {f"{section}/{entry.name}": array.view(np.uint8).data for section, array in item.stored.items()}
        )
    slots = {slot: data for sections in payloads for slot, data in sections.items()}
    decoded = Payloads(seed, slots.__getitem__, lambda entry: f"tensor {entry.name!r}").recoveries(entries)
    checked = map_checked(lambda recovery: (None, recovery.digest()), decoded, "", PACKER_BUG)
    for (_, entry), sections, _ in zip(entries, payloads, checked, strict=True):
        yield entry, sections


def _entry(item: _Prepared, rows: dict[str, Coded]) -> TensorEntry:
    recovery, trained = item.recovery, item.recovery.trained
    sizes = {section: {"coding": row.coding, "bytes": len(row.payload)} for section, row in rows.items()}
    empty = {"coding": "raw", "bytes": 0}
    fields = {
        "name": recovery.name,
        "shape": recovery.shape,
        "codebook": recovery.codebook,
        "scale": struct.pack(">f", recovery.scale).hex(),
        "kept": recovery.mask.ones(),
        "mask": sizes["mask"],
        "log": {"kind": recovery.log.kind, "width": recovery.log.row.width, **sizes.get("log", empty)},
        "sha256": recovery.sha256,
        "frozen": item.frozen,
    }
    if "coats" in rows:
        fields["coats"] = {"width": rows["coats"].width, **sizes["coats"]}
    if trained is not None:
        plain = {"coding": "raw", "bytes": trained.values.nbytes}
        fields["values"] = {"dtype": trained.dtype, **sizes.get("values", plain)}
    return TensorEntry.model_validate(fields)


def _prepare(seed: int, index: int, tensor: MaskedTensor, coding: str) -> _Prepared:
    with located(f"tensor {tensor.name!r}"):
        recovery, frozen, trained = tensor.recovery(seed, index), tensor.frozen, tensor.trained
        rows, stored = {"mask": recovery.mask}, {}
        entry = None
        if frozen is not None:
            rows["mask"] = free_row(seed, index, frozen, tensor.mask)
            entry = FrozenEntry(pruned=frozen.pruned, kept=frozen.kept, free=rows["mask"].count)
        if recovery.log.kind != "none":
            rows["log"] = recovery.log.row
        if recovery.multiplicity is not None:
            rows["coats"] = recovery.multiplicity.row
        if trained is not None and trained.scales is not None:
            rows["values"] = Row(len(trained.values), 8, trained.values.view(np.uint8))
            stored["scales"] = np.ascontiguousarray(trained.scales, "<f4")
        elif trained is not None:
            stored["values"] = np.ascontiguousarray(trained.values, trained.values.dtype.newbyteorder("<"))
        return _Prepared(recovery, entry, {section: plan(row, coding) for section, row in rows.items()}, stored)
