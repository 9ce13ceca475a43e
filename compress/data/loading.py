"""From a data section to splits: find the data set, hold out validation examples, choose memory or streaming."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import DataConfig
from ..errors import ConfigError, DataError, did_you_mean
from ..files.names import printable
from ..inputs import AnyInput, ImageInput
from .augment import Augmentation
from .builtin import load_digits, load_from_torchvision
from .bundle import DataBundle, Split
from .catalogue import BUNDLED, DATASETS, TEXT_DATASETS
from .decode import decode_all, pixel_counts, require_size, statistics
from .fitting import LARGE_SIDE, as_array
from .folder import load_folder
from .image_files import image_header, without_warnings
from .image_source import FileSource, ImageSource, LabelledImages
from .memory_split import MemorySplit
from .raw_data import RawData
from .sentences import load_sentences
from .stream import StreamSplit, StreamTransform
from .text_loading import text_input, token_split
from .texts import load_texts

__all__ = ["load_data"]

#: Data sets with more bytes than this, or large images, are streamed.
LARGEST_IN_MEMORY = 2**30
#: Pixel statistics of a streamed folder come from this many training images, evenly spaced.
SAMPLE = 512


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
        seed: decides the splits that the data set leaves open, the order of the training examples and their
            augmentation, unless ``config`` has a seed of its own.
        workers: processes that decode large images; ``None`` chooses by the number of cores and images.
        sharing: processes of this machine that load the same data and share its cores.

    Raises:
        ConfigError: an unknown data set, or settings that it does not have; a folder for a data set without one.
        DataError: the data are absent, unreadable or inconsistent.
        MissingExtraError: ``digits`` without scikit-learn.
    """
    if data_dir is not None and config.name in BUNDLED:  # else the user's folder would be ignored silently
        raise ConfigError(
            f"data: {config.name} is in no folder, {printable(data_dir)} would not be read: give --data folder (class "
            "folders of images) or --data text (texts), or leave out --data-dir"
        )
    seed = seed if config.seed is None else config.seed
    try:
        with without_warnings():
            if config.name in TEXT_DATASETS:
                return _load_texts(config, data_dir, seed)
            return _load_images(config, data_dir, download, seed, workers, sharing)
    except OSError as error:  # no permission, links in a circle, a name that is too long: wherever data are looked for
        where = printable(error.filename or data_dir or "the data")
        raise DataError(f"{config.name}: {where}: cannot be read: {error.strerror or error}") from error


def _load_texts(config: DataConfig, data_dir: Path | None, seed: int) -> DataBundle:
    text = text_input(config)
    raw = load_sentences() if config.name == "sentences" else load_texts(data_dir, seed)
    examples = raw.split(config.validation, seed)
    return _bundle(config.name, text, raw, {name: token_split(split, text, seed) for name, split in examples.items()})


def _load_images(
    config: DataConfig, data_dir: Path | None, download: bool, seed: int, workers: int | None, sharing: int
) -> DataBundle:
    for setting in ("tokens", "vocabulary", "unit"):
        if getattr(config, setting) is not None:
            raise ConfigError(f"data: {config.name} has no {setting}, that is a setting of text: leave it out")
    raw = _find(config.name, data_dir, download, seed)
    side = config.image_size or raw.image_size
    shape = _image_shape(raw.train.source, side)
    if config.pad_value == "reflect" and config.crop != "none" and config.pad >= min(shape[1:]):
        raise ConfigError(
            f"data: pad: a rim of {config.pad} pixels mirrors more than there is of images of {shape[2]}×{shape[1]}: "
            "give a smaller data.pad, or --set data.pad_value=mean"
        )
    examples = raw.split(config.validation, seed)
    labels = {name: torch.from_numpy(images.labels) for name, images in examples.items()}
    count = sum(len(images.labels) for images in examples.values())
    splits: dict[str, Split] = {}
    if max(shape) > LARGE_SIDE or count * math.prod(shape) > LARGEST_IN_MEMORY:
        if side is None:
            _require_equal_sizes([images.source for images in examples.values()], shape)
        plain = StreamTransform(shape[1], shape[2], side is not None, Augmentation())
        mean, std = raw.statistics or statistics(_sampled_counts(raw.train.source, plain))
        transform = replace(plain, augmentation=Augmentation.from_config(config, mean))
        for name, images in examples.items():
            splits[name] = StreamSplit(images.source, labels[name], transform, seed, workers, sharing)
    else:
        decoded = {name: decode_all(images.source, shape, side) for name, images in examples.items()}
        # Of all training images, held-out ones too: normalisation must not depend on the seed of the split.
        training = [
            pixels for name, pixels in decoded.items() if name == "train" or (name == "val" and raw.val is None)
        ]
        mean, std = raw.statistics or statistics(np.sum([pixel_counts(pixels) for pixels in training], axis=0))
        augmentation = Augmentation.from_config(config, mean)
        for name, pixels in decoded.items():
            splits[name] = MemorySplit(torch.from_numpy(pixels), labels[name], seed, augmentation)
    chosen = (_for_all(given) or own for given, own in ((config.mean, mean), (config.std, std)))
    return _bundle(config.name, ImageInput(shape, *chosen), raw, splits)


def _for_all(values: tuple[float, ...] | None) -> tuple[float, ...] | float | None:
    return values[0] if values and len(values) == 1 else values


def _bundle(name: str, input: AnyInput, raw: RawData[Any], splits: Mapping[str, Split]) -> DataBundle:  # noqa: A002
    parts = splits["train"], splits.get("val"), splits["test"]
    return DataBundle(name, raw.classes, input, *parts, raw.left_out, raw.split_note)


def _find(name: str, data_dir: Path | None, download: bool, seed: int) -> RawData[LabelledImages]:
    if name == "digits":
        return load_digits()
    if name == "folder":
        return load_folder(data_dir, seed)
    if name not in DATASETS:
        raise ConfigError(f"data: unknown {name!r}{did_you_mean(name, DATASETS)}")
    return load_from_torchvision(name, data_dir, download=download)


def _image_shape(source: ImageSource, side: int | None) -> tuple[int, int, int]:
    """(C, H, W) of the images that a network gets; without a size to scale to, that of the first image."""
    if side is not None:
        return source.channels, side, side
    width, height = source.image(0).size
    return source.channels, height, width


def _require_equal_sizes(sources: Sequence[ImageSource], shape: tuple[int, int, int]) -> None:
    for source in sources:
        if isinstance(source, FileSource):
            for path in source.paths:
                require_size(printable(path), image_header(path, turned=True)[0], shape)


def _sampled_counts(source: ImageSource, transform: StreamTransform) -> NDArray[np.int64]:
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source)), dtype=np.int64))
    counts = np.zeros((source.channels, 256), dtype=np.int64)
    for index in chosen.tolist():
        counts += pixel_counts(as_array(transform.evaluation(source.image(index)))[None])
    return counts
