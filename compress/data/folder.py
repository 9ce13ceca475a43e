"""A folder of the user's: ``train/<class>/*`` and ``test/`` or ``val/`` of the same classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files.names import printable
from .class_folders import PARTS, Wanted, list_classes, look_around, require_several, twin, unsplit
from .image_files import image_header, suffixes
from .image_source import FileSource, LabelledImages
from .raw_data import RawData

__all__ = ["load_folder"]

_Listing = dict[str, list[str]]


def load_folder(data_dir: Path | None) -> RawData[LabelledImages]:
    """Read the layout of an image folder.

    With both ``val/`` and ``test/``, the former is for validation; otherwise the one there is holds the test
    images. The images are grey (one channel) if every file is.

    Raises:
        DataError: no such folder, no train or test images, fewer than two classes, classes that differ or that no
            packed file could name, a file that is not an image.
        OSError: a folder cannot be read.
    """
    if data_dir is None:
        raise DataError("folder: no folder given: give --data-dir with train/ and test/ (or val/) in it")
    shown = printable(data_dir)
    if not data_dir.is_dir():
        raise DataError(f"folder: {shown} is not a folder: give --data-dir with train/ and test/ (or val/)")
    expected = "expected .png, .jpg or other files that Pillow decodes"
    wanted = Wanted("folder", "images", suffixes(), expected, "not decoded by Pillow")
    left_out: Counter[str] = Counter()
    parts = [part for part in PARTS if (data_dir / part).is_dir()]
    look_around(data_dir, "folder", [data_dir / part for part in parts], left_out)
    if "train" not in parts:
        raise DataError(
            f"folder: {shown} has no train/: expected train/<class>/ with the training images"
            f"{unsplit(data_dir, wanted)}"
        )
    if len(parts) == 1:
        raise DataError(f"folder: {shown} has neither test/ nor val/: one of them must hold the test images")
    listings = {part: list_classes(data_dir / part, wanted, left_out) for part in parts}
    require_several(listings["train"], f"folder: {printable(data_dir / 'train')}")
    for part, listing in listings.items():
        _require_same_classes(data_dir / "train", listings["train"], data_dir / part, listing)
    paths = [path for listing in listings.values() for files in listing.values() for path in files]
    channels = 1 if all(image_header(path)[1] in ("1", "L") for path in paths) else 3
    labelled = {part: _labelled(listing, channels) for part, listing in listings.items()}
    test = labelled.pop("test") if "test" in labelled else labelled.pop("val")
    return RawData(tuple(listings["train"]), labelled["train"], test, labelled.get("val"), left_out=left_out)


def _require_same_classes(train: Path, expected: _Listing, other: Path, found: _Listing) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    for name in missing:
        if same := twin(name, extra):
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
