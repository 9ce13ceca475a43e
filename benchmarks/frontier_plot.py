"""The figure of benchmarks/frontier.py: accuracy against bytes, a panel for each of our forms beside all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from points import Point, pareto

__all__ = ["draw", "spread"]

#: Told apart by people of any colour vision (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C564B")
GREY = "#6E6E6E"
#: Others: how each form is drawn.
MARKERS = {"float32 ONNX": "D", "float16 ONNX": "^", "int8 ONNX": "s", "int8 ONNX + zstd": "P"}
PANELS = {".seedmask": "subnetworks as .seedmask files", "packed ONNX": "subnetworks as packed ONNX"}


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until neighbours are ``gap`` apart, as little as may be, in their order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[list[int]] = []  # of neighbours that touch; each is centred on the mean of its places
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _edge(groups[-1], places, gap, -1) < _edge(groups[-2], places, gap, 1):
            last = groups.pop()
            groups[-1] += last
    found = [0.0] * len(places)
    for group in groups:
        for number, index in enumerate(group):
            found[index] = _edge(group, places, gap, -1) + (number + 0.5) * gap
    return found


def _edge(group: Sequence[int], places: Sequence[float], gap: float, side: int) -> float:
    return sum(places[index] for index in group) / len(group) + side * gap * len(group) / 2


def draw(points: Sequence[Point], path: Path, title: str) -> None:
    """Write the figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(point.series for point in points if point.ours))
    colours = dict(zip(names, COLOURS, strict=False))
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axes, (form, heading) in zip(panels, PANELS.items(), strict=True):
        shown = [point for point in points if not point.ours or point.form == form]
        _frontier(axes, pareto(shown))
        _others(axes, [point for point in shown if not point.ours])
        _ours(axes, [point for point in shown if point.ours], colours)
        axes.set_xscale("log")
        axes.set_title(heading)
        axes.set_xlabel("bytes of the file on disk")
        axes.grid(which="both", alpha=0.2)
        _bytes(axes)
    panels[0].set_ylabel("accuracy on the test images, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _bytes(axes: Any) -> None:
    ticks = [5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7, 5e7]
    low, high = axes.get_xlim()
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(inside, [f"{tick / 1e3:g} kB" if tick < 1e6 else f"{tick / 1e6:g} MB" for tick in inside])
    axes.minorticks_off()


def _frontier(axes: Any, best: Sequence[Point]) -> None:
    axes.step(
        [point.file_bytes for point in best],
        [point.percent for point in best],
        where="post",
        color="#F0C000",
        linewidth=7,
        alpha=0.35,
        label="best of all files up to this size",
        zorder=1,
    )


def _others(axes: Any, points: Sequence[Point]) -> None:
    for form, marker in MARKERS.items():
        dense = sorted((p for p in points if p.form == form and p.sparsity == 0), key=lambda p: p.file_bytes)
        pruned = sorted((p for p in points if p.form == form and p.sparsity > 0), key=lambda p: p.file_bytes)
        style = {"marker": marker, "markersize": 7, "zorder": 3}
        if dense:
            _line(
                axes,
                dense,
                color="black",
                linestyle="-",
                linewidth=1,
                label=f"dense, narrower to the left, {form}",
                **style,
            )
        if pruned:
            _line(
                axes,
                pruned,
                color=GREY,
                linestyle="--",
                linewidth=1,
                label=f"pruned by magnitude, fine-tuned, {form}",
                **style,
            )
        if form == "int8 ONNX + zstd":
            for point in pruned:
                _note(axes, point, f"{point.sparsity:.0%}", (7, -11), GREY)
            for point in dense:
                _note(axes, point, f"× {point.width:g}", (-6, 9), "black", ha="right")


def _ours(axes: Any, points: Sequence[Point], colours: dict[str, str]) -> None:
    ends = []
    for name, colour in colours.items():
        line = sorted((point for point in points if point.series == name), key=lambda point: point.sparsity)
        if line:
            _line(axes, line, color=colour, marker="o", markersize=7, linewidth=2, zorder=4)
            ends.append((line[-1], name, colour))
            for point in line[:-1]:
                _note(axes, point, f"{point.sparsity:.0%}", (0, 8), colour, ha="center", size=7)
    if not ends:
        return
    gap = 2.6  # per cent of accuracy that a line of text takes
    left = min(point.file_bytes for point in points) * 0.82
    for (point, name, colour), height in zip(ends, spread([end[0].percent for end in ends], gap), strict=True):
        axes.annotate(
            f"{name}, {point.sparsity:.0%}",
            (point.file_bytes, point.percent),
            (left, height),
            color=colour,
            ha="right",
            va="center",
            fontsize=9.5,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6},
        )


def _line(axes: Any, points: Sequence[Point], **style: Any) -> None:
    axes.plot([point.file_bytes for point in points], [point.percent for point in points], **style)


def _note(
    axes: Any, point: Point, text: str, offset: tuple[int, int], colour: str, ha: str = "left", size: float = 8
) -> None:
    place = (point.file_bytes, point.percent)
    axes.annotate(text, place, offset, textcoords="offset points", color=colour, fontsize=size, ha=ha)
