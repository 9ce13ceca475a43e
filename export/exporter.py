"""The whole way from a module to a checked file: capture, passes, form, versions, check."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from onnx import ModelProto, helper
from torch import nn

from ..compress.data.tokens import PADDING, TextSpec, tokenise_all
from ..compress.errors import ConfigError
from ..compress.storage.atomic import atomic_path
from .batchnorm import fold_batch_norms
from .capture import capture, evaluation_copy
from .check import check_structure, compare, logits_of
from .cleanup import drop_unused, remove_identities
from .constants import drop_zero_biases, fix_reshapes, fold_constants
from .dense import write_dense
from .graph import Graph
from .opsets import BASE_OPSET, check_opset, convert
from .preprocessing import Preprocessing
from .report import ExportReport, ShrinkReport
from .runtime import open_session
from .shrink import shrink as remove_dead_units
from .softmax import OUTPUT, PROBABILITIES, add_softmax
from .text import TOKENS, text_metadata

__all__ = ["build", "export_onnx", "export_text_onnx"]

_RANDOM_SAMPLES = 8

GraphPass = Callable[[Graph], None]


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    normalize: bool = True,
    opset: int = BASE_OPSET,
    metadata: Mapping[str, str] | None = None,
    samples: torch.Tensor | None = None,
    softmax: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """Write ``model`` as one ONNX file in float32, after checking that onnxruntime computes the same.

    The graph has one input, ``pixels`` (or ``input`` without ``normalize``), float32 ``[batch, C, H, W]``
    with a dynamic batch, and one output, ``logits``. Weights are initialisers under their dotted parameter
    names. BatchNorm is folded into the layer in front of it. The same model always gives the same bytes.
    ``model`` is not changed. A model whose output is not ``[batch, classes]`` is exported too;
    ``argmax_agreement`` then ranges over all outputs of a sample.

    Args:
        model: takes normalised images, returns one tensor. On any device, in any floating-point type.
        path: the file to write; it is replaced only when the export is complete and right.
        image_shape: channels, height, width.
        mean: one value per channel, for pixels in [0, 1].
        std: one value per channel.
        normalize: put ``(pixels - mean) / std`` into the graph, so that it takes pixels in [0, 1].
        opset: version of the ONNX operator set, see `supported_opsets`.
        metadata: further entries for the file (class names under ``iterand.classes``, as a JSON list).
        samples: images to compare on, float32 ``[N, C, H, W]`` in [0, 1]; random ones when None.
        softmax: give ``probabilities`` in the place of ``logits``.
        shrink: leave out the channels that pruning left without a purpose, see `.shrink`.

    Returns:
        An `ExportReport`.

    Raises:
        ConfigError: an option that cannot be carried out.
        ExportError: the model cannot be exported, or its export differs from it. No file is left.
        IterandError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_onnx(net, f"{folder}/net.onnx", image_shape=(1, 8, 8), mean=[0.5], std=[0.5])
        >>> report.opset, report.argmax_agreement
        (18, 1.0)
    """
    preprocessing = Preprocessing.of(image_shape, mean, std)
    check_opset(opset)
    properties = _properties(preprocessing.metadata(baked=normalize), metadata, softmax=softmax)
    pixels = _pixels(samples, preprocessing)
    inputs = torch.from_numpy(preprocessing.apply(pixels.numpy()))
    passes: list[GraphPass] = [preprocessing.bake] if normalize else []
    passes += [add_softmax] if softmax else []
    fed = pixels if normalize else inputs
    return _write(model, path, "input", inputs, fed, passes, opset=opset, properties=properties, shrink=shrink)


def export_text_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    text: TextSpec,
    opset: int = BASE_OPSET,
    metadata: Mapping[str, str] | None = None,
    samples: Sequence[str] | torch.Tensor | None = None,
    softmax: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """`export_onnx` for a model that takes texts as token numbers.

    The graph has one input, ``tokens``, int64 ``[batch, length]`` with a dynamic batch. The tokeniser is described
    in the metadata, so `OnnxClassifier` takes the texts themselves.

    Args:
        model: takes tokens int64 ``[N, length]``, returns one tensor. On any device, in any floating-point type.
        path: the file to write; it is replaced only when the export is complete and right.
        text: the tokeniser.
        opset: version of the ONNX operator set, see `supported_opsets`.
        metadata: further entries for the file (class names under ``iterand.classes``, as a JSON list).
        samples: what to compare on, texts or tokens int64 ``[N, length]``; random tokens when None.
        softmax: give ``probabilities`` in the place of ``logits``.
        shrink: leave out the channels that pruning left without a purpose, see `.shrink`.

    Returns:
        An `ExportReport`.

    Raises:
        ConfigError: an option that cannot be carried out.
        ExportError: the model cannot be exported, or its export differs from it. No file is left.
        IterandError: the file cannot be written.
    """
    check_opset(opset)
    properties = _properties(text_metadata(text), metadata, softmax=softmax)
    tokens = _tokens(samples, text)
    passes = [add_softmax] if softmax else []
    return _write(model, path, TOKENS, tokens, tokens, passes, opset=opset, properties=properties, shrink=shrink)


def _write(
    model: nn.Module,
    path: str | os.PathLike[str],
    input_name: str,
    inputs: torch.Tensor,
    fed: torch.Tensor,
    passes: Sequence[GraphPass],
    *,
    opset: int,
    properties: Mapping[str, str],
    shrink: bool,
) -> ExportReport:
    found: list[ShrinkReport] = []
    first: list[GraphPass] = [lambda graph: found.append(remove_dead_units(graph))] if shrink else []
    with atomic_path(path) as temporary:  # first, so that a folder that cannot be written to costs no time
        copy = evaluation_copy(model)
        logits = logits_of(copy, inputs[:1])  # a model that cannot run fails here, in plain words
        if OUTPUT in properties and logits.ndim != 2:
            raise ConfigError(f"softmax: expected a model with an output [batch, classes], got {list(logits.shape)}")
        onnx_model = build(copy, inputs, input_name, [*first, *passes], opset=opset)
        helper.set_model_props(onnx_model, dict(properties))
        temporary.write_bytes(onnx_model.SerializeToString(deterministic=True))
        check_structure(os.fspath(temporary))
        agreement = compare(open_session(temporary), copy, inputs, fed, probabilities=OUTPUT in properties)
        size = temporary.stat().st_size
    return ExportReport(
        path=Path(path),
        file_bytes=size,
        opset=opset,
        ir_version=onnx_model.ir_version,
        max_abs_difference=agreement.max_abs_difference,
        samples=agreement.samples,
        argmax_agreement=agreement.argmax_agreement,
        shrink=found[0] if found else None,
    )


def build(
    model: nn.Module, inputs: torch.Tensor, input_name: str, passes: Sequence[GraphPass], *, opset: int
) -> ModelProto:
    """Return the ONNX model of an evaluation copy, without metadata.

    Args:
        model: the copy.
        inputs: of the right type and shape; their values play no part.
        input_name: name of the graph's input.
        passes: what is done to the graph in the end.
        opset: version of the ONNX operator set.

    Raises:
        ExportError: see `capture` and `convert`.
    """
    graph = Graph(capture(model, torch.zeros_like(inputs[:1]).repeat(2, *[1] * (inputs.ndim - 1)), input_name))
    remove_identities(graph)
    drop_zero_biases(graph, fold_constants(graph))
    fix_reshapes(graph)
    factors = fold_batch_norms(graph)
    write_dense(graph, factors)
    for transform in passes:
        transform(graph)
    drop_unused(graph)
    result = convert(graph.model(), opset)
    result.producer_name, result.producer_version = "iterand-compress", _version()
    return result


def _pixels(samples: torch.Tensor | None, preprocessing: Preprocessing) -> torch.Tensor:
    shape = preprocessing.image_shape
    if samples is None:
        generator = torch.Generator().manual_seed(0)  # of its own: the global one is not touched
        return torch.rand(_RANDOM_SAMPLES, *shape, generator=generator)
    if samples.ndim != 4 or tuple(samples.shape[1:]) != shape or len(samples) == 0:
        raise ConfigError(f"samples have the shape {list(samples.shape)}, expected [N, {', '.join(map(str, shape))}]")
    return samples.detach().to("cpu", torch.float32).contiguous()


def _tokens(samples: Sequence[str] | torch.Tensor | None, text: TextSpec) -> torch.Tensor:
    if samples is None:
        return _random_tokens(text)
    if not isinstance(samples, torch.Tensor):
        samples = torch.from_numpy(tokenise_all(samples, text))
    if samples.ndim != 2 or samples.shape[1] != text.length or len(samples) == 0 or samples.is_floating_point():
        raise ConfigError(f"samples have the shape {list(samples.shape)}, expected tokens [N, {text.length}]")
    return samples.detach().to("cpu", torch.int64).contiguous()


def _random_tokens(text: TextSpec) -> torch.Tensor:
    """Texts of random tokens and lengths, the first of them empty."""
    generator = torch.Generator().manual_seed(0)  # of its own: the global one is not touched
    tokens = torch.randint(1, text.vocabulary, (_RANDOM_SAMPLES, text.length), generator=generator)
    lengths = torch.randint(1, text.length + 1, (_RANDOM_SAMPLES, 1), generator=generator)
    lengths[0] = 0
    return tokens.masked_fill(torch.arange(text.length) >= lengths, PADDING)


def _properties(own: dict[str, str], metadata: Mapping[str, str] | None, *, softmax: bool) -> dict[str, str]:
    if softmax:
        own[OUTPUT] = PROBABILITIES
    given = dict(metadata or {})
    taken = sorted(own.keys() & given.keys())
    if taken:
        raise ConfigError(f"metadata: {', '.join(taken)} cannot be given, the export writes it")
    return dict(sorted({**given, **own}.items()))


def _version() -> str:
    try:
        return version("iterand-compress")
    except PackageNotFoundError:  # running from a source tree that was never installed
        return "unknown"
