"""Width or sparsity? Networks of several widths whose masks have the same size, trained at the same budget.

    python benchmarks/joint_sweep.py --data-dir cifar10 --folder runs [--jobs 2] [--json OUT] [--png OUT]

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. A mask of n weights and sparsity p takes n·H(p) bits at least, so
a size and a sparsity give a number of weights, and that a width of the network of the recipe `cifar10-fast`. Each point
is one run of one thread; 5,000 of the training images are held out, the same for all. Finished runs are only read.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import environment, save
from iterand_compress.compress.analysis.candidates import largest
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.inputs import ImageInput
from iterand_compress.compress.models import resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.seedmask import write_seedmask
from runs import TrainingRun, recipe_of, train_all

SIZES = (8_000, 16_000, 32_000, 64_000)
SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
SETTING = ("--recipe", "cifar10-fast", "--data", "folder", "--set=data.validation=0.1", "--set=data.seed=0")


def entropy(sparsity: float) -> float:
    """Bits that a mask takes for each weight, at least."""
    return -sum(share * math.log2(share) for share in (sparsity, 1 - sparsity))


def weights(width: float) -> int:
    """Number of masked weights of the recipe's network."""
    recipe = recipe_of((*SETTING, "--width", str(width)))
    architecture = resolve(recipe.model, num_classes=10, input=ImageInput((3, 32, 32), 0, 1))
    model = build_model(architecture, seed=0, device="meta")
    return sum(p.numel() for p in model.parameters() if p.ndim > 1 and p.requires_grad)


def width_for(size: int, sparsity: float) -> float:
    """The largest width, in steps of a 64th (one channel of the first group), whose mask has ``size`` bytes at most."""
    wanted = 8 * size / entropy(sparsity)
    return largest(lambda steps: weights(steps / 64) <= wanted, 64 * 8) / 64


def runs(args: argparse.Namespace) -> list[tuple[int, float, float, TrainingRun]]:
    """(size, sparsity, width, run) of every point; the quick ones first."""
    points = []
    for size in args.sizes:
        for sparsity in args.sparsities:
            width = width_for(size, sparsity)
            options = (
                *SETTING,
                *("--width", str(width), "--sparsity", str(sparsity), "--epochs", str(args.epochs)),
                f"--set=train.warmup_epochs={max(1, args.epochs // 5)}",
                *(f"--set={change}" for change in args.set),
            )
            run = TrainingRun(f"{args.name}-{size}-{sparsity:g}-e{args.epochs}", options, args.seed)
            points.append((size, sparsity, width, run))
    return sorted(points, key=lambda point: point[2])


def result(out: Path) -> dict[str, Any]:
    """The last epoch of a finished run, in %, and its mask and log in bytes."""
    stored = load_checkpoint(out)
    assert stored.test is not None
    lines = [json.loads(line) for line in out.with_suffix(".metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    (*_, last) = [line for line in lines if "val_accuracy" in line]
    report = write_seedmask(network_of_checkpoint(stored), out.with_suffix(".seedmask"))
    return {
        "val": 100 * last["val_accuracy"],
        "test": 100 * stored.test["correct"] / stored.test["images"],
        "payload": (report.mask_bits + report.log_bits) // 8,
        "file": report.file_bytes,
    }


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy by sparsity, one line for each size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for size in sorted({row["size"] for row in rows}, reverse=True):
        mine = sorted((row for row in rows if row["size"] == size), key=lambda row: row["sparsity"])
        axes.plot([row["sparsity"] for row in mine], [row["val"] for row in mine], marker="o", label=f"{size:,} bytes")
    axes.set(xlabel="sparsity", ylabel="held-out accuracy, %")
    axes.legend(title="mask")
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of masks, in bytes")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="sweep", help="of the runs, for one with other --set")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="further settings")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    points = runs(args)
    train_all([run for *_, run in points], args.folder, data_dir=args.data_dir, jobs=args.jobs)
    rows = [
        {"size": size, "sparsity": sparsity, "width": width, **result(run.checkpoint(args.folder))}
        for size, sparsity, width, run in points
    ]
    save({"environment": environment(), "epochs": args.epochs, "seed": args.seed, "rows": rows}, args.json)
    if args.png:
        draw(rows, args.png)
    print(f"held-out accuracy in %, width in brackets; {args.epochs} epochs, seed {args.seed}")
    print(f"| mask, bytes | {' | '.join(f'{sparsity:g}' for sparsity in args.sparsities)} |")
    print("|---:|" + "---|" * len(args.sparsities))
    for size in args.sizes:
        mine = {row["sparsity"]: row for row in rows if row["size"] == size}
        cells = [f"{mine[sparsity]['val']:.2f} ({mine[sparsity]['width']:.2f})" for sparsity in args.sparsities]
        print(f"| {size:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
