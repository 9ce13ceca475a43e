"""``iterand-compress inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.files.names import printable
from .options import FilePath, json_option, max_weights_option, print_json
from .table import print_multiply_adds, print_table

if TYPE_CHECKING:
    from ..compress.seedmask import LayerReport, SeedMask

__all__ = ["command"]


@click.command(
    "inspect",
    short_help="What a .seedmask, .ckpt or .onnx file holds, layer by layer.",
    epilog="Example: iterand-compress inspect model.seedmask --json",
)
@click.argument("file", type=FilePath)
@max_weights_option
@json_option
def command(file: Path, max_weights: int | None, as_json: bool) -> None:
    """Show shape, sparsity, coding and bits per weight of each layer, beside the entropy bound, and the totals.

    For built-in models, also the multiply-adds (MACs) for one image or text, of the dense network and of its kept
    weights alone; `estimate` counts them for any model.

    Of a checkpoint: the layers with their sparsity, the method, what the network takes, and the accuracy on the test
    set. Of an ONNX file: its tensors, inputs, outputs and operators, and what its metadata say.
    """
    from ..compress.files.kinds import kind_of
    from ..compress.seedmask import read_seedmask
    from .inspect_contents import inspect_checkpoint, inspect_onnx, takes_line

    kind = kind_of(file)
    if kind == "torch":
        inspect_checkpoint(file, as_json)
        return
    if kind == "onnx" or file.suffix.lower() == ".onnx":
        inspect_onnx(file, as_json)
        return
    seedmask = read_seedmask(file, max_weights=max_weights)
    rows = seedmask.layer_report()
    weights, kept = sum(row.weights for row in rows), sum(row.kept for row in rows)
    manifest, state_bytes = seedmask.manifest, sum(entry.stored_bytes for entry in seedmask.manifest.state)
    dense_bytes = 4 * weights + sum(stored.data.nbytes for stored in seedmask.state().values())
    payload_bits = sum(8 * (entry.mask.bytes + entry.log.bytes) for entry in seedmask.tensors)
    payload_bits += sum(entry.coat_bits + entry.value_bits for entry in seedmask.tensors)
    totals: dict[str, Any] = {
        "weights": weights,
        "kept": kept,
        "sparsity": 1 - kept / weights,
        **{
            f"{section}_{column}": _mean(rows, f"{section}_{column}")
            for section in ("mask", "log", "coats", "values")
            for column in ("bits_per_weight", "bound")
        },
        "bits_per_weight": _mean(rows, "bits_per_weight"),
        "bound": _mean(rows, "bound"),
        "state_bytes": state_bytes,
        "overhead_bytes": seedmask.file_bytes - payload_bits // 8 - state_bytes,
        "dense_bytes": dense_bytes,
        "file_bytes": seedmask.file_bytes,
        "ratio": dense_bytes / seedmask.file_bytes,
        **_multiply_adds(seedmask, rows),
    }
    if as_json:
        print_json(
            {
                "file": str(file),
                "kind": "seedmask",
                "format_version": manifest.format_version,
                "form": manifest.form,
                "seed": seedmask.seed,
                "architecture": manifest.architecture,
                "input": None if manifest.input is None else manifest.input.to_dict(),
                "classes": manifest.classes,
                "recipe": manifest.recipe,
                "layers": [asdict(row) for row in rows],
                "totals": totals,
                "payload_digest": manifest.digests.payload,
                "weights_digest": manifest.digests.weights,
            }
        )
        return
    # Columns of what few files hold are left out where there is nothing in them.
    sections = ["mask", "log", *(section for section in ("coats", "values") if totals[f"{section}_bits_per_weight"])]
    frozen = any(row.frozen_pruned or row.frozen_kept for row in rows)
    names = ["tensor", "shape", "weights", "sparsity", *(["frozen"] if frozen else [])]
    table = [names + [name for section in sections for name in (section, "bits", "bound")]]
    for row in rows:
        start = [row.name, "×".join(map(str, row.shape)), f"{row.weights:,}", f"{row.sparsity:.4f}"]
        start += [_frozen(row)] if frozen else []
        table.append(
            start + [cell for section in sections for cell in (_coding(row, section), *_bits(asdict(row), section))]
        )
    total = ["total", "", f"{weights:,}", f"{totals['sparsity']:.4f}", *([""] if frozen else [])]
    table.append(total + [cell for section in sections for cell in ("", *_bits(totals, section))])
    together = (f"{totals['bits_per_weight']:.3f}", f"{totals['bound']:.3f}")
    sums = f"{', '.join(sections[:-1])} and {sections[-1]}"
    table.append([sums, *[""] * (len(table[0]) - 3), *together])
    print_table(table, left=(0, 1, *range(len(names), len(table[0]), 3)))
    architecture = manifest.architecture or {}
    click.echo(
        f"\n{architecture.get('name', 'unnamed architecture')}, seed {seedmask.seed}, "
        f"{seedmask.tensors[0].codebook}; {sums} in bits per weight, beside the bound for independent bits"
        + ("; frozen: shares that the seed fixes to pruned and to kept" if frozen else "")
    )
    if manifest.input is not None:
        click.echo(takes_line(manifest.input, manifest.classes or ()))
    origin = _origin(manifest.recipe or {})
    if origin is not None:
        click.echo(origin)
    click.echo(
        f"dense {totals['dense_bytes']:,} bytes, file {seedmask.file_bytes:,} bytes "
        f"(state {state_bytes:,}, {manifest.form} manifest and digests {totals['overhead_bytes']:,}): "
        f"{totals['ratio']:.1f} times smaller"
    )
    if totals["multiply_adds"] is not None:
        noun = "image" if manifest.input is None else manifest.input.noun
        print_multiply_adds(totals["multiply_adds"], totals["kept_multiply_adds"], noun)
    click.echo(f"payload sha256 {manifest.digests.payload}\nweights sha256 {manifest.digests.weights}")


def _multiply_adds(seedmask: SeedMask, rows: list[LayerReport]) -> dict[str, int | None]:
    """What the network computes for one image or text, as a whole and with kept weights alone.

    From shapes: for built-in models only, since all others would have to be built, which takes torch.
    """
    architecture, counts = seedmask.manifest.architecture, None
    shapes = {name: stored.data.shape for name, stored in seedmask.state().items()}
    shapes |= {row.name: row.shape for row in rows}
    if architecture is not None:
        from ..compress.errors import ConfigError
        from ..compress.models import read_architecture
        from ..compress.models.multiply_adds import multiply_adds

        with suppress(ConfigError):  # what another program wrote there
            counts = multiply_adds(read_architecture(architecture), shapes)
    if counts is None:
        return {"multiply_adds": None, "kept_multiply_adds": None}
    weights = {name: prod(shape) for name, shape in shapes.items()}
    kept = weights | {row.name: row.kept for row in rows}
    return {"multiply_adds": counts.total(weights), "kept_multiply_adds": counts.total(kept)}


def _origin(recipe: Mapping[str, Any]) -> str | None:
    """By which method, and on which data; ``None`` if the file does not say it in a way that this version knows."""
    sections = recipe.get("subnetwork"), recipe.get("data")
    method, data = (
        section.get(key) if isinstance(section, Mapping) else None
        for section, key in zip(sections, ("method", "name"), strict=True)
    )
    return None if method is None or data is None else f"made by {printable(method)} on {printable(data)}"


def _frozen(row: LayerReport) -> str:
    fixed = row.frozen_pruned, row.frozen_kept
    return "{:.4f} {:.4f}".format(*fixed) if any(fixed) else "none"


def _coding(row: LayerReport, section: str) -> str:
    """What a section of a tensor is and how it is coded."""
    if section == "mask":
        return row.mask_coding
    if section == "log":
        return row.log_kind if row.log_kind == "none" else f"{row.log_kind} {row.log_coding}"
    if section == "coats":
        return row.coats_coding or "none"
    return "none" if row.values_dtype is None else f"{row.values_dtype} {row.values_coding}"


def _bits(columns: Mapping[str, Any], section: str) -> tuple[str, str]:
    return f"{columns[f'{section}_bits_per_weight']:.3f}", f"{columns[f'{section}_bound']:.3f}"


def _mean(rows: list[LayerReport], column: str) -> float:
    """Mean of a column per weight of the network."""
    total: float = sum(getattr(row, column) * row.weights for row in rows)
    return total / sum(row.weights for row in rows)
