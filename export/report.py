"""The outcome of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ExportReport"]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it agrees with PyTorch.

    Attributes:
        path: the file.
        file_bytes: its size.
        opset: version of the ONNX operator set.
        ir_version: version of the ONNX file format.
        form: how it holds the masked weights.
        form_bytes: sizes of the forms that were tried, by name.
        max_abs_difference: largest absolute difference of a logit, onnxruntime against PyTorch.
        samples: number of images compared.
        argmax_agreement: fraction of them with the same largest logit.
    """

    path: Path
    file_bytes: int
    opset: int
    ir_version: int
    form: str
    form_bytes: Mapping[str, int]
    max_abs_difference: float
    samples: int
    argmax_agreement: float
