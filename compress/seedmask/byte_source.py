"""The bytes of an open file, read where they are needed: a file need not fit in memory."""

from __future__ import annotations

import os
import stat
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from ..errors import SeedMaskError

__all__ = ["FileSource", "MemorySource", "Source"]

_BLOCK = 1 << 20


class Source(ABC):
    """Random access to ``size`` bytes."""

    size: int

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Bytes ``start`` to ``stop``.

        Raises:
            SeedMaskError: they cannot be read, or there are fewer.
        """

    def blocks(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """Yield bytes ``start`` to ``stop`` in blocks of bounded size."""
        for position in range(start, stop, _BLOCK):
            yield self.read(position, min(position + _BLOCK, stop))


class MemorySource(Source):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read(self, start: int, stop: int) -> memoryview:
        """See `Source.read`."""
        return self._data[start:stop]


class FileSource(Source):
    """A regular file, open as long as this object lives; replacing the path does not disturb it.

    Raises:
        SeedMaskError: it cannot be opened, or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        try:
            # O_NONBLOCK, as opening a FIFO without a writer would wait for ever.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:
            raise _unreadable(error) from None
        weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        self._lock = threading.Lock()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SeedMaskError("not a regular file; give the path of a .seedmask file")
        self.size = status.st_size

    def read(self, start: int, stop: int) -> bytes:
        """See `Source.read`."""
        blocks = []
        with self._lock:
            try:
                os.lseek(self._descriptor, start, os.SEEK_SET)
                while start < stop:
                    block = os.read(self._descriptor, stop - start)
                    if not block:
                        raise SeedMaskError(f"truncated while it was read: {stop - start} bytes are gone; get it again")
                    blocks.append(block)
                    start += len(block)
            except OSError as error:
                raise _unreadable(error) from None
        return b"".join(blocks)


def _unreadable(error: OSError | ValueError) -> SeedMaskError:
    reason = getattr(error, "strerror", None) or str(error)
    return SeedMaskError(f"cannot be read: {reason}; check the path")
