"""Names of the data sets."""

from __future__ import annotations

__all__ = ["BUNDLED", "DATASETS", "TEXT_DATASETS"]

#: Data sets that come with packages, and are in no folder.
BUNDLED: tuple[str, ...] = ("digits", "sentences")


#: Data sets of texts; ``text`` is a folder or a table of the user's.
TEXT_DATASETS: tuple[str, ...] = ("sentences", "text")


#: Names of the data sets; ``folder`` is an ImageFolder of the user's.
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
