"""How often each kept weight counts, in multicoated masks of two-valued codebooks (docs/FORMAT.md, section 1.7).

The code of a weight is multiplied by the number of nested masks that keep it, which is at least 1, so a file stores one
less. The file format calls these numbers "coats".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .bits import Row
from .json_text import DAMAGED

__all__ = ["MAX_MULTIPLICITY", "Multiplicity"]

#: A code is -1 or 1, and its product with a multiplicity must fit int8 again.
MAX_MULTIPLICITY = 127


@dataclass(frozen=True, eq=False)
class Multiplicity:
    """The multiplicities of the kept weights of a tensor before coding.

    Attributes:
        row: for each kept weight, in order of index, its multiplicity less one.

    Raises:
        SeedMaskError: the packer never writes these values.
    """

    row: Row

    def __post_init__(self) -> None:
        largest = self.row.largest()
        if largest.bit_length() != self.row.width or largest >= MAX_MULTIPLICITY:
            raise SeedMaskError(
                f"coats: expected values of {self.row.width} bits, at most {MAX_MULTIPLICITY - 1}, "
                f"got {largest} as the largest; {DAMAGED}"
            )

    @classmethod
    def of(cls, multiplicity: NDArray[np.uint8]) -> Multiplicity | None:
        """Pack the multiplicity of each kept weight, uint8 ``[kept]``; ``None`` if all are 1."""
        values = multiplicity - np.uint8(1)
        width = int(values.max(initial=0)).bit_length()
        return cls(Row.pack(values, width)) if width else None

    def values(self) -> NDArray[np.uint8]:
        """The multiplicity of each kept weight, uint8 ``[kept]``."""
        values: NDArray[np.uint8] = self.row.values() + np.uint8(1)
        return values
