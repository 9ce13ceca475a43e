"""Tables of the papers: run a list of configurations with seeds, and put our accuracy beside the published one.

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py conv6 --data-dir data --folder runs --seeds 0 1 2 --device cuda [--json OUT]
    python benchmarks/reproduce.py sparsities --only 'conv6-*-90' --data-dir data --folder runs
    python benchmarks/reproduce.py smoke --folder runs --epochs 1

Settings are those of the papers, by the shipped recipes. Whatever is not (fewer epochs, `--also`, bfloat16 on a GPU)
is said in the JSON and under the table. Runs go on where they stopped, and finished ones are only read, so the command
can be repeated until all are done. The accuracy is that of the last epoch on the test images; ± is the sample standard
deviation over seeds. Each subnetwork is packed; of networks that were pruned and then trained, with float32 weights.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from common import environment, save
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.training.recipe import differences, override
from runs import TrainingRun, packed_bytes, recipe_of, stored_score, train_all

# Where published numbers come from. Numbers that no source gives are left out.
RECYCLING = "plot scripts of Gorbett and Whitley: their runs, 250 epochs"
OTHERWISE = f"{RECYCLING}, in settings that are not these"
PAPER = "Chijiwa et al., NeurIPS 2021"
SYNFLOW = "benchmark of the SynFlow code"
BIPROP = "README of Biprop's code"


@dataclass(frozen=True)
class Row:
    """A configuration of a table.

    Attributes:
        name: unique in its table.
        options: of `iterand-compress train`.
        published: accuracy in per cent; ``None`` if no source at hand gives one.
        source: of that number.
    """

    name: str
    options: tuple[str, ...]
    published: float | None = None
    source: str = ""


def row(name: str, options: str, published: float | None = None, source: str = "") -> Row:
    """A row with options as one would type them."""
    return Row(name, tuple(options.split()), published, source if published is not None else "")


# In Chijiwa et al.'s code, edge-popup is IteRand that never redraws: signed scores, from the same distribution.
SIGNED = "--method edge-popup --set subnetwork.selection.rule=signed --set subnetwork.selection.score_bound=2.449"
# Recipes have the authors' settings for dense training.
DENSE = "--method dense"


# Of Gorbett and Whitley's runs, at 50 %.
CONV6_BY_WIDTH = {
    "dense": {0.1: 72.5, 0.25: 83.7, 0.5: 87.5, 1: 89.1},
    "edge-popup": {0.1: 57.3, 0.25: 78.5, 0.5: 86.2, 1: 89.5},
    "iterand": {0.1: 64.5, 0.25: 83.0, 0.5: 88.2, 1: 90.7},
}


def conv6() -> list[Row]:
    """Conv-6 by width at 50 %, in the settings of Chijiwa et al."""
    methods = {
        "dense": DENSE,
        "edge-popup": SIGNED,
        "iterand": "--method iterand",
    }
    return [
        row(f"{name}-width-{width}", f"--recipe cifar10-conv6 --width {width} {options}", published, OTHERWISE)
        for name, options in methods.items()
        for width, published in CONV6_BY_WIDTH[name].items()
    ]


# Gorbett and Whitley: 250 epochs of all 50,000 images; they redraw once an epoch, and select by magnitude.
PLAIN6 = "--recipe cifar10-conv6-edge-popup --epochs 250"
REDRAWN = (
    "--method iterand --set subnetwork.selection.rule=magnitude "
    f"--set subnetwork.selection.score_bound={0.408 * 6**0.5} "
    "--set subnetwork.resample.every=390 --set subnetwork.resample.rate=0.1"
)


def widths() -> list[Row]:
    """Conv-6 by width at 50 %, in the settings of Gorbett and Whitley."""
    methods = {"edge-popup": PLAIN6, "iterand": f"{PLAIN6} {REDRAWN}"}
    return [
        row(f"{name}-width-{width}", f"{options} --width {width}", published, RECYCLING)
        for name, options in methods.items()
        for width, published in CONV6_BY_WIDTH[name].items()
    ]


def resnet18() -> list[Row]:
    """ResNet-18 at 60 %."""
    recipe = "--recipe cifar10-resnet18"
    return [
        row("dense", f"{recipe} {DENSE}", 93.0, OTHERWISE),
        row("edge-popup", f"{recipe} {SIGNED}"),
        row("iterand", f"{recipe} --method iterand", 92.47, PAPER),
    ]


def sparsities() -> list[Row]:
    """Conv-6 and ResNet-18 by share pruned, in the settings of Gorbett and Whitley.

    Their Biprop scales the weights of Conv-6 (`scale_fan: True`) by the share that is *pruned*: as `scale_fan` at 50 %,
    by 2.24 instead of 1.12 at 20 %, and by 1.12 and 1.05 at 80 and 90 %, where no scale is nearer to it than 2.24 and
    3.16. With recycling, their configurations leave it out.
    """
    biprop = "--method biprop --set subnetwork.distribution=normal"
    plain18 = "--recipe cifar10-resnet18-edge-popup --epochs 250 --batch-size 128"
    recycled6 = "--recipe cifar10-conv6-recycling"
    of_conv6 = {
        "edge-popup": (PLAIN6, (83.0, 89.5, 85.4, 79.6)),
        "biprop": ("--recipe cifar10-conv6-biprop", (78.2, 89.5, 87.5, 82.4)),
        "iterand": (f"{PLAIN6} {REDRAWN}", (90.6, 90.7, 86.9, 81.2)),
        "recycling": (recycled6, (91.1, 90.9, 88.6, 83.2)),
        "biprop-recycling": (
            f"{recycled6} --method biprop-recycling --set subnetwork.distribution=normal",
            (90.2, 90.9, 90.0, 85.5),
        ),
    }
    of_resnet18 = {
        "edge-popup": (plain18, (92.5, 89.9, 81.7)),
        "biprop": (f"{plain18} {biprop}", (92.6, 89.6, 82.6)),
        "iterand": (f"{plain18} {REDRAWN}", (86.5, 84.2, 80.3)),
        "biprop-recycling": ("--recipe cifar10-resnet18-recycling", (93.5, 90.9, 85.3)),
    }
    networks: list[tuple[str, tuple[int, ...], dict[str, tuple[str, tuple[float, ...]]]]] = [
        ("conv6", (20, 50, 80, 90), {**of_conv6}),
        ("resnet18", (95, 98, 99), {**of_resnet18}),
    ]
    unscaled = {("conv6", "biprop", share): " --set subnetwork.scale_fan=false" for share in (80, 90)}
    return [
        row(
            f"{network}-{name}-{share}",
            f"{options} --sparsity {share / 100}{unscaled.get((network, name, share), '')}",
            published,
            RECYCLING,
        )
        for network, shares, methods in networks
        for name, (options, numbers) in methods.items()
        for share, published in zip(shares, numbers, strict=True)
    ]


def biprop() -> list[Row]:
    """The best networks of Diffenderfer and Kailkhura: binary weights (1/32), and binary activations too (1/1)."""
    affine = "--set model.affine=true"
    return [
        row("resnet18", "--recipe cifar10-resnet18-biprop", 94.66, BIPROP),
        row("resnet18-affine", f"--recipe cifar10-resnet18-biprop {affine}", 94.8, BIPROP),
        row("vgg-small-binary", "--recipe cifar10-vgg-small-biprop-binary", 89.11, BIPROP),
        row("vgg-small-binary-affine", f"--recipe cifar10-vgg-small-biprop-binary {affine} --lr 0.0002", 91.9, BIPROP),
        row("conv6-binary", "--recipe cifar10-conv6-biprop-binary"),
        row("imagenet-wideresnet50", "--recipe imagenet-wideresnet50-biprop", 72.67, BIPROP),
        row("imagenet-wideresnet50-affine", f"--recipe imagenet-wideresnet50-biprop {affine}", 74.03, BIPROP),
    ]


def pruned_at_init() -> list[Row]:
    """ResNet-18 pruned at initialisation and then trained, BatchNorm with it. The schedule is that of the recipe.

    SNIP and GraSP see a random sample in evaluation mode, as in the code that the published numbers come from.
    """
    sample = " --set subnetwork.prune.random_sample=true --set subnetwork.prune.eval_mode=true"
    numbers = {
        "random": (92.9, 83.0),
        "magnitude": (94.4, 10.0),
        "snip": (94.3, 90.8),
        "grasp": (93.8, 89.7),
        "synflow": (94.1, 90.4),
    }
    return [
        row(
            f"{name}-{share}",
            f"--recipe cifar10-resnet18 --set model.affine=true --method {name} --set subnetwork.distribution=normal "
            f"--sparsity {share / 100}{sample if name in ('snip', 'grasp') else ''}",
            published,
            SYNFLOW,
        )
        for name, both in numbers.items()
        for share, published in zip((90, 99), both, strict=True)
    ]


def imagenet() -> list[Row]:
    """ResNets on ImageNet at 70 %."""
    found = []
    for depth in (34, 50, 101):
        found.append(row(f"edge-popup-resnet{depth}", f"--recipe imagenet-resnet{depth} {SIGNED}"))
        found.append(row(f"iterand-resnet{depth}", f"--recipe imagenet-resnet{depth} --method iterand"))
    return [*found, row("edge-popup-resnet50-own-settings", "--recipe imagenet-resnet50-edge-popup")]


def smoke() -> list[Row]:
    """A small network on the bundled digits: whether everything works."""
    shared = "--recipe digits --width 0.25"
    return [
        row("iterand", f"{shared} --method iterand"),
        row("edge-popup", f"{shared} --method edge-popup"),
        row("dense", f"{shared} --method dense --lr 0.05"),
    ]


TABLES = {
    "conv6": conv6,
    "widths": widths,
    "resnet18": resnet18,
    "sparsities": sparsities,
    "biprop": biprop,
    "pruned-at-init": pruned_at_init,
    "imagenet": imagenet,
    "smoke": smoke,
}


def changes_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Options that all runs get beyond their row."""
    words = ["--device", args.device]
    if args.epochs is not None:
        words += ["--epochs", str(args.epochs)]
    if args.data is not None:
        words += ["--data", args.data]
    return (*words, *shlex.split(args.also))


def finish(about: Row, table: str, runs: Sequence[TrainingRun], folder: Path) -> dict[str, Any]:
    """What the runs of a row, one for each seed, came to."""
    outs = [run.checkpoint(folder) for run in runs]
    percents = [100 * stored_score(out).accuracy for out in outs]
    stored = [load_checkpoint(out).recipe for out in outs]
    # A row does not say in which precision; the papers' code computed in float32.
    paper = recipe_of((*about.options, "--set=train.precision=float32", "--seed", str(runs[0].seed)))
    if paper.train.scale_free is None:  # a recipe of ours, which leaves it to the network
        paper = override(paper, {"train.scale_free": stored[0].train.scale_free})
    subnetwork, sizes = paper.subnetwork, None
    if subnetwork.selection is not None or subnetwork.prune is not None:
        dtype = None if subnetwork.selection is not None else "float32"
        sizes = [packed_bytes(out, with_weights=dtype) for out in outs]
    return {
        "table": table,
        **asdict(about),
        "options": " ".join(about.options),
        "seeds": [run.seed for run in runs],
        "accuracies": percents,
        "mean": statistics.mean(percents),
        "spread": statistics.stdev(percents) if len(percents) > 1 else None,
        "n": len(percents),
        "file_bytes": sizes,
        "unlike_paper": differences(paper, stored[0]),
    }


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """A row for each configuration, and under the table what was not as in the papers."""
    lines = [
        "| table | configuration | accuracy % | n | published % | source | file bytes |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    for found in results:
        spread = f" ± {found['spread']:.2f}" if found["spread"] is not None else ""
        published = "–" if found["published"] is None else f"{found['published']:g}"
        size = f"{statistics.mean(found['file_bytes']):,.0f}" if found["file_bytes"] else "–"
        lines.append(
            f"| {found['table']} | {found['name']} | {found['mean']:.2f}{spread} | {found['n']} | {published} "
            f"| {found['source']} | {size} |"
        )
    unlike = list(dict.fromkeys(change for found in results for change in found["unlike_paper"]))
    if unlike:
        lines += ["", f"Not as in the papers: {'; '.join(unlike)}."]
    return "\n".join(lines)


def listing() -> str:
    """All tables and their rows."""
    lines = []
    for table, rows in TABLES.items():
        lines.append(f"{table}: {(rows.__doc__ or '').strip()}")
        for about in rows():
            published = f"  (published: {about.published:g} %, {about.source})" if about.published is not None else ""
            lines.append(f"  {about.name}: {' '.join(about.options)}{published}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help=f"any of {', '.join(TABLES)}")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the rows; * stands for anything")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="instead of the papers'")
    parser.add_argument("--also", default="", metavar="OPTIONS", help="further options of train, for all runs")
    parser.add_argument("--data", help="folder, for a data set in folders of images, instead of torchvision's")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="where checkpoints and files go")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.list:
        print(listing())
        return
    if not args.tables or args.folder is None:
        parser.error("give tables and --folder, or --list")
    chosen = [
        (table, about)
        for table in args.tables
        for about in TABLES[table]()
        if args.only is None or any(fnmatch(about.name, pattern) for pattern in args.only)
    ]
    if not chosen:
        parser.error(
            f"--only: none of the rows; there are {', '.join(r.name for t in args.tables for r in TABLES[t]())}"
        )
    changes = changes_of(args)
    runs = {
        (table, about): [TrainingRun(f"{table}-{about.name}", (*about.options, *changes), seed) for seed in args.seeds]
        for table, about in chosen
    }
    # Seed by seed: all rows have one before any has two.
    order = [found[number] for number in range(len(args.seeds)) for found in runs.values()]
    train_all(order, args.folder, data_dir=args.data_dir, jobs=args.jobs)
    results = [finish(about, table, found, args.folder) for (table, about), found in runs.items()]
    print(markdown(results))
    save({"environment": environment(), "changes": " ".join(changes), "rows": results}, args.json)


if __name__ == "__main__":
    main()
