"""A folder of the user's: ``train/<class>/*`` and ``test/`` or ``val/`` of the same classes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from .source import FileSource, Labelled, RawData, image_header

__all__ = ["load_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_Listing = dict[str, list[str]]


def load_folder(data_dir: Path | None) -> RawData:
    """Read the layout of an image folder.

    With both ``val/`` and ``test/``, the former is for validation; otherwise the one there is holds the test
    images. The images are grey (one channel) if every file is.

    Raises:
        DataError: no such folder, no train or test images, classes that differ, a file that is not an image.
    """
    if data_dir is None:
        raise DataError("folder: no folder given: give --data-dir with train/ and test/ (or val/) in it")
    if not data_dir.is_dir():
        raise DataError(f"folder: {data_dir} is not a folder: give --data-dir with train/ and test/ (or val/)")
    listings = {part: _list_classes(data_dir / part) for part in ("train", "val", "test") if (data_dir / part).is_dir()}
    if "train" not in listings:
        raise DataError(f"folder: {data_dir} has no train/: expected train/<class>/ with the training images")
    if len(listings) == 1:
        raise DataError(f"folder: {data_dir} has neither test/ nor val/: one of them must hold the test images")
    for part, listing in listings.items():
        _require_same_classes(data_dir / "train", listings["train"], data_dir / part, listing)
    paths = [path for listing in listings.values() for files in listing.values() for path in files]
    channels = 1 if all(image_header(path)[1] in ("1", "L") for path in paths) else 3
    parts = {part: _labelled(listing, channels) for part, listing in listings.items()}
    test = parts.pop("test") if "test" in parts else parts.pop("val")
    return RawData(tuple(listings["train"]), parts["train"], test, parts.get("val"))


def _list_classes(folder: Path) -> _Listing:
    """Sorted classes of a folder, each with its sorted image files."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"folder: {folder} has no class folders: expected one folder of images for each class")
    listing = {}
    for name in names:
        with os.scandir(folder / name) as entries:
            files = sorted(
                entry.path
                for entry in entries
                if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
            )
        if not files:
            raise DataError(f"folder: class {folder / name} has no images: expected {', '.join(SUFFIXES)} files")
        listing[name] = files
    return listing


def _require_same_classes(train: Path, expected: _Listing, other: Path, found: _Listing) -> None:
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{other} lacks {_some(missing)}")
    if extra := [name for name in found if name not in expected]:
        problems.append(f"{train} lacks {_some(extra)}")
    if problems:
        raise DataError(f"folder: the classes differ: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _labelled(listing: _Listing, channels: int) -> Labelled:
    paths = [path for files in listing.values() for path in files]
    labels = np.repeat(np.arange(len(listing)), [len(files) for files in listing.values()])
    return Labelled(FileSource(paths, channels), labels.astype(np.int64))
