"""How small each tensor of a file is, and how small it could be."""

from __future__ import annotations

from dataclasses import dataclass

from .bits import Row, binary_entropy
from .log import ResamplingLog
from .manifest import TensorEntry
from .multiplicity import Multiplicity

__all__ = ["SECTIONS", "LayerReport"]

#: What a file stores of a tensor; columns of the report begin with one of them.
SECTIONS = ("mask", "log", "coats", "values")


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
        frozen_pruned: share of the weights that the generator fixes to pruned; 0 if it fixes none.
        frozen_kept: the same of those that it fixes to kept.
        coats_coding: as of the mask; ``None`` if all multiplicities are 1.
        coats_bits_per_weight: size of the payload of multiplicities.
        coats_bound: what an ideal coder of independent symbols needs for the multiplicities.
        values_dtype: ``F32``, ``F16`` or ``I8``; ``None`` if the weights were not trained.
        values_coding: as of the mask; ``None`` if the weights were not trained.
        values_bits_per_weight: size of the trained values and their scales.
        values_bound: the same if values of I8 were coded ideally, as independent symbols.
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
    frozen_pruned: float
    frozen_kept: float
    coats_coding: str | None
    coats_bits_per_weight: float
    coats_bound: float
    values_dtype: str | None
    values_coding: str | None
    values_bits_per_weight: float
    values_bound: float

    @property
    def bits_per_weight(self) -> float:
        """Size of mask, log, multiplicities and values."""
        total: float = sum(getattr(self, f"{section}_bits_per_weight") for section in SECTIONS)
        return total

    @property
    def bound(self) -> float:
        """Sum of the bounds of mask, log, multiplicities and values."""
        total: float = sum(getattr(self, f"{section}_bound") for section in SECTIONS)
        return total

    @classmethod
    def of(
        cls, entry: TensorEntry, ones: int, log: ResamplingLog, multiplicity: Multiplicity | None, values: Row | None
    ) -> LayerReport:
        """Build the row of a tensor.

        Args:
            entry: of the tensor.
            ones: ones among the bits of the mask that are stored.
            log: its resampling log.
            multiplicity: of its kept weights; ``None`` = all 1.
            values: its trained values, if they are of I8.
        """
        frozen, value_bits = entry.frozen, entry.value_bits
        return cls(
            name=entry.name,
            shape=entry.shape,
            weights=entry.weights,
            kept=entry.kept,
            sparsity=1 - entry.kept / entry.weights,
            mask_coding=entry.mask.coding,
            mask_bits_per_weight=8 * entry.mask.bytes / entry.weights,
            mask_bound=binary_entropy(ones, entry.mask_values) / entry.weights,
            log_kind=entry.log.kind,
            log_coding=entry.log.coding,
            log_bits_per_weight=8 * entry.log.bytes / entry.weights,
            log_bound=log.row.entropy() / entry.weights,
            frozen_pruned=0.0 if frozen is None else frozen.pruned / 65536,
            frozen_kept=0.0 if frozen is None else frozen.kept / 65536,
            coats_coding=None if entry.coats is None else entry.coats.coding,
            coats_bits_per_weight=entry.coat_bits / entry.weights,
            coats_bound=0.0 if multiplicity is None else multiplicity.row.entropy() / entry.weights,
            values_dtype=None if entry.values is None else entry.values.dtype,
            values_coding=None if entry.values is None else entry.values.coding,
            values_bits_per_weight=value_bits / entry.weights,
            values_bound=(value_bits if values is None else entry.scale_bits + values.entropy()) / entry.weights,
        )
