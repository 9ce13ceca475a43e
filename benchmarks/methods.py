"""All methods on one model, one data set, one budget: Conv-6 at width 0.25 (142,128 weights), CIFAR-10, 12 epochs.

    python benchmarks/methods.py --data-dir cifar10 --folder runs [--json OUT] [--only NAME …] [--seeds 0 1]

`--epochs` trains shorter or longer; another number needs another folder.
`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. Runs go on where they stopped and finished ones are only read,
so the command can be repeated until all are done. Each result is packed, recovered, compared bit for bit with the
checkpoint, and the recovered file is evaluated again. The accuracy is that of the last epoch on the 10,000 test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import environment, save
from iterand_compress.compress.data.bundle import Split
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.recover import load_network
from runs import PARTS, TrainingRun, pack, recipe_of, score_of_network, train_all

SETTING = (
    *("--recipe", "cifar10-conv6", "--data", "folder", "--width", "0.25", "--device", "cpu"),
    *("--set=data.crop=shift", "--set=data.pad_value=mean", "--set=data.validation=0"),
    *("--set=train.precision=bfloat16", "--set=run.channels_last=true"),
)
# All scores start on ±1/√fan_in. Conv-6 has no BatchNorm: at 90 % its signals vanish unless weights are scaled for the
# inputs that are kept, and with the learning rate 0.3 of the recipe its outputs die in the first epoch. At 80 %, three
# epochs of edge-popup gave 44.9 % with 0.03 and 36.3 % with 0.1; at 95 %, the outputs die with 0.03, too, and
# under one threshold for all layers even with 0.01.
SPARSITIES = {
    "50": ("--sparsity", "0.5"),
    "80": ("--sparsity", "0.8", "--set=subnetwork.scale_fan=true", "--lr", "0.03"),
    "90": ("--sparsity", "0.9", "--set=subnetwork.scale_fan=true", "--lr", "0.03"),
    "95": ("--sparsity", "0.95", "--set=subnetwork.scale_fan=true", "--lr", "0.01"),
}
# On about ±1/√fan_in, as the others: 0.408 of IteRand's own √6, with which the published runs were made.
NARROW = f"--set=subnetwork.selection.score_bound={0.408 * 6**0.5}"
ITERAND = ("--method", "iterand", NARROW, "--set=subnetwork.resample.every=90")
NORMAL = ("--set=subnetwork.distribution=normal",)  # on signed constants, Biprop is edge-popup
# While a ramp rises, weights that are scaled for few inputs have many: Conv-6 blows up, so no ramp at 90 %.
RAMP = {"global-50": ("--set=subnetwork.selection.ramp_epochs=3",)}
SUBNETWORKS: dict[str, tuple[str, ...]] = {
    "edge-popup": ("--method", "edge-popup"),
    "iterand": ITERAND,
    "recycling": ("--method", "recycling", "--set=subnetwork.recycle.every=2"),
    "biprop": ("--method", "biprop", *NORMAL),
    "biprop-recycling": ("--method", "biprop-recycling", *NORMAL, "--set=subnetwork.recycle.every=2"),
    "signed-supermask": ("--method", "signed-supermask"),
    "global": ("--method", "edge-popup", "--set=subnetwork.selection.scope=global"),
    "frozen": ("--method", "edge-popup", "--set=subnetwork.selection.frozen=0.5"),
    "multicoated": (
        *("--method", "edge-popup", "--set=subnetwork.selection.multiplicity=3"),
        "--set=subnetwork.scale_fan=true",  # multiples of w blow outputs up, too
    ),
}
TRAINED = (*NORMAL, "--lr", "0.01")
# What `random` keeps carries no signal through nine layers without BatchNorm, unless scaled. What GraSP keeps blows
# it up (standard deviation 1 to 1,300 behind the last convolution), and no learning rate tried helps.
CRITERIA: dict[str, tuple[str, ...]] = {
    "snip": (),
    "grasp": (),
    "synflow": (),
    "magnitude": (),
    "random": ("--set=subnetwork.scale_fan=true",),
}


def configurations() -> dict[str, tuple[str, ...]]:
    """Options by name: method and sparsity in per cent."""
    found = {
        f"{name}-{sparsity}": (*options, *more, *RAMP.get(f"{name}-{sparsity}", ()))
        for sparsity, more in SPARSITIES.items()
        for name, options in SUBNETWORKS.items()
    }
    found |= {f"iterand-{draws}-draws-50": (*ITERAND, f"--set=subnetwork.resample.draws={draws}") for draws in (2, 4)}
    found |= {
        f"{name}-{sparsity}": ("--method", name, "--sparsity", str(int(sparsity) / 100), *TRAINED, *more)
        for sparsity in SPARSITIES
        for name, more in CRITERIA.items()
    }
    return found | {"dense-0": ("--method", "dense", *TRAINED)}


def in_table(name: str) -> bool:
    """Whether a configuration is in the table of docs/METHODS.md; benchmarks/frontier.py has the other sparsities."""
    method, _, sparsity = name.rpartition("-")
    return sparsity in {"0", "90"} or (sparsity == "50" and method not in CRITERIA)


def finish(name: str, seed: int, test: Split, args: argparse.Namespace) -> dict[str, Any]:
    """Pack a finished run in all forms, and say how it did."""
    out = TrainingRun(name, (), seed).checkpoint(args.folder)
    trained = load_network(out)
    score = score_of_network(trained, test)
    dtypes: tuple[str | None, ...] = (None,)
    if name.startswith("dense"):
        dtypes = ()
    elif name.split("-")[0] in CRITERIA:
        dtypes = (None, "float32", "float16", "int8")
    files = [pack(out, with_weights=dtype, test=test, trained=trained, score=score) for dtype in dtypes]
    sizes = (f"{file['file_bytes']:,} bytes" for file in files)
    print(f"{name}, seed {seed}: {100 * score.accuracy:.2f} %", *sizes, flush=True)
    return {"name": name, "seed": seed, "accuracy": score.accuracy, "files": files}


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
    parser.add_argument("--only", nargs="+", choices=sorted(configurations()), help="by default: 50 and 90 %%")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=12, help="of each run; another number needs another folder")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = args.only or [name for name in configurations() if in_table(name)]
    jobs = [(name, seed) for seed in args.seeds for name in names]
    setting = (*SETTING, "--epochs", str(args.epochs))
    found = [TrainingRun(name, (*setting, *configurations()[name]), seed) for name, seed in jobs]
    train_all(found, args.folder, data_dir=args.data_dir, jobs=args.jobs)
    test = load_data(recipe_of(SETTING).data, data_dir=args.data_dir).test
    results = [finish(*job, test, args) for job in jobs]
    print(table(results))
    save(
        {
            "environment": environment(),
            "setting": " ".join(setting),
            "configurations": {name: " ".join(configurations()[name]) for name in names},
            "runs": results,
        },
        args.json,
    )
    check(results)


if __name__ == "__main__":
    main()
