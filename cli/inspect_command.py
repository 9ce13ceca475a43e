"""``iterand-compress inspect``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import FilePath, json_option, max_weights_option, print_json
from .table import print_table

if TYPE_CHECKING:
    from ..compress.storage import LayerReport

__all__ = ["command"]


@click.command(
    "inspect",
    short_help="What a .seedmask file holds, layer by layer.",
    epilog="Example: iterand-compress inspect model.seedmask --json",
)
@click.argument("file", type=FilePath)
@max_weights_option
@json_option
def command(file: Path, max_weights: int, as_json: bool) -> None:
    """Show shape, sparsity, coding and bits per weight of each layer, beside the entropy bound, and the totals."""
    from ..compress.storage import TextInput, read_seedmask

    seedmask = read_seedmask(file, max_weights=max_weights)
    rows = seedmask.layer_report()
    weights, kept = sum(row.weights for row in rows), sum(row.kept for row in rows)
    state_bytes = sum(stored.data.nbytes for stored in seedmask.state().values())
    totals = {
        "weights": weights,
        "kept": kept,
        "sparsity": 1 - kept / weights,
        "mask_bits_per_weight": _mean(rows, "mask_bits_per_weight"),
        "mask_bound": _mean(rows, "mask_bound"),
        "log_bits_per_weight": _mean(rows, "log_bits_per_weight"),
        "log_bound": _mean(rows, "log_bound"),
        "bits_per_weight": _mean(rows, "bits_per_weight"),
        "bound": _mean(rows, "bound"),
        "state_bytes": state_bytes,
        "dense_bytes": 4 * weights + state_bytes,
        "file_bytes": seedmask.file_bytes,
        "ratio": (4 * weights + state_bytes) / seedmask.file_bytes,
    }
    manifest = seedmask.manifest
    if as_json:
        print_json(
            {
                "file": str(file),
                "format_version": manifest.format_version,
                "seed": seedmask.seed,
                "architecture": manifest.architecture,
                "input": None if manifest.input is None else manifest.input.model_dump(),
                "classes": manifest.classes,
                "recipe": manifest.recipe,
                "layers": [asdict(row) for row in rows],
                "totals": totals,
                "payload_digest": manifest.digests.payload,
                "weights_digest": manifest.digests.weights,
            }
        )
        return
    head = ("tensor", "shape", "weights", "sparsity", "mask", "bits", "bound", "log", "bits", "bound")
    table: list[tuple[str, ...]] = [head]
    table += [
        (
            row.name,
            "×".join(map(str, row.shape)),
            f"{row.weights:,}",
            f"{row.sparsity:.4f}",
            row.mask_coding,
            f"{row.mask_bits_per_weight:.3f}",
            f"{row.mask_bound:.3f}",
            row.log_kind if row.log_kind == "none" else f"{row.log_kind} {row.log_coding}",
            f"{row.log_bits_per_weight:.3f}",
            f"{row.log_bound:.3f}",
        )
        for row in rows
    ]
    mask_and_log = (f"{totals['bits_per_weight']:.3f}", f"{totals['bound']:.3f}")
    table.append(
        (
            "total",
            "",
            f"{weights:,}",
            f"{totals['sparsity']:.4f}",
            "",
            f"{totals['mask_bits_per_weight']:.3f}",
            f"{totals['mask_bound']:.3f}",
            "",
            f"{totals['log_bits_per_weight']:.3f}",
            f"{totals['log_bound']:.3f}",
        )
    )
    table.append(("mask and log", *[""] * 7, *mask_and_log))
    print_table(table, left=(0, 1, 4, 7))
    architecture = manifest.architecture or {}
    click.echo(
        f"\n{architecture.get('name', 'unnamed architecture')}, seed {seedmask.seed}, "
        f"{seedmask.tensors[0].codebook}; mask and log in bits per weight, beside the bound for independent bits"
    )
    if isinstance(manifest.input, TextInput):
        text = manifest.input
        click.echo(f"takes texts of {text.length} {text.unit}, vocabulary {text.vocabulary:,}")
    click.echo(
        f"dense {totals['dense_bytes']:,} bytes, file {seedmask.file_bytes:,} bytes "
        f"(state {state_bytes:,}): {totals['ratio']:.1f} times smaller"
    )
    click.echo(f"payload sha256 {manifest.digests.payload}\nweights sha256 {manifest.digests.weights}")


def _mean(rows: list[LayerReport], column: str) -> float:
    """Mean of a column per weight of the network."""
    total: float = sum(getattr(row, column) * row.weights for row in rows)
    return total / sum(row.weights for row in rows)
