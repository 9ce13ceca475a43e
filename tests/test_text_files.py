"""Tables and text files as people have them: read right, or refused in one line with file and line."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import succeed
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.data.tokens import tokenise
from iterand_compress.compress.errors import DataError

GOOD = "label,text\ngood,a fine thing\nbad,an awful thing\n"


def read(root: Path, train: bytes | str, test: bytes | str = GOOD):
    for name, content in (("train.csv", train), ("test.csv", test)):
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_data(DataConfig(name="text", validation=0.0), data_dir=root)


def rows(data) -> list[tuple[list[int], str]]:
    ((tokens, labels),) = data.train.batches(100, "cpu")
    return [(row, data.classes[label]) for row, label in zip(tokens.tolist(), labels.tolist(), strict=True)]


LONG = "word " * 40_000
SOUND = {
    "blank lines": "\n\nlabel,text\n\ngood,a fine thing\n   \n\nbad,an awful thing\n\n\n",
    "a mark of byte order": "\ufeff" + GOOD,
    "lines of Windows": GOOD.replace("\n", "\r\n"),
    "lines of an old Mac": GOOD.replace("\n", "\r"),
    "spaces in the header": GOOD.replace("label,text", " label , text "),
    "no line end": GOOD.rstrip("\n"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_tables(name, tmp_path):
    data = read(tmp_path, SOUND[name])
    expected = [("a fine thing", "good"), ("an awful thing", "bad")]
    assert rows(data) == [(tokenise(text, data.input).tolist(), label) for text, label in expected]


def test_fields_of_any_length_and_the_limit_of_others_stays(tmp_path):
    before = csv.field_size_limit()
    data = read(tmp_path, f'label,text\ngood,{LONG}\nbad,"{LONG}, {LONG}"\n')
    assert rows(data) == [(tokenise(LONG, data.input).tolist(), label) for label in ("good", "bad")]
    assert csv.field_size_limit() == before
    with pytest.raises(DataError, match="line 4: not CSV"):
        read(tmp_path, f'{GOOD}"')
    assert csv.field_size_limit() == before


BAD = {
    "semicolons": (GOOD.replace(",", ";"), r"a header with the columns label and text, once each, .*got 'label;text'"),
    "tabs": (GOOD.replace(",", "\t"), r"separated by a comma, got 'label\\ttext'"),
    "ragged": (f"{GOOD}\nbad\n", r"train\.csv, line 5: expected 2 columns as in the header, got 1"),
    "NUL": (
        "label,text\ngood,a\nbad,b\0c\n",
        r"train\.csv, line 3: a NUL byte, as in UTF-16 .*\(byte 23 of the file\): convert it to UTF-8",
    ),
    "UTF-16": (GOOD.encode("utf-16-le"), r"train\.csv, line 1: a NUL byte, as in UTF-16 .*\(byte 1 of the file\)"),
    "UTF-16 with its mark": (GOOD.encode("utf-16"), r"train\.csv, line 1: not UTF-8 \(byte 0 of the file\)"),
    "latin-1": (GOOD.encode() + b"bad,caf\xe9\n", r"train\.csv, line 4: not UTF-8 \(byte \d+ of the file\)"),
    "a label too long": (f"{GOOD}{'x' * 513},y\n", r"line 4: class name: expected 1 to 512 bytes of text, got 513"),
    "a label that reorders": (f"{GOOD}a\u202eb,y\n", r"line 4: class name: 'a\\u202eb' contains the control character"),
    "labels in two forms": (
        f"{GOOD}caf\u00e9,y\ncafe\u0301,z\n",
        r"train: the classes 'cafe\\u0301' and 'caf\\xe9' differ only in Unicode normalisation",
    ),
    "one class": ("label,text\ngood,a\ngood,b\n", r"train: expected two classes or more, got good"),
    "an escape in the header": ("\x1b[2J,text\n", r"got '\\x1b\[2J, text'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(name, tmp_path):
    content, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).isprintable()


def test_a_test_table_in_another_form(tmp_path):
    train, test = (f"{GOOD}{name},y\n" for name in ("caf\u00e9", "cafe\u0301"))
    with pytest.raises(DataError, match=r"test\.csv, line 4: class 'cafe\\u0301' differs from 'caf\\xe9' of the train"):
        read(tmp_path, train, test)


def test_a_text_file_that_is_no_text(tmp_path):
    for part in ("train", "test"):
        for name in ("good", "bad"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.txt").write_text(name)
    (tmp_path / "train" / "bad" / "1.txt").write_bytes("one\ntwo".encode("utf-16-le"))
    with pytest.raises(
        DataError, match=r"bad/1\.txt, line 1: a NUL byte, .*\(byte 1 of the file\): convert it to UTF-8"
    ):
        load_data(DataConfig(name="text"), data_dir=tmp_path)


def alone(path: Path, rows: list[str]):
    path.write_text("\n".join(["label,text", *rows, ""]))
    return load_data(DataConfig(name="text", validation=0.0), data_dir=path)


@contextmanager
def noting(refusals: Counter[str]) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        refusals[str(error)] += 1


def test_the_command_line_says_how_a_table_is_split(tmp_path):
    """As it does of class folders."""
    path, out = tmp_path / "my.csv", tmp_path / "model.ckpt"
    path.write_text("\n".join(["label,text", *(f"{'ab'[n % 2]},text {n}" for n in range(20)), ""]))
    note = f"{path} is one table: a fifth of it, chosen by place, is for testing"
    small = ("--set", "data.tokens=4", "--set", "data.vocabulary=16", "--width", 0.25, "--device", "cpu")
    lines = succeed("train", "--data", "text", "--data-dir", path, *small, "--epochs", 2, "--out", out).splitlines()
    assert note in lines
    assert json.loads(succeed("eval", out, "--data-dir", path, "--json"))["split_note"] == note


def test_a_class_of_which_all_texts_are_held_out_for_testing(tmp_path):
    path = tmp_path / "tiny.csv"
    rows = [f"{label},text {number}" for number, label in enumerate(["good", "bad"] * 5)]
    assert len(alone(path, rows).test) == 2
    refusals = Counter[str]()
    for place in range(10):
        with noting(refusals):
            alone(path, [*rows[:place], "ugly,a text of its own", *rows[place + 1 :]])
    expected = (
        f"text: {path}: a fifth of a table, chosen by place, is held out for testing (2 of 10 texts), and with it "
        "every text of the class 'ugly': give more texts of that class, or a folder with train.csv and test.csv"
    )
    assert refusals == {expected: 2}
    with pytest.raises(
        DataError, match=r"\(1 of 2 texts\), and with it every text of the class '(good|bad)': give more"
    ):
        alone(path, rows[:2])
    with pytest.raises(DataError, match=r"tiny\.csv: expected two classes or more, got good$"):
        alone(path, rows[::2])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["train.csv", "alone.csv"])
def test_a_table_that_is_a_pipe(name, tmp_path):
    (tmp_path / "test.csv").write_text(GOOD)
    os.mkfifo(tmp_path / name)
    place = tmp_path if name == "train.csv" else tmp_path / name
    with pytest.raises(DataError, match=rf"{name}: not a regular file: expected a file of texts"):
        load_data(DataConfig(name="text"), data_dir=place)


def test_tables_of_other_names(tmp_path):
    (tmp_path / "notes.csv").write_text("a,b\n")
    assert read(tmp_path, GOOD).left_out == {"files beside the folders of the data set": 1}
    (tmp_path / "Valid.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"others are not read: rename Valid\.csv to val\.csv, or move it away"):
        read(tmp_path, GOOD)
