"""The resampling log: which kept weights have another value than at draw 0, and which one, in order of index.

* ``none``: every kept weight has the value of draw 0.
* ``flips``: two-valued codebooks; 1 = the weight has the other value than at draw 0.
* ``draws``: the draw of each kept weight.
* ``deltas``: the other codebooks; what to XOR to the byte of draw 0 of each kept weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .bits import Row
from .codings import Plan, plan

__all__ = ["LOG_KINDS", "ResamplingLog", "choose_log"]

#: In the order in which ties of size are resolved.
LOG_KINDS = ("none", "flips", "draws", "deltas")


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
        if self.kind in ("draws", "deltas") and self.row.largest().bit_length() != self.row.width:
            raise SeedMaskError(
                f"log: expected {self.kind} of {self.row.width} bits, got {self.row.largest()} as the largest"
            )

    @property
    def width(self) -> int:
        """Bits of a value: 0 for ``none``, 1 for ``flips``, those of the largest value for the others."""
        return self.row.width

    @property
    def values(self) -> NDArray[np.uint8]:
        """uint8 ``[kept]``; empty for ``none``."""
        return self.row.values()

    def bound(self) -> float:
        """Bits that an ideal coder of independent symbols needs."""
        return 0.0 if self.kind == "none" else self.row.entropy()


NO_LOG = ResamplingLog("none", Row(0, 0, np.empty(0, np.uint8)))


def choose_log(
    values: NDArray[np.uint8],
    differs: NDArray[np.bool_],
    *,
    two_valued: bool,
    kind: str = "draws",
    coding: str = "auto",
) -> tuple[ResamplingLog, Plan | None]:
    """The log that recovers the kept weights in the fewest bits.

    Args:
        values: uint8 ``[kept]``, the draw of each kept weight, or its delta.
        differs: bool ``[kept]``, whether it has another value than at draw 0.
        two_valued: whether the codebook has two values.
        kind: ``draws`` or ``deltas``: what ``values`` are.
        coding: see `codings.plan`.

    Returns:
        The log, and how to code it (``None``: there is nothing to code).
    """
    if not differs.any():
        return NO_LOG, None
    # Flips follow from the values, so they never hold more information; and draws cannot be found from flips again.
    if two_valued:
        log = ResamplingLog("flips", Row.pack(differs.view(np.uint8), 1))
    else:
        log = ResamplingLog(kind, Row.pack(values, int(values.max()).bit_length()))
    return log, plan(log.row, coding)
