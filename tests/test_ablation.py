"""Reinit and shuffle: what they change, what they leave, and what that does to accuracy."""

import json
import math
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import refresh, settings
from PIL import Image

from conftest import fail, succeed
from iterand_compress import ImageInput, load_network, read_seedmask
from iterand_compress.compress.analysis.ablation import (
    AblationOptions,
    ablate,
    ks_statistic,
    layer_statistics,
    moments,
    reinitialised,
    shuffled,
    start_weights,
    wasserstein,
)
from iterand_compress.compress.checkpoint import load_checkpoint, save_checkpoint
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.errors import ConfigError, IterandError
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.pack import network_of, network_of_checkpoint
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seed.philox import Purpose, random_words
from iterand_compress.compress.seedmask import MaskedTensor, Network, dumps, loads, write_seedmask
from iterand_compress.compress.training.reporter import Reporter

SCALE = np.float32(0.1)


def samples() -> tuple[np.ndarray, np.ndarray]:
    """float32 ``[60]`` and ``[40]``, with ties inside and between them."""
    generator = np.random.default_rng(3)
    return (
        np.round(generator.normal(size=60), 1).astype(np.float32),
        np.round(generator.normal(0.4, 1.5, size=40), 1).astype(np.float32),
    )


# Statistics and distances, by definitions written out


def test_moments():
    values = [float(value) for value in samples()[0]]
    mean = sum(values) / 60
    second, fourth = (sum((value - mean) ** power for value in values) / 60 for power in (2, 4))
    got = moments(samples()[0])
    assert got.mean == pytest.approx(mean, rel=1e-12)
    assert got.std == pytest.approx(math.sqrt(second), rel=1e-12)
    assert got.kurtosis == pytest.approx(fourth / second**2 - 3, rel=1e-12)
    spread = moments(np.random.default_rng(0).uniform(size=200_000))
    assert spread.kurtosis == pytest.approx(-1.2, abs=0.01)


def test_moments_without_a_meaning():
    assert moments(np.zeros(0)) == replace(moments(np.zeros(1)), mean=None, std=None, kurtosis=None)
    constant = moments(np.full(7, 0.1, np.float32))
    assert (constant.mean, constant.std, constant.kurtosis) == (float(np.float32(0.1)), 0.0, None)
    assert ks_statistic(np.zeros(0), np.zeros(3)) is None
    assert wasserstein(np.zeros(3), np.zeros(0)) is None


def test_ks_statistic():
    first, second = samples()
    expected = max(
        abs(sum(x <= point for x in first) / 60 - sum(x <= point for x in second) / 40)
        for point in (*first.tolist(), *second.tolist())
    )
    assert ks_statistic(first, second) == pytest.approx(expected, abs=1e-15)
    assert ks_statistic(second, first) == ks_statistic(first, second) > 0.1
    assert ks_statistic(first, first[::-1]) == 0
    assert ks_statistic(first, first + 100) == 1


def test_wasserstein():
    first, second = samples()
    # Both have 120 = lcm(60, 40) values if each is taken so often; then the sorted values move to each other.
    pairs = zip(np.sort(np.repeat(first, 2)).tolist(), np.sort(np.repeat(second, 3)).tolist(), strict=True)
    expected = sum(abs(a - b) for a, b in pairs) / 120
    assert wasserstein(first, second) == pytest.approx(expected, rel=1e-12)
    assert wasserstein(first, first[::-1]) == 0
    assert wasserstein(first.astype(np.float64), first.astype(np.float64) - 2) == pytest.approx(2, rel=1e-12)


# Changed networks


def network(**options) -> Network:
    """Two tensors of the same size and mask, so that an index that is ignored shows."""
    mask = np.arange(600) % 3 == 0
    tensors = (
        MaskedTensor(name, (20, 30), options.pop("codebook", "signed-constant"), SCALE, mask, **options)
        for name in "ab"
    )
    return Network(seed=7, tensors=tuple(tensors))


def order_of(repetition: int, index: int) -> np.ndarray:
    words = random_words(7, 1200, draw=repetition, tensor=index, purpose=Purpose.SHUFFLING).astype(np.uint64)
    return np.argsort(words[::2] | words[1::2] << np.uint64(32), kind="stable")


def test_shuffle_permutes_each_mask_in_its_own_way():
    original = network()
    masks = []
    for repetition in (1, 2):
        changed = shuffled(original, repetition)
        for index, tensor in enumerate(changed.tensors):
            order = order_of(repetition, index)
            assert sorted(order.tolist()) == list(range(600))
            np.testing.assert_array_equal(tensor.mask, original.tensors[index].mask[order])
            assert tensor.mask.sum() == 200
            share = float((tensor.mask != original.tensors[index].mask).mean())
            assert share == pytest.approx(2 * (1 / 3) * (2 / 3), abs=0.05)
            found = layer_statistics(changed, original, index)
            assert found.mask_changed == share
            assert found.changed_by_chance == pytest.approx(4 / 9)
            assert found.values_changed == 0
            masks.append(tensor.mask.tobytes())
    assert len(set(masks)) == 4, "each tensor and each repetition has its own permutation"
    assert dumps(shuffled(original, 1)) == dumps(shuffled(original, 1))


def test_shuffled_weights_are_those_of_now_where_kept_and_of_the_start_elsewhere():
    draws = (np.arange(600) % 5).astype(np.uint8)
    original = network(codebook="uniform", draws=draws)
    changed = shuffled(original, 1)
    book = get_codebook("uniform")
    start = random_codes(7, 0, book, 0, 600).astype(np.float32) * SCALE
    now = random_codes(7, 0, book, 0, 600, draws).astype(np.float32) * SCALE
    mask, new = original.tensors[0].mask, changed.tensors[0].mask
    assert (start != now)[~mask & new].any()
    expected = np.where(new, np.where(mask, now, start), 0)
    np.testing.assert_array_equal(start_weights(changed, 0), expected)
    kept = expected[new].astype(np.float64)
    found = layer_statistics(changed, original, 0)
    assert found.kept_weights.std == pytest.approx(kept.std())
    assert found.ks == ks_statistic(kept, now[mask])
    assert found.wasserstein == pytest.approx(wasserstein(kept, now[mask]) / now[mask].astype(np.float64).std())


def test_coats_move_with_the_mask():
    coats = (np.arange(600) % 4 + 1).astype(np.uint8)
    original = network(multiplicity=coats)
    for index, tensor in enumerate(shuffled(original, 3).tensors):
        np.testing.assert_array_equal(tensor.multiplicity, coats[order_of(3, index)])
    signs = random_codes(7, 1, get_codebook("signed-constant"), 0, 600)
    moved = coats[order_of(3, 1)].astype(np.int8) * original.tensors[1].mask[order_of(3, 1)]
    np.testing.assert_array_equal(start_weights(shuffled(original, 3), 1), (signs * moved).astype(np.float32) * SCALE)


def test_reinit_keeps_masks_and_coats_and_changes_values():
    coats = (np.arange(600) % 4 + 1).astype(np.uint8)
    original = network(multiplicity=coats)
    changed = reinitialised(original, 8)
    for index, (mine, other) in enumerate(zip(changed.tensors, original.tensors, strict=True)):
        assert mine.mask.tobytes() == other.mask.tobytes()
        assert mine.multiplicity.tobytes() == coats.tobytes()
        assert (mine.scale, mine.codebook) == (other.scale, other.codebook)
        signs = random_codes(8, index, get_codebook("signed-constant"), 0, 600)
        expected = np.where(mine.mask, (signs * coats.astype(np.int8)).astype(np.float32) * SCALE, 0)
        np.testing.assert_array_equal(start_weights(changed, index), expected)
        found = layer_statistics(changed, original, index)
        assert found.mask_changed == 0
        assert 0.35 < found.values_changed < 0.65
    redrawn = network(codebook="uniform", draws=np.ones(600, np.uint8))
    assert reinitialised(redrawn, 8).tensors[0].draws is None


def test_a_layer_without_kept_weights():
    original = network()
    empty = replace(original, tensors=tuple(replace(tensor, mask=np.zeros(600, bool)) for tensor in original.tensors))
    found = layer_statistics(shuffled(empty, 1), empty, 0)
    assert (found.kept, found.mask_changed, found.changed_by_chance) == (0, 0, 0)
    assert (found.ks, found.wasserstein, found.values_changed, found.kept_weights.std) == (None, None, None, None)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("iterand", {"every": 1, "rate": 0.7, "distribution": "uniform"}),
        ("iterand", {"every": 1, "rate": 0.7}),
        ("iterand", {"every": 1, "rate": 0.7, "multiplicity": 3}),
        ("recycling", {"every": 1, "distribution": "normal"}),
        ("biprop", {"distribution": "uniform"}),
        ("edge-popup", {"frozen": 0.5}),
        ("signed-supermask", {}),
        ("signed-supermask", {"distribution": "normal", "frozen": 0.3}),
    ],
    ids=str,
)
def test_a_file_is_changed_as_its_network_is(method, options):
    """Also where the file knows less: flips instead of draws, nothing about pruned weights."""
    model = torch.nn.Sequential(torch.nn.Linear(20, 30, bias=False), torch.nn.Linear(30, 10, bias=False))
    mask_model(model, settings(method=method, seed=11, sparsity=0.4, **options))
    generator = torch.Generator().manual_seed(2)
    for step in range(4):
        refresh(model, step, steps_per_epoch=1, epochs=9)
        with torch.no_grad():
            for _, _, scores in masked_layers(model):
                scores.copy_(torch.randn(scores.shape, generator=generator))
    here, there = network_of(model.state_dict()), loads(dumps(network_of(model.state_dict()))).network()
    for index, tensor in enumerate(here.tensors):
        weights = model.get_parameter(f"{index}.parametrizations.weight.original")
        effective = model[index].parametrizations.weight[0](weights).detach().numpy().reshape(-1)
        assert start_weights(here, index).tobytes() == effective.tobytes() == start_weights(there, index).tobytes()
        for change in (lambda item: shuffled(item, 2), lambda item: reinitialised(item, 5)):
            mine, other = change(here), change(there)
            assert start_weights(mine, index).tobytes() == start_weights(other, index).tobytes()
            assert np.count_nonzero(start_weights(mine, index)) == tensor.mask.sum()
            assert start_weights(mine, index).tobytes() != effective.tobytes()


@pytest.mark.slow
def test_data_seed_of_a_recipe_wins():
    for own, given, same in ((3, 9, True), (None, 9, False)):
        expected = next(load_data(DataConfig(), seed=3).train.train_batches(0, 64, "cpu"))[1]
        got = next(load_data(DataConfig(seed=own), seed=given).train.train_batches(0, 64, "cpu"))[1]
        assert torch.equal(expected, got) == same


# A subnetwork is evaluated as it is


@pytest.fixture(scope="module")
def subnetwork(digits):
    return json.loads(succeed("ablate", digits.seedmask, "--seeds", 2, "--json", "--device", "cpu"))


@pytest.mark.slow
def test_a_subnetwork_falls_to_guessing(digits, subnetwork):
    baseline, reinit, shuffle = subnetwork["variants"]
    (original,) = baseline["repetitions"]
    assert original["correct"] == json.loads(succeed("eval", digits.seedmask, "--json"))["correct"]
    assert baseline["accuracy"] > 0.6
    for variant in (reinit, shuffle):
        assert variant["accuracy"] < 0.3, "guessing is 0.1"
        scores = [repetition["correct"] / 360 for repetition in variant["repetitions"]]
        assert len(scores) == 2
        assert variant["accuracy"] == pytest.approx(sum(scores) / 2)
        assert variant["deviation"] == pytest.approx(abs(scores[0] - scores[1]) / math.sqrt(2))
        assert variant["difference"] == pytest.approx(variant["accuracy"] - baseline["accuracy"])
    for repetition in reinit["repetitions"]:
        assert repetition["mask_changed"] == 0
        assert all(0.3 < layer["values_changed"] < 0.7 for layer in repetition["layers"])
    for repetition in shuffle["repetitions"]:
        assert repetition["mask_changed"] == pytest.approx(repetition["changed_by_chance"], abs=0.02)
        assert repetition["changed_by_chance"] == pytest.approx(0.5, abs=1e-3)
        assert all(layer["values_changed"] == 0 for layer in repetition["layers"])
    first, second = (repetition["layers"] for repetition in shuffle["repetitions"])
    assert [layer["mask_changed"] for layer in first] != [layer["mask_changed"] for layer in second]
    assert subnetwork["chance"] == 0.1
    assert (subnetwork["trained"], subnetwork["baseline_read"]) == (False, False)


def test_accuracy_of_a_shuffled_subnetwork_by_hand(digits, subnetwork):
    file, loaded = read_seedmask(digits.seedmask), load_network(digits.seedmask)
    for index, entry in enumerate(file.tensors):
        words = random_words(file.seed, 2 * entry.weights, draw=2, tensor=index, purpose=Purpose.SHUFFLING)
        order = np.argsort(words.view("<u8"), kind="stable")
        codes = random_codes(file.seed, index, get_codebook(entry.codebook), 0, entry.weights)
        start = codes.astype(np.float32) * entry.scale_value
        mask, now = file.mask(entry.name), file.weight(entry.name).reshape(-1)
        weights = np.where(mask[order], np.where(mask, now, start), 0).reshape(entry.shape)
        with torch.no_grad():
            loaded.model.get_parameter(entry.name).copy_(torch.from_numpy(weights))
    pixels, labels = next(load_data(DataConfig()).test.batches(500, "cpu"))
    with torch.no_grad():
        correct = int((loaded.model(loaded.data.input.normalize(pixels)).argmax(1) == labels).sum())
    assert correct == subnetwork["variants"][2]["repetitions"][1]["correct"]


def test_checkpoint_and_file_give_the_same_ablation(digits, subnetwork):
    same = json.loads(succeed("ablate", digits.checkpoint, "--seeds", 2, "--json", "--device", "cpu"))
    assert same["variants"] == subnetwork["variants"]


def test_table_of_a_subnetwork(digits, subnetwork):
    text = succeed("ablate", digits.seedmask, "--shuffle", "--seeds", 2, "--device", "cpu")
    lines = text.splitlines()
    assert "untrained weights, evaluated as they are; BatchNorm statistics stay those of the file" in lines[0]
    shuffle = subnetwork["variants"][2]
    changed = [repetition["mask_changed"] for repetition in shuffle["repetitions"]]
    assert lines[4].split() == [
        "shuffle",
        "2",
        f"{100 * shuffle['accuracy']:.2f}",
        f"{100 * shuffle['deviation']:.2f}",
        f"{100 * shuffle['difference']:+.2f}",
        f"{50 * sum(changed):.2f}",
        "50.00",
    ]
    assert lines[5].split()[:2] == ["guessing", "10.00"]
    assert "reinit" not in text
    layer = shuffle["repetitions"][0]["layers"][1]
    assert f"{layer['name']}  baseline   50.00" in text


# A ticket is trained again


@pytest.fixture(scope="module")
def retrained(ticket, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = succeed("ablate", ticket.checkpoint, "--folder", folder, "--json", "--device", "cpu")
    return folder, json.loads(found)


@pytest.mark.slow
def test_a_ticket_keeps_its_accuracy(ticket, retrained):
    baseline, reinit, shuffle = retrained[1]["variants"]
    assert baseline["repetitions"][0]["correct"] == load_checkpoint(ticket.checkpoint).test["correct"]
    assert retrained[1]["baseline_read"]
    assert baseline["accuracy"] > 0.7
    for variant in (reinit, shuffle):
        assert abs(variant["difference"]) < 0.15, "two epochs of a tiny network"
    for layer in reinit["repetitions"][0]["layers"]:
        assert layer["values_changed"] > 0.9, "normal weights have 256 values"
    (run,) = shuffle["repetitions"]
    assert run["mask_changed"] == pytest.approx(run["changed_by_chance"], rel=0.05)
    assert run["changed_by_chance"] > 0.25


def test_runs_of_a_ticket_change_one_thing_only(ticket, retrained):
    original = load_checkpoint(ticket.checkpoint)
    masks = {tensor.name: tensor.mask for tensor in network_of_checkpoint(original).tensors}
    names = sorted(path.name for path in retrained[0].glob("*.ckpt") if ".best." not in path.name)
    assert names == ["reinit-1.ckpt", "shuffle-1.ckpt"], "the baseline is in the file"
    for name, seed, data_seed in (("reinit-1", 5, 4), ("shuffle-1", 4, None)):
        run = load_checkpoint(retrained[0] / f"{name}.ckpt")
        assert (run.recipe.subnetwork.seed, run.recipe.data.seed) == (seed, data_seed)
        changes = {
            "subnetwork": run.recipe.subnetwork.model_copy(update={"seed": 4}),
            "data": run.recipe.data.model_copy(update={"seed": None}),
        }
        assert run.recipe.model_copy(update=changes) == original.recipe
        for tensor in network_of_checkpoint(run).tensors:
            assert np.array_equal(tensor.mask, masks[tensor.name]) == (name == "reinit-1")
            assert tensor.mask.sum() == masks[tensor.name].sum()


def test_reinit_is_training_by_hand_with_another_seed(ticket, retrained, tmp_path):
    """The same masks, the same images, other weights: through the options of ``train``."""
    out = tmp_path / "other.ckpt"
    about = ("--seed", 5, "--set", "data.seed=4", "--device", "cpu", "-q")
    succeed("train", "--ticket", ticket.seedmask, *about, "--out", out)
    mine, other = load_checkpoint(out), load_checkpoint(retrained[0] / "reinit-1.ckpt")
    for name, value in mine.model.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other.model[name]), name
    assert mine.test == other.test


def test_finished_runs_are_read_and_strange_ones_refused(ticket, retrained, tmp_path):
    folder, first = retrained
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")}
    again = json.loads(succeed("ablate", ticket.checkpoint, "--folder", folder, "--json", "--device", "cpu"))
    assert again == first
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")}
    (tmp_path / "shuffle-1.ckpt").write_bytes((folder / "reinit-1.ckpt").read_bytes())
    line = fail(1, "ablate", ticket.checkpoint, "--shuffle", "--folder", tmp_path)
    assert "shuffle-1.ckpt: a run with other masks than those of this ablation; choose another --folder" in line
    line = fail(2, "ablate", ticket.checkpoint, "--shuffle", "--epochs", 1, "--folder", folder, "--device", "cpu")
    assert "train.epochs: 2 → 1" in line


@pytest.mark.slow
def test_a_packed_ticket_trains_its_baseline_too(ticket, tmp_path):
    """Other epochs do the same for a checkpoint."""
    options = ("--shuffle", "--epochs", 1, "--device", "cpu")
    found = json.loads(succeed("ablate", ticket.seedmask, *options, "--folder", tmp_path / "runs", "--json"))
    assert not found["baseline_read"]
    assert [variant["name"] for variant in found["variants"]] == ["baseline", "shuffle"]
    assert found["recipe"]["train"]["epochs"] == 1
    succeed("train", "--ticket", ticket.seedmask, "--epochs", 1, "--device", "cpu", "-q", "--out", tmp_path / "a.ckpt")
    assert found["variants"][0]["repetitions"][0]["correct"] == load_checkpoint(tmp_path / "a.ckpt").test["correct"]
    text = succeed("ablate", ticket.checkpoint, *options, "--folder", tmp_path / "runs")
    assert "run baseline\n" in text
    assert "a ticket, trained for 1 epochs with each change; baseline trained again" in text


class Interrupting(Reporter):
    def epoch(self, report):
        if report.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_ablation_goes_on(ticket, retrained, tmp_path):
    options = AblationOptions(changes=("shuffle",), device="cpu", folder=tmp_path / "runs")
    with pytest.raises(IterandError, match=r"stopped in run shuffle-1; .*give the same command again") as caught:
        ablate(ticket.checkpoint, options, lambda _: Interrupting())
    assert caught.value.exit_code == 130
    assert not load_checkpoint(tmp_path / "runs" / "shuffle-1.ckpt").complete
    found = ablate(ticket.checkpoint, options)
    assert found.variants[1].accuracy == retrained[1]["variants"][2]["accuracy"]
    with pytest.raises(IterandError, match="nothing is kept; with --folder"):
        ablate(ticket.checkpoint, replace(options, folder=None), lambda _: Interrupting())


# The picture


@pytest.mark.slow
def test_plot(ticket, digits, retrained, tmp_path):
    out = tmp_path / "a.png"
    succeed("ablate", ticket.checkpoint, "--folder", retrained[0], "--plot", out, "-q", "--device", "cpu")
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size == (1200, 480)
        assert len(image.convert("RGB").getcolors(1_000_000)) > 10, "an empty plot has few colours"
    before = out.read_bytes()
    assert "exists already; --force replaces it" in fail(2, "ablate", digits.seedmask, "--plot", out)
    assert out.read_bytes() == before
    succeed("ablate", digits.seedmask, "--seeds", 2, "--plot", out, "--force", "--device", "cpu")
    assert out.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


@pytest.mark.parametrize("name", ["l\udce9.seedmask", r"$\x$.seedmask"])
def test_a_plot_of_a_file_with_an_odd_name(name, digits, tmp_path):
    """Neither what is no text nor what looks like a formula may break its title."""
    source = tmp_path / name
    source.write_bytes(digits.seedmask.read_bytes())
    succeed("ablate", source, "--reinit", "--plot", tmp_path / "a.png", "--device", "cpu")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"


def test_plots_that_cannot_be(digits, tmp_path, monkeypatch):
    assert "the ending .pdf promises another kind of picture, and this will be a PNG" in fail(
        2, "ablate", digits.seedmask, "--plot", tmp_path / "a.pdf"
    )
    line = fail(1, "ablate", digits.seedmask, "--plot", tmp_path / "absent" / "a.png")
    assert "create the folder first" in line
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = fail(2, "ablate", digits.seedmask, "--plot", tmp_path / "a.png")
    assert "pip install 'matplotlib>=3.8' (the extra 'plots')" in line
    assert list(tmp_path.iterdir()) == []


# What is refused


def test_files_that_cannot_be_ablated(digits, ticket, tmp_path):
    run = load_checkpoint(digits.checkpoint)
    dense = settings("dense")
    save_checkpoint(replace(run, recipe=run.recipe.model_copy(update={"subnetwork": dense})), tmp_path / "dense.ckpt")
    assert "no mask to ablate: dense keeps all weights" in fail(2, "ablate", tmp_path / "dense.ckpt")
    save_checkpoint(replace(run, test=None), tmp_path / "half.ckpt")
    line = fail(1, "ablate", tmp_path / "half.ckpt")
    assert "the search is not complete (3 of 3 epochs); finish it with: iterand-compress train --resume" in line
    packed = read_seedmask(digits.seedmask).network()
    for name, missing, text in (
        ("recipe", {"recipe": None}, "holds no recipe that this version knows"),
        ("input", {"input": None}, "holds neither input shape nor normalisation"),
    ):
        write_seedmask(replace(packed, **missing), tmp_path / f"{name}.seedmask")
        assert text in fail(2, "ablate", tmp_path / f"{name}.seedmask")
    snip = read_seedmask(ticket.seedmask).network()
    write_seedmask(replace(snip, seed=99), tmp_path / "seed.seedmask")
    assert "its weights are of seed 99, its recipe is of seed 4" in fail(2, "ablate", tmp_path / "seed.seedmask")
    assert "absent.seedmask: cannot be read" in fail(1, "ablate", tmp_path / "absent.seedmask")


def test_options_that_make_no_sense(digits, ticket, tmp_path):
    for options, text in (
        (("--epochs", 2), "--epochs: iterand does not train weights, so changed ones are evaluated as they are"),
        (("--folder", tmp_path), "--folder: iterand does not train weights"),
        (("--data", "mnist"), "was trained on digits; its accuracy on mnist is no baseline; leave out --data"),
        (("--seeds", 0), "Invalid value for '--seeds'"),
    ):
        assert text in fail(2, "ablate", digits.seedmask, *options)
    (tmp_path / "file").write_bytes(b"")
    line = fail(1, "ablate", ticket.checkpoint, "--folder", tmp_path / "file")
    assert "file: cannot be made: File exists; choose another --folder" in line
    with pytest.raises(ConfigError, match="expected changes among reinit, shuffle"):
        ablate(digits.seedmask, AblationOptions(changes=("reset",)))


def test_other_data_are_refused_before_anything_is_trained(digits, ticket, tmp_path):
    for file in (digits.checkpoint, ticket.checkpoint):
        run = load_checkpoint(file)
        image = ImageInput(run.data.input.shape, mean=0.5, std=run.data.input.std)
        save_checkpoint(replace(run, data=replace(run.data, input=image)), tmp_path / "other.ckpt")
        line = fail(1, "ablate", tmp_path / "other.ckpt", "--device", "cpu")
        assert "was trained on other data: expected mean [0.5], got [0.30" in line
