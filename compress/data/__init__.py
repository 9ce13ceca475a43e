"""Data sets, their splits, and batches that depend only on seed, epoch and position.

Importing this package does not import torch; loading data does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..config import DataConfig

if TYPE_CHECKING:
    from .bundle import DataBundle, Split

__all__ = ["DataBundle", "Split", "load_data"]


def load_data(
    config: DataConfig,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    seed: int = 0,
    workers: int | None = None,
    sharing: int = 1,
) -> DataBundle:
    """Load a data set and split it.

    Small images are decoded at once and kept in memory, later on the device that asks for batches. Images with a
    side above 96 pixels, or more than 1 GiB of them, are decoded when a batch needs them. Texts are tokenised at once.

    Args:
        config: name of the data set, fraction held out for validation, image size and augmentation.
        data_dir: folder that holds the data (for ``text`` also a CSV file); ``None`` is ``iterand-compress`` in the
            user's cache folder. ``digits`` and ``sentences`` take none, ``folder`` and ``text`` need one.
        download: fetch an absent data set, where torchvision can.
        seed: decides the validation split, the order of the training examples and their augmentation, unless
            ``config`` has a seed of its own.
        workers: processes that decode large images; ``None`` chooses by the number of cores and images.
        sharing: processes of this machine that load the same data and share its cores.

    Raises:
        ConfigError: an unknown data set, or settings that it does not have; a folder for a data set without one.
        DataError: the data are absent, unreadable or inconsistent.
        MissingExtraError: ``digits`` without scikit-learn.
    """
    from .loading import load

    return load(config, data_dir=data_dir, download=download, seed=seed, workers=workers, sharing=sharing)


def __getattr__(name: str) -> object:
    if name in ("DataBundle", "Split"):
        from . import bundle

        return getattr(bundle, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
