"""Odd files, odd terminals: one line that says what a file is, and output that never ends in a traceback."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import settings as make_settings

from conftest import fail, invoke, succeed
from iterand_compress import pack, read_seedmask
from iterand_compress.cli import app
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.files.kinds import kind_of
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.models.architecture import Architecture
from iterand_compress.compress.models.build import build_model

CLI = [sys.executable, "-m", "iterand_compress.cli"]


@pytest.fixture(scope="module")
def files(digits, tmp_path_factory) -> dict[str, Path]:
    """A file of each kind, with a space in its name."""
    folder = tmp_path_factory.mktemp("odd files")
    found = {
        "seedmask": shutil.copy(digits.seedmask, folder / "s.seedmask"),
        "checkpoint": shutil.copy(digits.checkpoint, folder / "c.ckpt"),
        "onnx": shutil.copy(digits.onnx, folder / "o.onnx"),
    }
    succeed("recover", digits.seedmask, "--out", folder / "w.safetensors")
    torch.save({"a": torch.zeros(2)}, folder / "state.pt")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
    (folder / "text.txt").write_text("hello")
    (folder / "nothing").touch()
    os.mkfifo(folder / "fifo")
    others = ("w.safetensors", "state.pt", "module.pt", "text.txt", "nothing", "fifo", "absent")
    return {**found, **{name.split(".")[0]: folder / name for name in others}, "folder": folder}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("seedmask", "seedmask"),
        ("checkpoint", "torch"),
        ("state", "torch"),
        ("module", "torch"),
        ("onnx", "onnx"),
        ("w", "safetensors"),
        ("text", None),
        ("nothing", None),
        ("fifo", None),
        ("absent", None),
        ("folder", None),
    ],
)
def test_kinds(name, kind, files) -> None:
    assert kind_of(files[name]) == kind


READERS = ("inspect", "verify", "recover", "eval", "export", "diff")


def wrong(command: str, path: Path) -> str:
    more = {"export": ("--onnx", path.parent / "out.onnx"), "recover": ("--out", path.parent / "out.st")}
    return fail(1, command, path, *more.get(command, (path,) if command == "diff" else ()))


@pytest.mark.parametrize("command", ["verify", "recover", "diff"])
@pytest.mark.parametrize("name", ["checkpoint", "state", "module"])
def test_a_checkpoint_where_a_packed_file_belongs(command, name, files) -> None:
    line = wrong(command, files[name])
    advice = f"if it is a checkpoint, pack it first: iterand-compress pack {shlex.quote(str(files[name]))}"
    assert line == f"error: {files[name]}: a file of torch.save, not a .seedmask file; {advice}"
    assert "'" in advice, "the name has a space"


@pytest.mark.parametrize("command", ["recover", "export", "diff"])
def test_onnx_where_a_packed_file_belongs(command, files) -> None:
    advice = "verify, eval and predict take it if its name ends in .onnx"
    assert f"o.onnx: an ONNX file, not a .seedmask file; {advice}" in wrong(command, files["onnx"])


@pytest.mark.parametrize("command", READERS)
def test_safetensors_where_a_packed_file_belongs(command, files) -> None:
    assert "w.safetensors: a safetensors file, but not a .seedmask" in wrong(command, files["w"])


@pytest.mark.parametrize("command", [("pack",), ("train", "--resume", "-q", "--out")])
def test_what_is_no_checkpoint(command, files) -> None:
    """`pack x.seedmask` said that the file may run code."""

    def line(name: str) -> str:
        return fail(1, *command, files[name])

    packed = shlex.quote(str(files["seedmask"]))
    assert line("seedmask").endswith(
        f"s.seedmask: a .seedmask file, not a checkpoint; it is packed already: iterand-compress inspect {packed}"
    )
    assert "o.onnx: an ONNX file, not a checkpoint; verify, eval and predict take it" in line("onnx")
    assert "a safetensors file without seed and masks, not a checkpoint; only a network whose weights" in line("w")
    assert "not an iterand-compress checkpoint, but" in line("state")
    assert "that may run code when loaded" in line("module")
    for content in ("", "hello", "a recipe\n"):
        text = files["module"].with_name("text.txt")
        text.write_text(content)
        assert fail(1, *command, text).endswith(
            "text.txt: damaged, or not a checkpoint; make one with 'iterand-compress train'"
        )
    assert "text.txt: " in line("text")
    assert "nothing: " in line("nothing")
    for name in ("fifo", "folder") if command[0] == "pack" else ():
        assert "cannot be read: not a regular file; give the path of a checkpoint" in line(name)


def test_onnx_in_capitals(digits, tmp_path) -> None:
    path = shutil.copy(digits.onnx, tmp_path / "M.ONNX")
    assert "ok: form dense" in succeed("verify", path)
    assert succeed("eval", path) == succeed("eval", digits.onnx).replace(str(digits.onnx), str(path))


@pytest.mark.parametrize(
    "command",
    [
        ("pack", ""),
        ("pack", "m.ckpt", "--out", ""),
        ("recover", ""),
        ("export", "--onnx", ""),
        ("train", "--out", ""),
        ("train", "--data-dir", ""),
        ("train", "--set=run.tensorboard="),
        ("ablate", "m", "--folder", ""),
        ("theory", "--plot", ""),
    ],
    ids=" ".join,
)
def test_empty_names(command) -> None:
    assert "expected a name, got nothing." in fail(2, *command)


def test_the_folder_is_no_name_for_onnx(digits, tmp_path, monkeypatch) -> None:
    """`--onnx .` was the same as `--onnx`."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits.seedmask, tmp_path)
    assert ".: cannot be written: Is a directory" in fail(1, "export", "model.seedmask", "--onnx", ".")
    assert [path.name for path in tmp_path.iterdir()] == ["model.seedmask"]


@pytest.mark.parametrize("name", ["/dev/zero", "FIFO.toml"])
def test_recipes_that_have_no_end(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("FIFO.toml")
    assert f"recipe {name}: cannot be read: not a regular file" in fail(2, "train", "--recipe", name)


def test_a_file_for_tensorboard(tmp_path) -> None:
    (tmp_path / "board").touch()
    words = ("train", "--epochs", 1, "-q", "--out", tmp_path / "a.ckpt", f"--set=run.tensorboard={tmp_path}/board")
    assert "board: run.tensorboard: expected a folder, and this is a file; give another name" in fail(2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["board"], "refused before the first step"


# --- names in hints


def test_hints_can_be_pasted(digits, tmp_path) -> None:
    out = tmp_path / "it's mine.ckpt"
    text = succeed("train", "--epochs", 1, "--width", 0.1, "--out", out)
    assert text.endswith(f"next, iterand-compress pack {shlex.quote(str(out))}\n")
    words = shlex.split(text.strip().rpartition("next, iterand-compress ")[2])
    assert words == ["pack", str(out)]
    succeed(*words)


# --- terminals


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Tensors with names that no 8-bit encoding has all of."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.слой = torch.nn.Linear(4, 4)
            self.層 = torch.nn.Linear(4, 4)

    path = tmp_path_factory.mktemp("foreign") / "сеть→.seedmask"
    pack(mask_model(Net(), make_settings(sparsity=0.5)), path)
    assert [entry.name for entry in read_seedmask(path).tensors] == ["слой.weight", "層.weight"]
    return path


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1251", "ascii", "utf-8"])
@pytest.mark.parametrize("command", ["inspect", "verify", "diff", "recover"])
def test_encodings(encoding, command, foreign, tmp_path) -> None:
    more = {"diff": [foreign], "recover": ["--out", tmp_path / "слой×.safetensors"]}.get(command, [])
    done = subprocess.run(
        [*CLI, command, foreign, *more],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("utf-8" if encoding == "ascii" else encoding)  # click takes ASCII for a mistake
    if command == "inspect":
        cyrillic = "слой" if encoding in ("cp1251", "ascii", "utf-8") else r"\u0441\u043b\u043e\u0439"
        times = "x" if encoding == "cp1251" else "×"
        assert f"{cyrillic}.weight" in text
        assert f"4{times}4" in text
    if command == "recover":
        assert (tmp_path / "слой×.safetensors").stat().st_size > 0
    done = subprocess.run(
        [*CLI, command, foreign.parent / "нет→", *more],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.processes
def test_names_that_are_no_text(digits, tmp_path) -> None:
    out = tmp_path / "\udcff.safetensors"
    done = subprocess.run([*CLI, "recover", digits.seedmask, "--out", out], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.exists()


def test_substitutes() -> None:
    app._print_anything()
    assert "3×3 → 7 – ± слой".encode("ascii", "iterand-compress") == rb"3x3 -> 7 - +- \u0441\u043b\u043e\u0439"


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
@pytest.mark.parametrize("words", [("inspect",), ("verify",), ("inspect", "--json"), ("--help",), ("--version",)])
def test_a_full_disk_under_the_output(words, digits) -> None:
    more = [] if words[0].startswith("-") else [digits.seedmask]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*CLI, *words, *more], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    line = "error: standard output: cannot be written: No space left on device; check the disk and the path\n"
    assert done.stderr == line


@pytest.mark.processes
def test_a_full_disk_under_errors() -> None:
    with Path("/dev/full").open("w") as full:
        for unbuffered in ("", "1"):
            settings = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
            words = [*CLI, "inspect", "absent"]
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=full, env=settings, check=False)
            assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.processes
@pytest.mark.parametrize("words", [("inspect",), ("verify",)])
def test_a_closed_pipe_is_quiet(words, digits) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*CLI, *words, digits.seedmask], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_out_of_memory_is_one_line(digits, monkeypatch) -> None:
    from iterand_compress.compress import seedmask as storage

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(storage, "read_seedmask", full)
    assert "out of memory" in fail(1, "inspect", digits.seedmask)
    assert invoke("inspect", digits.seedmask).exit_code == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--set=run.peer_timeout=nan",), "run.peer_timeout: expected 1 to 1,000,000 seconds, got nan"),
        (("--set=run.peer_timeout=inf",), "run.peer_timeout: expected 1 to 1,000,000 seconds, got inf"),
        (("--set=run.peer_timeout=0",), "run.peer_timeout: expected 1 to 1,000,000 seconds, got 0"),
        (("--compile", "fast"), "--compile: Unrecognized mode=fast, should be one of: default"),
        (("--set=train.lr=" + "[" * 100_000,), "options: train.lr"),
        (("--set=train.lr=NaN",), "options: train.lr"),
        (("--set=train.epochs=1.5",), "options: train.epochs"),
        (("--set=train",), "--set: expected SECTION.KEY=VALUE, got 'train'"),
        (("--set=train.epoch=1",), "train.epoch"),
        (("--lr", "nan"), "options: train.lr"),
        (("--sparsity", "inf"), "options: subnetwork.sparsity"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:30],
)
def test_values_out_of_range(words, text, tmp_path) -> None:
    assert text in fail(2, "train", "--width", 0.1, "-q", "--out", tmp_path / "a.ckpt", *words)
    assert not list(tmp_path.iterdir())


def test_a_name_that_tensorboard_cannot_take(tmp_path) -> None:
    words = ("train", "--epochs", 1, "-q", "--out", tmp_path / "a.ckpt", f"--set=run.tensorboard={tmp_path}/\udcff")
    assert "run.tensorboard: expected a name in UTF-8" in fail(2, *words)
    assert not list(tmp_path.iterdir())


#: Bytes of names, and the encoding of the output that cannot print them as they are.
ODD_NAMES = [
    (b"l\xe9.ckpt", "utf-8"),
    ("猫.ckpt".encode(), "latin-1"),
    ("猫 \U0001f431.ckpt".encode(), "utf-8"),
    (b"two  spaces\n.ckpt", "utf-8"),
    (b"it's $HOME\t\\n.ckpt", "utf-8"),
    (b"-x.ckpt", "utf-8"),
]


def pasted(command: str, folder: Path) -> list[bytes]:
    """The words that bash takes a printed command for."""
    script = f"iterand-compress() {{ printf '%s\\0' \"$@\"; }}; {command}"
    done = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, cwd=folder, check=True)
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="what is pasted is pasted into bash")
@pytest.mark.parametrize(("name", "encoding"), ODD_NAMES, ids=lambda value: ascii(value))
def test_a_command_that_is_printed_can_be_pasted(name, encoding, digits, tmp_path) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(digits.checkpoint.read_bytes())
    done = subprocess.run(
        [*CLI, "verify", "--", name],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode(encoding).splitlines()
    command = line.partition("pack it first: ")[2]
    action, path = pasted(command, tmp_path)
    assert action == b"pack"
    assert path in (name, b"./" + name)
    assert not path.startswith(b"-")
    assert command.isascii() or encoding == "utf-8"


def test_the_model_in_a_command_that_is_printed(monkeypatch) -> None:
    arch = Architecture(name="módulo:f", num_classes=2, in_channels=1, image_size=8)
    for encoding, word in {"utf-8": "'módulo:f'", "ascii": r"$'m\xc3\xb3dulo:f'"}.items():
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        with pytest.raises(ConfigError) as refused:
            build_model(arch, seed=0, allow_import=False, device="cpu")
        assert str(refused.value).endswith(f"give it yourself with --model {word}")


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="what is pasted is pasted into bash")
def test_the_next_command_after_training_can_be_pasted(tmp_path) -> None:
    name = b"l\xe9.ckpt"
    quick = ("--epochs", "1", "--width", "0.1", "--device", "cpu")
    done = subprocess.run([*CLI, "train", *quick, "--out", name], capture_output=True, cwd=tmp_path, check=True)
    command = done.stdout.decode().splitlines()[-1].partition("next, ")[2]
    assert pasted(command, tmp_path) == [b"pack", name]


def commands_on_onnx(run, name, digits, folder) -> None:
    """Export, verify and evaluate a file of a name that onnx and onnxruntime, which expect UTF-8, do not take."""
    run("export", digits.seedmask, "--onnx", name)
    assert [os.fsencode(path.name) for path in folder.iterdir()] == [os.fsencode(name)]
    run("verify", name)
    found, expected = (
        json.loads(text) for text in (run("eval", name, "--json"), succeed("eval", digits.onnx, "--json"))
    )
    assert found["correct"] == expected["correct"]


def test_onnx_files_whose_names_are_not_utf8(digits, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands_on_onnx(succeed, "caf\udce9.onnx", digits, tmp_path)


@pytest.mark.processes
def test_onnx_files_in_an_ascii_locale(digits, tmp_path) -> None:
    settings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(*words: object) -> bytes:
        done = subprocess.run([*CLI, *words], capture_output=True, cwd=tmp_path, env=settings, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    commands_on_onnx(run, "猫.onnx", digits, tmp_path)


@pytest.mark.processes
@pytest.mark.parametrize("output", ["full", "closed"])
def test_training_goes_on_without_its_output(output, tmp_path) -> None:
    if output == "full" and not Path("/dev/full").exists():
        pytest.skip("Linux has a device that is full")
    reading, writing = os.pipe()
    os.close(reading)
    target = writing if output == "closed" else os.open("/dev/full", os.O_WRONLY)
    words = ("--epochs", "2", "--width", "0.1", "--device", "cpu", "--out", str(tmp_path / "a.ckpt"))
    done = subprocess.run([*CLI, "train", *words], stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    os.close(target)
    reason = {"full": "No space left on device", "closed": "Broken pipe"}[output]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"standard output: cannot be written: {reason}; training goes on without it")
    assert done.returncode == 0
    assert "accuracy" in json.loads(succeed("eval", tmp_path / "a.ckpt", "--json")), "the run is complete"
    log = [json.loads(entry) for entry in (tmp_path / "a.metrics.jsonl").read_text().splitlines()]
    assert {entry.get("epoch") for entry in log} >= {1, 2}
