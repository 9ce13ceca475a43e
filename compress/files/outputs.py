"""Names of output files, and the lock that keeps two runs from writing the same file."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["beside", "only_writer"]

_ENDINGS = frozenset({".ckpt", ".onnx", ".pt", ".pth", ".safetensors", ".seedmask"})
_locks: set[int] = set()  # their descriptors
fcntl: Any = None
with suppress(ImportError):  # on Windows runs are not locked
    fcntl = importlib.import_module("fcntl")


def beside(path: Path, ending: str) -> Path:
    """The name of an output beside ``path``: a known ending is replaced, any other one is kept.

    Example:
        >>> [beside(Path(name), ".seedmask").name for name in ("model.ckpt", "MODEL.PT", "sparsity0.5")]
        ['model.seedmask', 'MODEL.seedmask', 'sparsity0.5.seedmask']
    """
    stem = path.stem if path.suffix.lower() in _ENDINGS else path.name
    return path.parent / f"{stem}{ending}"


@contextmanager
def only_writer(*paths: Path) -> Iterator[None]:
    """Refuse to go on while another process, or another block of this one, writes one of the files.

    The locks die with the process. They are hidden files in the folders of the outputs, and go away at the end; a
    process that was killed leaves them behind, unlocked. File systems without locks are written to without them.

    Raises:
        ConfigError: one of the files is being written.
    """
    with ExitStack() as stack:
        for path in dict.fromkeys(Path(os.path.realpath(path)) for path in paths):
            stack.enter_context(_locked(path))
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquired(lock, path)
    if descriptor is None:
        yield
        return
    _locks.add(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # while locked: see `samestat` below
        _locks.discard(descriptor)
        os.close(descriptor)


def _acquired(lock: Path, path: Path) -> int | None:
    """A descriptor that holds the lock; ``None`` where there are no locks."""
    while fcntl is not None:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ConfigError(
                    f"{path}: another run is writing it; wait for its end, or give another --out"
                ) from None
            with suppress(OSError):
                lock.unlink()
            return None
        os.close(descriptor)  # the other run has ended in between, and has removed its lock file
    return None


def _let_go() -> None:
    """Close the locks in a forked worker: it may outlive a killed run, whose locks must go."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
