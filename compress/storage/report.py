"""How small each tensor of a file is, and how small it could be."""

from __future__ import annotations

from dataclasses import dataclass

from .bits import binary_entropy
from .log import ResamplingLog
from .manifest import TensorEntry

__all__ = ["LayerReport"]


@dataclass(frozen=True)
class LayerReport:
    """One row of ``inspect``. Bits are per weight of the tensor, kept or pruned.

    Attributes:
        name: of the tensor.
        shape: its shape.
        weights: number of weights.
        kept: how many are not pruned.
        sparsity: fraction that is pruned.
        mask_coding: ``raw``, ``rans`` or ``gaps``.
        mask_bits_per_weight: size of the mask payload.
        mask_bound: what an ideal coder of independent bits needs, H(sparsity).
        log_kind: ``none``, ``flips`` or ``draws``.
        log_coding: as of the mask; ``raw`` if there is no log.
        log_bits_per_weight: size of the log payload.
        log_bound: what an ideal coder of independent symbols needs for the log.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    sparsity: float
    mask_coding: str
    mask_bits_per_weight: float
    mask_bound: float
    log_kind: str
    log_coding: str
    log_bits_per_weight: float
    log_bound: float

    @property
    def bits_per_weight(self) -> float:
        """Size of mask and log."""
        return self.mask_bits_per_weight + self.log_bits_per_weight

    @property
    def bound(self) -> float:
        """The bounds of mask and log together."""
        return self.mask_bound + self.log_bound

    @classmethod
    def of(cls, entry: TensorEntry, log: ResamplingLog) -> LayerReport:
        """The row of a tensor."""
        return cls(
            name=entry.name,
            shape=entry.shape,
            weights=entry.weights,
            kept=entry.kept,
            sparsity=1 - entry.kept / entry.weights,
            mask_coding=entry.mask.coding,
            mask_bits_per_weight=8 * entry.mask.bytes / entry.weights,
            mask_bound=binary_entropy(entry.kept, entry.weights) / entry.weights,
            log_kind=entry.log.kind,
            log_coding=entry.log.coding,
            log_bits_per_weight=8 * entry.log.bytes / entry.weights,
            log_bound=log.bound() / entry.weights,
        )
