"""A run in progress: network, optimizer, data and position, one step and one epoch at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..allocation import settle
from ..config import Recipe, TrainConfig
from ..data import DataBundle, Split, load_data
from ..errors import ConfigError, DataError, TrainingError
from ..models import AnyArchitecture, build_model, resolve, resolve_text
from ..subnetwork import make_subnetwork, masked_layers, pruned_layers, refresh
from ..tickets import SAMPLES_PER_CLASS, class_sample, find_ticket, looks_at_data, use_masks
from .checkpoint import Checkpoint, DataInfo, Position, save_checkpoint
from .evaluate import Score, evaluate, network_logits
from .interrupt import RunStoppedError, StopRequest
from .report import EpochReport, Reporter, RunInfo, StepReport
from .schedule import learning_rate

__all__ = ["EVAL_BATCH", "Run", "RunOptions", "build_network", "describe"]

#: Images at a time when a network is evaluated.
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
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        resume: go on from ``out``.
        force: replace ``out`` if it exists.
        compile: run the network through ``torch.compile``.
        channels_last: memory format of the activations; ``None`` means on a GPU only.
        checkpoint_every: also save every so many steps (0: after each epoch only).
        allow_import: whether the model name may be ``package.module:factory``.
        tensorboard: folder for TensorBoard event files.
        masks: of a ticket, bool ``[n]`` by the names of weights, for a new run of a method that prunes at
            initialisation: instead of finding them.
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
    masks: Mapping[str, NDArray[np.bool_]] | None = None


class Run:
    """Network, optimizer, data and position of a run: all that changes while it goes on."""

    def __init__(self, recipe: Recipe, options: RunOptions, device: torch.device, stored: Checkpoint | None) -> None:
        self.recipe, self.options, self.device = recipe, options, device
        self.data_dir = options.data_dir or (Path(stored.data_dir) if stored and stored.data_dir else None)
        seed = recipe.subnetwork.seed
        self.data = load_data(recipe.data, data_dir=self.data_dir, download=options.download, seed=seed)
        self.data_info = describe(self.data)
        if stored and stored.data != self.data_info:
            raise DataError(f"{options.out}: the data are not those that the run began with; give the same --data-dir")
        self.architecture = _architecture(recipe, self.data)
        self.model = build_network(recipe, self.architecture, allow_import=options.allow_import)
        _check_output(self.model, self.data)
        self.model.to(device)
        self.forward = torch.compile(self.model) if options.compile else self.model
        settings = recipe.train
        self.optimizer = _optimizer(self.model, settings)
        self.channels_last = device.type == "cuda" if options.channels_last is None else options.channels_last
        self.channels_last &= self.data.text is None
        self.steps_per_epoch = self.data.train.steps_per_epoch(settings.batch_size)
        self.position = Position()
        # Kept on the device, and looked at now and then: sums of loss, right answers and images of the epoch,
        # and the first step whose loss was not finite.
        self.meter = torch.zeros(3, dtype=torch.float64, device=device)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        if not stored:
            self._prune()
        else:
            self.model.load_state_dict(stored.model)
            if stored.optimizer is not None:
                self.optimizer.load_state_dict(stored.optimizer)
            self.meter += torch.tensor(stored.meter, dtype=torch.float64).to(device)
            self.position = stored.position

    def _prune(self) -> None:
        """Find the mask, for methods that do so once, before weights are trained."""
        config = self.recipe.subnetwork
        if not any(True for _ in pruned_layers(self.model)):
            if self.options.masks is not None:
                raise ConfigError(
                    f"ticket: method {config.method} finds its masks in training; "
                    "give one that prunes at initialisation"
                )
            return
        if self.options.masks is not None:
            use_masks(self.model, self.options.masks)
        elif looks_at_data(config):
            batches = self.data.train.batches(EVAL_BATCH, self.device)
            number = config.samples_per_class or SAMPLES_PER_CLASS
            pixels, labels = class_sample(batches, self.data.classes, number)
            find_ticket(self.model, config, (self.data.normalize(pixels), labels))
        elif self.data.text is not None and config.method == "synflow":
            raise ConfigError("synflow: it sends ones through the network, and token numbers are no amounts: take snip")
        else:
            find_ticket(self.model, config, self.data.image_shape)

    def step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """One training step; nothing in it waits for the device. Returns the loss, a scalar on the device."""
        step = self.position.step
        torch.manual_seed(_step_seed(self.recipe.subnetwork.seed, step))  # for dropout and the like
        refresh(self.model, step, steps_per_epoch=self.steps_per_epoch, epochs=self.recipe.train.epochs)
        # Before the forward pass: the masked weights, which live from there to the backward pass, then take the
        # place of the gradients instead of adding to them.
        self.optimizer.zero_grad(set_to_none=True)
        images = self.data.normalize(pixels)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with _autocast(self.recipe.train.precision, self.device):
            logits = self.forward(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.train.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            loss = loss.detach()
            self.meter[0] += loss * len(labels)
            self.meter[1] += (logits.argmax(dim=1) == labels).sum()
            self.meter[2] += len(labels)
            self.first_bad = torch.where(loss.isfinite() | (self.first_bad >= 0), self.first_bad, step)
        self.position = Position(self.position.epoch, self.position.batch + 1, step + 1)
        return loss

    def epoch(self, stop: StopRequest, reporter: Reporter) -> EpochReport:
        """Do what is left of the current epoch and validate."""
        settings, epoch = self.recipe.train, self.position.epoch
        lr = learning_rate(settings, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        began, seen = time.perf_counter(), 0
        for pixels, labels in self.data.train.train_batches(
            epoch, settings.batch_size, self.device, start=self.position.batch
        ):
            loss = self.step(pixels, labels)
            seen += len(labels)
            every, batch = self.options.checkpoint_every, self.position.batch
            if batch % LOOK_EVERY == 0 and batch < self.steps_per_epoch:
                self.check_finite(lr)
                accuracy, speed = float(self.meter[1] / self.meter[2]), seen / (time.perf_counter() - began)
                reporter.step(StepReport(self.position, float(loss), accuracy, speed))
            if stop.requested or (every and self.position.step % every == 0):
                self.check_finite(lr)
                self.save()
            if stop.requested:
                raise RunStoppedError(self.options.out, self.position)
        self.check_finite(lr)
        settle(list(masked_layers(self.model)), epoch)  # for the scores that the last step left
        seconds = time.perf_counter() - began
        loss_sum, correct, images = self.meter.tolist()
        validation = self.evaluate(self.data.val) if self.data.val is not None else None
        self.position = Position(epoch + 1, 0, self.position.step)
        self.meter.zero_()
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

    def check_finite(self, lr: float) -> None:
        """Read back whether a loss was not finite, and end the run if so."""
        bad = int(self.first_bad)
        if bad >= 0:
            raise TrainingError(
                f"the loss is not finite at step {bad} (epoch {self.position.epoch + 1}, learning rate {lr:g}); "
                f"{self.options.out} still holds the last good state; try a smaller learning rate or a longer warm-up"
            )

    def evaluate(self, split: Split) -> Score:
        """Score of the network as it is."""
        classifier = network_logits(self.model, self.data.normalize)
        return evaluate(classifier, split, batch_size=EVAL_BATCH, device=self.device)

    def save(self, test: Score | None = None) -> None:
        """Write the checkpoint; with the final score, without what only a running search needs."""
        checkpoint = Checkpoint(
            recipe=self.recipe,
            architecture=self.architecture,
            data=self.data_info,
            position=self.position,
            model=self.model.state_dict(),
            optimizer=None if test else self.optimizer.state_dict(),
            meter=self.meter.tolist(),
            data_dir=str(self.data_dir.resolve()) if self.data_dir else None,
            test=asdict(test) if test else None,
        )
        save_checkpoint(checkpoint, self.options.out)

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
        )


def build_network(recipe: Recipe, architecture: AnyArchitecture, *, allow_import: bool) -> nn.Module:
    """The network a recipe starts from, on the CPU, with the initial weights and scores of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_step_seed(recipe.subnetwork.seed, -1))  # for biases and the like of foreign models
        model = build_model(architecture, allow_import=allow_import)
    return make_subnetwork(model, recipe.subnetwork)


def _architecture(recipe: Recipe, data: DataBundle) -> AnyArchitecture:
    classes = len(data.classes)
    if data.text is not None:
        return resolve_text(recipe.model, num_classes=classes, text=data.text)
    channels, height, width = data.image_shape
    return resolve(recipe.model, num_classes=classes, image_shape=(channels, height, width))


def _optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    # Fused: one pass over scores, gradients and momentum instead of several.
    about: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **about)
    return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **about)


def describe(data: DataBundle) -> DataInfo:
    """What a network must know about its data."""
    return DataInfo(data.name, list(data.classes), list(data.image_shape), list(data.mean), list(data.std), data.text)


def _check_output(model: nn.Module, data: DataBundle) -> None:
    """One dry batch, so that a model that does not fit the data fails before the first step."""
    expected = (2, len(data.classes))
    example, noun = data.example(2), "images" if data.text is None else "texts"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(model(example).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"the model cannot take {noun} of shape {tuple(example.shape[1:])}: {reason}") from None
    model.train(was_training)
    if shape != expected:
        raise DataError(
            f"the model's output for 2 {noun}: expected {expected} ({len(data.classes)} classes of {data.name}), "
            f"got {shape}"
        )


def _autocast(precision: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _step_seed(seed: int, step: int) -> int:
    """A seed for torch's own generator, used by layers like dropout: a function of seed and step."""
    return (seed + (step + 1) * 0x9E3779B97F4A7C15) % 2**63
