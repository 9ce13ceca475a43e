"""Write a network as an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..compress.inputs import AnyInput
from ..compress.seedmask import SeedMask
from .capture import plain_module
from .export_options import ExportOptions
from .opsets import BASE_OPSET
from .pipeline import write_model
from .report import ExportReport
from .samples import Samples, model_input
from .signature import Dynamic

__all__ = ["export_onnx"]


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    input: AnyInput | Any,  # noqa: A002
    samples: Samples = None,
    dynamic: Dynamic | Sequence[str] | None = None,
    weights: SeedMask | str | os.PathLike[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    form: str = "dense",
    runtime: str = "onnxruntime",
    normalize: bool = True,
    softmax: bool = False,
    opset: int = BASE_OPSET,
    ir_version: int | None = None,
    keep_quantized: bool = False,
    inline: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """Write ``model`` as one ONNX file, after checking that onnxruntime computes the same.

    Of images and texts, the graph has one input with a dynamic batch: ``pixels`` (without ``normalize``: ``input``),
    float32 ``[batch, C, H, W]``; or ``tokens``, int64 ``[batch, length]``, and metadata that tell how texts become
    tokens. The output is ``logits``. Other inputs are given as an example, as `torch.onnx.export` takes it: a tensor; a
    tuple of forward()'s arguments; or a dictionary of them by name. Each tensor in them becomes an input under the name
    of its parameter, with the keys and numbers that lead to it (``batch_mask`` for ``batch["mask"]``).
    Outputs of a dictionary, named tuple or dataclass are named by their keys, other ones ``output``, ``output_0``, ….

    Weights are float32 values under their dotted parameter names. BatchNorm is folded into the layer in front of it.
    The same model always gives the same bytes. ``model`` is not changed. A model whose output is not
    ``[batch, classes]`` is exported too; ``argmax_agreement`` then ranges over all values of a row of the first output.

    Args:
        model: takes normalised images, token numbers or other tensors; returns tensors, also in tuples, lists and
            dictionaries. On any device, in any floating-point type. A subnetwork, or a plain module.
        path: the file to write; it is replaced only when the export is complete and right.
        input: the images or texts that the model takes; or an example of its arguments, whose numbers tell which ones
            checks may use: they draw others between the smallest and the largest of each input. Numbers and texts in
            it are constants of the graph.
        samples: images to compare on, floating-point ``[N, C, H, W]`` in [0, 1]; or texts, or their tokens, integers
            ``[N, length]``; or a list of more examples. By default random ones.
        dynamic: the dimensions that vary. Of images ``("height", "width")``, of texts ``("length",)``, beside the
            batch, which always varies. Of an example their names by input and number,
            ``{"x": {0: "batch", 2: "time"}}``: dimensions of one name have one size. By default the first one of all
            inputs is ``batch``; ``{}`` is none.
            Each is compared in several sizes that the model takes.
        weights: the ``.seedmask`` file that a plain module was recovered from, or its path; forms other than ``dense``
            need it, or a subnetwork.
        metadata: further entries for the file (class names under ``iterand.classes``, as a JSON list with as many
            entries as the model has outputs).
        form: how the file holds masked weights: ``dense``, ``packed``, ``int8``, ``seeded``, or ``auto`` for the
            smallest that ``runtime`` supports. All of them hold the same values, bit for bit. ``float16`` rounds
            weights, and activations; inputs and outputs stay float32.
        runtime: what will run the file: ``onnxruntime``, ``onnxruntime-web``, ``openvino`` or ``other``.
        normalize: put the normalisation of images into the graph, so that it takes pixels in [0, 1].
        softmax: give ``probabilities`` in the place of the output (of several, of the one called ``logits``): a softmax
            over dimension 1, ``[batch, classes, …]``.
        opset: version of the ONNX operator set, see `supported_opsets`.
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
        >>> from iterand_compress import ImageInput
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_onnx(net, f"{folder}/net.onnx", input=ImageInput((1, 8, 8), mean=0.5, std=0.5))
        >>> report.opset, report.argmax_agreement
        (18, 1.0)
    """
    options = ExportOptions(form, runtime, normalize, softmax, opset, ir_version, keep_quantized, inline, shrink)
    given = model_input(plain_module(model), input, samples, normalize=options.normalize, dynamic=dynamic)
    return write_model(model, path, given, options, metadata, weights)
