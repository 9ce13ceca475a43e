"""``iterand-compress verify``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .options import FilePath, json_option, max_weights_option, print_json

__all__ = ["command"]


@click.command(
    "verify",
    short_help="Prove that a .seedmask or ONNX file is right, bit for bit.",
    epilog="Example: iterand-compress verify model.seedmask --deep",
)
@click.argument("file", type=FilePath)
@click.option(
    "--deep",
    is_flag=True,
    help="Also pack the recovered network again, and say whether these very bytes come out.",
)
@max_weights_option
@json_option
def command(file: Path, deep: bool, max_weights: int | None, as_json: bool) -> None:
    """Check structure and digests of a .seedmask file, and recover its weights against their digests.

    Of an exported ONNX file (named *.onnx): check its structure, expand its weights and compare them with their
    digests, and its outputs for a recorded input with what PyTorch computed.

    Exit code 0 if every bit is right, 1 if not. A file that recovers right, but is not what this version would
    write (--deep), is right: another version or another program has written it.
    """
    if file.suffix.lower() == ".onnx":
        if deep:
            raise click.UsageError("--deep is for .seedmask files.")
        _verify_onnx(file, as_json)
        return
    from ..compress.seedmask import read_seedmask

    seedmask = read_seedmask(file, max_weights=max_weights)
    seedmask.verify()  # raises if a recovered tensor differs from its digest
    coding = None
    if deep:
        from ..compress.seedmask.canonical import packer_coding

        coding = packer_coding(seedmask)
    tensors, digests = len(seedmask.tensors), seedmask.manifest.digests
    if as_json:
        print_json(
            {
                "file": str(file),
                "ok": True,
                "tensors": tensors,
                "payload_digest": digests.payload,
                "weights_digest": digests.weights,
                **({"canonical": coding is not None, "coding": coding} if deep else {}),
            }
        )
        return
    click.echo(f"{file}: ok: {tensors} tensors recovered bit for bit, weights sha256 {digests.weights}")
    if coding is not None:
        click.echo(f"{file}: packing the recovered network again gives the same bytes (--coding {coding})")
    elif deep:
        click.echo(
            f"{file}: recovers right, but is not in the form that this version packs: "
            "it was written by another version or another program"
        )


def _verify_onnx(file: Path, as_json: bool) -> None:
    from ..export.runtime.verification import verify_onnx

    report = verify_onnx(file)
    if as_json:
        values = asdict(report)
        print_json({"file": str(values.pop("path")), "ok": True, **values})
        return
    click.echo(
        f"{file}: ok: form {report.form}, {report.weights} masked weights have their digests; outputs differ from "
        f"those of PyTorch by at most {report.max_abs_difference:.2e}"
    )
    if report.weights_digest is not None:
        click.echo(f"{file}: codes traced back bit for bit to recovered weights with sha256 {report.weights_digest}")
