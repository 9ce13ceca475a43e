"""All methods on one model, one data set, one budget: Conv-6 at width 0.25 (142,128 weights), CIFAR-10, 12 epochs.

    python benchmarks/methods.py --data-dir cifar10 --folder runs [--json OUT] [--only NAME …] [--seeds 0 1]

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. Runs go on where they stopped and finished ones are only read,
so the command can be repeated until all are done. Each result is packed, recovered, compared bit for bit with the
checkpoint, and the recovered file is evaluated again. The accuracy is that of the last epoch on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from common import environment, save
from iterand_compress.compress.data import Split, load_data
from iterand_compress.compress.packing import network_of_checkpoint
from iterand_compress.compress.recovery import LoadedNetwork, load_network
from iterand_compress.compress.storage import write_seedmask
from iterand_compress.compress.training.checkpoint import load_checkpoint
from iterand_compress.compress.training.evaluate import evaluate, network_logits

PARTS = ("mask", "log", "coat", "value")
SETTING = (
    *("--recipe", "cifar10-conv6", "--data", "folder", "--width", "0.25", "--epochs", "12", "--device", "cpu"),
    *("--crop", "shift", "--pad-value", "mean", "--validation", "0", "--precision", "bfloat16", "--channels-last"),
)
# All scores start on ±1/√fan_in. Conv-6 has no BatchNorm: at 90 % its signals vanish unless weights are scaled for the
# inputs that are kept, and with the learning rate 0.3 of the recipe its outputs die in the first epoch.
SPARSITIES = {
    "50": ("--sparsity", "0.5"),
    "90": ("--sparsity", "0.9", "--scale-fan", "--lr", "0.03"),
}
ITERAND = ("--method", "iterand", "--score-scale", "0.408", "--resample-every", "90")
NORMAL = ("--distribution", "normal")  # on signed constants, Biprop is edge-popup
# While a ramp rises, weights that are scaled for few inputs have many: Conv-6 blows up, so no ramp at 90 %.
RAMP = {"global-50": ("--ramp-epochs", "3")}
SUBNETWORKS: dict[str, tuple[str, ...]] = {
    "edge-popup": ("--method", "edge-popup"),
    "iterand": ITERAND,
    "recycling": ("--method", "recycling", "--recycle-every", "2"),
    "biprop": ("--method", "biprop", *NORMAL),
    "biprop-recycling": ("--method", "biprop-recycling", *NORMAL, "--recycle-every", "2"),
    "global": ("--method", "edge-popup", "--scope", "global"),
    "frozen": ("--method", "edge-popup", "--frozen", "0.5"),
    "multicoated": ("--method", "edge-popup", "--coats", "3", "--scale-fan"),  # multiples of w blow outputs up, too
}
TRAINED = (*NORMAL, "--lr", "0.01")
# What `random` keeps carries no signal through nine layers without BatchNorm, unless scaled. What GraSP keeps blows
# it up (standard deviation 1 to 1,300 behind the last convolution), and no learning rate tried helps.
CRITERIA: dict[str, tuple[str, ...]] = {
    "snip": (),
    "grasp": (),
    "synflow": (),
    "magnitude": (),
    "random": ("--scale-fan",),
}


def configurations() -> dict[str, tuple[str, ...]]:
    """Options by name: method and sparsity in per cent."""
    found = {
        f"{name}-{sparsity}": (*options, *more, *RAMP.get(f"{name}-{sparsity}", ()))
        for sparsity, more in SPARSITIES.items()
        for name, options in SUBNETWORKS.items()
    }
    found |= {f"iterand-{draws}-draws-50": (*ITERAND, "--draws", str(draws)) for draws in (2, 4)}
    found |= {f"{name}-90": ("--method", name, "--sparsity", "0.9", *TRAINED, *more) for name, more in CRITERIA.items()}
    return found | {"dense-0": ("--method", "dense", *TRAINED)}


def train(out: Path, options: tuple[str, ...], args: argparse.Namespace) -> None:
    """Train in a process of its own; go on if the run was stopped."""
    script = str(Path(sys.executable).with_name("iterand-compress"))
    words = [script, "train", *SETTING, *options, "--data-dir", str(args.data_dir), "--out", str(out), "--quiet"]
    if out.exists():
        if load_checkpoint(out).complete:
            return
        words.append("--resume")
    alone = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    subprocess.run(words, env=alone, check=True)


def accuracy(network: LoadedNetwork, test: Split) -> float:
    """On the test images, on the CPU, in float32."""
    return evaluate(
        network_logits(network.model, network.normalize), test, batch_size=500, device=torch.device("cpu")
    ).accuracy


def pack(out: Path, with_weights: str | None, trained: LoadedNetwork, score: float, test: Split) -> dict[str, Any]:
    """Pack a finished run, recover the file, compare it bit for bit and evaluate it."""
    file = out.with_suffix(f".{with_weights or 'packed'}.seedmask")
    report = write_seedmask(network_of_checkpoint(load_checkpoint(out), with_weights=with_weights), file)
    recovered = load_network(file)
    first, second = trained.model.state_dict(), recovered.model.state_dict()
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    found = accuracy(recovered, test)
    return {
        "with_weights": with_weights,
        **{key: getattr(report, key) for key in ("file_bytes", "weights", *(f"{part}_bits" for part in PARTS))},
        "accuracy": found,
        "equal_weights": same,
        "equal_accuracy": found == score,
    }


def finish(name: str, seed: int, test: Split, args: argparse.Namespace) -> dict[str, Any]:
    """Pack a finished run in all forms, and say how it did."""
    out = args.folder / f"{name}-{seed}.ckpt"
    trained = load_network(out)
    score = accuracy(trained, test)
    dtypes: tuple[str | None, ...] = (None,)
    if name.startswith("dense"):
        dtypes = ()
    elif name.split("-")[0] in CRITERIA:
        dtypes = (None, "float32", "float16", "int8")
    files = [pack(out, dtype, trained, score, test) for dtype in dtypes]
    print(f"{name}, seed {seed}: {100 * score:.2f} %", *(f"{f['file_bytes']:,} bytes" for f in files), flush=True)
    return {"name": name, "seed": seed, "accuracy": score, "files": files}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: accuracy, bytes of the file and bits per weight."""
    lines = ["| method | sparsity % | accuracy % | file bytes | bits per weight | mask + log + coats + values |"]
    lines.append("|---|---|---|---|---|---|")
    for result in results:
        name, _, sparsity = result["name"].rpartition("-")
        files = result["files"] or [None]
        for file in files:
            if file is None:
                lines.append(f"| {name} | {sparsity} | {100 * result['accuracy']:.2f} | {4 * 142_128:,} | 32 | |")
                continue
            bits = [file[f"{part}_bits"] / file["weights"] for part in PARTS]
            label = f"{name}, {file['with_weights']}" if file["with_weights"] else name
            accuracy = f"{100 * file['accuracy']:.2f}"
            if len(files) > 1 and not file["with_weights"]:
                label, accuracy = f"{name}, ticket alone", "to be trained"
            parts = " + ".join(f"{bit:.3f}" for bit in bits)
            lines.append(f"| {label} | {sparsity} | {accuracy} | {file['file_bytes']:,} | {sum(bits):.3f} | {parts} |")
    return "\n".join(lines)


def check(results: list[dict[str, Any]]) -> None:
    """Stop if a file that must be exact is not."""
    for result in results:
        for file in result["files"]:
            exact = file["with_weights"] == "float32" or len(result["files"]) == 1
            if exact and not (file["equal_weights"] and file["equal_accuracy"]):
                raise SystemExit(f"{result['name']}: the recovered network is not the trained one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and files go")
    parser.add_argument("--only", nargs="+", choices=sorted(configurations()), help="some of the configurations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed) for seed in args.seeds for name in args.only or configurations()]
    options = {job: (*configurations()[job[0]], "--seed", str(job[1])) for job in jobs}
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: train(args.folder / f"{job[0]}-{job[1]}.ckpt", options[job], args), jobs))
    data = load_checkpoint(args.folder / f"{jobs[0][0]}-{jobs[0][1]}.ckpt").recipe.data
    test = load_data(data, data_dir=args.data_dir).test
    results = [finish(*job, test, args) for job in jobs]
    print(table(results))
    save(
        {
            "environment": environment(),
            "setting": " ".join(SETTING),
            "configurations": {name: " ".join(options) for name, options in configurations().items()},
            "runs": results,
        },
        args.json,
    )
    check(results)


if __name__ == "__main__":
    main()
