"""From a ``.seedmask`` file or a checkpoint to an ONNX file with its provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..compress.data import load_data
from ..compress.errors import ConfigError, ExportError, MissingExtraError
from ..compress.recovery import LoadedNetwork, load_network
from ..compress.storage import MAX_WEIGHTS
from .exporter import export_onnx, export_text_onnx
from .report import ExportReport

if TYPE_CHECKING:
    import torch

__all__ = ["export_network"]

_SAMPLES = 64
#: Data sets that need no folder.
_BUNDLED = ("digits", "sentences")


def export_network(
    source: str | Path,
    target: str | Path,
    *,
    opset: int = 18,
    normalize: bool = True,
    data_dir: Path | None = None,
    model: str | None = None,
    max_weights: int = MAX_WEIGHTS,
    softmax: bool = False,
    shrink: bool = False,
) -> ExportReport:
    """Export a file to ONNX and compare the result with PyTorch.

    Args:
        source: a ``.seedmask`` file or a checkpoint.
        target: the ONNX file; written only if it computes the same function.
        opset: of the ONNX operators.
        normalize: whether the graph takes pixels in [0, 1] and normalises them itself; texts have no such choice.
        data_dir: folder of the data set the network was trained on; the comparison then uses its first test
            images or texts (digits and sentences need no folder). Otherwise the inputs are random.
        model: the user's ``package.module:factory``, for files whose architecture is not built in.
        max_weights: refuse ``.seedmask`` files that declare more weights.
        softmax: give probabilities in the place of logits.
        shrink: leave out the channels that pruning left without a purpose.

    Raises:
        ConfigError: an option that the network does not have.
        IterandError: the source is damaged or unknown, or the export does not compute the same function.
    """
    network = load_network(source, model=model, max_weights=max_weights)
    if network.data is None:
        raise ExportError(f"{source}: holds neither input shape nor normalisation; use export_onnx() in Python")
    data, samples = network.data, _real_inputs(network, data_dir)
    if data.text is not None:
        if not normalize:
            raise ConfigError(f"{source}: takes texts, which have no normalisation to leave out; drop --no-normalize")
        return export_text_onnx(
            network.model,
            target,
            text=data.text,
            opset=opset,
            metadata=_provenance(network),
            samples=samples,
            softmax=softmax,
            shrink=shrink,
        )
    return export_onnx(
        network.model,
        target,
        image_shape=data.image_shape,
        mean=data.mean,
        std=data.std,
        normalize=normalize,
        opset=opset,
        metadata=_provenance(network),
        samples=samples,
        softmax=softmax,
        shrink=shrink,
    )


def _provenance(network: LoadedNetwork) -> dict[str, str]:
    values: dict[str, str] = {}
    if network.data is not None and network.data.classes:
        values["iterand.classes"] = json.dumps(network.data.classes)
    if network.recipe is not None:
        values["iterand.recipe"] = network.recipe.model_dump_json()
    if network.digest is not None:
        values["iterand.weights_sha256"] = network.digest
    if network.sparsity is not None:
        values["iterand.sparsity"] = f"{network.sparsity:.6f}"
    return values


def _real_inputs(network: LoadedNetwork, data_dir: Path | None) -> torch.Tensor | None:
    recipe = network.recipe
    if recipe is None or (data_dir is None and recipe.data.name not in _BUNDLED):
        return None
    try:
        bundle = load_data(recipe.data, data_dir=data_dir, download=False, seed=recipe.subnetwork.seed)
    except MissingExtraError:
        return None
    import torch

    inputs, _ = next(iter(bundle.test.batches(_SAMPLES, torch.device("cpu"))))
    return inputs
