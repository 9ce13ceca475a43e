"""``iterand-compress pack``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .options import (
    FILE_FORM_CHOICES,
    STATE_DTYPE_CHOICES,
    VALUE_DTYPE_CHOICES,
    FilePath,
    json_option,
    model_option,
    print_json,
)

__all__ = ["command"]


@click.command(
    "pack",
    short_help="Write a checkpoint as seed, mask and log.",
    epilog="Example: iterand-compress pack model.ckpt --out model.seedmask",
)
@click.argument("checkpoint", type=FilePath)
@click.option("--out", type=FilePath, help="The file; by default the checkpoint's name with .seedmask.")
@click.option(
    "--coding",
    type=click.Choice(["auto", "raw", "rans"]),
    default="auto",
    show_default=True,
    help="Of masks and logs: the smallest of all, plain bits, or entropy coded even where that is larger.",
)
@click.option(
    "--state-dtype",
    type=click.Choice(STATE_DTYPE_CHOICES),
    default="exact",
    show_default=True,
    help="float16 rounds BatchNorm statistics, biases and other unmasked float32 and float64 tensors. This is lossy: "
    "outputs change a little, so evaluate the file. folded also puts BatchNorm's mean and variance into its weight and "
    "bias, where it has these: the smallest, for inference alone, as training cannot go on sensibly from such a file.",
)
@click.option(
    "--with-weights",
    type=click.Choice(VALUE_DTYPE_CHOICES),
    help="Of a network that was pruned at initialisation, also store the trained weights, exact or rounded to float16 "
    "or int8. Without them the file is the ticket, to be trained again.",
)
@click.option(
    "--form",
    type=click.Choice(FILE_FORM_CHOICES),
    help="Of the file: json, which any reader of safetensors can list, or compact, which is smaller by some kilobytes. "
    "By default json, with --bare compact.",
)
@click.option("--bare", is_flag=True, help="The smallest file: compact, without the recipe and the names of classes.")
@model_option
@json_option
def command(
    checkpoint: Path,
    out: Path | None,
    coding: str,
    state_dtype: str,
    with_weights: str | None,
    form: str | None,
    bare: bool,
    model: str | None,
    as_json: bool,
) -> None:
    """Write a checkpoint as a .seedmask file: seed, mask, resampling log, unmasked state.

    Masks and logs are entropy coded where that makes them smaller. The file is decoded again and compared bit
    for bit before it takes its name. Random weights are always exact, whatever the state is stored as. A network that
    is not built in is also built again and compared with the one that was trained; of your own code, with --model.
    """
    from ..compress.checkpoint import load_checkpoint
    from ..compress.files.atomic import check_output
    from ..compress.files.kinds import check_kind
    from ..compress.files.names import shell_word
    from ..compress.files.outputs import beside
    from ..compress.models import is_factory, is_foreign
    from ..compress.models.from_shapes import skeleton
    from ..compress.pack import network_of_checkpoint, trained_error, with_form, with_state_dtype
    from ..compress.rebuild import rebuild
    from ..compress.seedmask import default_max_weights, write_seedmask

    target = out or beside(checkpoint, ".seedmask")
    check_kind(checkpoint, "torch")
    check_output(target, checkpoint, kind="seedmask")
    run = load_checkpoint(checkpoint)
    compared = None if not is_foreign(run.architecture) else model is not None or not is_factory(run.architecture)
    built = rebuild(run, checkpoint, model) if compared else None
    form = form or ("compact" if bare else "json")
    # Code of the user's that was not given cannot be asked what reads its state, all of which is then kept.
    if compared is None and (form == "compact" or state_dtype == "folded"):
        built = skeleton(run.architecture, seed=0, allow_import=False)
    network = with_form(network_of_checkpoint(run, with_weights=with_weights), form, built, bare=bare)
    network, rounding = with_state_dtype(network, state_dtype, built)
    error, worst = trained_error(network, run)
    report = write_seedmask(network, target, coding=coding)
    dense_bytes = 4 * report.weights + rounding.exact_bytes
    if as_json:
        print_json(
            {
                "file": str(target),
                "form": form,
                **{key: value for key, value in asdict(report).items() if key not in ("path", "file_digest")},
                "dense_bytes": dense_bytes,
                "state_dtype": rounding.dtype,
                "state_bytes": rounding.bytes,
                "state_exact_bytes": rounding.exact_bytes,
                "state_largest_relative_error": rounding.largest_relative_error,
                "batch_norms_folded": rounding.folded,
                "with_weights": with_weights,
                "values_largest_error": error,
                "compared": compared,
                "unfinished": run.unfinished,
            }
        )
        return
    if report.weights > default_max_weights(report.file_bytes):
        click.echo(f"readers refuse so many weights in so small a file unless told --max-weights {report.weights}")
    bits = {"mask": report.mask_bits, "log": report.log_bits}
    bits |= {section: n for section, n in (("coats", report.coat_bits), ("values", report.value_bits)) if n}
    *sections, last = (f"{section} {n / report.weights:.3f}" for section, n in bits.items())
    click.echo(
        f"{target}: {report.file_bytes:,} bytes for {report.weights:,} weights ({report.kept:,} kept); "
        f"{', '.join(sections)} and {last} bits per weight; "
        f"{dense_bytes / report.file_bytes:.1f} times smaller than in float32"
    )
    if with_weights is not None:
        lost = f"; largest error {error:.2g}, in {worst}" if worst else ", exact"
        click.echo(f"trained weights {report.value_bits // 8:,} bytes in {with_weights}{lost}")
    elif run.recipe.subnetwork.prune is not None:
        click.echo("a ticket: its weights are those that training began with; --with-weights stores the trained ones")
    if rounding.dtype == "exact":
        click.echo(f"state {rounding.bytes:,} bytes, exact")
    else:
        where = f", in {rounding.tensor}" if rounding.tensor else ""
        layers = f", {rounding.folded} BatchNorm layers folded," if rounding.dtype == "folded" else ""
        click.echo(
            f"state {rounding.bytes:,} bytes{layers} in float16 instead of {rounding.exact_bytes:,}; "
            f"largest relative error {rounding.largest_relative_error:.2g}{where}"
        )
    if run.unfinished is not None:
        click.echo(f"{checkpoint}: {run.unfinished}")
    if compared is False:
        name = run.architecture.name
        click.echo(f"not compared with {name} built again, as a file never runs code: give --model {shell_word(name)}")
