"""``iterand-compress search``."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.errors import ConfigError
from .options import METHOD_CHOICES, FilePath, NamedChoice, data_options, device_option, json_option, print_json
from .table import print_table
from .train_command import recipe_changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..compress.analysis.candidates import Candidate
    from ..compress.analysis.search import SearchPlan, SearchResult, Trial
    from ..compress.config import Recipe
    from ..compress.training.reporter import Reporter

__all__ = ["command", "number_of_bytes"]

#: The default recipe of a data set, and settings that it has here: masks that need no log are the smaller ones.
_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("digits", {"subnetwork.method": "edge-popup"}),
    "mnist": ("mnist-tiny", {}),
    "fashion-mnist": ("mnist-tiny", {}),
    "cifar10": ("cifar10-fast", {}),
    "cifar100": ("cifar10-fast", {}),
    "sentences": ("text", {}),
    "text": ("text", {}),
}
_UNITS = {"": 1, "k": 10**3, "M": 10**6}


def number_of_bytes(text: str) -> int:
    """A number of bytes, as ``100k``.

    Raises:
        ValueError: the text is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k|M|)", text)
    size = float(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= size < 2**40:
        raise ValueError(f"expected a number of bytes, such as 30000, 30k or 1.5M, got {text!r}.")
    return int(size)


def _bytes(ctx: click.Context, param: click.Parameter, text: str) -> int:
    try:
        return number_of_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command(
    "search",
    short_help="Find the best file under a limit of bytes.",
    epilog="Example: iterand-compress search --max-bytes 30k --data digits --out best-digits",
)
@click.option(
    "--max-bytes",
    required=True,
    callback=_bytes,
    metavar="SIZE",
    help="Largest size of the file: 30000, 30k (k = 1000) or 1.5M.",
)
@data_options
@click.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    show_default="by the data: cifar10-fast, mnist-tiny, text, or digits with edge-popup",
    help="Settings to start from; width and sparsity are chosen.",
)
@click.option("--model", "model__name", metavar="NAME", help="A built-in name, as widths are chosen.")
@click.option(
    "--method",
    "subnetwork__method",
    type=NamedChoice(METHOD_CHOICES),
    metavar="NAME",
    show_default="by the recipe",
    help="One that trains masks, as in train.",
)
@click.option("--seed", "subnetwork__seed", type=int, show_default="by the recipe", help="As in train.")
@click.option(
    "--epochs",
    "train__epochs",
    type=click.IntRange(min=1),
    show_default="by the recipe",
    help="Of the last round; the rounds before have half as many, a quarter, …",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting of the recipe, as in train.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 9),
    default=5,
    show_default=True,
    metavar="N",
    help="Networks in the first round, each of another sparsity.",
)
@click.option(
    "--redrawn",
    type=float,
    metavar="FRACTION",
    help="Share of the kept weights that are predicted to be redrawn, overwritten or inverted, where the method does "
    "so; by default as in estimate, or less for IteRand in short runs.",
)
@click.option(
    "--out",
    type=FilePath,
    metavar="DIR",
    default=Path("search"),
    show_default=True,
    help="Folder of all runs, and of best.seedmask; the same command goes on where it stopped.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Only print what would be trained.")
@device_option
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the result.")
@json_option
def command(
    max_bytes: int,
    data: str | None,
    data_dir: Path | None,
    download: bool,
    recipe: str | None,
    settings: tuple[str, ...],
    candidates: int,
    redrawn: float | None,
    out: Path,
    plan_only: bool,
    device: str,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Find the best .seedmask file of at most so many bytes: which width, and which sparsity?

    For each of some sparsities, the widest network is taken whose file will be within the limit. Successive halving
    trains all of them for a short time, keeps those that are better on held-out training images, and trains these for
    longer; the last one by the recipe itself. The test images are looked at once, for the result.

    Ctrl-C keeps everything that is done; the same command goes on from there.
    """
    from ..compress.analysis.search import plan_search, search
    from ..compress.training.allocator import keep_freed_memory
    from ..compress.training.recipe import override

    changes = recipe_changes({**flags, "data": data, "settings": settings})
    for text in settings:
        key = text.partition("=")[0]
        if key.startswith("run.") or key in ("model.width", "subnetwork.sparsity"):
            reason = "it is no setting of a recipe" if key.startswith("run.") else "it is what the search chooses"
            raise ConfigError(f"--set: {key}: {reason}; leave it out")
    name, base = _base(recipe, data, data_dir, changes.get("subnetwork.method"))
    resolved = override(base, changes)
    shared: dict[str, Any] = {
        "max_bytes": max_bytes,
        "candidates": candidates,
        "redrawn": redrawn,
        "data_dir": data_dir,
        "download": download,
    }
    if plan_only:
        plan = plan_search(resolved, **shared)
        if as_json:
            print_json({"recipe": name, **_plan_json(plan)})
        else:
            _print_plan(plan, resolved, name)
        return
    keep_freed_memory()
    result = search(
        resolved, **shared, out=out, device=device, reporter_of=lambda run: _reporter(run, quiet or as_json)
    )
    if as_json:
        print_json(
            {
                "recipe": name,
                **_plan_json(result.plan),
                "trials": [asdict(trial) for trial in result.trials],
                "file": str(result.file),
                "file_bytes": result.trials[-1].file_bytes,
                "test": {**asdict(result.test), "accuracy": result.test.accuracy},
            }
        )
    else:
        _print_result(result, resolved, name)


def _base(recipe: str | None, data: str | None, data_dir: Path | None, method: str | None) -> tuple[str, Recipe]:
    """The name of the recipe, and what it says for the data."""
    from ..compress.training.recipe import PHOTOS_RECIPE, load_recipe, override, recipe_for_folder

    own = {"subnetwork": {"method": method}} if method is not None else {}
    if recipe is not None:
        return recipe, load_recipe(recipe, **own)
    if data == "folder":
        fitting = recipe_for_folder(data_dir)
        photos = fitting.model.name == load_recipe(PHOTOS_RECIPE).model.name
        name, changes = _RECIPES["cifar10" if photos else "digits"]
        changes = {**changes, "data.name": "folder", "data.image_size": fitting.data.image_size}
    elif (data or "digits") in _RECIPES:
        name, changes = _RECIPES[data or "digits"]
    else:
        raise ConfigError(f"search: there is no small network for {data} to begin with: give --recipe NAME")
    return name, override(load_recipe(name), {**changes, **({"subnetwork.method": method} if method else {})})


def _reporter(run: str, quiet: bool) -> Reporter:
    from .progress import reporter

    if not quiet:
        click.echo(f"run {run}")
    return reporter(quiet=quiet, test=False)


def _plan_json(plan: SearchPlan) -> dict[str, Any]:
    return {
        "max_bytes": plan.max_bytes,
        "candidates": [asdict(candidate) for candidate in plan.candidates],
        "rounds": [{"networks": networks, "epochs": epochs} for networks, epochs in plan.rounds],
        "epochs": plan.epochs,
        "multiply_adds": plan.multiply_adds,
    }


def _headline(plan: SearchPlan, recipe: Recipe, name: str) -> str:
    return (
        f"recipe {name}: {recipe.subnetwork.method} on {recipe.data.name}, {recipe.model.name}; at most "
        f"{plan.max_bytes:,} bytes\n"
    )


_HEAD = ("sparsity", "width", "weights", "predicted bytes")


def _cells(candidate: Candidate) -> tuple[str, ...]:
    return (
        f"{candidate.sparsity:g}",
        f"{candidate.width:.4g}",
        f"{candidate.weights:,}",
        f"{candidate.predicted_bytes:,}",
    )


def _print_plan(plan: SearchPlan, recipe: Recipe, name: str) -> None:
    click.echo(_headline(plan, recipe, name))
    rows: list[Sequence[str]] = [(*_HEAD, "multiply-adds")]
    for candidate in plan.candidates:
        counted = "–" if candidate.multiply_adds is None else f"{candidate.multiply_adds:,}"
        rows.append((*_cells(candidate), counted))
    print_table(rows, left=())
    each = ", ".join(f"{networks} × {epochs}" for networks, epochs in plan.rounds)
    click.echo(f"\nrounds: {each} epochs; {plan.epochs} epochs in all")
    if plan.multiply_adds is not None:
        click.echo(
            f"epochs × examples × multiply-adds: {plan.multiply_adds:.3g} at most; about three times that with the "
            "backward passes"
        )


def _print_result(result: SearchResult, recipe: Recipe, name: str) -> None:
    click.echo(_headline(result.plan, recipe, name))
    rounds = [f"{epochs} epochs, val %" for _, epochs in result.plan.rounds]
    rows: list[Sequence[str]] = [(*_HEAD, "bytes", *rounds)]
    remarks = []
    for candidate in result.plan.candidates:
        trials = [trial for trial in result.trials if trial.candidate.sparsity == candidate.sparsity]
        shown = [*map(_accuracy, trials), *[""] * (len(rounds) - len(trials))]
        last = trials[-1].candidate
        rows.append((*_cells(last), f"{trials[-1].file_bytes:,}", *shown))
        if last != candidate:
            remarks.append(
                f"sparsity {last.sparsity:g}: trained again with width {last.width:.4g}, as the file of "
                f"{candidate.width:.4g} came out too large"
            )
    print_table(rows, left=())
    if remarks:
        click.echo("\n" + "\n".join(remarks))
    test = result.test
    click.echo(
        f"\n{result.file}: {result.trials[-1].file_bytes:,} bytes, test accuracy {100 * test.accuracy:.2f} % "
        f"({test.correct:,} of {test.images:,})"
    )


def _accuracy(trial: Trial) -> str:
    return "all images" if trial.accuracy is None else f"{100 * trial.accuracy:.2f}"
