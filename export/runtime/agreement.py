"""Check that a file computes the same function as its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from ...compress.errors import ExportError
from ..passes.softmax import softmax
from ..session import failing_as, first_line
from .structure import accepted_difference, rounding

__all__ = ["Agreement", "check_repeatable", "compare", "logits_of"]

_CHUNK = 64  # samples at a time
_FLOATS = (torch.float16, torch.float32, torch.float64)  # NumPy and onnxruntime lack the others


@dataclass(frozen=True)
class Agreement:
    """How close two computations of the same logits are.

    Attributes:
        max_abs_difference: largest absolute difference of two outputs.
        argmax_agreement: fraction of the samples with the same largest output.
        samples: number of samples compared.
    """

    max_abs_difference: float
    argmax_agreement: float
    samples: int


def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Run ``model`` in PyTorch without gradients.

    Args:
        model: an evaluation copy.
        inputs: float32 ``[N, C, H, W]`` or int64 ``[N, length]``.

    Returns:
        Its output, first dimension N, all finite.

    Raises:
        ExportError: it fails, or returns anything but one floating-point tensor per sample.
    """
    name = type(model).__name__
    try:
        with torch.no_grad():
            output = model(inputs.clone())  # which it may change in place
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ExportError(f"{name} does not take an input of shape {list(inputs.shape)}: {reason}") from error
    if not (isinstance(output, torch.Tensor) and output.dtype in _FLOATS and _is_plain(output)):
        got = (
            f"a tensor of {output.dtype} ({output.layout}, {output.device})"
            if isinstance(output, torch.Tensor)
            else type(output).__name__
        )
        raise ExportError(f"{name} must return one floating-point tensor, found {got}")
    if output.ndim < 1 or output.shape[0] != inputs.shape[0] or not output.numel():
        raise ExportError(f"{name} must return one row per input, found shape {list(output.shape)} for {len(inputs)}")
    if not output.isfinite().all():
        raise ExportError(f"{name} computes logits that are not finite, so its export cannot be checked")
    return output.detach()  # forward() may have switched gradients on, or return a parameter


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested


def check_repeatable(model: nn.Module, inputs: torch.Tensor) -> None:
    """Run a model twice, and refuse one whose outputs differ.

    Raises:
        ExportError: they differ by more than rounding; or see `logits_of`.
    """
    first, second = (logits_of(model, inputs).numpy() for _ in range(2))
    if first.shape != second.shape or not _difference(first, second) <= rounding(first):
        raise ExportError(
            f"{type(model).__name__} gives other outputs when the same inputs come again: it draws random numbers (a "
            "dropout that is always on, for instance), or forward() changes a state; ONNX needs a fixed function"
        )


def compare(
    session: onnxruntime.InferenceSession,
    model: nn.Module,
    inputs: torch.Tensor,
    fed: torch.Tensor,
    *,
    probabilities: bool = False,
    half: bool = False,
) -> Agreement:
    """Compare the session with PyTorch, for one sample alone and for several at once.

    Args:
        session: the exported file.
        model: an evaluation copy of the network.
        inputs: what the network takes, float32 ``[N, C, H, W]`` or int64 ``[N, length]``, N ≥ 1.
        fed: the same images or texts, as the file takes them, for instance before normalisation.
        probabilities: whether the file gives probabilities; the network gives logits.
        half: whether the file computes in float16.

    Raises:
        ExportError: an output differs by more than `accepted_difference`, or is not finite.
    """
    rows = [torch.tensor([0]), *torch.split(torch.arange(max(2, len(inputs))).remainder(len(inputs)), _CHUNK)]
    differences, extremes, same = [], [], 0
    for batch in rows:
        logits = logits_of(model, inputs[batch]).numpy()
        expected = softmax(logits) if probabilities else logits
        computed = _run(session, fed[batch].numpy())
        if computed.shape != expected.shape:
            shapes = f"{list(computed.shape)}, PyTorch {list(expected.shape)}"
            raise ExportError(f"for a batch of {len(batch)}, onnxruntime computes the shape {shapes}")
        differences.append(_difference(computed, expected))
        extremes.append([[side.min(), side.max()] for side in (expected, logits)])
        same += int((_winners(computed) == _winners(expected)).sum())
    outputs, scores = np.moveaxis(np.array(extremes), 1, 0).astype(logits.dtype)
    largest = float(np.max(differences))
    accepted = accepted_difference(outputs, scores if probabilities else None, half=half)
    if not largest <= accepted:  # and not >, so that NaN is refused
        rest = all(difference <= accepted for difference in differences[1:])
        alone = "; only one sample alone differs, so its Python code treats a batch of 1 in another way" if rest else ""
        raise ExportError(
            f"onnxruntime and PyTorch differ: largest absolute difference of the outputs {largest:.3g}, "
            f"accepted {accepted:.3g}{alone}; the file was not written"
        )
    return Agreement(largest, same / sum(map(len, rows)), len(inputs))


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest absolute difference; NaN if any is NaN."""
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0))


def _run(session: onnxruntime.InferenceSession, batch: NDArray[Any]) -> NDArray[Any]:
    with failing_as(f"onnxruntime cannot run the exported graph on a batch of {len(batch)}: "):
        (output,) = session.run(None, {session.get_inputs()[0].name: batch})
    return np.asarray(output)


def _winners(logits: NDArray[Any]) -> NDArray[np.intp]:
    return np.asarray(logits.reshape(len(logits), -1).argmax(axis=1))
