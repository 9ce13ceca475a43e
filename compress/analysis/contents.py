"""What a checkpoint holds, layer by layer, without building its network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import Checkpoint, load_checkpoint
from ..pack import MaskedKeys, masked_keys

__all__ = ["CheckpointContents", "LayerContents", "checkpoint_contents"]


@dataclass(frozen=True)
class LayerContents:
    """A weight of a checkpoint: each masked one, or, of a dense network, each of two dimensions and more.

    Attributes:
        name: of the weight in the plain network.
        shape: its shape.
        weights: number of weights.
        kept: how many the mask keeps; all of them in a dense network.
        codebook: name of the distribution that they come from; ``None`` in a dense network.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    codebook: str | None


@dataclass(frozen=True)
class CheckpointContents:
    """A checkpoint and what is in it.

    Attributes:
        checkpoint: as it was read.
        layers: its weights.
        state_bytes: size of all else that the plain network has: biases, statistics.
        file_bytes: size of the file.
    """

    checkpoint: Checkpoint
    layers: tuple[LayerContents, ...]
    state_bytes: int
    file_bytes: int

    @property
    def dense_bytes(self) -> int:
        """Size of the plain network's tensors with weights as float32."""
        return 4 * sum(layer.weights for layer in self.layers) + self.state_bytes


def checkpoint_contents(path: Path) -> CheckpointContents:
    """Read a checkpoint, and tell what is in it.

    Raises:
        CheckpointError: see `load_checkpoint`.
        SeedMaskError: layers of several subnetworks are mixed.
    """
    checkpoint = load_checkpoint(path)
    masked, rest = masked_keys(checkpoint.model)
    layers = tuple(_layer(keys, checkpoint.model) for keys in masked)
    if not masked:
        layers = tuple(
            LayerContents(name, tuple(value.shape), value.numel(), value.numel(), None)
            for name, value in rest.items()
            if isinstance(value, Tensor) and value.ndim > 1 and value.is_floating_point()
        )
    known = {layer.name for layer in layers}
    state = [value for name, value in rest.items() if isinstance(value, Tensor) and name not in known]
    return CheckpointContents(checkpoint, layers, sum(value.nbytes for value in state), path.stat().st_size)


def _layer(keys: MaskedKeys, state: dict[str, Any]) -> LayerContents:
    spec, kept = keys.spec, keys.spec.kept
    if spec.selection == "fixed":  # by a mask that was found once, not by scores
        kept = int(state[f"{keys.prefix}0.mask"].sum())
    return LayerContents(keys.name, spec.shape, math.prod(spec.shape), kept, spec.codebook)
