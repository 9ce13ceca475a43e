"""What goes into a network: images and texts as values that cannot be built wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iterand_compress import ImageInput, TextInput
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.inputs import read_input

IMAGE = ImageInput((3, 4, 5), (0.5, 0.25, 0.5), (0.25, 0.5, 1.0))


@pytest.mark.parametrize(
    ("shape", "mean", "std"),
    [
        ([3, 4, 4], [0.5] * 3, [0.25] * 3),
        (np.array([3, 4, 4]), np.full(3, 0.5, np.float32), torch.tensor([0.25] * 3)),
        (torch.Size([3, 4, 4]), 0.5, np.float32(0.25)),
        ([3.0, 4.0, 4.0], 0.5, 0.25),
    ],
    ids=["lists", "arrays", "scalars", "whole floats"],
)
def test_ways_to_describe_the_same_images(shape: Any, mean: Any, std: Any) -> None:
    image = ImageInput(shape, mean, std)
    assert image == ImageInput((3, 4, 4), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert {type(value) for value in image.shape} == {int}
    assert {type(value) for value in (*image.mean, *image.std)} == {float}
    assert hash(image) == hash(ImageInput((3, 4, 4), 0.5, 0.25))


SHAPE = "image: shape: expected channels, height, width: three whole numbers from 1 to 1,048,576, got "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (3, 256)}, SHAPE + r"\(3, 256\)"),
        ({"shape": (3, 8, 16.7)}, SHAPE + r"\(3, 8, 16\.7\)"),
        ({"shape": (3, 8, float("inf"))}, SHAPE + r"\(3, 8, inf\)"),
        ({"shape": (3, 0, 8)}, SHAPE),
        ({"shape": (3, 8, 2**20 + 1)}, SHAPE),
        ({"shape": 8}, SHAPE + "8"),
        ({"shape": "3x8x8"}, "image: shape: expected numbers, got '3x8x8'"),
        ({"shape": ["3", "8", "8"]}, "image: shape: expected numbers"),
        ({"shape": None}, "image: shape: expected numbers, got None"),
        ({"mean": "0.5"}, "image: mean: expected numbers, got '0.5'"),
        ({"mean": [0.5]}, r"image: mean: expected one number for each of 3 channels, got \[0\.5\]"),
        ({"mean": np.zeros((3, 1, 1))}, "image: mean: expected one number for each of 3 channels, got array"),
        ({"mean": -1e60}, r"image: mean: expected finite float32 numbers, got -1e\+60"),
        ({"std": None}, "image: std: expected numbers, got None"),
        ({"std": [1j] * 3}, "image: std: expected numbers"),
        ({"std": 0}, "image: std: expected finite and positive float32 numbers, got 0"),
        ({"std": 1e-60}, "image: std: expected finite and positive"),  # in float32 it is 0
        ({"std": [0.5, float("nan"), 0.5]}, r"image: std: expected finite and positive .* got \[0\.5, nan, 0\.5\]"),
    ],
    ids=str,
)
def test_images_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ImageInput(**{"shape": (3, 8, 8), "mean": 0.5, "std": 0.5, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 10), r"length: expected an integer in \[1, 65536\], got 0"),
        ((True, 10), "length: expected an integer"),
        ((5, 1), r"vocabulary: expected an integer in \[2, 16777216\], got 1"),
        ((5, 10, "letters"), "unit: expected words or bytes, got 'letters'"),
        ((5, 256, "bytes"), r"expected 257 \(256 bytes and the padding\) for the unit bytes, got 256"),
    ],
)
def test_texts_that_cannot_be(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextInput(*values)


@pytest.mark.parametrize(
    "given", [IMAGE, TextInput(5, 100), TextInput(5, 257, "bytes")], ids=["image", "text", "bytes"]
)
def test_a_dictionary_and_back(given: ImageInput | TextInput) -> None:
    values = given.to_dict()
    assert read_input(values) == given
    for key in values:
        with pytest.raises(ConfigError, match=r"expected (shape, mean and std|length, vocabulary and unit), got "):
            read_input({name: value for name, value in values.items() if name != key})


def test_dictionaries() -> None:
    assert IMAGE.to_dict() == {"shape": [3, 4, 5], "mean": [0.5, 0.25, 0.5], "std": [0.25, 0.5, 1.0]}
    assert TextInput(5, 100).to_dict() == {"length": 5, "vocabulary": 100, "unit": "words"}


def test_probes_are_the_same_on_every_machine() -> None:
    """Exported files and checkpoints hold the answers to them."""
    pixels, tokens = IMAGE.probe(), TextInput(4, 100).probe()
    assert (pixels.shape, pixels.dtype, tokens.shape, tokens.dtype) == ((2, 3, 4, 5), np.float32, (2, 4), np.int64)
    assert np.rint(255 * pixels[0, 0, 0]).tolist() == [97, 126, 73, 42, 136]
    assert tokens.tolist() == [[12, 81, 93, 41], [74, 83, 16, 26]]


def test_examples_have_the_shape_and_type_of_an_input() -> None:
    images, texts = IMAGE.example(2), TextInput(4, 100).example(3)
    assert (images.shape, images.dtype, texts.shape, texts.dtype) == ((2, 3, 4, 5), np.float32, (3, 4), np.int64)
    assert not images.any()
    assert (texts == 1).all()


def test_normalisation() -> None:
    pixels = np.full((2, 3, 4, 5), 0.75, np.float32)
    for found in (IMAGE.normalize(pixels), IMAGE.normalize(torch.from_numpy(pixels)).numpy()):
        assert found.dtype == np.float32
        assert found[1, :, 2, 3].tolist() == [1.0, 1.0, 0.25]
    tokens = np.array([[1, 2, 3, 0]])
    assert TextInput(4, 100).normalize(tokens) is tokens
