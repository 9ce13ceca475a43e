"""A user's texts: a folder of text files, or tables of labels and texts."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, SeedMaskError
from ..files.names import check_text, printable
from .class_folders import (
    SPLITS,
    TEST_SHARE,
    FileKind,
    check_class_names,
    check_splits,
    is_unsplit,
    list_classes,
    require_several,
    same_when_normalised,
    split_by_seed,
)
from .order import fixed_order
from .raw_data import RawData

__all__ = ["LabelledTexts", "load_texts"]

COLUMNS = ("label", "text")
#: A larger file is refused before it is read: all texts are kept in memory.
LARGEST_FILE = 2**30

_TEXT_FILES = FileKind("text", "texts", (".txt",), "expected .txt files", "not .txt")

# Label and text of each example, and where it is, for messages.
_Rows = list[tuple[str, str, str]]


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, and their labels int64 ``[n]``."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def subset(self, indices: NDArray[np.int64]) -> LabelledTexts:
        """Take the texts at ``indices``, in that order."""
        return LabelledTexts(tuple(self.texts[index] for index in indices.tolist()), self.labels[indices])


def load_texts(data_dir: Path | None, seed: int = 0) -> RawData[LabelledTexts]:
    """Read texts: a folder with ``train/<class>/*.txt`` or ``train.csv`` (and the same for test, val), or one CSV file.

    With both a validation and a test split, the former is for validation; otherwise the one that is there holds the
    test texts. Of a single CSV file, a fifth, always the same one, is for testing; of class folders without ``train/``,
    a fifth of each class, chosen by ``seed`` and file name. Classes are those of the training texts, sorted.

    Raises:
        DataError: no data, a file that is not UTF-8, too large, empty or without its columns, fewer than two
            classes, or a class that the training texts lack.
    """
    if data_dir is None:
        raise DataError("text: nothing given to read: give --data-dir a folder with train/ and test/, or a CSV file")
    shown = printable(data_dir)
    if data_dir.exists() and not data_dir.is_dir():
        return _split(data_dir, _read_table(data_dir))
    if not data_dir.is_dir():
        raise DataError(f"text: {shown}: no such folder or file: give --data-dir a folder with train/, or a CSV file")
    left_out: Counter[str] = Counter()
    splits = {split: path for split in SPLITS if (path := _find_split(data_dir, split)) is not None}
    if is_unsplit(data_dir, _TEXT_FILES, splits):
        listings, note = split_by_seed(list_classes(data_dir, _TEXT_FILES, left_out), seed, data_dir, _TEXT_FILES)
        rows = {split: _read_listing(listing) for split, listing in listings.items()}
    else:
        check_splits(data_dir, _TEXT_FILES, splits, left_out)
        note = ""
        rows = {
            split: _read_listing(list_classes(path, _TEXT_FILES, left_out)) if path.is_dir() else _read_table(path)
            for split, path in splits.items()
        }
    classes = _classes(rows["train"], data_dir / "train" if splits else data_dir)
    examples = {split: _labelled(some, classes) for split, some in rows.items()}
    return RawData.of(tuple(classes), examples, left_out, note)


def _split(path: Path, rows: _Rows) -> RawData[LabelledTexts]:
    order = fixed_order(len(rows))
    count = max(1, round(TEST_SHARE * len(rows)))
    train, test = ([rows[index] for index in np.sort(some).tolist()] for some in (order[count:], order[:count]))
    classes = _classes(rows, path)
    known = {label for label, _, _ in train}
    if lacking := [name for name in classes if name not in known]:
        raise DataError(
            f"text: {printable(path)}: a fifth of a table, chosen by place, is held out for testing "
            f"({count:,} of {len(rows):,} texts), and with it every text of the class {lacking[0]!r}: give more texts "
            "of that class, or a folder with train.csv and test.csv"
        )
    note = f"{printable(path)} is one table: a fifth of it, chosen by place, is for testing"
    return RawData(tuple(classes), _labelled(train, classes), _labelled(test, classes), split_note=note)


def _find_split(folder: Path, split: str) -> Path | None:
    files, table = folder / split, folder / f"{split}.csv"
    if files.is_dir() and table.exists():
        raise DataError(f"text: {printable(folder)} has both {split}/ and {split}.csv: remove one")
    if table.exists():
        return table
    return files if files.is_dir() else None


def _read_listing(listing: Mapping[str, Sequence[str]]) -> _Rows:
    return _checked([(name, _read(Path(path)), printable(path)) for name, paths in listing.items() for path in paths])


def _read_table(path: Path) -> _Rows:
    """Read a CSV file (RFC 4180) whose header names the columns ``label`` and ``text``; other columns are left out.

    Blank lines are skipped.
    """
    shown = printable(path)
    reader = csv.reader(io.StringIO(_read(path), newline=""), strict=True)
    filled = (row for row in reader if len(row) > 1 or "".join(row).strip())
    rows: _Rows = []
    with _long_fields():
        try:
            header = [cell.strip() for cell in next(filled, [])]
            missing = [column for column in COLUMNS if header.count(column) != 1]
            if missing:
                raise DataError(
                    f"text: {shown}: expected a header with the columns label and text, once each, separated by a "
                    f"comma, got {', '.join(header)[:100]!a}"
                )
            at = [header.index(column) for column in COLUMNS]
            for row in filled:
                place = f"{shown}, line {reader.line_num}"
                if len(row) != len(header):
                    raise DataError(
                        f"text: {place}: expected {len(header)} columns as in the header, "
                        f"got {len(row)}: put texts with commas in double quotes"
                    )
                rows.append((row[at[0]].strip(), row[at[1]], place))
        except csv.Error as error:
            raise DataError(f"text: {shown}, line {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise DataError(f"text: {shown}: a header and no texts")
    return _checked(rows)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit on the length of fields, 131,072 for all readers of the process."""
    before = csv.field_size_limit(LARGEST_FILE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read(path: Path) -> str:
    shown = printable(path)
    if not path.is_file():  # reading a pipe might wait for ever
        raise DataError(f"text: {shown}: not a regular file: expected a file of texts, copy them into one")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise DataError(
            f"text: {shown}: {size:,} bytes; expected {LARGEST_FILE:,} at most: split it, or take less of it"
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
        bad, problem = data.find(b"\0"), "a NUL byte, as in UTF-16 or in what is no text"
    except UnicodeDecodeError as error:
        bad, problem = error.start, "not UTF-8"
    if bad >= 0:
        line = data.count(b"\n", 0, bad) + 1
        raise DataError(f"text: {shown}, line {line}: {problem} (byte {bad} of the file): convert it to UTF-8")
    return text


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
    check_class_names(names, f"text: {printable(where)}", "class")
    require_several(names, f"text: {printable(where)}")
    return {name: number for number, name in enumerate(names)}


def _labelled(rows: Sequence[tuple[str, str, str]], classes: Mapping[str, int]) -> LabelledTexts:
    for label, _, place in rows:
        if label not in classes:
            if same := same_when_normalised(label, classes):
                raise DataError(
                    f"text: {place}: class {label!a} differs from {same!a} of the training texts only in Unicode "
                    "normalisation: write both alike"
                )
            known = ", ".join(list(classes)[:10])
            raise DataError(f"text: {place}: class {label!r} is not among the training texts; they have: {known}")
    labels = np.array([classes[label] for label, _, _ in rows], np.int64)
    return LabelledTexts(tuple(text for _, text, _ in rows), labels)
