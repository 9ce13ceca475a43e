"""The part of a file that computes weights, run by itself; and sessions that hold what it computes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from ..compress.errors import ExportError
from .forms import CHECK
from .records import records_of
from .runtime import first_line, open_session, session_options

__all__ = ["expand", "load_session"]


def load_session(
    path: str | os.PathLike[str], options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Open an exported file in onnxruntime, on the CPU, in bounded memory.

    onnxruntime by itself expands packed and seeded weights when it loads a file, and holds every intermediate result
    until all of them are expanded. Here a first session computes the weights and frees what it no longer needs; a
    second one, without that part of the graph, gets them. Both are stock sessions, and outputs are the same.

    Args:
        path: any file of `export_onnx` or of ``iterand-compress export``; other ONNX files load as they are.
        options: for the second session; by default those of onnxruntime, but quiet, and with the entry
            ``session.qdq_matmulnbits_accuracy_level`` at 0: otherwise it rounds activations in front of quantised
            layers to int8.

    Raises:
        ExportError: the file is missing, damaged, or not for this onnxruntime; the generator inside a seeded file
            computes something else here than it should.
    """
    if not Path(path).is_file():
        raise ExportError(f"{os.fspath(path)}: no such file")
    options = options or session_options()
    try:
        model = onnx.load(os.fspath(path))
        names = [record.name for record in records_of(model)]
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{os.fspath(path)}: not an ONNX model: {first_line(error)}") from error
    computed = computed_weights(model, names)
    if not computed:
        del model
        return open_session(path, options)
    values = expand(model, computed)
    _replace(model, values)
    serialized = model.SerializeToString()
    del model
    tensors = [onnxruntime.OrtValue.ortvalue_from_numpy(values[name]) for name in computed]
    options.add_external_initializers(computed, tensors)
    return open_session(serialized, options)


def computed_weights(model: ModelProto, names: Sequence[str]) -> list[str]:
    """Those of the named values that nodes compute from initialisers which are smaller than they are."""
    kept = {"DequantizeLinear"}  # stays in the graph on purpose
    producers = {output: node for node in model.graph.node for output in node.output}
    return [name for name in names if name in producers and producers[name].op_type not in kept]


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
    checked = any(CHECK in node.output for node in model.graph.node)
    wanted = [*names, *([CHECK] if checked else [])]
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # so that nothing is folded
    options.enable_cpu_mem_arena = False
    session = open_session(_expander(model, wanted).SerializeToString(), options)
    try:
        values = session.run(wanted, {})
    except Exception as error:
        raise ExportError(f"onnxruntime cannot expand the weights: {first_line(error)}") from error
    found = dict(zip(wanted, values, strict=True))
    if checked and not np.isfinite(found.pop(CHECK)).all():
        raise ExportError(
            f"the generator in the graph computes wrong numbers on onnxruntime {onnxruntime.__version__}; "
            "export it with form packed"
        )
    return found


def _ancestors(graph: GraphProto, names: Sequence[str]) -> set[str]:
    """The first outputs of all nodes that the named values depend on."""
    producers = {output: node for node in graph.node for output in node.output if output}
    found: set[str] = set()
    open_ = list(names)
    while open_:
        node = producers.get(open_.pop())
        if node is not None and node.output[0] not in found:
            found.add(node.output[0])
            open_ += node.input
    return found


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


def _replace(model: ModelProto, values: dict[str, NDArray[Any]]) -> None:
    """Put tensors in the place of nodes; the values are given to the session, not to the model."""
    graph = model.graph
    inside = _ancestors(graph, [*values, CHECK])
    nodes = [node for node in graph.node if node.output[0] not in inside]
    tensors = [tensor for tensor in graph.initializer if tensor.name in _read(nodes)]
    for name, value in values.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "given to the session"
        tensors.append(tensor)
    if CHECK in _read(nodes):  # `expand` has seen that it is 1
        tensors.append(numpy_helper.from_array(np.array(1, np.float32), CHECK))
    for field, items in (("node", nodes), ("initializer", tensors)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    model.ClearField("functions")


def _read(nodes: Sequence[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}
