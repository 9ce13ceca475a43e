"""A weight as the numbers that a file stores: codes times a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compress.seedmask import SeedMask
from ..compress.seedmask.tensor_recovery import TensorRecovery

__all__ = ["CodedWeight", "coded_weights"]


@dataclass(frozen=True, eq=False)
class CodedWeight:
    """``float32(codes) * scale``: one exactly rounded product, whoever computes it.

    Attributes:
        codes: int8 in the shape of the weight, 0 = pruned; float16 or float32 for values that were trained.
        scale: float32, broadcasts against the codes: one number, or, with BatchNorm folded in, one per channel.
        shape: of the whole weight.
        origin: what the codes follow from, for forms that hold that instead; ``None`` = nothing is known.
        taken: which part of what follows from the origin this is: for axes that were reduced, the indices.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    shape: tuple[int, ...]
    origin: TensorRecovery | None = None
    taken: Mapping[int, NDArray[np.intp]] = field(default_factory=dict)

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
        taken = {**self.taken, axis: self.taken[axis][index] if axis in self.taken else index}
        return replace(self, codes=self.codes.take(index, axis), scale=scale, taken=taken)


def coded_weights(file: SeedMask) -> dict[str, CodedWeight]:
    """The masked weights of a file, each compared with its digest, by parameter name.

    Raises:
        SeedMaskError: a payload is damaged, or weights are not those that were packed.
    """
    found = file.map(lambda recovery: (_coded(recovery), recovery.digest()))
    return {entry.name: _shaped(weight, entry.shape) for entry, (weight, _) in found}


def _coded(recovery: TensorRecovery) -> CodedWeight:
    """The weight of a tensor, flat; of trained values with a scale for each row, these as ``[rows]``."""
    trained = recovery.trained
    if trained is None:
        codes = np.empty(recovery.mask.count, np.int8)
        for part, chunk in recovery.codes():
            codes[part] = chunk
        return CodedWeight(codes, np.asarray(recovery.scale), codes.shape, recovery)
    codes = np.zeros(recovery.mask.count, trained.values.dtype)
    codes[recovery.mask.values().view(np.bool_)] = trained.values
    scale = np.asarray(np.float32(1) if trained.scales is None else trained.scales, np.float32)
    return CodedWeight(codes, scale, codes.shape)


def _shaped(weight: CodedWeight, shape: tuple[int, ...]) -> CodedWeight:
    scale = weight.scale.reshape(-1, *[1] * (len(shape) - 1)) if weight.scale.ndim else weight.scale
    return replace(weight, codes=weight.codes.reshape(shape), scale=scale, shape=shape)
