"""A run in progress: network, optimizer, data and position, and how a step computes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint import BestEpoch, Checkpoint, DataInfo, Position
from ..config import Recipe
from ..data.bundle import DataBundle
from ..files.names import shell_word
from ..mask.fused import FusedLayers
from ..mask.layers import cached_masks, masked_layers, pruned_layers
from ..models import AnyArchitecture, is_foreign
from ..rebuild import probe_answers
from .distributed import Group
from .evaluate import Score
from .profile import StepProfile
from .reporter import RunInfo
from .run_options import RunOptions

__all__ = ["NEVER", "Run"]

#: A step number that no run reaches.
NEVER = 2**62


@dataclass
class Run:
    """A run in progress. What changes from step to step comes last.

    Attributes:
        recipe: the settings, with nothing left open.
        options: where and how.
        group: the processes.
        device: of this process.
        data: the data set.
        data_info: name, classes and input of it, as files keep them.
        data_dir: its folder, if it has one.
        architecture: what the network is rebuilt from.
        model: with masked weights, on the device.
        network: the model, whose backward pass averages gradients over all processes.
        forward: the network, compiled if asked for.
        optimizer: of the model.
        fused: the masked layers, where they are computed together (on a GPU).
        channels_last: whether activations have the memory format of that name.
        batch_size: examples in a step of all processes together. An epoch drops its last partial batch, so all
            batches are of one size.
        one_thread: whether the network got one CPU thread, because it is small.
        steps_per_epoch: batches of an epoch.
        micro_batches: which of its examples of a batch this process computes at a time.
        profile: traces some steps, if asked for.
        position: epoch, batch and step that come next.
        saved: number of steps in the checkpoint; ``None`` before it is written.
        best: the best epoch so far by validation, if there is any.
        meter: sums of loss, right answers and examples of this process in this epoch, float64 ``[3]`` on the device.
        first_bad: first step whose loss was not finite (`NEVER`: none), int64 scalar on the device.
    """

    recipe: Recipe
    options: RunOptions
    group: Group
    device: torch.device
    data: DataBundle
    data_info: DataInfo
    data_dir: Path | None
    architecture: AnyArchitecture
    model: nn.Module
    network: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    fused: FusedLayers | None
    channels_last: bool
    batch_size: int
    one_thread: bool
    steps_per_epoch: int
    micro_batches: list[slice]
    profile: StepProfile | None
    position: Position
    saved: int | None
    best: BestEpoch | None
    meter: Tensor
    first_bad: Tensor

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` in the memory format of the run; tokens as they are."""
        images = self.data.input.normalize(pixels)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def autocast(self) -> torch.autocast:
        """The precision of the recipe."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bfloat16")

    @contextmanager
    def masked_once(self) -> Iterator[None]:
        """Compute masks (on a GPU, masked weights) once for all forward passes inside; scores must not change."""
        with ExitStack() as stack:
            with self.autocast():  # the masked weights take its type
                if self.fused:
                    stack.enter_context(self.fused.cached_weights())
                elif len(self.micro_batches) > 1:
                    stack.enter_context(cached_masks(masked_layers(self.model)))
            yield

    def averaging(self, *, now: bool) -> AbstractContextManager[None]:
        """Backward passes inside average gradients over all processes; without ``now`` they add to the local ones."""
        waits = isinstance(self.network, DistributedDataParallel) and not now
        return self.network.no_sync() if waits else nullcontext()  # type: ignore[operator]

    def checkpoint(self, meter: Sequence[float] = (0.0, 0.0, 0.0), test: Score | None = None) -> Checkpoint:
        """The run as a file keeps it; with the final score, without what only a run that goes on needs.

        Args:
            meter: sums of all processes.
            test: the final score.
        """
        foreign = is_foreign(self.architecture)
        return Checkpoint(
            recipe=self.recipe,
            architecture=self.architecture,
            data=self.data_info,
            position=self.position,
            model=self.model.state_dict(),
            optimizer=None if test else self.optimizer.state_dict(),
            meter=list(meter),
            data_dir=str(self.data_dir.resolve()) if self.data_dir else None,
            test=asdict(test) if test else None,
            probe=probe_answers(self.model, self.data_info.input) if foreign else None,
            best=self.best,
        )

    def info(self) -> RunInfo:
        """What a reporter gets before the first step."""
        return RunInfo(
            recipe=self.recipe,
            device=self.device,
            data=self.data_info,
            position=self.position,
            epochs=self.recipe.train.epochs,
            steps_per_epoch=self.steps_per_epoch,
            weights=sum(parameter.numel() for parameter in self.model.parameters()),
            empty_layers=tuple(name for name, pruned, _ in pruned_layers(self.model) if not pruned.spec.kept),
            processes=self.group.size,
            one_thread=self.one_thread,
            left_out=self.data.left_out,
            examples=self.data.counts,
            split_note=self.data.split_note,
        )

    def how_to_go_on(self) -> str:
        """What to tell the user when the run breaks off."""
        out = self.options.out
        command = f"iterand-compress train --resume --out {shell_word(out)}"
        return f"{out} holds step {self.saved}; go on with: {command}"
