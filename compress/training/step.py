"""What a training step does on its device: forward, backward, optimizer, and what it counts on the way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TrainConfig
from ..data import DataBundle
from ..errors import TrainingError
from ..fused import FusedLayers
from ..stages import stage
from .graph import StepGraph
from .group import Group
from .memory import largest_fitting
from .options import RunOptions

__all__ = ["TrainingStep"]

_NEVER = 2**62


class TrainingStep:
    """One step after the other; nothing in it waits for the device.

    Args:
        model: on its device.
        network: the model, as its gradients are averaged over processes.
        optimizer: of the model.
        data: tells how inputs are normalised.
        settings: of the run.
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
        settings: TrainConfig,
        options: RunOptions,
        group: Group,
        *,
        batch_size: int,
        first: int,
    ) -> None:
        self._model, self._optimizer, self._data, self._settings = model, optimizer, data, settings
        self._options, self._group, self._batch_size = options, group, batch_size
        self._device = device = next(model.parameters()).device
        channels_last = device.type == "cuda" if options.channels_last is None else options.channels_last
        self._channels_last = channels_last and data.text is None
        self._forward = torch.compile(network, mode=options.compile) if options.compile else network
        self.fused = FusedLayers.of(model, channels_last=self._channels_last)
        self.meter = torch.zeros(3, dtype=torch.float64, device=device)
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)
        self._clock = torch.full((), first, dtype=torch.int64, device=device)
        self._run = StepGraph(self._compute) if options.cuda_graph else self._compute

    def __call__(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Do a step. Returns the loss, a scalar on the device.

        Args:
            pixels: of this process's part of the batch, not yet normalised; or tokens.
            labels: int64 ``[B]``.

        Raises:
            TrainingError: the device ran out of memory; with a batch that fits. The network is of no use then.
        """
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
        with stage("data"):
            images = self._inputs(pixels)
        with stage("network"):
            if self._options.compile:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with self._autocast(), self._held_weights():
                logits = self._forward(images)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._settings.label_smoothing)
            # The mean over the whole batch, of which the mean over all processes is taken: parts may differ in size.
            share = len(labels) * self._group.size / self._batch_size
            (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        with stage("optimizer"):
            self._optimizer.step()
        with torch.no_grad():
            loss = loss.detach()
            self.meter[0] += loss * len(labels)
            self.meter[1] += (logits.argmax(dim=1) == labels).sum()
            self.meter[2] += len(labels)
            self._first_bad.copy_(torch.where(loss.isfinite(), self._first_bad, self._first_bad.minimum(self._clock)))
            self._clock += 1
        return loss

    def _inputs(self, pixels: Tensor) -> Tensor:
        images = self._data.normalize(pixels)
        return images.contiguous(memory_format=torch.channels_last) if self._channels_last else images

    def _held_weights(self) -> AbstractContextManager[None]:
        return self.fused.held() if self.fused else nullcontext()

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        rounded = self._settings.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16) if rounded else nullcontext()

    def _advice(self, pixels: Tensor, labels: Tensor) -> str:
        """What to say of a step that found no memory."""
        self._optimizer.zero_grad(set_to_none=True)
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

        def attempt(count: int) -> None:
            momentum = [] if self._optimizer.state else [torch.empty_like(parameter) for parameter in parameters]
            with self._autocast(), self._held_weights():
                loss = F.cross_entropy(self._model(self._inputs(pixels[:count])).float(), labels[:count])
            # Not backward(), which would wait for the other processes.
            torch.autograd.grad(loss, parameters, allow_unused=True)
            del momentum

        found, own = largest_fitting(attempt, len(labels)), len(labels)
        fits = f"{found} fit: give --batch-size {found * self._group.size}" if found else "not even one fits"
        return (
            f"{self._device} ran out of memory at step {int(self._clock)} with {own} examples at a time; {fits}, "
            "or start more processes on more devices, which share each batch (torchrun)"
        )
