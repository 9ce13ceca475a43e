"""From a seed, a mask and a log to weights, bit for bit, on all cores and in chunks that fit the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codebooks import Codebook, random_codes
from ..errors import SeedMaskError
from .codings import get_coding
from .log import ResamplingLog

__all__ = ["decode_mask", "find_draws", "recover_codes", "recover_weights", "thread_map", "weights_digest"]

CHUNK = 1 << 16  # weights at a time: 4096 blocks of the generator
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class _Sink(Protocol):
    def update(self, data: memoryview, /) -> object: ...


def decode_mask(coding: str, weights: int, kept: int, payload: bytes | memoryview) -> NDArray[np.bool_]:
    """The mask of a tensor, bool ``[weights]``, row-major; True = kept.

    Raises:
        SeedMaskError: the payload does not fit, or does not keep ``kept`` weights.
    """
    mask = get_coding(coding).decode(payload, weights, 1).view(np.bool_)
    found = int(np.count_nonzero(mask))
    if found != kept:
        raise SeedMaskError(f"expected a mask that keeps {kept} of {weights} weights, got {found}; the file is damaged")
    return mask


def recover_codes(
    seed: int, index: int, codebook: Codebook, mask: NDArray[np.bool_], log: ResamplingLog
) -> Iterator[tuple[slice, NDArray[np.int8]]]:
    """The codes of a tensor, chunk by chunk; 0 = pruned.

    Args:
        seed: seed of the network.
        index: index of the tensor in the network.
        codebook: its distribution.
        mask: bool ``[n]``.
        log: its resampling log, one value for each kept weight.

    Yields:
        The place of a chunk, and its codes as int8.
    """
    position = 0
    both = int(codebook.entries[0]) + int(codebook.entries[-1])  # of a two-valued codebook: low + high
    for start in range(0, len(mask), CHUNK):
        part = slice(start, min(start + CHUNK, len(mask)))
        kept = mask[part]
        if log.kind == "none":
            codes = random_codes(seed, index, codebook, part.start, part.stop)
        else:
            count = int(np.count_nonzero(kept))
            values = np.zeros(len(kept), np.uint8)
            values[kept] = log.values[position : position + count]
            position += count
            if log.kind == "draws":
                codes = random_codes(seed, index, codebook, part.start, part.stop, values)
            else:
                first = random_codes(seed, index, codebook, part.start, part.stop)
                codes = np.where(values.view(np.bool_), np.int8(both) - first, first)
        yield part, codes * kept.view(np.int8)


def recover_weights(
    chunks: Iterator[tuple[slice, NDArray[np.int8]]], scale: np.float32, weights: int
) -> tuple[NDArray[np.float32], str]:
    """Multiply codes by their scale.

    Returns:
        float32 ``[weights]``, and the SHA-256 of its little-endian bytes.
    """
    out = np.empty(weights, "<f4")
    digest = hashlib.sha256()
    for part, codes in chunks:
        _scale_into(out[part], codes, scale, digest)
    return out.astype(np.float32, copy=False), digest.hexdigest()


def weights_digest(chunks: Iterator[tuple[slice, NDArray[np.int8]]], scale: np.float32) -> str:
    """The digest that `recover_weights` returns, without holding the weights."""
    digest = hashlib.sha256()
    buffer = np.empty(CHUNK, "<f4")
    for _, codes in chunks:
        _scale_into(buffer[: len(codes)], codes, scale, digest)
    return digest.hexdigest()


def _scale_into(out: NDArray[np.float32], codes: NDArray[np.int8], scale: np.float32, digest: _Sink) -> None:
    out[...] = codes
    np.multiply(out, scale, out=out)
    digest.update(out.data)


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
