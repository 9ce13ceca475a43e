"""The device of one of several processes."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from ..networks import resolve_device
from .group import Group

__all__ = ["device_of_process"]


def device_of_process(name: str, group: Group) -> torch.device:
    """`resolve_device`; of several processes on a machine, each takes the GPU of its local rank.

    Raises:
        ConfigError: see `resolve_device`; a GPU with a number, or fewer GPUs than processes.
    """
    device = resolve_device(name)
    if device.type != "cuda" or group.size == 1:
        return device
    if ":" in str(device):
        raise ConfigError(
            f"device: {name!r} was asked for, but {group.size} processes need a GPU each; use --device cuda, "
            "and CUDA_VISIBLE_DEVICES to choose among GPUs"
        )
    present = torch.cuda.device_count()
    if group.local_rank >= present:
        raise ConfigError(
            f"device: process {group.local_rank + 1} of {group.local_size} on this machine needs a GPU of its own, but "
            f"torch sees {present}; start {present} at most (--nproc-per-node), or use --device cpu"
        )
    device = torch.device("cuda", group.local_rank)
    torch.cuda.set_device(device)
    return device
