"""Checkpoints: one file with all a run needs to go on exactly where it stopped.

A checkpoint is a dictionary of tensors and plain values, so it loads with ``torch.load(weights_only=True)``
and never runs code. It is written atomically: a reader sees the old file or the new one.
"""

from __future__ import annotations

import io
import pickle
import stat
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .config import Recipe
from .errors import CheckpointError, first_line
from .files.atomic import atomic_path
from .files.kinds import NO_SEED, OLD_TORCH, ZIP, check_kind
from .inputs import AnyInput, ImageInput, TextInput
from .methods.presets import stored_recipe
from .models import AnyArchitecture, read_architecture
from .models.state import module_versions, with_versions

__all__ = ["BestEpoch", "Checkpoint", "DataInfo", "Position", "is_checkpoint", "load_checkpoint", "save_checkpoint"]

_FORMAT, _VERSION = "iterand-compress checkpoint", 1
_MAKE_ONE = "make one with 'iterand-compress train'"
#: Keys that the first checkpoints did not have.
_LATER = {"versions", "probe", "best"}


@dataclass(frozen=True)
class Position:
    """Where a run stands: ``batch`` batches of ``epoch`` are done, ``step`` steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class BestEpoch:
    """The epoch (counted from 1) with the most right answers on the validation images so far, the first of equals."""

    epoch: int
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """Fraction of right answers, in [0, 1]."""
        return self.correct / self.images


@dataclass(frozen=True)
class DataInfo:
    """What is kept of a data set.

    Attributes:
        name: of the data set.
        classes: names of the classes; the index is the label.
        input: the images or texts that the network takes.
    """

    name: str
    classes: list[str]
    input: AnyInput

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, under the keys that checkpoints have always had."""
        values = {"name": self.name, "classes": self.classes}
        if isinstance(self.input, TextInput):
            return {**values, "image_shape": [], "mean": [], "std": [], "text": self.input.to_dict()}
        image = self.input.to_dict()
        return {**values, "image_shape": image["shape"], "mean": image["mean"], "std": image["std"]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataInfo:
        """Read what ``to_dict`` gave."""
        if text := values.get("text"):
            return cls(values["name"], values["classes"], TextInput.from_dict(text))
        return cls(values["name"], values["classes"], ImageInput(values["image_shape"], values["mean"], values["std"]))


@dataclass(frozen=True)
class Checkpoint:
    """A run on disk.

    Attributes:
        recipe: the resolved settings.
        architecture: what ``build_model`` rebuilds the network from.
        data: data set, classes and input.
        position: where the run stands.
        model: state dict of the (parametrized) network, with the versions of its modules.
        optimizer: state dict of the optimizer; ``None`` once the run is complete, and in a copy of its best epoch.
        meter: running sums of an unfinished epoch (loss, right answers, images).
        data_dir: folder of the data on the machine of the run.
        test: the final score (correct, images, loss), once the run is complete.
        probe: what the network answers (`probe_answers`), float32 ``[2, classes]`` on the CPU, where its source is code
            that may give another network next time; ``None`` for built-in models.
        best: the best epoch so far; ``None`` without validation.
    """

    recipe: Recipe
    architecture: AnyArchitecture
    data: DataInfo
    position: Position
    model: dict[str, Any]
    optimizer: dict[str, Any] | None
    meter: list[float]
    data_dir: str | None = None
    test: dict[str, Any] | None = None
    probe: torch.Tensor | None = None
    best: BestEpoch | None = None

    @property
    def complete(self) -> bool:
        """Whether all epochs and the final test are done."""
        return self.test is not None

    @property
    def of_best_epoch(self) -> bool:
        """Whether it is the copy of an epoch, which no run can go on from."""
        return self.best is not None and self.optimizer is None and not self.complete

    @property
    def unfinished(self) -> str | None:
        """What to tell those who use the network of another epoch than the last; ``None`` for the last."""
        if self.complete:
            return None
        epoch, epochs = self.position.epoch, self.recipe.train.epochs
        if self.of_best_epoch and self.best is not None:
            return f"of epoch {epoch} of {epochs}, the best by validation ({100 * self.best.accuracy:.2f} %)"
        return f"of an unfinished run, after step {self.position.step} ({epoch} of {epochs} epochs are done)"


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically.

    Raises:
        IterandError: the folder is missing or read-only, or the disk is full; the old file is untouched.
    """
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "recipe": checkpoint.recipe.model_dump(),
        "architecture": checkpoint.architecture.to_dict(),
        "data": checkpoint.data.to_dict(),
        "position": asdict(checkpoint.position),
        "model": dict(checkpoint.model),
        "optimizer": checkpoint.optimizer,
        "meter": checkpoint.meter,
        "data_dir": checkpoint.data_dir,
        "test": checkpoint.test,
        "versions": module_versions(checkpoint.model),
        "probe": checkpoint.probe,
        "best": asdict(checkpoint.best) if checkpoint.best else None,
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch's zip writer stumbles over the end of a file that a full disk has cut short
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, content: bytes | None = None) -> Checkpoint:
    """Read a checkpoint; tensors come to the CPU.

    Args:
        path: the file.
        content: what is in it, if another process has read it.

    Raises:
        CheckpointError: missing, damaged, foreign, newer, or a pickle that would run code.
    """
    if content is None:
        check_kind(path, "torch")
    try:
        if content is None and not stat.S_ISREG(path.stat().st_mode):  # a FIFO would never open
            raise CheckpointError(f"{path}: cannot be read: not a regular file; give the path of a checkpoint")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about what is refused a moment later
            stored = torch.load(path if content is None else io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        runs = "weights_only" in str(error)
        reason = "a pickle of a whole module, perhaps, that may run code when loaded" if runs else "damaged, or foreign"
        raise CheckpointError(
            f"{path}: refused: not an iterand-compress checkpoint ({reason}); {NO_SEED if runs else _MAKE_ONE}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        program = _program(path)
        if program:
            raise CheckpointError(f"{path}: {program}, not an iterand-compress checkpoint; {NO_SEED}") from None
        # Of the others the message is a key or a place inside torch's reader, such as "101" of a text file.
        reason = f" ({first_line(error)})" if isinstance(error, RuntimeError) else ""
        raise CheckpointError(f"{path}: damaged, or not a checkpoint{reason}; {_MAKE_ONE}") from None
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not an iterand-compress checkpoint, but {_description(stored)}")
    if stored["version"] != _VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version: expected {_VERSION}, got {stored['version']!r}; use the version that wrote it"
        )
    expected = {field.name for field in fields(Checkpoint)} | {"format", "version", "versions"}
    if not expected - _LATER <= set(stored) <= expected:
        raise CheckpointError(f"{path}: damaged: expected the keys {sorted(expected)}, got {sorted(stored)}")
    return Checkpoint(
        recipe=stored_recipe(stored["recipe"], f"{path}: recipe"),
        architecture=read_architecture(stored["architecture"]),
        data=DataInfo.from_dict(stored["data"]),
        position=Position(**stored["position"]),
        model=with_versions(stored["model"], stored.get("versions", {})),
        optimizer=stored["optimizer"],
        meter=stored["meter"],
        data_dir=stored["data_dir"],
        test=stored["test"],
        probe=stored.get("probe"),
        best=BestEpoch(**stored["best"]) if stored.get("best") else None,
    )


def _program(path: Path) -> str | None:
    """What PyTorch writes into a zip archive that holds code, not tensors alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    if any("/code/" in name for name in names):
        return "a TorchScript module"
    return "a program of torch.export" if any("/models/" in name for name in names) else None


def _description(stored: object) -> str:
    """What a file of ``torch.save`` holds that is no checkpoint, and what can be done with it."""
    values = stored if isinstance(stored, Mapping) else {}
    # A bare state dict, or one among the epoch, the optimizer and other things that loops save.
    for state in (values, *(value for value in values.values() if isinstance(value, Mapping))):
        if any(str(key).endswith(".0._extra_state") and ".parametrizations." in f".{key}" for key in state):
            return (
                "the state dict of a subnetwork, which does not say how it is built: load it into the model that "
                "Subnetwork() was created on, and call its pack() in Python"
            )
        tensors = sum(isinstance(value, torch.Tensor) for value in state.values())
        if tensors:
            return f"{tensors} ordinary tensors, without a seed and masks that they follow from; {NO_SEED}"
    return f"a {type(stored).__name__} without weights; {_MAKE_ONE}"


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a zip archive, as ``torch.save`` writes them, or what it wrote before."""
    try:
        with path.open("rb") as file:
            return file.read(4) in (ZIP, OLD_TORCH)
    except OSError:
        return path.suffix.lower() == ".ckpt"
