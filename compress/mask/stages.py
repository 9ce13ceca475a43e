"""Names for the stages of a training step, by which a profiler tells them apart; free unless one is recording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch.profiler import record_function

__all__ = ["PREFIX", "named_stages", "stage"]

#: Begins the names of the stages in a trace.
PREFIX = "iterand-compress: "
_listening = False


def stage(name: str) -> AbstractContextManager[object]:
    """Mark what runs inside the block as stage ``name`` of the step."""
    return record_function(PREFIX + name) if _listening else nullcontext()


@contextmanager
def named_stages() -> Iterator[None]:
    """Mark stages inside the block."""
    global _listening  # a profiler, too, listens to the whole process
    before, _listening = _listening, True
    try:
        yield
    finally:
        _listening = before
