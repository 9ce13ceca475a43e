"""The processes that train one network together, and what they tell each other.

With one process, every method answers at once, so a training run reads the same for one and for many. What is
exchanged here is small and lies on the CPU; gradients go another way (``replica.py``).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch import distributed as dist

from ..data.shard import Shard
from ..errors import IterandError

__all__ = ["ALONE", "Group", "PeerError", "part"]


class PeerError(IterandError):
    """Another process of the run failed, or is gone; the message says which."""

    def __init__(self, message: str, exit_code: int, *, silent: bool) -> None:
        super().__init__(message)
        self.exit_code, self.silent = exit_code, silent


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: number of this process; 0 is the main one, which writes files and speaks.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on its machine.
        call: how many groups this process was part of before.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    call: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """Which part of each batch this process computes."""
        return Shard(self.rank, self.size)

    def channel(self, device: torch.device) -> dist.ProcessGroup | None:
        """What torch exchanges tensors of a device through: gloo, or nccl for those of a GPU."""
        if self.size == 1:
            return None
        return _nccl() if device.type == "cuda" else _gloo()

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(int(flag), device="cpu")))

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
        dist.all_reduce(values, operation, group=_gloo())
        return values

    def texts(self, text: str) -> list[str]:
        """The text of each process, by rank."""
        if self.size == 1:
            return [text]
        content = text.encode()
        sizes = torch.zeros(self.size, dtype=torch.int64, device="cpu")
        sizes[self.rank] = len(content)
        sizes = self.total(sizes)
        table = torch.zeros(self.size, int(sizes.max()), dtype=torch.uint8, device="cpu")
        table[self.rank, : len(content)] = _bytes(content)
        rows = self.total(table).numpy()
        return [rows[rank, :size].tobytes().decode() for rank, size in enumerate(sizes.tolist())]

    def from_main(self, content: bytes | None) -> bytes:
        """What the main process has; the others give ``None``."""
        if self.size > 1:
            size = int(self.total(torch.tensor(len(content) if content is not None and self.main else 0, device="cpu")))
            data = (
                _bytes(content)
                if content is not None and self.main
                else torch.empty(size, dtype=torch.uint8, device="cpu")
            )
            if size:
                dist.broadcast(data, 0, group=_gloo())
            return data.numpy().tobytes()
        assert content is not None
        return content

    @torch.no_grad()
    def equalise(self, tensors: Sequence[Tensor]) -> None:
        """Give these tensors, in place, the values that they have in the main process."""
        if self.size == 1 or not tensors:
            return
        packed = torch.cat([_flat_bytes(tensor) for tensor in tensors])
        dist.broadcast(packed, 0, group=_gloo())
        parts = torch.split(packed, [tensor.numel() * tensor.element_size() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            # cloned: a part begins anywhere, and a view as a wider type must begin at a multiple of its width
            tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that may fail in some processes: then it fails in all of them.

        The block itself must not exchange anything.

        Raises:
            IterandError: of the block; ``PeerError`` where only others failed.
        """
        if self.size == 1:
            yield
            return
        own: IterandError | None = None
        try:
            yield
        except IterandError as error:
            own = error
        found = [json.loads(text) for text in self.texts(json.dumps([str(own), own.exit_code] if own else None))]
        failed = [rank for rank, failure in enumerate(found) if failure]
        if not failed:
            return
        message, exit_code = found[failed[0]]
        if own is not None and (self.rank == failed[0] or str(own) == message):
            own.silent = not self.main
            raise own
        same = all(failure and failure[0] == message for failure in found)
        raise PeerError(message if same else f"rank {failed[0]}: {message}", exit_code, silent=not self.main)


#: The only process of a run.
ALONE = Group()


def _bytes(content: bytes) -> Tensor:
    if not content:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _flat_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def part() -> None:
    """Leave the other processes in good order, before Python ends: threads of torch must not outlive it."""
    _gloo.cache_clear()
    _nccl.cache_clear()
    if dist.is_initialized():
        gc.collect()  # what still refers to the group, in circles
        dist.destroy_process_group()


@lru_cache(maxsize=1)
def _gloo() -> dist.ProcessGroup | None:
    """A group for CPU tensors: the first one there is, or one beside a program's own group for GPUs."""
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    made: dist.ProcessGroup = dist.new_group(backend="gloo")  # type: ignore[assignment]
    return made


@lru_cache(maxsize=1)
def _nccl() -> dist.ProcessGroup:
    """A group for the tensors of GPUs; every process comes here at the same point of its run."""
    made: dist.ProcessGroup = dist.new_group(backend="nccl")  # type: ignore[assignment]
    return made
