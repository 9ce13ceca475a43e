"""Checks of a file that need no torch, and so can be made anywhere."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..session import failing_as, model_source

__all__ = [
    "HALF_TOLERANCE",
    "TOLERANCE",
    "accepted_difference",
    "accepted_share",
    "check_structure",
    "largest_difference",
    "rounding",
]

TOLERANCE = 1e-4
"""Largest accepted difference, relative to the spread of the outputs; see `accepted_difference`."""
HALF_TOLERANCE = 2e-2
"""The same for files that compute in float16."""
_ROUNDING = 32  # units in the last place
_HALF_ROUNDING = 4


def accepted_difference(outputs: NDArray[Any], logits: NDArray[Any] | None = None, *, half: bool = False) -> float:
    """The largest difference between a graph's outputs and PyTorch's that is put down to rounding.

    It is `TOLERANCE` times the spread of the outputs (largest minus smallest, over samples and classes), which is what
    tells samples and classes apart whatever their scale, and `rounding` beside it. For one class of
    one sample, and for constant outputs, only the second term is not 0.

    Args:
        outputs: all of them, or the smallest and the largest, in their own dtype.
        logits: the same of the logits, where the outputs are their probabilities.
        half: whether the graph computes in float16: then it is `HALF_TOLERANCE` of the spread.

    Returns:
        NaN where the outputs are not finite; no difference is below that.
    """
    exact = outputs.astype(np.float64)
    spread = float(exact.max() - exact.min()) if exact.size else 0.0
    return (HALF_TOLERANCE if half else TOLERANCE) * spread + rounding(outputs, logits, half=half)


def accepted_share(count: int, *, half: bool = False) -> float:
    """Of ``count`` whole numbers, such as the classes of pixels, how many rounding may change.

    One in a thousand; where the graph computes in float16, one in fifty.
    """
    return count / (50 if half else 1000)


def largest_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest absolute difference; NaN if any is NaN."""
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0))


def rounding(outputs: NDArray[Any], logits: NDArray[Any] | None = None, *, half: bool = False) -> float:
    """What another order of additions may change: 32 units in the last place of the largest magnitude; 4 of float16.

    A sum is rounded where its terms are, not where it varies: beside a bias of 1e4, float32 holds no difference below
    1e-3. ResNet-18 and -50, DenseNet-121 and MobileNetV3 with random weights differ between PyTorch and onnxruntime
    by up to 11 units. The arguments are those of `accepted_difference`; a probability p of a logit z moves by at most
    p times what z moves.
    """
    kind = (outputs if logits is None else logits).dtype
    if kind.kind != "f":
        return 0.0
    precision = max(np.finfo(kind).eps, np.finfo(np.float32).eps)  # of float64 too: the network computes in float32
    largest = float(np.abs(outputs.astype(np.float64)).max(initial=0.0))
    if logits is not None:
        largest *= 1 + float(np.abs(logits.astype(np.float64)).max(initial=0.0))
    if half:
        return _HALF_ROUNDING * float(np.finfo(np.float16).eps) * largest
    return _ROUNDING * float(precision) * largest


def check_structure(path: str | os.PathLike[str]) -> None:
    """Run onnx's full checker on a file.

    Raises:
        ExportError: the file is not a valid model.
    """
    with failing_as("the exported graph is not valid ONNX: "):
        onnx.checker.check_model(model_source(path), full_check=True)
