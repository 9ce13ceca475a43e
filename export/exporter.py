"""What users call to write an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ..compress.inputs import TextSpec
from ..compress.seedmask import SeedMask
from .export_options import ExportOptions
from .opsets import BASE_OPSET
from .passes.preprocessing import Preprocessing
from .pipeline import write_model
from .report import ExportReport
from .samples import image_input, text_input

__all__ = ["export_onnx", "export_text_onnx"]


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_shape: Sequence[int],
    mean: Sequence[float] | float,
    std: Sequence[float] | float,
    normalize: bool = True,
    opset: int = BASE_OPSET,
    metadata: Mapping[str, str] | None = None,
    samples: torch.Tensor | NDArray[Any] | None = None,
    softmax: bool = False,
    form: str = "dense",
    weights: SeedMask | str | os.PathLike[str] | None = None,
    runtime: str = "onnxruntime",
    ir_version: int | None = None,
    keep_quantized: bool = False,
    inline: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """Write ``model`` as one ONNX file, after checking that onnxruntime computes the same.

    The graph has one input, ``pixels`` (or ``input`` without ``normalize``), float32 ``[batch, C, H, W]``
    with a dynamic batch, and one output, ``logits``. Weights are float32 values under their dotted parameter
    names. BatchNorm is folded into the layer in front of it. The same model always gives the same bytes.
    ``model`` is not changed. A model whose output is not ``[batch, classes]`` is exported too;
    ``argmax_agreement`` then ranges over all outputs of a sample.

    Args:
        model: takes normalised images, returns one tensor. On any device, in any floating-point type. A subnetwork,
            or a plain module.
        path: the file to write; it is replaced only when the export is complete and right.
        image_shape: channels, height, width.
        mean: one value per channel, or one for all, for pixels in [0, 1].
        std: one value per channel, or one for all.
        normalize: put ``(pixels - mean) / std`` into the graph, so that it takes pixels in [0, 1].
        opset: version of the ONNX operator set, see `supported_opsets`.
        metadata: further entries for the file (class names under ``iterand.classes``, as a JSON list with as many
            entries as the model has outputs).
        samples: images to compare on, floating-point ``[N, C, H, W]`` in [0, 1]; random ones when None.
        softmax: give ``probabilities`` in the place of ``logits``.
        form: how the file holds masked weights: ``dense``, ``packed``, ``int8``, ``seeded``, or ``auto`` for the
            smallest that ``runtime`` supports. All of them hold the same values, bit for bit.
        weights: the file that a plain module was recovered from, or its path; forms other than ``dense`` need it, or a
            subnetwork.
        runtime: what will run the file: ``onnxruntime``, ``onnxruntime-web``, ``openvino`` or ``other``.
        ir_version: version of the ONNX file format; by default the oldest that the operator set allows.
        keep_quantized: of ``int8``: use DequantizeLinear, which onnxruntime does not fold: less memory, slower.
        inline: write functions out where they are called, for runtimes that know none.
        shrink: remove channels that nothing reads or that are constant, see `ShrinkReport`.

    Returns:
        An `ExportReport`.

    Raises:
        ConfigError: an option that cannot be carried out.
        ExportError: the model cannot be exported, or its export differs from it. No file is left.
        IterandError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_onnx(net, f"{folder}/net.onnx", image_shape=(1, 8, 8), mean=[0.5], std=[0.5])
        >>> report.opset, report.argmax_agreement
        (18, 1.0)
    """
    options = ExportOptions(opset, ir_version, softmax, form, runtime, keep_quantized, inline, shrink)
    given = image_input(Preprocessing.of(image_shape, mean, std), samples, normalize=normalize)
    return write_model(model, path, given, options, metadata, weights)


def export_text_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    text: TextSpec,
    opset: int = BASE_OPSET,
    metadata: Mapping[str, str] | None = None,
    samples: Sequence[str] | torch.Tensor | NDArray[Any] | None = None,
    softmax: bool = False,
    form: str = "dense",
    weights: SeedMask | str | os.PathLike[str] | None = None,
    runtime: str = "onnxruntime",
    ir_version: int | None = None,
    keep_quantized: bool = False,
    inline: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """`export_onnx` for a model that takes texts as token numbers.

    The graph has one input, ``tokens``, int64 ``[batch, length]`` with a dynamic batch. The tokeniser is described
    in the metadata, so `OnnxClassifier` takes the texts themselves.

    Args:
        model: takes tokens int64 ``[N, length]``, returns one tensor. On any device, in any floating-point type.
        path: the file to write; it is replaced only when the export is complete and right.
        text: the tokeniser.
        opset: version of the ONNX operator set, see `supported_opsets`.
        metadata: as for `export_onnx`.
        samples: what to compare on, texts or tokens int64 ``[N, length]``; random tokens when None.
        softmax: give ``probabilities`` in the place of ``logits``.
        form: as for `export_onnx`, and so are all that follow.
        weights: the file that a plain module was recovered from, or its path.
        runtime: what will run the file.
        ir_version: version of the ONNX file format.
        keep_quantized: of ``int8``: use DequantizeLinear.
        inline: write functions out where they are called.
        shrink: remove channels that nothing reads or that are constant.

    Returns:
        An `ExportReport`.

    Raises:
        ConfigError: an option that cannot be carried out.
        ExportError: the model cannot be exported, or its export differs from it. No file is left.
        IterandError: the file cannot be written.
    """
    options = ExportOptions(opset, ir_version, softmax, form, runtime, keep_quantized, inline, shrink)
    return write_model(model, path, text_input(text, samples), options, metadata, weights)
