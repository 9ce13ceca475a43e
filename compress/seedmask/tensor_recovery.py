"""A masked tensor as recovery sees it: seed, mask and log, and the weights that follow from them, bit for bit.

An open file (`SeedMask.map`) and a network in memory (`Network.map`) give the same view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from ..seed.codebooks import get_codebook, random_codes
from ..seed.philox import CHUNK_WEIGHTS, random_bytes
from .bits import Row
from .log import ResamplingLog
from .multiplicity import Multiplicity
from .parallel import thread_map
from .trained import Trained

__all__ = ["TensorRecovery", "combined_digest", "digest_of_codes", "map_checked"]

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, eq=False)
class TensorRecovery:
    """All that determines the weights of a tensor, in memory packed to bits.

    Attributes:
        name: parameter name in the plain model.
        shape: its shape.
        sha256: of the weights as they were packed, little-endian float32, hexadecimal; ``None`` = not known, as in a
            compact file, which has one digest of all tensors.
        seed: seed of the network.
        index: index of the tensor in the network.
        codebook: name of its distribution.
        scale: float32 factor on the codes.
        mask: bits, 1 = kept.
        log: its resampling log, one value for each kept weight.
        multiplicity: what codes are multiplied by; ``None`` = by 1.
        trained: the values of kept weights; ``None`` = they are random, as codebook, log and multiplicity say.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str | None
    seed: int
    index: int
    codebook: str
    scale: np.float32
    mask: Row
    log: ResamplingLog
    multiplicity: Multiplicity | None = None
    trained: Trained | None = None

    def code_chunks(self) -> Iterator[tuple[slice, NDArray[np.int8]]]:
        """Compute the codes chunk by chunk.

        Yields:
            The slice of the flat tensor, and its codes, int8; 0 = pruned.

        Raises:
            SeedMaskError: the values were trained, so they are no codes.
        """
        if self.trained is not None:
            raise SeedMaskError("its values were trained, so they are not codes times one scale; ask for its weights")
        book = get_codebook(self.codebook)
        position = 0
        for start in range(0, self.mask.count, CHUNK_WEIGHTS):
            stop = min(start + CHUNK_WEIGHTS, self.mask.count)
            kept = self.mask.values(start, stop)
            if self.log.kind == "none":
                codes = random_codes(self.seed, self.index, book, start, stop)
            elif self.log.kind == "flips":
                bits = self.log.row.spread(self.mask.symbols[start // 8 : -(-stop // 8)], position)
                flips = np.unpackbits(bits, count=stop - start, bitorder="little")
                raw = random_bytes(self.seed, start, stop, draw=0, tensor=self.index)
                codes = book.codes(book.other(raw, flips))
            elif self.log.kind == "draws":
                draws = _spread(self.log.row, kept, position)
                codes = random_codes(self.seed, self.index, book, start, stop, draws * kept)
            else:
                raw = random_bytes(self.seed, start, stop, draw=0, tensor=self.index)
                codes = book.codes(raw ^ _spread(self.log.row, kept, position))
            if self.multiplicity is not None:
                codes = codes * (_spread(self.multiplicity.row, kept, position) + np.uint8(1)).view(np.int8)
            position += int(np.count_nonzero(kept))
            codes &= -kept.view(np.int8)
            yield slice(start, stop), codes

    def codes(self) -> NDArray[np.int8]:
        """The codes in the shape of the tensor, int8; 0 = pruned.

        Raises:
            SeedMaskError: the values were trained, so they are no codes.
        """
        out = np.empty(self.mask.count, np.int8)
        for chunk, codes in self.code_chunks():
            out[chunk] = codes
        return out.reshape(self.shape)

    def weight_chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Compute the weights chunk by chunk.

        Yields:
            The slice of the flat tensor, and its weights, float32 in little-endian order.
        """
        return self._filled(lambda chunk: np.empty(chunk.stop - chunk.start, "<f4"))

    def weights(self) -> tuple[NDArray[np.float32], str]:
        """All weights, float32 in the shape of the tensor, and the SHA-256 of their little-endian bytes."""
        out = np.empty(self.mask.count, "<f4")
        digest = _digest(self._filled(out.__getitem__))
        return out.astype(np.float32, copy=False).reshape(self.shape), digest

    def digest(self) -> str:
        """The digest that `weights` returns, without keeping the weights in memory."""
        buffer = np.empty(CHUNK_WEIGHTS, "<f4")
        return _digest(self._filled(lambda chunk: buffer[: chunk.stop - chunk.start]))

    def _filled(self, output: Callable[[slice], NDArray[np.float32]]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The weights, chunk by chunk, written to the array that ``output`` gives for each."""
        if self.trained is not None:
            yield from self.trained.chunks(self.mask, CHUNK_WEIGHTS, output)
            return
        for chunk, codes in self.code_chunks():
            yield chunk, _scaled(codes, self.scale, output(chunk))


def map_checked(
    function: Callable[[TensorRecovery], tuple[ResultT, str]],
    recoveries: Sequence[TensorRecovery],
    where: str,
    advice: str,
) -> Iterator[tuple[TensorRecovery, ResultT]]:
    """Apply a function to tensors on all cores and compare the digests that it returns, where one is known.

    Args:
        function: from a tensor to any result, and the SHA-256 of the weights that it computed, little-endian.
        recoveries: the tensors.
        where: the start of error messages on a tensor.
        advice: what to do about a wrong digest.

    Yields:
        Each tensor and its result, in their order.

    Raises:
        SeedMaskError: a digest is not that of the tensor.
    """
    results = thread_map(function, recoveries, lambda recovery: recovery.mask.count)
    for recovery, (result, digest) in zip(recoveries, results, strict=True):
        if recovery.sha256 is not None and digest != recovery.sha256:
            raise SeedMaskError(
                f"{where}tensor {recovery.name!r}: expected recovered weights with SHA-256 {recovery.sha256}, "
                f"got {digest}; {advice}"
            )
        yield recovery, result


def combined_digest(hex_digests: Iterable[str]) -> str:
    """SHA-256 over the raw digests of all tensors of a network, in their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in hex_digests)).hexdigest()


def digest_of_codes(chunks: Iterable[NDArray[np.int8]], scale: np.float32) -> str:
    """SHA-256 of the little-endian float32 weights of chunks of codes."""
    digest = hashlib.sha256()
    buffer = np.empty(CHUNK_WEIGHTS, "<f4")
    for codes in chunks:
        digest.update(_scaled(codes, scale, buffer[: len(codes)]).data)
    return digest.hexdigest()


def _digest(chunks: Iterable[tuple[slice, NDArray[np.float32]]]) -> str:
    digest = hashlib.sha256()
    for _, weights in chunks:
        digest.update(weights.data)
    return digest.hexdigest()


def _spread(row: Row, kept: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
    """Values of a row, from ``position`` on, at the kept weights of a chunk; undefined at the others."""
    ranks = np.cumsum(kept, dtype=np.int64)  # 1 at the first kept weight of the chunk
    own = row.values(position, position + int(ranks[-1]))
    return np.append(np.uint8(0), own).take(ranks)


def _scaled(codes: NDArray[np.int8], scale: np.float32, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights of codes, in ``out``: the only arithmetic on the way to a weight."""
    out[...] = codes
    np.multiply(out, scale, out=out)
    return out
