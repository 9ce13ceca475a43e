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
from .bits import Row, binary_entropy, symbol_entropy
from .codings import Plan, plan

__all__ = ["LOG_KINDS", "ResamplingLog", "choose_log"]

#: In the order in which ties of size are resolved.
LOG_KINDS = ("none", "flips", "draws")


@dataclass(frozen=True, eq=False)
class ResamplingLog:
    """A log before coding.

    Attributes:
        kind: one of `LOG_KINDS`.
        row: one value for each kept weight; empty for ``none``.

    Raises:
        SeedMaskError: the values are none that the packer writes under this kind.
    """

    kind: str
    row: Row

    def __post_init__(self) -> None:
        if self.kind == "flips" and not self.row.ones():
            raise SeedMaskError("log: expected at least one flip, got none; the packer writes kind 'none' for that")
        if self.kind == "draws":
            largest = 1 if self.row.width == 1 and self.row.ones() else int(self.row.symbols.max(initial=0))
            if largest.bit_length() != self.row.width:
                raise SeedMaskError(f"log: expected draws of {self.row.width} bits, got {largest} as the largest")

    @property
    def width(self) -> int:
        """Bits of a value: 0 for ``none``, 1 for ``flips``, those of the largest draw for ``draws``."""
        return self.row.width

    @property
    def values(self) -> NDArray[np.uint8]:
        """uint8 ``[kept]``; empty for ``none``."""
        return self.row.values()

    def bound(self) -> float:
        """Bits that an ideal coder of independent symbols needs."""
        if self.kind == "none":
            return 0.0
        if self.width == 1:
            return binary_entropy(self.row.ones(), self.row.count)
        return symbol_entropy(self.row.histogram())


NO_LOG = ResamplingLog("none", Row(0, 0, np.empty(0, np.uint8)))


def choose_log(
    draws: NDArray[np.uint8], differs: NDArray[np.bool_], *, two_valued: bool, coding: str = "auto"
) -> tuple[ResamplingLog, Plan | None]:
    """The log that recovers the kept weights in the fewest bits.

    Args:
        draws: uint8 ``[kept]``, the draw of each kept weight.
        differs: bool ``[kept]``, whether the value of that draw differs from the value of draw 0.
        two_valued: whether the codebook has two values.
        coding: see `codings.plan`.

    Returns:
        The log, and how to code it (``None``: there is nothing to code).
    """
    if not differs.any():
        return NO_LOG, None
    # Flips follow from draws, so they never hold more information; and draws cannot be found from flips again.
    if two_valued:
        log = ResamplingLog("flips", Row.pack(differs.view(np.uint8), 1))
    else:
        log = ResamplingLog("draws", Row.pack(draws, int(draws.max()).bit_length()))
    return log, plan(log.row, coding)
