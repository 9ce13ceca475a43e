"""A user's data set on disk: its splits, a folder for each class, and what in them is read or left out."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, SeedMaskError
from ..files.names import check_text, printable

__all__ = [
    "SPLITS",
    "TEST_SHARE",
    "FileKind",
    "check_class_names",
    "check_splits",
    "is_unsplit",
    "left_out_line",
    "list_classes",
    "list_files",
    "require_several",
    "same_when_normalised",
    "split_by_seed",
]

#: Names of the folders (or tables) of a data set.
SPLITS = ("train", "val", "test")
#: Fraction of the examples that is held out for testing where no split is there.
TEST_SHARE = 0.2
#: Other common names of a split, which are refused: they would silently not be read.
_OTHER_NAMES = {
    **{name: name for name in SPLITS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
#: What operating systems leave in folders, apart from files that begin with a dot.
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
#: What is left out, as reading a pipe might wait for ever.
_NOT_REGULAR = "pipes, sockets or devices"
#: Kinds of files that a message names, at most.
_NAMED = 6


@dataclass(frozen=True)
class FileKind:
    """Which files of a class folder are read.

    Attributes:
        name: of the data set, for messages.
        noun: "images" or "texts".
        suffixes: endings of the files, in lower case.
        expected: the end of the message that there are none.
        reason: why other files are left out.
    """

    name: str
    noun: str
    suffixes: tuple[str, ...]
    expected: str
    reason: str


def list_classes(folder: Path, kind: FileKind, left_out: Counter[str]) -> dict[str, list[str]]:
    """List the classes of a folder, sorted, each with its sorted files.

    Args:
        folder: holds a folder for each class.
        kind: the files to read; their endings may be in capitals.
        left_out: counts what is not read, by its kind. Hidden files are not counted.

    Raises:
        DataError: there are no class folders, or one holds no file of this kind or has a name that no class can have.
        OSError: a folder cannot be read.
    """
    entries = _visible(folder)
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise DataError(
            f"{kind.name}: {printable(folder)} has no class folders: expected one folder of {kind.noun} for each class"
        )
    check_class_names(names, f"{kind.name}: {printable(folder)}", "folder")
    if len(entries) > len(names):
        left_out["files outside class folders"] += len(entries) - len(names)
    listing = {}
    for name in names:
        files, other = _list_files(folder / name, kind)
        if not files:
            there = f" ({left_out_line(other)})" if other else ""
            raise DataError(
                f"{kind.name}: class {printable(folder / name)} has no {kind.noun}: {kind.expected}{there}; put "
                "some in, or remove the folder"
            )
        listing[name] = files
        left_out.update(other)
    return listing


def _list_files(folder: Path, kind: FileKind) -> tuple[list[str], Counter[str]]:
    files, other = [], Counter[str]()
    for entry in _visible(folder):
        if entry.is_dir():
            other["folders inside class folders"] += 1
        elif not entry.is_file() and Path(entry.path).exists():  # reading a pipe might wait for ever
            other[_NOT_REGULAR] += 1
        elif entry.name.lower().endswith(kind.suffixes):
            files.append(entry.path)
        else:
            other[f"{_kind_by_ending(entry.name)} ({kind.reason})"] += 1
    return sorted(files), other


def list_files(folder: Path, suffixes: tuple[str, ...], left_out: Counter[str]) -> list[str]:
    """List the files with one of some endings in a folder and all folders inside, sorted; hidden ones are passed over.

    Args:
        folder: where to look.
        suffixes: endings in lower case; those of the files may be in capitals.
        left_out: counts files with other endings, by their kind.
    """
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            if _is_hidden(name):
                continue
            path = os.path.join(root, name)  # noqa: PTH118  (names need not be Unicode)
            if not os.path.isfile(path) and os.path.exists(path):  # noqa: PTH110, PTH113
                left_out[_NOT_REGULAR] += 1
            elif name.lower().endswith(suffixes):
                found.append(path)
            else:
                left_out[_kind_by_ending(name)] += 1
    return sorted(found)


def _kind_by_ending(name: str) -> str:
    _, suffix = os.path.splitext(name)  # noqa: PTH122  (names need not be Unicode)
    return f"{printable(suffix.lower())} files" if suffix else "files without an ending"


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, except hidden ones."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not _is_hidden(entry.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def left_out_line(left_out: Mapping[str, int]) -> str:
    """Say in one line what was not read, the most frequent kind first; an empty text if all was read."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{kind}: {count:,}" for kind, count in kinds[:_NAMED]]
    if rest := sum(count for _, count in kinds[_NAMED:]):
        shown.append(f"others: {rest:,}")
    return "left out: " + "; ".join(shown) if shown else ""


def check_splits(folder: Path, kind: FileKind, splits: Mapping[str, Path], left_out: Counter[str]) -> None:
    """Refuse a data set without training or test data, or with a split under another name; count what is not read.

    Args:
        folder: of the data set.
        kind: its files.
        splits: the folders or tables that are there, by the name of the split.
        left_out: counts what is not read.

    Raises:
        DataError: a split must be renamed, or is missing.
        OSError: the folder cannot be read.
    """
    _check_other_names(folder, kind.name, splits, left_out)
    shown, tables = printable(folder), kind.noun == "texts"
    if "train" not in splits:
        missing = (
            "neither train/ nor train.csv: expected train/<class>/*.txt, or a table"
            if tables
            else "no train/: expected train/<class>/ with the training images"
        )
        raise DataError(f"{kind.name}: {shown} has {missing}{_advice(folder, kind)}")
    if len(splits) == 1:
        missing = "no test/, test.csv, val/ or val.csv" if tables else "neither test/ nor val/"
        raise DataError(f"{kind.name}: {shown} has {missing}: one of them must hold the test {kind.noun}")


def is_unsplit(folder: Path, kind: FileKind, splits: Mapping[str, Path]) -> bool:
    """Whether a data set consists of class folders alone, with no folder or table of a split.

    Raises:
        DataError: a split is there under another name.
        OSError: the folder cannot be read.
    """
    if splits or not _with_files(folder, kind):
        return False
    _check_other_names(folder, kind.name, splits, Counter())
    return True


def split_by_seed(
    listing: Mapping[str, Sequence[str]], seed: int, folder: Path, kind: FileKind
) -> tuple[dict[str, dict[str, list[str]]], str]:
    """Hold out a fifth of each class for testing.

    Which files these are follows from the seed and the names of class and file, so a file that is added moves few
    others.

    Args:
        listing: files of each class.
        seed: of the split.
        folder: that holds the classes, for messages.
        kind: its files.

    Returns:
        ``train`` and ``test`` with the files of each class, sorted; and a sentence that says how they were split.

    Raises:
        DataError: a class has one file.
    """
    parts: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name, files in listing.items():
        if len(files) < 2:
            raise DataError(
                f"{kind.name}: class {printable(folder / name)} has one file, and one is needed for training and one "
                f"for testing: add {kind.noun}"
            )
        order = sorted(files, key=lambda path, name=name: _place(seed, name, os.path.basename(path)))  # type: ignore[misc]  # noqa: PTH119
        count = max(1, round(TEST_SHARE * len(files)))
        parts["test"][name], parts["train"][name] = sorted(order[:count]), sorted(order[count:])
    note = (
        f"no train/ in {printable(folder)}: a fifth of each class is for testing, chosen by seed {seed} and file name"
    )
    return parts, note


def _place(seed: int, *names: str) -> bytes:
    """A number for a file that looks random, the same wherever the folder lies."""
    text = "\0".join((str(seed), *(unicodedata.normalize("NFC", name) for name in names)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _with_files(folder: Path, kind: FileKind) -> list[os.DirEntry[str]]:
    """The folders inside that hold files of a kind."""
    return [entry for entry in _visible(folder) if entry.is_dir() and _list_files(Path(entry.path), kind)[0]]


def _check_other_names(folder: Path, name: str, splits: Mapping[str, Path], left_out: Counter[str]) -> None:
    renames = []
    for entry in sorted(_visible(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if not path.exists() or any(path.samefile(other) for other in splits.values()):  # file systems may ignore case
            continue
        is_folder = path.is_dir()
        files = _count_files(path) if is_folder else 1
        suffix = "" if is_folder else path.suffix
        split = _OTHER_NAMES.get(entry.name.removesuffix(suffix).lower())
        may_be_split = is_folder or (name == "text" and suffix.lower() == ".csv")
        if files and may_be_split and split is not None and split not in splits:
            old, new = (f"{printable(shown)}{'/' * is_folder}" for shown in (entry.name, f"{split}{suffix.lower()}"))
            renames.append(f"{old} to {new}")
        elif files and is_folder:
            left_out[f"files in {printable(entry.name)}/ (not train/, val/ or test/)"] += files
        elif files:
            left_out["files beside the folders of the data set"] += 1
    if renames:
        raise DataError(
            f"{name}: {printable(folder)}: splits are called {', '.join(SPLITS)}, others are not read: "
            f"rename {', '.join(renames)}, or move it away"
        )


def _count_files(folder: Path) -> int:
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        count += sum(not _is_hidden(name) for name in files)
    return count


def _advice(folder: Path, kind: FileKind) -> str:
    """The end of the message that there is no training split: where to put classes, or why it is needed."""
    if any((folder / f"test{suffix}").exists() for suffix in ("", ".csv")):
        return "; evaluation needs it, too, for the classes and the size of images"
    classes = _with_files(folder, kind)
    if not classes:
        return ""
    names = sorted(printable(entry.name) for entry in classes)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"; {shown}: if these are classes, move them into train/, and some of their {kind.noun} into "
        f"folders of the same names in test/"
    )


def check_class_names(names: Iterable[str], where: str, noun: str) -> None:
    """Refuse class names that a packed file cannot hold, or that look the same.

    Args:
        names: of the classes.
        where: begins the message.
        noun: what to rename, such as "folder".

    Raises:
        DataError: a name is one of these.
    """
    composed: dict[str, str] = {}
    for name in names:
        try:
            check_text(name, "class name")
        except SeedMaskError as error:
            raise DataError(f"{where}: {error} (rename the {noun})") from None
        other = composed.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"{where}: the classes {other!a} and {name!a} differ only in Unicode normalisation: put them together"
            )


def require_several(classes: Collection[str], where: str) -> None:
    """Refuse fewer than two classes.

    Raises:
        DataError: there are fewer; the message begins with ``where`` and names the one class.
    """
    if len(classes) < 2:
        raise DataError(f"{where}: expected two classes or more, got {', '.join(classes)}")


def same_when_normalised(name: str, names: Iterable[str]) -> str | None:
    """Find the one of ``names`` that differs from ``name`` in Unicode normalisation only."""
    wanted = unicodedata.normalize("NFC", name)
    return next((other for other in names if other != name and unicodedata.normalize("NFC", other) == wanted), None)
