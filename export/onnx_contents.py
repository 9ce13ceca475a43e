"""What an ONNX file holds, of ours or anybody's: what goes in and out, its operators, its tensors, its metadata."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from onnx import NodeProto, TensorProto, ValueInfoProto

from ..compress.errors import ExportError
from .runtime.expansion import load_model
from .runtime.records import metadata_of

__all__ = ["OnnxContents", "OnnxTensor", "OnnxValue", "onnx_contents"]


@dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph: its name, dtype and shape, where a size may be a name such as ``batch``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxTensor:
    """A tensor that is stored in a file.

    Attributes:
        name: of the tensor.
        shape: its shape.
        dtype: in the words of ONNX, in lower case.
        bytes: its size.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class OnnxContents:
    """What is in an ONNX file.

    Attributes:
        inputs: of the graph.
        outputs: of the graph.
        operators: how often the graph has each of them; not what is inside functions.
        functions: names of the functions of the file.
        tensors: that the graph stores, in its order.
        opsets: versions by domain; the domain of ONNX itself is ``ai.onnx``.
        ir_version: of the file format.
        producer: what wrote it.
        metadata: all entries.
        file_bytes: size of the file.
    """

    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    operators: dict[str, int]
    functions: tuple[str, ...]
    tensors: tuple[OnnxTensor, ...]
    opsets: dict[str, int]
    ir_version: int
    producer: str
    metadata: dict[str, str]
    file_bytes: int


def onnx_contents(path: str | os.PathLike[str]) -> OnnxContents:
    """Read an ONNX file, and tell what is in it.

    Raises:
        ExportError: it is missing, or something else.
    """
    try:
        model = load_model(path)
    except ExportError as error:
        raise ExportError(f"{os.fspath(path)}: {error}") from None
    graph = model.graph
    stored = [*graph.initializer, *(node.attribute[0].t for node in graph.node if _is_constant(node))]
    names = {tensor.name for tensor in graph.initializer}  # which older files list among the inputs
    return OnnxContents(
        inputs=tuple(_value(value) for value in graph.input if value.name not in names),
        outputs=tuple(_value(value) for value in graph.output),
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        functions=tuple(function.name for function in model.functions),
        tensors=tuple(_tensor(tensor) for tensor in stored),
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        metadata=metadata_of(model),
        file_bytes=Path(path).stat().st_size,
    )


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]


def _value(value: ValueInfoProto) -> OnnxValue:
    kind = value.type.tensor_type
    shape = tuple(
        size.dim_param or "?" if not size.HasField("dim_value") else size.dim_value for size in kind.shape.dim
    )
    return OnnxValue(value.name, _dtype(kind.elem_type), shape)


def _tensor(tensor: TensorProto) -> OnnxTensor:
    own = tensor.ByteSize() - len(tensor.name.encode())
    return OnnxTensor(tensor.name, tuple(tensor.dims), _dtype(tensor.data_type), len(tensor.raw_data) or own)


def _dtype(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()  # type: ignore[arg-type]
