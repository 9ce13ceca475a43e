"""What makes masks learn: one change at a time, each at the same budget, judged by held-out training images.

    python benchmarks/learning.py --data-dir cifar10 --folder runs [--seeds 0 1] [--jobs 2] [--json OUT]
    python benchmarks/learning.py --data-dir cifar10 --folder runs --only together dense --epochs 12

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. The setting is the recipe `cifar10-fast` with hard masks at half
the width (496,640 weights) in 2 epochs, with 5,000 of the training images held out: the same for all seeds. Nothing is
chosen by the test images; their accuracy is in the JSON file beside that of the held-out ones. Each run has one thread.
Finished runs are only read.

Some changes are no settings, because they did not help: for these, this file changes the code while it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import torch
from torch import nn

from common import environment, save
from iterand_compress import load_recipe
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.mask import straight_through
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.models import airbench
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.seedmask import write_seedmask
from iterand_compress.compress.training import loop
from iterand_compress.compress.training.recipe import override
from iterand_compress.compress.training.run import Run
from iterand_compress.compress.training.run_options import RunOptions

#: The recipe's settings that a row changes, and what it changes in the code.
Change = tuple[dict[str, Any], "Callable[[], Any] | None"]


def step_wrapped(after: Callable[[Run, dict[str, Any]], None]) -> Callable[[], Any]:
    """Call ``after`` when a training step is done, with the run and a dictionary that lives as long as it."""

    @contextmanager
    def patched() -> Iterator[None]:
        step, memory = loop.training_step, {}

        def wrapped(run: Run, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = step(run, pixels, labels)
            with torch.no_grad():
                after(run, memory)
            return loss

        with mock.patch.object(loop, "training_step", wrapped):
            yield

    return patched


def trained(run: Run) -> list[nn.Parameter]:
    return [parameter for parameter in run.model.parameters() if parameter.requires_grad]


def is_last(run: Run) -> bool:
    return run.position.step + 1 == run.recipe.train.epochs * run.steps_per_epoch


def lookahead(run: Run, memory: dict[str, Any], every: int = 5) -> None:
    """Every five steps, slow and fast parameters meet; slow ones move less and less (as airbench has it)."""
    done = (run.position.step + 1) / (run.recipe.train.epochs * run.steps_per_epoch)
    if "slow" not in memory:
        memory["slow"] = [parameter.clone() for parameter in trained(run)]
    slow = memory["slow"]
    if (run.position.step + 1) % every and not is_last(run):
        return
    decay = 0.95**every * done**3
    for mine, parameter in zip(slow, trained(run), strict=True):
        mine.lerp_(parameter, 1 - decay)
        parameter.copy_(mine)


def averaged(decay: float) -> Callable[[Run, dict[str, Any]], None]:
    """An exponential moving average of all parameters takes their place in the end, with statistics of its own."""

    def after(run: Run, memory: dict[str, Any]) -> None:
        if "average" not in memory:
            memory["average"] = [parameter.clone() for parameter in trained(run)]
        average = memory["average"]
        for mine, parameter in zip(average, trained(run), strict=True):
            mine.lerp_(parameter, 1 - decay)
            if is_last(run):
                parameter.copy_(mine)
        if is_last(run):  # the statistics of BatchNorm are those of other weights
            batches = run.data.train.train_batches(0, run.batch_size, run.device)
            for (pixels, _), _ in zip(batches, range(20), strict=False):
                with run.autocast():
                    run.forward(run.inputs(pixels))

    return after


def keep_identity(run: Run, memory: dict[str, Any]) -> None:
    """From the first step on, each output keeps the weight from the same place of the input of its number."""
    if memory:
        return
    memory["done"] = True
    for _, masked, scores in masked_layers(run.model):
        if len(masked.spec.shape) == 4:
            outputs, inputs = masked.spec.shape[:2]
            same = range(min(outputs, inputs))
            scores.view(masked.spec.shape)[same, same, 1, 1] = 2 * masked.score_bound


@contextmanager
def slope_of_soft_masks() -> Iterator[None]:
    """The gradient of soft masks is that of the sigmoid, in units of its width, instead of the straight-through one."""
    kind = straight_through.StraightThrough
    forward, backward = kind.forward, kind.backward

    def noted(ctx: Any, scores: Any, codes: Any, mask: Any, factors: Any, share: Any, spec: Any) -> Any:
        ctx.slope = None if share is None else 4 * share * (1 - share)
        return forward(ctx, scores, codes, mask, factors, share, spec)

    def steep(ctx: Any, grad: Any) -> Any:
        found, *rest = backward(ctx, grad)
        return (found if ctx.slope is None else found * ctx.slope, *rest)

    with (
        mock.patch.object(kind, "forward", staticmethod(noted)),
        mock.patch.object(kind, "backward", staticmethod(steep)),
    ):
        yield


def logits_times(factor: float) -> Callable[[], Any]:
    return lambda: mock.patch.object(airbench, "LOGIT_SCALE", factor)


#: The soft masks of the recipe.
SOFT = {"subnetwork.selection.softness": 0.5, "subnetwork.selection.soft_until": 0.8}
TOGETHER = {**SOFT, "subnetwork.selection.last_sparsity": 0.5}
GLOBAL = {**SOFT, "subnetwork.selection.scope": "global"}
SIGNED, NINE_TENTHS = {"subnetwork.selection.rule": "invert"}, {"subnetwork.sparsity": 0.9}
#: The recipe itself, with hard masks, is the first row.
CHANGES: dict[str, Change] = {
    "hard-masks": ({}, None),
    "dense": ({"subnetwork.method": "dense"}, None),
    "dense-lr-0.8": ({"subnetwork.method": "dense", "train.lr": 0.8}, None),
    "dense-lr-0.2": ({"subnetwork.method": "dense", "train.lr": 0.2}, None),
    "papers-rate": ({"train.scale_free": False, "train.lr": 0.1}, None),
    "lr-0.3": ({"train.lr": 0.3}, None),
    "lr-1.2": ({"train.lr": 1.2}, None),
    "lr-2.4": ({"train.lr": 2.4}, None),
    "score-bound-0.2": ({"subnetwork.selection.score_bound": 0.2}, None),
    "no-weight-decay": ({"train.weight_decay": 0.0}, None),
    "weight-decay-2e-3": ({"train.weight_decay": 2e-3}, None),
    "momentum-0.85": ({"train.momentum": 0.85}, None),
    "momentum-0.95": ({"train.momentum": 0.95}, None),
    "cosine": ({"train.schedule": "cosine", "train.warmup_epochs": 0}, None),
    "batch-128": ({"train.batch_size": 128}, None),
    "batch-512": ({"train.batch_size": 512}, None),
    "label-smoothing-0.1": ({"train.label_smoothing": 0.1}, None),
    "logits-0.1": ({}, logits_times(0.1)),
    "logits-0.6": ({}, logits_times(0.6)),
    "relu": ({"model.activation": "relu"}, None),
    "batchnorm-not-affine": ({"model.affine": False}, None),
    "random-flips": ({"data.flip": True}, None),
    "black-rims": ({"data.pad_value": "black"}, None),
    "no-scale-fan": ({"subnetwork.scale_fan": False}, None),
    "sparsity-0.5": ({"subnetwork.sparsity": 0.5}, None),
    "sparsity-0.9": ({"subnetwork.sparsity": 0.9}, None),
    "sparsity-0.95": ({"subnetwork.sparsity": 0.95}, None),
    "last-layer-0.5": ({"subnetwork.selection.last_sparsity": 0.5}, None),
    "first-layer-0.5": ({"subnetwork.selection.first_sparsity": 0.5}, None),
    "global": ({"subnetwork.selection.scope": "global"}, None),
    "ramp": ({"subnetwork.selection.ramp_epochs": 1}, None),
    "signed-scores": ({"subnetwork.selection.rule": "signed"}, None),
    "uniform": ({"subnetwork.distribution": "uniform"}, None),
    "normal": ({"subnetwork.distribution": "normal"}, None),
    "two-masks": ({"subnetwork.selection.multiplicity": 2}, None),
    "frozen-0.5": ({"subnetwork.selection.frozen": 0.5}, None),
    "resampling": ({"subnetwork.resample": {"every": 40, "rate": 0.1}}, None),
    "resampling-two-draws": ({"subnetwork.resample": {"every": 40, "rate": 0.1, "draws": 2}}, None),
    "recycling": ({"subnetwork.recycle": {"every": 1, "rate": 0.1}}, None),
    "kept-identity": ({}, step_wrapped(keep_identity)),
    "lookahead": ({}, step_wrapped(lookahead)),
    "average-0.98": ({}, step_wrapped(averaged(0.98))),
    "soft-masks": ({"subnetwork.selection.softness": 0.3}, None),
    "soft-masks-1": ({"subnetwork.selection.softness": 1.0}, None),
    "soft-masks-0.1": ({"subnetwork.selection.softness": 0.1}, None),
    "soft-masks-late": ({"subnetwork.selection.softness": 0.3, "subnetwork.selection.soft_until": 0.9}, None),
    "soft-masks-slope": ({"subnetwork.selection.softness": 0.3}, slope_of_soft_masks),
    "signed-supermask": (SIGNED, None),
    "signed-supermask-0.9": ({**SIGNED, **NINE_TENTHS}, None),
    "together": (TOGETHER, None),
    "together-0.9": ({**TOGETHER, **NINE_TENTHS}, None),
    "together-0.9-first": ({**TOGETHER, **NINE_TENTHS, "subnetwork.selection.first_sparsity": 0.5}, None),
    "together-0.9-signed": ({**TOGETHER, **NINE_TENTHS, **SIGNED}, None),
    "global-soft": (GLOBAL, None),
    "global-soft-0.9": ({**GLOBAL, **NINE_TENTHS}, None),
    "global-soft-signed-0.85": ({**GLOBAL, **SIGNED, "subnetwork.sparsity": 0.85}, None),
}


def recipe_of(name: str, seed: int, epochs: int, width: float) -> Recipe:
    changes = dict(CHANGES[name][0])
    method = changes.pop("subnetwork.method", "edge-popup")
    recipe = load_recipe("cifar10-fast", subnetwork={"method": method})
    base: dict[str, Any] = {
        "subnetwork.seed": seed,
        "data.name": "folder",
        "data.validation": 0.1,
        "data.seed": 0,
        "model.width": width,
        "train.epochs": epochs,
        "train.warmup_epochs": max(1, epochs // 5),
    }
    if method != "dense":
        base["subnetwork.selection.softness"] = 0.0
    return override(recipe, {**base, **changes})


def train_one(name: str, seed: int, args: argparse.Namespace) -> None:
    """Train a row, in this process."""
    torch.set_num_threads(1)
    out = checkpoint(args.folder, name, seed, args)
    recipe = recipe_of(name, seed, args.epochs, args.width)
    patch = CHANGES[name][1]
    with patch() if patch is not None else mock.patch.object(loop, "train", loop.train):
        # What a change remembers is in no checkpoint.
        resume = out.exists() and patch is None
        loop.train(recipe, RunOptions(out, data_dir=args.data_dir, device="cpu", resume=resume, force=not resume))


def checkpoint(folder: Path, name: str, seed: int, args: argparse.Namespace) -> Path:
    return folder / f"{name}-w{args.width:g}-e{args.epochs}-{seed}.ckpt"


def finished(out: Path) -> bool:
    return out.exists() and load_checkpoint(out).complete


def result(out: Path) -> dict[str, Any]:
    """The last epoch of a finished run, in %, and what its file spends on each weight."""
    stored = load_checkpoint(out)
    assert stored.test is not None
    lines = [json.loads(line) for line in out.with_suffix(".metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [line for line in lines if "val_accuracy" in line]
    row = {
        "val": 100 * epochs[-1]["val_accuracy"],
        "test": 100 * stored.test["correct"] / stored.test["images"],
        "seconds": sum(line["seconds"] for line in epochs),
    }
    if stored.recipe.subnetwork.has_masks:
        report = write_seedmask(network_of_checkpoint(stored), out.with_suffix(".seedmask"))
        row["bits"] = (report.mask_bits + report.log_bits) / report.weights
        row["bytes"] = report.file_bytes
    return row


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--train", nargs=2, metavar=("NAME", "SEED"), help="train one row, and end")
    args = parser.parse_args(words)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.train:
        train_one(args.train[0], int(args.train[1]), args)
        return
    same = ["--data-dir", args.data_dir, "--folder", args.folder, "--epochs", args.epochs, "--width", args.width]

    def run(name: str, seed: int) -> None:
        if not finished(checkpoint(args.folder, name, seed, args)):
            subprocess.run([*map(str, (sys.executable, __file__, *same, "--train", name, seed))], check=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: run(*job), [(name, seed) for seed in args.seeds for name in args.only]))
    rows: dict[str, list[dict[str, Any]]] = {
        name: [result(checkpoint(args.folder, name, seed, args)) for seed in args.seeds] for name in args.only
    }
    setting = {"epochs": args.epochs, "width": args.width, "seeds": args.seeds}
    save({"environment": environment(), "setting": setting, "rows": rows}, args.json)
    print(f"| change | held out, % | {', '.join(f'seed {seed}' for seed in args.seeds)} | bits/weight |")
    print("|---|---:|---|---:|")
    for name, found in sorted(rows.items(), key=lambda row: -mean(one["val"] for one in row[1])):
        each = ", ".join(f"{one['val']:.2f}" for one in found)
        bits = f"{mean(one['bits'] for one in found):.3f}" if "bits" in found[0] else "–"
        print(f"| {name} | {mean(one['val'] for one in found):.2f} | {each} | {bits} |")


if __name__ == "__main__":
    main()
