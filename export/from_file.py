"""From a ``.seedmask`` file or a checkpoint to an ONNX file with its provenance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..compress.data import load_data
from ..compress.data.catalogue import BUNDLED
from ..compress.errors import ConfigError, ExportError, MissingExtraError
from ..compress.files.atomic import check_output
from ..compress.recover import LoadedNetwork, load_network
from ..compress.seedmask import Network, SeedMask
from .export_options import ExportOptions
from .passes.preprocessing import Preprocessing
from .pipeline import write_model
from .report import ExportReport
from .runtime.records import WEIGHTS_DIGEST
from .samples import image_input, text_input

if TYPE_CHECKING:
    import torch

__all__ = ["export_network"]

_SAMPLES = 64


def export_network(
    source: str | Path,
    target: str | Path,
    *,
    opset: int = 18,
    normalize: bool = True,
    data_dir: Path | None = None,
    model: str | None = None,
    max_weights: int | None = None,
    softmax: bool = False,
    form: str = "dense",
    runtime: str = "onnxruntime",
    ir_version: int | None = None,
    keep_quantized: bool = False,
    inline: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """Export a file to ONNX and compare the result with PyTorch.

    Args:
        source: a ``.seedmask`` file or a checkpoint.
        target: the ONNX file; written only if it computes the same function.
        opset: of the ONNX operators.
        normalize: whether the graph takes pixels in [0, 1] and normalises them itself; texts have no such choice.
        data_dir: folder of the data set the network was trained on; the comparison then uses its first test
            images or texts (digits and sentences take no folder). Otherwise the inputs are random.
        model: the user's ``package.module:factory``, for files whose architecture is not built in.
        max_weights: refuse ``.seedmask`` files that declare more weights; see `read_seedmask`.
        softmax: give probabilities in the place of logits.
        form: how the file holds masked weights, see `export_onnx`; so are all that follow.
        runtime: what will run the file.
        ir_version: version of the ONNX file format.
        keep_quantized: of ``int8``: use DequantizeLinear.
        inline: write functions out where they are called.
        shrink: remove channels that nothing reads or that are constant.

    Raises:
        ConfigError: an option that the network does not have.
        IterandError: the source is damaged or unknown, or the export does not compute the same function.
    """
    # Checked before anything is read.
    check_output(target, source, *([data_dir] if data_dir is not None else []), kind="onnx")
    options = ExportOptions(opset, ir_version, softmax, form, runtime, keep_quantized, inline, shrink)
    network = load_network(source, model=model, max_weights=max_weights)
    if network.data is None:
        raise ExportError(f"{source}: holds neither input shape nor normalisation; use export_onnx() in Python")
    weights = network.masked()
    if weights is None and options.candidates != ("dense",):
        raise ConfigError(f"{source}: form {form} is for masked weights, and this network has none; take form dense")
    data, samples = network.data, _real_inputs(network, data_dir)
    if data.text is not None:
        if not normalize:
            raise ConfigError(f"{source}: takes texts, which have no normalisation to leave out; drop --no-normalize")
        given = text_input(data.text, samples)
    else:
        preprocessing = Preprocessing.of(data.image_shape, data.mean, data.std)
        given = image_input(preprocessing, samples, normalize=normalize)
    report = write_model(network.model, target, given, options, _provenance(network, weights), weights)
    return replace(report, unfinished=network.unfinished)


def _provenance(network: LoadedNetwork, weights: SeedMask | Network | None) -> dict[str, str]:
    values: dict[str, str] = {}
    if network.data is not None and network.data.classes:
        values["iterand.classes"] = json.dumps(network.data.classes)
    if network.recipe is not None:
        values["iterand.recipe"] = network.recipe.model_dump_json()
    if weights is not None:
        values[WEIGHTS_DIGEST] = weights.weights_digest
        values["iterand.sparsity"] = f"{weights.sparsity:.6f}"
    return values


def _real_inputs(network: LoadedNetwork, data_dir: Path | None) -> torch.Tensor | None:
    recipe = network.recipe
    if recipe is None and data_dir is not None:
        raise ConfigError("export: the file does not say what it was trained on: leave out --data-dir")
    if recipe is None or (data_dir is None and recipe.data.name not in BUNDLED):
        return None
    try:
        bundle = load_data(recipe.data, data_dir=data_dir, download=False, seed=recipe.subnetwork.seed)
    except MissingExtraError:
        return None
    import torch

    inputs, _ = next(iter(bundle.test.batches(_SAMPLES, torch.device("cpu"))))
    return inputs
