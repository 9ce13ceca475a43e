"""Ctrl-C and SIGTERM end a run between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..checkpoint import Position
from ..errors import IterandError
from ..files.names import shell_word

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RunStoppedError", "StopRequest"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStoppedError(IterandError):
    """A run was asked to stop and has saved itself."""

    exit_code = 130

    def __init__(self, out: Path, position: Position) -> None:
        super().__init__(
            f"stopped at step {position.step}; the run is saved. "
            f"Go on with: iterand-compress train --resume --out {shell_word(out)}"
        )


class StopRequest:
    """While active, the first signal sets ``requested``; a second one acts as usual.

    Args:
        patience: seconds in which further signals count as the first one: a process of a group gets Ctrl-C from the
            terminal, and once more from its launcher.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self.requested = False
        self._patience, self._since = patience, 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
            if not self._patience:
                self._restore()
        elif time.monotonic() - self._since > self._patience:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
