"""The training run, from top to bottom: a pure function of recipe, data and machine.

Weights, scores, resampling, data order and augmentation all follow from the seed and the step, so a run
needs no random state of its own, and a resumed run goes on exactly where the old one stopped.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint import BestEpoch, Position, save_checkpoint
from ..config import Recipe
from ..errors import TrainingError
from ..mask.layers import masked_layers
from ..mask.masking import refresh, update_kept_counts
from ..mask.stages import stage
from ..networks import step_seed
from .distributed import join
from .evaluate import Score
from .interrupt import RunStoppedError, StopRequest
from .metrics import MetricsLog, metrics_path
from .optimizer import set_learning_rate
from .out_of_memory import advice, score
from .prepare import only_run, prepare, read_checkpoint, resolve_settings
from .profile import event_seconds, fetched
from .replica import COMPARE_EVERY, foreign_buffers, require_same_network
from .reporter import EpochReport, Reporter, StepReport
from .run import NEVER, Run
from .run_options import RunOptions, best_path
from .schedule import learning_rate

__all__ = ["TrainResult", "train", "training_step"]

#: Seconds between two reports within an epoch, and steps between two moments at which a GPU may be read back.
REPORT_SECONDS, READ_BACK_EVERY = 0.5, 20
# Seconds in which several signals to one of several processes count as one.
_PATIENCE = 5.0


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its checkpoint file, its score on the test images, and its best epoch by validation."""

    checkpoint: Path
    test: Score
    best: BestEpoch | None = None


def train(recipe: Recipe, options: RunOptions, reporter: Reporter | None = None) -> TrainResult:
    """Search for a subnetwork (or train a dense network) and leave a checkpoint.

    Called by each of the processes that torchrun starts (also in a script of the user's), it trains one network in all
    of them: each computes its share of every batch, and the result depends on the number of processes by no more than
    rounding (and dropout, and BatchNorm without ``sync_batchnorm``). All of them return the same result; only the main
    one writes files and has a reporter.

    Args:
        recipe: what to compute.
        options: where and how.
        reporter: receives the progress.

    Raises:
        IterandError: bad settings, data or checkpoint; a non-finite loss.
        RunStoppedError: Ctrl-C or SIGTERM came, to any of the processes; the checkpoint holds the run up to the last
            whole step.
        PeerError: another process failed, or has ended.
    """
    group = join(options.peer_timeout)
    reporter = reporter if reporter and group.main else Reporter()
    with group.together(), ExitStack() as stack:
        stack.enter_context(only_run(options, group))
        recipe, device = resolve_settings(recipe, options, group)
        stored = read_checkpoint(recipe, options, group)
        if stored and stored.test is not None:
            test, best = Score(**stored.test), stored.best
        else:
            run = prepare(recipe, options, device, stored, group)
            if not stored:
                _save(run)  # a run that is killed in its first epoch can be resumed, too
            stack.enter_context(closing(reporter))
            stop = stack.enter_context(StopRequest(_PATIENCE if group.size > 1 else 0.0))
            stack.enter_context(group.together(run.how_to_go_on))
            with group.agreed():
                metrics = metrics_path(options.out) if group.main else None
                log = stack.enter_context(closing(MetricsLog(metrics, run.position.epoch, options.tensorboard)))
            if run.profile is not None:
                stack.enter_context(closing(run.profile))
            stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
            reporter.start(run.info())
            test, best = _epochs(run, log, stop, reporter), run.best
    reporter.finish(test)
    return TrainResult(options.out, test, best)


def _epochs(run: Run, log: MetricsLog, stop: StopRequest, reporter: Reporter) -> Score:
    """All epochs that are left, and the test."""
    options, group, settings = run.options, run.group, run.recipe.train
    layers, first, next_report = masked_layers(run.model), run.position.step, 0.0
    for epoch in range(run.position.epoch, settings.epochs):
        lr = learning_rate(settings, epoch)
        run.model.train()
        began, seen = time.perf_counter(), 0
        batches = run.data.train.train_batches(
            epoch, settings.batch_size, run.device, start=run.position.batch, shard=group.shard
        )
        for pixels, labels in fetched(batches, run.profile):
            with stage("refresh"):
                refresh(
                    layers,
                    run.position.step,
                    steps_per_epoch=run.steps_per_epoch,
                    epochs=settings.epochs,
                    fused=run.fused,
                )
            lr = learning_rate(settings, epoch, run.position.batch / run.steps_per_epoch)
            set_learning_rate(run.optimizer, lr)
            loss = None
            with suppress(torch.OutOfMemoryError):
                loss = training_step(run, pixels, labels)
            if loss is None:  # here, where nothing refers to the memory of the step any more
                raise TrainingError(advice(run, pixels, labels))
            step, batch = run.position.step + 1, run.position.batch + 1
            run.position = Position(epoch, batch, step)
            seen += run.batch_size
            if run.profile is not None and run.profile.complete(last=batch == run.steps_per_epoch):
                reporter.profile(run.profile.report(options.out, *event_seconds(run.model, run.fused, run.device)))
            if group.size > 1 and (step == first + 1 or step % COMPARE_EVERY == 0):
                require_same_network(run.model, group, step, options.out)
            # A GPU falls idle when its numbers are read back, and when processes wait for each other.
            cheap = run.device.type == "cpu" or step == first + 1 or batch % READ_BACK_EVERY == 0
            stopping = reporting = False
            if cheap or group.size == 1:
                stopping, reporting = group.any(stop.requested, cheap and time.monotonic() >= next_report)
            if reporting and not stopping:
                _require_finite(run, lr)
                _, correct, examples = group.total(run.meter).tolist()
                speed = seen / (time.perf_counter() - began)
                reporter.step(StepReport(run.position, float(loss), correct / examples, speed))
                next_report = time.monotonic() + REPORT_SECONDS
            if stopping or (options.checkpoint_every and step % options.checkpoint_every == 0):
                _require_finite(run, lr)
                _save(run)
            if stopping:
                raise group.joint(RunStoppedError(options.out, run.position))
        _require_finite(run, lr)
        update_kept_counts(layers, epoch)  # for the scores that the last step left
        seconds = time.perf_counter() - began
        loss_sum, correct, examples = group.total(run.meter).tolist()
        validation = score(run, run.data.val) if run.data.val is not None else None
        run.position = Position(epoch + 1, 0, run.position.step)
        run.meter.zero_()
        report = EpochReport(
            epoch=epoch + 1,
            step=run.position.step,
            lr=lr,
            loss=loss_sum / examples,
            accuracy=correct / examples,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
            seconds=seconds,
            images_per_second=seen / seconds,
        )
        with group.agreed():
            log.epoch(report)
        if validation is not None and (run.best is None or validation.correct > run.best.correct):
            run.best = BestEpoch(epoch + 1, validation.correct, validation.images)
            _save_best(run)  # before the other, which names the epoch
        _save(run)
        reporter.epoch(report)
    test = score(run, run.data.test)
    with group.agreed():
        log.test(test, run.position)
    _save(run, test)
    return test


def training_step(run: Run, pixels: Tensor, labels: Tensor) -> Tensor:
    """Forward, backward and optimizer for one batch. Nothing in it waits for the device.

    Args:
        run: its model, optimizer and counts are changed in place.
        pixels: this process's share of the batch, ``[b, C, H, W]`` in [0, 1]; or tokens, int64 ``[b, length]``.
        labels: int64 ``[b]``.

    Returns:
        The mean loss of this process's share, a scalar on the device.

    Raises:
        torch.OutOfMemoryError: the device has no memory for it. The network cannot be used any more then.
    """
    settings, group, step = run.recipe.train, run.group, run.position.step
    count = len(run.micro_batches)
    buffers: list[tuple[Tensor, Tensor]] = []
    # Before the forward pass: the masked weights, which live from there to the backward pass, then take the
    # place of the gradients instead of adding to them.
    run.optimizer.zero_grad(set_to_none=True)
    mean = torch.zeros((), dtype=torch.float32, device=run.device)
    with run.masked_once():
        for number, micro_batch in enumerate(run.micro_batches):
            # For dropout and other random layers: a function of seed, step and place in the batch of all processes.
            torch.manual_seed(step_seed(run.recipe.subnetwork.seed, step, group.rank * count + number))
            own = labels[micro_batch]  # [b / count]
            with stage("data"):
                images = run.inputs(pixels[micro_batch])  # [b / count, C, H, W]
            with stage("network"), run.averaging(now=number == count - 1):
                if run.options.compile:
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                with run.autocast():
                    logits = run.forward(images)  # [b / count, classes]
                    loss = F.cross_entropy(logits.float(), own, label_smoothing=settings.label_smoothing)
                # The mean over the whole batch, of which DDP takes the mean over all processes.
                (loss * (len(own) * group.size / run.batch_size)).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                mean += loss * (len(own) / len(labels))
                run.meter[0] += loss * len(own)
                run.meter[1] += (logits.argmax(dim=1) == own).sum()
                run.meter[2] += len(own)
            if number == 0 and count > 1:  # as several processes would have them: the buffers of the first one stay
                buffers = [(buffer, buffer.clone()) for buffer in foreign_buffers(run.model)]
    with stage("optimizer"):
        run.optimizer.step()
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
        run.first_bad = run.first_bad.minimum(torch.where(mean.isfinite(), NEVER, step))
    return mean


def _require_finite(run: Run, lr: float) -> None:
    """End the run if a loss of any process was not finite. Waits for the device."""
    bad = int(run.group.least(run.first_bad))
    if bad != NEVER:
        raise run.group.joint(
            TrainingError(
                f"the loss is not finite at step {bad} (epoch {run.position.epoch + 1}, learning rate {lr:g}); "
                f"{run.options.out} still holds the last good state; try a smaller learning rate or a longer warm-up"
            )
        )


def _save_best(run: Run) -> None:
    """Write the network of the epoch that is done beside the checkpoint, without what only a run that goes on needs."""
    require_same_network(run.model, run.group, run.position.step, run.options.out)
    with run.group.agreed():
        if run.group.main:
            save_checkpoint(replace(run.checkpoint(), optimizer=None), best_path(run.options.out))


def _save(run: Run, test: Score | None = None) -> None:
    """Write the checkpoint, if all processes have the same network."""
    require_same_network(run.model, run.group, run.position.step, run.options.out)
    meter = run.group.total(run.meter).tolist()
    with run.group.agreed():
        if run.group.main:
            save_checkpoint(run.checkpoint(meter, test), run.options.out)
    run.saved = run.position.step
