"""Options that several commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from ..compress.errors import ConfigError, did_you_mean, import_extra

if TYPE_CHECKING:
    from ..compress.inputs import AnyInput

__all__ = [
    "DATA_CHOICES",
    "DISTRIBUTION_CHOICES",
    "FILE_FORM_CHOICES",
    "FORM_CHOICES",
    "METHOD_CHOICES",
    "RUNTIME_CHOICES",
    "STATE_DTYPE_CHOICES",
    "VALUE_DTYPE_CHOICES",
    "FilePath",
    "NamedChoice",
    "check_plot",
    "data_options",
    "device_option",
    "discard_output",
    "flips_option",
    "input_option",
    "json_option",
    "max_weights_option",
    "model_option",
    "print_json",
]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class _FilePath(click.Path):
    """A path given by the user. The library checks whether it exists, as its message says more."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty name, which would be the working folder."""
        if value == "":
            self.fail("expected a name, got nothing.", param, ctx)
        return super().convert(value, param, ctx)


FilePath = _FilePath(path_type=Path)


class NamedChoice(click.Choice[str]):
    """A choice whose refusal names the nearest names."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Say what was given, and what may have been meant."""
        return f"unknown {value!r}{did_you_mean(str(value), self.choices)}"


# Written out, because importing them would import NumPy, and --help shall not; a test compares.
DATA_CHOICES = (
    *("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagenet", "folder"),
    *("sentences", "text"),
)
DISTRIBUTION_CHOICES = ("signed-constant", "uniform", "normal")
METHOD_CHOICES = (
    *("iterand", "edge-popup", "recycling", "biprop", "biprop-recycling", "signed-supermask"),
    *("magnitude", "random", "snip", "grasp", "synflow", "dense"),
)
STATE_DTYPE_CHOICES = ("exact", "float16", "folded")
FILE_FORM_CHOICES = ("json", "compact")
VALUE_DTYPE_CHOICES = ("float32", "float16", "int8")
FORM_CHOICES = ("dense", "packed", "int8", "seeded", "float16", "auto")
RUNTIME_CHOICES = ("onnxruntime", "onnxruntime-web", "openvino", "other")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:N."
)
flips_option = click.option(
    "--flips",
    is_flag=True,
    help="Compute each image twice, as it is and mirrored, and take the mean of the logits: more right answers for "
    "pictures without letters or digits, in twice the time.",
)
max_weights_option = click.option(
    "--max-weights",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse files of more weights before memory is taken: a small file can stand for very many. By default 1024 "
    "for each of its bytes, at least 2**24, at most 2**33.",
)
model_option = click.option(
    "--model",
    metavar="NAME",
    help="Architecture, where the file does not say it: package.module:factory, torchvision:NAME or a built-in name.",
)


def _input(ctx: click.Context, param: click.Parameter, text: str | None) -> AnyInput | None:
    """What a network takes, as ``3x32x32:MEAN:STD`` or ``LENGTH:VOCABULARY:UNIT``."""
    if text is None:
        return None
    from ..compress.inputs import ImageInput, TextInput

    first, *others = text.split(":")
    try:
        if "x" in first:
            mean, std = ([float(number) for number in numbers.split(",")] for numbers in others)
            values = (value[0] if len(value) == 1 else value for value in (mean, std))
            return ImageInput([int(size) for size in first.split("x")], *values)
        vocabulary, unit = others
        return TextInput(int(first), int(vocabulary), unit)
    except ValueError:
        raise click.BadParameter(
            f"expected 3x32x32:MEAN:STD with one number or one for each channel (0.5 or 0.5,0.5,0.5), or of texts "
            f"LENGTH:VOCABULARY:words, got {text!r}.",
            ctx,
            param,
        ) from None


input_option = click.option(
    "--input",
    "network_input",
    callback=_input,
    metavar="CxHxW:MEAN:STD",
    help="What the network takes, where the file does not say it: shape of an image, and what its pixels in [0, 1] are "
    "normalised by (3x32x32:0.49,0.48,0.45:0.25,0.24,0.26); of texts LENGTH:VOCABULARY:words or :bytes.",
)


def data_options(command: CommandT) -> CommandT:
    """``--data``, ``--data-dir`` and ``--download``."""
    for option in (
        click.option(
            "--download/--no-download",
            default=False,
            show_default=True,
            help="Fetch the data set if it is absent.",
        ),
        click.option(
            "--data-dir", type=FilePath, metavar="DIR", help="Folder of the data set; for text also a CSV file."
        ),
        click.option(
            "--data",
            type=NamedChoice(DATA_CHOICES),
            metavar="NAME",
            show_default="by the recipe",
            help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet or folder; of texts: sentences or text.",
        ),
    ):
        command = option(command)
    return command


def check_plot(path: Path, *inputs: Path, force: bool) -> None:
    """Refuse what would keep a PNG from being drawn, before an hour of work and not after it.

    Raises:
        ConfigError: the ending promises another format; the name is that of an input, or taken without ``force``.
        MissingExtraError: matplotlib is not installed.
    """
    from ..compress.files.atomic import check_output

    check_output(path, *inputs, kind="png")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; --force replaces it, --plot writes elsewhere")
    import_extra("matplotlib", "plots", "--plot")


def discard_output(stream: TextIO) -> None:
    """Send the rest of standard output or error to the null device, so that flushing it does not fail again."""
    with suppress(OSError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    click.echo(json.dumps(values, indent=2, default=str))
