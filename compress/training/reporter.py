"""Callbacks of a run. The command line, a notebook or a test each report its progress in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..checkpoint import DataInfo, Position
    from ..config import Recipe
    from .evaluate import Score
    from .profile import ProfileReport

__all__ = ["EpochReport", "Reporter", "RunInfo", "StepReport"]


@dataclass(frozen=True)
class RunInfo:
    """The facts of a run, known before its first step.

    ``weights`` counts trained parameters; ``empty_layers`` names those whose weights were all pruned before training;
    ``processes`` train together, each on a device of its own; ``left_out`` counts files and folders of the data that
    were not read, by their kind; ``one_thread`` says that the network got one thread because it is small; ``examples``
    counts those of each split, and ``split_note`` says how they were told apart, if the data set does not.
    """

    recipe: Recipe
    device: torch.device
    data: DataInfo
    position: Position
    epochs: int
    steps_per_epoch: int
    weights: int
    empty_layers: tuple[str, ...] = ()
    processes: int = 1
    left_out: Mapping[str, int] = field(default_factory=dict)
    one_thread: bool = False
    examples: Mapping[str, int] = field(default_factory=dict)
    split_note: str = ""


@dataclass(frozen=True)
class StepReport:
    """The state of a running epoch: steps done, last loss, accuracy so far in [0, 1], images per second."""

    position: Position
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch (counted from 1): means over its images; validation is ``None`` if there are none for it."""

    epoch: int
    step: int
    lr: float
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    images_per_second: float


class Reporter:
    """Listens to a run; each method does nothing unless overridden."""

    def start(self, info: RunInfo) -> None:
        """The run begins (or goes on)."""

    def step(self, report: StepReport) -> None:
        """Some steps are done: after the first one, then twice a second at most (on a GPU, every 20 steps at most)."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and saved."""

    def profile(self, report: ProfileReport) -> None:
        """Some steps were traced."""

    def finish(self, test: Score) -> None:
        """The run is complete."""

    def close(self) -> None:
        """The run is over, however it ended."""
