"""The whole way from a module to a checked file: capture, passes, form, versions, check."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import nn

from ..compress.data.tokens import TextSpec
from ..compress.errors import ConfigError, ExportError
from ..compress.packing import network_of
from ..compress.storage import SeedMask, dumps, loads
from ..compress.storage.atomic import atomic_path
from ..compress.subnetwork import masked_layers, materialise, pruned_layers
from .batchnorm import fold_batch_norms
from .capture import capture, evaluation_copy
from .check import compare, logits_of
from .cleanup import drop_unused, remove_identities
from .coded import CodedWeight, coded_weights
from .constants import drop_zero_biases, fix_reshapes, fold_constants
from .dense import write_dense
from .expansion import load_session
from .forms import write_form
from .graph import Graph
from .inputs import GraphPass, ModelInput, image_input, text_input
from .opsets import BASE_OPSET, convert
from .options import ExportOptions
from .preprocessing import Preprocessing
from .probe import PROBE, Probe
from .records import FORM, WEIGHTS, record_metadata
from .report import ExportReport, ShrinkReport
from .runtime import session_options
from .shrink import shrink as remove_dead_units
from .softmax import OUTPUT, PROBABILITIES, add_softmax
from .structure import check_structure
from .verification import verify_weights

__all__ = ["build", "export_onnx", "export_text_onnx", "write_model"]


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
    form: str = "dense",
    weights: SeedMask | None = None,
    runtime: str = "onnxruntime",
    ir_version: int | None = None,
    keep_quantized: bool = False,
    inline: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """Write ``model`` as one ONNX file, after checking that onnxruntime computes the same.

    The graph has one input, ``pixels`` (or ``input`` without ``normalize``), float32 ``[batch, C, H, W]``
    with a dynamic batch, and one output, ``logits``. Weights are float32 values under their dotted parameter
    names. BatchNorm is folded into the layer in front of it. The same model always gives the same bytes.
    ``model`` is not changed. A model whose output is not ``[batch, classes]`` is exported too;
    ``argmax_agreement`` then ranges over all outputs of a sample.

    Args:
        model: takes normalised images, returns one tensor. On any device, in any floating-point type. A subnetwork,
            or a plain module.
        path: the file to write; it is replaced only when the export is complete and right.
        image_shape: channels, height, width.
        mean: one value per channel, for pixels in [0, 1].
        std: one value per channel.
        normalize: put ``(pixels - mean) / std`` into the graph, so that it takes pixels in [0, 1].
        opset: version of the ONNX operator set, see `supported_opsets`.
        metadata: further entries for the file (class names under ``iterand.classes``, as a JSON list).
        samples: images to compare on, float32 ``[N, C, H, W]`` in [0, 1]; random ones when None.
        softmax: give ``probabilities`` in the place of ``logits``.
        form: how the file holds masked weights: ``dense``, ``packed``, ``int8``, ``seeded``, or ``auto`` for the
            smallest that ``runtime`` supports. All of them hold the same values, bit for bit.
        weights: the file that a plain module was recovered from; forms other than ``dense`` need it, or a subnetwork.
        runtime: what will run the file: ``onnxruntime``, ``onnxruntime-web``, ``openvino`` or ``other``.
        ir_version: version of the ONNX file format; by default the oldest that the operator set allows.
        keep_quantized: of ``int8``: use DequantizeLinear, which onnxruntime does not fold: less memory, slower.
        inline: write functions out where they are called, for runtimes that know none.
        shrink: remove channels that nothing reads or that are constant, see `ShrinkReport`.

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
    options = ExportOptions(opset, ir_version, softmax, form, runtime, keep_quantized, inline, shrink)
    given = image_input(Preprocessing.of(image_shape, mean, std), samples, normalize=normalize)
    return write_model(model, path, given, options, metadata, weights)


def export_text_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    text: TextSpec,
    opset: int = BASE_OPSET,
    metadata: Mapping[str, str] | None = None,
    samples: Sequence[str] | torch.Tensor | None = None,
    softmax: bool = False,
    form: str = "dense",
    weights: SeedMask | None = None,
    runtime: str = "onnxruntime",
    ir_version: int | None = None,
    keep_quantized: bool = False,
    inline: bool = False,
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
        form: as for `export_onnx`, and so are all that follow.
        weights: the file that a plain module was recovered from.
        runtime: what will run the file.
        ir_version: version of the ONNX file format.
        keep_quantized: of ``int8``: use DequantizeLinear.
        inline: write functions out where they are called.
        shrink: remove channels that nothing reads or that are constant.

    Returns:
        An `ExportReport`.

    Raises:
        ConfigError: an option that cannot be carried out.
        ExportError: the model cannot be exported, or its export differs from it. No file is left.
        IterandError: the file cannot be written.
    """
    options = ExportOptions(opset, ir_version, softmax, form, runtime, keep_quantized, inline, shrink)
    return write_model(model, path, text_input(text, samples), options, metadata, weights)


def write_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    given: ModelInput,
    options: ExportOptions,
    metadata: Mapping[str, str] | None,
    weights: SeedMask | None,
) -> ExportReport:
    """What `export_onnx` does.

    Args:
        model: the user's.
        path: the file to write.
        given: the model's input, and samples of it.
        options: all choices.
        metadata: further entries for the file.
        weights: the file that a plain module was recovered from.

    Raises:
        IterandError: see `export_onnx`.
    """
    properties = _properties(given.metadata, metadata, softmax=options.softmax)
    with atomic_path(path) as temporary:  # first, so that a folder that cannot be written to costs no time
        plain, coded = _coded(model, weights)
        if not coded and options.candidates != ("dense",):
            raise ConfigError(
                f"form {options.form}: {type(model).__name__} is a plain module, whose weights may be any numbers; "
                "give the subnetwork itself, or weights= the file that it was recovered from, or take form dense"
            )
        forms = _possible(options, coded)
        copied = evaluation_copy(plain)
        inputs = given.network(given.samples)
        logits = logits_of(copied, inputs[:1])  # a model that cannot run fails here, in plain words
        if options.softmax and logits.ndim != 2:
            raise ConfigError(f"softmax: expected a model with an output [batch, classes], got {list(logits.shape)}")
        probe = logits_of(copied, given.network(given.probe)).numpy()
        found: list[ShrinkReport] = []
        passes: list[GraphPass] = [lambda graph: found.append(remove_dead_units(graph))] if options.shrink else []
        passes += [given.bake] if given.bake is not None else []
        passes += [add_softmax] if options.softmax else []
        graph = build(copied, inputs, given.name, passes, opset=options.opset, weights=coded)
        names = [name for name in coded if name in graph.coded]
        properties[PROBE] = Probe.of(probe).model_dump_json()
        if names:
            properties[WEIGHTS] = record_metadata(names, coded, graph.coded)
        sizes: dict[str, int] = {}
        smallest: ModelProto | None = None
        for form in forms:
            onnx_model = _in_form(graph, form, options, properties)
            sizes[form] = onnx_model.ByteSize()
            if smallest is None or sizes[form] < smallest.ByteSize():
                chosen, smallest = form, onnx_model
        assert smallest is not None
        temporary.write_bytes(smallest.SerializeToString(deterministic=True))
        check_structure(os.fspath(temporary))
        verify_weights(temporary)
        session = load_session(temporary, session_options())
        agreement = compare(session, copied, inputs, given.file(given.samples), probabilities=options.softmax)
        size = temporary.stat().st_size
    return ExportReport(
        path=Path(path),
        file_bytes=size,
        opset=options.opset,
        ir_version=smallest.ir_version,
        form=chosen,
        unmasked_bytes=_unmasked(graph),
        form_bytes=sizes,
        max_abs_difference=agreement.max_abs_difference,
        samples=agreement.samples,
        argmax_agreement=agreement.argmax_agreement,
        shrink=found[0] if found else None,
    )


def build(
    model: nn.Module,
    inputs: torch.Tensor,
    input_name: str,
    passes: Sequence[GraphPass],
    *,
    opset: int,
    weights: Mapping[str, CodedWeight],
) -> Graph:
    """Return the graph of an evaluation copy, with dense weights.

    Args:
        model: the copy.
        inputs: of the right type and shape; their values play no part.
        input_name: name of the graph's input.
        passes: what is done to the graph in the end.
        opset: version of the ONNX operator set.
        weights: those whose codes are known, by name.

    Raises:
        ExportError: see `capture` and `convert`.
    """
    graph = Graph(capture(model, torch.zeros_like(inputs[:1]).repeat(2, *[1] * (inputs.ndim - 1)), input_name))
    remove_identities(graph)
    drop_zero_biases(graph, fold_constants(graph))
    fix_reshapes(graph)
    write_dense(graph, fold_batch_norms(graph), weights)
    for transform in passes:
        transform(graph)
    drop_unused(graph)
    converted = Graph(convert(graph.model(), opset))
    converted.coded = {name: graph.coded[name] for name in graph.coded if name in converted.initializers}
    return converted


def _in_form(graph: Graph, form: str, options: ExportOptions, properties: Mapping[str, str]) -> ModelProto:
    written = graph.copy()
    write_form(written, form, keep_quantized=options.keep_quantized)
    model = written.model()
    if options.inlined:
        model = Graph(model).model()
    model = convert(model, options.opset, options.ir_version)
    model.producer_name, model.producer_version = "iterand-compress", _version()
    helper.set_model_props(model, dict(sorted({**properties, FORM: form}.items())))
    return model


def _possible(options: ExportOptions, coded: Mapping[str, CodedWeight]) -> list[str]:
    """The forms to try.

    Raises:
        ConfigError: there is none.
    """
    floating = [name for name, weight in coded.items() if weight.codes.dtype != np.int8]
    forms = [form for form in options.candidates if not (floating and form == "int8")]
    if not forms:
        raise ConfigError(
            f"form int8: {floating[0]} was trained in {coded[floating[0]].codes.dtype}, so its values are no bytes; "
            "pack --with-weights int8 and export that, or take form packed"
        )
    return forms


def _unmasked(graph: Graph) -> int:
    """Bytes of float32 tensors, apart from vectors, that no form makes smaller."""
    total = 0
    for name, tensor in graph.initializers.items():
        matrix = sum(size > 1 for size in tensor.dims) > 1
        if matrix and name not in graph.coded and tensor.data_type == TensorProto.FLOAT:
            total += 4 * math.prod(tensor.dims)
    return total


def _coded(model: nn.Module, weights: SeedMask | None) -> tuple[nn.Module, dict[str, CodedWeight]]:
    """The plain module, and its masked weights as far as they are known."""
    if weights is None:
        trained = "float32" if next(pruned_layers(model), None) is not None else None
        if trained is None and next(masked_layers(model), None) is None:
            return model, {}
        weights = loads(dumps(network_of(model.state_dict(), with_weights=trained), coding="raw"))
        model = materialise(model)
    coded = coded_weights(weights)
    state = model.state_dict()
    for name, weight in coded.items():
        own = state.get(name)
        if own is None or not np.array_equal(own.detach().to("cpu", torch.float32).numpy(), weight.values()):
            found = "no such weight" if own is None else "other values"
            raise ExportError(f"{name}: {weights.path} does not belong to this model: expected its weight, got {found}")
    return model, coded


def _properties(own: Mapping[str, str], metadata: Mapping[str, str] | None, *, softmax: bool) -> dict[str, str]:
    written = {**own, **({OUTPUT: PROBABILITIES} if softmax else {})}
    given = dict(metadata or {})
    taken = sorted({*written, FORM, PROBE, WEIGHTS} & given.keys())
    if taken:
        raise ConfigError(f"metadata: {', '.join(taken)} cannot be given, the export writes it")
    return {**given, **written}


def _version() -> str:
    try:
        return version("iterand-compress")
    except PackageNotFoundError:  # running from a source tree that was never installed
        return "unknown"
