"""The training run, from top to bottom: a pure function of recipe, data and machine.

Weights, scores, resampling, data order and augmentation all follow from the seed and the step, so a run
needs no random state of its own, and a resumed run goes on exactly where the old one stopped.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import Checkpoint, load_checkpoint
from ..config import Recipe
from ..errors import CheckpointError, ConfigError
from ..files.atomic import check_output
from ..files.outputs import only_writer
from .devices import device_of_process
from .evaluate import Score
from .group import Group
from .identity import require_same_code, require_same_settings
from .interrupt import StopRequest
from .launch import join
from .metrics import MetricsLog, NoMetrics, check_tensorboard, metrics_path
from .peers import watched
from .profile import trace_path
from .recipe import differences, override
from .reporter import Reporter
from .run import Run, RunOptions
from .schedule import check_refresh, check_schedule

__all__ = ["RunOptions", "TrainResult", "stored_recipe", "train"]

# Seconds in which several signals to one of several processes count as one.
_PATIENCE = 5.0


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its checkpoint file and its score on the test images."""

    checkpoint: Path
    test: Score


def train(recipe: Recipe, options: RunOptions, reporter: Reporter | None = None) -> TrainResult:
    """Search for a subnetwork (or train a dense network) and leave a checkpoint.

    Called by each of the processes that torchrun starts (also in a script of the user's), it trains one network in all
    of them: each computes its part of every batch, and the result depends on the number of processes by no more than
    rounding (and dropout, and BatchNorm without ``sync_batchnorm``). All of them return the same result; the main one
    alone writes files and has a reporter.

    Args:
        recipe: what to compute.
        options: where and how.
        reporter: told about progress.

    Raises:
        IterandError: bad settings, data or checkpoint; a non-finite loss.
        RunStoppedError: Ctrl-C or SIGTERM came, to any of the processes; the checkpoint holds the run up to the last
            whole step.
        PeerError: another process failed, or is gone.
    """
    group = join(options.peer_timeout)
    with watched(group), ExitStack() as locks:
        require_same_code(group)
        with group.agreed():
            check_schedule(recipe.train)
            check_refresh(recipe)
            device = device_of_process(options.device, group)
            recipe = _resolved(recipe, device)
        require_same_settings(group, recipe, options, device)
        with group.agreed():
            if group.main:
                outputs = (
                    options.out,
                    metrics_path(options.out),
                    *([trace_path(options.out)] if options.profile else []),
                )
                kind = "any" if options.resume else "torch"  # of what is resumed, the reader says more
                for number, path in enumerate(outputs):
                    check_output(path, *outputs[:number], kind=kind if path == options.out else None)
                if options.tensorboard is not None:
                    check_tensorboard(options.tensorboard)
                locks.enter_context(only_writer(*outputs[:2]))
        stored = _stored_run(recipe, options, group)
        reporter = reporter if reporter and group.main else Reporter()
        if stored and stored.test is not None:
            test = Score(**stored.test)
            reporter.finish(test)
            return TrainResult(options.out, test)
        run = Run(recipe, options, device, stored, group)
        if not stored:
            run.save()  # a run that is killed in its first epoch can be resumed, too
        with (
            closing(run),
            closing(reporter),
            StopRequest(_PATIENCE if group.size > 1 else 0.0) as stop,
            watched(group, run.advice),
        ):
            result = _to_the_end(run, stop, reporter)
    reporter.finish(result.test)
    return result


def _to_the_end(run: Run, stop: StopRequest, reporter: Reporter) -> TrainResult:
    options, group, device = run.options, run.group, run.device
    with group.agreed():
        log = (
            MetricsLog(metrics_path(options.out), run.position.epoch, options.tensorboard)
            if group.main
            else NoMetrics()
        )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), log:
        reporter.start(run.info())
        while run.position.epoch < run.recipe.train.epochs:
            report = run.epoch(stop, reporter)
            with group.agreed():
                log.epoch(report)
            run.save()
            reporter.epoch(report)
        test = run.evaluate(run.data.test)
        with group.agreed():
            log.test(test, run.position)
        run.save(test)
    return TrainResult(options.out, test)


def stored_recipe(out: Path, group: Group) -> Recipe:
    """The recipe in a checkpoint, which the main process alone has to see.

    Raises:
        CheckpointError: see ``load_checkpoint``.
    """
    text = None
    with group.agreed():
        if group.main:
            text = load_checkpoint(out).recipe.model_dump_json()
    return Recipe.model_validate_json(group.from_main(text.encode() if text else None))


def _resolved(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with nothing left open, as it is stored."""
    if recipe.train.precision != "auto":
        return recipe
    return override(recipe, {"train.precision": "bfloat16" if device.type == "cuda" else "float32"})


def _stored_run(recipe: Recipe, options: RunOptions, group: Group) -> Checkpoint | None:
    """The main process alone reads the checkpoint; the others get its bytes, and go on as if they had read it."""
    stored, content = None, None
    with group.agreed():
        if not group.main:
            pass
        elif options.resume:
            stored = load_checkpoint(options.out)
            changed = differences(stored.recipe, recipe)
            if changed:
                raise ConfigError(
                    f"{options.out}: cannot resume with other settings ({'; '.join(changed)}); "
                    "leave them out, or start a new run"
                )
            content = options.out.read_bytes() if group.size > 1 else b""
        elif options.out.exists() and not options.force:
            raise CheckpointError(
                f"{options.out}: exists already; --resume goes on from it, --force replaces it, --out writes elsewhere"
            )
        elif not options.force and metrics_path(options.out).exists():
            raise CheckpointError(
                f"{metrics_path(options.out)}: exists already, from another run; --force replaces it, --out writes "
                "elsewhere"
            )
    if not options.resume or group.size == 1:
        return stored
    content = group.from_main(content)
    return stored if group.main else load_checkpoint(options.out, content)
