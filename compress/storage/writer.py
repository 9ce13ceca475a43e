"""From a network to the bytes of a ``.seedmask`` file. The same network always gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..codebooks import get_codebook, random_codes
from ..errors import IterandError, SeedMaskError
from .atomic import atomic_path
from .codings import encode_smallest
from .container import build_header, layout
from .log import choose_log, decode_log
from .manifest import (
    FORMAT_VERSION,
    NO_DIGEST,
    Manifest,
    build_manifest,
    combined_digest,
    parse_manifest,
    sealed,
)
from .network import MaskedTensor, Network
from .recovery import CHUNK, decode_mask, recover_codes, thread_map, weights_digest

__all__ = ["PackReport", "dumps", "write_seedmask"]


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


def write_seedmask(network: Network, path: str | os.PathLike[str]) -> PackReport:
    """Pack a network into a file, atomically.

    Raises:
        SeedMaskError: the network cannot be packed, or what was encoded does not decode to its weights.
        IterandError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> tensor = MaskedTensor("w", (2, 2), "normal", np.float32(0.5), np.array([True, False, True, True]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_seedmask(Network(seed=7, tensors=(tensor,)), Path(folder) / "tiny.seedmask")
        >>> report.kept, report.mask_bits, report.log_bits
        (3, 8, 0)
    """
    try:
        manifest, pieces = _assemble(network)
    except IterandError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
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


def dumps(network: Network) -> bytes:
    """The bytes of the file that `write_seedmask` writes.

    Raises:
        SeedMaskError: the network cannot be packed.
    """
    return b"".join(_assemble(network)[1])


def _assemble(network: Network) -> tuple[Manifest, list[bytes | memoryview]]:
    """The manifest, and the pieces whose concatenation is the file."""

    def encode(item: tuple[int, MaskedTensor]) -> _Encoded:
        return _encode(network.seed, *item)

    encoded = thread_map(encode, list(enumerate(network.tensors)), lambda item: item[1].weights)
    payloads: dict[str, bytes | memoryview] = {}
    for part in encoded:
        payloads[f"mask/{part.fields['name']}"] = part.mask
        if part.log:
            payloads[f"log/{part.fields['name']}"] = part.log
    for name, stored in network.state.items():
        payloads[f"state/{name}"] = stored.data.data
    digests = {
        "payload": NO_DIGEST,
        "weights": combined_digest(str(part.fields["sha256"]) for part in encoded),
        "manifest": NO_DIGEST,
    }
    fields = {
        "format_version": FORMAT_VERSION,
        "required_features": [],
        "generator": "philox4x32-10",
        "seed": f"{network.seed:016x}",
        "tensors": [part.fields for part in encoded],
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
    slots = build_manifest(fields).slots()
    pieces = [payloads[name] for name in layout(slots)]
    payload = hashlib.sha256()
    for piece in pieces:
        payload.update(piece)
    digests["payload"] = payload.hexdigest()
    manifest = sealed(build_manifest(fields))
    text = manifest.to_text()
    parse_manifest(text, max_weights=sum(tensor.weights for tensor in network.tensors))  # what a reader will do
    return manifest, [build_header(slots, {"seedmask": text}), *pieces]


@dataclass(frozen=True)
class _Encoded:
    fields: dict[str, object]
    mask: bytes
    log: bytes


def _encode(seed: int, index: int, tensor: MaskedTensor) -> _Encoded:
    book = get_codebook(tensor.codebook)
    codes, differs = _reference(seed, index, tensor)
    kept = int(np.count_nonzero(tensor.mask))
    draws = np.zeros(kept, np.uint8) if tensor.draws is None else tensor.draws[tensor.mask]
    log, log_coding, log_payload = choose_log(draws, differs[tensor.mask], two_valued=book.two_valued)
    mask_coding, mask_payload = encode_smallest(tensor.mask.view(np.uint8), 1)

    decoded_mask = decode_mask(mask_coding, tensor.weights, kept, mask_payload)
    decoded_log = decode_log(log.kind, log_coding, log.width, kept, log_payload)
    chunks = ((slice(i, i + CHUNK), codes[i : i + CHUNK]) for i in range(0, len(codes), CHUNK))
    expected = weights_digest(chunks, tensor.scale)
    found = weights_digest(recover_codes(seed, index, book, decoded_mask, decoded_log), tensor.scale)
    if found != expected:
        raise SeedMaskError(
            f"tensor {tensor.name!r}: expected recovered weights with SHA-256 {expected}, got {found}; "
            "this is a bug in the packer, please report it"
        )
    fields: dict[str, object] = {
        "name": tensor.name,
        "shape": tensor.shape,
        "codebook": tensor.codebook,
        "scale": struct.pack(">f", tensor.scale).hex(),
        "kept": kept,
        "mask": {"coding": mask_coding, "bytes": len(mask_payload)},
        "log": {"kind": log.kind, "coding": log_coding, "width": log.width, "bytes": len(log_payload)},
        "sha256": expected,
    }
    return _Encoded(fields, mask_payload, log_payload)


def _reference(seed: int, index: int, tensor: MaskedTensor) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Codes of a tensor (0 = pruned), and where they differ from draw 0, straight from the definition."""
    book = get_codebook(tensor.codebook)
    codes = np.empty(tensor.weights, np.int8)
    differs = np.zeros(tensor.weights, np.bool_)
    for start in range(0, tensor.weights, CHUNK):
        part = slice(start, min(start + CHUNK, tensor.weights))
        kept = tensor.mask[part]
        chunk = first = random_codes(seed, index, book, part.start, part.stop)
        if tensor.draws is not None:
            chunk = random_codes(seed, index, book, part.start, part.stop, tensor.draws[part] * kept)
            differs[part] = chunk != first
        codes[part] = np.where(kept, chunk, np.int8(0))
    return codes, differs
