"""The processes that train one network together: how they meet, what they tell each other, and how they end.

torchrun starts them, and ends the others when one of them is gone; ``torch.distributed`` carries what they exchange.
With one process, every method answers at once, so a training run reads the same for one and for many. What is
exchanged here is small and lies on the CPU; gradients go another way (``replica.py``).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ..data.shard import Shard
from ..errors import ConfigError, IterandError, TrainingError, first_line
from ..networks import resolve_device

__all__ = ["ALONE", "PEER_TIMEOUT", "Group", "PeerError", "join"]

#: Seconds that a process waits for the others unless told otherwise.
PEER_TIMEOUT = 600.0
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
_calls = count()
ValueT = TypeVar("ValueT")
ErrorT = TypeVar("ErrorT", bound=IterandError)


class PeerError(IterandError):
    """Another process of the run failed, or is gone."""

    def __init__(self, message: str, exit_code: int, *, silent: bool) -> None:
        super().__init__(message)
        self.exit_code, self.silent = exit_code, silent


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: number of this process; 0 is the main one, which writes files and reports progress.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on its machine.
        call: how many groups this process has joined before.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    call: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """Which examples of each batch this process computes."""
        return Shard(self.rank, self.size)

    def device(self, name: str) -> torch.device:
        """`resolve_device`; of several processes on a machine, each takes the GPU of its local rank.

        Raises:
            ConfigError: the device does not exist; a GPU with a number, or fewer GPUs than processes.
        """
        device = resolve_device(name)
        if device.type != "cuda" or self.size == 1:
            return device
        if ":" in str(device):
            raise ConfigError(
                f"device: {name!r} was asked for, but {self.size} processes need a GPU each; use --device cuda, "
                "and CUDA_VISIBLE_DEVICES to choose among GPUs"
            )
        present = torch.cuda.device_count()
        if self.local_rank >= present:
            raise ConfigError(
                f"device: process {self.local_rank + 1} of {self.local_size} on this machine needs a GPU of its own, "
                f"but torch sees {present}; start {present} at most (--nproc-per-node), or use --device cpu"
            )
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device

    def channel(self, device: torch.device) -> dist.ProcessGroup | None:
        """What torch exchanges tensors of a device through: gloo, or nccl for those of a GPU."""
        return None if self.size == 1 else _channel("nccl" if device.type == "cuda" else "gloo")

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        return self.total(torch.tensor(flags, dtype=torch.int64, device="cpu")).bool().tolist()  # type: ignore[no-any-return]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the CPU."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def least(self, values: Tensor) -> Tensor:
        """The smallest over all processes, on the CPU."""
        return self._reduced(values, dist.ReduceOp.MIN)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        values = values.detach().cpu().clone()
        dist.all_reduce(values, operation, group=_channel("gloo"))
        return values

    def gathered(self, value: ValueT) -> list[ValueT]:
        """The value of each process, by rank; it must be possible to pickle it."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=_channel("gloo"))
        return values

    def from_main(self, value: ValueT) -> ValueT:
        """The value of the main process; those of the others are ignored."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=_channel("gloo"))
        return values[0]

    @torch.no_grad()
    def equalise(self, tensors: Sequence[Tensor]) -> None:
        """Give these tensors, in place, the values that they have in the main process."""
        if self.size > 1 and tensors:
            values = self.from_main([tensor.detach().cpu() for tensor in tensors] if self.main else [])
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)

    def require_same(self, values: Mapping[str, Any], kind: type[IterandError], advice: str) -> None:
        """Compare named values of all processes, in their order.

        Raises:
            IterandError: of this kind, naming the first value that differs, with the advice.
        """
        main, *others = self.gathered(dict(values))
        for rank, other in enumerate(others, start=1):
            for key in (*main, *other):
                if main.get(key) != other.get(key):
                    shown = [json.dumps(each.get(key), default=str)[:100] for each in (main, other)]
                    raise self.joint(kind(f"{key}: {shown[0]} on rank 0, {shown[1]} on rank {rank}; {advice}"))

    def joint(self, error: ErrorT) -> ErrorT:
        """An error that every process raises at the same point: the main process tells the user."""
        error.silent = not self.main
        return error

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that may fail in some processes: then it fails in all of them.

        The block itself must not exchange anything.

        Raises:
            IterandError: of the block; ``PeerError`` where only others failed.
        """
        own: IterandError | None = None
        try:
            yield
        except IterandError as error:
            own = error
        failures = self.gathered((str(own), own.exit_code) if own else None)
        failed = [(rank, *failure) for rank, failure in enumerate(failures) if failure]
        if not failed:
            return
        rank, message, exit_code = failed[0]
        if own is not None and (self.rank == rank or str(own) == message):
            raise self.joint(own)
        everywhere = all(failure == (message, exit_code) for failure in failures)
        raise PeerError(message if everywhere else f"rank {rank}: {message}", exit_code, silent=not self.main)

    @contextmanager
    def together(self, advice: Callable[[], str] = lambda: "") -> Iterator[None]:
        """A block in which a process may fail alone, or be killed: the others lose the connection, and end as well.

        The process that fails first tells the user; the exit code of all is its own.

        Args:
            advice: how to go on, for what is told then.

        Raises:
            PeerError: another process has ended.
            IterandError: of the block; ``silent`` if another process tells the user.
        """
        if self.size == 1:
            yield
            return
        # A process that failed must not wait for the others, some of which may wait for it.
        atexit.unregister(_shut_down)
        try:
            yield
        except IterandError as error:
            if "silent" not in vars(error):  # raised in this process alone
                error.args = ("; ".join(filter(None, (f"rank {self.rank}: {error}", advice()))),)
                error.silent = self._first_failure(error.exit_code)[0] != self.rank
            raise
        except BaseException as error:
            rank, exit_code = self._first_failure(1)
            if not _is_of_the_connection(error):
                raise
            reason = re.sub(r"^\[\S+\] ", "", first_line(error)).partition(". ")[0]  # without gloo's line of code
            message = f"another process of the run has ended, or cannot be reached ({reason})"
            message = "; ".join(filter(None, (message, advice())))
            raise PeerError(message, exit_code, silent=rank != self.rank) from None
        atexit.register(_shut_down)

    def _first_failure(self, exit_code: int) -> tuple[int, int]:
        """Rank and exit code of the process that failed first: this one, if no other has."""
        own = f"{self.rank} {exit_code}"
        try:
            store = dist.distributed_c10d._get_default_store()  # type: ignore[attr-defined]
            first = store.compare_set(f"iterand-compress/failed/{self.call}", "", own).decode()
        except RuntimeError:  # without torchrun, the store belongs to rank 0 and has gone with it
            first = own
        rank, code = map(int, first.split())
        return rank, code


#: The only process of a run.
ALONE = Group()


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
    elif {"RANK", "WORLD_SIZE"} & set(os.environ):
        rank, size = _from_environment()
        if size > 1:
            _meet(rank, size, timeout)
    else:
        return ALONE
    if size == 1:
        return ALONE
    local_rank, local_size = os.environ.get("LOCAL_RANK", rank), os.environ.get("LOCAL_WORLD_SIZE", size)
    return Group(rank, size, int(local_rank), int(local_size), next(_calls))


def _from_environment() -> tuple[int, int]:
    """Rank and number of processes."""
    given = {name: os.environ.get(name, "") for name in (*_NUMBERS, "MASTER_ADDR")}
    rank, size = given["RANK"], given["WORLD_SIZE"]
    if not (all(given[name].isdecimal() for name in _NUMBERS) and given["MASTER_ADDR"] and int(rank) < int(size)):
        seen = ", ".join(f"{name}={value}" if value else f"no {name}" for name, value in given.items())
        raise ConfigError(
            f"environment: a run of several processes needs all that torchrun sets, and RANK below WORLD_SIZE; got "
            f"{seen}; start it with torchrun, or unset RANK and WORLD_SIZE"
        )
    return int(rank), int(size)


def _meet(rank: int, size: int, timeout: float) -> None:
    if not dist.is_available():
        raise ConfigError("this build of torch has no torch.distributed; unset WORLD_SIZE to train in one process")
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"rank {rank}: the {size} processes of the run did not meet at {place} within {timeout:g} s; start all of "
            f"them, with the same MASTER_ADDR and MASTER_PORT ({first_line(error)})"
        ) from None


@lru_cache(maxsize=2)
def _channel(backend: str) -> dist.ProcessGroup | None:
    """The group of the program if it is of this backend, else one beside it, made by all processes at one point."""
    if dist.get_backend() == backend:
        return dist.group.WORLD
    made: dist.ProcessGroup = dist.new_group(backend=backend)  # type: ignore[assignment]
    return made


def _is_of_the_connection(error: BaseException) -> bool:
    """Gloo raises RuntimeError, and says only in words that it is its own."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistError) or "gloo" in text or "connection" in text
    )


def _shut_down() -> None:
    """Leave the other processes in good order, before Python ends: threads of torch must not outlive it."""
    _channel.cache_clear()
    if dist.is_initialized():
        gc.collect()  # what still refers to the group, in circles
        dist.destroy_process_group()
