"""Is a network that is built again, and loaded, the one that was trained?

A constructor may keep what it draws outside the state dict. Built-in models do not; others are asked a question, whose
answer stands in the checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoint import Checkpoint
from .errors import CheckpointError, ConfigError, SeedMaskError
from .inputs import AnyInput
from .models import AnyArchitecture, read_architecture
from .models.copying import independent_copy
from .models.state import load_state, mismatch
from .networks import build_network
from .pack import masked_keys

__all__ = ["known_architecture", "probe_answers", "rebuild", "require_same_answers"]


def probe_answers(model: nn.Module, input: AnyInput) -> torch.Tensor:  # noqa: A002
    """What a network answers to the probe inputs, float32 ``[2, classes]``: on the CPU, in evaluation mode.

    Args:
        model: with or without masks, on any device and in any type; it is not changed.
        input: what it takes.
    """
    # With its masks on: what the plain network computes otherwise is then seen.
    copied = independent_copy(model).to("cpu").eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # for dropout that is always on
        answers: torch.Tensor = copied(torch.from_numpy(input.normalize(input.probe())))
    return answers.float()


def require_same_answers(model: nn.Module, checkpoint: Checkpoint, where: object) -> None:
    """Refuse a network that was built anew and, with the state of a checkpoint, answers otherwise than the one in it.

    A hundredth of the spread of the answers is allowed: other devices and versions round differently, and what draws
    another permutation or another constant changes much more.

    Raises:
        CheckpointError: with ``where`` in front.
    """
    expected = checkpoint.probe
    if expected is None:
        return
    got = probe_answers(model, checkpoint.data.input)
    spread = float(expected.max() - expected.min())
    difference = float((got - expected).abs().max()) if got.shape == expected.shape else math.inf
    if not difference <= 0.01 * spread + 1e-5 * float(expected.abs().max()) and bool(expected.isfinite().all()):
        raise CheckpointError(
            f"{where}: {checkpoint.architecture.name}, built again, computes something else than the network that was "
            f"trained: outputs for the probe differ by {difference:.3g}, their spread is {spread:.3g}; its code has "
            "changed, its constructor draws numbers that no seed determines (draw them from torch's, NumPy's or "
            "Python's global generator), it keeps what it learns outside its state dict (keep that in a persistent "
            "buffer), or its forward() changes weights in place"
        )


def rebuild(checkpoint: Checkpoint, path: Path, model: str | None = None) -> nn.Module:
    """Build the network of a checkpoint again, load its state, and make sure that it is the one that was trained.

    Args:
        checkpoint: as it was read.
        path: of it, for messages.
        model: name of the model, where that is the user's own code.

    Raises:
        ConfigError: the network cannot be built.
        CheckpointError: what is built is another network.
    """
    architecture = checkpoint.architecture
    if model is not None:
        architecture = known_architecture({**architecture.to_dict(), "name": model}, path)
    masked = {keys.name for keys in masked_keys(checkpoint.model)[0]}
    network = build_network(checkpoint.recipe, architecture, allow_import=model is not None, masked=masked)
    try:
        load_state(network, checkpoint.model)
    except (RuntimeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: is of another model: {mismatch(error)}") from None
    require_same_answers(network, checkpoint, path)
    return network


def known_architecture(values: dict[str, Any], path: Path) -> AnyArchitecture:
    """The architecture that a file describes.

    Args:
        values: of the file.
        path: of the file, for messages.

    Raises:
        SeedMaskError: a key is missing or unknown, or a value is not what it may be.
    """
    try:
        return read_architecture(values)
    except ConfigError as error:
        raise SeedMaskError(f"{path}: {error}") from None
