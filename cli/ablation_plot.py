"""The picture of an ablation. Needs the extra ``plots``."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ..compress.errors import import_extra
from ..compress.files.atomic import atomic_path
from ..compress.files.names import printable

if TYPE_CHECKING:
    from ..compress.analysis.ablation import Ablation, Variant

__all__ = ["draw"]


def draw(ablation: Ablation, path: Path) -> None:
    """Accuracies beside guessing, and the standard deviation of the kept weights of each layer, as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
        IterandError: the file cannot be written; an old one is untouched.
    """
    import_extra("matplotlib", "plots", "--plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot, which would look for a screen
    left, right = figure.subplots(1, 2)
    for place, variant in enumerate(ablation.variants):
        spread = None if variant.deviation is None else 100 * variant.deviation
        left.bar(place, 100 * variant.accuracy, yerr=spread, capsize=4)
        right.plot(_spreads(variant), marker="o", linestyle=("-", "--", ":")[place], label=variant.name)
    left.axhline(100 * ablation.chance, color="black", linestyle=":", label="guessing")
    left.set_xticks(range(len(ablation.variants)), [variant.name for variant in ablation.variants])
    name = printable(ablation.path.name).replace("$", r"\$")  # which would begin a formula
    left.set(ylabel="test accuracy in %", ylim=(0, 100), title=f"{ablation.recipe.subnetwork.method}, {name}")
    right.set(xlabel="layer", ylabel="standard deviation", title="kept weights, untrained")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _spreads(variant: Variant) -> list[float]:
    """Of each layer, the mean over runs; not a number where nothing is kept."""
    return [
        fmean(float("nan") if layer.kept_weights.std is None else layer.kept_weights.std for layer in layers)
        for layers in zip(*(repetition.layers for repetition in variant.repetitions), strict=True)
    ]
