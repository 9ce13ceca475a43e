"""``iterand-compress recover``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FilePath, json_option, print_json

__all__ = ["command"]


@click.command(
    "recover",
    short_help="Write the weights as ordinary safetensors.",
    epilog="Example: iterand-compress recover model.seedmask --out weights.safetensors",
)
@click.argument("file", type=FilePath)
@click.option("--out", type=FilePath, help="The file; by default the input's name with .safetensors.")
@json_option
def command(file: Path, out: Path | None, as_json: bool) -> None:
    """Recover the weights of a .seedmask file and write them, with the unmasked state, as safetensors.

    The result loads in the plain model with load_state_dict(strict=True).
    """
    from ..compress.storage import StoredTensor, read_seedmask, write_safetensors

    seedmask = read_seedmask(file)
    tensors = {name: StoredTensor.from_numpy(array) for name, array in seedmask.weights().items()}
    tensors |= seedmask.state()
    target = out or file.with_suffix(".safetensors")
    write_safetensors(target, tensors, {"format": "pt"})
    size = target.stat().st_size
    if as_json:
        print_json({"file": str(target), "file_bytes": size, "tensors": len(tensors)})
        return
    click.echo(f"{target}: {size:,} bytes, {len(tensors)} tensors")
