"""Multicoated masks: a kept weight of a two-valued codebook counts several times (docs/FORMAT.md, §1.7).

Its code is multiplied by the number of masks ("coats") that keep it; that is at least 1, so a file holds one less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .bits import Row
from .json_text import DAMAGED

__all__ = ["MAX_COAT", "Coats"]

#: A code is -1 or 1, and its product with a coat a code again.
MAX_COAT = 127


@dataclass(frozen=True, eq=False)
class Coats:
    """The coats of a tensor before coding.

    Attributes:
        row: for each kept weight, in order of index, its number of coats less one.

    Raises:
        SeedMaskError: the values are none that the packer writes.
    """

    row: Row

    def __post_init__(self) -> None:
        largest = self.row.largest()
        if largest.bit_length() != self.row.width or largest >= MAX_COAT:
            raise SeedMaskError(
                f"coats: expected values of {self.row.width} bits, at most {MAX_COAT - 1}, "
                f"got {largest} as the largest; {DAMAGED}"
            )

    @classmethod
    def of(cls, coats: NDArray[np.uint8]) -> Coats | None:
        """From the number of coats of each kept weight, uint8 ``[kept]``; ``None`` if all are 1."""
        values = coats - np.uint8(1)
        width = int(values.max(initial=0)).bit_length()
        return cls(Row.pack(values, width)) if width else None

    @property
    def numbers(self) -> NDArray[np.uint8]:
        """The number of coats of each kept weight, uint8 ``[kept]``."""
        numbers: NDArray[np.uint8] = self.row.values() + np.uint8(1)
        return numbers
