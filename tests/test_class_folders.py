"""Folders as people have them: what is taken, what is left out and said so, and what is refused in one line."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from odd_images import noise
from PIL import Image

from conftest import fail, invoke, succeed
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data import load_data
from iterand_compress.compress.data.class_folders import left_out_line
from iterand_compress.compress.errors import DataError

KINDS = ("folder", "text")
E_ACUTE = "caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", E_ACUTE)


def make(root: Path, kind: str, classes=("cat", "dog"), parts=("train", "test"), each: int = 4) -> Path:
    """Images or texts, ``each`` of them in every class of every part."""
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                add(root / part / name, kind, number)
    return root


def add(folder: Path, kind: str, name: object) -> None:
    if kind == "folder":
        Image.fromarray(noise(len(str(name)) + len(folder.name), 8, 8, 3)).save(folder / f"{name}.png")
    else:
        (folder / f"{name}.txt").write_text(f"the text {name} of a {folder.name}", encoding="utf-8")


def load(root: Path, kind: str):
    return load_data(DataConfig(name=kind, validation=0), data_dir=root)


def refused(root: Path, kind: str) -> str:
    with pytest.raises(DataError) as caught:
        load(root, kind)
    message = str(caught.value)
    assert message.startswith(f"{kind}: ")
    assert message.isprintable()
    return message


def rename(root: Path, old: str, new: str) -> None:
    """Give a class another name, or skip the test where the file system does not take it."""
    try:
        (root / "train" / old).rename(root / "train" / new)
        (root / "test" / old).rename(root / "test" / new)
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take such names")


BAD_NAMES = {
    "control": ("do\x1b[31mg", r"'do\\x1b[31mg' contains the control character '\\x1b'; remove it"),
    "newline": ("do\ng", r"'do\\ng' contains the control character '\\n'"),
    "right-to-left": ("d\u202eog", r"'d\\u202eog' contains the control character '\\u202e'"),
    "not Unicode": ("d\udcffg", r"'d\\udcffg' contains the control character '\\udcff'"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_classes_that_no_file_could_name(name, kind, tmp_path):
    new, message = BAD_NAMES[name]
    rename(make(tmp_path, kind), "dog", new)
    assert message.replace("\\\\", "\\") in refused(tmp_path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_look_the_same(kind, tmp_path):
    make(tmp_path, kind, (E_ACUTE, DECOMPOSED, "tea"))
    if len(list((tmp_path / "train").iterdir())) < 3:
        pytest.skip("the file system normalises names")
    assert r"the classes 'cafe\u0301' and 'caf\xe9' differ only in Unicode normalisation: put" in refused(
        tmp_path, kind
    )


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_write_a_class_in_other_characters(kind, tmp_path):
    make(tmp_path, kind, (E_ACUTE, "tea"), ("train",))
    make(tmp_path, kind, (DECOMPOSED, "tea"), ("test",))
    message = refused(tmp_path, kind)
    assert r"'caf\xe9'" in message
    assert r"'cafe\u0301'" in message
    assert "only in Unicode normalisation" in message


@pytest.mark.parametrize("kind", KINDS)
def test_one_class(kind, tmp_path):
    make(tmp_path, kind, ("only",))
    assert refused(tmp_path, kind) == f"{kind}: {tmp_path}/train: expected two classes or more, got only"


@pytest.mark.parametrize("kind", KINDS)
def test_parts_in_capitals(kind, tmp_path):
    make(tmp_path, kind, parts=("Train", "TEST"))
    if (tmp_path / "train").exists():
        pytest.skip("the file system does not tell capitals apart")
    assert refused(tmp_path, kind).endswith(" (write TEST, Train in small letters)")
    (tmp_path / "Train").rename(tmp_path / "train")
    assert refused(tmp_path, kind).endswith(" (write TEST in small letters)")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_said(kind, tmp_path):
    make(tmp_path, kind)
    cat = tmp_path / "train" / "cat"
    for name in ("a.HEIC", "b.heic", "README", "._0.png", "._0.txt", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (cat / name).write_bytes(b"\0\1")
    (cat / "more").mkdir()
    add(cat / "more", kind, 0)
    (tmp_path / "train" / "labels.csv").write_text("a")
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "test" / ".hidden").mkdir()
    data = load(tmp_path, kind)
    assert len(data.train) == 8
    why = "not decoded by Pillow" if kind == "folder" else "not .txt"
    assert data.left_out == {
        f".heic files ({why})": 2,
        f"files without an ending ({why})": 1,
        "folders inside class folders": 1,
        "files outside class folders": 1,
    }
    assert left_out_line(data.left_out) == (
        f"left out: .heic files ({why}): 2; files outside class folders: 1; files without an ending ({why}): 1; "
        "folders inside class folders: 1"
    )
    assert left_out_line({f"kind {n}": n for n in range(1, 10)}).endswith("; kind 4: 4; others: 6")


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_which_nothing_is_left(kind, tmp_path):
    make(tmp_path, kind)
    for path in (tmp_path / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    why = "not decoded by Pillow" if kind == "folder" else "not .txt"
    assert refused(tmp_path, kind).endswith(f" (left out: .heic files ({why}): 4)")


def test_endings_in_capitals_and_names_of_any_bytes(tmp_path):
    for kind in KINDS:
        root = make(tmp_path / kind, kind, each=1)
        path = next((root / "train" / "cat").iterdir())
        path.rename(path.with_name(f"\x1b[2J\udcff{path.suffix.upper()}"))
        assert len(load(root, kind).train) == 2
    (tmp_path / "folder" / "train" / "cat" / "\x1b\udcff.png").write_bytes(b"no image")
    message = refused_text(tmp_path / "folder", "folder")
    assert r"\x1b\udcff.png': not a readable image" in message
    (tmp_path / "text" / "train" / "cat" / "\x1b\udcff.txt").write_bytes(b"\xff")
    assert r"\x1b\udcff.txt', line 1: not UTF-8" in refused_text(tmp_path / "text", "text")


def refused_text(root: Path, kind: str) -> str:
    with pytest.raises(DataError) as caught:
        load(root, kind)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_links_in_a_circle_and_names_too_long(kind, tmp_path):
    make(tmp_path, kind)
    (tmp_path / "train" / "cat" / "up").symlink_to(tmp_path / "train")  # is not followed
    assert load(tmp_path, kind).left_out == {"folders inside class folders": 1}
    (tmp_path / "train" / "loop").symlink_to(tmp_path / "train" / "loop")
    assert "loop: cannot be read: " in refused(tmp_path, kind)
    with pytest.raises(DataError, match=rf"^{kind}: .*: (cannot be read: |no such|is not a folder)"):
        load(tmp_path / ("x" * 300), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_may_not_be_read(kind, tmp_path, monkeypatch):
    make(tmp_path, kind)
    real = os.scandir

    def scandir(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refused(tmp_path, kind) == f"{kind}: {tmp_path}/train/dog: cannot be read: Permission denied"


def test_the_command_line_says_what_was_left_out(tmp_path):
    data = ("--data", "folder", "--data-dir", make(tmp_path / "data", "folder"))
    settings = (*data, "--width", 0.1, "--epochs", 1, "--device", "cpu", "--validation", 0)
    (tmp_path / "data" / "train" / "cat" / "more.heic").write_bytes(b"")
    line = "left out: .heic files (not decoded by Pillow): 1"
    out = tmp_path / "model.ckpt"
    assert line in succeed("train", *settings, "--out", out).splitlines()
    assert line in succeed("eval", out, *data).splitlines()
    for arguments in (("train", *settings, "--out", tmp_path / "other.ckpt"), ("eval", out, *data)):
        assert json.loads(succeed(*arguments, "--json"))["left_out"] == {".heic files (not decoded by Pillow)": 1}
    (tmp_path / "data" / "train" / "cat" / "more.heic").unlink()
    assert "left out" not in succeed("eval", out, *data)
    other = make(tmp_path / "other", "folder", ("cat", "fox"))
    line = fail(1, "eval", out, "--data", "folder", "--data-dir", other)
    assert line == f"error: {out}: class 1 is 'dog', in folder 'fox': give data of its classes"
    (tmp_path / "data" / "train" / "c\x1bt").mkdir()
    assert r"'c\x1bt' contains the control character" in fail(1, "eval", out, *data)
    assert invoke("eval", out, *data).stderr.rstrip("\n").isprintable()
