"""A weight as the numbers that a file stores: codes times a scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CodedWeight"]


@dataclass(frozen=True, eq=False)
class CodedWeight:
    """``float32(codes) * scale``: one exactly rounded product, whoever computes it.

    Attributes:
        codes: int8 in the shape of the weight, 0 = pruned; float16 or float32 for values that were trained.
        scale: float32, broadcasts against the codes: one number, or, with BatchNorm folded in, one per channel.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        """The weight, float32 in its shape."""
        found: NDArray[np.float32] = self.codes.astype(np.float32) * self.scale
        return found

    def times(self, factor: NDArray[np.float64]) -> CodedWeight:
        """The weight with its channels multiplied: the codes stay, the product of scale and factor is rounded once.

        Args:
            factor: float64, broadcasts against the codes.
        """
        return replace(self, scale=np.asarray(self.scale.astype(np.float64) * factor, np.float32))

    def take(self, axis: int, index: NDArray[np.intp]) -> CodedWeight:
        """The part of the weight at some indices of an axis."""
        scale = self.scale
        if scale.ndim and scale.shape[axis] > 1:
            scale = scale.take(index, axis)
        return replace(self, codes=self.codes.take(index, axis), scale=scale)
