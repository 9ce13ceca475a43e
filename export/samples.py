"""The input of an export: samples as users have them, and what the network and the file take for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compress.data.tokens import tokenise_all
from ..compress.errors import ConfigError
from ..compress.inputs import PADDING, AnyInput, ImageInput, TextInput
from .graph import Graph
from .input_metadata import input_metadata
from .passes.preprocessing import bake_normalization
from .session import first_line, shown

__all__ = ["GraphPass", "ModelInput", "Samples", "model_input"]

Samples = Sequence[str] | torch.Tensor | NDArray[Any] | None
GraphPass = Callable[[Graph], None]

_RANDOM_SAMPLES = 8
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LARGEST_IMAGE = 2**28  # numbers: 1 GiB


@dataclass(frozen=True)
class ModelInput:
    """The one input of a model.

    Attributes:
        input: images or texts.
        samples: pixels float32 ``[N, C, H, W]`` in [0, 1] or tokens int64 ``[N, length]``, to compare on.
        baked: whether the graph normalises its input.
    """

    input: AnyInput
    samples: torch.Tensor
    baked: bool

    @property
    def name(self) -> str:
        """Name of the graph's input, as the network takes it."""
        return "tokens" if isinstance(self.input, TextInput) else "input"

    @property
    def probe(self) -> torch.Tensor:
        """More samples, which can be made again from the metadata."""
        return torch.from_numpy(self.input.probe())

    @property
    def metadata(self) -> dict[str, str]:
        """The entries that describe the input."""
        return input_metadata(self.input, baked=self.baked)

    @property
    def bake(self) -> GraphPass | None:
        """The pass that puts the normalisation in front of a graph; None if the file takes what the network takes."""
        image = self.input
        if not self.baked or isinstance(image, TextInput):
            return None
        return lambda graph: bake_normalization(graph, image)

    def network(self, samples: torch.Tensor) -> torch.Tensor:
        """Turn samples into what the network takes."""
        return self.input.normalize(samples)

    def file(self, samples: torch.Tensor) -> torch.Tensor:
        """Turn samples into what the file takes."""
        return samples if self.baked else self.network(samples)


def model_input(input: AnyInput, samples: Samples, *, normalize: bool) -> ModelInput:  # noqa: A002
    """Check the samples of an export, or make random ones.

    Args:
        input: the images or texts that the model takes.
        samples: images, floating-point ``[N, C, H, W]`` in [0, 1]; texts, or their tokens, integers ``[N, length]``.
        normalize: whether the graph normalises images.

    Raises:
        ConfigError: ``input`` is something else; samples of another shape or type; texts without ``normalize``.
    """
    if isinstance(input, ImageInput):
        return ModelInput(input, _images(input, samples), normalize)
    if not isinstance(input, TextInput):
        raise ConfigError(f"input: expected an ImageInput or a TextInput, got {shown(input)}")
    if not normalize:
        raise ConfigError("normalize: texts have no normalisation to leave out; drop normalize=False (--no-normalize)")
    return ModelInput(input, _texts(input, samples), baked=False)


def _images(image: ImageInput, samples: Samples) -> torch.Tensor:
    if math.prod(image.shape) > _LARGEST_IMAGE:
        raise ConfigError(f"input: expected images of at most {_LARGEST_IMAGE:,} values, got the shape {image.shape}")
    if samples is None:
        generator = torch.Generator("cpu").manual_seed(0)  # of its own: the global one is not touched
        samples = torch.rand(_RANDOM_SAMPLES, *image.shape, generator=generator, device="cpu", dtype=torch.float32)
    pixels = _on_host(samples)
    if pixels.ndim != 4 or pixels.shape[1:] != image.shape or len(pixels) == 0:
        expected = f"[N, {', '.join(map(str, image.shape))}]"
        raise ConfigError(f"samples have the shape {list(pixels.shape)}, expected {expected}")
    if not pixels.is_floating_point() or not pixels.isfinite().all():
        what = "values that are not finite" if pixels.is_floating_point() else f"the type {pixels.dtype}"
        raise ConfigError(f"samples have {what}, expected pixels in [0, 1] (of 8-bit images: divided by 255)")
    return pixels.to(torch.float32).contiguous()


def _texts(text: TextInput, samples: Samples) -> torch.Tensor:
    if samples is None:
        samples = _random_tokens(text)
    if isinstance(samples, Sequence) and not isinstance(samples, str) and all(isinstance(one, str) for one in samples):
        samples = tokenise_all(samples, text)
    tokens = _on_host(samples)
    if tokens.ndim != 2 or tokens.shape[1] != text.length or len(tokens) == 0:
        raise ConfigError(f"samples have the shape {list(tokens.shape)}, expected tokens [N, {text.length}]")
    if tokens.dtype not in _INTEGERS or not 0 <= int(tokens.min()) <= int(tokens.max()) < text.vocabulary:
        what = f"tokens up to {int(tokens.max())}" if tokens.dtype in _INTEGERS else f"the type {tokens.dtype}"
        raise ConfigError(f"samples have {what}, expected whole numbers from 0 to {text.vocabulary - 1}")
    return tokens.to(torch.int64).contiguous()


def _random_tokens(text: TextInput) -> torch.Tensor:
    """Make texts of random tokens and lengths, the first of them empty."""
    generator = torch.Generator("cpu").manual_seed(0)  # of its own: the global one is not touched
    tokens = torch.randint(1, text.vocabulary, (_RANDOM_SAMPLES, text.length), generator=generator, device="cpu")
    lengths = torch.randint(1, text.length + 1, (_RANDOM_SAMPLES, 1), generator=generator, device="cpu")
    lengths[0] = 0
    return tokens.masked_fill(torch.arange(text.length, device="cpu") >= lengths, PADDING)


def _on_host(samples: object) -> torch.Tensor:
    """Copy samples into a dense tensor on the CPU.

    Raises:
        ConfigError: they are no numbers.
    """
    try:
        if isinstance(samples, torch.Tensor):
            return samples.detach().to_dense().to("cpu", copy=True)
        array = np.array(samples, order="C")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, RuntimeError) as error:  # the last: on the meta device, among others
        raise ConfigError(
            f"samples: expected a tensor or an array, got {shown(samples)}: {first_line(error)}"
        ) from None
