"""Distributions of the random weights: an int8 codebook of 256 entries and one float32 scale per tensor.

A weight is ``float32(codebook[byte]) * scale``: one exactly rounded multiplication and nothing else, so a
recovered tensor is int8 codes times a scale on every device, and in ONNX. No entry is 0, because 0 means
*pruned*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, did_you_mean
from .philox import Purpose, philox4x32, random_bytes

__all__ = ["CODEBOOKS", "Codebook", "get_codebook", "random_bytes_at", "random_codes"]

# round(127 * q(b) / q(255)) for b = 128 .. 255, where q(b) is the standard normal quantile at (b + 1/2) / 256,
# and at least 1. Written out because a table in a file format may not depend on a mathematical library.
_NORMAL_HALF = (
    1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7,
    7, 8, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 12, 13, 13, 14,
    14, 15, 15, 16, 16, 17, 17, 17, 18, 18, 19, 19, 20, 20, 21, 21,
    22, 22, 23, 23, 24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29,
    30, 31, 31, 32, 32, 33, 33, 34, 34, 35, 36, 36, 37, 37, 38, 39,
    39, 40, 41, 41, 42, 43, 43, 44, 45, 46, 46, 47, 48, 49, 49, 50,
    51, 52, 53, 54, 55, 56, 57, 57, 59, 60, 61, 62, 63, 64, 65, 67,
    68, 70, 71, 73, 75, 77, 79, 81, 83, 86, 89, 93, 97, 103, 111, 127,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Codebook:
    """A distribution of weights.

    Attributes:
        name: its name in recipes and files.
        entries: int8 ``[256]``, ascending, none 0.
        unit: the scale for fan_in = 1; the scale of a tensor is ``unit / sqrt(fan_in)``.
    """

    name: str
    entries: NDArray[np.int8]
    unit: float

    @cached_property
    def two_valued(self) -> bool:
        """Whether bytes below 128 stand for one value and the others for another: a bit tells a redrawn weight."""
        return len(np.unique(self.entries)) == 2 and bool((self.entries[:128] != self.entries[128:]).all())

    @cached_property
    def _steps(self) -> tuple[int, int, int] | None:
        """(shift, step, first) if entry b is ``(b >> shift) * step + first``: arithmetic is quicker than a table."""
        for shift in range(8):
            levels = self.entries[:: 1 << shift].astype(np.int64)
            step = int(levels[1] - levels[0])
            if np.array_equal((np.arange(256) >> shift) * step + levels[0], self.entries):
                return shift, step, int(levels[0])
        return None

    def codes(self, raw: NDArray[np.uint8]) -> NDArray[np.int8]:
        """``entries[raw]``, int8 of the shape of ``raw``."""
        if self._steps is None:
            result: NDArray[np.int8] = self.entries.take(raw)
            return result
        shift, step, first = self._steps
        # Modulo 256, so that uint8 arithmetic read as int8 is right.
        codes: NDArray[np.uint8] = raw >> np.uint8(shift)
        codes *= np.uint8(step % 256)
        codes += np.uint8(first % 256)
        return codes.view(np.int8)

    def other(self, raw: NDArray[np.uint8], flips: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bytes that stand for the other value of a two-valued codebook where ``flips`` is 1; uint8, 0 or 1."""
        result: NDArray[np.uint8] = raw ^ (flips << np.uint8(7))
        return result

    def scale(self, fan_in: float) -> np.float32:
        """The scale of a tensor: computed in double precision, rounded once to float32."""
        scale: np.float32 = np.float32(self.unit / math.sqrt(fan_in))
        return scale


def _build() -> dict[str, Codebook]:
    signs = np.repeat(np.array([-1, 1], np.int8), 128)
    odd = (np.arange(256) // 2 * 2 - 127).astype(np.int8)
    half = np.array(_NORMAL_HALF, np.int8)
    normal = np.concatenate([-half[::-1], half])
    rms = math.sqrt(int((normal.astype(np.int64) ** 2).sum()) / 256)
    books = (
        Codebook("signed-constant", signs, math.sqrt(2.0)),
        Codebook("uniform", odd, math.sqrt(6.0) / 128),
        Codebook("normal", normal, math.sqrt(2.0) / rms),
    )
    for book in books:
        book.entries.setflags(write=False)
    return {book.name: book for book in books}


#: The codebooks a file may name: signed constant ±√(2/fan_in), Kaiming uniform and Kaiming normal.
CODEBOOKS = _build()


def get_codebook(name: str) -> Codebook:
    """Look a codebook up.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return CODEBOOKS[name]
    except KeyError:
        raise ConfigError(f"distribution: unknown {name!r}{did_you_mean(name, CODEBOOKS)}") from None


def random_codes(
    seed: int,
    tensor: int,
    codebook: Codebook,
    start: int,
    stop: int,
    draws: NDArray[np.uint8] | None = None,
) -> NDArray[np.int8]:
    """Codes of weights ``start`` to ``stop`` of a tensor (row-major), int8 ``[stop - start]``: the reference.

    Args:
        seed: 64-bit seed of the network.
        tensor: index of the tensor in its network.
        codebook: the distribution.
        start: first weight.
        stop: one past the last weight.
        draws: uint8 ``[stop - start]``, how often each weight was redrawn; ``None`` means never.
    """
    raw = random_bytes(seed, start, stop, draw=0, tensor=tensor)
    if draws is not None:
        index = np.flatnonzero(draws)
        if len(index):
            raw = raw.copy()
            raw[index] = random_bytes_at(seed, tensor, index + start, draws[index])
    return codebook.codes(raw)


def random_bytes_at(seed: int, tensor: int, index: NDArray[np.int64], draws: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of single weights, uint8 ``[k]``: of those at ``index`` (int64 ``[k]``), each at its draw."""
    words = philox4x32(seed, (index // 16).astype(np.uint64), draws.astype(np.uint64), tensor, Purpose.WEIGHTS)
    place = np.arange(0, 16 * len(index), 16) + index % 16
    result: NDArray[np.uint8] = words.view(np.uint8).reshape(-1).take(place)
    return result
