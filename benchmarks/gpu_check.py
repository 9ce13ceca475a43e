"""Everything that only a GPU can show, in one command and under ten minutes.

    python benchmarks/gpu_check.py --json benchmarks/results/gpu.json [--data-dir cifar10]
    python benchmarks/gpu_check.py --full --data-dir cifar10 --folder runs --json benchmarks/results/gpu_cifar10.json

1. Bits: generator, recovery, masks, weights, gradients and redraws on the GPU equal those of NumPy and torch.
2. Time to find the masks of ResNet-50. 3. The training step ratio, images per second and peak memory of ResNet-18 and
ResNet-50. 4. If a folder with CIFAR-10 is given: ResNet-18 by three methods, for as many epochs as there is time.

Each part is a process with a time limit: one that fails, or takes too long, is recorded, and the others still run.
``--full`` does the fourth part alone, for 100 epochs and several seeds, without limits; started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import environment, save

HERE = Path(__file__).parent
METHODS = ("iterand", "edge-popup", "dense")
#: Model, side of its images, classes; the larger batches come last, in case that time runs out.
MODELS = (("resnet18", 32, 10), ("resnet50", 224, 1000))
#: Seconds.
LIMITS = {"exact": 120, "search": 60, "step": 90, "compiled step": 150}
LEAST = 5
TAIL = 2000


class Clock:
    """What is left of a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


def run(command: list[str], limit: float | None, *, prints: bool = False) -> dict[str, Any]:
    """A process and its results, or its error; all that it started ends with it.

    ``--json`` takes a file in the benchmarks; the command line ``prints``.
    """
    if limit is not None and limit < LEAST:
        return {"error": "not run: no time left", "seconds": 0.0}
    print("+", " ".join(Path(word).name for word in command), flush=True)
    began, error = time.monotonic(), None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [*command, "--json", *([] if prints else [str(out)])]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
        with subprocess.Popen(command, text=True, **pipes) as process:
            try:
                output, complaints = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                error = f"longer than {limit:.0f} s"
                os.killpg(process.pid, signal.SIGKILL)
                output, complaints = process.communicate()
        if process.returncode and error is None:
            error = f"exit status {process.returncode}"
        if prints:
            found = "" if error else output
        else:
            found = out.read_text(encoding="utf-8") if out.exists() else ""
            print(output[-TAIL:].rstrip(), flush=True)
    result: dict[str, Any] = json.loads(found or "{}")
    result["seconds"] = time.monotonic() - began
    if error is not None:
        result |= {"error": error, "output": (output + complaints)[-TAIL:]}
        print(f"  failed: {error}", complaints[-TAIL:].rstrip(), sep="\n", flush=True)
    return result


def configurations(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the training step is measured on."""
    models = [model for model in MODELS if model[0] in args.models]
    for mode in (None, *args.modes):
        for batch in args.batch_sizes:
            for name, side, classes in models:
                yield {
                    "model": name,
                    "batch-size": batch,
                    "image-size": args.image_size or side,
                    "classes": classes,
                    **({} if mode is None else {"compile": mode}),
                }


def step(configuration: dict[str, Any], args: argparse.Namespace, limit: float) -> dict[str, Any]:
    """The one place that knows how train_step.py is called."""
    command = [sys.executable, str(HERE / "train_step.py"), "--device", args.device, "--precision", "bfloat16"]
    command += ["--rounds", str(args.rounds)]
    for name, value in configuration.items():
        command += [f"--{name}", str(value)]
    return {"configuration": configuration, **run(command, limit)}


def training(method: str, seed: int, epochs: int, out: Path, args: argparse.Namespace) -> list[str]:
    """Train ResNet-18 at sparsity 0.6 on CIFAR-10; go on if the run was stopped."""
    command = [sys.executable, "-m", "iterand_compress.cli", "train", "--data-dir", str(args.data_dir)]
    command += ["--device", args.device, "--out", str(out)]
    if out.exists():
        return [*command, "--resume"]
    command += ["--recipe", "cifar10-resnet18", "--data", "folder", "--method", method, "--seed", str(seed)]
    command += ["--epochs", str(epochs)]
    return [*command, *(["--width", str(args.width)] if args.width else [])]


def metrics(out: Path) -> list[dict[str, Any]]:
    """What a run wrote after each epoch and at its end."""
    path = out.with_suffix(".metrics.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def train(method: str, seed: int, epochs: int, out: Path, args: argparse.Namespace, limit: float | None) -> Any:
    """One run: its result, and what it wrote after each epoch."""
    result = run(training(method, seed, epochs, out, args), limit, prints=True)
    return {"method": method, "seed": seed, "epochs": epochs, **result, "metrics": metrics(out)}


def epochs_within(seconds: float, startup: float, epoch: float) -> int:
    """How many epochs a run can have, between 1 and 100; a tenth of the time is kept in reserve."""
    return max(1, min(100, math.floor((0.9 * seconds - startup) / epoch)))


def short_runs(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """As many epochs as there is time, the same number for each method, as a first run of one epoch tells."""
    with tempfile.TemporaryDirectory() as name:
        first = train(METHODS[0], 0, 1, Path(name) / "first.ckpt", args, clock.left())
        epochs_seconds = [line["seconds"] for line in first["metrics"] if "epoch" in line and "seconds" in line]
        if "error" in first or not epochs_seconds:
            return {"first": first}
        epoch = epochs_seconds[0]
        count = epochs_within(clock.left() / len(METHODS), first["seconds"] - epoch, epoch)
        runs = []
        for index, method in enumerate(METHODS):
            limit = clock.left() / (len(METHODS) - index)
            runs.append(train(method, 0, count, Path(name) / f"{method}.ckpt", args, limit))
    return {"first": first, "epochs": count, "runs": runs}


def full_runs(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """All methods and seeds; after each run the results are saved."""
    args.folder.mkdir(parents=True, exist_ok=True)
    results["runs"] = []
    for seed in args.seeds:
        for method in METHODS:
            out = args.folder / f"{method}-{seed}.ckpt"
            done = out.with_suffix(".json")
            if not done.exists():
                result = train(method, seed, args.epochs, out, args, None)
                save(result, out.with_suffix(".failed.json") if "error" in result else done)
                results["runs"].append(result)
            else:
                results["runs"].append(json.loads(done.read_text(encoding="utf-8")))
            save(results, args.json)
    for method in METHODS:
        found = [run["test_accuracy"] for run in results["runs"] if run["method"] == method and "test_accuracy" in run]
        if found:
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            print(f"{method:<11} {100 * statistics.mean(found):.2f} ± {100 * spread:.2f} %, n={len(found)}")


def table(results: dict[str, Any]) -> str:
    """The end of the output: one line for each part."""
    lines = []
    for name in ("exact", "search"):
        part = results[name]
        wrong = [check for check, fine in part.get("checks", {}).items() if not fine]
        about = f"wrong: {', '.join(wrong)}" if wrong else part.get("error", "done")
        lines.append(f"{name:<8} {part['seconds']:6.1f} s  {about}")
        lines += [f"    {key:<40} {value:9.3f}" for key, value in part.items() if "_ms" in key]
    for part in results["steps"]:
        about = part["configuration"]
        mode = about.get("compile", "eager")
        label = f"{about['model']} {about['image-size']} px, batch {about['batch-size']}, {mode}"
        if "iterand_over_dense" not in part:
            lines.append(f"{label}: {part.get('error', 'no result')}")
            continue
        speed = part.get("images_per_second", {}).get("iterand", math.nan)
        memory = part.get("iterand_peak_over_dense", {}).get("tensors", math.nan)
        lines.append(
            f"{label}: IteRand/dense {part['iterand_over_dense']:.3f}, edge-popup/dense "
            f"{part['edge_popup_over_dense']:.3f}, {speed:,.0f} images/s, peak memory {memory:.3f}, event "
            f"{1e3 * part['resampling_event_seconds']:.2f} ms"
        )
    for part in results.get("cifar10", {}).get("runs", []):
        about = f"{100 * part['test_accuracy']:.2f} %" if "test_accuracy" in part else part.get("error", "no result")
        lines.append(f"CIFAR-10, ResNet-18, {part['epochs']} epochs, {part['method']}: {about}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data-dir", type=Path, help="folder with the images of CIFAR-10")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--training-share", type=float, default=0.4, help="of the minutes, kept for CIFAR-10")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the time limits of parts")
    parser.add_argument("--largest", type=int, default=10_000_000, help="weights of the largest generated tensor")
    parser.add_argument("--limit", type=int, help="weights of a layer whose mask is looked for, at most")
    parser.add_argument("--models", nargs="*", default=[name for name, _, _ in MODELS])
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--image-size", type=int, help="of all models, instead of their own")
    parser.add_argument(
        "--modes",
        nargs="*",
        default=["reduce-overhead", "default"],
        help="of torch.compile, besides a step that is not compiled",
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--width", type=float, help="of the network that is trained")
    parser.add_argument("--full", action="store_true", help="only train, 100 epochs for each seed; can be resumed")
    parser.add_argument("--folder", type=Path, help="for the checkpoints of --full")
    parser.add_argument("--epochs", type=int, default=100, help="of --full")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of --full")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.full and not (args.data_dir and args.folder):
        parser.error("--full needs --data-dir and --folder")
    results: dict[str, Any] = {"environment": environment(), "triton": find_spec("triton") is not None}
    if args.full:
        full_runs(args, results)
        return
    clock = Clock(60 * args.minutes)
    reserved = 60 * args.minutes * args.training_share if args.data_dir else 0.0

    def limit(part: str) -> float:
        return min(args.patience * LIMITS[part], clock.left() - reserved)

    kernels = [sys.executable, str(HERE / "gpu_kernels.py")]
    same = ["--device", args.device, *(["--limit", str(args.limit)] if args.limit else [])]
    results["exact"] = run([*kernels, "exact", *same, "--largest", str(args.largest)], limit("exact"))
    save(results, args.json)
    results["search"] = run([*kernels, "search", *same, "--rounds", str(max(args.rounds, 2))], limit("search"))
    results["steps"] = []
    for configuration in configurations(args):
        save(results, args.json)
        results["steps"].append(
            step(configuration, args, limit("compiled step" if "compile" in configuration else "step"))
        )
    if args.data_dir:
        save(results, args.json)
        results["cifar10"] = short_runs(args, clock)
    save(results, args.json)
    print(table(results))
    sys.exit("error" in results["exact"])


if __name__ == "__main__":
    main()
