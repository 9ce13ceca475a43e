"""When a process of a run is gone: find out which, and why, and stop the others with one line.

A process that fails leaves a note in the store through which the processes met. One that was killed cannot; the
others notice that its connection is closed, ask who is still there, and name those that do not answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import distributed as dist

from ..errors import IterandError
from .group import Group, PeerError

__all__ = ["watched"]

# Seconds in which a process answers, once it has noticed that another one is gone.
_ANSWER = 5.0


@contextmanager
def watched(group: Group, advice: Callable[[], str] = lambda: "") -> Iterator[None]:
    """A part of a run in which a process may be lost.

    Args:
        group: the processes of the run.
        advice: what to tell the user then, beside who is lost.

    Raises:
        PeerError: a process is lost.
        IterandError: of the block; ``silent`` where the main process says it.
    """
    if group.size == 1:
        yield
        return
    try:
        yield
    except PeerError:
        raise
    except IterandError as error:
        _leave_note(group, str(error), error.exit_code)
        error.silent = not group.main
        raise
    except RuntimeError as error:
        if not _is_of_the_connection(error):
            _leave_note(group, f"{type(error).__name__}: {str(error).strip()[:200]}", 1)
            raise
        raise _lost(group, advice(), error) from None
    except BaseException as error:
        _leave_note(group, "interrupted" if isinstance(error, KeyboardInterrupt) else repr(error)[:200], 1)
        raise


def _is_of_the_connection(error: RuntimeError) -> bool:
    """Gloo says so in words only."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "connection" in text


def _lost(group: Group, advice: str, error: RuntimeError) -> PeerError:
    answers = _answers(group)
    gone = [rank for rank in range(group.size) if rank not in answers]
    failed = {rank: answer for rank, answer in answers.items() if answer is not None}
    if failed:
        rank = min(failed)
        message, exit_code = failed[rank]
        message = f"rank {rank}: {message}"
    else:
        names = f"rank{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))}"
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        message, exit_code = f"{names} stopped" if gone else f"the connection of the processes broke ({reason})", 1
    speaker = min(rank for rank in range(group.size) if rank not in gone)
    return PeerError("; ".join(filter(None, (message, advice))), exit_code, silent=group.rank != speaker)


def _answers(group: Group) -> dict[int, tuple[str, int] | None]:
    """What each process that is still there says: its failure, or ``None`` if it has none of its own."""
    others = [rank for rank in range(group.size) if rank != group.rank]
    found: dict[int, tuple[str, int] | None] = {group.rank: None}
    deadline = time.monotonic() + _ANSWER
    try:
        store = _store()
        store.set(_key(group, group.rank), json.dumps(None))
        while len(found) < group.size and time.monotonic() < deadline:
            for rank in others:
                if rank not in found and store.check([_key(group, rank)]):
                    answer = json.loads(store.get(_key(group, rank)))
                    found[rank] = (answer[0], answer[1]) if answer else None
            time.sleep(0.05)
    except RuntimeError:  # without a launcher the store is a part of the main process, and gone with it
        return dict.fromkeys(range(1, group.size))
    return found


def _leave_note(group: Group, message: str, exit_code: int) -> None:
    with suppress(RuntimeError):
        _store().set(_key(group, group.rank), json.dumps([message, exit_code]))


def _key(group: Group, rank: int) -> str:
    return f"iterand-compress/{group.call}/{rank}"


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()  # type: ignore[attr-defined]
