"""The inputs of an export: samples as users have them, and what the network and the file take for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..compress.data.tokens import tokenise_all
from ..compress.errors import ConfigError
from ..compress.inputs import PADDING, AnyInput, ImageInput, TextInput
from .graph import Graph
from .input_metadata import input_metadata, tensor_metadata
from .passes.preprocessing import bake_normalization
from .session import first_line, shown
from .signature import BATCH, Dynamic, Signature, signature_of
from .tensor_input import TensorInput

__all__ = ["Call", "GraphPass", "ModelInput", "Samples", "model_input"]

Samples = Sequence[Any] | torch.Tensor | NDArray[Any] | None
GraphPass = Callable[[Graph], None]

_RANDOM_SAMPLES = 8
_NOISE = 3  # calls with numbers in the range of the example
_CHUNK = 64  # samples at a time
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LARGEST_IMAGE = 2**28  # numbers: 1 GiB


@dataclass(frozen=True)
class Call:
    """The inputs of one run.

    Attributes:
        network: what the network takes.
        file: the same as the file takes it, for instance before normalisation.
        label: what is special about them, for messages: ``a batch of 1``.
    """

    network: tuple[torch.Tensor, ...]
    file: tuple[NDArray[Any], ...]
    label: str


@dataclass(frozen=True)
class ModelInput:
    """The inputs of a model.

    Attributes:
        signature: names and dimensions, as the network takes them.
        tensors: type, sizes and range of each.
        described: the images or texts that they are; ``None`` for other tensors.
        samples: to compare on: pixels float32 ``[N, C, H, W]`` in [0, 1], tokens int64 ``[N, length]``, or for other
            inputs all tensors of a run; one entry for each run.
        baked: whether the graph normalises its input.
    """

    signature: Signature
    tensors: tuple[TensorInput, ...]
    described: AnyInput | None
    samples: tuple[tuple[torch.Tensor, ...], ...]
    baked: bool

    @property
    def count(self) -> int:
        """Number of samples; of a network that takes neither images nor texts, of runs."""
        return len(self.samples[0][0]) if self.described is not None else len(self.samples)

    @property
    def metadata(self) -> dict[str, str]:
        """The entries that describe the inputs."""
        if self.described is None:
            return tensor_metadata(self.tensors)
        return input_metadata(self.described, baked=self.baked)

    @property
    def bake(self) -> GraphPass | None:
        """The pass that puts the normalisation in front of a graph; None if the file takes what the network takes."""
        image = self.described
        if not self.baked or not isinstance(image, ImageInput):
            return None
        return lambda graph: bake_normalization(graph, image)

    def calls(self, limit: int | None = None) -> Iterator[Call]:
        """Yield what to compare on, or the first ``limit`` samples of it; images and texts alone, and in batches."""
        if self.described is None:
            for values in self.samples[:limit]:
                yield self._call(values)
            return
        samples = self.samples[0][0][:limit]
        rows = torch.arange(max(2, len(samples))).remainder(len(samples))
        for batch in (torch.tensor([0]), *torch.split(rows, _CHUNK)):
            yield self._call((samples[batch],))

    def probe(self) -> Call:
        """More samples, which can be made again from the metadata."""
        if self.described is not None:
            return self._call((torch.from_numpy(self.described.probe()),))
        return self._call(self._noise({}))

    def plain(self) -> tuple[torch.Tensor, ...]:
        """Zeros, to find the graph with; dimensions that vary have at least two entries."""
        return tuple(torch.zeros_like(tensor) for tensor in self.probe().network)

    def sized(self, name: str, size: int) -> Call:
        """Numbers in which a dimension that varies has another size than in the samples."""
        return self._call(self._noise({name: size}), f"{name} {size}")

    def sizes(self) -> dict[str, int]:
        """The dimensions that vary, and their sizes in the samples; without the batch of images and texts."""
        sizes = self.signature.sizes([torch.empty(tensor.shape, device="meta") for tensor in self.tensors])
        return {name: size for name, size in sizes.items() if self.described is None or name != BATCH}

    def _noise(self, sizes: Mapping[str, int], draw: int = 0) -> tuple[torch.Tensor, ...]:
        return _noise(self.tensors, self.signature, sizes, draw)

    def _call(self, values: tuple[torch.Tensor, ...], label: str = "") -> Call:
        network = values if self.described is None else (self.described.normalize(values[0]),)
        fed = values if self.baked else network
        if not label:
            label = self.signature.shown(values) if self.described is None else f"a batch of {len(values[0])}"
        return Call(network, tuple(value.numpy() for value in fed), label)


def model_input(
    model: nn.Module,
    input: Any,  # noqa: A002
    samples: Samples,
    *,
    normalize: bool,
    dynamic: Dynamic | Sequence[str] | None = None,
) -> ModelInput:
    """Check the samples of an export, or make random ones.

    Args:
        model: the network.
        input: the images or texts that the model takes, or an example of its arguments, see `signature_of`.
        samples: images, floating-point ``[N, C, H, W]`` in [0, 1]; texts, or their tokens, integers ``[N, length]``;
            or a list of more examples.
        normalize: whether the graph normalises images.
        dynamic: dimensions that vary: ``height``, ``width`` or ``length``; of other inputs see `signature_of`.

    Raises:
        ConfigError: ``input`` is something else; samples of another shape or type; texts without ``normalize``.
    """
    if isinstance(input, ImageInput):
        varying = _named(dynamic, {"height": 2, "width": 3})
        images = _images(input, samples)
        name = "input"
        tensor = TensorInput(name=name, dtype="float32", shape=[2, *input.shape], low=0, high=1)
        return ModelInput(Signature.single(name, varying), (tensor,), input, ((images,),), normalize)
    if not normalize:
        what = "texts" if isinstance(input, TextInput) else "tensors"
        raise ConfigError(
            f"normalize: {what} have no normalisation to leave out; drop normalize=False (--no-normalize)"
        )
    if isinstance(input, TextInput):
        varying = _named(dynamic, {"length": 1})
        texts = _texts(input, samples)
        tensor = TensorInput(name="tokens", dtype="int64", shape=[2, input.length], low=1, high=input.vocabulary - 1)
        return ModelInput(Signature.single("tokens", varying), (tensor,), input, ((texts,),), baked=False)
    return _tensors(model, input, samples, dynamic)


def _named(given: object, known: Mapping[str, int]) -> dict[int, str]:
    """Dimensions of images or texts that vary, by their names.

    Raises:
        ConfigError: there is no such dimension.
    """
    names = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple | set | frozenset) or not all(name in known for name in names):
        expected = f"names among {', '.join(known)} (the batch varies anyway)"
        raise ConfigError(f"dynamic: expected {expected}, got {shown(given)}")
    return {0: BATCH, **{known[name]: name for name in sorted(names)}}


def _tensors(model: nn.Module, example: Any, samples: Samples, dynamic: Any) -> ModelInput:
    """The inputs of a network that takes other tensors than images and texts.

    Raises:
        ConfigError: the network does not take them; samples that differ from the example.
    """
    signature, values = signature_of(model, example, dynamic)
    runs = [tuple(values)]
    if samples is not None and not isinstance(samples, list | tuple):
        raise ConfigError(f"samples: expected a list of more examples like input, got {shown(samples)}")
    fixed = _fixed_shapes(signature, values)
    for number, one in enumerate(samples or ()):
        other, tensors = signature_of(model, one, dynamic)
        if (other.names, other.leaves, other.structure) != (signature.names, signature.leaves, signature.structure):
            raise ConfigError(f"samples: {number}: expected {', '.join(signature.names)}, got {', '.join(other.names)}")
        shapes = _fixed_shapes(other, tensors)
        if shapes != fixed:
            raise ConfigError(f"samples: {number}: expected {_listed(fixed)}, got {_listed(shapes)}")
        runs.append(tuple(tensors))
    varying = [
        [max(2, size) if dim in names else size for dim, size in enumerate(value.shape)]
        for value, names in zip(values, signature.dynamic, strict=True)
    ]
    inputs = tuple(
        TensorInput(
            name=name,
            dtype=str(value.dtype).removeprefix("torch."),
            shape=shape,
            low=min(run[index].min().item() for run in runs),
            high=max(run[index].max().item() for run in runs),
        ).widened()
        for index, (name, value, shape) in enumerate(zip(signature.names, values, varying, strict=True))
    )
    noise = () if samples is not None else tuple(_noise(inputs, signature, {}, draw) for draw in range(1, 1 + _NOISE))
    return ModelInput(signature, inputs, None, (*runs, *noise), baked=False)


def _fixed_shapes(signature: Signature, tensors: Sequence[torch.Tensor]) -> dict[str, str]:
    """Types and shapes of inputs, with names for what varies."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')}"
        f"[{', '.join(names.get(dim, str(size)) for dim, size in enumerate(tensor.shape))}]"
        for name, names, tensor in zip(signature.names, signature.dynamic, tensors, strict=True)
    }


def _listed(shapes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _noise(
    tensors: Sequence[TensorInput], signature: Signature, sizes: Mapping[str, int], draw: int
) -> tuple[torch.Tensor, ...]:
    made = []
    for index, (tensor, names) in enumerate(zip(tensors, signature.dynamic, strict=True)):
        shape = [sizes.get(names.get(dim, ""), size) for dim, size in enumerate(tensor.shape)]
        made.append(torch.from_numpy(tensor.noise(index, shape, draw=draw)))
    return tuple(made)


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
