"""A weight in the graph as codes times a scale, and what the codes follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compress.seedmask import Network, SeedMask
from ..compress.seedmask.tensor_recovery import TensorRecovery

__all__ = ["CodedWeight", "coded_weights"]


@dataclass(frozen=True, eq=False)
class CodedWeight:
    """``float32(codes) * scale``: one exactly rounded product, whoever computes it.

    Attributes:
        codes: int8 in the shape of the weight, 0 = pruned; float16 or float32 for values that were trained.
        scale: float32, broadcasts against the codes: one number, or, with BatchNorm folded in, one per channel.
        origin: the masked tensor that the codes follow from, for forms that hold that instead; ``None`` = unknown.
        taken: by axis of the origin, the indices along it that remain of it; all where an axis is absent.
        transposed: whether a matrix has its axes in the other order than the origin.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    origin: TensorRecovery | None = None
    taken: Mapping[int, NDArray[np.intp]] = field(default_factory=dict)
    transposed: bool = False

    def values(self) -> NDArray[np.float32]:
        """The weight, float32 in its shape."""
        values: NDArray[np.float32] = self.codes.astype(np.float32) * self.scale
        return values

    def times(self, factor: NDArray[np.float64]) -> CodedWeight:
        """The weight with its channels multiplied: the codes stay, the product of scale and factor is rounded once.

        Args:
            factor: float64, broadcasts against the codes.
        """
        return replace(self, scale=np.asarray(self.scale.astype(np.float64) * factor, np.float32))

    def take(self, axis: int, index: NDArray[np.intp]) -> CodedWeight:
        """The weight at some indices of an axis."""
        scale = self.scale
        if scale.ndim and scale.shape[axis] > 1:
            scale = scale.take(index, axis)
        own = 1 - axis if self.transposed else axis
        taken = {**self.taken, own: self.taken[own][index] if own in self.taken else index}
        return replace(self, codes=self.codes.take(index, axis), scale=scale, taken=taken)

    def transpose(self) -> CodedWeight:
        """The matrix with its axes swapped; the origin stays what it is."""
        return replace(
            self, codes=np.ascontiguousarray(self.codes.T), scale=self.scale.T, transposed=not self.transposed
        )


def coded_weights(source: Network | SeedMask) -> dict[str, CodedWeight]:
    """The masked weights of a network in memory or an open file, each compared with its digest, by parameter name.

    Raises:
        SeedMaskError: a payload is damaged, or weights are not those that were packed.
    """
    return {
        recovery.name: weight for recovery, weight in source.map(lambda recovery: (_coded(recovery), recovery.digest()))
    }


def _coded(recovery: TensorRecovery) -> CodedWeight:
    trained = recovery.trained
    if trained is None:
        return CodedWeight(recovery.codes(), np.asarray(recovery.scale), recovery)
    codes = np.zeros(recovery.mask.count, trained.values.dtype)
    codes[recovery.mask.values().view(np.bool_)] = trained.values
    scale = np.asarray(np.float32(1) if trained.scales is None else trained.scales, np.float32)
    if scale.ndim:
        scale = scale.reshape(-1, *[1] * (len(recovery.shape) - 1))
    return CodedWeight(codes.reshape(recovery.shape), scale, recovery)
