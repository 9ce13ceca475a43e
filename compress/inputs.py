"""What goes into a network: images or texts. Data, checkpoints, files and exports all describe it with these types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .seed.philox import Purpose, random_bytes, random_words

if TYPE_CHECKING:
    import torch

__all__ = [
    "BYTE_VOCABULARY",
    "LARGEST_LENGTH",
    "LARGEST_VOCABULARY",
    "PADDING",
    "AnyInput",
    "ImageInput",
    "TextInput",
    "read_input",
]

#: The token that fills up short texts.
PADDING = 0
#: Vocabulary of texts in ``bytes``: 256 bytes and the padding.
BYTE_VOCABULARY = 257
LARGEST_LENGTH, LARGEST_VOCABULARY = 2**16, 2**24

_UNITS = ("words", "bytes")
_LARGEST_SIZE = 2**20
_FLOAT32 = np.finfo(np.float32)
_PROBES = 2

# An array or a tensor; what comes in also comes out.
_Values = TypeVar("_Values", "NDArray[Any]", "torch.Tensor")


@dataclass(frozen=True, init=False)
class ImageInput:
    """Images of one shape, and how their pixels are normalised: ``(pixels - mean) / std`` in float32.

    Attributes:
        shape: channels, height, width; each from 1 to 2**20.
        mean: one number for each channel, for pixels in [0, 1].
        std: one positive number for each channel, for pixels in [0, 1].

    Args:
        shape: a sequence, array or tensor of three whole numbers.
        mean: a sequence, array or tensor of numbers; one number stands for all channels.
        std: like ``mean``.

    Raises:
        ConfigError: a value of the wrong type or out of range, or numbers that do not fit the channels.

    Example:
        >>> ImageInput((3, 32, 32), 0.5, (0.25, 0.25, 0.5)).mean
        (0.5, 0.5, 0.5)
    """

    noun: ClassVar[str] = "image"

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, shape: Sequence[int], mean: Sequence[float] | float, std: Sequence[float] | float) -> None:
        sizes = _numbers("shape", shape)
        if (
            sizes.shape != (3,)
            or not (sizes == sizes.round()).all()
            or not 1 <= sizes.min() <= sizes.max() <= _LARGEST_SIZE
        ):
            raise ConfigError(
                "image: shape: expected channels, height, width: three whole numbers from 1 to "
                f"{_LARGEST_SIZE:,}, got {_shown(shape)}"
            )
        channels, height, width = (int(size) for size in sizes)
        object.__setattr__(self, "shape", (channels, height, width))
        for name, given, least in (("mean", mean, -_FLOAT32.max), ("std", std, _FLOAT32.tiny)):
            values = _numbers(name, given)
            if values.ndim == 0:
                values = values.repeat(channels)
            if values.shape != (channels,):
                raise ConfigError(
                    f"image: {name}: expected one number for each of {channels} channels, got {_shown(given)}"
                )
            if not ((values >= float(least)) & (values <= float(_FLOAT32.max))).all():
                expected = "finite" if name == "mean" else "finite and positive"
                raise ConfigError(f"image: {name}: expected {expected} float32 numbers, got {_shown(given)}")
            object.__setattr__(self, name, tuple(values.tolist()))

    def normalize(self, pixels: _Values) -> _Values:
        """Compute ``(pixels - mean) / std`` for each channel.

        Args:
            pixels: NumPy array or torch tensor on any device, float32 ``[N, C, H, W]`` in [0, 1].

        Returns:
            Float32 of the same shape, bit for bit the same with NumPy and torch.
        """
        if isinstance(pixels, np.ndarray):
            mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
            return (pixels - mean) / std
        return (pixels - _per_channel(self.mean, pixels.device)) / _per_channel(self.std, pixels.device)

    def probe(self) -> NDArray[np.float32]:
        """Make noise that is the same on every machine, float32 ``[2, C, H, W]`` in [0, 1].

        It consists of bytes of the generator with seed 0, divided by 255.
        """
        count = _PROBES * math.prod(self.shape)
        noise = random_bytes(0, 0, count, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
        pixels: NDArray[np.float32] = noise.astype(np.float32) / np.float32(255)
        return pixels.reshape(_PROBES, *self.shape)

    def example(self, count: int) -> NDArray[np.float32]:
        """Make black images, float32 ``[count, C, H, W]``, to try out shapes with."""
        return np.zeros((count, *self.shape), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as lists of numbers, as the manifest of a ``.seedmask`` file holds them."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> ImageInput:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: not a dictionary, a key is missing or unknown, or a value is not what the class allows.
        """
        return cls(**_exactly(cls, values))


@dataclass(frozen=True)
class TextInput:
    """Texts, and how they become token numbers (see `tokenise`).

    Attributes:
        length: tokens of an input; longer texts are cut off, shorter ones filled up with `PADDING`.
        vocabulary: number of different tokens, `PADDING` included; 257 for ``bytes``.
        unit: ``words``, or ``bytes`` of the UTF-8 form.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """

    noun: ClassVar[str] = "text"

    length: int
    vocabulary: int
    unit: str = "words"

    def __post_init__(self) -> None:
        for field, least, most in (("length", 1, LARGEST_LENGTH), ("vocabulary", 2, LARGEST_VOCABULARY)):
            value = getattr(self, field)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"text: {field}: expected an integer in [{least}, {most}], got {_shown(value)}")
        if self.unit not in _UNITS:
            raise ConfigError(f"text: unit: expected words or bytes, got {_shown(self.unit)}")
        if self.unit == "bytes" and self.vocabulary != BYTE_VOCABULARY:
            raise ConfigError(
                f"text: vocabulary: expected {BYTE_VOCABULARY} (256 bytes and the padding) for the unit bytes, "
                f"got {self.vocabulary}"
            )

    def normalize(self, tokens: _Values) -> _Values:
        """Return token numbers as they are: only pixels are normalised."""
        return tokens

    def probe(self) -> NDArray[np.int64]:
        """Make texts of random tokens that are the same on every machine, int64 ``[2, length]`` without padding.

        They follow from words of the generator with seed 0.
        """
        words = random_words(0, _PROBES * self.length, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
        return (1 + words.astype(np.int64) % (self.vocabulary - 1)).reshape(_PROBES, self.length)

    def example(self, count: int) -> NDArray[np.int64]:
        """Make texts of one repeated token, int64 ``[count, length]``, to try out shapes with."""
        return np.ones((count, self.length), np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as the manifest of a ``.seedmask`` file holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> TextInput:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: not a dictionary, a key is missing or unknown, or a value is not what the class allows.
        """
        return cls(**_exactly(cls, values))


AnyInput = ImageInput | TextInput


def read_input(values: Any) -> AnyInput:
    """Read what ``to_dict`` of either kind gave; that of texts has a vocabulary.

    Raises:
        ConfigError: not a dictionary, a key is missing or unknown, or a value is not what the class allows.
    """
    kind = TextInput if isinstance(values, dict) and "vocabulary" in values else ImageInput
    return kind.from_dict(values)


def _exactly(kind: type[AnyInput], values: Any) -> dict[str, Any]:
    keys = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or set(values) != set(keys):
        got = _shown(list(values) if isinstance(values, dict) else values)
        raise ConfigError(f"{kind.noun}: expected {', '.join(keys[:-1])} and {keys[-1]}, got {got}")
    return values


def _numbers(name: str, given: object) -> NDArray[np.float64]:
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # rows of several lengths; a tensor on a GPU, or with a gradient
        values = np.array(None)
    if values.dtype.kind not in "iuf":
        raise ConfigError(f"image: {name}: expected numbers, got {_shown(given)}")
    return values.astype(np.float64)


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:60]


@lru_cache(maxsize=32)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """One number for each channel as a tensor on a device, kept there: making it anew would make a GPU wait."""
    import torch  # only those who have a tensor come here

    with torch.inference_mode(False):  # the tensor is used again, also where gradients are recorded
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
