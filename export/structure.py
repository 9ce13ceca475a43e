"""What a file must fulfil wherever it is checked; without torch, so that it can be checked anywhere."""

from __future__ import annotations

import onnx

from ..compress.errors import ExportError
from .runtime import first_line

__all__ = ["TOLERANCE", "check_structure"]

TOLERANCE = 1e-4
"""Largest accepted difference, relative to the largest logit (or to 1 when that is smaller)."""


def check_structure(path: str) -> None:
    """Run onnx's full checker on a file.

    Raises:
        ExportError: the file is not a valid model.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        raise ExportError(f"the exported graph is not valid ONNX: {first_line(error)}") from error
