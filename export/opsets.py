"""Versions: which operator sets can be written, and which file format version each one needs."""

from __future__ import annotations

import functools
from itertools import takewhile

import onnx
import onnx.version_converter
import onnxruntime
from onnx import ModelProto, TensorProto, defs, helper

from ..compress.errors import ConfigError, ExportError
from .session import failing_as, open_session

__all__ = [
    "BASE_OPSET",
    "check_versions",
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
    """Return the operator sets that the installed onnx and onnxruntime both accept, found by trying."""
    opsets = range(BASE_OPSET, defs.onnx_opset_version() + 1)
    return tuple(takewhile(lambda opset: _accepted(opset, ir_version_for(opset)), opsets))


@functools.cache
def supported_ir_versions(opset: int) -> tuple[int, ...]:
    """Return the file format (IR) versions for an operator set that the installed onnxruntime accepts, by trying."""
    versions = range(ir_version_for(opset), onnx.IR_VERSION + 1)
    return tuple(takewhile(lambda ir_version: _accepted(opset, ir_version), versions))


def _accepted(opset: int, ir_version: int) -> bool:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    try:
        open_session(probe.SerializeToString())
    except ExportError:  # "… is till opset 26", "Unsupported model IR version"
        return False
    return True


def check_versions(opset: int, ir_version: int | None) -> None:
    """Refuse versions that cannot be written or run here, and a file format that cannot hold the operator set.

    Args:
        opset: version of the operator set.
        ir_version: version of the file format; ``None`` for the oldest that may hold the operator set.

    Raises:
        ConfigError: one of them is not among the supported ones, which the message names.
    """
    _require(opset, supported_opsets(), f"opset {opset} is not supported")
    if ir_version is not None:
        what = f"IR version {ir_version} is not supported with opset {opset}"
        _require(ir_version, supported_ir_versions(opset), what)


def _require(version: int, supported: tuple[int, ...], problem: str) -> None:
    if version not in supported:
        raise ConfigError(
            f"{problem}: expected {supported[0]} to {supported[-1]} (what onnx {onnx.__version__} writes and "
            f"onnxruntime {onnxruntime.__version__} runs)"
        )


def convert(model: ModelProto, opset: int, ir_version: int | None = None) -> ModelProto:
    """Return ``model`` in another operator set, with the matching IR version, or the given one.

    Raises:
        ExportError: an operator of the model has no counterpart there.
    """
    current = next(entry.version for entry in model.opset_import if entry.domain == "")
    if current != opset:
        with failing_as(f"cannot convert the graph from opset {current} to {opset}: "):
            model = onnx.version_converter.convert_version(model, opset)
    model.ir_version = ir_version or ir_version_for(opset)
    return model
