"""``iterand-compress theory``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import FilePath, check_plot, json_option, print_json
from .table import print_table

if TYPE_CHECKING:
    from ..compress.analysis.theory import Experiment, RandomNetwork
    from ..compress.analysis.theory_check import BoundCheck

__all__ = ["command"]


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between them."""
    if value is None:
        return None
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"expected whole numbers with commas between them, got {value!r}.", ctx, param
        ) from None


def _weight(ctx: click.Context, param: click.Parameter, value: str) -> float | None:
    """A number, or ``None`` for one drawn in each trial."""
    if value == "random":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"expected a number from -1 to 1, or random, got {value!r}.", ctx, param) from None


@click.command(
    "theory",
    short_help="How wide a network the theorem of IteRand asks for.",
    epilog="Example: iterand-compress theory --widths 784,300,100,10 --resamples 1 --resamples 100 --check",
)
@click.option("--widths", callback=_numbers, metavar="D0,D1,...", help="Of the target: inputs, layers, outputs.")
@click.option("--epsilon", default="0.1", show_default=True, metavar="ERROR", help="Of the output vector, below 1.")
@click.option("--delta", default="0.05", show_default=True, metavar="P", help="Probability of failure, below 1.")
@click.option(
    "--resamples",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 10, 100),
    show_default=True,
    metavar="R",
    help="Draws of each weight, the first one counted; may be given several times.",
)
@click.option("--check", is_flag=True, help="Draw random weights and measure how close they come to one target weight.")
@click.option(
    "--candidates",
    callback=_numbers,
    default="1,2,4,8,16,32",
    show_default=True,
    metavar="N1,N2,...",
    help="Pairs of random weights to choose from, for --check.",
)
@click.option("--trials", type=click.IntRange(min=1), default=1000, show_default=True, help="Of --check.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --check, 64 bits.")
@click.option(
    "--target",
    callback=_weight,
    default="1",
    show_default=True,
    metavar="W",
    help="The target weight of --check, from -1 to 1 (the ends are the hardest), or random.",
)
@click.option(
    "--experiment",
    type=click.Choice(["path", "weight"]),
    default="path",
    show_default=True,
    help="Products of two weights through a ReLU, as in the theorem, or single weights.",
)
@click.option("--plot", type=FilePath, metavar="FILE.png", help="Draw the result of --check (extra: plots).")
@click.option("--force", is_flag=True, help="Replace the file of --plot if it exists.")
@json_option
def command(
    widths: tuple[int, ...] | None,
    epsilon: str,
    delta: str,
    resamples: tuple[int, ...],
    check: bool,
    candidates: tuple[int, ...],
    trials: int,
    seed: int,
    target: float | None,
    experiment: Experiment,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Theorem 4.1 of the IteRand paper: a random network of these widths holds a good subnetwork.

    For a target network of the widths D0, D1, ... it is twice as deep. Some mask of it comes within ERROR of the
    target, for all inputs of [-1, 1], with probability 1 - P, if every weight may be drawn R times.

    --check measures its lemma: one target weight, made of the best of n pairs of random weights, R draws
    each, once for positive and once for negative inputs. The error is set beside the one that the theorem
    guarantees. The bound holds where the exact quantile keeps it (known for the targets 1 and -1) and no
    more trials exceed it than chance explains (four standard deviations).
    """
    from ..compress.analysis.theory import open_fraction, required_widths

    check = check or plot is not None
    if widths is None and not check:
        raise click.UsageError("Missing option '--widths' (or '--check').")
    error, failure = float(open_fraction("epsilon", epsilon)), float(open_fraction("delta", delta))
    draw_plot = _plotter(plot, force=force)
    weight = "random" if target is None else f"{target:g}"
    networks = [] if widths is None else [required_widths(widths, epsilon, delta, count) for count in resamples]
    checks: list[BoundCheck] = []
    if check:
        from ..compress.analysis.theory_check import check_bound

        checks = check_bound(
            candidates,
            resamples,
            delta=delta,
            trials=trials,
            seed=seed,
            target=target,
            experiment=experiment,
        )
    size = None if draw_plot is None else draw_plot(checks, f"target weight {weight}, quantile of {1 - failure:g}")
    if as_json:
        print_json(
            {
                "widths": widths,
                "epsilon": error,
                "delta": failure,
                "networks": [_network_json(network) for network in networks],
                "check": {
                    "experiment": experiment,
                    "target": target,  # null: another one in each trial
                    "trials": trials,
                    "seed": seed,
                    "results": [{**asdict(result), "within": result.within} for result in checks],
                }
                if check
                else None,
                "plot": None if plot is None else {"file": str(plot), "file_bytes": size},
            }
        )
        return
    for network in networks:
        _print_network(network)
    if networks:
        click.echo(f"error {epsilon} with probability 1 - {delta} at least")
        click.echo(_meaning(networks))
    if networks and checks:
        click.echo()
    if checks:
        _print_checks(
            checks,
            f"{experiment}, target weight {weight}, {trials:,} trials, seed {seed}; quantile of {1 - failure:g}",
        )
    if plot is not None:
        click.echo(f"{plot}: {size:,} bytes")


def _plotter(plot: Path | None, *, force: bool) -> Callable[[list[BoundCheck], str], int] | None:
    """Return the function that draws; refuse a missing extra or a taken name before the work, not after it."""
    if plot is None:
        return None
    check_plot(plot, force=force)

    def draw(checks: list[BoundCheck], title: str) -> int:
        from .theory_plot import draw_checks

        return draw_checks(checks, plot, title)

    return draw


def _network_json(network: RandomNetwork) -> dict[str, Any]:
    return {
        "resamples": network.resamples,
        "layers": [{**asdict(layer), "ratio": layer.ratio} for layer in network.layers],
        "widths": network.widths,
        "parameters": network.parameters,
        "target_parameters": network.target_parameters,
    }


def _print_network(network: RandomNetwork) -> None:
    rows: list[tuple[str, ...]] = [
        ("layer", "inputs", "outputs", "candidates", "hidden width", "× inputs", "R for one candidate")
    ]
    rows += [
        (
            str(number),
            *(f"{value:,}" for value in (layer.inputs, layer.outputs, layer.candidates, layer.width, layer.ratio)),
            f"{layer.enough_resamples:,}",
        )
        for number, layer in enumerate(network.layers, 1)
    ]
    click.echo(f"R = {network.resamples:,}")
    print_table(rows)
    times = Decimal(network.parameters) / network.target_parameters  # may be above what a float can hold
    click.echo(
        f"random network: {network.parameters:,} weights, {times:.4g} times the {network.target_parameters:,} "
        "of the target\n"
    )


def _meaning(networks: Sequence[RandomNetwork]) -> str:
    """What the numbers say about a network of the user's, in two sentences."""
    first, last = networks[0], networks[-1]
    fall = ""
    if first.resamples < last.resamples:
        factor = Decimal(first.parameters) / last.parameters
        fall = f": here {factor:,.1f} times fewer weights with R = {last.resamples:,} than with R = {first.resamples:,}"
    return (
        "For your network: this is enough in the worst case, for any target and any input, and not what training "
        "needs, which finds good subnetworks in random networks about as wide as the target.\n"
        "What carries over is the direction: the more often pruned weights are redrawn, the less width the random "
        f"network needs{fall}."
    )


def _print_checks(checks: list[BoundCheck], what: str) -> None:
    rows: list[tuple[str, ...]] = [
        ("R", "n", "median", "quantile", "exact", "bound", "quantile / bound", "holds"),
    ]
    rows += [
        (
            f"{result.resamples:,}",
            f"{result.candidates:,}",
            f"{result.median:.4g}",
            f"{result.quantile:.4g}",
            "–" if result.exact is None else f"{result.exact:.4g}",
            f"{result.bound:.4g}",
            f"{result.quantile / result.bound:.3f}",
            "yes" if result.within else "NO",
        )
        for result in checks
    ]
    print_table(rows, left=())
    broken = sum(not result.within for result in checks)
    empty = sum(result.bound >= 1 for result in checks)
    verdict = "the bound holds everywhere" if not broken else f"the bound is broken in {broken} of {len(checks)} places"
    click.echo(f"\n{what}")
    click.echo(f"{verdict}; {empty} of {len(checks)} bounds are 1 or more, which every mask keeps")
