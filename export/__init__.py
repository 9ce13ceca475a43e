"""From a network in memory to one ONNX file that computes the same function, and back into a session.

The names below load torch and onnx on first use only, so that importing this package is free.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporter import export_onnx
    from .opsets import supported_opsets
    from .report import ExportReport, LayerShrink, ShrinkReport
    from .runtime.classifier import OnnxClassifier
    from .runtime.expansion import load_session
    from .runtime.verification import OnnxVerification, verify_onnx

__all__ = [
    "ExportReport",
    "LayerShrink",
    "OnnxClassifier",
    "OnnxVerification",
    "ShrinkReport",
    "export_onnx",
    "load_session",
    "supported_opsets",
    "verify_onnx",
]

_HOME = {
    "ExportReport": "report",
    "LayerShrink": "report",
    "OnnxClassifier": "runtime.classifier",
    "OnnxVerification": "runtime.verification",
    "ShrinkReport": "report",
    "export_onnx": "exporter",
    "load_session": "runtime.expansion",
    "supported_opsets": "opsets",
    "verify_onnx": "runtime.verification",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines ``name`` when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
