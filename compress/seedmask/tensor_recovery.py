"""From a seed and decoded payloads to weights, bit for bit, on all cores and in chunks that fit the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from ..seed.codebooks import Codebook, get_codebook, random_codes
from ..seed.philox import CHUNK_BLOCKS, random_bytes
from .bits import Row
from .coats import Coats
from .log import ResamplingLog
from .trained import Trained

__all__ = [
    "CHUNK",
    "TensorRecovery",
    "ahead",
    "find_deltas",
    "find_draws",
    "grouped",
    "thread_map",
    "weights_digest",
]

CHUNK = 16 * CHUNK_BLOCKS  # weights at a time
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, eq=False)
class TensorRecovery:
    """All that determines the weights of a tensor.

    Attributes:
        seed: seed of the network.
        index: index of the tensor in the network.
        codebook: name of its distribution.
        scale: float32 factor on the codes.
        mask: bits, 1 = kept.
        log: its resampling log, one value for each kept weight.
        coats: what codes are multiplied by; ``None`` = by 1.
        trained: the values of kept weights; ``None`` = they are random, as codebook, log and coats say.
    """

    seed: int
    index: int
    codebook: str
    scale: np.float32
    mask: Row
    log: ResamplingLog
    coats: Coats | None = None
    trained: Trained | None = None

    def codes(self) -> Iterator[tuple[slice, NDArray[np.int8]]]:
        """The codes, chunk by chunk: its place, and int8 codes; 0 = pruned.

        Raises:
            SeedMaskError: the values were trained, so they are no codes.
        """
        if self.trained is not None:
            raise SeedMaskError("its values were trained, so they are not codes times one scale; ask for its weights")
        book = get_codebook(self.codebook)
        position = 0
        for start in range(0, self.mask.count, CHUNK):
            stop = min(start + CHUNK, self.mask.count)
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
            if self.coats is not None:
                codes = codes * (_spread(self.coats.row, kept, position) + np.uint8(1)).view(np.int8)
            position += int(np.count_nonzero(kept))
            codes &= -kept.view(np.int8)
            yield slice(start, stop), codes

    def weights(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The weights, chunk by chunk: its place, and float32 weights in little-endian order."""
        return self._filled(lambda part: np.empty(part.stop - part.start, "<f4"))

    def whole(self) -> tuple[NDArray[np.float32], str]:
        """All weights, float32 ``[n]``, and the SHA-256 of their little-endian bytes."""
        out = np.empty(self.mask.count, "<f4")
        digest = _digest(self._filled(out.__getitem__))
        return out.astype(np.float32, copy=False), digest

    def digest(self) -> str:
        """The digest that `whole` returns, without holding the weights."""
        buffer = np.empty(CHUNK, "<f4")
        return _digest(self._filled(lambda part: buffer[: part.stop - part.start]))

    def _filled(self, room: Callable[[slice], NDArray[np.float32]]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The weights, chunk by chunk, in the room that is given for each."""
        if self.trained is not None:
            yield from self.trained.chunks(self.mask, CHUNK, room)
            return
        for part, codes in self.codes():
            yield part, _scaled(codes, self.scale, room(part))


def _spread(row: Row, kept: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
    """Values of a row, from ``position`` on, at the kept weights of a chunk; anything at the others."""
    ranks = np.cumsum(kept, dtype=np.int64)  # 1 at the first kept weight of the chunk
    own = row.values(position, position + int(ranks[-1]))
    return np.append(np.uint8(0), own).take(ranks)


def _digest(chunks: Iterable[tuple[slice, NDArray[np.float32]]]) -> str:
    digest = hashlib.sha256()
    for _, weights in chunks:
        digest.update(weights.data)
    return digest.hexdigest()


def weights_digest(chunks: Iterable[NDArray[np.int8]], scale: np.float32) -> str:
    """SHA-256 of the little-endian float32 weights that chunks of codes stand for."""
    digest = hashlib.sha256()
    buffer = np.empty(CHUNK, "<f4")
    for codes in chunks:
        digest.update(_scaled(codes, scale, buffer[: len(codes)]).data)
    return digest.hexdigest()


def _scaled(codes: NDArray[np.int8], scale: np.float32, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights of codes, in ``out``: the only arithmetic on the way to a weight."""
    out[...] = codes
    np.multiply(out, scale, out=out)
    return out


def find_deltas(codebook: Codebook, raw: NDArray[np.uint8], codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The smallest numbers that give bytes with these codes when they are XORed to others; 0 where codes are equal.

    Args:
        codebook: which byte has which code.
        raw: uint8 ``[n]``, bytes.
        codes: int8 ``[n]``, each an entry of the codebook.

    Returns:
        uint8 ``[n]``.
    """
    return _delta_table(codebook.name).take(raw.astype(np.uint16) << 8 | codes.view(np.uint8))


@cache
def _delta_table(codebook: str) -> NDArray[np.uint8]:
    """uint8 ``[65536]``: entry ``256 b + c mod 256`` is the delta from byte ``b`` to code ``c``."""
    entries, raw = get_codebook(codebook).entries.view(np.uint8), np.arange(256)
    table = np.zeros((256, 256), np.uint8)
    for delta in reversed(range(256)):  # so that the smallest is written last
        table[raw, entries[raw ^ delta]] = delta
    return table.reshape(-1)


def find_draws(seed: int, index: int, codebook: Codebook, flipped: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """For weights known to differ from draw 0, the first draw at which they do; 0 for the others.

    Args:
        seed: seed of the network.
        index: index of the tensor.
        codebook: a two-valued codebook.
        flipped: bool ``[n]``.

    Returns:
        uint8 ``[n]``.

    Raises:
        SeedMaskError: a weight has one value at all 256 draws (probability 2**-255).
    """
    draws = np.zeros(len(flipped), np.uint8)
    for start in range(0, len(flipped), CHUNK):
        stop = min(start + CHUNK, len(flipped))
        open_ = flipped[start:stop].copy()
        first = random_codes(seed, index, codebook, start, stop)
        for draw in range(1, 256):
            if not open_.any():
                break
            tried = np.where(open_, np.uint8(draw), np.uint8(0))
            found = open_ & (random_codes(seed, index, codebook, start, stop, tried) != first)
            draws[start:stop][found] = draw
            open_ &= ~found
        else:
            raise SeedMaskError(f"tensor {index}: no draw gives the other value of a weight")
    return draws


def grouped(items: Iterable[ItemT], size: Callable[[ItemT], int], limit: int) -> Iterator[list[ItemT]]:
    """Neighbouring items in groups, each as soon as its sizes sum to ``limit`` or more.

    Nothing here holds on to an item once the caller has emptied its group.
    """
    group: list[ItemT] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item)
        del item
        if total >= limit:
            yield group
            group, total = [], 0
    if group:
        yield group


def ahead(items: Iterator[ItemT]) -> Iterator[ItemT]:
    """The same items, each made in the background while the one before it is worked on."""
    from concurrent.futures import ThreadPoolExecutor

    end = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def thread_map(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], size: Callable[[ItemT], int]
) -> list[ResultT]:
    """Apply a function to all items on all cores, the largest first (NumPy and hashlib release the GIL).

    Returns:
        The results in the order of the items.
    """
    workers = min(os.cpu_count() or 1, len(items))
    if workers <= 1:
        return [function(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # here, for `inspect` to start without it

    order = sorted(range(len(items)), key=lambda i: -size(items[i]))
    with ThreadPoolExecutor(workers) as pool:
        results = dict(zip(order, pool.map(function, [items[i] for i in order]), strict=True))
    return [results[i] for i in range(len(items))]
