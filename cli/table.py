"""A table of text on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

__all__ = ["print_multiply_adds", "print_table"]


def print_table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> None:
    """Print rows of equal length, two spaces between columns; the columns ``left`` start at the left edge."""
    # By hand, not with rich: importing it would be a quarter of the time of `inspect`.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def print_multiply_adds(total: int, kept: int, noun: str) -> None:
    """Print what a network computes for one image or text, as a whole and with its kept weights alone."""
    click.echo(
        f"multiply-adds for one {noun}: {total:,} dense, {kept:,} with kept weights alone (FLOPs: twice as many)"
    )
