"""Accuracy against the size of the file: subnetworks, and what people would ship otherwise, of one model and data set.

    python benchmarks/frontier.py --data-dir cifar10 --folder runs [--json OUT] [--png OUT]
    python benchmarks/frontier.py --data-dir cifar10 --folder gpu --model resnet18 --width 1 --epochs 100 --device cuda

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. By default, setting and runs are those of benchmarks/methods.py.
Ours: the `.seedmask` file and the packed ONNX of each method at each sparsity, and pruning at initialisation with its
trained weights in int8. The others: dense networks of the same and of smaller widths as ONNX in float32, float16 and
int8 (static quantisation by onnxruntime, per channel, calibrated on training images); and the trained dense network
pruned by magnitude, fine-tuned, in int8. Files that are not plain numbers also go through zstd -19.

A point is a file: its bytes on disk, and its right answers in onnxruntime on all test images, counted by one function
for all. That of a `.seedmask` must also be that of the recovered network in PyTorch. Runs go on where they stopped;
files and counts are kept in the folder and only made again when what they come from has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common import environment, save
from frontier_plot import draw
from iterand_compress import export_onnx
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import TrainConfig
from iterand_compress.compress.data.bundle import DataBundle, Split
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.files.atomic import atomic_path
from iterand_compress.compress.networks import resolve_device
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.recover import load_network
from iterand_compress.compress.seedmask import write_seedmask
from iterand_compress.export.export_options import ExportOptions
from iterand_compress.export.from_file import export_network
from methods import CRITERIA, SUBNETWORKS, TRAINED, configurations
from points import Point, beaten, pareto, table
from runs import TrainingRun, recipe_of, score_of_network, train_all
from shipped import (
    calibration_images,
    compress,
    plain,
    prune_and_fine_tune,
    quantise,
    right_answers,
    to_float16,
)

#: Dense networks, by the name of their run, and the share of the width that they have.
DENSE = {"dense": 1.0, "dense-half": 0.5, "dense-quarter": 0.25}
CALIBRATION = 512
#: By default.
METHODS, TICKETS = ("iterand", "edge-popup", "biprop", "frozen"), ("synflow",)


class Cache:
    """Files in a folder and right answers, each made once.

    Args:
        folder: where files are; `frontier-cache.json` in it says what they were made from.
        test: the images on which answers are counted.
    """

    def __init__(self, folder: Path, test: Split) -> None:
        self.folder, self.images, self._test = folder, len(test), test
        self._path = folder / "frontier-cache.json"
        empty: dict[str, Any] = {"files": {}, "answers": {}}
        self._known = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else empty
        self.answered = 0  # how many counts were made, and not found

    def file(self, name: str, source: Path, make: Callable[[Path], object], *, settings: str = "") -> Path:
        """A file made from another one, and with settings; made again if any of the three has changed."""
        path = self.folder / name
        if not self.has(name, source, settings=settings):
            with atomic_path(path) as temporary:
                make(temporary)
            self._known["files"][name] = {"from": f"{digest(source)} {settings}", "sha256": digest(path)}
            self._save()
        return path

    def has(self, name: str, source: Path, *, settings: str = "") -> bool:
        """Whether the file is there, made from this source with these settings."""
        path, known = self.folder / name, self._known["files"].get(name)
        if known is None or known["from"] != f"{digest(source)} {settings}":
            return False
        return path.exists() and digest(path) == known["sha256"]

    def answers(self, path: Path, count: Callable[[Path, Split], int] = right_answers) -> int:
        """Right answers of a file, as a function counts them."""
        key = f"{count.__name__} {len(self._test)} {digest(path)}"
        if key not in self._known["answers"]:
            self._known["answers"][key] = count(path, self._test)
            self.answered += 1
            self._save()
        found: int = self._known["answers"][key]
        return found

    def _save(self) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._known, indent=1), encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def right_answers_in_torch(path: Path, test: Split) -> int:
    """Right answers of the network that is recovered from a `.seedmask` file."""
    return score_of_network(load_network(path), test).correct


def setting(args: argparse.Namespace) -> tuple[str, ...]:
    """Options that all runs share."""
    return (
        *("--recipe", f"cifar10-{args.model}", "--data", args.data, "--width", str(args.width)),
        *("--epochs", str(args.epochs), "--device", args.device, "--set=data.crop=shift", "--set=data.pad_value=mean"),
        *("--set=data.validation=0", f"--set=train.precision={args.precision}", "--set=run.channels_last=true"),
    )


def options_of(model: str, name: str, sparsity: int) -> tuple[str, ...]:
    """Options of a method at a sparsity in per cent.

    Conv-6 has no BatchNorm, and what it needs at high sparsities is in methods.py. ResNets have it, and are trained
    by their recipe; so are dense ones, with affine BatchNorm, as Chijiwa et al. do.
    """
    if model == "conv6":
        return configurations()[f"{name}-{sparsity}"]
    if name == "dense":
        return ("--method", "dense", *TRAINED[:1], "--set=model.affine=true")
    share = ("--sparsity", str(sparsity / 100))
    if name == "iterand":
        return ("--method", "iterand", *share)
    return (*SUBNETWORKS[name], *share) if name in SUBNETWORKS else ("--method", name, *TRAINED[:1], *share)


def subnetwork_runs(args: argparse.Namespace) -> dict[TrainingRun, tuple[str, int]]:
    """Our runs, each with its method and sparsity."""
    return {
        TrainingRun(f"{name}-{sparsity}", (*setting(args), *options_of(args.model, name, sparsity)), args.seed): (
            name,
            sparsity,
        )
        for name in (*args.methods, *args.tickets)
        for sparsity in args.sparsities
    }


def dense_runs(args: argparse.Namespace) -> dict[TrainingRun, tuple[str, float]]:
    """Dense runs, each with its series and width."""
    options = (*setting(args), *options_of(args.model, "dense", 0))
    return {
        TrainingRun(f"{name}-0", (*options, "--width", str(share * args.width)), args.seed): (name, share * args.width)
        for name, share in DENSE.items()
    }


def our_points(run: TrainingRun, name: str, sparsity: int, cache: Cache, width: float) -> list[Point]:
    """The `.seedmask` file and the packed ONNX of a run."""
    out = run.checkpoint(cache.folder)
    dtype = "int8" if name in CRITERIA else None

    def pack(path: Path) -> None:
        write_seedmask(network_of_checkpoint(load_checkpoint(out), with_weights=dtype), path)

    seedmask = cache.file(f"{out.stem}.frontier.seedmask", out, pack)
    packed = cache.file(
        f"{out.stem}.packed.onnx", seedmask, lambda path: export_network(seedmask, path, ExportOptions("packed"))
    )
    files = {".seedmask": seedmask, "packed ONNX": packed}
    for form, path in list(files.items()):
        files[f"{form} + zstd"] = cache.file(f"{path.name}.zst", path, lambda target, path=path: compress(path, target))
    about = Point(f"{name}, int8" if dtype else name, "", sparsity / 100, width, 0, 0, 0, ours=True)
    points = [measured(replace(about, form=form), path, cache) for form, path in files.items()]
    in_torch = cache.answers(seedmask, right_answers_in_torch)
    if {point.correct for point in points} != {in_torch}:
        counts = ", ".join(f"{point.form} {point.correct}" for point in points)
        raise SystemExit(f"{run.name}: right answers differ: recovered in PyTorch {in_torch}, {counts}")
    return points


def measured(about: Point, path: Path, cache: Cache) -> Point:
    """A point with the bytes and the right answers of a file."""
    found = replace(about, file_bytes=path.stat().st_size, correct=cache.answers(path), images=cache.images)
    print(f"{found.series} {found.sparsity:.0%}, {found.form}: {found.file_bytes:,} bytes, {found.percent:.2f} %")
    return found


def dense_points(run: TrainingRun, name: str, width: float, cache: Cache, images: Any) -> list[Point]:
    """A dense network in all forms."""
    out = run.checkpoint(cache.folder)
    exported = cache.file(f"{out.stem}.exported.onnx", out, lambda path: export_network(out, path))
    return other_points(exported, Point(name, "", 0.0, width, 0, 0, 0, ours=False), cache, images)


def other_points(
    exported: Path, about: Point, cache: Cache, images: Any, forms: Sequence[str] = ("float32", "float16", "int8")
) -> list[Point]:
    """A network as ONNX in number formats; int8 also through zstd."""
    stem = exported.name.removesuffix(".exported.onnx")
    single = cache.file(f"{stem}.float32.onnx", exported, lambda path: plain(exported, path))
    files = {"float32 ONNX": single} if "float32" in forms else {}
    if "float16" in forms:
        half = cache.file(f"{stem}.float16.onnx", single, lambda path: to_float16(single, path))
        files["float16 ONNX"] = half
    bytewise = cache.file(
        f"{stem}.int8.onnx", single, lambda path: quantise(single, path, images), settings=f"{len(images)} images"
    )
    smallest = cache.file(f"{stem}.int8.onnx.zst", bytewise, lambda path: compress(bytewise, path))
    files |= {"int8 ONNX": bytewise, "int8 ONNX + zstd": smallest}
    return [measured(replace(about, form=form), path, cache) for form, path in files.items()]


def pruned_points(
    run: TrainingRun, width: float, cache: Cache, data: DataBundle, images: Any, args: argparse.Namespace
) -> list[Point]:
    """The trained dense network, pruned by magnitude and fine-tuned, at each sparsity."""
    out = run.checkpoint(cache.folder)
    dense = recipe_of(run.words).train
    tuning = TrainConfig(
        epochs=args.finetune_epochs,
        lr=args.finetune_lr,
        batch_size=dense.batch_size,
        weight_decay=dense.weight_decay,
        precision=dense.precision,
    )
    points = []
    for sparsity in args.sparsities:

        def tune(path: Path, sparsity: int = sparsity) -> None:
            device = resolve_device(args.device)
            trained = load_network(out).model
            tuned = prune_and_fine_tune(trained, data, sparsity / 100, tuning, device=device, first=dense.epochs)
            export_onnx(tuned, path, input=data.input)

        name, settings = f"magnitude-tuned-{sparsity}-{args.seed}.exported.onnx", tuning.model_dump_json()
        if args.no_train and not cache.has(name, out, settings=settings):
            continue
        exported = cache.file(name, out, tune, settings=settings)
        about = Point("pruned, fine-tuned", "", sparsity / 100, width, 0, 0, 0, ours=False)
        points += other_points(exported, about, cache, images, forms=("int8",))
    return points


def finished(runs: Sequence[TrainingRun], folder: Path) -> list[TrainingRun]:
    """Those that need no training."""
    found = [run for run in runs if run.checkpoint(folder).exists()]
    return [run for run in found if load_checkpoint(run.checkpoint(folder)).complete]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="folder", help="folder, or cifar10 as torchvision has it")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where runs, files and counts of one data set are kept"
    )
    parser.add_argument("--model", default="conv6", help="of a recipe cifar10-MODEL")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--methods", nargs="+", choices=sorted(SUBNETWORKS), default=list(METHODS))
    parser.add_argument("--tickets", nargs="*", choices=sorted(CRITERIA), default=list(TICKETS))
    parser.add_argument("--sparsities", type=int, nargs="+", default=[50, 80, 90, 95], help="per cent pruned")
    parser.add_argument("--finetune-epochs", type=int, default=4, help="after pruning by magnitude")
    parser.add_argument("--finetune-lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--no-train", action="store_true", help="leave out runs that are not finished")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path, help="also draw it")
    args = parser.parse_args()
    ours, dense = subnetwork_runs(args), dense_runs(args)
    wanted = [*ours, *dense]
    if not args.no_train:
        train_all(wanted, args.folder, data_dir=args.data_dir, jobs=args.jobs)
    there = set(finished(wanted, args.folder))
    missing = [run.name for run in wanted if run not in there]
    data = load_data(recipe_of(setting(args)).data, data_dir=args.data_dir)
    images = calibration_images(data.train, CALIBRATION)
    cache = Cache(args.folder, data.test)
    points = []
    for run, (name, sparsity) in ours.items():
        if run in there:
            points += our_points(run, name, sparsity, cache, args.width)
    for run, (name, width) in dense.items():
        if run in there:
            points += dense_points(run, name, width, cache, images)
            if name == "dense":
                points += pruned_points(run, width, cache, data, images, args)
    print(table(points))
    for line in beaten(points):
        print(line)
    if missing:
        print(f"not finished, and left out: {', '.join(missing)}")
    best = pareto(points)
    save(
        {
            "environment": environment(),
            "setting": " ".join(setting(args)),
            "configurations": {run.name: " ".join(run.words[len(setting(args)) :]) for run in wanted},
            "fine_tuning": {"epochs": args.finetune_epochs, "lr": args.finetune_lr},
            "calibration_images": len(images),
            "missing": missing,
            "points": [{**asdict(point), "on_frontier": point in best} for point in points],
        },
        args.json,
    )
    if args.png is not None:
        draw(points, args.png, f"{args.model} × {args.width:g}, CIFAR-10, {args.epochs} epochs")


if __name__ == "__main__":
    main()
