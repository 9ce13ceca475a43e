"""Is a network that is built again, and loaded, the one that was trained?

A constructor may keep what it draws outside the state dict. Built-in models do not; others are asked a question, whose
answer stands in the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from . import methods
from .checkpoint import Checkpoint, DataInfo
from .data.bundle import normalize
from .errors import CheckpointError, SeedMaskError
from .models import build_model, is_foreign
from .models.copying import independent_copy
from .models.state import load_state, recovered_state
from .pack import network_of_checkpoint
from .probe import probe_pixels, probe_tokens
from .seedmask import dumps, loads

__all__ = ["check_packing", "probe_answers", "require_same_answers"]


def probe_answers(model: nn.Module, data: DataInfo) -> torch.Tensor:
    """What a network answers to the probe inputs, float32 ``[2, classes]``: on the CPU, in evaluation mode.

    Args:
        model: with or without masks, on any device and in any type; it is not changed.
        data: what its inputs are.
    """
    # With its masks on: what the plain network computes otherwise is then seen.
    copied = independent_copy(model).to("cpu").eval()
    if data.text is not None:
        inputs = torch.from_numpy(probe_tokens(data.text))
    else:
        inputs = normalize(torch.from_numpy(probe_pixels(tuple(data.image_shape))), data.mean, data.std)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # for dropout that is always on
        answers: torch.Tensor = copied(inputs)
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
    got = probe_answers(model, checkpoint.data)
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


def check_packing(model: nn.Module, checkpoint: Checkpoint, where: object, *, allow_import: bool) -> None:
    """Pack, recover and build again a network before it is trained, so that what fails then costs no training.

    Args:
        model: the network.
        checkpoint: of it.
        where: the file that the checkpoint will be.
        allow_import: whether the model may be code of the user's.

    Raises:
        IterandError: it cannot be packed (names, types of buffers), or what is recovered is not the same network.
    """
    method, network = methods.resolve(checkpoint.recipe.subnetwork), None
    if method.trains == "scores" or method.criterion is not None:
        values = "float32" if method.trains == "weights" else None
        network = loads(dumps(network_of_checkpoint(checkpoint, with_weights=values), coding="raw"))
    arch, seed = checkpoint.architecture, checkpoint.recipe.subnetwork.seed
    if not is_foreign(arch) and network is None:
        return
    plain = build_model(arch, seed=seed, allow_import=allow_import)
    try:
        load_state(plain, checkpoint.model if network is None else recovered_state(network))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise SeedMaskError(f"{arch.name}: the network could be packed, but not loaded again: {reason}") from None
    if is_foreign(arch):
        require_same_answers(plain, replace(checkpoint, probe=probe_answers(model, checkpoint.data)), where)
