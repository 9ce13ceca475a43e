"""A user's folder of images: ``train/<class>/*``, and ``test/`` or ``val/`` with the same classes; or classes alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files.names import printable
from .class_folders import (
    SPLITS,
    FileKind,
    check_splits,
    is_unsplit,
    list_classes,
    require_several,
    same_when_normalised,
    split_by_seed,
)
from .image_files import image_header, suffixes, without_warnings
from .image_source import FileSource, LabelledImages
from .raw_data import RawData

__all__ = ["load_folder", "sample_sizes"]

#: Images whose size `sample_sizes` reads, at most.
SAMPLE = 512

_Listing = dict[str, list[str]]


def load_folder(data_dir: Path | None, seed: int = 0) -> RawData[LabelledImages]:
    """Read the layout of an image folder.

    With both ``val/`` and ``test/``, the former is for validation; otherwise the one that is there holds the test
    images. Of class folders without ``train/``, a fifth of each class is for testing, chosen by ``seed`` and file name.
    The images are grey (one channel) if every file is.

    Raises:
        DataError: no such folder, no train or test images, fewer than two classes, classes that differ between
            splits or that no packed file could name, a file that is not an image.
        OSError: a folder cannot be read.
    """
    left_out: Counter[str] = Counter()
    listings, note = _listings(data_dir, seed, left_out)
    paths = [path for listing in listings.values() for files in listing.values() for path in files]
    channels = 1 if all(image_header(path)[1] in ("1", "L") for path in paths) else 3
    examples = {split: _labelled(listing, channels) for split, listing in listings.items()}
    return RawData.of(tuple(listings["train"]), examples, left_out, note)


def sample_sizes(data_dir: Path | None) -> list[tuple[int, int]]:
    """Return (width, height) of upright images of a folder, evenly spaced, at most 512.

    Raises:
        DataError: see `load_folder`.
        OSError: a folder cannot be read.
    """
    listings, _ = _listings(data_dir, 0, Counter())
    paths = [path for listing in listings.values() for files in listing.values() for path in files]
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(SAMPLE, len(paths)), dtype=np.int64)).tolist()
    with without_warnings():
        return [image_header(paths[index], turned=True)[0] for index in chosen]


def _listings(data_dir: Path | None, seed: int, left_out: Counter[str]) -> tuple[dict[str, _Listing], str]:
    """The files of each class of each split, and how they were split if the user did not."""
    expected = "give --data-dir a folder with a folder of images for each class, or with train/ and test/ (or val/)"
    if data_dir is None:
        raise DataError(f"folder: no folder given: {expected}")
    shown = printable(data_dir)
    if not data_dir.is_dir():
        raise DataError(f"folder: {shown} is not a folder: {expected}")
    formats = "expected .png, .jpg or other files that Pillow decodes"
    kind = FileKind("folder", "images", suffixes(), formats, "not decoded by Pillow")
    splits = {split: data_dir / split for split in SPLITS if (data_dir / split).is_dir()}
    if is_unsplit(data_dir, kind, splits):
        listing = list_classes(data_dir, kind, left_out)
        require_several(listing, f"folder: {shown}")
        return split_by_seed(listing, seed, data_dir, kind)
    check_splits(data_dir, kind, splits, left_out)
    listings = {split: list_classes(path, kind, left_out) for split, path in splits.items()}
    require_several(listings["train"], f"folder: {printable(splits['train'])}")
    for split, listing in listings.items():
        _require_same_classes(splits["train"], listings["train"], splits[split], listing)
    return listings, ""


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
