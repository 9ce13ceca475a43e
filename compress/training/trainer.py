"""The training run, from top to bottom: a pure function of recipe, data and machine.

Weights, scores, resampling, data order and augmentation all follow from the seed and the step, so a run
needs no random state of its own, and a resumed run goes on exactly where the old one stopped.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Recipe
from ..errors import CheckpointError, ConfigError
from .checkpoint import Checkpoint, load_checkpoint
from .devices import resolve_device
from .evaluate import Score
from .interrupt import StopRequest
from .metrics import MetricsLog, metrics_path
from .recipe import differences, override
from .report import Reporter
from .run import Run, RunOptions
from .schedule import check_refresh, check_schedule

__all__ = ["RunOptions", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its checkpoint file and its score on the test images."""

    checkpoint: Path
    test: Score


def train(recipe: Recipe, options: RunOptions, reporter: Reporter | None = None) -> TrainResult:
    """Search for a subnetwork (or train a dense network) and leave a checkpoint.

    Args:
        recipe: what to compute.
        options: where and how.
        reporter: told about progress.

    Raises:
        IterandError: bad settings, data or checkpoint; a non-finite loss.
        RunStoppedError: Ctrl-C or SIGTERM came; the checkpoint holds the run up to the last whole step.
    """
    reporter = reporter or Reporter()
    check_schedule(recipe.train)
    check_refresh(recipe)
    device = resolve_device(options.device)
    recipe = _resolved(recipe, device)
    stored = _stored_run(recipe, options)
    if stored and stored.test is not None:
        test = Score(**stored.test)
        reporter.finish(test)
        return TrainResult(options.out, test)
    run = Run(recipe, options, device, stored)
    if not stored:
        run.save()  # a run that is killed in its first epoch can be resumed, too
    with (
        closing(reporter),
        StopRequest() as stop,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        MetricsLog(metrics_path(options.out), run.position.epoch, options.tensorboard) as log,
    ):
        reporter.start(run.info())
        while run.position.epoch < recipe.train.epochs:
            report = run.epoch(stop, reporter)
            log.epoch(report)
            run.save()
            reporter.epoch(report)
        test = run.evaluate(run.data.test)
        log.test(test, run.position)
        run.save(test)
    reporter.finish(test)
    return TrainResult(options.out, test)


def _resolved(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with nothing left open, as it is stored."""
    if recipe.train.precision != "auto":
        return recipe
    return override(recipe, {"train.precision": "bfloat16" if device.type == "cuda" else "float32"})


def _stored_run(recipe: Recipe, options: RunOptions) -> Checkpoint | None:
    if not options.resume:
        if options.out.exists() and not options.force:
            raise CheckpointError(
                f"{options.out}: exists already; --resume goes on from it, --force replaces it, --out writes elsewhere"
            )
        return None
    stored = load_checkpoint(options.out)
    changed = differences(stored.recipe, recipe)
    if changed:
        raise ConfigError(
            f"{options.out}: cannot resume with other settings ({'; '.join(changed)}); "
            "leave them out, or start a new run"
        )
    return stored
