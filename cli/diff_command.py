"""``iterand-compress diff``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import FilePath, json_option, max_weights_option, print_json
from .table import print_table

if TYPE_CHECKING:
    from ..compress.analysis.compare import Comparison, LayerComparison, MaskOverlap, SettingDifference, StateComparison

__all__ = ["command"]


@click.command(
    "diff",
    short_help="What two .seedmask files have in common.",
    epilog="Example: iterand-compress diff before.seedmask after.seedmask --exit-code",
)
@click.argument("first", type=FilePath)
@click.argument("second", type=FilePath)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if weights or state differ, in any bit.")
@max_weights_option
@json_option
def command(first: Path, second: Path, exit_code: bool, max_weights: int | None, as_json: bool) -> None:
    """Compare settings, masks, recovered weights and state of two .seedmask files, by the names of tensors.

    Of each layer: how many weights only one of the masks keeps (the Hamming distance), the intersection of
    the masks over their union (IoU), the IoU that independent masks of the same sizes have by chance, and the
    share of equal values among the weights that both keep. How the files are coded does not count.
    """
    from ..compress.analysis.compare import compare
    from ..compress.seedmask import read_seedmask

    comparison = compare(*(read_seedmask(file, max_weights=max_weights) for file in (first, second)))
    if as_json:
        print_json(_as_json(first, second, comparison))
    else:
        _print(comparison)
    if exit_code and not (comparison.equal_weights and comparison.equal_state):
        click.get_current_context().exit(1)


def _overlap_json(overlap: MaskOverlap) -> dict[str, Any]:
    names = ("weights", "kept", "hamming", "hamming_fraction", "iou", "iou_by_chance", "equal_values")
    values = {name: getattr(overlap, name) for name in (*names, "equal_value_share")}
    return values | {"kept_in_both": overlap.in_both}


def _as_json(first: Path, second: Path, comparison: Comparison) -> dict[str, Any]:
    total = comparison.total
    return {
        "first": str(first),
        "second": str(second),
        "equal_weights": comparison.equal_weights,
        "equal_state": comparison.equal_state,
        "settings": [_setting_json(setting) for setting in comparison.settings],
        "layers": [_layer_json(layer) for layer in comparison.layers],
        "different_shapes": [asdict(shapes) for shapes in comparison.shapes],
        "only_in_first": comparison.only[0],
        "only_in_second": comparison.only[1],
        "state": [asdict(state) for state in comparison.state],
        "state_only_in_first": comparison.only_state[0],
        "state_only_in_second": comparison.only_state[1],
        "totals": None if total is None else _overlap_json(total),
    }


def _layer_json(layer: LayerComparison) -> dict[str, Any]:
    values = asdict(layer)
    del values["overlap"]
    return values | _overlap_json(layer.overlap)


def _setting_json(setting: SettingDifference) -> dict[str, Any]:
    """A key that a file does not have is absent, unlike one that is null."""
    sides = {"first": setting.first, "second": setting.second}
    return {"setting": setting.key} | {side: json.loads(text) for side, text in sides.items() if text is not None}


def _print(comparison: Comparison) -> None:
    for setting in comparison.settings:
        click.echo(f"{setting.key}: {_value(setting.first)} | {_value(setting.second)}")
    if comparison.settings:
        click.echo()
    total = comparison.total
    if total is not None:
        head = ("tensor", "shape", "weights", "kept A", "kept B", "differ", "%", "IoU", "by chance", "equal values")
        rows: list[tuple[str, ...]] = [head]
        rows += [_row(layer.name, layer.shape, layer.overlap) for layer in comparison.layers]
        rows.append(_row("total", (), total))
        print_table(rows, left=(0, 1))
    for layer in comparison.layers:
        for what in ("codebook", "scale", "index"):
            mine, other = getattr(layer, what)
            if mine != other:
                click.echo(f"{layer.name}: {what} {mine} | {other}")
    for shapes in comparison.shapes:
        click.echo(f"{shapes.name}: shape {_shape(shapes.first)} | {_shape(shapes.second)}, not compared")
    for names, where in zip(comparison.only, ("first", "second"), strict=True):
        for name in names:
            click.echo(f"{name}: only in the {where} file")
    for state in comparison.state:
        if not state.identical:
            click.echo(f"state {state.name}: {_state(state)}")
    for names, where in zip(comparison.only_state, ("first", "second"), strict=True):
        for name in names:
            click.echo(f"state {name}: only in the {where} file")
    weights = "are equal" if comparison.equal_weights else "differ"
    state_verdict = "is equal" if comparison.equal_state else "differs"
    click.echo(f"weights {weights}, state {state_verdict}")


def _row(name: str, shape: tuple[int, ...], overlap: MaskOverlap) -> tuple[str, ...]:
    return (
        name,
        _shape(shape),
        f"{overlap.weights:,}",
        *(f"{kept / overlap.weights:.4f}" for kept in overlap.kept),
        f"{overlap.hamming:,}",
        f"{100 * overlap.hamming_fraction:.2f}",
        f"{overlap.iou:.4f}",
        f"{overlap.iou_by_chance:.4f}",
        f"{overlap.equal_value_share:.4f}",
    )


def _state(state: StateComparison) -> str:
    if state.shape[0] != state.shape[1]:
        return f"shape {_shape(state.shape[0])} | {_shape(state.shape[1])}, not compared"
    dtypes = "" if state.dtype[0] == state.dtype[1] else f"{state.dtype[0]} | {state.dtype[1]}, "
    if state.largest_difference is None:
        return f"{dtypes}an infinity or NaN on one side only"
    return f"{dtypes}largest difference {state.largest_difference:.6g}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _value(text: str | None) -> str:
    if text is None:
        return "absent"
    return text if len(text) <= 60 else text[:57] + "..."
