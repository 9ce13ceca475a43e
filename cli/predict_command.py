"""``iterand-compress predict``."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.errors import ConfigError, DataError
from .options import (
    FilePath,
    device_option,
    flips_option,
    json_option,
    max_weights_option,
    model_option,
    print_json,
)
from .table import print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..compress.inputs import AnyInput

__all__ = ["command"]

#: Letters of a text that a table shows.
_SHOWN = 60
_LONGEST_NAME = 4096


@dataclass(frozen=True)
class _Network:
    """A network from pixels in [0, 1], or tokens, to logits ``[N, classes]``, and what its file says about it."""

    logits: Callable[[NDArray[Any]], NDArray[np.float32]]
    input: AnyInput
    classes: Sequence[str]
    scaled: bool
    unfinished: str | None = None


@click.command(
    "predict",
    short_help="Label images or texts with a .ckpt, .seedmask or .onnx file.",
    epilog="Example: iterand-compress predict photos.onnx holiday/ cat.jpg --top 3",
)
@click.argument("file", type=FilePath)
@click.argument("inputs", metavar="IMAGE|DIR|TEXT...", nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Labels for each input."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Inputs computed at once, at most."
)
@flips_option
@model_option
@device_option
@max_weights_option
@json_option
def command(
    file: Path,
    inputs: tuple[str, ...],
    top: int,
    batch_size: int,
    flips: bool,
    model: str | None,
    device: str,
    max_weights: int | None,
    as_json: bool,
) -> None:
    """Name the class of images or texts, with its probability and the time it took.

    Images are files, or folders, of which every image inside is taken. They are turned upright, scaled, cut and
    normalised as in training and evaluation. Texts are .txt files, folders of such, or written out in quotes.

    The time is that of the network alone, without reading: that of a batch, divided by its inputs. The first batch runs
    twice, and its first time does not count. ONNX files run in onnxruntime on the CPU, without PyTorch.

    Exit code 0; 1 if the file or any of the inputs cannot be used (the others are labelled nevertheless).
    """
    import numpy as np

    from ..compress.data.mirror import with_flips
    from ..compress.inputs import TextInput

    _refuse_pictures(file)
    onnx = file.suffix.lower() == ".onnx"
    network = _onnx_network(file) if onnx else _torch_network(file, model, device, max_weights)
    if flips:
        network = replace(network, logits=with_flips(network.logits, network.input, file))
    is_text = isinstance(network.input, TextInput)
    left_out: Counter[str] = Counter()
    found, failed = [], []
    for given in inputs:
        try:
            found += _expanded(given, is_text=is_text, left_out=left_out)
        except DataError as error:  # noqa: PERF203  (one that is missing must not stop the others)
            failed.append((given, str(error)))
    predictions: list[dict[str, Any]] = []
    for start in range(0, len(found), batch_size):
        names, values = [], []
        for name in found[start : start + batch_size]:
            try:
                values.append(_read(name, network))
            except DataError as error:  # noqa: PERF203  (as above)
                failed.append((name, str(error)))
            else:
                names.append(name)
        if not names:
            continue
        batch = np.stack(values)
        if not predictions:
            network.logits(batch)
        began = time.perf_counter()
        logits = network.logits(batch)
        milliseconds = 1000 * (time.perf_counter() - began) / len(names)
        for name, row in zip(names, _probabilities(logits, network.classes, file), strict=True):
            best = np.argsort(-row, kind="stable")[:top].tolist()
            labels = [network.classes[number] if network.classes else str(number) for number in best]
            ranked = [
                {"label": label, "probability": float(row[number])} for label, number in zip(labels, best, strict=True)
            ]
            predictions.append({"input": name, **ranked[0], "ms": milliseconds, "top": ranked})
    for _, message in failed:
        click.echo(f"error: {message}", err=True)
    if as_json:
        print_json(
            {
                "file": str(file),
                "predictions": predictions,
                "failed": [{"input": name, "error": message} for name, message in failed],
                "left_out": dict(left_out),
                "unfinished": network.unfinished,
            }
        )
    else:
        _print(predictions, is_text=is_text)
        if network.unfinished is not None:
            click.echo(f"{file}: {network.unfinished}")
        if left_out:
            from ..compress.data.class_folders import left_out_line

            click.echo(left_out_line(left_out))
    if failed:
        raise click.exceptions.Exit(1)


def _refuse_pictures(file: Path) -> None:
    """Refuse a picture in the place of the network: arguments in the wrong order."""
    from ..compress.files.kinds import kind_of

    if file.suffix.lower() in (".onnx", ".ckpt", ".seedmask") or kind_of(file) not in (None, "png"):
        return
    from ..compress.data.image_files import suffixes

    if file.suffix.lower() in suffixes():
        raise ConfigError(f"{file}: a picture in the place of the network; first the network, then what it shall label")


def _print(predictions: Sequence[dict[str, Any]], *, is_text: bool) -> None:
    from ..compress.files.names import printable

    if not predictions:
        return
    rows = [("input", "label", "probability", "ms")]
    for prediction in predictions:
        first, *others = [(printable(entry["label"]), f"{entry['probability']:.4f}") for entry in prediction["top"]]
        shown = printable(" ".join(prediction["input"].split()) if is_text else prediction["input"])
        shown = f"{shown[: _SHOWN - 1]}…" if is_text and len(shown) > _SHOWN else shown
        rows.append((shown, *first, f"{prediction['ms']:.3f}"))
        rows.extend(("", *other, "") for other in others)
    print_table(rows, left=(0, 1))


def _expanded(given: str, *, is_text: bool, left_out: Counter[str]) -> list[str]:
    """The inputs that an argument stands for: itself, or the files in a folder, sorted.

    Raises:
        DataError: an image file is missing, or a folder holds nothing of the kind.
    """
    from ..compress.data.class_folders import list_files
    from ..compress.data.image_files import suffixes
    from ..compress.files.names import printable

    shown = printable(given[:_LONGEST_NAME])
    if os.path.isdir(given):  # noqa: PTH112  (of a long text, Path raises)
        endings, noun = ((".txt",), "texts") if is_text else (suffixes(), "images")
        files = list_files(Path(given), endings, left_out)
        if not files:
            raise DataError(f"{shown}: holds no {noun}: give files, or a folder that holds some")
        return files
    if is_text and given.lower().endswith(".csv") and len(given.split()) == 1:
        raise DataError(
            f"{shown}: a table, not a text: write texts out in quotes, or put each into a .txt file; "
            "eval counts the right answers of a table"
        )
    is_name = not is_text or (given.endswith(".txt") and len(given.split()) == 1)
    if is_name and not os.path.isfile(given):  # noqa: PTH113  (as above)
        reason = "expected a file" if os.path.exists(given) else "no such file or folder"  # noqa: PTH110
        raise DataError(f"{shown}: {reason}")
    return [given]


def _read(name: str, network: _Network) -> NDArray[Any]:
    """What the network takes for one input: float32 ``[C, H, W]`` in [0, 1], or tokens int64 ``[length]``."""
    from ..compress.data.fitting import network_pixels
    from ..compress.data.tokens import tokenise
    from ..compress.files.names import printable
    from ..compress.inputs import TextInput

    if not isinstance(network.input, TextInput):
        pixels: NDArray[Any] = network_pixels([name], network.input.shape, scaled=network.scaled)[0]
        return pixels
    text = name
    if os.path.isfile(name):  # noqa: PTH113  (of a long text, Path raises)
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{printable(name)}: cannot be read as UTF-8 text: {error}") from None
    tokens = tokenise(text, network.input)
    if not tokens.any():
        raise DataError(f"{name[:_SHOWN]!a}: no words, numbers or marks in this text")
    return tokens


def _probabilities(logits: NDArray[np.float32], classes: Sequence[str], file: Path) -> NDArray[np.float64]:
    from ..export.passes.softmax import softmax

    if logits.ndim != 2 or (classes and len(classes) != logits.shape[1]):
        expected = f"an output [batch, {len(classes) or 'classes'}]"
        raise DataError(f"{file}: expected {expected}, got {list(logits.shape)}: it is no classifier")
    return softmax(logits)


def _onnx_network(file: Path) -> _Network:
    from ..export.runtime.classifier import OnnxClassifier

    classifier = OnnxClassifier(file)
    return _Network(classifier.logits, classifier.input, classifier.classes, classifier.scaled)


def _torch_network(file: Path, model: str | None, device: str, max_weights: int | None) -> _Network:
    import torch

    from ..compress.data.fitting import were_scaled
    from ..compress.inputs import ImageInput
    from ..compress.networks import resolve_device
    from ..compress.recover import load_network

    loaded, where = load_network(file, model=model, max_weights=max_weights), resolve_device(device)
    if loaded.data is None:
        raise ConfigError(f"{file}: holds neither input shape nor normalisation; run it in Python")
    plain, taken = loaded.model.to(where), loaded.data.input

    def logits(values: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            answer = plain(taken.normalize(torch.from_numpy(values).to(where)))
        return answer.float().cpu().numpy()  # type: ignore[no-any-return]

    learned = loaded.recipe.data.model_dump() if loaded.recipe else None
    scaled = isinstance(taken, ImageInput) and were_scaled(learned, *taken.shape[1:])
    return _Network(logits, taken, loaded.data.classes, scaled, loaded.unfinished)
