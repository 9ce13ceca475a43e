"""What happens to pixels before the network sees them, and how a file records it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ...compress.errors import ConfigError
from ..graph import Graph
from ..session import shown

__all__ = ["CLASSES", "IMAGE_SHAPE", "MEAN", "NORMALIZE", "STD", "Preprocessing"]

NORMALIZE = "iterand.normalize"
"""Metadata key: ``baked`` (the graph takes pixels in [0, 1]) or ``none`` (it takes normalised input)."""
MEAN = "iterand.mean"
STD = "iterand.std"
IMAGE_SHAPE = "iterand.image_shape"
CLASSES = "iterand.classes"
"""Metadata key: a JSON list of class names, in the order of the logits; the caller gives it."""

_LIMIT = 2**28  # numbers of one image, a GiB
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)  # graphs hold float32


@dataclass(frozen=True)
class Preprocessing:
    """``(pixels - mean) / std`` per channel, for images of one shape.

    Attributes:
        image_shape: channels, height, width.
        mean: one value per channel.
        std: one positive value per channel.

    Raises:
        ConfigError: values that do not fit the channels.
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = self.image_shape[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ConfigError(f"{name} has {len(values)} values for {channels} channels: {list(values)}")
            if not all(abs(value) <= _LARGEST for value in values):
                raise ConfigError(f"{name} must be finite, got {list(values)}")
        if min(self.std) < _SMALLEST:
            raise ConfigError(f"std must be positive, got {list(self.std)}")

    @classmethod
    def of(
        cls, image_shape: Sequence[float], mean: Sequence[float] | float, std: Sequence[float] | float
    ) -> Preprocessing:
        """Build from sequences, arrays or tensors of numbers; one number of mean or std is that of all channels.

        Raises:
            ConfigError: they are something else; see also `Preprocessing`.
        """
        sizes = _array("image_shape", image_shape)
        if sizes.shape != (3,) or not np.array_equal(sizes, sizes.round()) or sizes.min() < 1 or sizes.prod() > _LIMIT:
            raise ConfigError(
                "image_shape: expected channels, height, width: three whole numbers of at least 1, and at most "
                f"{_LIMIT:,} values, got {shown(image_shape)}"
            )
        channels, height, width = (int(size) for size in sizes)
        numbers = []
        for name, given in (("mean", mean), ("std", std)):
            values = _array(name, given)
            if values.ndim > 1:
                raise ConfigError(f"{name}: expected one number per channel, got an array of shape {values.shape}")
            numbers.append(tuple(values.tolist()) if values.ndim else (float(values),) * channels)
        return cls((channels, height, width), *numbers)

    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and std as float32 ``[1, C, 1, 1]``: the values that PyTorch and the graph both use."""
        shape = (1, -1, 1, 1)
        return np.array(self.mean, np.float32).reshape(shape), np.array(self.std, np.float32).reshape(shape)

    def apply(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise float32 pixels ``[N, C, H, W]`` in [0, 1]."""
        mean, std = self.constants()
        return np.asarray((pixels - mean) / std, dtype=np.float32)

    def bake(self, graph: Graph, pixels: str = "pixels") -> None:
        """Put the normalisation in front of ``graph``; its only input is then called ``pixels``."""
        (old,) = graph.inputs
        mean, std = self.constants()
        centred = graph.fresh("normalize.centred")
        mean_name, std_name = graph.fresh("normalize.mean"), graph.fresh("normalize.std")
        graph.put(mean_name, mean)
        graph.put(std_name, std)
        graph.nodes[:0] = [
            helper.make_node("Sub", [pixels, mean_name], [centred], name="normalize.subtract"),
            helper.make_node("Div", [centred, std_name], [old.name], name="normalize.divide"),
        ]
        entry = type(old)()
        entry.CopyFrom(old)
        entry.name = pixels
        graph.inputs[:] = [entry]

    def metadata(self, *, baked: bool) -> dict[str, str]:
        """Return the metadata entries that describe this."""
        return {
            NORMALIZE: "baked" if baked else "none",
            MEAN: json.dumps(self.mean),
            STD: json.dumps(self.std),
            IMAGE_SHAPE: json.dumps(self.image_shape),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> tuple[Preprocessing, bool]:
        """Read what `metadata` wrote: the preprocessing and whether it is baked in.

        Raises:
            KeyError: an entry is missing.
            ValueError: an entry is damaged.
            ConfigError: the entries do not fit each other.
        """
        baked = {"baked": True, "none": False}.get(metadata[NORMALIZE])
        if baked is None:
            raise ValueError(f"{NORMALIZE} is {metadata[NORMALIZE]!r}, expected 'baked' or 'none'")
        shape, mean, std = (_numbers(key, metadata[key]) for key in (IMAGE_SHAPE, MEAN, STD))
        return cls.of(shape, mean, std), baked


def _array(name: str, given: Any) -> NDArray[np.float64]:
    """Numbers as float64.

    Raises:
        ConfigError: they are none.
    """
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # rows of several lengths; a tensor on a GPU, or with a gradient
        values = np.array(None)
    if values.dtype.kind not in "iuf":
        raise ConfigError(f"{name}: expected numbers, got {shown(given)}")
    return values.astype(np.float64)


def _numbers(key: str, text: str) -> list[float]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{key} is {text!r}, expected a JSON list of numbers")
    return values
