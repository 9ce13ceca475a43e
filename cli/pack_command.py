"""``iterand-compress pack``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FilePath, json_option, print_json

__all__ = ["command"]


@click.command(
    "pack",
    short_help="Write a checkpoint as seed, mask and log.",
    epilog="Example: iterand-compress pack model.ckpt --out model.seedmask",
)
@click.argument("checkpoint", type=FilePath)
@click.option("--out", type=FilePath, help="The file; by default the checkpoint's name with .seedmask.")
@json_option
def command(checkpoint: Path, out: Path | None, as_json: bool) -> None:
    """Write a checkpoint as a .seedmask file: seed, bit-packed mask, resampling log, unmasked state.

    The file is decoded again and compared bit for bit before it takes its name.
    """
    from ..compress.packing import network_of_checkpoint
    from ..compress.storage import write_seedmask
    from ..compress.training.checkpoint import load_checkpoint

    target = out or checkpoint.with_suffix(".seedmask")
    report = write_seedmask(network_of_checkpoint(load_checkpoint(checkpoint)), target)
    if as_json:
        print_json(
            {
                "file": str(target),
                "file_bytes": report.file_bytes,
                "dense_bytes": report.dense_bytes,
                "weights": report.weights,
                "kept": report.kept,
                "mask_bits": report.mask_bits,
                "log_bits": report.log_bits,
                "weights_digest": report.weights_digest,
            }
        )
        return
    click.echo(
        f"{target}: {report.file_bytes:,} bytes for {report.weights:,} weights ({report.kept:,} kept); "
        f"mask {report.mask_bits / report.weights:.3f} and log {report.log_bits / report.weights:.3f} bits per weight; "
        f"{report.dense_bytes / report.file_bytes:.1f} times smaller than in float32"
    )
