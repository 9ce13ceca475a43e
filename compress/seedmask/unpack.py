"""Write recovered tensors as an ordinary safetensors file, chunk by chunk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from ..files.atomic import atomic_path, check_output
from ..files.kinds import check_ending
from .container import ordinary_header
from .seedmask import SeedMask
from .tensor_recovery import TensorRecovery

__all__ = ["write_tensors"]


def write_tensors(
    seedmask: SeedMask, path: str | os.PathLike[str], names: Sequence[str] | None = None, *, masks: bool = False
) -> tuple[int, int]:
    """Write masked tensors as float32, and the state as it is, in memory bounded by the payloads of the largest.

    Args:
        seedmask: an open file.
        path: the safetensors file.
        names: which masked tensors, without the state; by default all, with it.
        masks: write the masks alone, as BOOL tensors of the shapes of the weights.

    Returns:
        Size of the file in bytes, and number of tensors.

    Raises:
        SeedMaskError: a tensor is unknown, or the weights are not those that were packed.
        ConfigError: ``path`` is the open file.
        IterandError: the file cannot be written.
    """
    check_output(path, seedmask.path)
    check_ending(path, "safetensors")
    entries = {entry.name: entry for entry in seedmask.tensors if names is None or entry.name in names}
    state = seedmask.state() if names is None and not masks else {}
    slots = {name: ("BOOL" if masks else "F32", entry.shape) for name, entry in entries.items()}
    slots |= {name: (stored.dtype, stored.shape) for name, stored in state.items()}
    header, places = ordinary_header(slots)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            stream.write(header)
            stream.truncate(len(header) + max((end for _, end in places.values()), default=0))
            for name, stored in state.items():
                stream.seek(len(header) + places[name][0])
                stream.write(stored.data.data)

        def put(recovery: TensorRecovery) -> tuple[None, str]:
            digest = hashlib.sha256()
            with temporary.open("r+b", buffering=0) as stream:
                stream.seek(len(header) + places[recovery.name][0])
                for chunk, weights in recovery.weight_chunks():
                    digest.update(weights.data)
                    data = recovery.mask.values(chunk.start, chunk.stop).data if masks else weights.data
                    data = data.cast("B")
                    while data:
                        data = data[stream.write(data) :]
            return None, digest.hexdigest()

        for _ in seedmask.map(put, list(names) if names is not None else None):
            pass
        return temporary.stat().st_size, len(slots)
