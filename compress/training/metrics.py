"""``metrics.jsonl``: one JSON object per epoch and one for the final test; TensorBoard if asked for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoint import Position
from ..errors import ConfigError, IterandError, import_extra
from ..files.atomic import atomic_path
from ..files.outputs import beside
from .evaluate import Score
from .reporter import EpochReport

__all__ = ["MetricsLog", "check_tensorboard", "metrics_path"]


def metrics_path(checkpoint: Path) -> Path:
    """``model.ckpt`` logs to ``model.metrics.jsonl``, beside it."""
    return beside(checkpoint, ".metrics.jsonl")


def check_tensorboard(folder: Path) -> None:
    """Check the folder for TensorBoard before the run.

    Raises:
        ConfigError: it is a file, or TensorBoard is not installed.
    """
    import_extra("tensorboard", "tensorboard", "run.tensorboard")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: run.tensorboard: expected a folder, and this is a file; give another name")
    if any("\udc80" <= letter <= "\udcff" for letter in str(folder)):
        raise ConfigError(f"{str(folder)!a}: run.tensorboard: expected a name in UTF-8; give another name")


class MetricsLog:
    """Appends to the log of a run. Lines of epochs that a resumed run repeats are dropped first.

    Args:
        path: the log; ``None`` writes nothing, as in all but one of several processes.
        epochs_done: finished epochs of a run that goes on.
        tensorboard: folder for TensorBoard event files, if any.
    """

    def __init__(self, path: Path | None, epochs_done: int, tensorboard: Path | None) -> None:
        self.path = path
        self._board: Any = None
        if path is None:
            return
        kept = _lines_until(path, epochs_done) if epochs_done else []
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        if tensorboard is not None:
            check_tensorboard(tensorboard)
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), purge_step=epochs_done)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the event files."""
        if self._board is not None:
            self._board.close()

    def epoch(self, report: EpochReport) -> None:
        """Log an epoch."""
        values = asdict(report)
        self._append(values)
        if self._board is not None:
            for name in ("lr", "loss", "accuracy", "val_loss", "val_accuracy", "images_per_second"):
                if values[name] is not None:
                    self._board.add_scalar(name, values[name], report.epoch)

    def test(self, score: Score, position: Position) -> None:
        """Log the final test."""
        self._append(
            {
                "step": position.step,
                "test_correct": score.correct,
                "test_images": score.images,
                "test_accuracy": score.accuracy,
                "test_loss": score.loss,
            }
        )

    def _append(self, values: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise IterandError(f"{self.path}: cannot be written: {error.strerror}; free some space") from None


def _lines_until(path: Path, epochs_done: int) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return []
    kept = []
    for line in lines:
        try:
            epoch = json.loads(line).get("epoch")
        except (ValueError, AttributeError):
            continue  # a line cut short by a kill
        if isinstance(epoch, int) and epoch <= epochs_done:
            kept.append(line)
    return kept
