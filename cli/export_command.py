"""``iterand-compress export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.errors import ConfigError
from .options import (
    FORM_CHOICES,
    RUNTIME_CHOICES,
    FilePath,
    input_option,
    json_option,
    max_weights_option,
    model_option,
    print_json,
)

if TYPE_CHECKING:
    from ..compress.inputs import AnyInput
    from ..export.report import ShrinkReport

__all__ = ["command"]

_BESIDE = Path()  # this very object: --onnx without a name
_INPUT_ENDINGS = frozenset({".seedmask", ".ckpt"})


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
    flag_value=_BESIDE,
    metavar="[FILE.onnx]",
    help="Write ONNX, by default beside the input. A FILE.seedmask or FILE.ckpt here is the input.",
)
@click.option("-o", "--out", type=FilePath, metavar="FILE.onnx", help="The ONNX file; the same as --onnx FILE.onnx.")
@click.option(
    "--form",
    type=click.Choice(FORM_CHOICES),
    default="dense",
    show_default=True,
    help="How the file holds masked weights; auto: the smallest that the runtime supports. Values are the same; only "
    "float16 rounds weights and activations.",
)
@click.option(
    "--runtime",
    type=click.Choice(RUNTIME_CHOICES),
    default="onnxruntime",
    show_default=True,
    help="What will run the file.",
)
@click.option("--shrink", is_flag=True, help="Remove channels that nothing reads or that are constant.")
@click.option("--keep-quantized", is_flag=True, help="Of int8: weights stay bytes in memory; slower.")
@click.option("--inline", is_flag=True, help="Write functions out where they are called: for onnxruntime before 1.17.")
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX opset.")
@click.option("--ir-version", type=int, metavar="N", help="ONNX file format; by default the oldest for the opset.")
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
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="NAME=TYPE[SIZES]",
    help="An argument of forward(), for files that do not say what they take: 'wave=float32[batch,1,time=16000]'. "
    "Named sizes vary; the number behind a name is tried. Again for each argument.",
)
@click.option(
    "--dynamic",
    multiple=True,
    metavar="NAME",
    help="Let a size of images or texts vary: height, width or length. Again for each.",
)
@click.option("--data-dir", type=FilePath, metavar="DIR", help="Compare on real images or texts from here.")
@model_option
@input_option
@max_weights_option
@json_option
def command(
    file: Path | None,
    onnx: Path | None,
    out: Path | None,
    form: str,
    runtime: str,
    shrink: bool,
    keep_quantized: bool,
    inline: bool,
    opset: int,
    ir_version: int | None,
    normalize: bool,
    softmax: bool,
    tensors: tuple[str, ...],
    dynamic: tuple[str, ...],
    data_dir: Path | None,
    model: str | None,
    network_input: AnyInput | None,
    max_weights: int | None,
    as_json: bool,
) -> None:
    """Export a .seedmask file (or a checkpoint) to one ONNX file.

    A file that takes texts gets an input of tokens, and tells in its metadata how texts become tokens. One that takes
    neither images nor texts is exported with --tensor.
    Without a name: the one .seedmask file of the folder. Before it takes its name, the file is run in onnxruntime
    against PyTorch, and its weights are expanded and compared bit for bit with the recovered ones; a mismatch is
    an error and leaves no file. verify repeats these checks later.
    """
    source, target = _input_and_output(file, onnx, out)
    from ..compress.files.outputs import beside
    from ..export.export_options import ExportOptions
    from ..export.from_file import export_network

    target = target or beside(source, ".onnx")
    options = ExportOptions(form, runtime, normalize, softmax, opset, ir_version, keep_quantized, inline, shrink)
    report = export_network(
        source,
        target,
        options,
        data_dir=data_dir,
        model=model,
        input=network_input,
        max_weights=max_weights,
        tensors=tensors,
        dynamic=dynamic,
    )
    if as_json:
        print_json(
            {
                "file": str(target),
                **{key: value for key, value in asdict(report).items() if key not in ("path", "shrink")},
                **({"shrink": _shrink_values(report.shrink)} if report.shrink is not None else {}),
            }
        )
        return
    click.echo(
        f"{target}: {report.file_bytes:,} bytes, form {report.form}, opset {report.opset}, IR {report.ir_version}; "
        f"onnxruntime against PyTorch on {report.samples} inputs: largest difference "
        f"{report.max_abs_difference:.2e}"
        + (f", same class {100 * report.argmax_agreement:.1f} %" if not tensors else "")
    )
    if report.unfinished is not None:
        click.echo(f"{source}: {report.unfinished}")
    if report.form != "dense" and report.unmasked_bytes:
        click.echo(
            f"{target}: {report.unmasked_bytes:,} bytes of it are weights that are not masked, float32 as before"
        )
    smaller = min(report.form_bytes, key=lambda name: report.form_bytes[name])
    if report.form_bytes[smaller] < report.file_bytes:
        click.echo(f"{target}: form {smaller} would be smaller, {report.form_bytes[smaller]:,} bytes")
    if report.shrink is not None:
        click.echo(f"{target}: {_shrink_line(report.shrink)}")
    if report.unshrunk_bytes is not None and report.unshrunk_bytes < report.file_bytes:
        click.echo(f"{target}: without --shrink it would be smaller, {report.unshrunk_bytes:,} bytes")


def _shrink_line(report: ShrinkReport) -> str:
    if not report.channels_removed:
        stay = f"; {report.stuck:,} are constant, but cannot go" if report.stuck else ""
        return f"shrink: nothing to remove from {report.channels_before:,} channels{stay}"
    return (
        f"shrink: removed {report.channels_removed:,} of {report.channels_before:,} channels ({report.constant:,} "
        f"constant, {report.unread:,} unread; {report.stuck:,} constant ones stay), "
        f"{report.weights_before:,} → {report.weights:,} weights"
    )


def _shrink_values(report: ShrinkReport) -> dict[str, Any]:
    totals = ("channels_before", "channels_removed", "constant", "unread", "stuck", "weights_before", "weights")
    return {
        **{name: getattr(report, name) for name in totals},
        **asdict(report),
    }


def _input_and_output(file: Path | None, onnx: Path | None, out: Path | None) -> tuple[Path, Path | None]:
    """The file to export, and the one to write if it was named; the value of ``--onnx`` may be either."""
    if onnx is None and out is None:
        raise click.UsageError("Missing option '--onnx'.")
    if onnx is _BESIDE:
        onnx = None
    if onnx is not None and onnx.suffix.lower() in _INPUT_ENDINGS:
        if file is not None:
            raise click.UsageError(
                f"expected one input, got {file} and --onnx {onnx}; name the output with -o FILE.onnx."
            )
        file, onnx = onnx, None
    if onnx is not None and file is None and onnx.suffix.lower() != ".onnx":
        raise click.UsageError(
            f"--onnx {onnx} may be input or output; give INPUT --onnx, and name the output with -o FILE.onnx."
        )
    if onnx is not None and out is not None:
        raise click.UsageError(f"expected one output, got --onnx {onnx} and --out {out}; leave out one.")
    if out is not None and out.suffix.lower() in _INPUT_ENDINGS:
        raise click.UsageError(f"--out {out} has the ending of an input; give -o FILE.onnx.")
    return file or _only_seedmask(Path()), onnx or out


def _only_seedmask(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".seedmask")
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise ConfigError(f"export: expected one .seedmask file in this folder, got {names}; name the file to export")
    return files[0]
