"""Versions: which operator sets can be written, and which file format version each one needs."""

from __future__ import annotations

import functools

import onnx
import onnx.version_converter
import onnxruntime
from onnx import ModelProto, TensorProto, defs, helper

from ..compress.errors import ConfigError, ExportError
from .session import first_line, open_session

__all__ = [
    "BASE_OPSET",
    "check_ir_version",
    "check_opset",
    "convert",
    "ir_version_for",
    "supported_ir_versions",
    "supported_opsets",
]

BASE_OPSET = 18
"""What torch's exporter writes; newer operator sets are converted from it."""


def ir_version_for(opset: int) -> int:
    """Return the oldest file format (IR) version that may hold the operator set: 18 → 8."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


@functools.cache
def supported_opsets() -> tuple[int, ...]:
    """Return the operator sets that the installed onnx and onnxruntime both accept, by trying."""
    accepted: list[int] = []
    for opset in range(BASE_OPSET, defs.onnx_opset_version() + 1):
        if not _accepted(opset, ir_version_for(opset)):  # nothing newer works either
            break
        accepted.append(opset)
    return tuple(accepted)


@functools.cache
def supported_ir_versions(opset: int) -> tuple[int, ...]:
    """Return the file format (IR) versions for an operator set that the installed onnxruntime accepts, by trying."""
    accepted: list[int] = []
    for ir_version in range(ir_version_for(opset), onnx.IR_VERSION + 1):
        if not _accepted(opset, ir_version):
            break
        accepted.append(ir_version)
    return tuple(accepted)


def _accepted(opset: int, ir_version: int) -> bool:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    try:
        open_session(probe.SerializeToString())
    except ExportError:  # "… is till opset 26", "Unsupported model IR version"
        return False
    return True


def check_opset(opset: int) -> None:
    """Refuse an operator set that cannot be written or run here.

    Raises:
        ConfigError: with the ones that can.
    """
    accepted = supported_opsets()
    if opset not in accepted:
        raise ConfigError(
            f"opset {opset} is not supported: expected {accepted[0]} to {accepted[-1]} "
            f"(what onnx {onnx.__version__} writes and onnxruntime {onnxruntime.__version__} runs)"
        )


def check_ir_version(ir_version: int, opset: int) -> None:
    """Refuse a file format version that cannot hold the operator set or be run here.

    Raises:
        ConfigError: with the ones that can.
    """
    accepted = supported_ir_versions(opset)
    if ir_version not in accepted:
        raise ConfigError(
            f"IR version {ir_version} is not supported with opset {opset}: expected {accepted[0]} to {accepted[-1]} "
            f"(what onnx {onnx.__version__} writes and onnxruntime {onnxruntime.__version__} runs)"
        )


def convert(model: ModelProto, opset: int, ir_version: int | None = None) -> ModelProto:
    """Return ``model`` in another operator set, with the matching IR version, or the given one.

    Raises:
        ExportError: an operator of the model has no counterpart there.
    """
    current = next(entry.version for entry in model.opset_import if entry.domain == "")
    if current != opset:
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except (RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise ExportError(f"cannot convert the graph from opset {current} to {opset}: {reason}") from error
    model.ir_version = ir_version or ir_version_for(opset)
    return model
