"""What goes into a network: images or texts, and inputs of either that any machine can make again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from .errors import ConfigError
from .seed.philox import Purpose, random_bytes, random_words

__all__ = [
    "BYTE_VOCABULARY",
    "LARGEST_LENGTH",
    "LARGEST_VOCABULARY",
    "PADDING",
    "AnyInput",
    "InputSpec",
    "TextInput",
    "TextSpec",
    "probe_pixels",
    "probe_tokens",
]


#: The token behind the end of a text.
PADDING = 0


#: Size of the vocabulary of ``bytes``: 256 bytes and the padding.
BYTE_VOCABULARY = 257


UNITS = ("words", "bytes")


LARGEST_LENGTH, LARGEST_VOCABULARY = 2**16, 2**24


@dataclass(frozen=True)
class TextSpec:
    """How a text becomes numbers: all that a network needs to know of its tokeniser.

    Attributes:
        length: tokens of an input; longer texts are cut off, shorter ones filled up with `PADDING`.
        vocabulary: number of different tokens, `PADDING` included; 257 for ``bytes``.
        unit: ``words``, or ``bytes`` of the UTF-8 form.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """

    length: int
    vocabulary: int
    unit: str = "words"

    def __post_init__(self) -> None:
        for field, least, most in (("length", 1, LARGEST_LENGTH), ("vocabulary", 2, LARGEST_VOCABULARY)):
            value = getattr(self, field)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"text: {field}: expected an integer in [{least}, {most}], got {value!r:.100}")
        if self.unit not in UNITS:
            raise ConfigError(f"text: unit: expected words or bytes, got {self.unit!r:.100}")
        if self.unit == "bytes" and self.vocabulary != BYTE_VOCABULARY:
            raise ConfigError(
                f"text: vocabulary: expected {BYTE_VOCABULARY} (256 bytes and the padding) for the unit bytes, "
                f"got {self.vocabulary}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON scalars."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextSpec:
        """Inverse of ``to_dict``.

        Raises:
            ConfigError: a key is missing or unknown, or a value is not what the class allows.
        """
        if set(values) != {"length", "vocabulary", "unit"}:
            raise ConfigError(
                f"text: expected length, vocabulary and unit, got {', '.join(map(str, values)) or 'none'}"
            )
        return cls(**values)


class InputSpec(BaseModel):
    """The images that the network takes.

    Attributes:
        shape: channels, height, width.
        mean: subtracted from each channel of pixels in [0, 1].
        std: divides each channel afterwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    shape: tuple[int, int, int] = Field(strict=False)
    mean: tuple[float, ...] = Field(strict=False)
    std: tuple[float, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if min(self.shape) < 1 or max(self.shape) > 2**20:
            raise ValueError(f"expected sizes from 1 to 2**20, got {self.shape}")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"expected one mean and one std for each of {self.shape[0]} channels")
        if min(self.std) <= 0:
            raise ValueError(f"expected every std above 0, got {self.std}")
        return self


class TextInput(BaseModel):
    """The texts that the network takes, as token numbers.

    Attributes:
        length: tokens of an input.
        unit: rule by which texts become tokens, as in `TextSpec`.
        vocabulary: number of different tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    length: int
    unit: str
    vocabulary: int

    @model_validator(mode="after")
    def _consistent(self) -> TextInput:
        try:
            self.spec()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def spec(self) -> TextSpec:
        """The tokeniser's settings."""
        return TextSpec(self.length, self.vocabulary, self.unit)


def _kind_of_input(value: object) -> str:
    return "text" if isinstance(value, TextInput) or (isinstance(value, dict) and "vocabulary" in value) else "image"


#: What a network takes; in JSON, the input of a text network has a vocabulary.
AnyInput = Annotated[
    Annotated[InputSpec, Tag("image")] | Annotated[TextInput, Tag("text")], Discriminator(_kind_of_input)
]


_SAMPLES = 2


def probe_pixels(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Images of noise, float32 ``[2, C, H, W]`` in [0, 1]: bytes of the generator with seed 0, divided by 255."""
    count = _SAMPLES * math.prod(shape)
    noise = random_bytes(0, 0, count, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
    pixels: NDArray[np.float32] = noise.astype(np.float32) / np.float32(255)
    return pixels.reshape(_SAMPLES, *shape)


def probe_tokens(text: TextSpec) -> NDArray[np.int64]:
    """Texts of any tokens, int64 ``[2, length]``, none of them padding: words of the generator with seed 0."""
    words = random_words(0, _SAMPLES * text.length, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
    return (1 + words.astype(np.int64) % (text.vocabulary - 1)).reshape(_SAMPLES, text.length)
