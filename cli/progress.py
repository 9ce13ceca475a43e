"""Reporters of a run: a progress bar, lines for logs, and silence."""

from __future__ import annotations

import os
import sys
import time

import click

from ..compress.data.class_folders import left_out_line
from ..compress.files.names import printable
from ..compress.inputs import ImageInput
from ..compress.training.evaluate import Score
from ..compress.training.profile import ProfileReport
from ..compress.training.reporter import EpochReport, Reporter, RunInfo, StepReport
from .options import discard_output

#: Classes that the headline names, at most.
_NAMED = 5
#: An epoch is estimated from that many steps after the first one, or from those of so many seconds.
_MEASURED_STEPS, _MEASURED_SECONDS = 10, 5.0

__all__ = ["LineReporter", "SilentReporter", "reporter"]


def reporter(*, quiet: bool, test: bool = True) -> Reporter:
    """A progress bar on a terminal that can move its cursor, one line an epoch elsewhere, nothing if ``quiet``.

    Args:
        quiet: print nothing.
        test: whether the accuracy on the test images is printed.
    """
    if quiet:
        return SilentReporter()
    moving = sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return BarReporter(test=test) if moving else LineReporter(test=test)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _headline(info: RunInfo) -> str:
    recipe = info.recipe
    sparsity = f", sparsity {recipe.subnetwork.sparsity:g}" if recipe.subnetwork.has_masks else ""
    begin = f", from step {info.position.step}" if info.position.step else ""
    device = f"{info.processes} × {info.device.type}" if info.processes > 1 else str(info.device)
    device += " with one thread" if info.one_thread else ""
    empty = f"\nlayers that lost all their weights: {', '.join(info.empty_layers)}" if info.empty_layers else ""
    left_out = f"\n{left_out_line(info.left_out)}" if info.left_out else ""
    split = f"\n{info.split_note}" if info.split_note else ""
    return (
        f"{recipe.subnetwork.method} on {info.data.name}{_examples(info)}: {recipe.model.name}, "
        f"{info.weights:,} weights{sparsity}, "
        f"{_count(info.epochs, 'epoch')} of {_count(info.steps_per_epoch, 'step')} on {device}{begin}"
        f"{empty}{split}{left_out}"
    )


def _examples(info: RunInfo) -> str:
    """What is learned from: number and size of the examples, and the classes."""
    if not info.examples:
        return ""
    names = {"train": "training", "val": "validation", "test": "test"}
    counts = [f"{number:,} {names[split]}" for split, number in info.examples.items()]
    what = info.data.input
    size = f"{what.shape[1]}×{what.shape[2]} pixels" if isinstance(what, ImageInput) else f"{what.length} {what.unit}"
    classes = ", ".join(map(printable, info.data.classes[:_NAMED]))
    more = len(info.data.classes) - _NAMED
    classes += f", and {more:,} more" if more > 0 else ""
    counted = f"{', '.join(counts[:-1])} and {counts[-1]}"
    return f" ({counted} {what.noun}s of {size}; {len(info.data.classes):,} classes: {classes})"


def _step_of(step: int, total: int) -> str:
    return f"step {step:,} of {total:,}"


def _noun(info: RunInfo) -> str:
    return f"{info.data.input.noun}s"


def _epoch_line(report: EpochReport, epochs: int, noun: str) -> str:
    validation = f", validation {100 * report.val_accuracy:.2f} %" if report.val_accuracy is not None else ""
    return (
        f"epoch {report.epoch}/{epochs}: loss {report.loss:.4f}, accuracy {100 * report.accuracy:.2f} %{validation}, "
        f"lr {report.lr:.4g}, {report.images_per_second:,.0f} {noun}/s, {report.seconds:.1f} s"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _test_line(test: Score) -> str:
    return f"test accuracy {100 * test.accuracy:.2f} % ({test.correct:,} of {test.images:,})"


def _profile_lines(report: ProfileReport) -> str:
    lines = [f"{report.steps} steps of {1e3 * report.seconds:,.1f} ms; trace: {report.trace}"]
    for name, share in report.shares.items():
        event = f"  (an event of {1e3 * report.event:,.1f} ms every {report.every} steps)"
        lines.append(f"  {name:<10}{100 * share:6.2f} %{event if name == 'refresh' and report.every else ''}")
    return "\n".join(lines)


class SilentReporter(Reporter):
    """Prints nothing.

    Attributes:
        info: what the run is, for the JSON result; ``None`` before it begins.
    """

    def __init__(self) -> None:
        self.info: RunInfo | None = None

    def start(self, info: RunInfo) -> None:
        """Keep what the JSON result reports."""
        self.info = info


def _say(text: str) -> None:
    """Print a line on standard output. A failure to print must not end a run, whose result is the checkpoint."""
    try:
        click.echo(text)
    except OSError as error:
        discard_output(sys.stdout)
        try:
            click.echo(
                f"standard output: cannot be written: {error.strerror}; training goes on without it (results are in "
                "the checkpoint and in the .metrics.jsonl beside it)",
                err=True,
            )
        except OSError:
            discard_output(sys.stderr)


class LineReporter(Reporter):
    """One line an epoch, for logs, one after the first step, and one that says how long an epoch will take."""

    def __init__(self, *, test: bool = True) -> None:
        self._test = test
        self._epochs = self._left = self._total = self._steps_per_epoch = 0
        self._noun = "images"
        self._stepped = False
        # Step and moment from which an epoch is measured; None before the first step and when it has been said.
        self._since: tuple[int, float] | None = None

    def start(self, info: RunInfo) -> None:
        """Print the method, data, model and device."""
        self._epochs, self._noun, self._steps_per_epoch = info.epochs, _noun(info), info.steps_per_epoch
        self._left = info.epochs - info.position.epoch  # a resumed run has done some
        self._total = info.epochs * info.steps_per_epoch
        _say(_headline(info))

    def step(self, report: StepReport) -> None:
        """After the first step, say that the run moves."""
        if not self._stepped:
            self._stepped = True
            speed = f"{report.images_per_second:,.0f} {self._noun}/s"
            _say(f"{_step_of(report.position.step, self._total)}: loss {report.loss:.4f}, {speed}")
            self._since = report.position.step, time.monotonic()
        elif line := self._estimate(report.position.step):
            _say(line)

    def _estimate(self, step: int) -> str:
        """How long an epoch will take, once enough steps after the first one were measured: that one is slower."""
        if self._since is None:
            return ""
        first, began = self._since
        steps, seconds = step - first, time.monotonic() - began
        if steps < _MEASURED_STEPS and seconds < _MEASURED_SECONDS:
            return ""
        self._since = None
        epoch = seconds / steps * self._steps_per_epoch
        every = f", {self._left} epochs {_duration(epoch * self._left)}" if self._left > 1 else ""
        measured = "the step after the first" if steps == 1 else f"the {steps} steps after the first"
        return f"an epoch will take about {_duration(epoch)}{every} (measured on {measured})"

    def epoch(self, report: EpochReport) -> None:
        """Print the line of the epoch, which makes an estimate idle."""
        self._since = None
        _say(_epoch_line(report, self._epochs, self._noun))

    def profile(self, report: ProfileReport) -> None:
        """Print the shares of a step."""
        _say(_profile_lines(report))

    def finish(self, test: Score) -> None:
        """Print the test accuracy, if it is asked for."""
        if self._test:
            _say(_test_line(test))


class BarReporter(LineReporter):
    """A bar over all steps with accuracy, speed and time left, as far as the width of the terminal goes."""

    def __init__(self, *, test: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        super().__init__(test=test)
        self._console = Console(stderr=True)
        self._bar_width = 10 if self._console.width < 100 else 30
        self._bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(self._bar_width),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
        )

    def start(self, info: RunInfo) -> None:
        """Print what runs, and show the bar."""
        super().start(info)
        step = info.position.step
        self._task = self._bar.add_task(_step_of(step, self._total), total=self._total, completed=step, text="")
        self._bar.start()

    def step(self, report: StepReport) -> None:
        """Move the bar; an estimate stays above it."""
        self._show(report.position.step, report.position.epoch + 1, report)
        if not self._stepped:
            self._stepped, self._since = True, (report.position.step, time.monotonic())
        elif line := self._estimate(report.position.step):
            self._console.print(line, highlight=False, soft_wrap=True)

    def epoch(self, report: EpochReport) -> None:
        """Move the bar; the line of the epoch stays above it."""
        self._since = None
        self._show(report.step, min(report.epoch + 1, self._epochs), report)
        self._console.print(_epoch_line(report, self._epochs, self._noun), highlight=False, soft_wrap=True)

    def _show(self, step: int, epoch: int, report: StepReport | EpochReport) -> None:
        description = _step_of(step, self._total)
        free = self._console.width - len(description) - self._bar_width - len(" -:--:-- ") - 2
        text = f"accuracy {100 * report.accuracy:.1f} %"
        for more in (
            f"epoch {epoch}/{self._epochs}",
            f"loss {report.loss:.3f}",
            f"{report.images_per_second:,.0f} {self._noun}/s",
        ):
            if len(text) + len(more) + 2 <= free:
                text = f"{text}  {more}"
        text = text if len(text) <= free else ""
        self._bar.update(self._task, completed=step, description=description, text=text, refresh=True)

    def finish(self, test: Score) -> None:
        """Take the bar away and print the result."""
        self._bar.stop()
        super().finish(test)

    def close(self) -> None:
        """Take the bar away, also after an error."""
        self._bar.stop()
