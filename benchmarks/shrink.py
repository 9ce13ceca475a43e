"""What `--shrink` finds in trained networks, and what it gains: channels, bytes, latency; outputs stay the same.

    python benchmarks/shrink.py --folder runs [model.ckpt ...]

Without names it trains networks on the bundled digits, globally selected, at 95 and 98 % sparsity (a minute each).
Latency is that of one thread: medians of runs in which both files take turns, so that what else the machine does hits
both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from common import environment, save
from iterand_compress import load_network
from iterand_compress.cli.app import cli
from iterand_compress.export.export_options import ExportOptions
from iterand_compress.export.from_file import export_network

SPARSITIES = (0.95, 0.98)
EPOCHS = 30
RECIPE = (
    *("--method", "iterand", "--epochs", str(EPOCHS), "--device", "cpu"),
    *("--set=subnetwork.selection.scope=global", "--set=subnetwork.selection.ramp_epochs=10"),
)


def trained(folder: Path) -> list[Path]:
    """Checkpoints of the digits, trained unless they are there."""
    found = []
    for sparsity in SPARSITIES:
        path = folder / f"digits-global-{100 * sparsity:.0f}.ckpt"
        if not path.exists():
            cli(["train", *RECIPE, "--sparsity", str(sparsity), "-q", "--out", str(path)], standalone_mode=False)
        found.append(path)
    return found


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread, all optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def latencies(files: list[Path], pixels: np.ndarray, rounds: int) -> list[float]:
    """Median seconds of each file, in turns."""
    sessions = [session(file) for file in files]
    times: list[list[float]] = [[] for _ in files]
    for _ in range(rounds):
        for found, one in zip(times, sessions, strict=True):
            start = time.perf_counter()
            one.run(None, {"pixels": pixels})
            found.append(time.perf_counter() - start)
    return [statistics.median(found[rounds // 10 :]) for found in times]


def measure(checkpoint: Path, rounds: int) -> dict[str, Any]:
    """One network with and without its dead channels."""
    network = load_network(checkpoint)
    assert network.data is not None
    assert network.recipe is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("whole.onnx", "shrunk.onnx")]
        packed = Path(folder) / "packed.onnx"
        whole = export_network(checkpoint, files[0])
        shrunk = export_network(checkpoint, files[1], ExportOptions(shrink=True))
        both = export_network(checkpoint, packed, ExportOptions("packed", shrink=True))
        pixels = np.random.default_rng(0).random((256, *network.data.input.shape), np.float32)
        outputs = [session(file).run(None, {"pixels": pixels})[0] for file in files]
        seconds = {str(size): latencies(files, pixels[:size], rounds) for size in (1, 32)}
        report = shrunk.shrink
        assert report is not None
        return {
            "name": checkpoint.stem,
            "model": network.recipe.model.name,
            "sparsity": network.recipe.subnetwork.sparsity,
            "channels": report.channels_before,
            "removed": report.channels_removed,
            "constant": report.constant,
            "unread": report.unread,
            "stuck": report.stuck,
            "weights_before": report.weights_before,
            "weights": report.weights,
            "bytes_before": whole.file_bytes,
            "bytes": shrunk.file_bytes,
            "bytes_packed": both.file_bytes,
            "largest_difference": float(np.abs(outputs[0] - outputs[1]).max()),
            "largest_logit": float(np.abs(outputs[0]).max()),
            "same_class": float((outputs[0].argmax(1) == outputs[1].argmax(1)).mean()),
            "seconds": seconds,
            "rounds": rounds,
        }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*", help="trained networks that take images")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where trained networks are kept")
    parser.add_argument("--rounds", type=int, default=1000, help="runs of each file")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = [measure(path, args.rounds) for path in args.checkpoints or trained(args.folder)]
    table = Table(title="--shrink, dense form")
    for heading in (
        "network",
        "removed",
        "constant + unread (stuck)",
        "weights",
        "bytes",
        "difference",
        "µs, ×1",
        "µs, ×32",
    ):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in rows:
        times = [" → ".join(f"{1e6 * value:,.0f}" for value in row["seconds"][size]) for size in ("1", "32")]
        table.add_row(
            row["name"],
            f"{row['removed']} of {row['channels']}",
            f"{row['constant']} + {row['unread']} ({row['stuck']})",
            f"{row['weights_before']:,} → {row['weights']:,}",
            f"{row['bytes_before']:,} → {row['bytes']:,}",
            f"{row['largest_difference']:.1e} of {row['largest_logit']:.3g}",
            *times,
        )
    Console(width=170).print(table)
    save({"environment": environment(), "networks": rows}, args.json)


if __name__ == "__main__":
    main()
