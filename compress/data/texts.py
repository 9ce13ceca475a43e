"""Texts of the user's: a folder of text files, or tables of labels and texts."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, SeedMaskError
from ..storage.text import check_text
from .order import fixed_order

__all__ = ["RawTexts", "Texts", "load_texts"]

PARTS = ("train", "val", "test")
COLUMNS = ("label", "text")
#: A larger file is refused before it is read: all texts are kept in memory.
LARGEST_FILE = 2**30
#: Share of a single table that is held back for testing.
TEST_SHARE = 0.2

# Label and text of each example, with the place that a message names.
_Rows = list[tuple[str, str, str]]


@dataclass(frozen=True)
class Texts:
    """Texts and their labels (int64 ``[n]``)."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def subset(self, indices: NDArray[np.int64]) -> Texts:
        """The part at ``indices``."""
        return Texts(tuple(self.texts[index] for index in indices.tolist()), self.labels[indices])


@dataclass(frozen=True)
class RawTexts:
    """A data set of texts as its provider has it, before splitting and tokenising.

    Attributes:
        classes: names by label.
        train: training texts.
        test: test texts.
        val: validation texts, if the provider separates them.
    """

    classes: tuple[str, ...]
    train: Texts
    test: Texts
    val: Texts | None = None


def load_texts(data_dir: Path | None) -> RawTexts:
    """Read texts: a folder with ``train/<class>/*.txt`` or ``train.csv`` (and the same for test, val), or one CSV file.

    With both a validation and a test part, the former is for validation; otherwise the one there is holds the test
    texts. Of a single CSV file, a fifth, always the same one, is for testing. Classes are those of the training
    part, sorted.

    Raises:
        DataError: nothing there, a file that is not UTF-8, too large, empty or without its columns, fewer than two
            classes, or a class that the training part lacks.
    """
    if data_dir is None:
        raise DataError("text: nothing given to read: give --data-dir a folder with train/ and test/, or a CSV file")
    if data_dir.is_file():
        return _split(data_dir, _read_table(data_dir))
    if not data_dir.is_dir():
        raise DataError(
            f"text: {data_dir}: no such folder or file: give --data-dir a folder with train/, or a CSV file"
        )
    parts = {part: rows for part in PARTS if (rows := _read_part(data_dir, part)) is not None}
    if "train" not in parts:
        raise DataError(f"text: {data_dir} has neither train/ nor train.csv: expected train/<class>/*.txt, or a table")
    if len(parts) == 1:
        raise DataError(
            f"text: {data_dir} has no test/, test.csv, val/ or val.csv: one of them must hold the test texts"
        )
    classes = _classes(parts["train"], data_dir / "train")
    labelled = {part: _labelled(rows, classes) for part, rows in parts.items()}
    test = labelled.pop("test") if "test" in labelled else labelled.pop("val")
    return RawTexts(tuple(classes), labelled["train"], test, labelled.get("val"))


def _split(path: Path, rows: _Rows) -> RawTexts:
    order = fixed_order(len(rows))
    held = max(1, round(TEST_SHARE * len(rows)))
    train, test = ([rows[index] for index in np.sort(part).tolist()] for part in (order[held:], order[:held]))
    classes = _classes(train, path)
    return RawTexts(tuple(classes), _labelled(train, classes), _labelled(test, classes))


def _read_part(folder: Path, part: str) -> _Rows | None:
    files, table = folder / part, folder / f"{part}.csv"
    if files.is_dir() and table.exists():
        raise DataError(f"text: {folder} has both {part}/ and {part}.csv: remove one")
    if table.exists():
        return _read_table(table)
    return _read_folders(files) if files.is_dir() else None


def _read_folders(folder: Path) -> _Rows:
    rows: _Rows = []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"text: {folder} has no class folders: expected one folder of .txt files for each class")
    for name in names:
        paths = sorted(path for path in (folder / name).glob("*.txt") if not path.name.startswith("."))
        if not paths:
            raise DataError(f"text: class {folder / name} has no texts: expected .txt files")
        rows += [(name, _read(path), str(path)) for path in paths]
    return _checked(rows)


def _read_table(path: Path) -> _Rows:
    """The rows of a CSV file (RFC 4180) whose header names the columns ``label`` and ``text``; others are left out."""
    reader = csv.reader(io.StringIO(_read(path), newline=""), strict=True)
    rows: _Rows = []
    try:
        header = next(reader, [])
        missing = [column for column in COLUMNS if header.count(column) != 1]
        if missing:
            raise DataError(
                f"text: {path}: expected a header with the columns label and text, once each, "
                f"got {', '.join(header)[:100]!r}"
            )
        at = [header.index(column) for column in COLUMNS]
        for row in reader:
            if len(row) != len(header):
                raise DataError(
                    f"text: {path}, line {reader.line_num}: expected {len(header)} columns as in the header, "
                    f"got {len(row)}: put texts with commas in double quotes"
                )
            rows.append((row[at[0]].strip(), row[at[1]], f"{path}, line {reader.line_num}"))
    except csv.Error as error:
        raise DataError(f"text: {path}, line {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise DataError(f"text: {path}: a header and no texts")
    return _checked(rows)


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError(
                f"text: {path}: {size:,} bytes; expected {LARGEST_FILE:,} at most: split it, or take less of it"
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"text: {path}: not UTF-8 (byte {error.start}): convert it") from None
    except OSError as error:
        raise DataError(f"text: {path}: cannot be read: {error.strerror}") from None


def _checked(rows: _Rows) -> _Rows:
    for label, text, place in rows:
        if not text.strip():
            raise DataError(f"text: {place}: an empty text: remove it")
        try:
            check_text(label, "class name")
        except SeedMaskError as error:
            raise DataError(f"text: {place}: {error}") from None
    return rows


def _classes(rows: _Rows, where: Path) -> Mapping[str, int]:
    names = sorted({label for label, _, _ in rows})
    if len(names) < 2:
        raise DataError(f"text: {where}: expected two classes or more, got {', '.join(names)}")
    return {name: number for number, name in enumerate(names)}


def _labelled(rows: Sequence[tuple[str, str, str]], classes: Mapping[str, int]) -> Texts:
    for label, _, place in rows:
        if label not in classes:
            known = ", ".join(list(classes)[:10])
            raise DataError(f"text: {place}: class {label!r} is not among the training texts; they have: {known}")
    labels = np.array([classes[label] for label, _, _ in rows], np.int64)
    return Texts(tuple(text for _, text, _ in rows), labels)
