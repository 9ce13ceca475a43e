"""What goes into a model: samples as users have them, and how they reach the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compress.data.tokens import tokenise_all
from ..compress.errors import ConfigError
from ..compress.inputs import PADDING, TextSpec, probe_pixels, probe_tokens
from .graph import Graph
from .passes.preprocessing import Preprocessing
from .session import first_line, shown
from .tokeniser import TOKENS, text_metadata

__all__ = ["ModelInput", "image_input", "text_input"]

_RANDOM_SAMPLES = 8
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
GraphPass = Callable[[Graph], None]


@dataclass(frozen=True)
class ModelInput:
    """The one input of a model.

    Attributes:
        name: in the graph, as the network takes it.
        samples: pixels float32 ``[N, C, H, W]`` in [0, 1] or tokens int64 ``[N, length]``, to compare on.
        probe: more of them, that can be made again from the metadata.
        metadata: entries that describe the input.
        apply: from samples to what the network takes.
        bake: puts ``apply`` in front of a graph; ``None`` if the file takes what the network takes.
    """

    name: str
    samples: torch.Tensor
    probe: torch.Tensor
    metadata: dict[str, str]
    apply: Callable[[NDArray[Any]], NDArray[Any]]
    bake: GraphPass | None = None

    def network(self, samples: torch.Tensor) -> torch.Tensor:
        """What the network takes for samples."""
        return torch.from_numpy(self.apply(samples.numpy()))

    def file(self, samples: torch.Tensor) -> torch.Tensor:
        """What the file takes for samples."""
        return samples if self.bake is not None else self.network(samples)


def image_input(
    preprocessing: Preprocessing, samples: torch.Tensor | NDArray[Any] | None, *, normalize: bool
) -> ModelInput:
    """The input of a model that takes images.

    Args:
        preprocessing: shape and normalisation.
        samples: float32 ``[N, C, H, W]`` in [0, 1]; random ones when None.
        normalize: whether the graph normalises.

    Raises:
        ConfigError: samples of another shape or type.
    """
    shape = preprocessing.image_shape
    if samples is None:
        generator = torch.Generator("cpu").manual_seed(0)  # of its own: the global one is not touched
        samples = torch.rand(_RANDOM_SAMPLES, *shape, generator=generator, device="cpu", dtype=torch.float32)
    found = _host(samples)
    if found.ndim != 4 or found.shape[1:] != shape or len(found) == 0:
        expected = f"[N, {', '.join(map(str, shape))}]"
        raise ConfigError(f"samples have the shape {list(found.shape)}, expected {expected}")
    if not found.is_floating_point() or not found.isfinite().all():
        what = "values that are not finite" if found.is_floating_point() else f"the type {found.dtype}"
        raise ConfigError(f"samples have {what}, expected pixels in [0, 1] (of 8-bit images: divided by 255)")
    return ModelInput(
        name="input",
        samples=found.to(torch.float32).contiguous(),
        probe=torch.from_numpy(probe_pixels(shape)),
        metadata=preprocessing.metadata(baked=normalize),
        apply=preprocessing.apply,
        bake=preprocessing.bake if normalize else None,
    )


def text_input(text: TextSpec, samples: Sequence[str] | torch.Tensor | NDArray[Any] | None) -> ModelInput:
    """The input of a model that takes texts.

    Args:
        text: the tokeniser.
        samples: texts, or tokens int64 ``[N, length]``; random tokens when None.

    Raises:
        ConfigError: samples of another shape or type.
    """
    if samples is None:
        samples = _random_tokens(text)
    if isinstance(samples, Sequence) and not isinstance(samples, str) and all(isinstance(one, str) for one in samples):
        samples = tokenise_all(samples, text)
    found = _host(samples)
    if found.ndim != 2 or found.shape[1] != text.length or len(found) == 0:
        raise ConfigError(f"samples have the shape {list(found.shape)}, expected tokens [N, {text.length}]")
    if found.dtype not in _INTEGERS or not 0 <= int(found.min()) <= int(found.max()) < text.vocabulary:
        what = f"tokens up to {int(found.max())}" if found.dtype in _INTEGERS else f"the type {found.dtype}"
        raise ConfigError(f"samples have {what}, expected whole numbers from 0 to {text.vocabulary - 1}")
    return ModelInput(
        name=TOKENS,
        samples=found.to(torch.int64).contiguous(),
        probe=torch.from_numpy(probe_tokens(text)),
        metadata=text_metadata(text),
        apply=np.asarray,
    )


def _random_tokens(text: TextSpec) -> torch.Tensor:
    """Texts of random tokens and lengths, the first of them empty."""
    generator = torch.Generator("cpu").manual_seed(0)  # of its own: the global one is not touched
    tokens = torch.randint(1, text.vocabulary, (_RANDOM_SAMPLES, text.length), generator=generator, device="cpu")
    lengths = torch.randint(1, text.length + 1, (_RANDOM_SAMPLES, 1), generator=generator, device="cpu")
    lengths[0] = 0
    return tokens.masked_fill(torch.arange(text.length, device="cpu") >= lengths, PADDING)


def _host(samples: object) -> torch.Tensor:
    """Samples as a dense tensor of its own on the CPU.

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
