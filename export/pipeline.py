"""From a module to a checked file: capture, passes, form, versions, check."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import nn

from ..compress.errors import ConfigError, ExportError
from ..compress.files.atomic import atomic_path, check_output
from ..compress.mask.layers import masked_layers, pruned_layers
from ..compress.mask.masking import to_dense
from ..compress.pack import network_of
from ..compress.seedmask import Network, SeedMask, read_seedmask
from .capture import capture, edges_of, evaluation_copy, plain_module, undisturbed
from .coded import CodedWeight, coded_weights
from .export_options import AUTO, FLOAT16, ExportOptions
from .forms import write_form
from .forms.dense import write_dense
from .forms.float16 import to_float16
from .graph import Graph
from .input_metadata import CLASSES
from .opsets import convert
from .passes.batchnorm import fold_batch_norms
from .passes.cleanup import drop_unused, remove_identities
from .passes.constants import drop_zero_biases, fix_reshapes, fold_constants
from .passes.preprocessing import PIXELS
from .passes.shrink import shrink as remove_dead_units
from .passes.simplify import simplified
from .passes.softmax import OUTPUT, PROBABILITIES, add_softmax
from .passes.transposes import transpose_weights
from .report import ExportReport, ShrinkReport
from .runtime.agreement import check_repeatable, compare, edge_calls, outputs_of, sized_calls
from .runtime.expansion import load_model, open_exported
from .runtime.probe import PROBE, write_probes
from .runtime.records import FORM, WEIGHTS, WEIGHTS_DIGEST, record_metadata
from .runtime.structure import accepted_difference, check_structure, largest_difference
from .runtime.verification import verify_weights
from .samples import Call, GraphPass, ModelInput
from .session import session_options, shown
from .signature import LOGITS

__all__ = ["build", "write_model"]

_SMALL = 1 << 18
"""Bytes of a file below which other forms may well be smaller, as nodes weigh more than weights."""


@undisturbed()
def write_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    given: ModelInput,
    options: ExportOptions,
    metadata: Mapping[str, str] | None,
    weights: SeedMask | Network | str | os.PathLike[str] | None,
) -> ExportReport:
    """Carry out `export_onnx`.

    Args:
        model: the user's.
        path: the file to write.
        given: the model's inputs, and samples of them.
        options: all choices.
        metadata: further entries for the file.
        weights: the network that a plain module was recovered from: its file, the path of that, or in memory.

    Raises:
        IterandError: see `export_onnx`.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
        raise ConfigError(f"path: expected the name of a file, got {shown(path)}")
    properties = _properties(given.metadata, metadata, softmax=options.softmax)
    if isinstance(weights, str | os.PathLike):
        weights = read_seedmask(Path(weights))
    elif not isinstance(weights, SeedMask | Network | None):
        raise ConfigError(f"weights: expected a .seedmask file that was read, or its path, got {shown(weights)}")
    check_output(path, kind="onnx")
    with atomic_path(path) as temporary:  # first, so that a folder that cannot be written to costs no time
        model = plain_module(model)
        copied, coded = _coded(model, weights)
        if not coded and not options.plain:
            raise ConfigError(
                f"form {options.form}: {type(model).__name__} is a plain module, whose weights may be any numbers; "
                "give the subnetwork itself, or weights= the file that it was recovered from, or take form dense"
            )
        forms = _possible(options, coded)
        probed = given.probe()
        outputs = _first_outputs(model, copied, given, next(given.calls()))
        taken = {*given.signature.names, *outputs, *([PIXELS] if given.bake else [])}
        taken |= {PROBABILITIES} if options.softmax else set()
        for name in sorted(taken & copied.state_dict().keys()):
            raise ExportError(f"{name}: a parameter or buffer has the name of the graph's input or output; rename it")
        main = next(iter(outputs.values()))
        probabilities = _logits_among(outputs) if options.softmax else None
        classes = _classes(properties)
        if classes and main.shape[1:2] != (len(classes),):
            raise ConfigError(
                f"metadata: {CLASSES} names {len(classes)} classes, the model's output has the shape "
                f"[batch, {', '.join(map(str, main.shape[1:]))}]"
            )
        check_repeatable(copied, given, [probed, *given.calls(8)])
        sized = sized_calls(copied, given)
        recorded = {name: value.numpy() for name, value in outputs_of(copied, given, probed.network).items()}
        shrunk: list[ShrinkReport] = []
        whole: list[Graph] = []
        passes: list[GraphPass] = [given.bake] if given.bake is not None else []
        if probabilities is not None:
            number = list(outputs).index(probabilities)
            passes.append(lambda graph: add_softmax(graph, number))
        if options.shrink:
            first = [lambda graph: whole.append(graph.copy()), lambda graph: shrunk.append(remove_dead_units(graph))]
            passes[:0] = first
        captured = capture(copied, given.signature, given.plain(), list(outputs))
        sized += edge_calls(copied, given, edges_of(captured))
        graph = build(captured, passes, opset=options.opset, weights=coded)
        names = [name for name in coded if name in graph.coded]
        properties[PROBE] = write_probes(recorded)
        if names:
            rounded = np.float16 if forms == [FLOAT16] else np.float32
            properties[WEIGHTS] = record_metadata(names, coded, graph.coded, rounded)
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
        check_structure(temporary)
        verify_weights(load_model(temporary))
        session = open_exported(temporary, session_options())
        half = chosen == FLOAT16
        agreement = compare(session, copied, given, given.calls(), probabilities=probabilities, half=half)
        # The first as verify does.
        compare(session, copied, given, [probed, *sized], probabilities=probabilities, half=half)
        size = temporary.stat().st_size
        if size < _SMALL and not options.plain:
            others = replace(options, form=AUTO, keep_quantized=False)
            for form in _possible(others, coded):
                if form not in sizes and form != "seeded":  # which few runtimes take, and slowly
                    sizes[form] = _in_form(graph, form, others, properties).ByteSize()
        for unshrunk in whole:
            _finish(unshrunk, passes[2:])
    return ExportReport(
        path=Path(path),
        file_bytes=size,
        opset=options.opset,
        ir_version=smallest.ir_version,
        form=chosen,
        unmasked_bytes=_unmasked(graph),
        form_bytes=sizes,
        max_abs_difference=agreement.max_abs_difference,
        samples=given.count,
        argmax_agreement=agreement.argmax_agreement,
        shrink=shrunk[0] if shrunk else None,
        unshrunk_bytes=_in_form(whole[0], chosen, options, properties).ByteSize() if whole else None,
    )


def build(
    captured: ModelProto, passes: Sequence[GraphPass], *, opset: int, weights: Mapping[str, CodedWeight]
) -> Graph:
    """Return the graph of an evaluation copy, with dense weights.

    Args:
        captured: what `capture` found.
        passes: what is done to the graph in the end.
        opset: version of the ONNX operator set.
        weights: those whose codes are known, by name.

    Raises:
        ExportError: see `convert`.
    """
    graph = Graph(simplified(captured))
    remove_identities(graph)
    fold_constants(graph)
    drop_zero_biases(graph, graph.initializers.keys() - {tensor.name for tensor in captured.graph.initializer})
    fix_reshapes(graph)
    write_dense(graph, fold_batch_norms(graph), weights)
    _finish(graph, passes)
    converted = Graph(convert(graph.model(), opset))
    converted.coded = {name: graph.coded[name] for name in graph.coded if name in converted.initializers}
    return converted


def _finish(graph: Graph, passes: Sequence[GraphPass]) -> None:
    for transform in passes:
        transform(graph)
    transpose_weights(graph)
    drop_unused(graph)


def _in_form(graph: Graph, form: str, options: ExportOptions, properties: Mapping[str, str]) -> ModelProto:
    written = graph.copy()
    if form == FLOAT16:
        model = to_float16(written)
    else:
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


def _coded(model: nn.Module, weights: SeedMask | Network | None) -> tuple[nn.Module, dict[str, CodedWeight]]:
    """The evaluation copy, plain, and its masked weights as far as they are known."""
    if weights is None:
        trained = "float32" if pruned_layers(model) else None
        if trained is None and not masked_layers(model):
            return evaluation_copy(model), {}
        weights = network_of(model.state_dict(), with_weights=trained)
        model = to_dense(model)
    own = model.state_dict()
    copied = evaluation_copy(model)
    parameters = copied.state_dict()
    coded = coded_weights(weights)
    for name, weight in coded.items():
        values = torch.from_numpy(weight.values())
        # A network in bfloat16 or float16 computes with rounded weights; the file gets those that recover() gives.
        if name not in own or not torch.equal(parameters[name], values.to(own[name].dtype).float()):
            got = "other values" if name in own else "no such weight"
            source = weights.path if isinstance(weights, SeedMask) else "the network"
            raise ExportError(f"{name}: {source} does not belong to this model: expected its weight, got {got}")
        parameters[name].copy_(values)
    return copied, coded


def _first_outputs(model: nn.Module, copied: nn.Module, given: ModelInput, first: Call) -> dict[str, torch.Tensor]:
    """Run a model, which may fail, and compare a subnetwork with itself without masks.

    Raises:
        ExportError: it does not run, in plain words; or what the masks are taken off of computes something else.
    """
    try:
        outputs = outputs_of(copied, given, first.network)
    except ExportError as error:
        kinds = {str(value.dtype) for value in model.state_dict().values() if isinstance(value, torch.Tensor)}
        odd = sorted(kinds & {"torch.float64", "torch.float16", "torch.bfloat16"})
        if not odd:
            raise
        raise ExportError(
            f"{error} (an export computes in float32 throughout, and parts of the model are in {', '.join(odd)}: let "
            "forward() convert to the type of the weights, not to a fixed one)"
        ) from error
    if masked_layers(model) or pruned_layers(model):
        for name, masked in outputs_of(evaluation_copy(model), given, first.network).items():
            difference = largest_difference(masked.numpy(), outputs[name].numpy())
            if not difference <= accepted_difference(masked.numpy()):
                raise ExportError(
                    f"{type(model).__name__} computes something else without its masks, and so do files of it: outputs "
                    f"differ by {difference:.3g}; its forward() changes a masked weight in place, which is lost while "
                    "the weight follows from seed and mask: let it compute another tensor"
                )
    return outputs


def _logits_among(outputs: Mapping[str, torch.Tensor]) -> str:
    """The output that a softmax goes behind: the only one, or of several the one called ``logits``.

    Raises:
        ConfigError: there is none, or it has no classes.
    """
    if len(outputs) > 1 and LOGITS not in outputs:
        raise ConfigError(
            f"softmax: the network has the outputs {', '.join(outputs)}, none of them called {LOGITS}: leave it out, "
            f'or let forward() return a dictionary with the key "{LOGITS}"'
        )
    name = LOGITS if LOGITS in outputs else next(iter(outputs))
    if outputs[name].ndim < 2 or not outputs[name].is_floating_point():
        raise ConfigError(
            "softmax: expected a model with an output [batch, classes] or [batch, classes, …], got "
            f"{str(outputs[name].dtype).removeprefix('torch.')} {list(outputs[name].shape)}"
        )
    if PROBABILITIES in outputs:
        raise ConfigError(f"softmax: the network has an output called {PROBABILITIES} already; leave it out")
    return name


def _properties(own: Mapping[str, str], metadata: Mapping[str, str] | None, *, softmax: bool) -> dict[str, str]:
    written = {**own, **({OUTPUT: PROBABILITIES} if softmax else {})}
    if not isinstance(metadata, Mapping | None):
        raise ConfigError(f"metadata: expected a dict of texts, got {shown(metadata)}")
    given = dict(metadata or {})
    for key, value in given.items():
        if not _is_text(key) or not _is_text(value):
            raise ConfigError(
                f"metadata: expected texts (json.dumps makes them of other values), got {shown(key)}: {shown(value)}"
            )
    taken = sorted({*written, FORM, PROBE, WEIGHTS} & given.keys())
    if taken:
        raise ConfigError(f"metadata: {', '.join(taken)} cannot be given, the export writes it")
    return {**given, **written}


def _is_text(value: object) -> bool:
    """Whether a file can hold it: a string, without halves of surrogate pairs."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode("utf-8")


def _classes(properties: Mapping[str, str]) -> list[Any]:
    """The names of the classes, if there are any.

    Raises:
        ConfigError: they are no JSON list.
    """
    text = properties.get(CLASSES, "[]")
    try:
        classes = json.loads(text)
    except ValueError:
        classes = None
    if not isinstance(classes, list):
        raise ConfigError(f"metadata: {CLASSES}: expected a JSON list of names (json.dumps), got {shown(text)}")
    return classes


def _version() -> str:
    try:
        return version("iterand-compress")
    except PackageNotFoundError:  # running from a source tree that was never installed
        return "unknown"
