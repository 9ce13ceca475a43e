"""The chart of ``iterand-compress theory --plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compress.files.atomic import atomic_path

if TYPE_CHECKING:
    from ..compress.analysis.theory_check import BoundCheck

__all__ = ["draw_checks"]


def draw_checks(checks: Sequence[BoundCheck], path: Path, title: str) -> int:
    """Draw errors and bounds against the number of candidates, one colour for each R, both axes logarithmic.

    Args:
        checks: what was measured.
        path: the PNG; after a failure an old file is untouched.
        title: of the chart.

    Returns:
        Size of the file in bytes.

    Raises:
        IterandError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for number, resamples in enumerate(dict.fromkeys(result.resamples for result in checks)):
        mine = sorted((r for r in checks if r.resamples == resamples), key=lambda result: result.candidates)
        counts, colour = [result.candidates for result in mine], f"C{number}"
        axes.plot(counts, [result.quantile for result in mine], "o-", color=colour, label=f"R = {resamples:,}")
        axes.plot(counts, [result.median for result in mine], ":", color=colour)
        axes.plot(counts, [result.bound for result in mine], "--", color=colour)
    axes.set(xlabel="candidates n", ylabel="error: bound dashed, quantile solid, median dotted", title=title)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path.stat().st_size
