"""search: candidates that fit, the better half, one file under the limit, and no run twice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import iterand_compress as ic
from conftest import fail, succeed
from iterand_compress.compress.analysis import candidates as candidates_module
from iterand_compress.compress.analysis import search as search_module
from iterand_compress.compress.analysis.candidates import Candidate, FileSizes
from iterand_compress.compress.analysis.search import (
    SearchStoppedError,
    Trial,
    halve,
    plan_search,
    search,
    shortened,
)
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.models import resolve
from iterand_compress.compress.networks import build_network
from iterand_compress.compress.seedmask.state_dtype import SMALLEST_STATE
from iterand_compress.compress.training.reporter import EpochReport, Reporter

DIGITS = ic.ImageInput((1, 8, 8), 0.3, 0.4)
LIMIT = 2000


def recipe(epochs: int = 2, **subnetwork: Any) -> Recipe:
    return ic.load_recipe("digits", subnetwork={"method": "edge-popup", **subnetwork}, train={"epochs": epochs})


def packed(changed: Recipe, path: Path) -> int:
    """Bytes of the smallest file of an untrained network: a random mask, and statistics that differ as trained ones."""
    architecture = resolve(changed.model, num_classes=10, input=DIGITS)
    model = build_network(changed, architecture, allow_import=False)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.linspace(0.5, 1, buffer.numel()).view_as(buffer))
    file = ic.pack(
        model, path, form="compact", state_dtype=SMALLEST_STATE, input=DIGITS, architecture=architecture.to_dict()
    )
    return file.file_bytes


# The plan


@pytest.mark.parametrize("limit", [1500, 8000])
def test_the_widest_networks_that_fit(limit: int, tmp_path: Path) -> None:
    plan = plan_search(recipe(), max_bytes=limit, candidates=4)
    assert [candidate.sparsity for candidate in plan.candidates] == [0.8, 0.7, 0.9, 0.5]
    sizes = FileSizes(recipe(), 10, DIGITS)
    for candidate in plan.candidates:
        own = sizes.recipe_of(candidate.sparsity, candidate.width)
        size = packed(own, tmp_path / "own.seedmask")
        assert 0.9 * limit < size <= limit
        assert candidate.predicted_bytes == pytest.approx(size, rel=0.01)
        wider = sizes.recipe_of(candidate.sparsity, candidate.width + 1 / 256)
        assert packed(wider, tmp_path / "wider.seedmask") > limit


def test_what_a_plan_costs() -> None:
    plan = plan_search(recipe(epochs=12), max_bytes=1500, candidates=5)
    assert plan.rounds == ((5, 3), (2, 6), (1, 12))
    assert plan.epochs == 5 * 3 + 2 * 6 + 12
    counts = sorted((candidate.multiply_adds for candidate in plan.candidates), reverse=True)
    assert plan.examples == 1293
    assert plan.multiply_adds == 1293 * (3 * sum(counts) + 6 * sum(counts[:2]) + 12 * counts[0])


def test_sparsities_that_leave_a_layer_nothing_are_passed_over() -> None:
    """The narrowest networks of 95 % do not exist; those that do are too large."""
    plan = plan_search(recipe(), max_bytes=440, candidates=9)
    assert 0.98 not in [candidate.sparsity for candidate in plan.candidates]
    assert all(candidate.predicted_bytes <= 440 for candidate in plan.candidates)


def test_a_recipe_is_shortened_in_proportion() -> None:
    short = shortened(ic.load_recipe("cifar10-fast"), 6)
    assert (short.train.epochs, short.train.warmup_epochs) == (6, 1)
    assert shortened(ic.load_recipe("cifar10-fast"), 1).train.warmup_epochs == 0
    whole = ic.load_recipe(
        "digits",
        subnetwork={"selection": {"ramp_epochs": 10}, "recycle": {"every": 10, "rate": 0.2}},
        train={"epochs": 40, "milestones": [2, 20, 30], "gamma": 0.5},
    )
    half = shortened(whole, 20)
    assert half.train.milestones == (1, 10, 15)
    assert half.subnetwork.selection.ramp_epochs == 5
    assert half.subnetwork.recycle.every == 5
    least = shortened(whole, 1)
    assert (least.train.milestones, least.train.gamma, least.subnetwork.recycle) == ((), None, None)
    assert least.subnetwork.selection.ramp_epochs == 1
    assert shortened(whole, 40) == whole


# Halving


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 9))
def test_the_better_half_goes_on(data: st.DataObject, count: int) -> None:
    networks = [Candidate(number / 10, 1.0, 1, 1, 1) for number in range(count)]
    counts = [count]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    rounds = [(n, 2**number) for number, n in enumerate(counts)]
    accuracies: dict[tuple[int, float], float] = {}

    def measure(number: int, epochs: int, candidate: Candidate) -> Trial:
        assert epochs == rounds[number - 1][1]
        accuracy = data.draw(st.sampled_from([0.1, 0.5, 0.6, 0.9]))
        assert (number, candidate.sparsity) not in accuracies, "no run twice"
        accuracies[number, candidate.sparsity] = accuracy
        return Trial(number, epochs, candidate, 1, accuracy)

    trials = halve(networks, rounds, measure)
    for number, (n, _) in enumerate(rounds, 1):
        trained = [trial.candidate.sparsity for trial in trials if trial.number == number]
        assert len(trained) == n
        if number > 1:
            before = {sparsity: found for (when, sparsity), found in accuracies.items() if when == number - 1}
            dropped = [found for sparsity, found in before.items() if sparsity not in trained]
            assert set(trained) <= set(before)
            assert min(before[sparsity] for sparsity in trained) >= max(dropped)


# A search


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("search") / "found"
    options = ("--max-bytes", LIMIT, "--candidates", 3, "--epochs", 2, "--device", "cpu", "--out", folder)
    text = succeed("search", *options)
    return SimpleNamespace(
        folder=folder, options=options, text=text, result=json.loads(succeed("search", *options, "--json"))
    )


def test_the_file_is_what_it_is_said_to_be(found: SimpleNamespace) -> None:
    result, file = found.result, found.folder / "best.seedmask"
    assert result["file"] == str(file)
    assert result["file_bytes"] == file.stat().st_size <= LIMIT
    assert json.loads(succeed("eval", file, "--data", "digits", "--json"))["accuracy"] == result["test"]["accuracy"]
    succeed("verify", file)
    manifest = ic.read_seedmask(file).manifest
    last = result["trials"][-1]
    assert manifest.architecture["width"] == last["candidate"]["width"]
    assert ic.read_seedmask(file).sparsity == pytest.approx(last["candidate"]["sparsity"], abs=0.01)
    accuracies = {trial["candidate"]["sparsity"]: trial["accuracy"] for trial in result["trials"][:3]}
    assert accuracies[last["candidate"]["sparsity"]] == max(accuracies.values())
    assert [(trial["number"], trial["epochs"]) for trial in result["trials"]] == [(1, 1)] * 3 + [(2, 2)]
    for trial in result["trials"]:
        name = f"round{trial['number']}-s{trial['candidate']['sparsity']:g}-w{trial['candidate']['width']:g}"
        assert (found.folder / f"{name}.seedmask").stat().st_size == trial["file_bytes"] <= LIMIT
        held_out = succeed("eval", found.folder / f"{name}.ckpt", "--split", "val", "--json")
        assert json.loads(held_out)["accuracy"] == pytest.approx(trial["accuracy"], abs=0.02), "the state is rounded"


def test_the_last_run_is_that_of_train(found: SimpleNamespace, tmp_path: Path) -> None:
    last = found.result["trials"][-1]["candidate"]
    out = tmp_path / "m.ckpt"
    succeed(
        *("train", "--recipe", "digits", "--method", "edge-popup", "--epochs", 2, "--device", "cpu", "-q"),
        *("--width", last["width"], "--sparsity", last["sparsity"], "--out", out),
    )
    succeed("pack", out, "--bare", "--state-dtype", SMALLEST_STATE)
    assert out.with_suffix(".seedmask").read_bytes() == (found.folder / "best.seedmask").read_bytes()


def test_the_table(found: SimpleNamespace) -> None:
    lines, result = found.text.splitlines(), found.result
    assert "recipe digits: edge-popup on digits, digits-cnn; at most 2,000 bytes" in lines
    heading = next(line for line in lines if line.lstrip().startswith("sparsity"))
    rows = lines[lines.index(heading) + 1 :][:3]
    for row, candidate, trial in zip(rows, result["candidates"], result["trials"], strict=False):
        assert row.split()[:3] == [
            f"{candidate['sparsity']:g}",
            f"{candidate['width']:.4g}",
            f"{candidate['weights']:,}",
        ]
        assert row.split()[3] == f"{candidate['predicted_bytes']:,}"
        assert row.split()[5] == f"{100 * trial['accuracy']:.2f}"
    test = result["test"]
    assert lines[-1] == (
        f"{found.folder / 'best.seedmask'}: {result['file_bytes']:,} bytes, test accuracy "
        f"{100 * test['accuracy']:.2f} % ({test['correct']} of 360)"
    )
    assert found.text.count("test accuracy") == 1, "nothing else tells what the test images say"


def test_the_same_command_trains_nothing_again(found: SimpleNamespace) -> None:
    before = {path: path.stat().st_mtime_ns for path in found.folder.iterdir() if path.name != "search.json"}
    assert len(before) == 1 + 4 * 4
    assert json.loads(succeed("search", *found.options, "--json")) == found.result
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_are_refused(found: SimpleNamespace, tmp_path: Path) -> None:
    line = fail(2, "search", *found.options, "--max-bytes", "3k")
    assert "holds a search with other settings (max_bytes: 2000 → 3000); give the same ones" in line
    line = fail(2, "search", *found.options, "--recipe", "digits")
    assert "subnetwork.method: 'edge-popup' → 'iterand'" in line
    assert "train.lr: 0.1 → 0.5" in fail(2, "search", *found.options, "--set", "train.lr=0.5")
    (tmp_path / "notes.txt").write_text("mine")
    options = ("--max-bytes", LIMIT, "--out", tmp_path)
    assert "holds something else than a search; choose a new folder" in fail(2, "search", *options)
    (tmp_path / "search.json").write_text('{"format": ')
    assert "search.json: damaged, or not of a search" in fail(1, "search", *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "search.json"]


class _Stopping(Reporter):
    """Asks the run to stop after its first epoch, once."""

    def __init__(self, names: list[str], name: str) -> None:
        names.append(name)
        self._stops = len(names) == 2

    def epoch(self, report: EpochReport) -> None:
        if self._stops and report.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_search_goes_on_where_it_was(tmp_path: Path) -> None:
    plain = search(recipe(epochs=4), max_bytes=1200, out=tmp_path / "plain", candidates=2, device="cpu")
    names: list[str] = []
    options = {"max_bytes": 1200, "out": tmp_path / "cut", "candidates": 2, "device": "cpu"}
    with pytest.raises(SearchStoppedError, match=r"stopped in run round1-s0\.7-w.*: give the same command again"):
        search(recipe(epochs=4), **options, reporter_of=lambda name: _Stopping(names, name))
    first = tmp_path / "cut" / f"{names[0]}.ckpt"
    before, stopped = first.stat().st_mtime_ns, load_checkpoint(tmp_path / "cut" / f"{names[1]}.ckpt")
    assert not stopped.complete
    assert stopped.position.epoch == 1
    result = search(recipe(epochs=4), **options, reporter_of=lambda name: _Stopping(names, name))
    assert first.stat().st_mtime_ns == before
    assert names[2:] == [names[1], plain.file.parent.joinpath(names[-1]).name]
    assert result.trials == plain.trials
    assert result.file.read_bytes() == plain.file.read_bytes()
    assert result.test == plain.test


def test_a_file_that_comes_out_too_large_is_not_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions that are a tenth too small: narrower networks are trained until one fits."""
    honest = candidates_module.estimate

    def small(*args: Any, **options: Any) -> Any:
        size = honest(*args, **options)
        shrunk = SimpleNamespace(**{key: getattr(size, key) for key in ("weights", "multiply_adds")})
        shrunk.file_bytes = size.file_bytes * 9 // 10
        return shrunk

    monkeypatch.setattr(candidates_module, "estimate", small)
    options = ("--max-bytes", 1500, "--candidates", 1, "--epochs", 1, "--device", "cpu", "-q", "--out", tmp_path / "s")
    text = succeed("search", *options)
    result = search(recipe(epochs=1), max_bytes=1500, out=tmp_path / "s", candidates=1, device="cpu")
    (trial,) = result.trials
    planned = result.plan.candidates[0].width
    again = f"sparsity 0.8: trained again with width {trial.candidate.width:.4g}, as the file of {planned:.4g} came out"
    assert again in text
    assert trial.candidate.width < result.plan.candidates[0].width
    assert 1350 < trial.file_bytes == result.file.stat().st_size <= 1500
    assert {path.stat().st_size <= 1500 for path in (tmp_path / "s").glob("*.seedmask")} == {True}


def test_a_state_that_cannot_be_rounded_stays_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes its bytes from the width."""

    def refuse(*_: Any) -> Any:
        raise SeedMaskError("a variance would become 0")

    monkeypatch.setattr(search_module, "with_state_dtype", refuse)
    result = search(recipe(epochs=1), max_bytes=1500, out=tmp_path / "s", candidates=1, device="cpu")
    file = ic.read_seedmask(result.file)
    assert {stored.dtype for stored in file.state().values()} == {"F32"}
    assert result.trials[0].candidate.width < result.plan.candidates[0].width
    assert 1350 < file.file_bytes <= 1500


def test_files_with_a_log_come_close_to_the_limit(tmp_path: Path) -> None:
    """IteRand's half of the kept weights, as in runs of full length, would leave a quarter of the limit unused."""
    iterand = recipe(epochs=6, method="iterand", sparsity=0.5, resample={"every": 30, "rate": 0.1})
    result = search(iterand, max_bytes=4000, out=tmp_path / "s", candidates=1, device="cpu")
    assert 0.93 * 4000 < result.file.stat().st_size <= 4000
    log = sum(entry.log.bytes for entry in ic.read_seedmask(result.file).tensors)
    assert log > 0


def test_the_last_run_takes_all_images_if_the_recipe_does(tmp_path: Path) -> None:
    whole = ic.load_recipe("digits", subnetwork={"method": "edge-popup"}, train={"epochs": 2}, data={"validation": 0.0})
    result = search(whole, max_bytes=1000, out=tmp_path / "s", candidates=2, device="cpu")
    assert [trial.accuracy is None for trial in result.trials] == [False, False, True]
    shares = {load_checkpoint(path).recipe.data.validation for path in (tmp_path / "s").glob("round1-*[0-9].ckpt")}
    assert shares == {0.1}
    (last,) = (tmp_path / "s").glob("round2-*.ckpt")
    assert load_checkpoint(last).recipe.data.validation == 0.0


def test_plan_alone_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = succeed("search", "--max-bytes", "1.5k", "--data", "digits", "--candidates", 2, "--plan")
    plan = json.loads(succeed("search", "--max-bytes", 1500, "--candidates", 2, "--plan", "--json"))
    assert plan["max_bytes"] == 1500
    assert plan["rounds"] == [{"networks": 2, "epochs": 15}, {"networks": 1, "epochs": 30}]
    assert "rounds: 2 × 15, 1 × 30 epochs; 60 epochs in all" in text
    assert f"{plan['multiply_adds']:.3g} at most" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("side", "expected"), [(32, "cifar10-fast: edge-popup on folder, airbench"), (8, "digits: ")])
def test_the_recipe_of_a_folder_follows_from_its_images(side: int, expected: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(12):
                noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / split / name / f"{number}.png")
    options = ("--max-bytes", "1500", "--data", "folder", "--data-dir", tmp_path, "--candidates", 1, "--plan")
    assert f"recipe {expected}" in succeed("search", *options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-bytes", 300), "has a file of at most 300 bytes; the smallest has about "),
        (("--max-bytes", "30kB"), "expected a number of bytes, such as 30000, 30k or 1.5M, got '30kB'"),
        (("--max-bytes", 0), "expected a number of bytes"),
        (("--max-bytes", "2k", "--method", "dense"), "search: dense trains weights, which no small file holds"),
        (("--max-bytes", "2k", "--method", "snip"), "search: snip trains weights"),
        (("--max-bytes", "2k", "--model", "torchvision:resnet18"), "torchvision:resnet18 has no factor on its width"),
        (("--max-bytes", "2k", "--model", "airbench"), "airbench needs images of at least 9×9 pixels, got 8×8"),
        (("--max-bytes", "2k", "--data", "imagenet"), "there is no small network for imagenet to begin with"),
        (("--max-bytes", "2k", "--set", "model.width=2"), "model.width: it is what the search chooses"),
        (("--max-bytes", "2k", "--set", "run.tensorboard=x"), "run.tensorboard: it is no setting of a recipe"),
        (("--max-bytes", "2k", "--redrawn", 0.5), "redrawn: edge-popup redraws nothing"),
        (("--max-bytes", "2k", "--recipe", "digit"), "did you mean 'digits'?"),
        ((), "Missing option '--max-bytes'"),
    ],
)
def test_mistakes_get_one_line(
    arguments: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fail(2, "search", *arguments)
    assert not list(tmp_path.iterdir())
