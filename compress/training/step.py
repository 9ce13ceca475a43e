"""What a training step does on its device: forward, backward, optimizer, and what it counts on the way."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..config import Recipe, TrainConfig
from ..data import DataBundle
from ..errors import ConfigError, TrainingError
from ..mask.fused import FusedLayers
from ..mask.layers import held_masks
from ..mask.stages import stage
from ..networks import step_seed
from .graph import StepGraph
from .group import Group
from .out_of_memory import largest_fitting
from .replica import foreign_buffers
from .run_options import RunOptions

__all__ = ["TrainingStep", "clash_with_accumulation"]

_NEVER = 2**62
# Modes of torch.compile without CUDA graphs, in which gradients would be written over instead of added up.
_WITHOUT_GRAPHS = (None, "default", "max-autotune-no-cudagraphs")


def clash_with_accumulation(settings: TrainConfig, options: RunOptions) -> str | None:
    """Why a batch cannot be computed in parts, one after the other; ``None`` if it can."""
    if settings.sync_batchnorm:
        return "BatchNorm cannot be synchronised over parts that are computed one after the other (sync_batchnorm)"
    if options.cuda_graph:
        return "a recorded step computes the batch at once (--cuda-graph)"
    if options.compile not in _WITHOUT_GRAPHS:
        return f"CUDA graphs write over the gradients of the part before (--compile {options.compile})"
    return None


class TrainingStep:
    """One step after the other; nothing in it waits for the device.

    Args:
        model: on its device.
        network: the model, as its gradients are averaged over processes.
        optimizer: of the model.
        data: tells how inputs are normalised.
        recipe: of the run.
        options: of the run.
        group: the processes.
        batch_size: of all of them together.
        first: number of the first step.

    Attributes:
        fused: the masked layers, if they are handled together.
        meter: sums of loss, right answers and examples of this process, float64 ``[3]`` on the device; to be cleared
            at will.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: DataBundle,
        recipe: Recipe,
        options: RunOptions,
        group: Group,
        *,
        batch_size: int,
        first: int,
    ) -> None:
        self._model, self._network, self._optimizer, self._data = model, network, optimizer, data
        self._settings, self._seed, self._step = recipe.train, recipe.subnetwork.seed, first
        self._options, self._group, self._batch_size = options, group, batch_size
        self._device = device = next(model.parameters()).device
        self._pieces = group.shard.pieces(batch_size, options.accumulate)
        self._own = self._pieces[-1].stop
        channels_last = device.type == "cuda" if options.channels_last is None else options.channels_last
        self._channels_last = channels_last and data.input.noun == "image"
        try:
            self._forward = torch.compile(network, mode=options.compile) if options.compile else network
        except RuntimeError as error:  # which modes there are depends on the version of torch
            raise ConfigError(f"--compile: {error}") from None
        self.fused = FusedLayers.of(model, channels_last=self._channels_last)
        self.meter = torch.zeros(3, dtype=torch.float64, device=device)
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)
        self._clock = torch.full((), first, dtype=torch.int64, device=device)
        self._run = StepGraph(self._compute) if options.cuda_graph else self._compute

    def __call__(self, step: int, pixels: Tensor, labels: Tensor) -> Tensor:
        """Do a step. Returns the loss, a scalar on the device.

        Args:
            step: its number.
            pixels: of this process's part of the batch, not yet normalised; or tokens.
            labels: int64 ``[B]``.

        Raises:
            TrainingError: the device ran out of memory; with a batch that fits. The network is of no use then.
        """
        self._step = step
        self._seed_part(0)  # here, as it cannot be recorded
        try:
            return self._run(pixels, labels)
        except torch.OutOfMemoryError:
            pass
        raise TrainingError(self._advice(pixels, labels))  # not above, where the error holds on to the memory

    def first_not_finite(self) -> int | None:
        """The first step of any process whose loss was not finite; waits for the device."""
        found = int(self._group.least(self._first_bad))
        return None if found == _NEVER else found

    def _compute(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """All that is done on the device, in place, so that it can be recorded."""
        # Before the forward pass: the masked weights, which live from there to the backward pass, then take the
        # place of the gradients instead of adding to them.
        self._optimizer.zero_grad(set_to_none=True)
        first, *others = self._pieces
        with ExitStack() as held:
            with self._autocast():  # whose type the weights take
                held.enter_context(self._held_weights())
            loss = self._part(pixels[first], labels[first], last=not others)
            if others:
                # As other processes would have them: the buffers of the first part are those that stay.
                buffers = foreign_buffers(self._model)
                kept = [buffer.clone() for buffer in buffers]
            for number, piece in enumerate(others, start=1):
                self._seed_part(number)
                loss = loss + self._part(pixels[piece], labels[piece], last=number == len(others))
        with stage("optimizer"):
            self._optimizer.step()
        with torch.no_grad():
            if others:
                for buffer, value in zip(buffers, kept, strict=True):
                    buffer.copy_(value)
            self._first_bad.copy_(torch.where(loss.isfinite(), self._first_bad, self._first_bad.minimum(self._clock)))
            self._clock += 1
        return loss

    def _part(self, pixels: Tensor, labels: Tensor, *, last: bool) -> Tensor:
        """Forward and backward, adding to the gradients; what these examples contribute to the process's mean loss.

        Args:
            pixels: some of those of the step.
            labels: int64 ``[b]``.
            last: of the step: gradients of all processes are averaged now.
        """
        with stage("data"):
            images = self._inputs(pixels)
        with stage("network"), self._averaged(now=last):
            if self._options.compile:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with self._autocast():
                logits = self._forward(images)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._settings.label_smoothing)
            # The mean over the whole batch, of which the mean over all processes is taken: parts may differ in size.
            share = len(labels) * self._group.size / self._batch_size
            (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            loss = loss.detach()
            self.meter[0] += loss * len(labels)
            self.meter[1] += (logits.argmax(dim=1) == labels).sum()
            self.meter[2] += len(labels)
        return loss if len(labels) == self._own else loss * (len(labels) / self._own)

    def _seed_part(self, number: int) -> None:
        """For dropout and the like: of part ``number`` of this process's part of the batch."""
        torch.manual_seed(step_seed(self._seed, self._step, self._group.rank * len(self._pieces) + number))

    def _averaged(self, *, now: bool) -> AbstractContextManager[None]:
        """Within, a backward pass averages gradients over processes; or, if not ``now``, leaves them where they are."""
        waits = isinstance(self._network, DistributedDataParallel) and not now
        return self._network.no_sync() if waits else nullcontext()  # type: ignore[operator]

    def _inputs(self, pixels: Tensor) -> Tensor:
        images = self._data.input.normalize(pixels)
        return images.contiguous(memory_format=torch.channels_last) if self._channels_last else images

    def _held_weights(self) -> AbstractContextManager[None]:
        if self.fused:
            return self.fused.held()
        return held_masks(self._model) if len(self._pieces) > 1 else nullcontext()

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        rounded = self._settings.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16) if rounded else nullcontext()

    def _advice(self, pixels: Tensor, labels: Tensor) -> str:
        """What to say of a step that found no memory."""
        self._optimizer.zero_grad(set_to_none=True)
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        accumulates = clash_with_accumulation(self._settings, self._options) is None

        def attempt(count: int) -> None:
            momentum = [] if self._optimizer.state else [torch.empty_like(parameter) for parameter in parameters]
            before = [torch.empty_like(parameter) for parameter in parameters if accumulates]  # of the part before
            with self._autocast(), self._held_weights():
                loss = F.cross_entropy(self._model(self._inputs(pixels[:count])).float(), labels[:count])
            # Not backward(), which would wait for the other processes.
            torch.autograd.grad(loss, parameters, allow_unused=True)
            del momentum, before

        own, parts = max(piece.stop - piece.start for piece in self._pieces), len(self._pieces)
        found = largest_fitting(attempt, own)
        fits = "not even one fits"
        if found:
            ways = [f"--batch-size {found * parts * self._group.size}"]
            if accumulates:
                ways.insert(0, f"--accumulate {parts * -(-own // found)}")
            fits = f"{found} fit: give {' or '.join(ways)}"
        return (
            f"{self._device} ran out of memory at step {int(self._clock)} with {own} examples at a time; {fits}, "
            "or start more processes on more devices, which share each batch (torchrun)"
        )
