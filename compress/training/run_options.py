"""How a run takes place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files.outputs import beside
from .distributed import PEER_TIMEOUT

__all__ = ["RunOptions", "best_path"]


def best_path(checkpoint: Path) -> Path:
    """``model.ckpt`` has the network of its best epoch in ``model.best.ckpt``, beside it."""
    return beside(checkpoint, ".best.ckpt")


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run takes place, as opposed to what it computes (the recipe).

    Attributes:
        out: the checkpoint; that of the best epoch by validation lies beside it (see `best_path`).
        data_dir: folder of the data set.
        download: whether torchvision may download it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        resume: go on from ``out``.
        force: replace ``out`` if it exists.
        compile: mode of ``torch.compile`` that the network runs through (``default``, ``reduce-overhead``: CUDA graphs,
            ``max-autotune`` …); ``None`` = none.
        channels_last: memory format of the activations; ``None`` means on a GPU, and in bfloat16.
        checkpoint_every: also save every so many steps (0: after each epoch only).
        allow_import: whether the model name may be ``package.module:factory``.
        tensorboard: folder for TensorBoard event files.
        accumulate: compute each process's share of a batch in so many micro-batches, one after the other, which takes
            less memory: the step is that of so many times as many processes.
        profile: trace some of the first steps, and tell the reporter where their time goes.
        inputs: files that the caller has read, a ticket or a recipe: outputs that would replace one are refused.
        peer_timeout: seconds that one of several processes waits for the others.
        one_thread_if_small: whether a network whose steps are tiny gets one thread of a CPU (see ``threads.py``);
            otherwise torch keeps the number that the caller has set.
        masks: of a ticket, bool ``[n]`` by the names of weights, for a new run of a method that prunes at
            initialisation: instead of finding them.
    """

    out: Path
    data_dir: Path | None = None
    download: bool = False
    device: str = "auto"
    resume: bool = False
    force: bool = False
    compile: str | None = None
    channels_last: bool | None = None
    checkpoint_every: int = 0
    allow_import: bool = True
    tensorboard: Path | None = None
    accumulate: int = 1
    profile: bool = False
    inputs: tuple[Path, ...] = ()
    peer_timeout: float = PEER_TIMEOUT
    one_thread_if_small: bool = False
    masks: Mapping[str, NDArray[np.bool_]] | None = None
