"""From the environment that torchrun sets to the group of processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from itertools import count

from torch import distributed as dist

from ..errors import ConfigError, TrainingError, first_line
from .group import ALONE, Group
from .peers import start_heart

__all__ = ["PEER_TIMEOUT", "join"]

#: Seconds that a process waits for the others unless told otherwise.
PEER_TIMEOUT = 600.0
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_calls = count()


def join(timeout: float = PEER_TIMEOUT) -> Group:
    """Meet the other processes of the run; alone, unless ``RANK`` or ``WORLD_SIZE`` is set, as torchrun does.

    The processes meet once, however often this is called, and part at the end of the program. A group that the
    caller's program has made itself through ``torch.distributed`` is taken as it is.

    Args:
        timeout: seconds to wait for the others, now and whenever something is exchanged.

    Raises:
        ConfigError: variables of the environment that are missing or contradict each other.
        TrainingError: the others do not come.
    """
    if dist.is_available() and dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        if not {"RANK", "WORLD_SIZE"} & set(os.environ):
            return ALONE
        rank, size = _numbers(os.environ)
        if size == 1:
            return ALONE
        _meet(rank, size, timeout)
    if size == 1:
        return ALONE
    start_heart(rank)
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return Group(rank, size, local_rank, local_size, next(_calls))


def _numbers(environment: Mapping[str, str]) -> tuple[int, int]:
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing:
        given = [name for name in _VARIABLES if name not in missing]
        raise ConfigError(
            f"{' and '.join(given)} set, but not {', '.join(missing)}: a run of several processes needs all of them; "
            f"start it with torchrun, or unset {' and '.join(given)}"
        )
    numbers = {}
    for name, least in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("MASTER_PORT", 1)):
        text = environment[name]
        if not text.isdecimal() or int(text) < least:
            raise ConfigError(f"{name}: expected a number from {least} on, got {text!r}; start the run with torchrun")
        numbers[name] = int(text)
    rank, size = numbers["RANK"], numbers["WORLD_SIZE"]
    if rank >= size:
        raise ConfigError(f"RANK: expected a number below WORLD_SIZE ({size}), got {rank}; start the run with torchrun")
    return rank, size


def _meet(rank: int, size: int, timeout: float) -> None:
    if not dist.is_available():
        raise ConfigError("this build of torch has no torch.distributed; unset WORLD_SIZE to train in one process")
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"rank {rank}: the {size} processes of the run did not meet at {place} within {timeout:g} s; start all of "
            f"them, with the same MASTER_ADDR and MASTER_PORT ({first_line(error)})"
        ) from None
