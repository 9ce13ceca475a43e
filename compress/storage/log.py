"""The resampling log: what recovery must know about redraws, for the kept weights only, in order of index.

* ``none``: every kept weight has the value of draw 0.
* ``flips``: two-valued codebooks; 1 = the weight has the other value than at draw 0.
* ``draws``: the draw of each kept weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .bits import binary_entropy, symbol_entropy
from .codings import encode_smallest, get_coding

__all__ = ["LOG_KINDS", "ResamplingLog", "choose_log", "decode_log"]

#: In the order in which ties of size are resolved.
LOG_KINDS = ("none", "flips", "draws")


@dataclass(frozen=True, eq=False)
class ResamplingLog:
    """A log before coding.

    Attributes:
        kind: one of `LOG_KINDS`.
        width: bits per value: 0 for ``none``, 1 for ``flips``, those of the largest draw for ``draws``.
        values: uint8 ``[kept]``; empty for ``none``.
    """

    kind: str
    width: int
    values: NDArray[np.uint8]

    def bound(self) -> float:
        """Bits that an ideal coder of independent symbols needs."""
        if self.kind == "none":
            return 0.0
        if self.kind == "flips":
            return binary_entropy(int(np.count_nonzero(self.values)), len(self.values))
        return symbol_entropy(np.bincount(self.values))


NO_LOG = ResamplingLog("none", 0, np.empty(0, np.uint8))


def choose_log(
    draws: NDArray[np.uint8], differs: NDArray[np.bool_], *, two_valued: bool
) -> tuple[ResamplingLog, str, bytes]:
    """The smallest log that recovers the kept weights.

    Args:
        draws: uint8 ``[kept]``, the draw of each kept weight.
        differs: bool ``[kept]``, whether the value of that draw differs from the value of draw 0.
        two_valued: whether the codebook has two values.

    Returns:
        The log, the name of its coding, and its payload.
    """
    if not differs.any():
        return NO_LOG, "raw", b""
    logs = [ResamplingLog("draws", int(draws.max()).bit_length(), draws)]
    if two_valued:
        logs.insert(0, ResamplingLog("flips", 1, differs.view(np.uint8)))
    coded = [(log, *encode_smallest(log.values, log.width)) for log in logs]
    return min(coded, key=lambda item: len(item[2]))


def decode_log(kind: str, coding: str, width: int, kept: int, payload: bytes | memoryview) -> ResamplingLog:
    """Undo the coding of a log.

    Raises:
        SeedMaskError: the payload is none that `choose_log` can have produced.
    """
    if kind == "none":
        if len(payload) or width or coding != "raw":
            raise SeedMaskError(f"log: expected kind 'none' to be raw and empty, got {coding!r}, width {width}")
        return NO_LOG
    values = get_coding(coding).decode(payload, kept, width)
    largest = int(values.max(initial=0))
    if kind == "flips" and not largest:
        raise SeedMaskError("log: expected at least one flip, got none; the packer writes kind 'none' for that")
    if kind == "draws" and largest.bit_length() != width:
        raise SeedMaskError(f"log: expected draws of up to {width} bits, got a largest draw of {largest}")
    return ResamplingLog(kind, width, values)
