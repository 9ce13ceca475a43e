"""``iterand-compress ablate``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from .options import (
    FilePath,
    check_plot,
    data_options,
    device_option,
    json_option,
    max_weights_option,
    model_option,
    print_json,
)
from .table import print_table

if TYPE_CHECKING:
    from ..compress.analysis.ablation import Ablation, LayerStatistics, Variant
    from ..compress.training.reporter import Reporter

__all__ = ["command"]


@click.command(
    "ablate",
    short_help="Does it matter which weights a mask keeps?",
    epilog="Example: iterand-compress ablate snip.ckpt --seeds 3 --plot snip.png",
)
@click.argument("file", type=FilePath)
@click.option("--reinit", is_flag=True, help="Other random weights, the same mask.")
@click.option("--shuffle", is_flag=True, help="The mask permuted inside each tensor.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Repetitions of each change, with other random numbers.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Train tickets so long, instead of as their recipe says.")
@click.option(
    "--folder",
    type=FilePath,
    metavar="DIR",
    help="Keep the checkpoints of the runs there: the same command then reads finished runs and goes on with others.",
)
@data_options
@model_option
@device_option
@click.option("--plot", type=FilePath, metavar="FILE.png", help="Draw accuracies, and the spread of kept weights.")
@click.option("--force", is_flag=True, help="Replace --plot if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
@max_weights_option
@json_option
def command(
    file: Path,
    reinit: bool,
    shuffle: bool,
    seeds: int,
    epochs: int | None,
    folder: Path | None,
    plot: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Sanity checks of a pruned network: give it other random weights under its mask, or shuffle its mask.

    FILE is a checkpoint or a .seedmask file. Without --reinit and --shuffle, both are done. A subnetwork of
    untrained weights is evaluated with each change, and nothing is trained: it should fall to guessing. A
    network that was pruned at initialisation is trained again with each change, on the same images in the same
    order: where accuracy stays, the method chose no more than how many weights each layer keeps.
    """
    from ..compress.analysis.ablation import CHANGES, AblationOptions, ablate

    if plot is not None:
        check_plot(plot, file, force=force)
    ablation = ablate(
        file,
        AblationOptions(
            changes=tuple(change for change, asked in zip(CHANGES, (reinit, shuffle), strict=True) if asked) or CHANGES,
            repetitions=seeds,
            epochs=epochs,
            folder=folder,
            **where,
        ),
        lambda name: _reporter(name, quiet or as_json),
    )
    if as_json:
        print_json(_as_json(ablation))
    else:
        _print(ablation)
    if plot is not None:  # last: a full disk shall not cost the result
        from .ablation_plot import draw

        draw(ablation, plot)


def _reporter(name: str, quiet: bool) -> Reporter:
    from .progress import reporter

    if not quiet:
        click.echo(f"run {name}")
    return reporter(quiet=quiet)


def _as_json(ablation: Ablation) -> dict[str, Any]:
    baseline = ablation.variants[0]
    return {
        "file": str(ablation.path),
        "trained": ablation.trained,
        "baseline_read": ablation.baseline_read,
        "chance": ablation.chance,
        "recipe": ablation.recipe.model_dump(exclude_none=True),
        "variants": [
            {
                "name": variant.name,
                "accuracy": variant.accuracy,
                "deviation": variant.deviation,
                "difference": variant.accuracy - baseline.accuracy,
                "repetitions": [
                    {
                        **asdict(repetition.score),
                        "accuracy": repetition.score.accuracy,
                        "mask_changed": repetition.share("mask_changed"),
                        "changed_by_chance": repetition.share("changed_by_chance"),
                        "layers": [_layer_json(layer) for layer in repetition.layers],
                    }
                    for repetition in variant.repetitions
                ],
            }
            for variant in ablation.variants
        ],
    }


def _layer_json(layer: LayerStatistics) -> dict[str, Any]:
    values = asdict(layer)
    moments: dict[str, Any] = values.pop("kept_weights")
    return values | moments


def _print(ablation: Ablation) -> None:
    recipe, baseline = ablation.recipe, ablation.variants[0]
    what = f"{ablation.path}: {recipe.subnetwork.method} on {recipe.data.name}, {recipe.model.name}"
    if ablation.trained:
        origin = "baseline from the checkpoint" if ablation.baseline_read else "baseline trained again"
        click.echo(f"{what}: a ticket, trained for {recipe.train.epochs} epochs with each change; {origin}")
    else:
        click.echo(f"{what}: untrained weights, evaluated as they are; BatchNorm statistics stay those of the file")
    click.echo()
    rows: list[tuple[str, ...]] = [
        ("variant", "runs", "accuracy %", "±", "vs baseline", "mask changed %", "by chance %")
    ]
    rows += [_row(variant, baseline) for variant in ablation.variants]
    rows.append(
        ("guessing", "", f"{100 * ablation.chance:.2f}", "", _points(ablation.chance - baseline.accuracy), "", "")
    )
    print_table(rows)
    click.echo()
    head = ("tensor", "variant", "kept %", "mean", "std", "kurtosis", "KS", "W1/std", "values changed %")
    print_table([head, *_layer_rows(ablation)], left=(0, 1))
    what = "kept weights before training" if ablation.trained else "kept weights"
    click.echo(f"{what}, means over runs; KS and W1: how far their distribution is from that of the baseline")


def _row(variant: Variant, baseline: Variant) -> tuple[str, ...]:
    first = variant is baseline
    return (
        variant.name,
        str(len(variant.repetitions)),
        f"{100 * variant.accuracy:.2f}",
        "" if variant.deviation is None else f"{100 * variant.deviation:.2f}",
        "" if first else _points(variant.accuracy - baseline.accuracy),
        *(
            "" if first else f"{100 * fmean(repetition.share(what) for repetition in variant.repetitions):.2f}"
            for what in ("mask_changed", "changed_by_chance")
        ),
    )


def _layer_rows(ablation: Ablation) -> Iterable[tuple[str, ...]]:
    for index, first in enumerate(ablation.variants[0].repetitions[0].layers):
        for variant in ablation.variants:
            layers = [repetition.layers[index] for repetition in variant.repetitions]
            moments = [layer.kept_weights for layer in layers]
            changes = (
                _mean([layer.ks for layer in layers]),
                _mean([layer.wasserstein for layer in layers]),
                _mean([layer.values_changed for layer in layers], percent=True),
            )
            is_baseline = variant is ablation.variants[0]
            yield (
                first.name if is_baseline else "",
                variant.name,
                f"{100 * first.kept / first.weights:.2f}",
                *(_mean([getattr(values, what) for values in moments]) for what in ("mean", "std", "kurtosis")),
                *(("", "", "") if is_baseline else changes),
            )


def _mean(values: list[float | None], *, percent: bool = False) -> str:
    """Format the mean of the numbers that are not ``None``."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{100 * fmean(known):.2f}" if percent else f"{fmean(known):.4f}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
