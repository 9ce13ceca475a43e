"""``iterand-compress export``."""

from __future__ import annotations

from pathlib import Path

import click

from ..compress.errors import ConfigError
from .options import FilePath, json_option, max_weights_option, model_option, print_json

__all__ = ["command"]


@click.command(
    "export",
    short_help="Write ONNX for inference at the edge.",
    epilog="Example: iterand-compress export model.seedmask --onnx model.onnx",
)
@click.argument("file", type=FilePath, required=False)
@click.option(
    "--onnx",
    type=FilePath,
    is_flag=False,
    flag_value=Path(),
    metavar="[FILE.onnx]",
    help="Write ONNX; by default beside the input, with .onnx.",
)
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX opset.")
@click.option(
    "--normalize/--no-normalize",
    default=True,
    show_default=True,
    help="Bake the input normalisation in: the graph takes pixels in [0, 1].",
)
@click.option(
    "--softmax/--no-softmax",
    default=False,
    show_default=True,
    help="Give probabilities in the place of logits.",
)
@click.option("--data-dir", type=FilePath, metavar="DIR", help="Compare on real images or texts from here.")
@model_option
@max_weights_option
@json_option
def command(
    file: Path | None,
    onnx: Path | None,
    opset: int,
    normalize: bool,
    softmax: bool,
    data_dir: Path | None,
    model: str | None,
    max_weights: int,
    as_json: bool,
) -> None:
    """Export a .seedmask file (or a checkpoint) to one ONNX file.

    A file that takes texts gets an input of tokens, and tells in its metadata how texts become tokens.
    Without a name: the one .seedmask file of the folder. The file is run in onnxruntime against PyTorch
    before it takes its name; a mismatch is an error and leaves no file.
    """
    if onnx is None:
        raise click.UsageError("Missing option '--onnx'.")
    if file is None and onnx.suffix in {".seedmask", ".ckpt"}:
        file, onnx = onnx, Path()
    source = file or _only_seedmask(Path())
    target = source.with_suffix(".onnx") if onnx == Path() else onnx
    from ..export.network import export_network

    report = export_network(
        source,
        target,
        opset=opset,
        normalize=normalize,
        data_dir=data_dir,
        model=model,
        max_weights=max_weights,
        softmax=softmax,
    )
    if as_json:
        print_json(
            {
                "file": str(target),
                "file_bytes": report.file_bytes,
                "opset": report.opset,
                "ir_version": report.ir_version,
                "samples": report.samples,
                "max_abs_difference": report.max_abs_difference,
                "argmax_agreement": report.argmax_agreement,
            }
        )
        return
    click.echo(
        f"{target}: {report.file_bytes:,} bytes, opset {report.opset}, IR {report.ir_version}; onnxruntime against "
        f"PyTorch on {report.samples} inputs: largest difference {report.max_abs_difference:.2e}, "
        f"same class {100 * report.argmax_agreement:.1f} %"
    )


def _only_seedmask(folder: Path) -> Path:
    found = sorted(folder.glob("*.seedmask"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"export: expected one .seedmask file in this folder, got {names}; name the file to export")
    return found[0]
