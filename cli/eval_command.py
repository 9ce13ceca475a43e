"""``iterand-compress eval``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.errors import ConfigError, DataError
from .options import (
    FilePath,
    data_options,
    device_option,
    flips_option,
    input_option,
    json_option,
    max_weights_option,
    model_option,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from ..compress.config import DataConfig, Recipe
    from ..compress.inputs import AnyInput

__all__ = ["command"]


@click.command(
    "eval",
    short_help="Accuracy of a .ckpt, .seedmask or .onnx file.",
    epilog="Example: iterand-compress eval model.onnx --data digits",
)
@click.argument("file", type=FilePath)
@data_options
@model_option
@input_option
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=500, show_default=True)
@flips_option
@device_option
@max_weights_option
@json_option
def command(
    file: Path,
    data: str | None,
    data_dir: Path | None,
    download: bool,
    model: str | None,
    network_input: AnyInput | None,
    split: str,
    batch_size: int,
    flips: bool,
    device: str,
    max_weights: int | None,
    as_json: bool,
) -> None:
    """Accuracy of a checkpoint, a .seedmask or an ONNX file: the same number for all three.

    The data set is the one the network was trained on, unless --data names another.
    """
    import torch

    from ..compress.data.catalogue import TEXT_DATASETS
    from ..compress.data.class_folders import left_out_line
    from ..compress.data.loading import load_data
    from ..compress.data.mirror import with_flips
    from ..compress.inputs import ImageInput
    from ..compress.networks import resolve_device
    from ..compress.training.evaluate import evaluate

    onnx = file.suffix.lower() == ".onnx"
    where = torch.device("cpu") if onnx else resolve_device(device)
    if onnx and network_input is not None:
        raise click.UsageError("--input is for .seedmask files: an ONNX file says itself what it takes.")
    logits, recipe, classes, own, remarks = (
        _onnx_classifier(file) if onnx else _torch_classifier(file, model, network_input, where, max_weights)
    )
    if recipe is None and data is None:
        raise ConfigError(f"{file}: the file does not say what it was trained on: give --data NAME (and --data-dir)")
    config = _data_config(recipe, data, own)
    if (own.noun == "text") != (config.name in TEXT_DATASETS):
        raise DataError(f"{file} takes {own.noun}s, which {config.name} does not have")
    seed = recipe.subnetwork.seed if recipe else 0
    bundle = load_data(config, data_dir=data_dir, download=download, seed=seed)
    if isinstance(own, ImageInput) and isinstance(bundle.input, ImageInput):
        shape = bundle.input.shape
        if shape[0] == 1 and own.shape == (3, *shape[1:]):
            logits = _of_grey(logits)
        elif own.shape != shape:
            raise DataError(
                f"{file} takes images of shape {own.shape}, {bundle.name} has {shape}: "
                "give images of these channels (1: grey, 3: colour), height and width"
            )
    if classes and len(classes) != len(bundle.classes):
        raise DataError(f"{file} tells {len(classes)} classes apart, {bundle.name} has {len(bundle.classes)}")
    for number, (known, other) in enumerate(zip(classes or (), bundle.classes, strict=False)):
        if known != other:  # an accuracy would compare numbers that mean different things
            raise DataError(
                f"{file}: class {number} is {known!r}, in {bundle.name} {other!r}: give data of its classes"
            )
    images = bundle.test if split == "test" else bundle.val
    if images is None:
        raise DataError(f"{bundle.name}: no validation images (validation = {config.validation}); use --split test")
    example = torch.from_numpy(bundle.input.example(1)).to(where)
    with torch.no_grad():
        outputs = logits(example)
    if outputs.shape[1:] != (len(bundle.classes),):
        raise DataError(
            f"{file} gives outputs {list(outputs.shape[1:])} for {own.noun}s of {len(bundle.classes)} classes of "
            f"{bundle.name}: give data of its classes"
        )
    if flips:
        logits = with_flips(logits, own, file)
    score = evaluate(logits, images, batch_size=batch_size, device=where)
    if as_json:
        print_json(
            {
                "file": str(file),
                "data": bundle.name,
                "split": split,
                "flips": flips,
                **asdict(score),
                "accuracy": score.accuracy,
                "split_note": bundle.split_note,
                "left_out": dict(bundle.left_out),
                **remarks,
            }
        )
        return
    click.echo(
        f"{file}: {100 * score.accuracy:.2f} % on {bundle.name} {split} "
        f"({score.correct:,} of {score.images:,}), loss {score.loss:.4f}"
        + (", each image computed twice (--flips)" if flips else "")
    )
    if remarks["unfinished"]:
        click.echo(f"{file}: {remarks['unfinished']}")
    if remarks["untrained"]:
        click.echo(
            f"{file}: a ticket: its weights are untrained, those that training is to begin with (train --ticket); "
            "pack --with-weights float32 stores trained ones"
        )
    if bundle.split_note:
        click.echo(bundle.split_note)
    if bundle.left_out:
        click.echo(left_out_line(bundle.left_out))


def _data_config(recipe: Recipe | None, name: str | None, own: AnyInput) -> DataConfig:
    from ..compress.config import DataConfig
    from ..compress.inputs import ImageInput, TextInput

    config = recipe.data if recipe else DataConfig()
    changes: dict[str, object] = {} if name in {None, config.name} else {"name": name}
    if recipe is None and name == "folder" and isinstance(own, ImageInput):  # photos of any size
        changes["image_size"] = own.shape[1]
    if isinstance(own, TextInput):  # texts become tokens as the network was taught, whatever the data set
        changes |= {"tokens": own.length, "vocabulary": own.vocabulary, "unit": own.unit}
    return config.model_copy(update=changes)


_Classifier = tuple[
    "Callable[[torch.Tensor], torch.Tensor]",
    "Recipe | None",
    "Sequence[str] | None",
    "AnyInput",
    dict[str, Any],  # what else there is to say: where an unfinished run stands, and whether weights are untrained
]


def _of_grey(logits: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A classifier of colour images for grey ones: a folder counts as grey if each of its files is."""
    return lambda pixels: logits(pixels.repeat(1, 3, 1, 1))


def _torch_classifier(
    file: Path, model: str | None, network_input: AnyInput | None, device: torch.device, max_weights: int | None
) -> _Classifier:
    from ..compress.recover import load_network

    network = load_network(file, model=model, input=network_input, max_weights=max_weights)
    plain, data = network.model.to(device), network.known_data(file)

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        return plain(data.input.normalize(pixels))  # type: ignore[no-any-return]

    remarks = {"unfinished": network.unfinished, "untrained": network.untrained}
    return logits, network.recipe, data.classes, data.input, remarks


def _onnx_classifier(file: Path) -> _Classifier:
    import torch

    from ..compress.methods.presets import stored_recipe
    from ..export.input_metadata import RECIPE
    from ..export.runtime.classifier import OnnxClassifier

    classifier = OnnxClassifier(file)
    text = classifier.metadata.get(RECIPE)
    recipe = stored_recipe(json.loads(text), f"{file}: recipe") if text else None

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(classifier.logits(inputs.numpy()))

    return logits, recipe, classifier.classes, classifier.input, {"unfinished": None, "untrained": False}
