"""What a run shows while it runs: a bar on a terminal, lines elsewhere."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from iterand_compress import ImageInput, TextInput
from iterand_compress.cli import progress
from iterand_compress.cli.progress import LineReporter, reporter
from iterand_compress.compress.checkpoint import Position
from iterand_compress.compress.training.evaluate import Score
from iterand_compress.compress.training.recipe import load_recipe
from iterand_compress.compress.training.reporter import EpochReport, RunInfo, StepReport


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, **environment):
    """What a run of 35,200 steps writes to standard error after 13 steps, an epoch, and the last step."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    moments = iter([10.0, 11.3])  # 13 steps in 1.3 seconds
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    data = SimpleNamespace(name="digits", text=None, input=SimpleNamespace(noun="image"))
    run = reporter(quiet=False)
    run.start(RunInfo(load_recipe("digits"), torch.device("cpu"), data, Position(0, 0, 0), 100, 352, 225_000))
    run.step(StepReport(Position(0, 13, 13), 2.3026, 0.104, 1234.5))
    run.step(StepReport(Position(0, 26, 26), 2.2, 0.2, 1234.5))
    run.epoch(EpochReport(1, 352, 0.1, 1.9, 0.41, None, 0.43, 18.2, 1240.0))
    run.step(StepReport(Position(99, 351, 35_199), 0.0123, 0.995, 1234.5))
    run.finish(Score(359, 360, 0.02))
    run.close()
    return terminal.getvalue()


CONTROL = re.compile(r"\x1b\[\??\d*[A-HJKhl]")  # moves the cursor or clears lines


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_the_bar_fits_the_terminal_without_colours(width, monkeypatch, capsys):
    text = shown(monkeypatch, COLUMNS=str(width), NO_COLOR="1", TERM="xterm")
    plain = CONTROL.sub("", text)
    assert not re.search(r"\x1b\[[\d;]*3\dm", plain), "a colour"
    bars = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;]*m", "", plain)) if line.startswith("step ")]
    assert any(line.startswith("step 13 of 35,200 ") for line in bars), text
    assert any(line.startswith("step 35,199 of 35,200 ") for line in bars)
    for line in bars[1:]:
        assert len(line.rstrip()) <= width
        assert "…" not in line
        assert bool(re.search(r"accuracy \d+\.\d %", line)) == (width >= 60)
        assert ("images/s" in line) == (width >= 140)
    assert "step 13" not in capsys.readouterr().out


def test_colours_are_for_terminals_that_have_them(monkeypatch):
    assert re.search(r"\x1b\[[\d;]*3\dm", shown(monkeypatch, COLUMNS="80", TERM="xterm-256color"))


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, capsys):
    assert shown(monkeypatch, COLUMNS="60", TERM="dumb") == ""
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "step 13 of 35,200: loss 2.3026, 1,234 images/s"
    assert lines[2] == (
        "an epoch will take about 35.2 s, 100 epochs 58.7 min (measured on the 13 steps after the first)"
    )
    assert [line[:9] for line in lines[3:]] == ["epoch 1/1", "test accu"]


def test_an_estimate_stays_above_the_bar(monkeypatch):
    text = CONTROL.sub("", shown(monkeypatch, COLUMNS="140", TERM="xterm", NO_COLOR="1"))
    assert text.count("an epoch will take about 35.2 s, 100 epochs 58.7 min") == 1


def info(data, examples, epochs=1, done=0):
    recipe = load_recipe("digits")
    return RunInfo(recipe, torch.device("cpu"), data, Position(done), epochs, 100, 5, examples=examples)


def test_the_headline_says_what_is_learned_from(capsys):
    classes = [f"c{number}" for number in range(7)]
    images = SimpleNamespace(name="folder", classes=classes, input=ImageInput((3, 48, 64), 0, 1))
    texts = SimpleNamespace(name="text", classes=["a", "b\x1b"], input=TextInput(128, 100))
    reporter(quiet=False).start(info(images, {"train": 1234, "val": 100, "test": 50}))
    reporter(quiet=False).start(info(texts, {"train": 9, "test": 1}))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "iterand on folder (1,234 training, 100 validation and 50 test images of 48×64 pixels; 7 classes: c0, c1, c2, "
        "c3, c4, and 2 more): digits-cnn, 5 weights"
    )
    assert second.startswith("iterand on text (9 training and 1 test texts of 128 words; 2 classes: a, 'b\\x1b'): ")


@pytest.mark.parametrize(
    ("epochs", "done", "steps", "moments", "expected"),
    [
        (1, 0, [1, 5, 9], [0.0, 1.0, 2.0], None),  # too few steps to tell
        (1, 0, [1, 5, 11], [0.0, 1.0, 2.0], "20.0 s (measured on the 10 steps after the first)"),
        (1, 0, [1, 2, 3], [0.0, 72.0, 80.0], "2.0 h (measured on the step after the first)"),
        (9, 6, [1, 5, 11], [0.0, 1.0, 2.0], "20.0 s, 3 epochs 1.0 min (measured on the 10 steps after the first)"),
    ],
)
def test_an_epoch_is_estimated_from_enough_steps_after_the_first(
    epochs, done, steps, moments, expected, monkeypatch, capsys
):
    clock = iter(moments)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    run = progress.LineReporter()
    run.start(info(SimpleNamespace(name="digits", input=SimpleNamespace(noun="image")), {}, epochs, done))
    for step in steps:
        run.step(StepReport(Position(0, step, step), 2.0, 0.1, 1.0))
    run.epoch(EpochReport(1, 100, 0.1, 1.9, 0.4, None, None, 1.0, 1.0))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("an epoch")]
    assert lines == ([] if expected is None else [f"an epoch will take about {expected}"])


@pytest.mark.parametrize(
    ("method", "words"), [("dense", "225,000 weights, 100 epochs"), ("iterand", "sparsity 0.5, 100")]
)
def test_the_headline_of_a_dense_run_names_no_sparsity(method, words, capsys):
    data = SimpleNamespace(name="digits", input=SimpleNamespace(noun="image"))
    recipe = load_recipe("digits", subnetwork={"method": method})
    LineReporter().start(RunInfo(recipe, torch.device("cpu"), data, Position(0, 0, 0), 100, 352, 225_000))
    shown = capsys.readouterr().out
    assert words in shown
    assert ("sparsity" in shown) == (method != "dense")
