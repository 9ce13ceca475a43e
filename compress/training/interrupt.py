"""Ctrl-C and SIGTERM end a run between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import IterandError
from .checkpoint import Position

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
            f"Go on with: iterand-compress train --resume --out {out}"
        )


class StopRequest:
    """While active, the first signal sets ``requested``; a second one acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
