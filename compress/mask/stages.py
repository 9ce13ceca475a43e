"""Names for the parts of a training step, for a profiler to tell them apart. They cost nothing unless one listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch.profiler import record_function

__all__ = ["PREFIX", "named_stages", "stage"]

#: What the names of the parts begin with in a trace.
PREFIX = "iterand-compress: "
_listening = False


def stage(name: str) -> AbstractContextManager[object]:
    """Marks what runs within as part ``name`` of the step."""
    return record_function(PREFIX + name) if _listening else nullcontext()


@contextmanager
def named_stages() -> Iterator[None]:
    """Within, parts are marked."""
    global _listening  # a profiler, too, listens to the whole process
    before, _listening = _listening, True
    try:
        yield
    finally:
        _listening = before
