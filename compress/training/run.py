"""A run in progress: network, optimizer, data and position, one step and one epoch at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Checkpoint, Position, save_checkpoint
from ..config import Recipe
from ..data import DataBundle, Split, load_data
from ..errors import ConfigError, DataError, TrainingError
from ..files.names import shell_word
from ..mask.layers import masked_layers, pruned_layers
from ..mask.masking import refresh, update_kept_counts
from ..mask.stages import stage
from ..models import is_foreign
from ..models.state import load_state
from ..networks import architecture_of, build_network, describe
from ..rebuild import probe_answers, require_same_answers
from .checks import check_output, check_packing, check_training, find_masks
from .evaluate import EVAL_BATCH, Score, evaluate, network_logits
from .group import ALONE, Group
from .identity import require_same_data
from .interrupt import RunStoppedError, StopRequest
from .optimizer import load_optimizer_state, make_optimizer, optimizer_state, set_learning_rate
from .out_of_memory import release
from .profile import StepProfile, event_seconds, fetched
from .replica import Fingerprints, equalise_buffers, equalise_start, replicate, unused_parameters
from .reporter import EpochReport, Reporter, RunInfo, StepReport
from .run_options import RunOptions
from .schedule import learning_rate
from .step import TrainingStep, clash_with_accumulation
from .sync_batchnorm import synchronise_batchnorm
from .threads import is_small

__all__ = ["EVAL_BATCH", "Run", "RunOptions", "build_network", "describe"]

# Steps between two looks at the device: often enough for a progress bar, too rare to stall a GPU.
LOOK_EVERY = 20


class Run:
    """Network, optimizer, data and position of a run: all that changes while it goes on."""

    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        device: torch.device,
        stored: Checkpoint | None,
        group: Group = ALONE,
    ) -> None:
        self.recipe, self.options, self.device, self.group = recipe, options, device, group
        self.position = stored.position if stored else Position()
        self.data_dir = options.data_dir or (Path(stored.data_dir) if stored and stored.data_dir else None)
        self.data = _load_data(recipe, options, self.data_dir, group)
        self.data_info = describe(self.data)
        require_same_data(group, self.data)
        settings = recipe.train
        with group.agreed():
            if stored and stored.data != self.data_info:
                raise DataError(
                    f"{options.out}: the data are not those that the run began with; give the same --data-dir"
                )
            # Of all processes together: an epoch drops its last partial batch, so all of its batches are of one size.
            self.batch_size = min(settings.batch_size, len(self.data.train))
            _check_parts(self.batch_size, recipe, options, group)
            _check_classes(self.data)
            self.architecture = architecture_of(recipe, self.data)
            self.model = build_network(recipe, self.architecture, allow_import=options.allow_import)
            example = self.data.example(1)
            self.one_thread = (
                options.one_thread_if_small
                and device.type == "cpu"
                and is_small(self.model, example.shape[1:], self.batch_size)
            )
            if self.one_thread:
                torch.set_num_threads(1)
            check_output(self.model, self.data)
            check_training(self.model, self.data, self.batch_size, recipe, group.size * options.accumulate)
            self.model.to(device)
            _check_graph(options, device, group)
            self.optimizer = make_optimizer(self.model, settings, adjustable=options.cuda_graph)
            if stored:
                load_state(self.model, stored.model)
                require_same_answers(self.model, stored, options.out)
                if stored.optimizer is not None:
                    load_optimizer_state(self.optimizer, stored.optimizer)
            elif group.main:
                find_masks(self.model, recipe, self.data, device, options.masks)
                check_packing(self.model, self._checkpoint(), options.out, allow_import=options.allow_import)
        equalise_start(self.model, group)
        with group.agreed():
            partly_unused = group.size > 1 and unused_parameters(self.model, self.data.example(2).to(device))
        if settings.sync_batchnorm:
            synchronise_batchnorm(self.model, group, device)
        network = replicate(self.model, group, device=device, partly_unused=partly_unused)
        self.steps_per_epoch = self.data.train.steps_per_epoch(settings.batch_size)
        self.computed = TrainingStep(
            self.model,
            network,
            self.optimizer,
            self.data,
            recipe,
            options,
            group,
            batch_size=self.batch_size,
            first=self.position.step,
        )
        if stored and group.main:
            self.computed.meter += torch.tensor(stored.meter, dtype=torch.float64, device=device)
        self.fingerprints = Fingerprints(self.model, group, device)
        self.fingerprints.compare(-1, redrawn=True)
        self.fingerprints.check(options.out)
        self.saved = self.position.step if stored else None
        self.profile = StepProfile(device) if options.profile and group.main else None

    def step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """One training step; nothing in it waits for the device. Returns the loss, a scalar on the device."""
        step = self.position.step
        with stage("refresh"):
            redrawn = refresh(
                masked_layers(self.model),
                step,
                steps_per_epoch=self.steps_per_epoch,
                epochs=self.recipe.train.epochs,
                fused=self.computed.fused,
            )
        loss = self.computed(step, pixels, labels)
        self.fingerprints.compare(step, redrawn=redrawn)
        self.position = Position(self.position.epoch, self.position.batch + 1, step + 1)
        return loss

    def epoch(self, stop: StopRequest, reporter: Reporter) -> EpochReport:
        """Do what is left of the current epoch and validate."""
        settings, epoch = self.recipe.train, self.position.epoch
        lr = learning_rate(settings, epoch)
        set_learning_rate(self.optimizer, lr)
        self.model.train()
        began, seen = time.perf_counter(), 0
        batches = self.data.train.train_batches(
            epoch, settings.batch_size, self.device, start=self.position.batch, shard=self.group.shard
        )
        for pixels, labels in fetched(batches, self.profile):
            loss = self.step(pixels, labels)
            seen += self.batch_size
            self._report_profile(reporter)
            every, batch = self.options.checkpoint_every, self.position.batch
            if batch % LOOK_EVERY == 0 and batch < self.steps_per_epoch:
                self.check(lr)
                _, correct, images = self.group.total(self.computed.meter).tolist()
                speed = seen / (time.perf_counter() - began)
                reporter.step(StepReport(self.position, float(loss), correct / images, speed))
            stopping = self._may_stop() and self.group.any(stop.requested)
            if stopping or (every and self.position.step % every == 0):
                self.check(lr)
                self.save()
            if stopping:
                raise RunStoppedError(self.options.out, self.position)
        self.check(lr)
        update_kept_counts(masked_layers(self.model), epoch)  # for the scores that the last step left
        seconds = time.perf_counter() - began
        loss_sum, correct, images = self.group.total(self.computed.meter).tolist()
        validation = self.evaluate(self.data.val) if self.data.val is not None else None
        self.position = Position(epoch + 1, 0, self.position.step)
        self.computed.meter.zero_()
        return EpochReport(
            epoch=epoch + 1,
            step=self.position.step,
            lr=lr,
            loss=loss_sum / images,
            accuracy=correct / images,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
            seconds=seconds,
            images_per_second=seen / seconds,
        )

    def _report_profile(self, reporter: Reporter) -> None:
        if self.profile is not None and self.profile.complete(last=self.position.batch == self.steps_per_epoch):
            event, every = event_seconds(self.model, self.computed.fused, self.device)
            reporter.profile(self.profile.report(self.options.out, event, every))

    def _may_stop(self) -> bool:
        """Whether to ask now if a process was told to stop: on GPUs not after every step, as asking takes time."""
        return self.group.size == 1 or self.device.type == "cpu" or self.position.batch % LOOK_EVERY == 0

    def check(self, lr: float) -> None:
        """Read back whether a loss was not finite or processes came apart, and end the run if so."""
        bad = self.computed.first_not_finite()
        if bad is not None:
            raise TrainingError(
                f"the loss is not finite at step {bad} (epoch {self.position.epoch + 1}, learning rate {lr:g}); "
                f"{self.options.out} still holds the last good state; try a smaller learning rate or a longer warm-up"
            )
        self.fingerprints.check(self.options.out)

    def evaluate(self, split: Split) -> Score:
        """Score of the network as it is."""
        equalise_buffers(self.model, self.group)
        batch_size = EVAL_BATCH
        with network_logits(self.model, self.data.normalize) as classifier:
            while True:
                try:
                    return evaluate(classifier, split, batch_size=batch_size, device=self.device, group=self.group)
                except torch.OutOfMemoryError:
                    if batch_size == 1:
                        raise TrainingError(f"{self.device} has no memory to evaluate a single example") from None
                batch_size //= 2
                release()

    def save(self, test: Score | None = None) -> None:
        """Write the checkpoint; with the final score, without what only a running search needs."""
        meter = self.group.total(self.computed.meter).tolist()
        with self.group.agreed():
            if self.group.main:
                probe = probe_answers(self.model, self.data_info) if is_foreign(self.architecture) else None
                save_checkpoint(self._checkpoint(meter, test, probe), self.options.out)
            self.saved = self.position.step

    def _checkpoint(
        self, meter: Sequence[float] = (0.0, 0.0, 0.0), test: Score | None = None, probe: Tensor | None = None
    ) -> Checkpoint:
        return Checkpoint(
            recipe=self.recipe,
            architecture=self.architecture,
            data=self.data_info,
            position=self.position,
            model=self.model.state_dict(),
            optimizer=None if test else optimizer_state(self.optimizer),
            meter=list(meter),
            data_dir=str(self.data_dir.resolve()) if self.data_dir else None,
            test=asdict(test) if test else None,
            probe=probe,
        )

    def advice(self) -> str:
        """What to tell the user when the run breaks off."""
        if self.saved is None:
            return ""
        out = self.options.out
        again = f"iterand-compress train --resume --out {shell_word(out)}"
        return f"{out} holds step {self.saved}; go on with: {again}"

    def close(self) -> None:
        """The run is over, however it ended."""
        if self.profile is not None:
            self.profile.close()

    def info(self) -> RunInfo:
        """What the audience is told first."""
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        return RunInfo(
            recipe=self.recipe,
            device=self.device,
            data=self.data_info,
            position=self.position,
            epochs=self.recipe.train.epochs,
            steps_per_epoch=self.steps_per_epoch,
            weights=weights,
            empty_layers=tuple(name for name, part, _ in pruned_layers(self.model) if not part.spec.kept),
            processes=self.group.size,
            one_thread=self.one_thread,
            left_out=self.data.left_out,
        )


def _load_data(recipe: Recipe, options: RunOptions, data_dir: Path | None, group: Group) -> DataBundle:
    """Of the processes on a machine, only the first one downloads; the others wait for it."""
    data: DataBundle | None = None
    for turn in (True, False):
        with group.agreed():
            if data is None and (not turn or group.local_rank == 0 or not options.download):
                data = load_data(
                    recipe.data,
                    data_dir=data_dir,
                    download=options.download,
                    seed=recipe.subnetwork.seed,
                    sharing=group.local_size,
                )
    assert data is not None
    return data


def _check_classes(data: DataBundle) -> None:
    counts = torch.bincount(data.train.labels, minlength=len(data.classes))
    if not counts.all():
        raise DataError(
            f"{data.name}: all that there is of the class {data.classes[int(counts.argmin())]!r} is held out for "
            "validation: give more of it, a part val, or another --set data.validation=SHARE (0: none)"
        )


def _check_parts(batch_size: int, recipe: Recipe, options: RunOptions, group: Group) -> None:
    if batch_size < group.size:
        raise ConfigError(
            f"batch of {batch_size}: {group.size} processes cannot share it; start {batch_size} at most, or raise "
            "batch_size (a batch holds no more than there are training examples)"
        )
    if options.accumulate < 1:
        raise ConfigError(f"accumulate: expected at least 1, got {options.accumulate}")
    if options.accumulate == 1:
        return
    if batch_size < group.size * options.accumulate:
        raise ConfigError(
            f"accumulate: a batch of {batch_size} cannot be computed in {options.accumulate} parts by each of "
            f"{group.size} processes; give {batch_size // group.size} at most"
        )
    clash = clash_with_accumulation(recipe.train, options)
    if clash:
        raise ConfigError(f"accumulate: {clash}; leave out one of the two")


def _check_graph(options: RunOptions, device: torch.device, group: Group) -> None:
    if options.cuda_graph and (device.type != "cuda" or group.size > 1):
        raise ConfigError(
            f"cuda_graph: only for one process on a GPU, not for {group.size} on {device}; leave out --cuda-graph"
        )
    if options.cuda_graph and options.profile:
        raise ConfigError("cuda_graph: hides the parts of a step from --profile; leave out one of the two")
