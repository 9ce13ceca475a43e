"""How an ONNX file records what it takes: shape and normalisation of images, the tokeniser of texts, or tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from ..compress.inputs import AnyInput, ImageInput, TextInput
from .tensor_input import TensorInput

__all__ = [
    "CLASSES",
    "INPUTS",
    "NORMALIZE",
    "RECIPE",
    "TEXT",
    "input_metadata",
    "read_input_metadata",
    "read_tensor_inputs",
    "tensor_metadata",
]

CLASSES = "iterand.classes"
"""Metadata key: a JSON list of class names, in the order of the logits; the caller gives it."""
RECIPE = "iterand.recipe"
"""Metadata key: settings of the run, as JSON; the caller gives it."""
NORMALIZE = "iterand.normalize"
"""Metadata key of images: ``baked`` (the graph takes pixels in [0, 1]) or ``none`` (it takes normalised input)."""
IMAGE_SHAPE = "iterand.image_shape"
MEAN = "iterand.mean"
STD = "iterand.std"
TEXT = "iterand.text"
"""Metadata key of texts: length, unit and vocabulary as a JSON object."""
INPUTS = "iterand.inputs"
"""Metadata key of networks that take neither: a JSON list of `TensorInput`."""

_TENSORS = TypeAdapter(list[TensorInput])


def input_metadata(input: AnyInput, *, baked: bool) -> dict[str, str]:  # noqa: A002
    """Return the metadata entries of an input; ``baked`` tells whether the graph normalises pixels itself."""
    if isinstance(input, TextInput):
        return {TEXT: json.dumps(input.to_dict(), sort_keys=True)}
    return {
        NORMALIZE: "baked" if baked else "none",
        MEAN: json.dumps(input.mean),
        STD: json.dumps(input.std),
        IMAGE_SHAPE: json.dumps(input.shape),
    }


def read_input_metadata(metadata: Mapping[str, str]) -> tuple[AnyInput, bool | None] | None:
    """Read what `input_metadata` wrote.

    Returns:
        The input, and whether the graph normalises pixels itself (of texts None); None if the file does not say what
        it takes.

    Raises:
        KeyError: an entry is missing.
        ValueError: an entry is not JSON.
        ConfigError: the values are not those of an input.
    """
    if TEXT in metadata:
        return TextInput.from_dict(json.loads(metadata[TEXT])), None
    if NORMALIZE not in metadata:
        return None
    baked = {"baked": True, "none": False}.get(metadata[NORMALIZE])
    if baked is None:
        raise ValueError(f"{NORMALIZE} is {metadata[NORMALIZE]!r}, expected 'baked' or 'none'")
    shape, mean, std = (json.loads(metadata[key]) for key in (IMAGE_SHAPE, MEAN, STD))
    return ImageInput(shape, mean, std), baked


def tensor_metadata(inputs: Sequence[TensorInput]) -> dict[str, str]:
    """Return the metadata entry of a network that takes neither images nor texts."""
    return {INPUTS: _TENSORS.dump_json(list(inputs)).decode()}


def read_tensor_inputs(metadata: Mapping[str, str]) -> list[TensorInput] | None:
    """Read what `tensor_metadata` wrote; ``None`` if there is no such entry.

    Raises:
        ValueError: the entry is damaged.
    """
    return _TENSORS.validate_json(metadata[INPUTS]) if INPUTS in metadata else None
