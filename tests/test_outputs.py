"""Where outputs go: names that keep their dots, no input lost, one run a file, refusals before any work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import iterand_compress as ic
from conftest import fail, succeed
from iterand_compress.compress.errors import ConfigError, IterandError
from iterand_compress.compress.files import outputs
from iterand_compress.compress.files.atomic import check_output
from iterand_compress.compress.files.outputs import beside, only_writer
from iterand_compress.compress.seedmask import read_seedmask, write_tensors
from iterand_compress.compress.training.metrics import metrics_path
from iterand_compress.compress.training.profile import trace_path
from iterand_compress.export import from_file as export_module

QUICK = ("train", "--epochs", 1, "--width", 0.1, "--device", "cpu", "-q")

# --- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.ckpt", "model.X"),
        ("model.CKPT", "model.X"),
        ("model.seedmask", "model.X"),
        ("model.safetensors", "model.X"),
        ("model.ONNX", "model.X"),
        ("model.pt", "model.X"),
        ("model.pth", "model.X"),
        ("sparsity0.5", "sparsity0.5.X"),
        ("sparsity0.9", "sparsity0.9.X"),
        ("v1.2.ckpt", "v1.2.X"),
        ("model", "model.X"),
        (".ckpt", ".ckpt.X"),
        ("a.b.", "a.b..X"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert beside(Path("runs.1") / name, ".X") == Path("runs.1") / expected


@pytest.mark.slow
def test_dots_in_names_of_runs(digits, tmp_path) -> None:
    """`--out runs/sparsity0.5` and `runs/sparsity0.9` shared one log and one .seedmask."""
    assert metrics_path(Path("runs/sparsity0.5")) == Path("runs/sparsity0.5.metrics.jsonl")
    assert trace_path(Path("runs/sparsity0.5")) == Path("runs/sparsity0.5.trace.json")
    for name in ("sparsity0.5", "sparsity0.9"):
        shutil.copy(digits.checkpoint, tmp_path / name)
        succeed("pack", tmp_path / name)
        succeed("export", tmp_path / name, "--onnx")
        succeed("recover", shutil.copy(digits.seedmask, tmp_path / f"packed-{name}"))
    found = {path.name for path in tmp_path.iterdir()}
    for number in ("0.5", "0.9"):
        assert {f"sparsity{number}.seedmask", f"sparsity{number}.onnx", f"packed-sparsity{number}.safetensors"} <= found


# --- an output that is an input


@pytest.fixture
def folder(digits, ticket, tmp_path, monkeypatch) -> Path:
    """Files of each kind, under names that make commands write over them by default."""
    shutil.copy(digits.checkpoint, tmp_path / "c.seedmask")
    shutil.copy(digits.checkpoint, tmp_path / "c.png")
    shutil.copy(digits.seedmask, tmp_path / "s.safetensors")
    shutil.copy(digits.seedmask, tmp_path / "s.onnx")
    shutil.copy(digits.seedmask, tmp_path / "s.seedmask")
    shutil.copy(ticket.seedmask, tmp_path / "t.seedmask")
    (tmp_path / "r.toml").write_text("[train]\nepochs = 1\n")
    (tmp_path / "texts.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "link").symlink_to("s.seedmask")
    os.link(tmp_path / "s.seedmask", tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("pack", "c.seedmask"),
        ("pack", "c.png", "--out", "./c.png"),
        ("recover", "s.safetensors"),
        ("recover", "s.seedmask", "--out", "link"),
        ("recover", "link", "--out", "s.seedmask"),
        ("recover", "s.seedmask", "--out", "hard", "--masks"),
        ("recover", "s.seedmask", "--out", "hard", "--device", "cpu"),
        ("export", "hard", "-o", "link"),
        ("export", "s.onnx", "--onnx"),
        ("export", "link", "--onnx", "hard"),
        ("export", "s.seedmask", "--onnx", "texts.csv", "--data-dir", "texts.csv"),
        ("ablate", "c.png", "--plot", "c.png", "--force"),
        (*QUICK, "--ticket", "t.seedmask", "--out", "t.seedmask", "--force"),
        (*QUICK, "--recipe", "./r.toml", "--out", "r.toml", "--force"),
        (*QUICK, "--data", "text", "--data-dir", "texts.csv", "--out", "texts.csv", "--force"),
    ],
    ids=lambda command: " ".join(map(str, command[:1] + command[-2:])),
)
def test_an_output_that_is_an_input(command, folder, monkeypatch) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("work before the check")

    monkeypatch.setattr(export_module, "load_network", too_late)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    line = fail(2, *command)
    assert "the output would overwrite" in line
    assert line.endswith("; give it another name")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("there", ["run.ckpt", "photo.jpg", "table.csv", "other"])
@pytest.mark.parametrize(
    "command",
    [
        ("pack", "c.png", "--out"),
        ("recover", "s.seedmask", "--out"),
        ("recover", "s.seedmask", "--masks", "--out"),
        ("export", "s.seedmask", "-o"),
        (*QUICK, "--force", "--out"),
    ],
    ids=lambda command: " ".join(map(str, command[:1] + command[-2:])),
)
def test_files_of_other_kinds_stay(command, there, folder, digits) -> None:
    shutil.copy(digits.checkpoint, folder / "run.ckpt")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 not to be lost")
    (folder / "table.csv").write_text("text,label\n")
    other = digits.onnx if command[0] != "export" else digits.seedmask
    shutil.copy(other, folder / "other")
    if (command[0], there) in {("train", "run.ckpt"), ("export", "run.ckpt")}:  # its own kind; refused by the ending
        return
    before = (folder / there).read_bytes()
    line = fail(2, *command, there)
    what = {
        "run.ckpt": "a file of torch.save",
        "other": "an ONNX file" if command[0] != "export" else "a .seedmask file",
    }
    assert (
        f"{there}: is {what.get(there, 'a file of another kind')}, which would be lost; give the output another" in line
    )
    assert (folder / there).read_bytes() == before


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        (("export", "s.seedmask", "--onnx"), "m.tflite", "promises TensorFlow Lite, and this will be an ONNX file"),
        (("export", "s.seedmask", "--onnx"), "m.ORT", "promises the ORT format of onnxruntime"),
        (("export", "s.seedmask", "-o"), "m.safetensors", "promises a safetensors file, and this will be an ONNX file"),
        (("pack", "c.png", "--out"), "m.onnx", "promises an ONNX file, and this will be a .seedmask file"),
        (("recover", "s.seedmask", "--out"), "m.pt", "promises a file of torch.save, and this will be a safetensors"),
        (("recover", "s.seedmask", "--masks", "--out"), "m.npz", "promises NumPy arrays"),
        ((*QUICK, "--out"), "m.onnx", "promises an ONNX file, and this will be a file of torch.save: name it m.ckpt"),
        (("ablate", "s.seedmask", "--plot"), "m.svg", "promises another kind of picture, and this will be a PNG"),
        (
            ("theory", "--widths", "3,2", "--plot"),
            "m.csv",
            "promises text, and this will be a PNG picture: name it m.png",
        ),
    ],
)
def test_an_ending_that_promises_another_format(command, name, message, folder) -> None:
    before = sorted(folder.iterdir())
    line = fail(2, *command, name)
    assert f"{name}: the ending {Path(name).suffix.lower()} {message}" in line
    assert sorted(folder.iterdir()) == before


def test_usual_names_of_checkpoints_are_taken(folder) -> None:
    """PyTorch's tutorials name them .tar, its examples .pth.tar; what is wrong here are the data alone."""
    for name in ("last.tar", "checkpoint.pth.tar", "model.ckpt.bak", "out.v1", "lr.2024"):
        line = fail(1, "train", "--recipe", "digits", "--data", "folder", "--data-dir", "absent", "--out", name)
        assert "absent" in line, line


def test_an_ending_that_promises_another_format_in_python(folder) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with pytest.raises(ConfigError, match=r"m\.tflite: the ending \.tflite promises TensorFlow Lite"):
        ic.export_onnx(net, "m.tflite", input=ic.ImageInput((3, 2, 2), 0, 1))
    subnet = ic.Subnetwork(net, ic.EdgePopup(sparsity=0.5))
    with pytest.raises(ConfigError, match=r"m\.onnx: the ending \.onnx promises an ONNX file.*: name it m\.seedmask"):
        subnet.pack("m.onnx")
    with pytest.raises(
        ConfigError, match=r"promises a file of torch\.save, and this will be a safetensors file: name it"
    ):
        write_tensors(read_seedmask(Path("s.seedmask")), Path("m.pt"))
    for name in ("m", "sparsity0.5", "m.v2"):  # which promise nothing
        subnet.pack(name)


@pytest.mark.slow
def test_files_of_the_same_kind_are_replaced(folder, digits) -> None:
    for _ in range(2):
        succeed("pack", "c.png", "--out", "new.seedmask")
        succeed("recover", "s.seedmask", "--out", "new.safetensors")
        succeed("recover", "s.seedmask", "--masks", "--out", "new.safetensors")
        succeed("export", "s.seedmask", "--onnx", "new.onnx")
        succeed("export", "s.seedmask", "--onnx", "new.onnx", "--form", "packed")
    (folder / "empty").touch()
    succeed("pack", "c.png", "--out", "empty")


@pytest.mark.slow
def test_the_log_of_another_run_stays(folder) -> None:
    succeed(*QUICK, "--out", "run.ckpt")
    log = (folder / "run.metrics.jsonl").read_bytes()
    line = fail(1, *QUICK, "--out", "run")
    assert "run.metrics.jsonl: exists already, from another run; --force replaces it, --out writes elsewhere" in line
    assert (folder / "run.metrics.jsonl").read_bytes() == log
    assert not (folder / "run").exists()
    succeed(*QUICK, "--out", "run", "--force")


@pytest.mark.slow
def test_a_run_that_goes_on_is_said(folder) -> None:
    content = torch.load(folder / "c.png", weights_only=True)
    content |= {"test": None, "optimizer": {}}
    content["position"] = {"epoch": 1, "batch": 0, "step": 20}
    torch.save(content, "going.ckpt")
    said = "going.ckpt: of an unfinished run, after step 20 (1 of 3 epochs are done)"
    assert said in succeed("pack", "going.ckpt")
    assert said in succeed("eval", "going.ckpt")
    assert said in succeed("export", "going.ckpt", "--onnx", "going.onnx")
    for command in (("pack", "c.png", "--out", "c2.seedmask"), ("eval", "c.png")):
        assert "unfinished" not in succeed(*command)


def test_a_picture_does_not_replace_a_checkpoint(folder, digits) -> None:
    line = fail(2, "theory", "--widths", "3,2", "--plot", "c.png", "--force")
    assert "c.png: is a file of torch.save, which would be lost" in line


def test_the_library_refuses_it_too(folder) -> None:
    with pytest.raises(ConfigError, match=r"hard: the output would overwrite .*s\.seedmask"):
        write_tensors(read_seedmask(folder / "s.seedmask"), folder / "hard")
    check_output(folder / "new", folder / "s.seedmask")
    assert not (folder / "new").exists()


def test_one_file_for_two_outputs(tmp_path) -> None:
    (tmp_path / "a.metrics.jsonl").symlink_to("a.ckpt")
    line = fail(2, *QUICK, "--out", tmp_path / "a.ckpt")
    assert line.endswith(f"a.metrics.jsonl: the output would overwrite {tmp_path / 'a.ckpt'}; give it another name")


# --- outputs that cannot be written


def bad_outputs(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "dir").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    return {
        "folder": (folder / "dir", "Is a directory; give the name of a file"),
        "root": (Path("/"), "Is a directory"),
        "device": (Path("/dev/null"), "not a regular file"),
        "fifo": (folder / "fifo", "not a regular file"),
        "no folder": (folder / "absent" / "x.png", "No such file or directory; create the folder first"),
        "long": (folder / ("n" * 300 + ".png"), "File name too long; choose a shorter name"),
        "loop": (folder / "loop", "the link leads to itself"),
    }


@pytest.mark.parametrize("which", ["folder", "root", "device", "fifo", "no folder", "long", "loop"])
@pytest.mark.parametrize("command", ["train", "pack", "recover", "export", "theory"])
def test_bad_outputs_are_refused_before_the_work(which, command, digits, tmp_path, monkeypatch) -> None:
    path, text = bad_outputs(tmp_path)[which]
    before = sorted(tmp_path.iterdir())
    absent = tmp_path / "no-input"  # would be missed, if it were read first
    words = {
        "train": (*QUICK, "--recipe", "photos", "--data", "folder", "--data-dir", absent, "--force", "--out", path),
        "pack": ("pack", absent, "--out", path),
        "recover": ("recover", absent, "--out", path),
        "export": ("export", absent, "--onnx", path),
        "theory": ("theory", "--check", "--trials", 1, "--force", "--plot", path),
    }[command]
    line = fail(1, *words)
    assert "cannot be written" in line
    assert text in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a child takes another user's rights")
def test_without_permission(tmp_path) -> None:
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents:
        if parent != Path("/") and parent != Path("/tmp"):
            parent.chmod(0o755)
    pid = os.fork()
    if not pid:
        os.setuid(65534)
        try:
            check_output(tmp_path / "x.ckpt")
        except IterandError as error:
            os._exit(0 if "Permission denied; choose a folder that you may write to" in str(error) else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- two runs


def test_two_runs_into_one_checkpoint(tmp_path) -> None:
    out = tmp_path / "a.ckpt"
    with only_writer(out):
        line = fail(2, *QUICK, "--out", out)
        assert line == f"error: {out}: another run is writing it; wait for its end, or give another --out"
        assert "another run" in fail(2, *QUICK, "--out", out, "--force")
    succeed(*QUICK, "--out", out)
    outputs = ["a.best.ckpt", "a.ckpt", "a.metrics.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == outputs, "no lock stays"
    with only_writer(metrics_path(out)):
        line = fail(2, *QUICK, "--out", tmp_path / "a.pt")
    assert line.startswith(f"error: {metrics_path(out)}: another run")
    with only_writer(out):
        assert "another run" in fail(2, "train", "--resume", "-q", "--out", out)


@pytest.mark.processes
def test_a_killed_run_does_not_stand_in_the_way(tmp_path) -> None:
    out = tmp_path / "a.ckpt"
    words = [sys.executable, "-m", "iterand_compress.cli", *map(str, QUICK), "--epochs", "100000", "--out", str(out)]
    process = subprocess.Popen(words)
    lock = tmp_path / ".a.ckpt.lock"
    for _ in range(600):
        if lock.exists() and out.exists():
            break
        time.sleep(0.1)
    assert "another run" in fail(2, "train", "--resume", "-q", "--out", out)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock.exists()
    succeed(*QUICK, "--out", out, "--force")
    assert not lock.exists()


def test_a_worker_that_outlives_the_run_holds_nothing(tmp_path) -> None:
    """DataLoader's workers notice the end of a killed run after seconds."""
    reading, writing = os.pipe()
    with only_writer(tmp_path / "a"):
        pid = os.fork()
        if not pid:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
    with only_writer(tmp_path / "a"):
        pass
    os.close(writing)
    os.waitpid(pid, 0)


def test_links_to_one_file_are_one_file(tmp_path) -> None:
    (tmp_path / "link").symlink_to("a")
    with only_writer(tmp_path / "a"), pytest.raises(ConfigError, match="another run"), only_writer(tmp_path / "link"):
        pass
    with only_writer(tmp_path / "a", tmp_path / "link"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_file_systems_without_locks(tmp_path, monkeypatch) -> None:
    class Locks:
        LOCK_EX, LOCK_NB = 2, 4

        @staticmethod
        def flock(*_: int) -> None:
            raise OSError(37, "No locks available")

    monkeypatch.setattr(outputs, "fcntl", Locks)
    with only_writer(tmp_path / "a"), only_writer(tmp_path / "a"):
        pass
    monkeypatch.setattr(outputs, "fcntl", None)  # Windows
    with only_writer(tmp_path / "b"), only_writer(tmp_path / "b"):
        pass
    with only_writer(tmp_path / ("n" * 254)):
        pass
    assert not list(tmp_path.iterdir())
