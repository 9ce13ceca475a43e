"""Folders as people have them: what is taken, what is left out and said so, and what is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import noise
from PIL import Image

from conftest import fail, invoke, succeed
from iterand_compress import load_recipe, read_seedmask
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.class_folders import left_out_line
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.errors import ConfigError, DataError
from iterand_compress.compress.seedmask import write_seedmask
from iterand_compress.compress.training.recipe import differences, recipe_for_folder

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
    "a mark of direction": ("d\u200fog", r"'d\\u200fog' contains the control character '\\u200f'"),
    "not Unicode": ("d\udcffg", r"'d\\udcffg' contains the control character '\\udcff'"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_classes_that_no_file_could_name(name, kind, tmp_path):
    new, message = BAD_NAMES[name]
    rename(make(tmp_path, kind), "dog", new)
    refusal = refused(tmp_path, kind)
    assert message.replace("\\\\", "\\") in refusal
    assert refusal.endswith(" (rename the folder)")


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


@pytest.mark.slow
def test_a_class_of_which_all_is_held_out_for_validation(tmp_path):
    make(tmp_path, "folder", each=1)
    for number in range(1, 3):
        add(tmp_path / "train" / "cat", "folder", number)
    outcomes = set()
    for seed in range(6):
        quick = ("--epochs", 1, "--width", 0.1, "--model", "conv2", "--set=data.image_size=8", "--device", "cpu", "-q")
        options = ("--data", "folder", "--data-dir", tmp_path, "--set=data.validation=0.25", "--seed", seed, *quick)
        result = invoke("train", *options, "--out", tmp_path / f"{seed}.ckpt")
        outcomes.add(result.stderr.strip() or "trained")
        if len(outcomes) == 2:
            break
    message = (
        "error: folder: all that there is of the class 'dog' is held out for validation: give more of it, a split val, "
        "or another --set data.validation=SHARE (0: none)"
    )
    assert outcomes == {"trained", message}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_in_capitals(kind, tmp_path):
    make(tmp_path, kind, parts=("Train", "TEST"))
    if (tmp_path / "train").exists():
        pytest.skip("the file system does not tell capitals apart")
    assert refused(tmp_path, kind).endswith("are not read: rename TEST/ to test/, Train/ to train/, or move it away")
    (tmp_path / "Train").rename(tmp_path / "train")
    assert refused(tmp_path, kind).endswith(" rename TEST/ to test/, or move it away")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("parts", "advice"),
    [
        (("training", "test"), "training/ to train/"),
        (("train", "testing"), "testing/ to test/"),
        (("train", "valid"), "valid/ to val/"),
        (("train", "test", "Validation"), "Validation/ to val/"),
        (("train", "test", "dev"), "dev/ to val/"),
        (("train", "val", "testing"), "testing/ to test/"),
    ],
)
def test_parts_by_other_names(parts, advice, kind, tmp_path):
    assert refused(make(tmp_path, kind, parts=parts), kind) == (
        f"{kind}: {tmp_path}: splits are called train, val, test, others are not read: rename {advice}, or move it away"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beside_the_parts_is_said(kind, tmp_path):
    make(tmp_path, kind, parts=("train", "test", "val", "valid", "extra"))
    add(tmp_path / "valid", kind, "loose")
    for name in ("empty", ".git", "dev", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / ".git" / "index").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / "also_test").symlink_to(tmp_path / "test")  # is read
    data = load(tmp_path, kind)
    assert [len(part) for part in (data.train, data.val, data.test)] == [8, 8, 8]
    assert data.left_out == {
        "files in extra/ (not train/, val/ or test/)": 8,
        "files in valid/ (not train/, val/ or test/)": 9,
        "files beside the folders of the data set": 1,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_part_in_capitals_is_said(kind, tmp_path):
    make(tmp_path, kind)
    try:
        (tmp_path / "Test").mkdir()
    except FileExistsError:
        pytest.skip("the file system does not tell capitals apart")
    add(tmp_path / "Test", kind, 0)
    assert load(tmp_path, kind).left_out == {"files in Test/ (not train/, val/ or test/)": 1}


# --- Class folders without train/ --------------------------------------------------------------------------


def unsplit(root: Path, kind: str, **each: int) -> Path:
    """Class folders with files that differ, so that the examples of a split can be told by what is in them."""
    for label, (name, count) in enumerate(each.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            one(root / name, kind, label, number)
    return root


def one(folder: Path, kind: str, label: int, number: int) -> None:
    if kind == "folder":
        pixels = np.full((8, 8, 3), 100 * label + number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    else:
        (folder / f"{number}.txt").write_text(chr(48 + 30 * label + number), encoding="utf-8")


def members(data, kind: str) -> dict[str, set[tuple[int, int]]]:
    """The (label, number) of the examples of each split."""
    found = {}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split is not None:
            inputs = torch.cat([x for x, _ in split.batches(100, "cpu")])
            first = inputs[:, 0, 0, 0].mul(255).round() if kind == "folder" else inputs[:, 0] - 49
            step = 100 if kind == "folder" else 30
            numbers = [int(value) - step * label for value, label in zip(first, split.labels.tolist(), strict=True)]
            found[name] = set(zip(split.labels.tolist(), numbers, strict=True))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_are_split_by_seed_and_file_name(kind, tmp_path):
    settings = {"unit": "bytes", "tokens": 4} if kind == "text" else {}
    config = DataConfig(name=kind, validation=0.25, **settings)
    folder = unsplit(tmp_path / "a", kind, cat=20, dog=12)
    data = load_data(config, data_dir=folder, seed=7)
    parts = members(data, kind)
    assert data.classes == ("cat", "dog")
    assert {name: len(part) for name, part in parts.items()} == data.counts == {"train": 19, "val": 7, "test": 6}
    assert len(parts["train"] | parts["val"] | parts["test"]) == 32
    assert sorted(label for label, _ in parts["test"]) == [0, 0, 0, 0, 1, 1], "a fifth of each class"
    assert data.split_note == (
        f"no train/ in {folder}: a fifth of each class is for testing, chosen by seed 7 and file name"
    )
    ending = ".png" if kind == "folder" else ".txt"
    for label, (name, count) in enumerate((("cat", 20), ("dog", 12))):
        keys = {n: hashlib.sha256(f"7\0{name}\0{n}{ending}".encode()).digest() for n in range(count)}
        first = sorted(keys, key=keys.__getitem__)[: round(count / 5)]
        assert {n for place, n in parts["test"] if place == label} == set(first)
    moved = folder.rename(tmp_path / "elsewhere")
    assert members(load_data(config, data_dir=moved, seed=7), kind) == parts
    assert members(load_data(config, data_dir=moved, seed=8), kind)["test"] != parts["test"]
    chosen = config.model_copy(update={"seed": 7})
    assert members(load_data(chosen, data_dir=moved, seed=8), kind) == parts
    one(moved / "cat", kind, 0, 20)
    assert len(parts["test"] - members(load_data(config, data_dir=moved, seed=7), kind)["test"]) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_class_folders_that_cannot_be_split(kind, tmp_path):
    noun = "images" if kind == "folder" else "texts"
    unsplit(tmp_path / "a", kind, cat=5, dog=1)
    assert refused(tmp_path / "a", kind).endswith(
        f"class {tmp_path}/a/dog has one file, and one is needed for training and one for testing: add {noun}"
    )
    unsplit(tmp_path / "b", kind, cat=5)
    assert refused(tmp_path / "b", kind).endswith(f"{tmp_path}/b: expected two classes or more, got cat")
    unsplit(tmp_path / "c", kind, cat=5, dog=5, Train=5)
    assert "rename Train/ to train/" in refused(tmp_path / "c", kind)
    (unsplit(tmp_path / "d", kind, cat=5, dog=5) / "empty").mkdir()
    assert f"class {tmp_path}/d/empty has no {noun}" in refused(tmp_path / "d", kind)


def test_data_that_are_split_have_no_note(tmp_path):
    assert load(make(tmp_path, "folder"), "folder").split_note == ""


def test_the_command_line_says_how_class_folders_are_split(tmp_path):
    folder, out = unsplit(tmp_path / "photos", "folder", cat=10, dog=5), tmp_path / "model.ckpt"
    data = ("--data", "folder", "--data-dir", folder, "--seed", 3)
    note = f"no train/ in {folder}: a fifth of each class is for testing, chosen by seed 3 and file name"
    lines = succeed("train", *data, "--width", 0.1, "--epochs", 1, "--device", "cpu", "--out", out).splitlines()
    assert note in lines
    assert lines[0].startswith(
        "iterand on folder (11 training, 1 validation and 3 test images of 8×8 pixels; 2 classes: cat, dog): digits-cnn"
    )
    assert note in succeed("eval", out, "--data-dir", folder).splitlines()
    assert json.loads(succeed("eval", out, "--data-dir", folder, "--json"))["split_note"] == note
    answer = json.loads(
        succeed(
            "train", *data, "--width", 0.1, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "b.ckpt", "--json"
        )
    )
    assert answer["split_note"] == note
    assert answer["examples"] == {"train": 11, "val": 1, "test": 3}
    assert answer["classes"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("sizes", "name", "image_size"),
    [
        ([(8, 8)], "digits-cnn", None),
        ([(28, 28)], "digits-cnn", None),
        ([(32, 32)], "resnet18", None),
        ([(96, 96)], "resnet18", None),
        ([(97, 97)], "resnet18", 64),
        ([(300, 200), (640, 480), (200, 300)], "resnet18", 64),
        ([(40, 60), (30, 31), (500, 400)], "resnet18", 32),
        ([(9, 12)], "resnet18", 32),
    ],
)
def test_the_network_of_a_folder_is_chosen_by_the_size_of_its_images(sizes, name, image_size, tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number, size in enumerate(sizes * 2):
            Image.new("RGB", size).save(tmp_path / label / f"{number}.png")
    recipe = recipe_for_folder(tmp_path)
    assert (recipe.data.name, recipe.model.name, recipe.data.image_size) == ("folder", name, image_size)
    assert recipe.model.width == (1.0 if name == "digits-cnn" else 0.25)


@pytest.mark.slow
def test_photos_of_many_sizes_train_without_a_single_setting(tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "model.ckpt"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(noise(number, 50 + number, 80, 3)).save(folder / label / f"{number}.jpg")
    data = ("--data", "folder", "--data-dir", folder, "--device", "cpu", "--out", out)
    line = succeed("train", *data, "--epochs", 1).splitlines()[0]
    assert "(7 training, 1 validation and 2 test images of 64×64 pixels; 2 classes: cat, dog): resnet18, " in line
    stored = load_checkpoint(out).recipe
    assert (
        differences(load_recipe("photos", train={"epochs": 1, "precision": "float32", "scale_free": True}), stored)
        == []
    )


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_without_training_data_says_what_they_are_for(kind, tmp_path):
    message = refused(make(tmp_path, kind, parts=("test",)), kind)
    assert message.endswith("; evaluation needs it, too, for the classes and the size of images")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("kind", KINDS)
def test_pipes_are_not_read(kind, tmp_path):
    make(tmp_path, kind)
    suffix = ".png" if kind == "folder" else ".txt"
    os.mkfifo(tmp_path / "train" / "cat" / f"pipe{suffix}")
    (tmp_path / "test" / "dog" / f"device{suffix}").symlink_to("/dev/null")
    data = load(tmp_path, kind)
    assert len(data.train) == 8
    assert data.left_out == {"pipes, sockets or devices": 2}
    (tmp_path / "train" / "cat" / f"lost{suffix}").symlink_to("nothing")
    assert f"lost{suffix}" in refused_text(tmp_path, kind)


def test_a_folder_for_data_that_are_in_none(tmp_path):
    for name in ("digits", "sentences"):
        with pytest.raises(ConfigError) as caught:
            load_data(DataConfig(name=name), data_dir=tmp_path)
        assert str(caught.value) == (
            f"data: {name} is in no folder, {tmp_path} would not be read: give --data folder (class folders of images) "
            "or --data text (texts), or leave out --data-dir"
        )


def test_commands_refuse_a_folder_for_data_that_are_in_none(digits, tmp_path):
    make(tmp_path / "photos", "folder")
    for command in (
        ("train", "--out", tmp_path / "model.ckpt"),
        ("eval", digits.seedmask),
        ("eval", digits.onnx),
        ("export", digits.seedmask, "--onnx", tmp_path / "model.onnx"),
    ):
        line = fail(2, *command, "--data-dir", tmp_path / "photos")
        assert line.startswith(
            f"error: data: digits is in no folder, {tmp_path / 'photos'} would not be read: give --data"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    bare = tmp_path / "bare.seedmask"
    write_seedmask(replace(read_seedmask(digits.seedmask).network(), recipe=None), bare)
    line = fail(2, "export", bare, "--onnx", tmp_path / "model.onnx", "--data-dir", tmp_path / "photos")
    assert line == "error: export: the file does not say what it was trained on: leave out --data-dir"


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
    assert f" (left out: .heic files ({why}): 4); put some in" in refused(tmp_path, kind)


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
    settings = (*data, "--width", 0.1, "--epochs", 1, "--device", "cpu", "--set=data.validation=0")
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


@pytest.mark.slow
def test_a_colour_network_takes_grey_folders(tmp_path):
    make(tmp_path / "colour", "folder", each=6)
    out = tmp_path / "model.ckpt"
    data = ("--data", "folder", "--data-dir")
    settings = ("--width", 0.1, "--epochs", 1, "--device", "cpu", "--set=data.validation=0", "--out", out)
    succeed("train", *data, tmp_path / "colour", *settings)
    succeed("pack", out)
    succeed("export", out.with_suffix(".seedmask"), "--onnx", tmp_path / "model.onnx")
    for path in make(tmp_path / "grey", "folder", each=6).rglob("*.png"):
        with Image.open(path) as image:
            grey = image.convert("L")
        grey.save(path)
        (as_colour := tmp_path / "rgb" / path.relative_to(tmp_path / "grey")).parent.mkdir(parents=True, exist_ok=True)
        grey.convert("RGB").save(as_colour)
    assert load(tmp_path / "grey", "folder").input.shape == (1, 8, 8)
    for file in (out, out.with_suffix(".seedmask"), tmp_path / "model.onnx"):
        scores = [json.loads(succeed("eval", file, *data, tmp_path / name, "--json")) for name in ("grey", "rgb")]
        assert scores[0] == scores[1]
    succeed("train", *data, tmp_path / "grey", *settings, "--force")
    line = fail(1, "eval", out, *data, tmp_path / "colour")
    assert line.startswith(
        f"error: {out} takes images of shape (1, 8, 8), folder has (3, 8, 8): give images of these ch"
    )
