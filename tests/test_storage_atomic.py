"""The atomic writer: the old file or the new one, whole; never a leftover; one line that says what to do."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from iterand_compress.compress.errors import IterandError
from iterand_compress.compress.files.atomic import atomic_path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_text("old")
    return path


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def assert_untouched(target: Path) -> None:
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == [target.name], "a temporary file was left"


def write(target: Path, text: str = "new") -> None:
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text(text)
        assert target.read_text() == "old", "the target was touched before it was complete"


def test_replaces_and_leaves_nothing_else(target: Path) -> None:
    write(target)
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_mode_follows_the_umask(target: Path, umask: None) -> None:
    target.chmod(0o600)
    write(target)
    assert target.stat().st_mode & 0o777 == 0o640


def test_mode_follows_the_umask_when_the_block_replaces_the_temporary_file(target: Path, umask: None) -> None:
    with atomic_path(target) as temporary:
        other = target.with_name("other")
        other.write_text("new")
        other.chmod(0o600)
        other.replace(temporary)
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_syncs_file_and_folder_around_the_replacement(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    sync, replace = os.fsync, Path.replace

    def spy_sync(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        sync(descriptor)

    def spy_replace(self: Path, other: Path) -> Path:
        events.append("replace")
        return replace(self, other)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write(target)
    assert events == ["file", "replace", "folder"]


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_any_failure_of_the_block_leaves_the_old_file(target: Path, exception: type[BaseException]) -> None:
    def block() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise exception

    with pytest.raises(exception):
        block()
    assert_untouched(target)


def test_a_full_disk_is_one_line_with_advice(target: Path) -> None:
    def block() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(IterandError) as caught:
        block()
    assert str(caught.value) == (
        f"{target}: cannot be written: No space left on device; free some disk space and try again"
    )
    assert_untouched(target)


@pytest.mark.parametrize("function", ["fsync", "open"])
def test_failing_system_calls_leave_the_old_file(target: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    calls = 0
    real = getattr(os, function)

    def fail(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(IterandError, match="cannot be written: Input/output error; check the disk"):
        write(target)
    monkeypatch.undo()
    assert_untouched(target)


@pytest.mark.parametrize("exception", [OSError(errno.EXDEV, "Invalid cross-device link"), KeyboardInterrupt()])
def test_a_failing_replacement_leaves_the_old_file(
    target: Path, monkeypatch: pytest.MonkeyPatch, exception: BaseException
) -> None:
    def fail(self: Path, other: Path) -> None:
        raise exception

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((IterandError, KeyboardInterrupt)):
        write(target)
    assert_untouched(target)


def test_a_file_system_that_cannot_sync_folders_is_fine(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync)
    write(target)
    assert target.read_text() == "new"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(IterandError, match=r"cannot be written: No such file .*; create the folder first$"):
        write(tmp_path / "no" / "file")


def test_a_folder_as_target(tmp_path: Path) -> None:
    with pytest.raises(IterandError, match=r"cannot be written: Is a directory; give the name of a file$"):
        write(tmp_path)


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # not /dev/null: where the check is broken, root would replace it
    os.mkfifo(pipe)
    with pytest.raises(IterandError, match=r"pipe: cannot be written: not a regular file"):
        write(pipe)
    assert pipe.is_fifo()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder(target: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)  # the mode of a folder does not stop root
    with pytest.raises(IterandError, match=r"cannot be written: .*; choose a folder that you may write to"):
        write(target)
    monkeypatch.undo()
    assert_untouched(target)


def test_an_error_about_another_file_names_it(target: Path) -> None:
    def block() -> None:
        with atomic_path(target):
            Path("/nowhere/input").read_text()

    with pytest.raises(IterandError, match=r"No such file or directory \(/nowhere/input\)"):
        block()
    assert_untouched(target)


def test_a_link_is_followed(target: Path, tmp_path: Path) -> None:
    link = tmp_path / "folder" / "link"
    link.parent.mkdir()
    link.symlink_to(target)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_the_longest_name_that_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_concurrent_writers_leave_one_whole_file(target: Path) -> None:
    def work(letter: str) -> None:
        for _ in range(20):
            with atomic_path(target) as temporary:
                temporary.write_text(letter * 10000)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in {letter * 10000 for letter in "abcd"}
    assert list(target.parent.iterdir()) == [target]
