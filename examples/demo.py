"""The pipeline on real data: train, pack, verify, recover, export, and evaluate each file beside a dense network.

    python examples/demo.py --folder demo-run

Every step is a command that a user would type; it is printed before it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

SCRIPT = Path(sys.executable).with_name("iterand-compress")
console = Console(width=None if sys.stdout.isatty() else 100)


def show(*arguments: str, note: str = "") -> None:
    """Print a command."""
    console.print(f"\n[bold]$ iterand-compress {' '.join(arguments)}[/bold]{note}", highlight=False)


def run(folder: Path, *arguments: str) -> None:
    """Run a command in the folder and show it."""
    show(*arguments)
    done = subprocess.run([str(SCRIPT), *arguments], cwd=folder, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)


def accuracy(folder: Path, file: str) -> dict[str, float]:
    """Right answers of a file on the test images."""
    command = [str(SCRIPT), "eval", file, "--json"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo-run"), help="where the files go")
    parser.add_argument("--epochs", type=int, help="fewer, for a quick look")
    args = parser.parse_args()
    folder = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    epochs = ["--epochs", str(args.epochs)] if args.epochs else []
    baseline = ("train", "--method", "dense", "--out", "dense.ckpt", "--force", "--quiet", *epochs)
    show(*baseline, note="   # meanwhile, on another core")
    with subprocess.Popen([str(SCRIPT), *baseline], cwd=folder) as dense:  # noqa: S603
        run(folder, "train", "--force", *epochs)
        run(folder, "pack", "model.ckpt", "--out", "model.seedmask")
        run(folder, "inspect", "model.seedmask")
        run(folder, "verify", "model.seedmask")
        run(folder, "recover", "model.seedmask", "--out", "weights.safetensors")
        run(folder, "export", "model.seedmask", "--onnx", "model.onnx")
        run(folder, "export", "model.seedmask", "--onnx", "packed.onnx", "--form", "packed")
        run(folder, "verify", "packed.onnx")
    if dense.returncode:
        sys.exit(dense.returncode)
    run(folder, "export", "dense.ckpt", "--onnx", "dense.onnx")
    rows = (
        ("dense, trained", "dense.onnx", "onnxruntime"),
        ("checkpoint", "model.ckpt", "PyTorch"),
        ("seed + mask + log", "model.seedmask", "recovered"),
        ("ONNX, dense", "model.onnx", "onnxruntime"),
        ("ONNX, packed", "packed.onnx", "onnxruntime"),
    )
    seedmask = (folder / "model.seedmask").stat().st_size
    table = Table(title="digits: 8×8 scans of handwritten digits, 360 of them for the test")
    for heading in ("what", "file"):
        table.add_column(heading, no_wrap=True)
    for heading in ("bytes", "× .seedmask", "test accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    answers = set()
    for what, file, runtime in rows:
        size = (folder / file).stat().st_size
        result = accuracy(folder, file)
        if file != "dense.onnx":  # another network; the four other files are one
            answers.add(result["correct"])
        score = f"{100 * result['accuracy']:.2f} % ({runtime})"
        table.add_row(what, file, f"{size:,}", f"{size / seedmask:.1f}", score)
    console.print()
    console.print(table)
    if len(answers) != 1:
        console.print(f"error: PyTorch, recovered and onnxruntime disagree: {sorted(answers)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
