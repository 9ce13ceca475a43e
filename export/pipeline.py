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
from .expansion import load_model, open_exported
from .forms import write_form
from .graph import Graph
from .inputs import GraphPass, ModelInput
from .opsets import convert
from .options import ExportOptions
from .probe import PROBE, Probe
from .records import FORM, WEIGHTS, WEIGHTS_DIGEST, record_metadata
from .report import ExportReport, ShrinkReport
from .runtime import session_options
from .shrink import shrink as remove_dead_units
from .softmax import OUTPUT, PROBABILITIES, add_softmax
from .structure import check_structure
from .verification import verify_weights

__all__ = ["build", "write_model"]


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
        if len(names) < len(coded):  # unused weights, and second names: what is left cannot show the digest of all
            properties.pop(WEIGHTS_DIGEST, None)
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
        verify_weights(load_model(temporary))
        session = open_exported(temporary, session_options())
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
    write_form(written, form, keep_quantized=options.keep_quantized, guarded=options.runtime == "openvino")
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
