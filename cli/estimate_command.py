"""``iterand-compress estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from .options import (
    DISTRIBUTION_CHOICES,
    METHOD_CHOICES,
    STATE_DTYPE_CHOICES,
    NamedChoice,
    json_option,
    print_json,
)
from .table import print_multiply_adds, print_table

__all__ = ["command"]


@click.command(
    "estimate",
    short_help="Size of a .seedmask file before training.",
    epilog="Example: iterand-compress estimate --model resnet50 --sparsity 0.7 --classes 1000 --image-size 224",
)
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    help="Built-in name, torchvision:NAME, or package.module:factory.",
)
@click.option("--sparsity", type=float, required=True, help="Fraction of weights pruned, in [0, 1).")
@click.option(
    "--method",
    type=NamedChoice(METHOD_CHOICES),
    default="iterand",
    show_default=True,
    metavar="NAME",
    help="As in train; not dense.",
)
@click.option("--width", type=float, help="Factor on the number of channels.")
@click.option("--affine/--no-affine", default=None, help="Trained scales and shifts in BatchNorm.")
@click.option(
    "--distribution",
    type=NamedChoice(DISTRIBUTION_CHOICES),
    metavar="NAME",
    show_default="by the method",
    help="signed-constant, uniform or normal.",
)
@click.option("--multiplicity", type=int, help="Number of nested masks.")
@click.option("--frozen", type=float, help="Share of the mask that follows from the seed.")
@click.option(
    "--redrawn",
    type=float,
    metavar="FRACTION",
    help="Share of the kept weights that are redrawn, overwritten or inverted; by default 0.5 for iterand, as in runs "
    "of full length, 0.33 if weights are recycled, 0.2 if signs are trained.",
)
@click.option("--bare", is_flag=True, help="Of the file that pack --bare makes.")
@click.option(
    "--state-dtype",
    type=click.Choice(STATE_DTYPE_CHOICES),
    default="exact",
    show_default=True,
    help="What the unmasked state is stored as, as in pack.",
)
@click.option("--classes", type=click.IntRange(min=1), default=10, show_default=True, help="Number of outputs.")
@click.option("--image-size", type=click.IntRange(min=1), default=32, show_default=True, help="Side of an image.")
@click.option("--tokens", type=click.IntRange(min=1), help="Length of a text, for a model that takes texts.")
@click.option("--vocabulary", type=click.IntRange(min=2), help="Number of different tokens of texts.")
@click.option("--channels", type=click.IntRange(min=1), default=3, show_default=True, help="Colours of an image.")
@json_option
def command(
    model: str,
    sparsity: float,
    method: str,
    width: float | None,
    affine: bool | None,
    distribution: str | None,
    multiplicity: int | None,
    frozen: float | None,
    redrawn: float | None,
    bare: bool,
    state_dtype: str,
    classes: int,
    image_size: int,
    channels: int,
    tokens: int | None,
    vocabulary: int | None,
    as_json: bool,
) -> None:
    """Estimate how large the .seedmask file of a network will be, layer by layer, without training it.

    Masks and redraws are taken as random: what training finds is hardly more regular. The size of the state
    is exact; names of classes and settings of the recipe change the header a little, unless it is --bare.

    Multiply-adds (MACs) are those of convolutions, linear layers and attention for one image or text; kernels that
    skip pruned weights would need those of the kept ones.
    """
    from ..compress.analysis.estimate import estimate
    from ..compress.inputs import AnyInput, ImageInput, TextInput
    from ..compress.methods.presets import read_recipe

    def given(**settings: Any) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if value is not None}

    selection = given(multiplicity=multiplicity, frozen=frozen)
    sections = {
        "model": given(name=model, width=width, affine=affine),
        "subnetwork": given(
            method=method,
            sparsity=None if method == "dense" else sparsity,
            distribution=distribution,
            selection=selection or None,
        ),
    }
    if (tokens is None) != (vocabulary is None):
        raise click.UsageError("--tokens and --vocabulary belong together: give both, for a model that takes texts.")
    network_input: AnyInput
    if tokens is None or vocabulary is None:
        network_input = ImageInput((channels, image_size, image_size), 1 / 3, 1 / 3)
    else:
        network_input = TextInput(tokens, vocabulary)
    recipe = read_recipe(sections, "options")
    estimated = estimate(
        recipe.model,
        recipe.subnetwork,
        num_classes=classes,
        input=network_input,
        redrawn=redrawn,
        bare=bare,
        state_dtype=state_dtype,
        allow_import=True,
    )
    assumed = _assumed(("classes",) if tokens else ("classes", "image_size", "channels"))
    sizes = ("mask", "log", "coat", "state", "header", "file", "dense")
    totals = {name: getattr(estimated, name) for name in ("weights", "kept", *(f"{size}_bytes" for size in sizes))}
    totals["ratio"] = estimated.dense_bytes / estimated.file_bytes
    totals |= {"multiply_adds": estimated.multiply_adds, "kept_multiply_adds": estimated.kept_multiply_adds}
    if as_json:
        print_json(
            {
                "architecture": estimated.architecture.to_dict(),
                "method": method,
                "input": network_input.to_dict(),
                "classes": classes,
                "assumed": assumed,
                "distribution": estimated.distribution,
                "redrawn": estimated.redrawn,
                "layers": [asdict(layer) for layer in estimated.layers],
                "totals": totals,
            }
        )
        return
    rows = [("tensor", "shape", "weights", "kept", "mask bytes", "log bytes", "bits per weight")]
    rows += [
        (
            layer.name,
            "×".join(map(str, layer.shape)),
            f"{layer.weights:,}",
            f"{layer.kept:,}",
            f"{layer.mask_bytes:,}",
            f"{layer.log_bytes:,}",
            f"{8 * (layer.mask_bytes + layer.log_bytes + layer.coat_bytes) / layer.weights:.3f}",
        )
        for layer in estimated.layers
    ]
    rows.append(
        (
            "total",
            "",
            f"{estimated.weights:,}",
            f"{estimated.kept:,}",
            f"{estimated.mask_bytes:,}",
            f"{estimated.log_bytes:,}",
            f"{8 * (estimated.mask_bytes + estimated.log_bytes + estimated.coat_bytes) / estimated.weights:.3f}",
        )
    )
    print_table(rows, left=(0, 1))
    click.echo(
        f"\n{model}, {method}, {estimated.distribution}, sparsity {sparsity:g}, "
        f"{estimated.redrawn:g} of the kept weights {estimated.change}"
    )
    if isinstance(network_input, ImageInput):
        what = f"images of {'×'.join(map(str, network_input.shape))}"
    else:
        what = f"texts of {network_input.length} tokens out of {network_input.vocabulary:,}"
    options = [f"--{name.replace('_', '-')}" for name in assumed]
    click.echo(
        f"for {what} and {classes:,} classes" + (f" ({', '.join(options)} not given, so assumed)" if options else "")
    )
    click.echo(
        f"about {estimated.file_bytes:,} bytes: masks {estimated.mask_bytes:,}, logs {estimated.log_bytes:,}, "
        + (f"coats {estimated.coat_bytes:,}, " if estimated.coat_bytes else "")
        + f"state {estimated.state_bytes:,}, header {estimated.header_bytes:,}; dense {estimated.dense_bytes:,} bytes, "
        f"{totals['ratio']:.1f} times as large"
    )
    if estimated.multiply_adds is None or estimated.kept_multiply_adds is None:
        click.echo(f"multiply-adds: not counted, because the network does not run on one {network_input.noun} here")
    else:
        print_multiply_adds(estimated.multiply_adds, estimated.kept_multiply_adds, network_input.noun)


def _assumed(names: Sequence[str]) -> list[str]:
    """Which of these options have their defaults because they were not given."""
    given = click.get_current_context().get_parameter_source
    return [name for name in names if given(name) is click.core.ParameterSource.DEFAULT]
