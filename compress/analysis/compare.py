"""What two ``.seedmask`` files have in common: masks, recovered weights, state and settings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..seedmask.json_text import canonical_json
from ..seedmask.manifest import Manifest
from ..seedmask.seedmask import SeedMask
from ..seedmask.stored import StoredTensor
from ..seedmask.tensor_recovery import TensorRecovery

__all__ = [
    "Comparison",
    "LayerComparison",
    "MaskOverlap",
    "SettingDifference",
    "ShapeDifference",
    "StateComparison",
    "compare",
]


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same in both files.

    Attributes:
        key: its dotted name, such as ``recipe.train.lr``.
        first: its value as JSON; ``None`` if the first file does not have it.
        second: the same of the second file.
    """

    key: str
    first: str | None
    second: str | None


@dataclass(frozen=True)
class MaskOverlap:
    """Two masks over the same weights, as counts; those of several tensors can be added.

    Attributes:
        weights: number of weights.
        kept: how many each mask keeps.
        in_both: how many both keep.
        equal_values: how many of these have the same recovered value.
        in_both_by_chance: how many both would keep, on average, if the masks were independent.
    """

    weights: int
    kept: tuple[int, int]
    in_both: int
    equal_values: int
    in_both_by_chance: float

    def __add__(self, other: MaskOverlap) -> MaskOverlap:
        return MaskOverlap(
            self.weights + other.weights,
            (self.kept[0] + other.kept[0], self.kept[1] + other.kept[1]),
            self.in_both + other.in_both,
            self.equal_values + other.equal_values,
            self.in_both_by_chance + other.in_both_by_chance,
        )

    @property
    def hamming(self) -> int:
        """Number of weights that one mask keeps and the other does not."""
        return sum(self.kept) - 2 * self.in_both

    @property
    def hamming_fraction(self) -> float:
        """The same, as a fraction of all weights."""
        return self.hamming / self.weights

    @property
    def iou(self) -> float:
        """Intersection over union: kept in both by kept in either; 1 for two empty masks."""
        return _ratio(self.in_both, sum(self.kept) - self.in_both)

    @property
    def iou_by_chance(self) -> float:
        """The same for independent masks: p q / (p + q - p q) where they keep the fractions p and q."""
        return _ratio(self.in_both_by_chance, sum(self.kept) - self.in_both_by_chance)

    @property
    def equal_value_share(self) -> float:
        """Of the weights that both keep, the fraction with the same recovered value; 1 if there are none."""
        return _ratio(self.equal_values, self.in_both)


@dataclass(frozen=True)
class LayerComparison:
    """A masked tensor that both files have, in the same shape.

    Attributes:
        name: of the tensor.
        shape: its shape.
        index: its index in each file, on which its random numbers depend.
        codebook: in each file.
        scale: in each file.
        overlap: of the masks and values.
        identical: whether all recovered weights are equal bit for bit.
    """

    name: str
    shape: tuple[int, ...]
    index: tuple[int, int]
    codebook: tuple[str, str]
    scale: tuple[float, float]
    overlap: MaskOverlap
    identical: bool


@dataclass(frozen=True)
class ShapeDifference:
    """A masked tensor that both files have, in different shapes."""

    name: str
    first: tuple[int, ...]
    second: tuple[int, ...]


@dataclass(frozen=True)
class StateComparison:
    """A state tensor that both files have.

    Attributes:
        name: of the tensor.
        dtype: in each file.
        shape: in each file.
        identical: whether dtype, shape and bits are equal.
        largest_difference: absolute, over all values; ``None`` where it does not exist: the shapes differ,
            or one side has an infinity or NaN where the other has not.
    """

    name: str
    dtype: tuple[str, str]
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    identical: bool
    largest_difference: float | None


@dataclass(frozen=True)
class Comparison:
    """What two files have in common.

    Attributes:
        settings: what differs in seed, architecture, input, classes and recipe.
        layers: masked tensors of both.
        shapes: masked tensors of both whose shapes differ.
        only: names of masked tensors of the first file alone, and of the second alone.
        state: state tensors of both.
        only_state: names of state tensors of the first file alone, and of the second alone.
    """

    settings: tuple[SettingDifference, ...]
    layers: tuple[LayerComparison, ...]
    shapes: tuple[ShapeDifference, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    state: tuple[StateComparison, ...]
    only_state: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def total(self) -> MaskOverlap | None:
        """The overlaps of all layers together; ``None`` if no layer could be compared."""
        overlaps = [layer.overlap for layer in self.layers]
        return sum(overlaps[1:], overlaps[0]) if overlaps else None

    @property
    def equal_weights(self) -> bool:
        """Whether both have the same masked tensors with the same recovered weights, bit for bit."""
        return not (self.shapes or any(self.only)) and all(layer.identical for layer in self.layers)

    @property
    def equal_state(self) -> bool:
        """Whether both have the same state, bit for bit."""
        return not any(self.only_state) and all(state.identical for state in self.state)


def compare(first: SeedMask, second: SeedMask) -> Comparison:
    """Compare two open files, tensor by tensor and by name; all weights are recovered and checked on the way.

    Raises:
        SeedMaskError: a file is damaged.
    """
    mine, others = ({entry.name: entry for entry in file.tensors} for file in (first, second))
    common = [name for name in mine if name in others]
    same = [name for name in common if mine[name].shape == others[name].shape]
    states = first.state(), second.state()
    return Comparison(
        settings=tuple(_settings(first.manifest, second.manifest)),
        layers=tuple(_layers(first, second, same)) if same else (),
        shapes=tuple(
            ShapeDifference(name, mine[name].shape, others[name].shape) for name in common if name not in same
        ),
        only=_only(mine, others),
        state=tuple(_state(name, states[0][name], states[1][name]) for name in states[0] if name in states[1]),
        only_state=_only(*states),
    )


def _only(first: Mapping[str, object], second: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(name for name in first if name not in second), tuple(name for name in second if name not in first)


def _ratio(count: float, total: float) -> float:
    return count / total if total else 1.0


def _settings(first: Manifest, second: Manifest) -> Iterator[SettingDifference]:
    flat = [
        dict(_flat("", {"seed": int(manifest.seed, 16)} | manifest.model_dump(mode="json", include=_SETTINGS)))
        for manifest in (first, second)
    ]
    for key in flat[0] | flat[1]:
        values = [canonical_json(settings[key]) if key in settings else None for settings in flat]
        if values[0] != values[1]:
            yield SettingDifference(key, *values)


_SETTINGS = {"architecture", "input", "classes", "recipe"}


def _flat(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    """The leaves of nested dictionaries by their dotted names."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value


def _layers(first: SeedMask, second: SeedMask, names: list[str]) -> Iterator[LayerComparison]:
    mine, others = ({entry.name: (i, entry) for i, entry in enumerate(file.tensors)} for file in (first, second))

    def overlap(recovery: TensorRecovery) -> tuple[tuple[MaskOverlap, bool], str]:
        """Compare one tensor, and say whether all is equal; both files check the digests of their weights."""

        def with_other(other: TensorRecovery) -> tuple[tuple[tuple[MaskOverlap, bool], str], str]:
            in_both, equal, digests = _walk(recovery, other)
            kept = recovery.mask.ones(), other.mask.ones()
            count = recovery.mask.count
            by_chance = kept[0] * kept[1] / count
            overlap = MaskOverlap(count, kept, in_both, equal, by_chance), digests[0] == digests[1]
            return (overlap, digests[0]), digests[1]

        ((_, result),) = second.map(with_other, [recovery.name])
        return result

    for recovery, (result, identical) in first.map(overlap, names):
        (index, entry), (other_index, other) = mine[recovery.name], others[recovery.name]
        yield LayerComparison(
            name=entry.name,
            shape=entry.shape,
            index=(index, other_index),
            codebook=(entry.codebook, other.codebook),
            scale=(float(entry.scale_value), float(other.scale_value)),
            overlap=result,
            identical=identical,
        )


def _walk(first: TensorRecovery, second: TensorRecovery) -> tuple[int, int, tuple[str, str]]:
    """Weights that both keep, how many of these are equal, and the digests of all weights; chunk by chunk."""
    in_both = equal = 0
    digests = hashlib.sha256(), hashlib.sha256()
    for (chunk, mine), (_, other) in zip(first.weight_chunks(), second.weight_chunks(), strict=True):
        digests[0].update(mine.data)
        digests[1].update(other.data)
        # Not by the weights: a trained value may be 0.
        both = (first.mask.values(chunk.start, chunk.stop) & second.mask.values(chunk.start, chunk.stop)).view(np.bool_)
        in_both += int(np.count_nonzero(both))
        equal += int(np.count_nonzero(both & (mine == other)))
    return in_both, equal, (digests[0].hexdigest(), digests[1].hexdigest())


def _state(name: str, first: StoredTensor, second: StoredTensor) -> StateComparison:
    identical = (first.dtype, first.shape) == (second.dtype, second.shape) and np.array_equal(first.data, second.data)
    difference: float | None = None
    if first.shape == second.shape:
        difference = 0.0 if identical else _largest_difference(first, second)
    return StateComparison(name, (first.dtype, second.dtype), (first.shape, second.shape), bool(identical), difference)


def _largest_difference(first: StoredTensor, second: StoredTensor) -> float | None:
    integer = first.dtype == second.dtype and first.dtype[0] in "UI"
    if integer:
        a, b = first.numpy(), second.numpy()
        # Modulo 2**64 the difference of the larger and the smaller is exact, also of signed integers.
        exact = np.maximum(a, b).astype(np.uint64) - np.minimum(a, b).astype(np.uint64)
        return float(exact.max(initial=0))
    x, y = _real(first), _real(second)
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    largest = float(differences.max(initial=0.0))
    return largest if math.isfinite(largest) else None


def _real(stored: StoredTensor) -> NDArray[np.float64]:
    values = stored.numpy()
    if stored.dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)
