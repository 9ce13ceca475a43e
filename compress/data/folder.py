"""A user's folder of images: ``train/<class>/*``, and ``test/`` or ``val/`` with the same classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files.names import printable
from .class_folders import SPLITS, FileKind, check_splits, list_classes, require_several, same_when_normalised
from .image_files import image_header, suffixes
from .image_source import FileSource, LabelledImages
from .raw_data import RawData

__all__ = ["load_folder"]

_Listing = dict[str, list[str]]


def load_folder(data_dir: Path | None) -> RawData[LabelledImages]:
    """Read the layout of an image folder.

    With both ``val/`` and ``test/``, the former is for validation; otherwise the one that is there holds the test
    images. The images are grey (one channel) if every file is.

    Raises:
        DataError: no such folder, no train or test images, fewer than two classes, classes that differ between
            splits or that no packed file could name, a file that is not an image.
        OSError: a folder cannot be read.
    """
    if data_dir is None:
        raise DataError("folder: no folder given: give --data-dir with train/ and test/ (or val/) in it")
    shown = printable(data_dir)
    if not data_dir.is_dir():
        raise DataError(f"folder: {shown} is not a folder: give --data-dir with train/ and test/ (or val/)")
    expected = "expected .png, .jpg or other files that Pillow decodes"
    kind = FileKind("folder", "images", suffixes(), expected, "not decoded by Pillow")
    left_out: Counter[str] = Counter()
    splits = {split: data_dir / split for split in SPLITS if (data_dir / split).is_dir()}
    check_splits(data_dir, kind, splits, left_out)
    listings = {split: list_classes(path, kind, left_out) for split, path in splits.items()}
    require_several(listings["train"], f"folder: {printable(splits['train'])}")
    for split, listing in listings.items():
        _require_same_classes(splits["train"], listings["train"], splits[split], listing)
    paths = [path for listing in listings.values() for files in listing.values() for path in files]
    channels = 1 if all(image_header(path)[1] in ("1", "L") for path in paths) else 3
    examples = {split: _labelled(listing, channels) for split, listing in listings.items()}
    return RawData.of(tuple(listings["train"]), examples, left_out)


def _require_same_classes(train: Path, expected: _Listing, other: Path, listing: _Listing) -> None:
    missing = [name for name in expected if name not in listing]
    extra = [name for name in listing if name not in expected]
    for name in missing:
        if same := same_when_normalised(name, extra):
            raise DataError(
                f"folder: the classes differ: {printable(train)} has {name!a} and {printable(other)} has {same!a}, "
                "which differ only in Unicode normalisation: rename one of the folders"
            )
    problems = [
        f"{printable(folder)} lacks {_some(names)}" for folder, names in ((other, missing), (train, extra)) if names
    ]
    if problems:
        raise DataError(f"folder: the classes differ: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _labelled(listing: _Listing, channels: int) -> LabelledImages:
    paths = [path for files in listing.values() for path in files]
    labels = np.repeat(np.arange(len(listing)), [len(files) for files in listing.values()])
    return LabelledImages(FileSource(paths, channels), labels.astype(np.int64))
