"""The training run: readable from top to bottom, a pure function of recipe, data and machine.

Weights, scores, resampling, data order and augmentation all follow from the seed and the step, so a run
needs no random state of its own, and a resumed run goes on exactly where the old one stopped.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Recipe
from ..data import DataBundle, load_data
from ..errors import CheckpointError, ConfigError, DataError, TrainingError
from ..models import Architecture, build_model, resolve
from ..subnetwork import make_subnetwork, refresh
from .checkpoint import Checkpoint, DataInfo, Position, load_checkpoint, save_checkpoint
from .devices import resolve_device
from .evaluate import Score, evaluate, network_logits
from .interrupt import Interrupted, StopRequest
from .metrics import MetricsLog, metrics_path
from .recipe import differences, override
from .report import EpochReport, Reporter, RunInfo, StepReport
from .schedule import check_schedule, learning_rate

__all__ = ["EVAL_BATCH", "RunOptions", "TrainResult", "build_network", "train"]

EVAL_BATCH = 500
# Steps between two looks at the device: often enough for a progress bar, too rare to stall a GPU.
LOOK_EVERY = 20


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run takes place, as opposed to what it computes (the recipe).

    Attributes:
        out: the checkpoint.
        data_dir: folder of the data set.
        download: whether torchvision may download it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        resume: go on from ``out``.
        force: replace ``out`` if it exists.
        compile: run the network through ``torch.compile``.
        channels_last: memory format of the activations; ``None`` means on a GPU only.
        checkpoint_every: also save every so many steps (0: after each epoch only).
        allow_import: whether the model name may be ``package.module:factory``.
        tensorboard: folder for TensorBoard event files.
    """

    out: Path
    data_dir: Path | None = None
    download: bool = False
    device: str = "auto"
    resume: bool = False
    force: bool = False
    compile: bool = False
    channels_last: bool | None = None
    checkpoint_every: int = 0
    allow_import: bool = True
    tensorboard: Path | None = None


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
        Interrupted: Ctrl-C or SIGTERM came; the checkpoint holds the run up to the last whole step.
    """
    reporter = reporter or Reporter()
    check_schedule(recipe.train)
    device = resolve_device(options.device)
    recipe = _resolved(recipe, device)
    stored = _stored_run(recipe, options)
    if stored and stored.test is not None:
        test = Score(**stored.test)
        reporter.finish(test)
        return TrainResult(options.out, test)
    data_dir = options.data_dir or (Path(stored.data_dir) if stored and stored.data_dir else None)
    data = load_data(recipe.data, data_dir=data_dir, download=options.download, seed=recipe.subnetwork.seed)
    info = DataInfo(data.name, list(data.classes), list(data.image_shape), list(data.mean), list(data.std))
    if stored and stored.data != info:
        raise DataError(f"{options.out}: the data are not those that the run began with; give the same --data-dir")
    architecture = resolve(recipe.model, num_classes=len(data.classes), image_shape=data.image_shape)
    model = build_network(recipe, architecture, allow_import=options.allow_import)
    _check_output(model, data)
    model.to(device)
    settings = recipe.train
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    meter = torch.zeros(3, dtype=torch.float64, device=device)  # loss sum, right answers, images
    position = Position()
    if stored:
        model.load_state_dict(stored.model)
        if stored.optimizer is not None:
            optimizer.load_state_dict(stored.optimizer)
        meter += torch.tensor(stored.meter, dtype=torch.float64).to(device)
        position = stored.position
    forward = torch.compile(model) if options.compile else model
    channels_last = options.channels_last if options.channels_last is not None else device.type == "cuda"
    steps_per_epoch = data.train.steps_per_epoch(settings.batch_size)
    reporter.start(RunInfo(recipe, device, info, position, settings.epochs, steps_per_epoch, count_weights(model)))

    def save(test: Score | None = None) -> None:
        save_checkpoint(
            Checkpoint(
                recipe=recipe,
                architecture=architecture,
                data=info,
                position=position,
                model=model.state_dict(),
                optimizer=None if test else optimizer.state_dict(),
                meter=meter.tolist(),
                data_dir=str(data_dir.resolve()) if data_dir else None,
                test=asdict(test) if test else None,
            ),
            options.out,
        )

    def look(loss: Tensor, first_bad: Tensor, lr: float) -> float:
        bad = int(first_bad)
        if bad >= 0:
            raise TrainingError(
                f"the loss is not finite at step {bad} (epoch {position.epoch + 1}, learning rate {lr:g}); "
                f"{options.out} still holds the last good state; try a smaller learning rate or a longer warm-up"
            )
        return float(loss)

    if not stored:
        save()  # a run that is killed in its first epoch can be resumed, too
    with (
        closing(reporter),
        StopRequest() as stop,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        MetricsLog(metrics_path(options.out), position.epoch, options.tensorboard) as log,
    ):
        while position.epoch < settings.epochs:
            epoch, began, seen = position.epoch, time.perf_counter(), 0
            lr = learning_rate(settings, epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            model.train()
            first_bad = torch.full((), -1, dtype=torch.int64, device=device)
            batches = data.train.train_batches(epoch, settings.batch_size, device, start=position.batch)
            for pixels, labels in batches:
                torch.manual_seed(_step_seed(recipe.subnetwork.seed, position.step))  # for dropout
                refresh(model, position.step)
                images = data.normalize(pixels)
                if channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                with _autocast(settings.precision, device):
                    logits = forward(images)
                    loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                with torch.no_grad():
                    loss = loss.detach()
                    meter[0] += loss * len(labels)
                    meter[1] += (logits.argmax(dim=1) == labels).sum()
                    meter[2] += len(labels)
                    fine = loss.isfinite() | (first_bad >= 0)
                    first_bad = torch.where(fine, first_bad, position.step)
                position = Position(epoch, position.batch + 1, position.step + 1)
                seen += len(labels)
                if position.batch % LOOK_EVERY == 0 and position.batch < steps_per_epoch:
                    value = look(loss, first_bad, lr)
                    accuracy = float(meter[1] / meter[2])
                    reporter.step(StepReport(position, value, accuracy, seen / (time.perf_counter() - began)))
                if stop.requested or (options.checkpoint_every and position.step % options.checkpoint_every == 0):
                    look(loss, first_bad, lr)
                    save()
                    if stop.requested:
                        raise Interrupted(options.out, position)
            look(loss, first_bad, lr)
            seconds = time.perf_counter() - began
            loss_sum, correct, images_seen = meter.tolist()
            validation = (
                evaluate(network_logits(model, data.normalize), data.val, batch_size=EVAL_BATCH, device=device)
                if data.val is not None
                else None
            )
            report = EpochReport(
                epoch=epoch + 1,
                step=position.step,
                lr=lr,
                loss=loss_sum / images_seen,
                accuracy=correct / images_seen,
                val_loss=validation.loss if validation else None,
                val_accuracy=validation.accuracy if validation else None,
                seconds=seconds,
                images_per_second=seen / seconds,
            )
            position = Position(epoch + 1, 0, position.step)
            meter.zero_()
            log.epoch(report)
            save()
            reporter.epoch(report)
        test = evaluate(network_logits(model, data.normalize), data.test, batch_size=EVAL_BATCH, device=device)
        log.test(test, position)
        save(test)
    reporter.finish(test)
    return TrainResult(options.out, test)


def build_network(recipe: Recipe, architecture: Architecture, *, allow_import: bool) -> nn.Module:
    """The network a recipe starts from, on the CPU, with the initial weights and scores of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_step_seed(recipe.subnetwork.seed, -1))  # for biases and the like of foreign models
        model = build_model(architecture, allow_import=allow_import)
    return make_subnetwork(model, recipe.subnetwork)


def count_weights(model: nn.Module) -> int:
    """Number of trained parameters: one per weight of the network."""
    return sum(parameter.numel() for parameter in model.parameters())


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
            f"{options.out}: cannot resume with other settings ({'; '.join(changed)}); leave them out, or start a new run"
        )
    return stored


def _check_output(model: nn.Module, data: DataBundle) -> None:
    """One dry batch, so that a model that does not fit the data fails before the first step."""
    expected = (2, len(data.classes))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(model(torch.zeros(2, *data.image_shape)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"the model cannot take images of shape {tuple(data.image_shape)}: {reason}") from None
    model.train(was_training)
    if shape != expected:
        raise DataError(
            f"the model's output for 2 images: expected {expected} ({len(data.classes)} classes of {data.name}), got {shape}"
        )


def _autocast(precision: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _step_seed(seed: int, step: int) -> int:
    """A seed for torch's own generator, used by layers like dropout: a function of seed and step."""
    return (seed + (step + 1) * 0x9E3779B97F4A7C15) % 2**63
