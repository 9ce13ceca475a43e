"""Runs: exact resume, interruption, what is refused, what is logged."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import fail, invoke, succeed
from iterand_compress import IteRand, load_network, read_seedmask
from iterand_compress.compress.checkpoint import BestEpoch, load_checkpoint
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.errors import CheckpointError, DataError, IterandError, TrainingError
from iterand_compress.compress.training import loop
from iterand_compress.compress.training.interrupt import RunStoppedError
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.recipe import override
from iterand_compress.compress.training.reporter import Reporter
from iterand_compress.compress.training.run_options import RunOptions, best_path

QUICK = override(
    Recipe(subnetwork=IteRand()),
    {
        "model.width": 0.25,
        "train.epochs": 3,
        "subnetwork.resample.every": 5,
        "data.pad": 1,
        "data.crop": "shift",
    },
)
SCRIPT = Path(sys.executable).with_name("iterand-compress")


def packed(checkpoint: Path) -> bytes:
    target = checkpoint.with_suffix(".seedmask")
    succeed("pack", checkpoint, "--out", target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "model.ckpt"
    train(QUICK, RunOptions(out, device="cpu"))
    return packed(out)


def test_same_seed_same_file_other_seed_other_file(tmp_path, undisturbed):
    train(QUICK, RunOptions(tmp_path / "a.ckpt", device="cpu"))
    assert packed(tmp_path / "a.ckpt") == undisturbed
    train(override(QUICK, {"subnetwork.seed": 1}), RunOptions(tmp_path / "b.ckpt", device="cpu"))
    assert packed(tmp_path / "b.ckpt") != undisturbed


@pytest.mark.slow
def test_resampling_counts_steps_across_epochs(tmp_path):
    """Two events in 60 steps of three epochs; each redraws every pruned weight."""
    recipe = override(QUICK, {"subnetwork.resample.every": 25, "subnetwork.resample.rate": 1.0})
    train(recipe, RunOptions(tmp_path / "model.ckpt", device="cpu"))
    state = load_checkpoint(tmp_path / "model.ckpt").model
    draws = [value for key, value in state.items() if key.endswith(".draws")]
    assert len(draws) == 4
    assert max(int(values.max()) for values in draws) == 2


def test_resuming_on_other_data_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "model.ckpt"
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    with pytest.raises(RunStoppedError):
        train(QUICK, RunOptions(out, device="cpu"), StopAt(2))
    content = torch.load(out, weights_only=True)
    content["data"]["classes"][3] = "three"
    torch.save(content, out)
    with pytest.raises(DataError, match=r"model\.ckpt: the data are not those that the run began with"):
        train(QUICK, RunOptions(out, device="cpu", resume=True))


class StopAt(Reporter):
    """Sends this process a Ctrl-C after the given step, which the run notices after the next one."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, report) -> None:
        if report.position.step >= self.at:
            os.kill(os.getpid(), signal.SIGINT)


def test_reports_within_an_epoch_come_by_time(tmp_path, monkeypatch):
    """With steps of an eighth of a second: after the first one, then every half second, across epochs."""
    seconds, reported, original = [0.0], [], loop.training_step

    class Listener(Reporter):
        def step(self, report):
            reported.append((report.position.epoch, report.position.batch, report.position.step))

    def step(*arguments):
        seconds[0] += 0.125
        return original(*arguments)

    monkeypatch.setattr(loop, "training_step", step)
    clock = SimpleNamespace(monotonic=lambda: seconds[0], perf_counter=time.perf_counter)
    monkeypatch.setattr(loop, "time", clock)
    train(override(QUICK, {"train.epochs": 2}), RunOptions(tmp_path / "model.ckpt", device="cpu"), Listener())
    assert reported == [(step > 20, step - 20 * (step > 20), step) for step in range(1, 41, 4)]


@pytest.mark.slow
def test_interrupted_in_the_middle_of_an_epoch_and_resumed(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    out = tmp_path / "model.ckpt"
    with pytest.raises(
        RunStoppedError, match=r"stopped at step 27; .*iterand-compress train --resume --out .*model\.ckpt"
    ):
        train(QUICK, RunOptions(out, device="cpu"), StopAt(26))
    position = load_checkpoint(out).position
    assert (position.epoch, position.batch, position.step) == (1, 7, 27)
    train(QUICK, RunOptions(out, device="cpu", resume=True))
    assert packed(out) == undisturbed
    lines = [json.loads(line) for line in (tmp_path / "model.metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, None]


def scores(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoint).model
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def test_the_best_epoch_is_kept_beside_the_last(tmp_path, monkeypatch):
    """By right answers on the validation images, the first of equals; its network is that of the run at its end."""
    answers, real, states = iter([50, 70, 70, 60]), loop.score, {}

    def score(run, split):
        found = real(run, split)
        return replace(found, correct=next(answers)) if split is run.data.val else found

    class Copies(Reporter):
        def epoch(self, report):
            states[report.epoch] = scores(out)

    monkeypatch.setattr(loop, "score", score)
    out, best = tmp_path / "model.ckpt", tmp_path / "model.best.ckpt"
    result = train(override(QUICK, {"train.epochs": 4}), RunOptions(out, device="cpu"), Copies())
    stored, last = load_checkpoint(best), load_checkpoint(out)
    assert result.best == stored.best == last.best == BestEpoch(2, 70, 144)
    assert (stored.position.epoch, stored.optimizer, stored.test) == (2, None, None)
    assert all(torch.equal(value, states[2][key]) for key, value in scores(best).items())
    assert not all(torch.equal(value, states[4][key]) for key, value in scores(best).items())
    assert abs(best.stat().st_size - out.stat().st_size) < 2000, "without the optimizer"
    note = "of epoch 2 of 4, the best by validation (48.61 %)"
    assert succeed("pack", best, "--out", tmp_path / "a.seedmask").splitlines()[-1] == f"{best}: {note}"
    assert note in succeed("eval", best)
    assert note in succeed("export", best, "--onnx", tmp_path / "a.onnx")
    line = fail(1, "train", "--resume", "--out", best)
    assert f"{note}; a run goes on from its own checkpoint" in line
    (tmp_path / "model.ckpt").unlink()
    (tmp_path / "model.metrics.jsonl").unlink()
    before = best.read_bytes()
    assert "model.best.ckpt: exists already, from another run; --force replaces it" in fail(1, "train", "--out", out)
    assert best.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["model.best.ckpt"]


@pytest.mark.slow
def test_the_best_epoch_of_a_run_that_went_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    whole, parts = tmp_path / "whole.ckpt", tmp_path / "parts.ckpt"
    recipe = override(QUICK, {"train.epochs": 5})
    expected = train(recipe, RunOptions(whole, device="cpu")).best
    for step in (26, 70):
        with pytest.raises(RunStoppedError):
            train(recipe, RunOptions(parts, device="cpu", resume=parts.exists()), StopAt(step))
    done = train(recipe, RunOptions(parts, device="cpu", resume=True))
    assert done.best == train(recipe, RunOptions(parts, device="cpu", resume=True)).best == expected
    log = [json.loads(line) for line in (tmp_path / "parts.metrics.jsonl").read_text().splitlines()][:-1]
    assert expected.accuracy == max(line["val_accuracy"] for line in log) == log[expected.epoch - 1]["val_accuracy"]
    ours, theirs = (scores(path.with_suffix(".best.ckpt")) for path in (whole, parts))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.slow
def test_a_run_that_goes_on_replaces_no_best_epoch_of_another(tmp_path, monkeypatch):
    """Runs of earlier versions kept none, so a file of that name may be anything."""
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    out, best = tmp_path / "model.ckpt", tmp_path / "model.best.ckpt"
    with pytest.raises(RunStoppedError):
        train(QUICK, RunOptions(out, device="cpu"), StopAt(3))
    other = tmp_path / "other" / "model.ckpt"
    other.parent.mkdir()
    train(override(QUICK, {"train.epochs": 1, "subnetwork.seed": 5}), RunOptions(other, device="cpu"))
    for foreign in (other, best_path(other)):
        shutil.copy(foreign, best)
        assert f"{best}: is of another run, whose file would be lost" in fail(1, "train", "--resume", "--out", out)
        assert best.read_bytes() == foreign.read_bytes()


def test_without_validation_no_epoch_is_best(tmp_path):
    out = tmp_path / "model.ckpt"
    torch.save({"of": "another run"}, tmp_path / "model.best.ckpt")
    before = (tmp_path / "model.best.ckpt").read_bytes()
    result = train(override(QUICK, {"data.validation": 0.0, "train.epochs": 1}), RunOptions(out, device="cpu"))
    assert result.best is load_checkpoint(out).best is None
    assert (tmp_path / "model.best.ckpt").read_bytes() == before


@pytest.mark.slow
def test_steps_and_nesterov_resume_exactly(tmp_path, monkeypatch):
    """The scores, too, since these decide all that a longer run would do."""
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    recipe = override(QUICK, {"train.milestones": [1, 2], "train.gamma": 0.5, "train.nesterov": True})
    whole, parts = tmp_path / "whole.ckpt", tmp_path / "parts.ckpt"
    train(recipe, RunOptions(whole, device="cpu"))
    with pytest.raises(RunStoppedError):
        train(recipe, RunOptions(parts, device="cpu"), StopAt(26))
    train(recipe, RunOptions(parts, device="cpu", resume=True))
    expected, found = (load_checkpoint(out).model for out in (whole, parts))
    assert all(torch.equal(found[key], value) for key, value in expected.items() if isinstance(value, torch.Tensor))
    rates = [json.loads(line).get("lr") for line in (tmp_path / "parts.metrics.jsonl").read_text().splitlines()]
    assert rates == [0.1, 0.05, 0.025, None]
    packed(parts)
    assert load_network(parts.with_suffix(".seedmask")).recipe == load_checkpoint(parts).recipe


@pytest.mark.slow
def test_rates_per_layer_and_whitening_resume_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    settings = {"model.name": "airbench", "model.affine": True, "data.image_size": 12, "data.flip": "alternating"}
    recipe = override(QUICK, {**settings, "train.schedule": "linear", "train.warmup_epochs": 1, "train.lr": 0.5})
    whole, parts = tmp_path / "whole.ckpt", tmp_path / "parts.ckpt"
    train(recipe, RunOptions(whole, device="cpu"))
    with pytest.raises(RunStoppedError):
        train(recipe, RunOptions(parts, device="cpu"), StopAt(26))
    train(recipe, RunOptions(parts, device="cpu", resume=True))
    expected, found = (load_checkpoint(out).model for out in (whole, parts))
    assert all(torch.equal(found[key], value) for key, value in expected.items() if isinstance(value, torch.Tensor))
    assert load_checkpoint(parts).recipe.train.scale_free is True
    packed(parts)
    plain = load_network(parts.with_suffix(".seedmask")).model
    assert torch.equal(plain.whitening.weight, expected["whitening.weight"])
    assert not torch.equal(plain.whitening.weight.flatten(1), torch.eye(4)), "the filters follow from the images"


@pytest.mark.processes
def test_killed_and_resumed(tmp_path, undisturbed):
    out = tmp_path / "model.ckpt"
    recipe = tmp_path / "quick.toml"
    recipe.write_text(
        "[model]\nwidth = 0.25\n[train]\nepochs = 3\n[subnetwork]\nresample = { every = 5 }\n"
        '[data]\npad = 1\ncrop = "shift"\n'
    )
    command = [str(SCRIPT), "train", "--recipe", str(recipe), "--device", "cpu", "-q", "--out", str(out)]
    process = subprocess.Popen([*command, "--set=run.checkpoint_every=3"])
    first = None
    while process.poll() is None:  # kill it once it has saved itself in the middle of an epoch
        if out.exists():
            first = first or out.stat().st_mtime_ns
            if out.stat().st_mtime_ns != first:
                process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    stopped = load_checkpoint(out)
    assert stopped.position.step > 0
    assert not stopped.complete
    subprocess.run([str(SCRIPT), "train", "--resume", "--device", "cpu", "-q", "--out", str(out)], check=True)
    assert packed(out) == undisturbed


def test_resuming_a_complete_run_changes_nothing(tmp_path, digits):
    before = digits.checkpoint.read_bytes()
    assert "test accuracy" in succeed("train", "--resume", "--device", "cpu", "--out", digits.checkpoint)
    assert digits.checkpoint.read_bytes() == before


def test_resume_with_changed_settings_names_them(digits):
    line = fail(2, "train", "--resume", "--out", digits.checkpoint, "--device", "cpu", "--lr", 0.5, "--sparsity", 0.25)
    assert "subnetwork.sparsity: 0.5 → 0.25; train.lr: 0.1 → 0.5" in line


def test_an_existing_checkpoint_is_not_overwritten(digits):
    before = digits.checkpoint.read_bytes()
    assert "exists already; --resume goes on from it, --force replaces it" in fail(
        1, "train", "--out", digits.checkpoint
    )
    assert digits.checkpoint.read_bytes() == before


def test_metrics_are_logged(digits):
    lines = [json.loads(line) for line in (digits.folder / "model.metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, None]
    assert lines[0]["lr"] == 0.1
    assert lines[2]["loss"] < lines[0]["loss"]
    assert lines[3]["test_images"] == 360
    assert lines[3]["test_correct"] / 360 == lines[3]["test_accuracy"]


@pytest.mark.parametrize(("every", "steps"), [(0, 20), (1, 28)])
def test_a_non_finite_loss_is_named_and_the_last_good_state_kept(tmp_path, monkeypatch, every, steps):
    out = tmp_path / "model.ckpt"
    real = loop.F.cross_entropy
    calls = []

    def poisoned(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs) * (float("nan") if len(calls) >= 30 else 1.0)

    monkeypatch.setattr(loop.F, "cross_entropy", poisoned)
    with pytest.raises(
        TrainingError, match=r"not finite at step \d+ \(epoch 2, learning rate 0\.075\); .*last good state"
    ):
        train(QUICK, RunOptions(out, device="cpu", checkpoint_every=every))
    kept = load_checkpoint(out)
    assert kept.position.step == steps
    for key, value in kept.model.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.isfinite().all(), key


@pytest.mark.parametrize(("number", "name"), [(2, "model.best.ckpt"), (3, "model.ckpt")])
def test_a_full_disk_leaves_the_old_checkpoint(number, name, tmp_path, monkeypatch):
    out = tmp_path / "model.ckpt"
    saves = []
    real = torch.save

    def failing(content, file):
        saves.append(1)
        if len(saves) == number:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        real(content, file)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(IterandError, match=f"{name}: cannot be written: No space left on device; free some disk space"):
        train(QUICK, RunOptions(out, device="cpu"))
    assert load_checkpoint(out).position.step == 0
    written = {"model.ckpt", "model.metrics.jsonl"} | ({"model.best.ckpt"} if number == 3 else set())
    assert {path.name for path in tmp_path.iterdir()} == written


@pytest.mark.processes
def test_a_file_that_cannot_grow_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """The same with a real limit of the operating system, so that torch's own writer meets it."""
    out = tmp_path / "model.ckpt"
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    with pytest.raises(RunStoppedError):
        train(override(QUICK, {"model.width": 1.0}), RunOptions(out, device="cpu"), StopAt(2))
    before = out.read_bytes()
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)\n"
        "from iterand_compress.cli import main\n"
        f"sys.argv[1:] = ['train', '--resume', '-q', '--device', 'cpu', '--out', {str(out)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {best_path(out)}: cannot be written: File too large"), done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "model.metrics.jsonl"]


class Malicious:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"no such checkpoint"),
        (b"", r"damaged|not an iterand-compress checkpoint"),
        (b"hello", r"damaged|not an iterand-compress checkpoint"),
        (pickle.dumps(Malicious()), r"refused: not an iterand-compress checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, match):
    path = tmp_path / "model.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)
    assert "model.ckpt" in fail(1, "pack", path)


def test_a_checkpoint_with_code_is_refused(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"format": Malicious()}, path)
    assert "that may run code when loaded" in fail(1, "pack", path)


def test_a_damaged_checkpoint(tmp_path, digits):
    path = tmp_path / "cut.ckpt"
    path.write_bytes(digits.checkpoint.read_bytes()[:-2000])
    assert "damaged" in fail(1, "pack", path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kept": 0}, "impossible"),
        ({"kept": 10**9}, "impossible"),
        ({"selection": "any"}, "impossible"),
        ({"codebook": "gauss"}, "unknown 'gauss'"),
        ({"shape": (3, 3)}, "scores"),
        ({"scale": float("nan")}, "scale"),
        ({"seed": "0"}, "subnetwork state: expected"),
        ({"tensor": 1}, "have the same random weights"),
    ],
)
def test_a_checkpoint_with_impossible_weights(tmp_path, digits, change, text):
    content = torch.load(digits.checkpoint, weights_only=True)
    content["model"]["features.0.parametrizations.weight.0._extra_state"].update(change)
    if change.get("shape"):
        content["model"]["features.0.parametrizations.weight.0._extra_state"]["kept"] = 4
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    result = invoke("pack", path)
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not path.with_suffix(".seedmask").exists()


def test_a_bare_state_dict(tmp_path):
    path = tmp_path / "bare.ckpt"
    torch.save({"weight": torch.zeros(3)}, path)
    assert "not an iterand-compress checkpoint" in fail(1, "pack", path)


def test_a_checkpoint_of_another_model(tmp_path, digits):
    content = torch.load(digits.checkpoint, weights_only=True)
    content["architecture"]["width"] = 1.0
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    assert "is of another model" in fail(1, "eval", path)


@pytest.mark.slow
def test_dense_training_and_its_checkpoint(tmp_path):
    out = tmp_path / "dense.ckpt"
    succeed(
        "train",
        "--method",
        "dense",
        "--width",
        0.25,
        "--epochs",
        2,
        "--lr",
        0.05,
        "--device",
        "cpu",
        "--out",
        out,
    )
    assert "nothing to pack: the network has no masked weights" in fail(1, "pack", out)
    network = load_network(out)
    assert network.recipe.subnetwork.method == "dense"
    succeed("export", out, "--onnx", tmp_path / "dense.onnx")


def test_label_smoothing_warm_up_and_bfloat16_run(tmp_path):
    out = tmp_path / "model.ckpt"
    succeed(
        "train", "--width", 0.25, "--epochs", 2, "--set=train.warmup_epochs=1", "--set=train.label_smoothing=0.1",
        "--set=train.precision=bfloat16",
        "--set=subnetwork.distribution=normal", "--set=subnetwork.resample.draws=2",
        "--device", "cpu", "--out", out, "--set=train.momentum=0.8",
        f"--set=run.tensorboard={tmp_path}/board",
    )  # fmt: skip
    recipe = load_checkpoint(out).recipe
    assert (recipe.train.momentum, recipe.train.precision, recipe.subnetwork.resample.draws) == (0.8, "bfloat16", 2)
    assert list((tmp_path / "board").glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_torchvision_model_trains_packs_and_exports(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for index, name in enumerate(("dark", "light")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (32, 32), (index * 128 + number,) * 3).save(folder / f"{number}.png")
    out = tmp_path / "model.ckpt"
    succeed(
        "train", "--data", "folder", "--data-dir", tmp_path / "data", "--model", "torchvision:squeezenet1_1",
        "--epochs", 1,
        "--batch-size", 4, "--set=data.validation=0", "--set=data.pad=0", "--set=data.crop=none",
        "--device", "cpu", "--out", out,
    )  # fmt: skip
    succeed("pack", out)
    report = json.loads(succeed("export", out.with_suffix(".seedmask"), "--onnx", tmp_path / "m.onnx", "--json"))
    assert report["max_abs_difference"] < 1e-4
    stored = read_seedmask(out.with_suffix(".seedmask"))
    assert "features.0.bias" in stored.state()
    assert invoke("eval", tmp_path / "m.onnx", "--data-dir", tmp_path / "data").exit_code == 0
