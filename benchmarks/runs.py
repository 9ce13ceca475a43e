"""Training runs of benchmarks: begin, go on, or only read; then pack what is finished and count its right answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iterand_compress.cli.train_command import command as train_command
from iterand_compress.cli.train_command import recipe_changes
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.data.bundle import Split
from iterand_compress.compress.models import has_batch_norm
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.recover import LoadedNetwork, load_network
from iterand_compress.compress.seedmask import PackReport, write_seedmask
from iterand_compress.compress.training.evaluate import Score, evaluate, network_logits
from iterand_compress.compress.training.recipe import differences, load_recipe, override

__all__ = [
    "PARTS",
    "TrainingRun",
    "command",
    "pack",
    "packed_bytes",
    "recipe_of",
    "score_of_network",
    "stored_score",
    "train",
    "train_all",
]

#: What a `.seedmask` file spends bits on.
PARTS = ("mask", "log", "coat", "value")


@dataclass(frozen=True)
class TrainingRun:
    """A run of `train`.

    Attributes:
        name: names its files, together with the seed.
        options: of `iterand-compress train`, with a recipe; where data and files are is no part of them.
        seed: of everything random.
    """

    name: str
    options: tuple[str, ...]
    seed: int = 0

    def checkpoint(self, folder: Path) -> Path:
        """Where the run is kept."""
        return folder / f"{self.name}-{self.seed}.ckpt"

    @property
    def words(self) -> tuple[str, ...]:
        """All options."""
        return (*self.options, "--seed", str(self.seed))


def command(*arguments: object, threads: int | None = None) -> dict[str, Any]:
    """What a command of the tool prints as JSON.

    Args:
        arguments: words of the command line.
        threads: of the process; by default, as many as torch takes.

    Raises:
        SystemExit: it failed.
    """
    script = str(Path(sys.executable).with_name("iterand-compress"))
    alone = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    words = [script, *map(str, arguments), "--json"]
    done = subprocess.run(words, env=alone, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # the tool has said why, in one line on standard error
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def recipe_of(options: Sequence[str]) -> Recipe:
    """The settings that options of `train` stand for; an option that does not exist ends the benchmark."""
    given = train_command.make_context("train", list(options)).params
    changes = recipe_changes(given)
    method = changes.get("subnetwork.method")
    return override(load_recipe(given["recipe"], **({"subnetwork": {"method": method}} if method else {})), changes)


def train(run: TrainingRun, folder: Path, *, data_dir: Path | None = None, threads: int | None = None) -> Path:
    """Train in a process of its own, or go on where the run stopped. A finished run is only read.

    Raises:
        SystemExit: the folder has a run of this name with other settings.
    """
    out = run.checkpoint(folder)
    words: list[object] = ["train", *run.words, "--out", out]
    if out.exists():
        stored = load_checkpoint(out)
        asked = recipe_of(run.words)
        if asked.train.precision == "auto":  # a run says which one it was
            asked = override(asked, {"train.precision": stored.recipe.train.precision})
        if asked.train.scale_free is None:  # the same
            asked = override(asked, {"train.scale_free": stored.recipe.train.scale_free})
        if has_batch_norm(asked.model):
            asked = override(asked, {"model.batch_norm": True})
        changed = differences(stored.recipe, asked)
        if changed:
            raise SystemExit(f"{out}: was run with other settings ({'; '.join(changed)}); take another folder")
        if stored.complete:
            return out
        words.append("--resume")
    if data_dir is not None:
        words += ["--data-dir", data_dir]
    command(*words, threads=threads)
    return out


def train_all(runs: Sequence[TrainingRun], folder: Path, *, data_dir: Path | None = None, jobs: int = 1) -> None:
    """Train what is not finished, ``jobs`` runs side by side, which share the cores."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(lambda run: train(run, folder, data_dir=data_dir, threads=threads), runs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun need not begin
            raise


def stored_score(out: Path) -> Score:
    """What a finished run scored on the test images or texts, on its own device."""
    found = load_checkpoint(out).test
    assert found is not None, f"{out}: not finished"
    return Score(**found)


def score_of_network(network: LoadedNetwork, test: Split) -> Score:
    """On the CPU, in float32."""
    with network_logits(network.model, network.data.input.normalize) as logits:
        return evaluate(logits, test, batch_size=500, device=torch.device("cpu"))


def packed_bytes(out: Path, *, with_weights: str | None) -> int:
    """Pack a finished run beside its checkpoint. Bytes of the file."""
    return _pack(out, with_weights)[1].file_bytes


def _pack(out: Path, with_weights: str | None) -> tuple[Path, PackReport]:
    file = out.with_suffix(f".{with_weights or 'packed'}.seedmask")
    return file, write_seedmask(network_of_checkpoint(load_checkpoint(out), with_weights=with_weights), file)


def pack(out: Path, *, with_weights: str | None, test: Split, trained: LoadedNetwork, score: Score) -> dict[str, Any]:
    """Pack a finished run, recover the file, compare it bit for bit and evaluate it.

    Args:
        out: the run.
        with_weights: how trained weights are stored, if at all.
        test: what it is evaluated on.
        trained: the network of the run.
        score: its own.
    """
    file, report = _pack(out, with_weights)
    recovered = load_network(file)
    first, second = trained.model.state_dict(), recovered.model.state_dict()
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    found = score_of_network(recovered, test).accuracy
    return {
        "with_weights": with_weights,
        **{key: getattr(report, key) for key in ("file_bytes", "weights", *(f"{part}_bits" for part in PARTS))},
        "accuracy": found,
        "equal_weights": same,
        "equal_accuracy": found == score.accuracy,
    }
