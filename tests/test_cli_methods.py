"""Every method from train to a recovered file, through the command line."""

import json
import os
import signal

import pytest
import torch

from conftest import fail, invoke, succeed
from iterand_compress.cli.options import DATA_CHOICES, DISTRIBUTION_CHOICES, METHOD_CHOICES
from iterand_compress.cli.train_command import RUN_SETTINGS, command
from iterand_compress.compress.config import DISTRIBUTIONS
from iterand_compress.compress.data.catalogue import DATASETS
from iterand_compress.compress.methods.presets import PRESETS
from iterand_compress.compress.recover import load_network
from iterand_compress.compress.training import loop
from iterand_compress.compress.training.recipe import DEFAULT_RECIPE, load_recipe
from iterand_compress.compress.training.run_options import RunOptions

SMALL = ("--recipe", "digits", "--width", 0.25, "--epochs", 3, "--device", "cpu", "--seed", 4)
RUNS = {
    "edge-popup": ("--method", "edge-popup"),
    "iterand on biprop": (
        *("--method", "iterand", "--set=subnetwork.binarise=true", "--set=subnetwork.distribution=normal"),
        "--set=subnetwork.resample.every=10",
    ),
    "recycling": (
        *("--method", "recycling", "--set=subnetwork.recycle.every=1", "--set=subnetwork.recycle.rate=0.5"),
        "--set=subnetwork.distribution=uniform",
    ),
    "biprop-recycling": (
        *("--method", "biprop-recycling", "--set=subnetwork.recycle.every=1"),
        "--set=subnetwork.distribution=normal",
    ),
    "signed-supermask": ("--method", "signed-supermask"),
    "signed-supermask, all at once": (
        *(
            "--method",
            "signed-supermask",
            "--set=subnetwork.selection.scope=global",
            "--set=subnetwork.resample.every=10",
        ),
        *("--set=subnetwork.distribution=normal", "--set=subnetwork.binarise=true"),
        "--set=subnetwork.selection.multiplicity=2",
    ),
    "global": (
        *("--method", "edge-popup", "--sparsity", 0.9, "--set=subnetwork.selection.scope=global"),
        "--set=subnetwork.selection.ramp_epochs=2",
    ),
    "frozen": ("--method", "edge-popup", "--set=subnetwork.selection.frozen=0.5"),
    "multicoated": ("--method", "edge-popup", "--set=subnetwork.selection.multiplicity=3"),
    "own sparsities": (
        *("--method", "iterand", "--set=subnetwork.resample.every=10", "--sparsity", 0.8),
        *("--set=subnetwork.selection.first_sparsity=0", "--set=subnetwork.selection.last_sparsity=0.25"),
    ),
    "binary activations": (
        *("--method", "biprop", "--set=model.activation=binary", "--set=model.affine=true"),
        "--set=train.optimizer=adam",
    ),
    "binary conv net": (
        *("--method", "biprop", "--model", "conv4", "--set=model.activation=binary", "--set=data.image_size=16"),
        *("--set=train.optimizer=adam", "--set=model.affine=true"),
    ),
    "vgg-small": (
        "--method",
        "biprop",
        "--model",
        "vgg-small",
        "--width",
        0.125,
        "--set=subnetwork.distribution=normal",
    ),
    "resnet20": ("--method", "iterand", "--model", "resnet20", "--width", 0.5, "--set=subnetwork.resample.every=10"),
    "snip": ("--method", "snip", "--sparsity", 0.8),
    "synflow": ("--method", "synflow", "--sparsity", 0.8, "--set=subnetwork.prune.rounds=5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_recovers_bit_for_bit_and_scores_the_same(options, tmp_path):
    checkpoint, file = tmp_path / "m.ckpt", tmp_path / "m.seedmask"
    trained = json.loads(succeed("train", *SMALL, *options, "--out", checkpoint, "--json"))
    exact = ("--with-weights", "float32") if options[1] in ("snip", "synflow") else ()
    packed = json.loads(succeed("pack", checkpoint, "--out", file, *exact, "--json"))
    succeed("verify", file)
    first, second = (load_network(path).model for path in (checkpoint, file))
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert json.loads(succeed("eval", file, "--json"))["accuracy"] == trained["test_accuracy"] > 0.2
    if "0.25" in str(options):
        layers = json.loads(succeed("inspect", file, "--json"))["layers"]
        assert [round(layer["sparsity"], 2) for layer in layers] == [0, 0.8, 0.8, 0.25]
    assert (packed["coat_bits"] > 0) == ("multiplicity" in str(options))
    assert (packed["value_bits"] > 0) == bool(exact)
    assert file.stat().st_size == packed["file_bytes"] < packed["dense_bytes"]


def test_choices_and_defaults_of_the_help_are_those_of_the_library():
    assert tuple(PRESETS) == METHOD_CHOICES
    assert DATA_CHOICES == DATASETS
    assert DISTRIBUTION_CHOICES == DISTRIBUTIONS
    shown = " ".join(invoke("train", "--help").output.split())
    assert all(name in shown for name in (*PRESETS, *DATASETS))
    recipe = load_recipe(DEFAULT_RECIPE).model_dump()
    for option in command.params:
        section, _, key = option.name.partition("__")
        if key:
            assert option.show_default == f"{DEFAULT_RECIPE}: {recipe[section][key]}", option.opts
    assert all(key in RunOptions.__dataclass_fields__ for key in RUN_SETTINGS)


@pytest.mark.slow
def test_resumed_runs_go_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    options = (
        *(*SMALL, "--method", "recycling", "--set=subnetwork.recycle.every=1"),
        "--set=subnetwork.selection.scope=global",
        "--set=subnetwork.selection.ramp_epochs=2",
    )
    whole, cut = tmp_path / "whole.ckpt", tmp_path / "cut.ckpt"
    succeed("train", *options, "--out", whole)
    original = loop.training_step

    def stopped_in_the_third(run, *arguments):
        if run.position.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *arguments)

    monkeypatch.setattr(loop, "training_step", stopped_in_the_third)
    assert invoke("train", *options, "--out", cut).exit_code != 0
    monkeypatch.undo()
    assert torch.load(cut, weights_only=True)["test"] is None
    succeed("train", "--resume", "--out", cut)
    expected, resumed = (torch.load(path, weights_only=True) for path in (whole, cut))
    assert resumed["test"] == expected["test"]
    for name, value in expected["model"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed["model"][name]), name
        else:
            assert value == resumed["model"][name], name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--method", "snip", "--set=subnetwork.selection.multiplicity=2"),
            "subnetwork.prune: a mask is found in training (selection) or before it",
        ),
        (("--method", "recycling"), "comes never in 3 epochs; lower recycle.every"),
        (("--set=subnetwork.selection.ramp_epochs=4",), "ramp_epochs: expected at most the 3 epochs of the run"),
        (("--method", "snap"), "Invalid value for '--method': unknown 'snap'; did you mean 'snip'"),
        (("--method", "magnitude", "--set=subnetwork.distribution=signed-constant"), "differ in sign only"),
        (
            ("--model", "torchvision:resnet18", "--width", 1.0, "--set=model.activation=binary"),
            "does not take activation = 'binary'",
        ),
    ],
)
def test_refusals(options, message, tmp_path):
    line = fail(2, "train", *SMALL, *options, "--out", tmp_path / "m.ckpt")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_class_that_is_missing_from_the_sample_is_named(tmp_path):
    options = ("--method", "snip", "--set=subnetwork.prune.samples_per_class=1000")
    line = fail(1, "train", *SMALL, *options, "--out", tmp_path / "m.ckpt")
    assert "class '0': expected 1000 training images for the sample, got 123; add images, or lower" in line
    assert not list(tmp_path.iterdir())


def test_layers_without_weights_are_named(tmp_path):
    shown = succeed(
        *("train", "--recipe", "digits", "--width", 0.25, "--epochs", 1, "--device", "cpu", "--method", "magnitude"),
        *("--sparsity", 0.9995, "--out", tmp_path / "m.ckpt"),
    )
    assert "layers that lost all their weights: features.3.weight, features.7.weight, classifier.weight" in shown
