"""The resampling log: which kept weights have another value than at draw 0, and which one, in order of index.

* ``none``: every kept weight has the value of draw 0.
* ``flips``: two-valued codebooks; 1 = the weight has the other value than at draw 0.
* ``draws``: the draw of each kept weight.
* ``deltas``: the other codebooks; the number to XOR to the byte of draw 0 of each kept weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from ..seed.codebooks import Codebook, get_codebook, random_codes
from ..seed.philox import CHUNK_WEIGHTS
from .bits import Row

__all__ = ["LOG_KINDS", "NO_LOG", "ResamplingLog", "choose_log", "find_deltas", "find_draws"]

#: In the order in which ties of size are resolved.
LOG_KINDS = ("none", "flips", "draws", "deltas")


@dataclass(frozen=True, eq=False)
class ResamplingLog:
    """A log before coding.

    Attributes:
        kind: one of `LOG_KINDS`.
        row: one value for each kept weight; empty for ``none``.

    Raises:
        SeedMaskError: the packer never writes these values under this kind.
    """

    kind: str
    row: Row

    def __post_init__(self) -> None:
        if self.kind == "flips" and not self.row.ones():
            raise SeedMaskError("log: expected at least one flip, got none; the packer writes kind 'none' for that")
        if self.kind in ("draws", "deltas") and self.row.largest().bit_length() != self.row.width:
            raise SeedMaskError(
                f"log: expected {self.kind} of {self.row.width} bits, got {self.row.largest()} as the largest"
            )

    @property
    def values(self) -> NDArray[np.uint8]:
        """uint8 ``[kept]``; empty for ``none``."""
        return self.row.values()


NO_LOG = ResamplingLog("none", Row(0, 0, np.empty(0, np.uint8)))


def choose_log(
    values: NDArray[np.uint8], differs: NDArray[np.bool_], *, two_valued: bool, kind: str = "draws"
) -> ResamplingLog:
    """Choose the log that recovers the kept weights in the fewest bits.

    Args:
        values: uint8 ``[kept]``, the draw of each kept weight, or its delta.
        differs: bool ``[kept]``, whether it has another value than at draw 0.
        two_valued: whether the codebook has two values.
        kind: ``draws`` or ``deltas``: what ``values`` are.
    """
    if not differs.any():
        return NO_LOG
    # Flips follow from the values, so they never hold more information.
    if two_valued:
        return ResamplingLog("flips", Row.pack(differs.view(np.uint8), 1))
    return ResamplingLog(kind, Row.pack(values, int(values.max()).bit_length()))


def find_deltas(codebook: Codebook, raw: NDArray[np.uint8], codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Compute deltas: the smallest numbers that, XORed to bytes, give bytes with these codes; 0 where codes are equal.

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
    """Return, for weights that differ from draw 0, the first draw at which they do; 0 for the others.

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
    for start in range(0, len(flipped), CHUNK_WEIGHTS):
        stop = min(start + CHUNK_WEIGHTS, len(flipped))
        unresolved = flipped[start:stop].copy()
        first = random_codes(seed, index, codebook, start, stop)
        for draw in range(1, 256):
            if not unresolved.any():
                break
            tried = np.where(unresolved, np.uint8(draw), np.uint8(0))
            differs = unresolved & (random_codes(seed, index, codebook, start, stop, tried) != first)
            draws[start:stop][differs] = draw
            unresolved &= ~differs
        else:
            raise SeedMaskError(f"tensor {index}: no draw gives the other value of a weight")
    return draws
