"""Whatever fails, is killed, or writes at the same time: a path holds the old file or the new one, whole."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import make
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import fail
from iterand_compress.compress.errors import IterandError
from iterand_compress.compress.seedmask import (
    Network,
    StoredTensor,
    dumps,
    loads,
    write_seedmask,
    writer,
)
from iterand_compress.compress.seedmask.unpack import write_tensors

TESTS = Path(__file__).parent
OLD = b"the old file, which is longer than some of the new ones " * 99
Write = Callable[[Path], object]


SEEDMASK = loads(dumps(make.flips()))
WRITERS: dict[str, Write] = {
    "seedmask": lambda path: write_seedmask(make.flips(), path),
    "weights": lambda path: write_tensors(SEEDMASK, path),
    "masks": lambda path: write_tensors(SEEDMASK, path, masks=True),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What each writer writes when nothing fails."""
    folder = tmp_path_factory.mktemp("written")
    for name, write in WRITERS.items():
        write(folder / name)
    return {name: (folder / name).read_bytes() for name in WRITERS}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "network.out"
    path.write_bytes(OLD)
    return path


def only(path: Path) -> bool:
    """Whether nothing else is in the folder."""
    return [found.name for found in path.parent.iterdir()] == [path.name]


def refused(path: Path, write: Write) -> str:
    """The one line with which a write fails."""
    with pytest.raises(IterandError) as caught:
        write(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written: ")
    assert "; " in message, "no advice"
    assert "\n" not in message
    return message


# The operating system, seen from Python: every call that touches a file can be made to fail.


class Faults:
    """Numbers the calls that create, write, sync, close, or move files; one of them fails.

    Attributes:
        names: the calls so far.
    """

    def __init__(self, at: int = 0, code: int = errno.EIO, *, most: int | None = None, room: int | None = None) -> None:
        self.names: list[str] = []
        self.at, self.code, self.most, self.room = at, code, most, room
        self._lock = threading.Lock()
        self._inside = threading.local()

    def call(self, name: str, real: Callable[[], Any], *, first: bool = False) -> Any:
        """Count a call, unless it is made by another one; ``first``: do the work even if the call fails."""
        if getattr(self._inside, "call", False):
            return real()
        with self._lock:
            self.names.append(name)
            failing = len(self.names) == self.at
        if failing and first:
            real()
        if failing:
            raise OSError(self.code, os.strerror(self.code))
        self._inside.call = True
        try:
            return real()
        finally:
            self._inside.call = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "replace", "rename", "chmod", "fchmod", "stat", "fstat", "truncate", "ftruncate"):
                self._wrap(patch, os, name)
            for name in ("replace", "rename", "chmod", "stat"):  # Python 3.10 keeps functions of its own
                self._wrap(patch, Path, name)
            self._wrap(patch, os, "close", first=True)
            real_open = os.open

            def low_open(path: Any, flags: int, *rest: Any, **named: Any) -> int:
                spool = flags & getattr(os, "O_TMPFILE", 0) == getattr(os, "O_TMPFILE", 1)
                name = "open spool" if spool else "open"
                descriptor: int = self.call(name, lambda: real_open(path, flags, *rest, **named))
                return descriptor

            patch.setattr(os, "open", low_open)
            real_io_open = io.open

            def high_open(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
                if not {"w", "x", "a", "+"} & set(mode) or "b" not in mode:
                    return real_io_open(file, mode, buffering, *rest, **named)
                return self._file(file, mode, buffering, named.get("opener"))

            patch.setattr(io, "open", high_open)
            patch.setattr(Path, "open", lambda path, mode="r", buffering=-1, *rest: high_open(path, mode, buffering))
            yield

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str, *, first: bool = False) -> None:
        real = getattr(owner, name)
        patch.setattr(owner, name, lambda *a, **k: self.call(name, lambda: real(*a, **k), first=first))

    def _file(self, file: Any, mode: str, buffering: int, opener: Any) -> Any:
        faults = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                if faults.most is not None:
                    view = view[: faults.most]
                if faults.room is not None:
                    view = view[: faults.room]
                    faults.room -= len(view)
                    if not view:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written: int = faults.call("write", lambda: io.FileIO.write(self, view))
                return written

            def truncate(self, size: int | None = None) -> int:
                position: int = faults.call("truncate", lambda: io.FileIO.truncate(self, size))
                return position

            def close(self) -> None:
                if not self.closed:
                    faults.call("close", lambda: io.FileIO.close(self), first=True)

        # An opener calls os.open itself, which counts.
        raw = File(file, mode, opener=opener) if opener else self.call("open", lambda: File(file, mode))
        if buffering == 0:
            return raw
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)


@pytest.fixture
def small_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads go through a file from the first byte on, as they do in large networks."""
    monkeypatch.setattr(writer, "SPOOL", 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", WRITERS)
def test_every_call_to_the_system_may_fail(
    name: str, code: int, target: Path, written: dict[str, bytes], small_spool: None
) -> None:
    calls: list[str] = []
    seen: set[str] = set()
    replaced = False
    for at in range(1, 1000):
        target.write_bytes(OLD)
        faults = Faults(at, code)
        message = ""
        try:
            with faults.installed():
                WRITERS[name](target)
        except IterandError as error:
            message = str(error)
        calls = faults.names
        if len(calls) < at:  # nothing is left that could fail
            assert not message
            break
        failed = calls[at - 1]
        seen.add(failed)
        replaced = replaced or "replace" in calls[: at - 1]
        where = f"call {at}, {failed}, after {calls[: at - 1]}"
        assert only(target), where
        assert target.read_bytes() == (written[name] if replaced or not message else OLD), where
        if failed != "open spool":  # Python tries again in another way
            assert message.startswith(f"{target}: cannot be written: {os.strerror(code)}; "), where
            assert "\n" not in message
    else:
        pytest.fail("endless")
    assert seen >= {"open", "write", "close", "fsync", "replace"}, seen
    assert target.read_bytes() == written[name]
    assert calls.count("fsync") >= 2, "the file and its folder must be synced"
    assert calls.index("fsync") < calls.index("replace") < len(calls) - 1 - calls[::-1].index("fsync")
    assert max(i for i, call in enumerate(calls) if call == "write") < calls.index("fsync"), "written after the sync"


@pytest.mark.parametrize("name", WRITERS)
def test_writes_that_the_system_cuts_short_go_on(
    name: str, target: Path, written: dict[str, bytes], small_spool: None
) -> None:
    with Faults(most=5).installed():
        WRITERS[name](target)
    assert target.read_bytes() == written[name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_after_any_number_of_bytes(
    name: str, target: Path, written: dict[str, bytes], small_spool: None
) -> None:
    for room in range(0, len(written[name]), 37):
        with Faults(room=room).installed():
            message = refused(target, WRITERS[name])
        assert message.endswith("No space left on device; free some disk space and try again")
        assert only(target)
        assert target.read_bytes() == OLD


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_the_size_of_files(name: str, target: Path, written: dict[str, bytes]) -> None:
    """The same from the kernel itself, which stands in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(written[name]) // 2, before[1]))
    try:
        message = refused(target, WRITERS[name])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in message
    assert only(target)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("code", sorted({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBUSY}))
@pytest.mark.parametrize("name", ["seedmask", "weights"])
def test_a_file_system_that_cannot_rename(name: str, code: int, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for owner in (os, Path):
        for function in ("replace", "rename"):
            monkeypatch.setattr(owner, function, cannot)
    assert f"cannot be written: {os.strerror(code)}; " in refused(target, WRITERS[name])
    assert only(target)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(name: str, umask: int, target: Path) -> None:
    target.chmod(0o604)
    before = os.umask(umask)
    try:
        WRITERS[name](target)
        WRITERS[name](target.with_name("fresh"))
    finally:
        os.umask(before)
    for path in (target, target.with_name("fresh")):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("name", ["seedmask", "weights"])
def test_links_are_followed(name: str, target: Path, written: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    near = folder / "near"
    near.symlink_to(Path("..") / target.name)
    chained, dangling, loop = folder / "chained", folder / "dangling", folder / "loop"
    chained.symlink_to(near)
    dangling.symlink_to(folder / "fresh")
    loop.symlink_to(loop)
    for link, real in ((near, target), (chained, target), (dangling, folder / "fresh")):
        target.write_bytes(OLD)
        WRITERS[name](link)
        assert link.is_symlink()
        assert real.read_bytes() == written[name]
    refused(loop, WRITERS[name])
    assert sorted(path.name for path in folder.iterdir()) == ["chained", "dangling", "fresh", "loop", "near"]


@pytest.mark.parametrize("name", ["seedmask", "weights"])
def test_places_where_nothing_can_be_written(name: str, target: Path) -> None:
    assert refused(target.parent / "none" / "x", WRITERS[name]).endswith("create the folder first")
    assert refused(target / "x", WRITERS[name]).endswith("create the folder first")
    assert refused(target.parent, WRITERS[name]).endswith("give the name of a file")
    assert refused(target.with_name("n" * 256), WRITERS[name]).endswith("choose a shorter name")
    assert only(target)
    pipe = target.with_name("pipe")  # not /dev/null: the day that this test fails, root would lose it
    os.mkfifo(pipe)
    assert "not a regular file" in refused(pipe, WRITERS[name])
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["seedmask", "weights"])
def test_a_folder_that_is_read_only(name: str) -> None:
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer) / "folder"
        folder.mkdir()
        (folder / "old").write_bytes(OLD)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:  # to whom no folder is read-only
            os.seteuid(65534)
        try:
            for path in (folder / "old", folder / "new"):
                assert refused(path, WRITERS[name]).endswith("choose a folder that you may write to")
        finally:
            os.seteuid(user)
        assert (folder / "old").read_bytes() == OLD
        assert only(folder / "old")
        folder.chmod(0o755)


def test_a_damaged_file_leaves_the_recovered_one_alone(target: Path) -> None:
    bad = TESTS / "bad_files" / "mask-swapped.seedmask"
    old = b"\x10" + bytes(7) + b"{" + OLD  # of safetensors, as far as can be seen
    target.write_bytes(old)
    assert "expected recovered weights with SHA-256" in fail(1, "recover", bad, "--out", target)
    assert target.read_bytes() == old
    assert only(target)


# Several writers, and writers that are killed.

NETWORKS = ("tiny", "flips", "draws")


def child(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A Python process that finds `golden.make`."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not errors
    return output


WRITE_LOOP = """
import sys
from golden import make
from iterand_compress.compress.seedmask import write_seedmask
networks = [getattr(make, name)() for name in sys.argv[3:]]
for i in range(int(sys.argv[2])):
    write_seedmask(networks[i % len(networks)], sys.argv[1])
"""


@pytest.mark.processes
def test_processes_that_write_to_one_path(target: Path) -> None:
    whole = {OLD, *(dumps(getattr(make, name)()) for name in NETWORKS)}
    processes = [child(WRITE_LOOP, target, 12, *NETWORKS[i % 3 :], *NETWORKS[: i % 3]) for i in range(4)]
    while any(process.poll() is None for process in processes):
        assert target.read_bytes() in whole
        time.sleep(0.001)
    for process in processes:
        finish(process)
    assert target.read_bytes() in whole - {OLD}
    assert only(target)


def test_threads_that_write_to_one_path(target: Path, written: dict[str, bytes]) -> None:
    def work(name: str) -> None:
        for _ in range(10):
            WRITERS[name](target)
            assert target.read_bytes() in written.values()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, WRITERS))
    assert target.read_bytes() in written.values()
    assert only(target)


KILLED_LOOP = """
import sys
import numpy as np
from golden import make
from iterand_compress.compress.seedmask import Network, StoredTensor, write_seedmask
networks = []
for i in range(2):  # most of the time goes into writing
    state = {"big": StoredTensor.from_numpy(np.full((i + 1) << 19, i, np.float32))}
    networks.append(Network(seed=i, tensors=make.tiny().tensors, state=state))
print("ready", flush=True)
i = int(sys.argv[2])
while True:
    write_seedmask(networks[i % 2], sys.argv[1])
    i += 1
"""


@pytest.mark.processes
def test_a_writer_that_is_killed(target: Path) -> None:
    rng = random.Random(0)
    found = [hashlib.sha256(OLD).hexdigest()]
    for i in range(2):
        state = {"big": StoredTensor.from_numpy(np.full((i + 1) << 19, i, np.float32))}
        found.append(hashlib.sha256(dumps(Network(seed=i, tensors=make.tiny().tensors, state=state))).hexdigest())
    for trial in range(10):
        process = child(KILLED_LOOP, target, trial)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert hashlib.sha256(target.read_bytes()).hexdigest() in found
        for path in target.parent.iterdir():  # a process that is killed cannot clean up; nobody mistakes what it left
            assert path == target or (path.name.startswith(f".{target.name}.") and path.name.endswith(".tmp"))


# The same network always gives the same bytes.

DIGESTS = """
import hashlib, os, sys
from golden import make
from iterand_compress.compress.seedmask import dumps
if sys.argv[1] != "all" and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
for network in make.GOLDEN.values():
    for coding in ("auto", "rans"):
        print(hashlib.sha256(dumps(network(), coding=coding)).hexdigest())
"""


@pytest.mark.processes
def test_identical_bytes_in_every_process() -> None:
    expected = [
        hashlib.sha256(dumps(network(), coding=coding)).hexdigest()
        for network in make.GOLDEN.values()
        for coding in ("auto", "rans")
    ]
    processes = [
        child(DIGESTS, 1, PYTHONHASHSEED="0", OMP_NUM_THREADS="1", LC_ALL="C"),
        child(DIGESTS, "all", PYTHONHASHSEED="1", OMP_NUM_THREADS="4", LC_ALL="C.UTF-8", PYTHONUTF8="0"),
        child(DIGESTS, 2, PYTHONHASHSEED="4294967295", OMP_NUM_THREADS="2", LC_ALL="tr_TR.UTF-8", TZ="Asia/Kathmandu"),
        child(DIGESTS, "all", PYTHONHASHSEED="random", PYTHONOPTIMIZE="2", LC_ALL="de_DE.ISO-8859-1"),
    ]
    for process in processes:
        assert finish(process).split() == expected


@settings(max_examples=40, deadline=None)
@given(st.permutations(["fc.bias", "bn.count", "bn.half", "flag"]), st.sampled_from(["auto", "raw", "rans"]))
def test_the_order_of_the_state_does_not_matter(names: list[str], coding: str) -> None:
    network = make.flips()
    again = Network(
        seed=network.seed,
        tensors=network.tensors,
        state={name: network.state[name] for name in names},
        architecture=dict(reversed(list((network.architecture or {}).items()))),
        input=network.input,
        classes=network.classes,
        recipe=network.recipe,
    )
    assert dumps(again, coding=coding) == dumps(network, coding=coding)
