"""``iterand-compress inspect`` of checkpoints and of ONNX files."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.files.names import printable
from .options import print_json
from .table import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..compress.inputs import AnyInput

__all__ = ["inspect_checkpoint", "inspect_onnx", "takes_line"]

# Of an ONNX file, tensors of a smaller share of its bytes are listed in JSON alone.
_SHOWN = 0.01


def inspect_checkpoint(file: Path, as_json: bool) -> None:
    """Print the layers of a checkpoint, and how it came to be."""
    from ..compress.analysis.contents import checkpoint_contents

    found = checkpoint_contents(file)
    run = found.checkpoint
    config, train = run.recipe.subnetwork, run.recipe.train
    weights, kept = (sum(getattr(layer, name) for layer in found.layers) for name in ("weights", "kept"))
    accuracy = run.test["correct"] / run.test["images"] if run.test else None
    totals = {
        "weights": weights,
        "kept": kept,
        "sparsity": 1 - kept / weights if weights else 0.0,
        "state_bytes": found.state_bytes,
        "dense_bytes": found.dense_bytes,
        "file_bytes": found.file_bytes,
    }
    if as_json:
        print_json(
            {
                "file": str(file),
                "kind": "checkpoint",
                "method": config.method,
                "architecture": run.architecture.to_dict(),
                "data": run.data.name,
                "input": run.data.input.to_dict(),
                "classes": run.data.classes,
                "recipe": run.recipe.model_dump(exclude_none=True),
                "position": asdict(run.position),
                "unfinished": run.unfinished,
                "test": run.test,
                "test_accuracy": accuracy,
                "layers": [asdict(layer) for layer in found.layers],
                "totals": totals,
            }
        )
        return
    rows = [("tensor", "shape", "weights", "kept", "sparsity")]
    rows += [
        (
            layer.name,
            "×".join(map(str, layer.shape)),
            f"{layer.weights:,}",
            f"{layer.kept:,}",
            f"{1 - layer.kept / layer.weights:.4f}",
        )
        for layer in found.layers
    ]
    rows.append(("total", "", f"{weights:,}", f"{kept:,}", f"{totals['sparsity']:.4f}"))
    print_table(rows, left=(0, 1))
    codebook = found.layers[0].codebook if found.layers else None
    click.echo(
        f"\n{run.architecture.name}, {config.method} on {run.data.name}, seed {config.seed}"
        + (f", {codebook}" if codebook else "")
    )
    click.echo(takes_line(run.data.input, run.data.classes))
    if run.unfinished is not None:
        click.echo(run.unfinished)
    elif run.test and accuracy is not None:
        click.echo(
            f"complete after {train.epochs} epochs, {run.position.step:,} steps: test accuracy {100 * accuracy:.2f} % "
            f"({run.test['correct']:,} of {run.test['images']:,})"
        )
    click.echo(f"dense {found.dense_bytes:,} bytes, file {found.file_bytes:,} bytes (state {found.state_bytes:,})")


def inspect_onnx(file: Path, as_json: bool) -> None:
    """Print what goes into an ONNX file and comes out, its tensors, and what its metadata say."""
    from ..export.input_metadata import CLASSES, RECIPE
    from ..export.onnx_contents import onnx_contents
    from ..export.runtime.records import FORM

    found = onnx_contents(file)
    metadata: dict[str, Any] = dict(found.metadata)
    for key, text in found.metadata.items():
        with suppress(ValueError):
            metadata[key] = json.loads(text)
    recipe = metadata.get(RECIPE)
    method = (recipe.get("subnetwork") or {}).get("method") if isinstance(recipe, dict) else None
    form, sparsity, classes = (metadata.get(key) for key in (FORM, "iterand.sparsity", CLASSES))
    if as_json:
        print_json(
            {
                "file": str(file),
                "kind": "onnx",
                "method": method,
                "form": form,
                "sparsity": sparsity,
                "classes": classes,
                **{key: value for key, value in asdict(found).items() if key != "metadata"},
                "metadata": metadata,
            }
        )
        return
    total = sum(tensor.bytes for tensor in found.tensors)
    shown = [tensor for tensor in found.tensors if tensor.bytes >= _SHOWN * found.file_bytes]
    small = total - sum(tensor.bytes for tensor in shown)
    rows = [("tensor", "shape", "type", "bytes")]
    rows += [(printable(one.name), "×".join(map(str, one.shape)), one.dtype, f"{one.bytes:,}") for one in shown]
    if len(shown) < len(found.tensors):
        rows.append((f"{len(found.tensors) - len(shown):,} smaller ones", "", "", f"{small:,}"))
    rows.append(("graph and metadata", "", "", f"{found.file_bytes - total:,}"))
    rows.append(("total", "", "", f"{found.file_bytes:,}"))
    print_table(rows, left=(0, 1, 2))
    says = [f"form {form}" if form else "", method, f"sparsity {sparsity:g}" if isinstance(sparsity, float) else ""]
    click.echo(f"\n{', '.join(text for text in says if text) or 'not exported by iterand-compress'}")
    for what, values in (("takes", found.inputs), ("gives", found.outputs)):
        click.echo(
            f"{what} " + ", ".join(f"{printable(one.name)} {one.dtype} [{_listed(one.shape)}]" for one in values)
        )
    if isinstance(classes, list):
        click.echo(_classes(classes))
    opsets = ", ".join(f"{printable(domain)} {version}" for domain, version in found.opsets.items())
    click.echo(f"operators: {', '.join(f'{count} {printable(name)}' for name, count in found.operators.items())}")
    click.echo(f"opset {opsets}; IR {found.ir_version}; written by {printable(found.producer) or 'an unnamed program'}")


def takes_line(taken: AnyInput, classes: Sequence[str]) -> str:
    """What a network takes, and what it tells apart."""
    from ..compress.inputs import TextInput

    if isinstance(taken, TextInput):
        what = f"texts of {taken.length} {taken.unit}, vocabulary {taken.vocabulary:,}"
    else:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (taken.mean, taken.std))
        what = f"images of {'×'.join(map(str, taken.shape))}, mean {mean}, std {std}"
    return f"takes {what}" + (f"; {_classes(classes)}" if classes else "")


def _classes(classes: Sequence[str]) -> str:
    names = ", ".join(printable(str(name)) for name in classes[:10]) + (", …" if len(classes) > 10 else "")
    return f"{len(classes):,} classes: {names}"


def _listed(shape: Sequence[object]) -> str:
    return printable(", ".join(map(str, shape)))
