"""Conv-6 at width 0.25 (142,128 weights) on CIFAR-10 as a folder of images: edge-popup against IteRand, 12 epochs.

    python benchmarks/conv6_cifar10.py --data-dir cifar10 --folder runs [--json OUT]

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. Runs go on where they stopped, a finished run is only read, so
the command can be repeated until all are done. The accuracy is that of the last epoch on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import environment, save

SETTING = (
    *("--recipe", "cifar10-conv6", "--data", "folder", "--width", "0.25", "--epochs", "12", "--device", "cpu"),
    *("--crop", "shift", "--pad-value", "mean", "--validation", "0", "--resample-every", "90"),
)
# Each pair of methods starts from the same initial scores: IteRand's own, uniform on ±√6/√fan_in, or narrow ones on
# ±1/√fan_in (edge-popup's own), from which the mask moves further in 12 epochs.
CONFIGURATIONS = {
    "edge-popup": ("--method", "edge-popup", "--selection", "signed", "--score-scale", "2.449"),
    "IteRand": ("--method", "iterand"),
    "edge-popup, narrow scores": ("--method", "edge-popup", "--selection", "signed"),
    "IteRand, narrow scores": ("--method", "iterand", "--score-scale", "0.408"),
}


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train (or go on, or read) one configuration, pack it, and say how it did."""
    script = str(Path(sys.executable).with_name("iterand-compress"))
    out = args.folder / (name.replace(",", "").replace(" ", "-") + f"-{seed}.ckpt")
    command = [script, "train", *SETTING, *CONFIGURATIONS[name], "--seed", str(seed), "--json", "--out", str(out)]
    command += ["--data-dir", str(args.data_dir), *(["--resume"] if out.exists() else [])]
    alone = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    trained = json.loads(subprocess.run(command, env=alone, check=True, capture_output=True, text=True).stdout)
    packed = json.loads(
        subprocess.run([script, "pack", str(out), "--json"], check=True, capture_output=True, text=True).stdout
    )
    result = {"name": name, "seed": seed, "accuracy": trained["test_accuracy"], "file_bytes": packed["file_bytes"]}
    print(f"{name}, seed {seed}: {100 * result['accuracy']:.2f} %, {result['file_bytes']:,} bytes", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed) for seed in args.seeds for name in CONFIGURATIONS]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda job: run(*job, args), jobs))
    save({"environment": environment(), "setting": " ".join(SETTING), "runs": results}, args.json)


if __name__ == "__main__":
    main()
