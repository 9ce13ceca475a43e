"""From the name of a device to the device, or to one clear line."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from .group import ALONE, Group

__all__ = ["resolve_device"]


def resolve_device(name: str, group: Group = ALONE) -> torch.device:
    """Resolve ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Of several processes on a machine, each takes the GPU of its local rank.

    Raises:
        ConfigError: an unknown name, a device this machine or this build of torch does not have, or fewer GPUs than
            processes.
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
    if device.type == "cuda" and group.size > 1:
        return _own_gpu(device, group, present)
    return device


def _own_gpu(asked: torch.device, group: Group, present: int) -> torch.device:
    if ":" in str(asked):
        raise ConfigError(
            f"device: {str(asked)!r} was asked for, but {group.size} processes need a GPU each; use --device cuda, "
            "and CUDA_VISIBLE_DEVICES to choose among GPUs"
        )
    if group.local_rank >= present:
        raise ConfigError(
            f"device: process {group.local_rank + 1} of {group.local_size} on this machine needs a GPU of its own, but "
            f"torch sees {present}; start {present} at most (--nproc-per-node), or use --device cpu"
        )
    device = torch.device("cuda", group.local_rank)
    torch.cuda.set_device(device)
    return device
