"""Where the time of a step goes, and what is said when there is no memory for it."""

import json
import re

import pytest
import torch
from networks import settings as make_settings

from conftest import fail, succeed
from iterand_compress.compress.config import DataConfig, ModelConfig, Recipe, TrainConfig
from iterand_compress.compress.errors import TrainingError
from iterand_compress.compress.training import allocator, prepare
from iterand_compress.compress.training.allocator import keep_freed_memory
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.out_of_memory import largest_fitting
from iterand_compress.compress.training.profile import STAGES
from iterand_compress.compress.training.reporter import Reporter
from iterand_compress.compress.training.run_options import RunOptions

RECIPE = Recipe(
    data=DataConfig(name="digits"),
    model=ModelConfig(name="digits-cnn", width=0.25),
    subnetwork=make_settings(method="iterand", every=5, seed=3),
    train=TrainConfig(epochs=1, batch_size=64, lr=0.1),
)


class Listener(Reporter):
    def __init__(self):
        self.reports = []

    def profile(self, report):
        self.reports.append(report)


def state_of(path):
    return {k: v for k, v in torch.load(path, weights_only=True)["model"].items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize(("batch_size", "steps"), [(64, 8), (250, 2)], ids=["a trace", "an epoch that ends it"])
def test_a_profile_names_all_stages_and_changes_nothing(tmp_path, batch_size, steps):
    recipe = RECIPE.model_copy(update={"train": RECIPE.train.model_copy(update={"batch_size": batch_size})})
    train(recipe, RunOptions(out=tmp_path / "plain.ckpt", device="cpu"))
    listener = Listener()
    train(recipe, RunOptions(out=tmp_path / "traced.ckpt", device="cpu", profile=True), listener)
    (report,) = listener.reports
    assert (report.steps, report.every) == (steps, 5)
    assert tuple(report.shares) == STAGES
    assert sum(report.shares.values()) == pytest.approx(1)
    assert min(report.shares.values()) > 0
    assert report.shares["refresh"] == pytest.approx(report.event / 5 / report.seconds)
    assert report.shares["network"] == max(report.shares.values())
    assert report.trace == tmp_path / "traced.trace.json"
    names = {event.get("name") for event in json.loads(report.trace.read_text())["traceEvents"]}
    assert {f"iterand-compress: {name}" for name in STAGES} <= names
    plain, traced = state_of(tmp_path / "plain.ckpt"), state_of(tmp_path / "traced.ckpt")
    assert plain.keys() == traced.keys()
    assert all(torch.equal(plain[key], traced[key]) for key in plain)
    assert not (tmp_path / "plain.trace.json").exists()


def test_the_command_prints_the_shares(tmp_path):
    out = tmp_path / "m.ckpt"
    text = succeed(
        "train", "--profile", "--epochs", 1, "--width", 0.25, "--method", "edge-popup", "--out", out, "--device", "cpu"
    )
    shares = dict(re.findall(r"^  (\w+) +([0-9.]+) %", text, re.MULTILINE))
    assert list(shares) == list(STAGES)
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.1)
    assert "m.trace.json" in text
    assert "an event of" not in text, "edge-popup has none"


def short_of_memory(monkeypatch, most):
    """Let networks run out of memory with more than ``most`` images, in training and without."""

    def look(module, inputs):
        if len(inputs[0]) > most[module.training]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    real = prepare.build_network

    def build(*args, **kwargs):
        model = real(*args, **kwargs)
        model.register_forward_pre_hook(look)
        return model

    monkeypatch.setattr(prepare, "build_network", build)


@pytest.mark.parametrize(
    ("most", "words", "advice"),
    [
        (20, (), "64 examples at a time; 16 fit: give --accumulate 4 or --batch-size 16, or start more"),
        (
            20,
            ("--set=train.sync_batchnorm=true",),
            "64 examples at a time; 16 fit: give --batch-size 16, or start more",
        ),
        (20, ("--accumulate", 2), "32 examples at a time; 16 fit: give --accumulate 4 or --batch-size 32, or start"),
        (5, ("--accumulate", 3), "22 examples at a time; 5 fit: give --accumulate 15 or --batch-size 15, or start"),
        (0, (), "64 examples at a time; not even one fits, or start more"),
    ],
)
def test_a_batch_that_is_too_large_gets_advice_in_one_line(tmp_path, monkeypatch, most, words, advice):
    short_of_memory(monkeypatch, {True: most, False: 1000})
    out = tmp_path / "m.ckpt"
    line = fail(1, "train", "--epochs", 1, "--width", 0.25, "--batch-size", 64, "--out", out, "--device", "cpu", *words)
    assert f"cpu ran out of memory at step 0 with {advice}" in line
    assert torch.load(out, weights_only=True)["position"]["step"] == 0, "the checkpoint of the start is whole"


def test_evaluation_takes_smaller_batches_where_memory_is_short(tmp_path, monkeypatch):
    free = train(RECIPE, RunOptions(out=tmp_path / "free.ckpt", device="cpu")).test
    short_of_memory(monkeypatch, {True: 64, False: 100})
    short = train(RECIPE, RunOptions(out=tmp_path / "short.ckpt", device="cpu")).test
    assert (short.correct, short.images) == (free.correct, free.images)
    assert short.loss == pytest.approx(free.loss)
    short_of_memory(monkeypatch, {True: 64, False: 0})
    monkeypatch.setattr(prepare, "check_logits", lambda *args: None)
    with pytest.raises(TrainingError, match="cpu has no memory to evaluate a single example"):
        train(RECIPE, RunOptions(out=tmp_path / "none.ckpt", device="cpu"))


@pytest.mark.parametrize(("platform", "library"), [("darwin", True), ("linux", False)])
def test_freed_memory_is_left_to_allocators_that_cannot_be_told(monkeypatch, platform, library):
    monkeypatch.setattr(allocator.sys, "platform", platform)
    if not library:
        monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


def test_what_the_allocator_is_told(monkeypatch):
    """Nothing by mmap, which is given back at once, and nothing off the top of the heap."""
    told = {}

    class Library:
        @staticmethod
        def mallopt(option, value):
            told[option] = value
            return 1

    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Library)
    assert keep_freed_memory() is True
    assert told == {-4: 0, -1: 2**31 - 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD of glibc


def test_largest_fitting_halves():
    tried = []

    def attempt(size):
        tried.append(size)
        if size > 9:
            raise torch.OutOfMemoryError

    assert largest_fitting(attempt, 100) == 6
    assert tried == [50, 25, 12, 6]


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_modes_of_compile_reach_torch(tmp_path, monkeypatch, mode):
    modes = []
    real = torch.compile

    def compile_(module, mode):
        modes.append(mode)
        return real(module, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_)
    plain = train(RECIPE, RunOptions(out=tmp_path / "plain.ckpt", device="cpu")).test
    assert train(RECIPE, RunOptions(out=tmp_path / "compiled.ckpt", device="cpu", compile=mode)).test == plain
    assert modes == [mode]
