"""``iterand-compress recover``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import FilePath, json_option, max_weights_option, print_json

if TYPE_CHECKING:
    from ..compress.seedmask import SeedMask

__all__ = ["command"]


@click.command(
    "recover",
    short_help="Write the weights as ordinary safetensors.",
    epilog="Example: iterand-compress recover model.seedmask --out weights.safetensors",
)
@click.argument("file", type=FilePath)
@click.option("--out", type=FilePath, help="The file; by default the input's name with .safetensors.")
@click.option(
    "--tensor",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this masked tensor, without the state; may be given several times.",
)
@click.option("--masks", is_flag=True, help="The masks, as BOOL tensors, instead of weights and state.")
@click.option(
    "--device",
    metavar="NAME",
    help="Let torch compute the weights there: cpu, cuda or cuda:N. By default NumPy does, without torch.",
)
@max_weights_option
@json_option
def command(
    file: Path,
    out: Path | None,
    names: tuple[str, ...],
    masks: bool,
    device: str | None,
    max_weights: int | None,
    as_json: bool,
) -> None:
    """Recover the weights of a .seedmask file and write them, with the unmasked state, as safetensors.

    The result loads in the plain model with load_state_dict(strict=True). Every weight is compared with its
    digest, on whatever device it was computed.
    """
    from ..compress.files.atomic import check_output
    from ..compress.files.outputs import beside
    from ..compress.seedmask import read_seedmask, write_tensors

    if masks and device is not None:
        raise click.UsageError("--masks computes no weights: leave --device out.")
    target = out or beside(file, ".safetensors")
    check_output(target, file, kind="safetensors")
    seedmask = read_seedmask(file, max_weights=max_weights)
    chosen = list(dict.fromkeys(names)) or None
    if device is not None:
        size, tensors = _write_from_device(seedmask, target, chosen, device)
    else:
        size, tensors = write_tensors(seedmask, target, chosen, masks=masks)
    if as_json:
        print_json({"file": str(target), "file_bytes": size, "tensors": tensors})
        return
    click.echo(f"{target}: {size:,} bytes, {tensors} {'masks' if masks else 'tensors'}")


def _write_from_device(seedmask: SeedMask, target: Path, names: list[str] | None, device: str) -> tuple[int, int]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from ..compress.files.atomic import atomic_path
    from ..compress.recover import recover_on_device
    from ..compress.tensors import from_stored

    tensors = recover_on_device(seedmask, device, names)
    if names is None:
        tensors |= {name: from_stored(stored, name) for name, stored in seedmask.state().items()}
    with atomic_path(target) as temporary:
        try:
            save_file(tensors, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        return temporary.stat().st_size, len(tensors)
