"""Known data sets: the digits of scikit-learn, and those that torchvision reads and downloads."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, import_extra
from .image_source import ArraySource, FileSource, LabelledImages
from .order import fixed_order
from .raw_data import RawData

__all__ = ["TORCHVISION_LOADERS", "load_digits", "load_from_torchvision"]

DIGITS_TEST_IMAGES = 360

#: Published mean and standard deviation of the training pixels, per channel.
_GREY_STATISTICS = {"MNIST": ((0.1307,), (0.3081,)), "FashionMNIST": ((0.2860,), (0.3530,))}
_COLOUR_STATISTICS = {
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_digits() -> RawData[LabelledImages]:
    """Load 1,797 scans of handwritten digits, 8×8, from scikit-learn's package (no download).

    The 360 test images are always the same ones.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    scans = import_extra("sklearn.datasets", "demo", "the data set 'digits'").load_digits()
    images = np.rint(scans.images * 255 / 16).astype(np.uint8)  # 0..16
    every = LabelledImages(ArraySource(images), scans.target.astype(np.int64))
    order = fixed_order(len(images))
    return RawData(
        classes=tuple(str(name) for name in scans.target_names),
        train=every.subset(np.sort(order[DIGITS_TEST_IMAGES:])),
        test=every.subset(np.sort(order[:DIGITS_TEST_IMAGES])),
    )


def default_data_dir() -> Path:
    """The default folder of data sets."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iterand-compress"


def load_from_torchvision(name: str, data_dir: Path | None, *, download: bool) -> RawData[LabelledImages]:
    """Load a data set that torchvision reads from ``data_dir``.

    Raises:
        DataError: it is missing (without ``download``) or damaged, or the download failed.
    """
    folder = data_dir or default_data_dir()
    try:
        return TORCHVISION_LOADERS[name](folder, download)
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
        reason = " ".join(str(error).split())
        if download and name != "imagenet":
            raise DataError(f"{name}: download to {folder} failed: {reason}") from error
        advice = "give --data-dir the folder that holds it, or --download"
        if name == "imagenet":
            advice = (
                "give --data-dir the folder with the archives of ILSVRC2012 "
                "(a copy as train/<class>/ and val/<class>/ is --data folder)"
            )
        raise DataError(f"{name}: not found, or damaged, in {folder}: {advice} ({reason})") from error


def _small(kind: str) -> Callable[[Path, bool], RawData[LabelledImages]]:
    statistics = {**_GREY_STATISTICS, **_COLOUR_STATISTICS}[kind]

    def load(folder: Path, download: bool) -> RawData[LabelledImages]:
        import torchvision

        dataset = getattr(torchvision.datasets, kind)
        published = _as_published(folder, kind) if kind in _GREY_STATISTICS and not download else None
        if published is not None:
            return RawData(tuple(dataset.classes), *published, statistics=statistics)
        train, test = (dataset(str(folder), train=train, download=download) for train in (True, False))
        return RawData(tuple(train.classes), _in_memory(train), _in_memory(test), statistics=statistics)

    return load


def _as_published(folder: Path, kind: str) -> tuple[LabelledImages, LabelledImages] | None:
    """Training and test images of the compressed files in which MNIST and its like are published, where they lie.

    torchvision reads them only once they are unpacked; ``None`` leaves the data to it.

    Raises:
        OSError, ValueError: a file is damaged.
    """
    names = [f"{split}-{content}-ubyte" for split in ("train", "t10k") for content in ("images-idx3", "labels-idx1")]
    for place in (folder / kind / "raw", folder / "raw", folder):
        if all((place / f"{name}.gz").is_file() and not (place / name).exists() for name in names):
            images, labels, test_images, test_labels = (_idx(place / f"{name}.gz") for name in names)
            pairs = ((images, labels), (test_images, test_labels))
            if any(len(pixels) != len(numbers) for pixels, numbers in pairs):
                raise ValueError(f"{place}: the files hold other numbers of images than of labels")
            train, test = (LabelledImages(ArraySource(one), numbers.astype(np.int64)) for one, numbers in pairs)
            return train, test
    return None


def _idx(path: Path) -> NDArray[np.uint8]:
    """The array of bytes in a file of the format IDX, compressed by gzip."""
    try:
        with gzip.open(path) as file:
            zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            count = math.prod(shape)
            data = file.read(count + 1)
    except (struct.error, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error
    if (zero, kind) != (0, 8) or len(data) != count:
        raise ValueError(f"{path}: expected {count} bytes behind the head of an IDX file, got {len(data)}")
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(shape).copy()
    return values


def _in_memory(dataset: Any) -> LabelledImages:
    """Take the images of a torchvision data set: MNIST's classes hold tensors, CIFAR's an array and a list."""
    images = np.asarray(dataset.data, dtype=np.uint8)
    return LabelledImages(ArraySource(images), np.asarray(dataset.targets, dtype=np.int64))


def _imagenet(folder: Path, download: bool) -> RawData[LabelledImages]:  # noqa: ARG001  (it cannot be downloaded)
    import torchvision

    train, test = (torchvision.datasets.ImageNet(str(folder), split=split) for split in ("train", "val"))
    return RawData(
        classes=tuple(", ".join(synonyms) for synonyms in train.classes),
        train=_in_files(train),
        test=_in_files(test),
        statistics=_IMAGENET_STATISTICS,
        image_size=224,
    )


def _in_files(dataset: Any) -> LabelledImages:
    paths = [path for path, _ in dataset.samples]
    return LabelledImages(FileSource(paths, 3), np.array([label for _, label in dataset.samples], dtype=np.int64))


TORCHVISION_LOADERS: dict[str, Callable[[Path, bool], RawData[LabelledImages]]] = {
    "mnist": _small("MNIST"),
    "fashion-mnist": _small("FashionMNIST"),
    "cifar10": _small("CIFAR10"),
    "cifar100": _small("CIFAR100"),
    "imagenet": _imagenet,
}
