"""Conv-6 at width 0.25 (142,128 weights) on CIFAR-10 as a folder of images: edge-popup against IteRand, 12 epochs.

    python benchmarks/conv6_cifar10.py --data-dir cifar10 --folder runs [--json OUT]

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. Runs go on where they stopped, a finished run is only read, so
the command can be repeated until all are done. The accuracy is that of the last epoch on the 10,000 test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import environment, save
from runs import TrainingRun, command, stored_score, train_all

SETTING = (
    *("--recipe", "cifar10-conv6", "--data", "folder", "--width", "0.25", "--epochs", "12", "--device", "cpu"),
    *("--set=data.crop=shift", "--set=data.pad_value=mean", "--set=data.validation=0"),
    "--set=subnetwork.resample.every=90",
)
# Each pair of methods starts from the same initial scores: IteRand's own, uniform on ±√6/√fan_in, or narrow ones on
# ±1/√fan_in (edge-popup's own), from which the mask moves further in 12 epochs.
CONFIGURATIONS = {
    "edge-popup": (
        *("--method", "edge-popup", "--set=subnetwork.selection.rule=signed"),
        "--set=subnetwork.selection.score_bound=2.449",
    ),
    "IteRand": ("--method", "iterand"),
    "edge-popup, narrow scores": ("--method", "edge-popup", "--set=subnetwork.selection.rule=signed"),
    "IteRand, narrow scores": ("--method", "iterand", f"--set=subnetwork.selection.score_bound={0.408 * 6**0.5}"),
}


def finish(name: str, run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Pack a finished run, and say how it did."""
    out = run.checkpoint(folder)
    accuracy, file_bytes = stored_score(out).accuracy, command("pack", out)["file_bytes"]
    print(f"{name}, seed {run.seed}: {100 * accuracy:.2f} %, {file_bytes:,} bytes", flush=True)
    return {"name": name, "seed": run.seed, "accuracy": accuracy, "file_bytes": file_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = {
        (name, seed): TrainingRun(name.replace(",", "").replace(" ", "-"), (*SETTING, *options), seed)
        for seed in args.seeds
        for name, options in CONFIGURATIONS.items()
    }
    train_all(list(runs.values()), args.folder, data_dir=args.data_dir, jobs=args.jobs)
    results = [finish(name, run, args.folder) for (name, _), run in runs.items()]
    save({"environment": environment(), "setting": " ".join(SETTING), "runs": results}, args.json)


if __name__ == "__main__":
    main()
