"""When a process of a run is gone: find out which, and why, and stop the others with one line.

Every process shows twice a second, in the store through which they met, that it is there; one that fails leaves a note
there. One that was killed leaves none: its connections close, which the next exchange notices, and its heart stands
still, which names it. Without that, a process that itself waits for the lost one could not be told from it.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

from torch import distributed as dist

from ..errors import IterandError, first_line
from .group import Group, PeerError, part

__all__ = ["start_heart", "watched"]

# Seconds between two heartbeats, and without one until a process counts as gone.
_BEAT, _SILENCE = 0.5, 4.0
_Note = tuple[str, int]


@lru_cache(maxsize=1)
def start_heart(rank: int) -> None:
    """Show the other processes from now on, until the program ends, that this one is there."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        with suppress(RuntimeError, ValueError):  # the store is gone, and with it whoever could look
            while not over.wait(_BEAT):
                count += 1
                _store().set(_beat_key(rank), str(count))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()

    @atexit.register
    def stop() -> None:
        over.set()
        thread.join(_SILENCE)


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
    # A process that failed must not wait for the others, some of which may wait for it; so it just goes.
    atexit.unregister(part)
    try:
        yield
    except PeerError:
        raise
    except IterandError as error:
        _leave_note(group, f"rank {group.rank}: {error}", error.exit_code)
        error.silent = not group.main
        raise
    except RuntimeError as error:
        if not _is_of_the_connection(error):
            _leave_note(group, f"rank {group.rank}: {type(error).__name__}: {first_line(error)}", 1)
            raise
        raise _lost(group, advice(), error) from None
    except BaseException as error:
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        _leave_note(group, f"rank {group.rank}: {kind}", 1)
        raise
    atexit.register(part)


def _is_of_the_connection(error: RuntimeError) -> bool:
    """Gloo says so in words only."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "connection" in text


def _lost(group: Group, advice: str, error: RuntimeError) -> PeerError:
    notes, gone = _look_around(group)
    if notes:
        message, exit_code = notes[0]
    elif gone:
        message, exit_code = f"rank{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))} stopped", 1
    else:
        message, exit_code = f"the connection of the processes broke ({first_line(error)})", 1
    _leave_note(group, message, exit_code)  # for those who notice when this process leaves
    speaker = min(rank for rank in range(group.size) if rank not in gone)
    return PeerError("; ".join(filter(None, (message, advice))), exit_code, silent=group.rank != speaker)


def _look_around(group: Group) -> tuple[list[_Note], list[int]]:
    """The notes that others have left, and the ranks of those that are gone without one."""
    unknown = {rank for rank in range(group.size) if rank != group.rank}
    notes: list[_Note] = []
    beats: dict[int, bytes] = {}
    deadline = time.monotonic() + _SILENCE
    try:
        store = _store()
        while unknown and time.monotonic() < deadline:
            for rank in sorted(unknown):
                if store.check([_note_key(group, rank)]):
                    message, exit_code = json.loads(store.get(_note_key(group, rank)))
                    notes.append((message, exit_code))
                    unknown.remove(rank)
                elif store.check([_beat_key(rank)]):
                    seen = store.get(_beat_key(rank))
                    if beats.setdefault(rank, seen) != seen:
                        unknown.remove(rank)
            time.sleep(_BEAT / 5)
    except RuntimeError:  # without a launcher the store is a part of the main process, and gone with it
        return notes, [0]
    return notes, sorted(unknown)


def _leave_note(group: Group, message: str, exit_code: int) -> None:
    with suppress(RuntimeError):
        _store().set(_note_key(group, group.rank), json.dumps([message, exit_code]))


def _note_key(group: Group, rank: int) -> str:
    return f"iterand-compress/note/{group.call}/{rank}"


def _beat_key(rank: int) -> str:
    return f"iterand-compress/beat/{rank}"


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()  # type: ignore[attr-defined]
