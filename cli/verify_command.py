"""``iterand-compress verify``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FilePath, json_option, print_json

__all__ = ["command"]


@click.command(
    "verify",
    short_help="Prove that a .seedmask file recovers bit for bit.",
    epilog="Example: iterand-compress verify model.seedmask",
)
@click.argument("file", type=FilePath)
@json_option
def command(file: Path, as_json: bool) -> None:
    """Check structure and digests of a .seedmask file, and recover its weights against their digests.

    Exit code 0 if every bit is right, 1 if not.
    """
    from ..compress.storage import read_seedmask

    seedmask = read_seedmask(file)
    weights = seedmask.weights()  # raises if a recovered tensor differs from its digest
    digests = seedmask.manifest.digests
    if as_json:
        print_json(
            {
                "file": str(file),
                "ok": True,
                "tensors": len(weights),
                "payload_digest": digests.payload,
                "weights_digest": digests.weights,
            }
        )
        return
    click.echo(f"{file}: ok: {len(weights)} tensors recovered bit for bit, weights sha256 {digests.weights}")
