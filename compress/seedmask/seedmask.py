"""An open ``.seedmask`` file: its manifest, and the weights that are recovered from it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from ..seed.codebooks import get_codebook
from ..seed.philox import random_bytes
from .byte_source import Source
from .container import layout
from .json_text import DAMAGED, located
from .layer_report import SECTIONS, LayerReport
from .log import ResamplingLog, find_draws
from .manifest import COMPACT, CONSTANTS, Manifest, TensorEntry
from .network import MaskedTensor, Network
from .parallel import ahead, grouped
from .payloads import Payloads, load
from .stored import StoredTensor
from .tensor_recovery import TensorRecovery, combined_digest, map_checked

__all__ = ["SeedMask"]

#: The `load` of tensors that are decoded together: enough lanes for NumPy, at most 16 MB of payloads or one tensor.
GROUP = 1 << 26
ResultT = TypeVar("ResultT")


class SeedMask:
    """An open file. Get one from `read_seedmask`.

    Attributes:
        path: of the file.
        manifest: all of its content apart from payloads.
        file_bytes: its size.
    """

    def __init__(self, path: Path, manifest: Manifest, source: Source, data_start: int) -> None:
        self.path = path
        self.manifest = manifest
        self.file_bytes = source.size
        self._index = {tensor.name: i for i, tensor in enumerate(manifest.tensors)}
        places = layout(manifest.slots())

        def read(slot: str) -> bytes | memoryview:  # not a method, whose reference to self would keep the file open
            start, end = places[slot]
            with located(path):
                return source.read(data_start + start, data_start + end)

        self._read = read
        # Of a compact file, SHA-256 of each tensor by index, once all were recovered and compared with the one of all.
        self._digests: dict[int, str] = {}
        self._lock = threading.Lock()
        self._payloads = Payloads(self.seed, read, lambda entry: f"{path}: tensor {entry.name!r}")

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """The masked tensors, in the order of their indices."""
        return self.manifest.tensors

    @property
    def seed(self) -> int:
        """Seed of the random weights."""
        return int(self.manifest.seed, 16)

    @property
    def weights_digest(self) -> str:
        """SHA-256 over the digests of all recovered weights."""
        return self.manifest.digests.weights

    @property
    def sparsity(self) -> float:
        """Fraction of the masked weights that is pruned."""
        return 1 - sum(entry.kept for entry in self.tensors) / sum(entry.weights for entry in self.tensors)

    def state(self) -> dict[str, StoredTensor]:
        """The tensors that are stored as they are, by parameter name.

        Raises:
            SeedMaskError: one of them does not hold what its type allows.
        """
        stored, constants = {}, CONSTANTS in self.manifest.required_features
        for entry in self.manifest.state:
            with located(self.path), located(f"state {entry.name!r}"):
                if entry.value is None:
                    data = np.frombuffer(self._read(f"state/{entry.name}"), np.uint8)
                else:
                    data = np.tile(np.frombuffer(bytes.fromhex(entry.value)[::-1], np.uint8), math.prod(entry.shape))
                stored[entry.name] = found = StoredTensor(entry.dtype, entry.shape, data)
                if constants and entry.value is None and found.one_value is not None:
                    raise SeedMaskError(f"expected one value instead of items that are all the same; {DAMAGED}")
        return stored

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The mask of a tensor, bool ``[n]``, row-major; True = kept.

        Raises:
            SeedMaskError: the tensor is unknown, or its payload is damaged.
        """
        entry = self._entry(name)
        row = self._payloads.mask(self._index[name], entry, self._payloads.rows([entry], ("mask",))[0])
        mask: NDArray[np.bool_] = row.values().view(np.bool_)
        return mask

    def log(self, name: str) -> ResamplingLog:
        """The resampling log of a tensor.

        Raises:
            SeedMaskError: the tensor is unknown, or its payload is damaged.
        """
        entry = self._entry(name)
        return self._payloads.log(entry, self._payloads.rows([entry], ("log",))[0])

    def codes(self, name: str) -> NDArray[np.int8]:
        """The codes of a tensor in its shape, int8, not yet compared with its digest; 0 = pruned.

        Raises:
            SeedMaskError: the tensor is unknown, its payload is damaged, or its values were trained.
        """
        recovery = self._decoded([self._entry(name)])[0]
        with located(f"{self.path}: tensor {name!r}"):
            return recovery.codes()

    def weight(self, name: str) -> NDArray[np.float32]:
        """The weights of a tensor in its shape, float32, compared with its digest.

        Raises:
            SeedMaskError: the tensor is unknown, or its weights are not those that were packed.
        """
        return self.weights([name])[name]

    def weights(self, names: Sequence[str] | None = None) -> dict[str, NDArray[np.float32]]:
        """Masked tensors by name, float32, each compared with its digest; uses all cores.

        Args:
            names: which; by default all.

        Raises:
            SeedMaskError: the tensor is unknown, or the weights are not those that were packed.
        """
        return {recovery.name: weights for recovery, weights in self.map(TensorRecovery.weights, names)}

    def verify(self) -> None:
        """Recover all weights and compare them with their digests, in memory bounded by the payloads of the largest.

        Raises:
            SeedMaskError: the weights are not those that were packed, or the state is damaged.
        """
        for _ in self.map(lambda recovery: (None, recovery.digest())):
            pass
        self.state()

    def map(
        self, function: Callable[[TensorRecovery], tuple[ResultT, str]], names: Sequence[str] | None = None
    ) -> Iterator[tuple[TensorRecovery, ResultT]]:
        """Apply a function to masked tensors, on all cores, in groups of bounded size.

        A compact file has one digest of all tensors. It is compared after the last of them; for a choice of tensors,
        all are recovered once before the first.

        Args:
            function: from a tensor to any result, and the SHA-256 of its weights, little-endian.
            names: which tensors; by default all.

        Yields:
            Each tensor, and what the function returned.

        Raises:
            SeedMaskError: the tensor is unknown, a payload is damaged, or a digest is not that of the tensor.
        """
        entries = self.tensors if names is None else [self._entry(name) for name in names]
        if self.manifest.form == COMPACT and not self._digests:
            if names is None:
                yield from self._map_all(function)
                return
            with self._lock:
                if not self._digests:
                    self.verify()
        yield from self._map(function, entries)

    def _map(
        self, function: Callable[[TensorRecovery], tuple[ResultT, str]], entries: Sequence[TensorEntry]
    ) -> Iterator[tuple[TensorRecovery, ResultT]]:
        decoded = map(self._decoded, grouped(entries, load, GROUP))
        for recoveries in ahead(decoded) if sum(map(load, entries)) > GROUP else decoded:
            yield from map_checked(function, recoveries, f"{self.path}: ", DAMAGED)

    def _map_all(
        self, function: Callable[[TensorRecovery], tuple[ResultT, str]]
    ) -> Iterator[tuple[TensorRecovery, ResultT]]:
        """`map` of all tensors of a compact file, and after the last one the comparison with the digest of all."""
        digests: dict[int, str] = {}

        def noted(recovery: TensorRecovery) -> tuple[ResultT, str]:
            result, digests[recovery.index] = function(recovery)
            return result, digests[recovery.index]

        yield from self._map(noted, self.tensors)
        found = combined_digest(digests[index] for index in range(len(self.tensors)))
        if found != self.weights_digest:
            raise SeedMaskError(
                f"{self.path}: expected recovered weights with the SHA-256 {self.weights_digest} of all tensors, "
                f"got {found}; {DAMAGED}"
            )
        self._digests = digests

    def network(self) -> Network:
        """Return the network that was packed, as far as recovery needs it; packing it again gives the same bytes.

        Draws are those of the file; where it holds flips, they are the first draws that have the other value; where
        it holds deltas, there are current bytes instead. Those of pruned weights are 0, and so is their multiplicity.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        return self._network(tuple(self._masked_tensor(entry) for entry in self.tensors))

    def lazy_network(self) -> Network:
        """`network`, but each tensor is decoded anew whenever it is accessed, and errors are raised then."""
        return self._network(_Tensors(self.tensors, self._masked_tensor))

    def layer_report(self) -> list[LayerReport]:
        """Size and entropy bound of each tensor, for printing.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        reports = []
        for group in grouped(self.tensors, load, GROUP):
            # The entry has the number of ones of a complete mask; those of free weights have to be counted.
            masks = iter(self._payloads.rows([entry for entry in group if entry.frozen is not None], ("mask",)))
            for entry, rows in zip(group, self._payloads.rows(group, SECTIONS[1:]), strict=True):
                ones = entry.kept if entry.frozen is None else next(masks)["mask"].ones()
                log, multiplicity = self._payloads.log(entry, rows), self._payloads.multiplicity(entry, rows)
                reports.append(LayerReport.of(entry, ones, log, multiplicity, rows.get("values")))
        return reports

    def _network(self, tensors: Sequence[MaskedTensor]) -> Network:
        manifest = self.manifest
        return Network(
            seed=self.seed,
            tensors=tensors,
            state=self.state(),
            architecture=manifest.architecture,
            input=manifest.input,
            classes=None if manifest.classes is None else list(manifest.classes),
            recipe=manifest.recipe,
            form=manifest.form,
            constants=CONSTANTS in manifest.required_features,
        )

    def _masked_tensor(self, entry: TensorEntry) -> MaskedTensor:
        recovery = self._decoded([entry])[0]
        mask: NDArray[np.bool_] = recovery.mask.values().view(np.bool_)

        def spread(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
            out = np.zeros(entry.weights, np.uint8)
            out[mask] = values
            return out

        log, draws, current = recovery.log, None, None
        if log.kind == "draws":
            draws = spread(log.values)
        elif log.kind == "flips":
            book = get_codebook(entry.codebook)
            draws = find_draws(self.seed, recovery.index, book, spread(log.values).view(np.bool_))
        elif log.kind == "deltas":
            raw = random_bytes(self.seed, 0, entry.weights, draw=0, tensor=recovery.index)
            current = (raw ^ spread(log.values)) * mask
        return MaskedTensor(
            entry.name,
            entry.shape,
            entry.codebook,
            entry.scale_value,
            mask,
            draws,
            current,
            None if entry.frozen is None else entry.frozen.thresholds,
            None if recovery.multiplicity is None else spread(recovery.multiplicity.values()),
            recovery.trained,
        )

    def _decoded(self, entries: Sequence[TensorEntry]) -> list[TensorRecovery]:
        decoded = self._payloads.recoveries([(self._index[entry.name], entry) for entry in entries])
        if not self._digests:
            return decoded
        return [replace(recovery, sha256=self._digests[recovery.index]) for recovery in decoded]

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._index:
            raise SeedMaskError(f"{self.path}: no masked tensor {name!r}; it has: {', '.join(self._index)}")
        return self.tensors[self._index[name]]


class _Tensors(Sequence[MaskedTensor]):
    """The tensors of a file, each decoded when it is accessed."""

    def __init__(self, entries: Sequence[TensorEntry], make: Callable[[TensorEntry], MaskedTensor]) -> None:
        self._entries, self._make = entries, make

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> MaskedTensor:  # type: ignore[override]
        return self._make(self._entries[index])
