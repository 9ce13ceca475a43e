"""An open ``.seedmask`` file: what it says, and the weights that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codebooks import get_codebook
from ..errors import SeedMaskError
from .bits import Row
from .codings import Coded, decode_rows
from .container import layout
from .log import NO_LOG, ResamplingLog
from .manifest import Manifest, TensorEntry
from .network import MaskedTensor, Network
from .recovery import TensorRecovery, ahead, find_draws, grouped, thread_map
from .report import LayerReport
from .source import Source
from .stored import StoredTensor
from .text import DAMAGED, located

__all__ = ["SeedMask"]

#: Weights whose payloads are decoded together: enough lanes for NumPy, 16 MB of masks and logs at most.
GROUP = 1 << 26
ResultT = TypeVar("ResultT")


class SeedMask:
    """An open file. Get one from `read_seedmask`.

    Attributes:
        path: where it came from.
        manifest: all that it says apart from payloads.
        file_bytes: its size.
    """

    def __init__(self, path: Path, manifest: Manifest, source: Source, data_start: int) -> None:
        self.path = path
        self.manifest = manifest
        self.file_bytes = source.size
        self._source = source
        self._places = {
            name: (data_start + start, data_start + end) for name, (start, end) in layout(manifest.slots()).items()
        }
        self._index = {tensor.name: i for i, tensor in enumerate(manifest.tensors)}

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
        """SHA-256 that stands for all recovered weights."""
        return self.manifest.digests.weights

    def state(self) -> dict[str, StoredTensor]:
        """The tensors that are stored as they are, by parameter name.

        Raises:
            SeedMaskError: one of them does not hold what its type allows.
        """
        stored = {}
        for entry in self.manifest.state:
            with located(self.path), located(f"state {entry.name!r}"):
                data = np.frombuffer(self._payload(f"state/{entry.name}"), np.uint8)
                stored[entry.name] = StoredTensor(entry.dtype, entry.shape, data)
        return stored

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The mask of a tensor, bool ``[n]``, row-major; True = kept.

        Raises:
            SeedMaskError: there is no such tensor, or its payload is damaged.
        """
        mask: NDArray[np.bool_] = self._rows([self._entry(name)], log=False)[0][0].values().view(np.bool_)
        return mask

    def log(self, name: str) -> ResamplingLog:
        """The resampling log of a tensor.

        Raises:
            SeedMaskError: there is no such tensor, or its payload is damaged.
        """
        return self._rows([self._entry(name)], mask=False)[0][1]

    def codes(self, name: str) -> NDArray[np.int8]:
        """The codes of a tensor in its shape, int8, not yet compared with its digest; 0 = pruned.

        Raises:
            SeedMaskError: there is no such tensor, or its payload is damaged.
        """
        entry = self._entry(name)
        out = np.empty(entry.weights, np.int8)
        for part, codes in self._decoded([entry])[0].codes():
            out[part] = codes
        return out.reshape(entry.shape)

    def weight(self, name: str) -> NDArray[np.float32]:
        """The weights of a tensor in its shape, float32, compared with its digest.

        Raises:
            SeedMaskError: there is no such tensor, or its weights are not those that were packed.
        """
        return self.weights([name])[name]

    def weights(self, names: Sequence[str] | None = None) -> dict[str, NDArray[np.float32]]:
        """Masked tensors by name, float32, each compared with its digest; uses all cores.

        Args:
            names: which; by default all.

        Raises:
            SeedMaskError: there is no such tensor, or the weights are not those that were packed.
        """
        found = self.map(TensorRecovery.whole, names)
        return {entry.name: weights.reshape(entry.shape) for entry, (weights, _) in found}

    def verify(self) -> None:
        """Recover all weights and compare them with their digests, in memory bounded by the largest mask and log.

        Raises:
            SeedMaskError: the weights are not those that were packed, or the state is damaged.
        """
        for _ in self.map(lambda recovery: (None, recovery.digest())):
            pass
        self.state()

    def map(
        self, function: Callable[[TensorRecovery], tuple[ResultT, str]], names: Sequence[str] | None = None
    ) -> Iterator[tuple[TensorEntry, tuple[ResultT, str]]]:
        """Apply a function to masked tensors, on all cores, in groups of bounded size.

        Args:
            function: from a decoded tensor to any result, and the SHA-256 of the weights, little-endian.
            names: which tensors; by default all.

        Yields:
            The entry of a tensor, and what the function returned.

        Raises:
            SeedMaskError: there is no such tensor, a payload is damaged, or a digest is not that of the tensor.
        """
        entries = self.tensors if names is None else [self._entry(name) for name in names]
        groups = grouped(entries, lambda entry: entry.weights, GROUP)
        decoded = ((group, self._decoded(group)) for group in groups)
        for group, recoveries in ahead(decoded) if sum(entry.weights for entry in entries) > GROUP else decoded:
            results = thread_map(function, recoveries, lambda recovery: recovery.mask.count)
            for entry, result in zip(group, results, strict=True):
                if result[1] != entry.sha256:
                    with self._tensor(entry):
                        raise SeedMaskError(
                            f"expected recovered weights with SHA-256 {entry.sha256}, got {result[1]}; {DAMAGED}"
                        )
                yield entry, result

    def network(self) -> Network:
        """The network that was packed, as far as recovery needs it; packing it again gives the same bytes.

        Draws are those of the file; where it holds flips, they are the first draws that have the other value.
        Those of pruned weights are 0.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        return self._network(tuple(self._masked_tensor(entry) for entry in self.tensors))

    def lazy_network(self) -> Network:
        """`network`, but each tensor is decoded when it is asked for, again each time; errors come then."""
        return self._network(_Tensors(self.tensors, self._masked_tensor))

    def layer_report(self) -> list[LayerReport]:
        """Size and entropy bound of each tensor, for printing.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        reports = []
        for group in grouped(self.tensors, lambda entry: entry.weights, GROUP):
            rows = self._rows(group, mask=False)
            reports += [LayerReport.of(entry, log) for entry, (_, log) in zip(group, rows, strict=True)]
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
        )

    def _masked_tensor(self, entry: TensorEntry) -> MaskedTensor:
        recovery = self._decoded([entry])[0]
        mask: NDArray[np.bool_] = recovery.mask.values().view(np.bool_)
        draws = None
        if recovery.log.kind != "none":
            draws = np.zeros(entry.weights, np.uint8)
            draws[mask] = recovery.log.values
            if recovery.log.kind == "flips":
                draws = find_draws(self.seed, recovery.index, get_codebook(entry.codebook), draws.view(np.bool_))
        return MaskedTensor(entry.name, entry.shape, entry.codebook, entry.scale_value, mask, draws)

    def _decoded(self, entries: Sequence[TensorEntry]) -> list[TensorRecovery]:
        return [
            TensorRecovery(self.seed, self._index[entry.name], entry.codebook, entry.scale_value, mask, log)
            for entry, (mask, log) in zip(entries, self._rows(entries), strict=True)
        ]

    def _rows(
        self, entries: Sequence[TensorEntry], *, mask: bool = True, log: bool = True
    ) -> list[tuple[Row, ResamplingLog]]:
        """Decoded masks and logs; what is not asked for is empty."""
        wanted: list[tuple[str, Coded]] = []
        for entry in entries:
            where = f"{self.path}: tensor {entry.name!r}"
            if mask:
                payload = self._payload(f"mask/{entry.name}")
                wanted.append((where, Coded(entry.mask.coding, payload, entry.weights, 1)))
            if log and entry.log.kind != "none":
                payload = self._payload(f"log/{entry.name}")
                wanted.append((where, Coded(entry.log.coding, payload, entry.kept, entry.log.width)))
        rows = iter(decode_rows(wanted))
        found = []
        for entry in entries:
            with self._tensor(entry):
                bits, values = NO_LOG.row, NO_LOG
                if mask:
                    bits = next(rows)
                    if bits.ones() != entry.kept:
                        raise SeedMaskError(
                            f"expected a mask that keeps {entry.kept} of {entry.weights} weights, "
                            f"got {bits.ones()}; {DAMAGED}"
                        )
                if log and entry.log.kind != "none":
                    values = ResamplingLog(entry.log.kind, next(rows))
                found.append((bits, values))
        return found

    def _payload(self, slot: str) -> bytes | memoryview:
        with located(self.path):
            return self._source.read(*self._places[slot])

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._index:
            raise SeedMaskError(f"{self.path}: no masked tensor {name!r}; it has: {', '.join(self._index)}")
        return self.tensors[self._index[name]]

    @contextmanager
    def _tensor(self, entry: TensorEntry) -> Iterator[None]:
        with located(self.path), located(f"tensor {entry.name!r}"):
            yield


class _Tensors(Sequence[MaskedTensor]):
    """The tensors of a file, each made when it is asked for."""

    def __init__(self, entries: Sequence[TensorEntry], make: Callable[[TensorEntry], MaskedTensor]) -> None:
        self._entries, self._make = entries, make

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> MaskedTensor:  # type: ignore[override]
        return self._make(self._entries[index])
