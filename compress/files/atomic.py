"""Atomic writes: a path always holds the complete old content or the complete new one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigError, IterandError
from .kinds import WHAT, check_ending, content_kind

__all__ = ["atomic_path", "check_output"]

_ADVICE = {
    errno.ENOSPC: "free some disk space and try again",
    errno.EDQUOT: "free some disk space and try again",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "create the folder first",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.EISDIR: "give the name of a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "the file system or `ulimit -f` allows no file of this size",
    errno.ELOOP: "the link leads to itself; give the name of a file",
    errno.EXDEV: "this file system cannot replace a file; write to another folder and copy it",
    errno.ENOTSUP: "this file system cannot replace a file; write to another folder and copy it",
    errno.EOPNOTSUPP: "this file system cannot replace a file; write to another folder and copy it",
}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; when the block ends well, it becomes ``path``.

    The block writes the temporary path in any way it likes. Afterwards the file is synced, gets the mode
    that a plain ``open`` would have given it (0666 without the umask), replaces ``path``, and the folder
    is synced. When anything fails, also by Ctrl-C, the temporary file is removed and ``path`` is left as
    it was. A symbolic link is followed: the file that it names is replaced.

    Raises:
        IterandError: the block or the replacement failed with an `OSError` (no space, read-only folder, …).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("hello")
        ...     print((Path(folder) / "a.txt").read_text())
        hello
    """
    target = Path(os.path.realpath(path))
    with _reported(path, target), _temporary(target) as (temporary, mode):
        yield temporary
        _finish(temporary, mode)
        temporary.replace(target)
        _sync_folder(target.parent)


def check_output(path: str | os.PathLike[str], *inputs: str | os.PathLike[str], kind: str | None = "any") -> None:
    """Refuse an output before any work is done for it.

    Args:
        path: what `atomic_path` will write.
        inputs: files that must not be replaced, links to them included.
        kind: what will be written, as `kind_of` names it (``None``: text): an existing file of another kind is refused,
            and a name whose ending promises one. ``any`` replaces every file.

    Raises:
        ConfigError: the output is one of the inputs, would take the place of a file of another kind, or has the ending
            of one.
        IterandError: it is a folder or a device, or no file can be made in its folder.
    """
    target = Path(os.path.realpath(path))
    with _reported(path, target):
        same = [other for other in inputs if _same(path, other)]
    if same:
        raise ConfigError(f"{os.fspath(path)}: the output would overwrite {os.fspath(same[0])}; give it another name")
    there = kind
    with _reported(path, target), _temporary(target):
        if target.exists() and target.stat().st_size:
            if not os.access(target, os.W_OK):  # the system does not check this when a file is replaced
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            there = content_kind(target) if kind != "any" else kind
    if there != kind:
        what = WHAT[there] if there else "a file of another kind"
        raise ConfigError(
            f"{os.fspath(path)}: is {what}, which would be lost; give the output another name, or remove it first"
        )
    if kind not in ("any", None):
        check_ending(path, kind)


def _same(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).samefile(other)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return os.path.realpath(path) == os.path.realpath(other)


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, int]]:
    """Yield an empty file beside ``target``, and its mode; remove it afterwards unless it was renamed."""
    _refuse_special(target)
    temporary = target.with_name(f".{target.name[:48]}.{os.getpid()}.{os.urandom(6).hex()}.tmp")
    try:
        yield temporary, _create(temporary)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _reported(path: str | os.PathLike[str], target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check the disk and the path")
        reason = error.strerror or str(error) or type(error).__name__
        if error.filename and not os.fsdecode(error.filename).startswith(str(target.parent)):
            reason += f" ({os.fsdecode(error.filename)})"
        raise IterandError(f"{os.fspath(path)}: cannot be written: {reason}; {advice}") from error


def _refuse_special(target: Path) -> None:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):  # /dev/null, for instance, must not be replaced
        raise OSError(errno.EINVAL, "not a regular file")


def _create(temporary: Path) -> int:
    """Create the file; return the mode that the kernel gave it (asking for the umask is not thread-safe)."""
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _finish(temporary: Path, mode: int) -> None:
    temporary.chmod(mode)  # a writer may have replaced the file by one of another mode
    descriptor = os.open(temporary, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
