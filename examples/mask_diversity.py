"""Do networks of several seeds find the same mask? Trains them, packs them, compares every pair.

    python examples/mask_diversity.py --seeds 0 1 2 --epochs 5

Another seed means other random weights, another order of the images and other initial scores. What two masks have in
common is set beside what masks of the same sizes would have by chance, layer by layer, if neither knew of the other.
The files are left in the folder, for ``iterand-compress diff``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Table

from iterand_compress import IterandError, Recipe, RunOptions, load_recipe, read_seedmask, train
from iterand_compress.compress.analysis.compare import Comparison, compare
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.seedmask import write_seedmask
from iterand_compress.compress.training.recipe import override


@dataclass(frozen=True)
class Pair:
    """What the masks of two seeds have in common.

    ``equal_bits``: share of the weights that both keep or both prune; ``iou``: kept in both by kept in either; each
    beside its mean for independent masks. ``deviations``: how far the number of weights kept in both is from that
    mean, in standard deviations. ``equal_values``: share of the weights kept in both that have the same value.
    """

    seeds: tuple[int, int]
    equal_bits: float
    equal_bits_by_chance: float
    iou: float
    iou_by_chance: float
    deviations: float
    equal_values: float


def train_and_pack(recipe: Recipe, seed: int, folder: Path, device: str) -> tuple[Path, float]:
    """The packed file of one seed, and its share of right answers on the test images."""
    checkpoint = folder / f"seed{seed}.ckpt"
    result = train(override(recipe, {"subnetwork.seed": seed}), RunOptions(out=checkpoint, device=device, force=True))
    path = checkpoint.with_suffix(".seedmask")
    write_seedmask(network_of_checkpoint(load_checkpoint(checkpoint)), path)
    return path, result.test.accuracy


def pair_of(seeds: tuple[int, int], comparison: Comparison) -> Pair:
    """Sums over all layers of a comparison."""
    total = comparison.total
    assert total is not None
    variance = 0.0  # of a hypergeometric number in each layer: which weights a mask keeps is random, how many is not
    for layer in comparison.layers:
        n, (first, second) = layer.overlap.weights, layer.overlap.kept
        variance += first * (n - first) * second * (n - second) / (n * n * max(1, n - 1))
    differ_by_chance = sum(total.kept) - 2 * total.in_both_by_chance
    above = total.in_both - total.in_both_by_chance
    return Pair(
        seeds=seeds,
        equal_bits=1 - total.hamming_fraction,
        equal_bits_by_chance=1 - differ_by_chance / total.weights,
        iou=total.iou,
        iou_by_chance=total.iou_by_chance,
        deviations=above / math.sqrt(variance) if variance else 0.0,
        equal_values=total.equal_value_share,
    )


def show(pairs: list[Pair], accuracies: dict[int, float], title: str) -> None:
    """One row for each pair."""
    table = Table(title=title)
    for heading in ("seeds", "equal bits", "by chance", "IoU", "by chance", "deviations", "equal values"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs:
        numbers = (pair.equal_bits, pair.equal_bits_by_chance, pair.iou, pair.iou_by_chance)
        table.add_row(
            " ".join(map(str, pair.seeds)),
            *(f"{number:.4f}" for number in numbers),
            f"{pair.deviations:+.1f}",
            f"{pair.equal_values:.4f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    scores = ", ".join(f"seed {seed} {100 * score:.2f} %" for seed, score in accuracies.items())
    console.print(f"test accuracy: {scores}", highlight=False)


def main() -> None:
    """Train, pack, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="name or file of a recipe")
    parser.add_argument("--method", choices=["iterand", "edge-popup"], help="by default that of the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="at least two")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--folder", type=Path, default=Path("mask-diversity"), help="where the files go")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    seeds = list(dict.fromkeys(args.seeds))
    if len(seeds) < 2:
        parser.error("--seeds: expected at least two different ones")
    changes = {"train.epochs": args.epochs} | ({"subnetwork.method": args.method} if args.method else {})
    try:
        recipe = override(load_recipe(args.recipe), changes)
        args.folder.mkdir(parents=True, exist_ok=True)
        made = {seed: train_and_pack(recipe, seed, args.folder, args.device) for seed in seeds}
        files = {seed: read_seedmask(path) for seed, (path, _) in made.items()}
        pairs = [pair_of((a, b), compare(files[a], files[b])) for a, b in combinations(seeds, 2)]
    except IterandError as error:
        sys.exit(f"error: {error}")
    accuracies = {seed: accuracy for seed, (_, accuracy) in made.items()}
    settings = {"recipe": args.recipe, "method": recipe.subnetwork.method, "epochs": recipe.train.epochs}
    if args.json:
        results = {"pairs": [asdict(pair) for pair in pairs], "test_accuracy": accuracies}
        print(json.dumps(settings | results, indent=2))
        return
    show(pairs, accuracies, f"{args.recipe}, {recipe.subnetwork.method}, {recipe.train.epochs} epochs")


if __name__ == "__main__":
    main()
