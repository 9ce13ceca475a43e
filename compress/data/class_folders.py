"""Folders of the user's that hold a folder for each class: what is taken from them, and what is left out."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, SeedMaskError
from ..files.names import check_text, printable

__all__ = [
    "PARTS",
    "Wanted",
    "check_names",
    "left_out_line",
    "list_classes",
    "look_around",
    "require_several",
    "twin",
    "unsplit",
]

#: Names of the folders (or tables) of a data set.
PARTS = ("train", "val", "test")
#: What else they are called, and then not read.
_MEANT = {
    **{name: name for name in PARTS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
#: What operating systems leave in folders, beside files that begin with a dot.
_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
#: Kinds of files that a line names, at most.
_NAMED = 6


@dataclass(frozen=True)
class Wanted:
    """Which files of a class folder are taken.

    Attributes:
        name: of the data set.
        noun: what they are.
        suffixes: their endings, in small letters.
        expected: what to tell those who have none.
        reason: why the others are left out.
    """

    name: str
    noun: str
    suffixes: tuple[str, ...]
    expected: str
    reason: str


def list_classes(folder: Path, wanted: Wanted, left_out: Counter[str]) -> dict[str, list[str]]:
    """Sorted classes of a folder, each with its sorted files.

    Args:
        folder: with a folder for each class.
        wanted: the files to take; their endings may be in capitals.
        left_out: counts what is not taken, by what it is. Hidden files are not mentioned.

    Raises:
        DataError: no class folders, one without such a file, or names that cannot be those of classes.
        OSError: a folder cannot be read.
    """
    entries = _visible(folder)
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise DataError(
            f"{wanted.name}: {printable(folder)} has no class folders: "
            f"expected one folder of {wanted.noun} for each class"
        )
    check_names(names, f"{wanted.name}: {printable(folder)}", "folder")
    if len(entries) > len(names):
        left_out["files outside class folders"] += len(entries) - len(names)
    listing = {}
    for name in names:
        files, other = _list_files(folder / name, wanted)
        if not files:
            there = f" ({left_out_line(other)})" if other else ""
            raise DataError(
                f"{wanted.name}: class {printable(folder / name)} has no {wanted.noun}: {wanted.expected}{there}"
            )
        listing[name] = files
        left_out.update(other)
    return listing


def _list_files(folder: Path, wanted: Wanted) -> tuple[list[str], Counter[str]]:
    files, other = [], Counter[str]()
    for entry in _visible(folder):
        if entry.is_dir():
            other["folders inside class folders"] += 1
        elif not entry.is_file() and Path(entry.path).exists():  # reading a pipe might wait for ever
            other["pipes, sockets or devices"] += 1
        elif entry.name.lower().endswith(wanted.suffixes):
            files.append(entry.path)
        else:
            _, suffix = os.path.splitext(entry.name)  # noqa: PTH122  (names need not be Unicode)
            kind = f"{printable(suffix.lower())} files" if suffix else "files without an ending"
            other[f"{kind} ({wanted.reason})"] += 1
    return sorted(files), other


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, but for what systems put there."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not _is_hidden(entry.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def left_out_line(left_out: Mapping[str, int]) -> str:
    """One line about what was not taken, the most frequent first; empty if that is nothing."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{kind}: {count:,}" for kind, count in kinds[:_NAMED]]
    if rest := sum(count for _, count in kinds[_NAMED:]):
        shown.append(f"others: {rest:,}")
    return "left out: " + "; ".join(shown) if shown else ""


def look_around(folder: Path, name: str, read: Collection[Path], left_out: Counter[str]) -> None:
    """Count what lies beside the parts of a data set, and refuse what must be meant for a part that is not there.

    Args:
        folder: of the data set.
        name: of the data set.
        read: its parts, folders or tables.
        left_out: counts what is not read.

    Raises:
        DataError: telling how to rename it.
        OSError: the folder cannot be read.
    """
    there, renames = {path.stem for path in read}, []
    for entry in sorted(_visible(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if not path.exists() or any(path.samefile(other) for other in read):  # capitals may make no difference
            continue
        is_folder = path.is_dir()
        files = _count_files(path) if is_folder else 1
        suffix = "" if is_folder else path.suffix
        part = _MEANT.get(entry.name.removesuffix(suffix).lower())
        is_part = is_folder or (name == "text" and suffix.lower() == ".csv")
        if files and is_part and part is not None and part not in there:
            old, new = (f"{printable(shown)}{'/' * is_folder}" for shown in (entry.name, f"{part}{suffix.lower()}"))
            renames.append(f"{old} to {new}")
        elif files and is_folder:
            left_out[f"files in {printable(entry.name)}/ (not train/, val/ or test/)"] += files
        elif files:
            left_out["files beside the folders of the data set"] += 1
    if renames:
        raise DataError(
            f"{name}: {printable(folder)}: parts are called {', '.join(PARTS)}, others are not read: "
            f"rename {', '.join(renames)}, or move it away"
        )


def _count_files(folder: Path) -> int:
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        count += sum(not _is_hidden(name) for name in files)
    return count


def unsplit(folder: Path, wanted: Wanted) -> str:
    """What to add to the message that there is no training part: where class folders belong, or what is lacking."""
    if any((folder / f"test{suffix}").exists() for suffix in ("", ".csv")):
        return "; evaluation needs it, too, for the classes and the size of images"
    classes = [entry for entry in _visible(folder) if entry.is_dir() and _list_files(Path(entry.path), wanted)[0]]
    if not classes:
        return ""
    names = sorted(printable(entry.name) for entry in classes)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"; {shown}: if these are classes, move them into train/, and some of their {wanted.noun} into "
        f"folders of the same names in test/"
    )


def check_names(names: Iterable[str], where: str, noun: str) -> None:
    """Refuse names of classes that no packed file could hold, or that look the same.

    Raises:
        DataError: naming ``where``, what is wrong, and the ``noun`` to rename.
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
        DataError: naming ``where`` and the one there is.
    """
    if len(classes) < 2:
        raise DataError(f"{where}: expected two classes or more, got {', '.join(classes)}")


def twin(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that differs from ``name`` in Unicode normalisation only."""
    wanted = unicodedata.normalize("NFC", name)
    return next((other for other in names if other != name and unicodedata.normalize("NFC", other) == wanted), None)
