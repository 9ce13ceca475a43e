"""From a ``.seedmask`` file or a checkpoint to an ONNX file with its provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..compress.data.catalogue import BUNDLED
from ..compress.data.loading import load_data
from ..compress.errors import ConfigError, MissingExtraError
from ..compress.files.atomic import check_output
from ..compress.inputs import AnyInput
from ..compress.recover import LoadedNetwork, load_network
from ..compress.seedmask import Network, SeedMask
from .export_options import ExportOptions
from .input_metadata import CLASSES, RECIPE
from .pipeline import write_model
from .report import ExportReport
from .runtime.records import WEIGHTS_DIGEST
from .samples import model_input
from .tensor_text import read_tensors

if TYPE_CHECKING:
    import torch

__all__ = ["export_network"]

_SAMPLES = 64


def export_network(
    source: str | Path,
    target: str | Path,
    options: ExportOptions | None = None,
    *,
    data_dir: Path | None = None,
    model: str | None = None,
    input: AnyInput | None = None,  # noqa: A002
    max_weights: int | None = None,
    tensors: Sequence[str] = (),
    dynamic: Sequence[str] = (),
) -> ExportReport:
    """Export a ``.seedmask`` file or a checkpoint to ONNX and compare the result with PyTorch.

    Args:
        source: a ``.seedmask`` file or a checkpoint.
        target: the ONNX file; written only if it computes the same function.
        options: of the ONNX file; by default those of `export_onnx`.
        data_dir: folder of the data set the network was trained on; the comparison then uses its first test
            images or texts (digits and sentences take no folder). Otherwise the inputs are random.
        model: name of the model, for files whose architecture is the user's own code, or that name none.
        input: what the network takes, for files that do not say it.
        max_weights: refuse ``.seedmask`` files that declare more weights; see `read_seedmask`.
        tensors: what forward() takes, for files that do not say it, see `read_tensors`.
        dynamic: dimensions of images or texts that vary: ``height``, ``width`` or ``length``.

    Raises:
        ConfigError: an option that the network does not have.
        IterandError: the source is damaged or unknown, or the export does not compute the same function.
    """
    # Checked before anything is read.
    check_output(target, source, *([data_dir] if data_dir is not None else []), kind="onnx")
    options = options or ExportOptions()
    network = load_network(source, model=model, input=input, max_weights=max_weights)
    if network.data is None and not tensors:
        raise ConfigError(
            f"{source}: the file does not say what the network takes: give --input 3x32x32:MEAN:STD (see --help), or "
            "--tensor 'NAME=float32[batch,16000]' for each argument of forward(); in Python export_onnx(…, input=…)"
        )
    if network.data is not None and tensors:
        raise ConfigError(f"{source}: takes {network.data.input.noun}s: leave out --tensor")
    if tensors and (dynamic or data_dir is not None):
        what = "--dynamic" if dynamic else "--data-dir"
        raise ConfigError(f"{what} is for images and texts: with --tensor, name the sizes that vary in it")
    example, varying = read_tensors(tensors)
    weights = network.masked()
    if weights is None and not options.plain:
        raise ConfigError(
            f"{source}: form {options.form} is for masked weights, and this network has none; take form dense"
        )
    if network.data is None:
        given = model_input(network.model, example, None, normalize=options.normalize, dynamic=varying)
    else:
        samples = _test_inputs(network, data_dir)
        described = network.data.input
        given = model_input(network.model, described, samples, normalize=options.normalize, dynamic=dynamic)
    report = write_model(network.model, target, given, options, _provenance(network, weights), weights)
    return replace(report, unfinished=network.unfinished)


def _provenance(network: LoadedNetwork, weights: SeedMask | Network | None) -> dict[str, str]:
    values: dict[str, str] = {}
    classes = list(network.data.classes) if network.data is not None else []
    if network.data is None and isinstance(weights, SeedMask):  # names need no image
        classes = list(weights.manifest.classes or [])
    if classes:
        values[CLASSES] = json.dumps(classes)
    if network.recipe is not None:
        values[RECIPE] = network.recipe.model_dump_json()
    if weights is not None:
        values[WEIGHTS_DIGEST] = weights.weights_digest
        values["iterand.sparsity"] = f"{weights.sparsity:.6f}"
    return values


def _test_inputs(network: LoadedNetwork, data_dir: Path | None) -> torch.Tensor | None:
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
