"""Names of the data sets."""

from __future__ import annotations

__all__ = ["BUNDLED", "DATASETS", "TEXT_DATASETS"]

#: Data sets that need no folder: they come with a package.
BUNDLED: tuple[str, ...] = ("digits", "sentences")


#: Data sets of texts; ``text`` is a user's folder or table.
TEXT_DATASETS: tuple[str, ...] = ("sentences", "text")


#: Names of the data sets; ``folder`` is a user's folder of images.
DATASETS: tuple[str, ...] = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "imagenet",
    "folder",
    *TEXT_DATASETS,
)
