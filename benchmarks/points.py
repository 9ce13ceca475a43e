"""Points of a figure "accuracy against bytes": which of them nothing beats, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Point", "beaten", "pareto", "table"]


@dataclass(frozen=True)
class Point:
    """A file.

    Attributes:
        series: what the network is, as in a legend.
        form: how the file holds it.
        sparsity: share of the weights pruned, in [0, 1).
        width: of the network.
        file_bytes: on disk.
        correct: right answers.
        images: that were asked.
        ours: whether the file follows from a seed and a mask.
    """

    series: str
    form: str
    sparsity: float
    width: float
    file_bytes: int
    correct: int
    images: int
    ours: bool

    @property
    def percent(self) -> float:
        """Accuracy in per cent."""
        return 100 * self.correct / self.images


def pareto(points: Iterable[Point]) -> list[Point]:
    """Points with more right answers than every smaller file has, smallest first. Of equals, all stay."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.file_bytes, -point.correct)):
        last = found[-1] if found else None
        same = last is not None and (point.file_bytes, point.correct) == (last.file_bytes, last.correct)
        if last is None or point.correct > last.correct or same:
            found.append(point)
    return found


def beaten(points: Sequence[Point]) -> list[str]:
    """A line for each of our files (without zstd): the best file of others that is no larger, and what lies between."""
    lines = []
    for point in points:
        if not point.ours or "zstd" in point.form:
            continue
        rivals = [other for other in points if not other.ours and other.file_bytes <= point.file_bytes]
        about = f"{point.series} {point.sparsity:.0%}, {point.form}, {point.file_bytes:,} bytes, {point.percent:.2f} %"
        if not rivals:
            lines.append(f"{about}: no other file is as small")
            continue
        best = max(rivals, key=lambda other: other.correct)
        ahead = point.percent - best.percent
        verdict = "level with" if not ahead else f"{'AHEAD' if ahead > 0 else 'BEHIND'} by {abs(ahead):.2f} points of"
        lines.append(
            f"{about}: {verdict} {best.series} {best.sparsity:.0%}, {best.form}, {best.file_bytes:,} bytes, "
            f"{best.percent:.2f} %"
        )
    return lines


def table(points: Sequence[Point]) -> str:
    """Markdown: a row for each accuracy of a network, smallest file first; bold where no smaller file is as good."""
    best = pareto(points)
    rows: dict[tuple[str, float, float, int], list[Point]] = {}
    for point in sorted(points, key=lambda point: point.file_bytes):
        rows.setdefault((point.series, point.sparsity, point.width, point.correct), []).append(point)
    lines = ["| network | width | % pruned | accuracy % | bytes |", "|---|---:|---:|---:|---|"]
    for (series, sparsity, width, _), files in rows.items():
        sizes = (f"**{f.file_bytes:,}** {f.form}" if f in best else f"{f.file_bytes:,} {f.form}" for f in files)
        lines.append(f"| {series} | {width:g} | {100 * sparsity:g} | {files[0].percent:.2f} | {'; '.join(sizes)} |")
    return "\n".join(lines)
