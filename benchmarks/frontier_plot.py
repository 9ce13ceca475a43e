"""The figure of benchmarks/frontier.py: accuracy against bytes, a panel for each of our forms beside all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from points import Point, pareto

__all__ = ["draw", "label_bytes", "spread"]

#: Told apart by people of any colour vision (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#56B4E9", "#7A5195", "#8C564B")
GREY = "#707070"
#: How each form of the others is drawn.
MARKERS = {"float32 ONNX": "D", "float16 ONNX": "^", "int8 ONNX": "s", "int8 ONNX + zstd": "X"}
#: Heading of a panel, by the form in it; and the form that is only hinted at beside it.
PANELS = {
    ".seedmask": ("subnetworks as .seedmask files", None),
    "packed ONNX + zstd": ("subnetworks as packed ONNX through zstd (small dots: without zstd)", "packed ONNX"),
}
TICKS = [1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7, 5e7]
#: Of accuracy, in per cent: what a line of text takes of the height.
LINE = 0.042


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

    figure = Figure(figsize=(16, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(point.series for point in points if point.ours))
    colours = dict(zip(names, COLOURS, strict=False))
    smallest = min(point.file_bytes for point in points if not point.ours or point.form in PANELS)
    largest = max(point.file_bytes for point in points)
    height = max(point.percent for point in points) - min(point.percent for point in points)
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axes, (form, (heading, hinted)) in zip(panels, PANELS.items(), strict=True):
        shown = [point for point in points if not point.ours or point.form == form]
        _frontier(axes, pareto(shown))
        _others(axes, [point for point in shown if not point.ours])
        hints = [point for point in points if point.ours and point.form == hinted]
        _ours(axes, [point for point in shown if point.ours], hints, colours, smallest, LINE * height)
        axes.set_xscale("log")
        axes.set_xlim(smallest / 3.4, largest * 2)
        axes.set_title(heading)
        axes.set_xlabel("bytes of the file on disk; numbers in circles: % of the weights pruned")
        axes.grid(alpha=0.25)
        label_bytes(axes)
    panels[0].set_ylabel("accuracy on the test images, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def label_bytes(axes: Any) -> None:
    """Mark round numbers of bytes on a logarithmic axis, in kB and MB."""
    low, high = axes.get_xlim()
    inside = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(inside, [f"{tick / 1e3:g} kB" if tick < 1e6 else f"{tick / 1e6:g} MB" for tick in inside])
    axes.minorticks_off()


def _frontier(axes: Any, best: Sequence[Point]) -> None:
    axes.step(
        [point.file_bytes for point in best],
        [point.percent for point in best],
        where="post",
        color="#F0C000",
        linewidth=8,
        alpha=0.3,
        label="best of all files of the panel up to this size",
        zorder=1,
    )


def _others(axes: Any, points: Sequence[Point]) -> None:
    for form, marker in MARKERS.items():
        dense = sorted((p for p in points if p.form == form and p.sparsity == 0), key=lambda p: p.width)
        label = f"dense, of several widths, {form.replace(' ONNX', '')}"
        _line(axes, dense, color="black", marker=marker, markersize=6, linewidth=1, zorder=3, label=label)
        if form == next(iter(MARKERS)):  # the largest files have room on their right
            for point in dense:
                _note(axes, point, f"width {point.width:g}", (6, -10), "black")
    form = "int8 ONNX + zstd"
    pruned = sorted((p for p in points if p.form == form and p.sparsity > 0), key=lambda p: p.sparsity)
    label = "pruned by magnitude and fine-tuned, int8 + zstd"
    look = {"marker": MARKERS[form], "markersize": 6, "linestyle": "--", "linewidth": 1, "zorder": 3}
    _line(axes, pruned, color=GREY, label=label, **look)
    for point in pruned:
        _note(axes, point, f"{100 * point.sparsity:g} %", (4, -12), GREY)


def _note(axes: Any, point: Point, text: str, offset: tuple[int, int], colour: str) -> None:
    place = (point.file_bytes, point.percent)
    axes.annotate(text, place, offset, textcoords="offset points", color=colour, fontsize=8, zorder=6)


def _ours(
    axes: Any,
    points: Sequence[Point],
    hints: Sequence[Point],
    colours: dict[str, str],
    smallest: int,
    gap: float,
) -> None:
    ends = []
    for name, colour in colours.items():
        line = sorted((point for point in points if point.series == name), key=lambda point: point.sparsity)
        for point in hints:
            if point.series == name:
                axes.plot(point.file_bytes, point.percent, ".", color=colour, markersize=5, alpha=0.6, zorder=2)
        if not line:
            continue
        _line(axes, line, color=colour, marker="o", markersize=13, linewidth=1.8, zorder=4, markeredgecolor="white")
        ends.append((line[-1], name, colour))
        for point in line:
            place = (point.file_bytes, point.percent)
            text = f"{100 * point.sparsity:g}"
            axes.annotate(text, place, color="white", fontsize=7, ha="center", va="center_baseline", zorder=5)
    heights = spread([point.percent for point, _, _ in ends], gap)
    for (point, name, colour), place in zip(ends, heights, strict=True):
        axes.annotate(
            name,
            (point.file_bytes, point.percent),
            (smallest / 1.45, place),
            color=colour,
            ha="right",
            va="center",
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.7, "shrinkB": 7},
        )


def _line(axes: Any, points: Sequence[Point], **style: Any) -> None:
    axes.plot([point.file_bytes for point in points], [point.percent for point in points], **style)
