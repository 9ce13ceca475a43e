"""The network that a run starts from, and whether it fits the data."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from .checkpoint import DataInfo
from .config import Recipe
from .data.bundle import DataBundle
from .errors import ConfigError
from .mask.masking import mask_model
from .models import AnyArchitecture
from .models.build import build_model

__all__ = ["build_network", "describe", "resolve_device", "step_seed"]


def build_network(
    recipe: Recipe,
    architecture: AnyArchitecture,
    *,
    allow_import: bool,
    masked: Collection[str] = (),
    warn: bool = False,
) -> nn.Module:
    """The network a recipe starts from, on the CPU, with the initial weights and scores of its seed.

    Args:
        recipe: of the run.
        architecture: of the network.
        allow_import: whether it may be code of the user's.
        masked: names of weights that are masked also where ``requires_grad`` is off, for files from before such layers
            were left alone: those that a checkpoint holds masked, or a ticket has masks for.
        warn: warn of weights that look trained.
    """
    model = build_model(architecture, seed=recipe.subnetwork.seed, allow_import=allow_import)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in masked:
            parameter.requires_grad_(True)
    return mask_model(model, recipe.subnetwork, warn=2 if warn else None)


def describe(data: DataBundle) -> DataInfo:
    """What a checkpoint keeps of a data set."""
    return DataInfo(data.name, list(data.classes), data.input)


def step_seed(seed: int, step: int, micro_batch: int = 0) -> int:
    """A seed for torch's own generator, used by layers like dropout: a function of seed, step and micro-batch.

    The micro-batches of a step, computed by processes of their own or all by one, must not share their dropout.

    Args:
        seed: of the network.
        step: number of the training step.
        micro_batch: number of the micro-batch among those of all processes.
    """
    return (seed + (step + 1) * 0x9E3779B97F4A7C15 + micro_batch * 0xD1B54A32D192ED03) % 2**63


def resolve_device(name: str) -> torch.device:
    """Resolve ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: an unknown name, or a device this machine or this build of torch does not have.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if present else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= present:
        raise ConfigError(
            f"device: {name!r} was asked for, but torch {torch.__version__} sees {present} GPU(s) here; "
            "use --device auto or cpu"
        )
    return device
