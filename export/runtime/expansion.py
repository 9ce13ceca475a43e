"""Expand the weights of a file in sessions of their own, and open a session that holds the results."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from ...compress.errors import ExportError
from ...compress.files.kinds import WHAT, kind_of
from ..forms import CHECK
from ..graph import producers
from ..session import failing_as, open_session, session_options
from .records import WeightRecord, records_of

__all__ = ["expand", "load_model", "load_session", "open_exported", "small_memory_options"]


def load_session(
    path: str | os.PathLike[str], options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Open an exported file in onnxruntime, on the CPU, in bounded memory.

    onnxruntime by itself expands packed and seeded weights when it loads a file, and holds every intermediate result
    until all of them are expanded. Here sessions of their own compute the weights, one after the other; a last one,
    without the nodes that compute them, gets the results. All are stock sessions.

    Args:
        path: any file of `export_onnx` or of ``iterand-compress export``; other ONNX files load as they are.
        options: for the last session; by default those of `small_memory_options`.

    Raises:
        ExportError: the file is missing, damaged, or not for this onnxruntime; the generator inside a seeded file
            computes something else here than it should.
    """
    try:
        return open_exported(path, options or small_memory_options())
    except ExportError as error:
        raise ExportError(f"{os.fspath(path)}: {error}") from error


def load_model(path: str | os.PathLike[str]) -> ModelProto:
    """Read an ONNX file.

    Raises:
        ExportError: it is missing, or something else.
    """
    if not Path(path).is_file():
        raise ExportError("no such file")
    kind = kind_of(Path(path))
    if kind in ("seedmask", "torch"):
        raise ExportError(f"{WHAT[kind]}, not an ONNX model; make one of it: iterand-compress export")
    with failing_as("not an ONNX model: "):
        return onnx.load(os.fspath(path))


def open_exported(path: str | os.PathLike[str], options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """`load_session`, whose errors do not name the file.

    Raises:
        ExportError: see `load_session`.
    """
    model = load_model(path)
    weights = _computed(model, records_of(model))
    if not weights:
        del model
        return open_session(path, options)
    check_generator(model)
    values: dict[str, NDArray[np.float32]] = {}
    for weight in sorted(weights, key=lambda weight: -math.prod(weight.shape)):  # the largest while memory is empty
        values[weight.name] = _allocated(weight)
        _run(_expander(model, [weight.name]), {weight.name: values[weight.name]})
    _replace(model, values)
    serialized = model.SerializeToString()
    del model
    tensors = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
    options.add_external_initializers(list(values), tensors)
    return open_session(serialized, options)


def _allocated(weight: WeightRecord) -> NDArray[np.float32]:
    try:
        return np.empty(weight.shape, np.float32)
    except (MemoryError, ValueError) as error:
        raise ExportError(f"weight {weight.name!r}: not enough memory for the shape {weight.shape}: {error}") from None


def small_memory_options() -> onnxruntime.SessionOptions:
    """Session options without the layout of weights that onnxruntime prefers on x86-64 processors (NCHWc).

    That layout needs two more copies of all convolutions while a file is loaded; it makes them quicker.
    """
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return options


def expand(model: ModelProto, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Compute values that depend on nothing but initialisers.

    Args:
        model: an exported file.
        names: the values.

    Returns:
        The values by name.

    Raises:
        ExportError: onnxruntime cannot compute them, or the generator is wrong.
    """
    check_generator(model)
    return _run(_expander(model, names), {})


def check_generator(model: ModelProto) -> None:
    """Refuse a runtime on which the generator in a graph does not give the known answers.

    Raises:
        ExportError: it does not.
    """
    if not any(CHECK in node.output for node in model.graph.node):
        return
    if not np.isfinite(_run(_expander(model, [CHECK]), {})[CHECK]).all():
        raise ExportError(
            f"the generator in the graph computes wrong numbers on onnxruntime {onnxruntime.__version__}; "
            "export it with form packed"
        )


def _run(model: ModelProto, out: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Run a graph without inputs and without folding it; outputs named in ``out`` are written there."""
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False  # it would keep what intermediate results needed
    session = open_session(model.SerializeToString(), options)
    names = [output.name for output in model.graph.output]
    with failing_as("onnxruntime cannot expand the weights: "):
        binding = session.io_binding()
        for name in names:
            if name in out:
                binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(out[name]))
            else:
                binding.bind_output(name)
        session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        return {name: out[name] if name in out else value.numpy() for name, value in zip(names, outputs, strict=True)}


def _computed(model: ModelProto, weights: Sequence[WeightRecord]) -> list[WeightRecord]:
    """The weights that nodes compute, but for those that are to stay quantised in memory."""
    computing = producers(model.graph.node)
    return [
        weight
        for weight in weights
        if weight.name in computing
        and all(computing[name].op_type != "DequantizeLinear" for name in _ancestors(model.graph, [weight.name]))
    ]


def _ancestors(graph: GraphProto, names: Sequence[str]) -> set[str]:
    """The first outputs of all nodes that the named values depend on."""
    computing = producers(graph.node)
    ancestors: set[str] = set()
    remaining = list(names)
    while remaining:
        node = computing.get(remaining.pop())
        if node is not None and node.output[0] not in ancestors:
            ancestors.add(node.output[0])
            remaining += node.input
    return ancestors


def _expander(model: ModelProto, names: Sequence[str]) -> ModelProto:
    graph = model.graph
    inside = _ancestors(graph, names)
    nodes = [node for node in graph.node if node.output[0] in inside]
    read = _read(nodes)
    expander = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    expander.graph.name = "expander"
    expander.graph.node.extend(nodes)
    expander.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    expander.graph.output.extend(ValueInfoProto(name=name) for name in names)  # types are for onnxruntime to infer
    return expander


def _replace(model: ModelProto, values: Mapping[str, NDArray[Any]]) -> None:
    """Replace nodes by tensors, whose values are given to the session, not to the model."""
    graph = model.graph
    inside = _ancestors(graph, [*values, CHECK])
    nodes = [node for node in graph.node if node.output[0] not in inside]
    read = _read(nodes)
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    for name, value in values.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "given to the session"
        tensors.append(tensor)
    if CHECK in read:  # `check_generator` has seen that it is 1
        tensors.append(numpy_helper.from_array(np.array(1, np.float32), CHECK))
    for field, items in (("node", nodes), ("initializer", tensors)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    model.ClearField("functions")


def _read(nodes: Sequence[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}
