"""An open ``.seedmask`` file: what it says, and the weights that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..codebooks import get_codebook
from ..errors import SeedMaskError
from .container import layout
from .log import ResamplingLog, decode_log
from .manifest import DAMAGED, Manifest, TensorEntry
from .network import MaskedTensor, Network
from .recovery import decode_mask, find_draws, recover_codes, recover_weights, thread_map
from .report import LayerReport
from .stored import StoredTensor
from .text import located

__all__ = ["SeedMask"]


class SeedMask:
    """An open file. Get one from `read_seedmask`.

    Attributes:
        path: where it came from.
        manifest: all that it says apart from payloads.
        file_bytes: its size.
    """

    def __init__(self, path: Path, manifest: Manifest, data: memoryview, file_bytes: int) -> None:
        self.path = path
        self.manifest = manifest
        self.file_bytes = file_bytes
        self._data = data
        self._places = layout(manifest.slots())
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
        entry = self._entry(name)
        with self._tensor(entry):
            return decode_mask(entry.mask.coding, entry.weights, entry.kept, self._payload(f"mask/{name}"))

    def log(self, name: str) -> ResamplingLog:
        """The resampling log of a tensor.

        Raises:
            SeedMaskError: there is no such tensor, or its payload is damaged.
        """
        entry = self._entry(name)
        with self._tensor(entry):
            payload = self._payload(f"log/{name}") if entry.log.kind != "none" else b""
            return decode_log(entry.log.kind, entry.log.coding, entry.log.width, entry.kept, payload)

    def codes(self, name: str) -> NDArray[np.int8]:
        """The codes of a tensor in its shape, int8, not yet compared with its digest; 0 = pruned.

        Raises:
            SeedMaskError: there is no such tensor, or its payload is damaged.
        """
        entry = self._entry(name)
        out = np.empty(entry.weights, np.int8)
        for part, codes in self._chunks(entry):
            out[part] = codes
        return out.reshape(entry.shape)

    def weight(self, name: str) -> NDArray[np.float32]:
        """The weights of a tensor in its shape, float32, compared with its digest.

        Raises:
            SeedMaskError: there is no such tensor, or its weights are not those that were packed.
        """
        entry = self._entry(name)
        weights, digest = recover_weights(self._chunks(entry), entry.scale_value, entry.weights)
        if digest != entry.sha256:
            with self._tensor(entry):
                raise SeedMaskError(f"expected recovered weights with SHA-256 {entry.sha256}, got {digest}; {DAMAGED}")
        return weights.reshape(entry.shape)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All masked tensors, float32, each compared with its digest; uses all cores.

        Raises:
            SeedMaskError: the weights are not those that were packed.
        """
        names = [entry.name for entry in self.tensors]
        return dict(zip(names, thread_map(self.weight, names, lambda name: self._entry(name).weights), strict=True))

    def network(self) -> Network:
        """The network that was packed, as far as recovery needs it; packing it again gives the same bytes.

        Draws are those of the file; where it holds flips, they are the first draws that have the other value.
        Those of pruned weights are 0.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        manifest = self.manifest
        return Network(
            seed=self.seed,
            tensors=tuple(self._masked_tensor(entry) for entry in self.tensors),
            state=self.state(),
            architecture=manifest.architecture,
            input=manifest.input,
            classes=None if manifest.classes is None else list(manifest.classes),
            recipe=manifest.recipe,
        )

    def layer_report(self) -> list[LayerReport]:
        """Size and entropy bound of each tensor, for printing.

        Raises:
            SeedMaskError: a payload is damaged.
        """
        return [LayerReport.of(entry, self.log(entry.name)) for entry in self.tensors]

    def _masked_tensor(self, entry: TensorEntry) -> MaskedTensor:
        mask, log, draws = self.mask(entry.name), self.log(entry.name), None
        if log.kind != "none":
            draws = np.zeros(entry.weights, np.uint8)
            draws[mask] = log.values
            if log.kind == "flips":
                index, book = self._index[entry.name], get_codebook(entry.codebook)
                draws = find_draws(self.seed, index, book, draws.view(np.bool_))
        return MaskedTensor(entry.name, entry.shape, entry.codebook, entry.scale_value, mask, draws)

    def _chunks(self, entry: TensorEntry) -> Iterator[tuple[slice, NDArray[np.int8]]]:
        mask, log = self.mask(entry.name), self.log(entry.name)
        return recover_codes(self.seed, self._index[entry.name], get_codebook(entry.codebook), mask, log)

    def _payload(self, slot: str) -> memoryview:
        start, end = self._places[slot]
        return self._data[start:end]

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._index:
            raise SeedMaskError(f"{self.path}: no masked tensor {name!r}; it has: {', '.join(self._index)}")
        return self.tensors[self._index[name]]

    @contextmanager
    def _tensor(self, entry: TensorEntry) -> Iterator[None]:
        with located(self.path), located(f"tensor {entry.name!r}"):
            yield
