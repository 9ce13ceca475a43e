"""Decode the payloads of tensors to what recovery needs, each checked against its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ..errors import SeedMaskError
from .bits import Row
from .codings import Coded, decode_rows
from .free_bits import expanded
from .json_text import DAMAGED, located
from .layer_report import SECTIONS
from .log import NO_LOG, ResamplingLog
from .manifest import TensorEntry
from .multiplicity import Multiplicity
from .parallel import thread_map
from .tensor_recovery import TensorRecovery
from .trained import VALUE_DTYPES, Trained

__all__ = ["Payloads", "load"]


class Payloads:
    """Decodes the payloads of a file or of bytes in memory.

    Args:
        seed: seed of the network.
        read: the bytes of a slot, by its name.
        where: the start of error messages on a tensor.
    """

    def __init__(
        self, seed: int, read: Callable[[str], bytes | memoryview], where: Callable[[TensorEntry], str]
    ) -> None:
        self._seed, self._read, self._where = seed, read, where

    def recoveries(self, entries: Sequence[tuple[int, TensorEntry]]) -> list[TensorRecovery]:
        """Decode tensors, given with their indices; the lanes of all payloads run in lockstep.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        work = [(*item, rows) for item, rows in zip(entries, self.rows([entry for _, entry in entries]), strict=True)]

        def recovery(item: tuple[int, TensorEntry, Mapping[str, Row]]) -> TensorRecovery:
            index, entry, rows = item
            return TensorRecovery(
                name=entry.name,
                shape=entry.shape,
                sha256=entry.sha256,
                seed=self._seed,
                index=index,
                codebook=entry.codebook,
                scale=entry.scale_value,
                mask=self.mask(*item),
                log=self.log(entry, rows),
                multiplicity=self.multiplicity(entry, rows),
                trained=self.trained(entry, rows),
            )

        if all(entry.frozen is None for _, entry in entries):
            return [recovery(item) for item in work]
        return thread_map(recovery, work, lambda item: item[1].weights)  # generating the frozen bits takes time

    def rows(self, entries: Sequence[TensorEntry], sections: Collection[str] = SECTIONS) -> list[dict[str, Row]]:
        """The rows of values that are stored of each tensor, by section; of a frozen mask the free bits.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        stored = [{section: row for section, row in _stored(entry).items() if section in sections} for entry in entries]
        rows = iter(
            decode_rows(
                [
                    (self._where(entry), Coded(coding, self._read(f"{section}/{entry.name}"), count, width))
                    for entry, shapes in zip(entries, stored, strict=True)
                    for section, (coding, count, width) in shapes.items()
                ]
            )
        )
        return [{section: next(rows) for section in shapes} for shapes in stored]

    def mask(self, index: int, entry: TensorEntry, rows: Mapping[str, Row]) -> Row:
        """The mask of a tensor, with its frozen bits.

        Raises:
            SeedMaskError: it keeps another number of weights, or the generator leaves another number free.
        """
        with located(self._where(entry)):
            mask = rows["mask"]
            if entry.frozen is not None:
                mask = expanded(self._seed, index, entry.frozen.thresholds, entry.weights, mask)
            if mask.ones() != entry.kept:
                raise SeedMaskError(
                    f"expected a mask that keeps {entry.kept} of {entry.weights} weights, got {mask.ones()}; {DAMAGED}"
                )
            return mask

    def log(self, entry: TensorEntry, rows: Mapping[str, Row]) -> ResamplingLog:
        """The resampling log of a tensor.

        Raises:
            SeedMaskError: the packer never writes these values.
        """
        with located(self._where(entry)):
            return ResamplingLog(entry.log.kind, rows["log"]) if "log" in rows else NO_LOG

    def multiplicity(self, entry: TensorEntry, rows: Mapping[str, Row]) -> Multiplicity | None:
        """The multiplicities of a tensor; ``None`` if all are 1.

        Raises:
            SeedMaskError: the packer never writes these values.
        """
        with located(self._where(entry)):
            return Multiplicity(rows["coats"]) if "coats" in rows else None

    def trained(self, entry: TensorEntry, rows: Mapping[str, Row]) -> Trained | None:
        """The trained values of a tensor; ``None`` if they are random.

        Raises:
            SeedMaskError: a value or scale is not possible.
        """
        if entry.values is None:
            return None
        with located(self._where(entry)):
            dtype = VALUE_DTYPES[entry.values.dtype]
            if entry.values.dtype == "I8":
                scales = np.frombuffer(self._read(f"scales/{entry.name}"), "<f4").astype(np.float32, copy=False)
                return Trained("I8", rows["values"].symbols.view(np.int8), scales)
            values = np.frombuffer(self._read(f"values/{entry.name}"), dtype.newbyteorder("<"))
            return Trained(entry.values.dtype, values.astype(dtype, copy=False))


def load(entry: TensorEntry) -> int:
    """Size of a tensor when tensors are grouped so that their payloads fit in memory: approximately 4 per byte."""
    return entry.weights + (0 if entry.values is None else 4 * entry.values.bytes)


def _stored(entry: TensorEntry) -> dict[str, tuple[str, int, int]]:
    """Coding, number of values and bits of a value of each row that is stored."""
    result = {"mask": (entry.mask.coding, entry.mask_values, 1)}
    if entry.log.kind != "none":
        result["log"] = entry.log.coding, entry.kept, entry.log.width
    if entry.coats is not None:
        result["coats"] = entry.coats.coding, entry.kept, entry.coats.width
    if entry.values is not None and entry.values.dtype == "I8":
        result["values"] = entry.values.coding, entry.kept, 8
    return result
