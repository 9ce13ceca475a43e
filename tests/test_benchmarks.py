"""The benchmarks that others' numbers are compared in: what they count, keep, and say."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import first_batch
import frontier
import joint_sweep
import learning
import numpy as np
import onnx
import pytest
import reproduce
import torch
from PIL import Image
from torch import nn

import runs
import shipped
from frontier_plot import spread
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import DataConfig, TrainConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.recover import load_network
from iterand_compress.compress.training.evaluate import evaluate, network_logits
from iterand_compress.compress.training.schedule import check_refresh, check_schedule
from iterand_compress.export.export_options import ExportOptions
from iterand_compress.export.from_file import export_network
from methods import SPARSITIES, SUBNETWORKS, configurations
from points import Point, beaten, pareto, table

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig(name="digits", validation=0))


def point(series: str, file_bytes: int, correct: int, *, ours: bool = False, form: str = "int8 ONNX") -> Point:
    return Point(series, form, 0.5, 0.25, file_bytes, correct, 200, ours=ours)


# Time


@pytest.mark.slow
def test_the_clock_stops_where_the_first_step_would_begin(tmp_path, capfd):
    waited = first_batch.seconds(["--width", "0.25", "--epochs", "1000000"], tmp_path)
    assert 0 < waited < 600
    assert load_checkpoint(tmp_path / "model.ckpt").position.step == 0
    with pytest.raises(SystemExit, match="train --epochs none: exit code 2"):
        first_batch.seconds(["--epochs", "none"], tmp_path)
    assert "'none' is not a valid integer" in capfd.readouterr().err


# Points


def test_the_frontier_has_what_no_smaller_file_reaches():
    a, b, c, d = point("a", 10, 50), point("b", 20, 50), point("c", 20, 60), point("d", 30, 55)
    assert pareto([d, c, b, a, point("e", 25, 60)]) == [a, c]
    twin = dataclasses.replace(c, series="twin")
    assert pareto([a, c, twin, d]) == [a, c, twin]
    assert pareto([]) == []


def test_each_of_our_files_meets_the_best_of_the_others_that_is_no_larger():
    mine = point("iterand", 20, 100, ours=True, form=".seedmask")
    first, second, larger = point("dense", 15, 90), point("pruned", 20, 104), point("dense", 21, 180)
    assert beaten([mine, larger]) == ["iterand 50%, .seedmask, 20 bytes, 50.00 %: no other file is as small"]
    (line,) = beaten([mine, first, larger])
    assert line.endswith("AHEAD by 5.00 points of dense 50%, int8 ONNX, 15 bytes, 45.00 %")
    (line,) = beaten([mine, point("dense", 20, 100)])
    assert line.endswith(": level with dense 50%, int8 ONNX, 20 bytes, 50.00 %")
    (line,) = beaten([first, second, larger, mine, dataclasses.replace(mine, form=".seedmask + zstd")])
    assert line.endswith("BEHIND by 2.00 points of pruned 50%, int8 ONNX, 20 bytes, 52.00 %")


def test_the_table_has_a_row_for_each_accuracy_and_marks_the_frontier():
    lines = table(
        [
            point("iterand", 2000, 100, ours=True, form="packed ONNX"),
            point("iterand", 1000, 100, ours=True, form=".seedmask"),
            point("dense", 1500, 90),
            point("dense", 3000, 120),
        ]
    ).splitlines()
    assert lines[2:] == [
        "| iterand | 0.25 | 50 | 50.00 | **1,000** .seedmask; 2,000 packed ONNX |",
        "| dense | 0.25 | 50 | 45.00 | 1,500 int8 ONNX |",
        "| dense | 0.25 | 50 | 60.00 | **3,000** int8 ONNX |",
    ]


def test_labels_are_moved_apart_and_no_further():
    assert spread([1, 2, 3, 10], 2) == [0, 2, 4, 10]
    assert spread([5, 1, 5], 1) == [4.5, 1, 5.5]


# Files and right answers


def in_torch(path: Path, data) -> int:
    network = load_network(path)
    with network_logits(network.model, network.data.input.normalize) as logits:
        return evaluate(logits, data.test, batch_size=100, device=CPU).correct


@pytest.mark.slow
def test_right_answers_are_those_of_torch_in_every_form(digits, data, tmp_path):
    expected = in_torch(digits.checkpoint, data)
    assert 180 < expected < 360
    packed, small = tmp_path / "packed.onnx", tmp_path / "packed.onnx.zst"
    export_network(digits.seedmask, packed, ExportOptions("packed"))
    shipped.compress(packed, small)
    shipped.compress(digits.seedmask, tmp_path / "model.seedmask.zst")
    assert small.stat().st_size < packed.stat().st_size
    for file in (digits.onnx, digits.seedmask, packed, small, tmp_path / "model.seedmask.zst"):
        assert shipped.right_answers(file, data.test) == expected, file
    assert frontier.right_answers_in_torch(digits.seedmask, data.test) == expected


def test_baselines_are_smaller_and_nearly_as_good(digits, data, tmp_path):
    files = {name: tmp_path / f"{name}.onnx" for name in ("plain", "float16", "int8")}
    shipped.plain(digits.onnx, files["plain"])
    shipped.to_float16(files["plain"], files["float16"])
    shipped.quantise(files["plain"], files["int8"], shipped.calibration_images(data.train, 64))
    sizes = {name: path.stat().st_size for name, path in files.items()}
    answers = {name: shipped.right_answers(path, data.test) for name, path in files.items()}
    assert answers["plain"] == in_torch(digits.checkpoint, data)
    assert sizes["plain"] < digits.onnx.stat().st_size  # metadata are gone
    assert 0.48 < sizes["float16"] / sizes["plain"] < 0.56
    assert 0.24 < sizes["int8"] / sizes["plain"] < 0.36
    assert abs(answers["float16"] - answers["plain"]) <= 4
    assert abs(answers["int8"] - answers["plain"]) <= 18
    tensors = onnx.load(files["int8"]).graph.initializer
    types = {tensor.name: tensor.data_type for tensor in tensors if tensor.name.endswith("weight_quantized")}
    assert len(types) == 4
    assert set(types.values()) == {onnx.TensorProto.INT8}


def test_calibration_images_come_from_the_whole_training_set(data):
    found = shipped.calibration_images(data.train, 7)
    every = np.concatenate([pixels.numpy() for pixels, _ in data.train.batches(1000, "cpu")])
    np.testing.assert_array_equal(found, every[np.linspace(0, len(every) - 1, 7, dtype=int)])


def test_magnitude_pruning_keeps_the_largest_and_trains_them(digits, data):
    trained = load_network(digits.checkpoint).model
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    settings = TrainConfig(epochs=2, lr=0.01, batch_size=64)
    tuned = shipped.prune_and_fine_tune(trained, data, 0.8, settings, device=CPU, first=3)
    names = [name for name, value in before.items() if value.ndim > 1]
    old = torch.cat([before[name].flatten() for name in names])
    new = torch.cat([tuned.state_dict()[name].flatten() for name in names])
    assert int((new == 0).sum()) >= round(0.8 * len(old))
    assert float(old[new != 0].abs().min()) >= float(old[new == 0].abs().max())
    assert (new != old)[new != 0].float().mean() > 0.99
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert not any(isinstance(module, nn.Module) and module.training for module in tuned.modules())


def test_the_cache_makes_nothing_twice_and_nothing_stale(data, tmp_path):
    source, made = tmp_path / "source", []

    def make(path: Path) -> None:
        made.append(source.read_bytes())
        path.write_bytes(b"made from " + made[-1])

    def count(path: Path, test: object) -> int:
        made.append(b"counted")
        return len(path.read_bytes())

    source.write_bytes(b"one")
    for _ in range(2):  # a second process finds what the first one left
        cache = frontier.Cache(tmp_path, data.test)
        file = cache.file("file", source, make)
        assert cache.answers(file, count) == 13
    assert made == [b"one", b"counted"]
    source.write_bytes(b"three")
    assert cache.answers(cache.file("file", source, make), count) == 15
    assert made[2:] == [b"three", b"counted"]
    file.write_bytes(b"damaged")
    assert cache.file("file", source, make).read_bytes() == b"made from three"
    cache.file("file", source, make, settings="other")
    assert made[4:] == [b"three", b"three"]


# Settings


def test_every_row_of_every_table_can_be_run():
    for name, rows in reproduce.TABLES.items():
        found = rows()
        assert len({about.name for about in found}) == len(found), name
        for about in found:
            recipe = runs.recipe_of(about.options)
            check_schedule(recipe.train)
            check_refresh(recipe)
            assert (about.published is None) == (about.source == ""), about.name


def test_rows_have_the_settings_and_numbers_of_the_papers():
    rows = {f"{name} {about.name}": about for name, found in reproduce.TABLES.items() for about in found()}
    dense = runs.recipe_of(rows["conv6 dense-width-0.25"].options)
    assert (dense.subnetwork.method, dense.train.lr, dense.train.epochs, dense.model.width) == (
        "dense",
        0.01,
        100,
        0.25,
    )
    assert rows["conv6 iterand-width-1"].published == 90.7
    redrawn = runs.recipe_of(rows["widths iterand-width-0.1"].options)
    rule = redrawn.subnetwork
    assert (redrawn.train.epochs, redrawn.train.lr, redrawn.data.validation, redrawn.model.width) == (250, 0.1, 0, 0.1)
    assert (rule.selection.rule, rule.resample.every, rule.resample.rate, rule.sparsity) == ("magnitude", 390, 0.1, 0.5)
    assert rows["widths iterand-width-0.1"].published == 64.5
    recycled = runs.recipe_of(rows["sparsities conv6-biprop-recycling-90"].options)
    rule = recycled.subnetwork
    assert (recycled.train.epochs, rule.recycle.every, rule.recycle.rate, rule.sparsity) == (250, 10, 0.2, 0.9)
    assert rows["sparsities conv6-biprop-recycling-90"].published == 85.5
    scaled = [runs.recipe_of(rows[f"sparsities conv6-biprop-{share}"].options) for share in (20, 50, 80, 90)]
    assert [recipe.subnetwork.scale_fan for recipe in scaled] == [True, True, False, False]
    assert {(recipe.train.epochs, recipe.train.lr, recipe.subnetwork.distribution) for recipe in scaled} == {
        (250, 0.1, "normal")
    }
    binary = runs.recipe_of(rows["biprop vgg-small-binary-affine"].options)
    assert (binary.model.activation, binary.model.affine, binary.train.lr) == ("binary", True, 0.0002)
    snip = runs.recipe_of(rows["pruned-at-init snip-90"].options).subnetwork.prune
    assert (snip.random_sample, snip.eval_mode, snip.samples_per_class) == (True, True, 10)
    pruned = runs.recipe_of(rows["pruned-at-init synflow-99"].options)
    assert (pruned.subnetwork.method, pruned.subnetwork.sparsity, pruned.model.affine) == ("synflow", 0.99, True)
    assert rows["imagenet iterand-resnet50"].published is None


@pytest.mark.parametrize("model", ["conv6", "resnet18"])
def test_the_frontier_knows_every_method_at_every_sparsity(model):
    for sparsity in SPARSITIES:
        for name in (*SUBNETWORKS, "synflow"):
            options = ("--recipe", f"cifar10-{model}", *frontier.options_of(model, name, int(sparsity)))
            recipe = runs.recipe_of(options)
            assert recipe.subnetwork.sparsity == int(sparsity) / 100
    assert "--set=model.affine=true" in frontier.options_of("resnet18", "dense", 0)
    assert configurations()["iterand-95"][-4:] == ("0.95", "--set=subnetwork.scale_fan=true", "--lr", "0.01")


# Runs


@pytest.mark.slow
def test_reproducing_resumes_and_says_what_was_not_as_published(tmp_path, capsys, monkeypatch):
    folder, report = tmp_path / "runs", tmp_path / "smoke.json"
    words = ["smoke", "--folder", str(folder), "--jobs", "2", "--device", "cpu", "--only", "iter*", "dense"]
    again, words = [*words, "--epochs", "2"], [*words, "--epochs", "1"]
    reproduce.main([*words, "--json", str(report)])
    found = json.loads(report.read_text())
    assert found["changes"] == "--device cpu --epochs 1"
    iterand, dense = found["rows"]
    assert (iterand["name"], dense["name"]) == ("iterand", "dense")
    assert iterand["file_bytes"] == [(folder / "smoke-iterand-0.packed.seedmask").stat().st_size]
    assert dense["file_bytes"] is None
    score = runs.stored_score(folder / "smoke-dense-0.ckpt")
    assert (dense["accuracies"], dense["n"], dense["spread"]) == ([100 * score.accuracy], 1, None)
    assert score.images == 360
    assert iterand["unlike_paper"] == ["train.epochs: 30 → 1"]
    printed = capsys.readouterr().out
    assert f"| smoke | dense | {100 * score.accuracy:.2f} | 1 | – |  | – |" in printed
    assert "Not as in the papers: train.epochs: 30 → 1." in printed
    # Again: nothing is trained.
    monkeypatch.setattr(runs, "command", lambda *_, **__: pytest.fail("it trained"))
    reproduce.main([*words, "--json", str(report)])
    assert json.loads(report.read_text())["rows"] == found["rows"]
    with pytest.raises(
        SystemExit, match=r"smoke-iterand-0\.ckpt: was run with other settings \(train\.epochs: 1 → 2\)"
    ):
        reproduce.main(again)
    shutil.copy(folder / "smoke-dense-0.ckpt", folder / "smoke-dense-1.ckpt")
    with pytest.raises(SystemExit, match=r"subnetwork\.seed: 0 → 1"):
        reproduce.main([*words, "--only", "dense", "--seeds", "0", "1"])


def test_the_tables_are_listed_without_training(capsys):
    reproduce.main(["--list"])
    printed = capsys.readouterr().out
    assert (
        "  iterand: --recipe cifar10-resnet18 --method iterand  (published: 92.47 %, Chijiwa et al., NeurIPS 2021)"
        in printed
    )
    with pytest.raises(SystemExit):
        reproduce.main(["conv6", "--folder", "x", "--only", "absent"])
    assert "none of the rows; there are dense-width-0.1, dense-width-0.25" in capsys.readouterr().err


# What makes masks learn


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """Two classes of noise, of other colours."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for number, name in enumerate(("green", "red")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (32, 32, 3), dtype=np.uint8)
                pixels[..., 1 - number] += 55
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def learned(name, folder, data):
    args = SimpleNamespace(folder=folder, data_dir=data, epochs=2, width=0.0625)
    learning.train_one(name, 0, args)
    return load_checkpoint(learning.checkpoint(folder, name, 0, args)).model


@pytest.mark.slow
def test_changes_of_the_code_change_the_run_and_end_with_it(tmp_path, tiny_folder):
    names = ("kept-identity", "lookahead", "average-0.98", "soft-masks-slope", "logits-0.1")
    key = "features.1.parametrizations.weight.original"
    before = learned("hard-masks", tmp_path, tiny_folder)
    found = {name: learned(name, tmp_path, tiny_folder)[key] for name in names}
    for name, scores in found.items():
        assert not torch.equal(scores, before[key]), name
    identity = found["kept-identity"].view(4, 24, 3, 3)[range(4), range(4), 1, 1]
    assert (identity.abs() > found["kept-identity"].abs().quantile(0.9)).all()
    (tmp_path / "again").mkdir()
    assert torch.equal(learned("hard-masks", tmp_path / "again", tiny_folder)[key], before[key])


def test_each_change_is_a_recipe():
    for name in learning.CHANGES:
        recipe = learning.recipe_of(name, 1, 5, 0.5)
        assert (recipe.subnetwork.seed, recipe.train.epochs, recipe.data.seed) == (1, 5, 0)


def test_masks_of_a_sweep_have_the_size_that_was_asked_for():
    assert joint_sweep.entropy(0.5) == 1
    assert joint_sweep.entropy(0.9) == pytest.approx(0.468996)
    assert joint_sweep.weights(0.5) == 496_640
    for size in (8000, 64_000):
        for sparsity in (0.5, 0.95):
            width = joint_sweep.width_for(size, sparsity)
            bits = [joint_sweep.weights(wide) * joint_sweep.entropy(sparsity) for wide in (width, width + 1 / 64)]
            assert bits[0] <= 8 * size < bits[1]
