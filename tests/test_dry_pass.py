"""What a model does only in training is checked before training, and the check leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import fail, succeed
from iterand_compress import IteRand
from iterand_compress.compress.config import DataConfig, Recipe
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.errors import ConfigError, DataError
from iterand_compress.compress.training.checks import check_training
from iterand_compress.compress.training.recipe import override


def normalised(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, num_classes))


class Auxiliary(nn.Module):
    """Gives something else in training, as Inception and GoogLeNet do."""

    def __init__(self, num_classes, kind=tuple):
        super().__init__()
        self.layer, self.kind = nn.Linear(64, num_classes), kind

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        if not self.training:
            return logits
        return {"tuple": (logits, logits), "dict": {"out": logits}, "shape": logits[..., None]}[self.kind]


def with_tuple(num_classes):
    return Auxiliary(num_classes, "tuple")


def with_dict(num_classes):
    return Auxiliary(num_classes, "dict")


def with_shape(num_classes):
    return Auxiliary(num_classes, "shape")


class Traces(nn.Module):
    """Buffers that a forward pass writes into or replaces, and dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("average", torch.zeros(10))

    def forward(self, x):
        y = self.layer(x)
        if self.training:
            self.calls += 1
            self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        return y


@pytest.fixture(scope="module")
def digits_data():
    return load_data(DataConfig())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--batch-size", 1), "a batch of 1 in 1 micro-batch comes"),
        (("--batch-size", 7, "--accumulate", 4), "a batch of 7 in 4 micro-batches"),
    ],
)
def test_one_example_before_batchnorm(options, text, tmp_path):
    arguments = ("train", "--model", "test_dry_pass:normalised", "--epochs", 1, "--device", "cpu")
    line = fail(2, *arguments, *options, "--out", tmp_path / "m.ckpt")
    assert line.startswith("error: the model cannot train on one image at a time (Expected more than 1 value per")
    assert text in line
    assert "raise batch_size, lower accumulate, or take fewer processes" in line
    assert list(tmp_path.iterdir()) == []


def test_two_examples_before_batchnorm_train(tmp_path):
    arguments = ("--model", "test_dry_pass:normalised", "--epochs", 1, "--device", "cpu", "--batch-size", 8)
    succeed("train", *arguments, "--accumulate", 4, "--out", tmp_path / "m.ckpt")


def test_shares_of_processes(digits_data):
    model, recipe = normalised(10), Recipe(subnetwork=IteRand())
    check_training(model, digits_data, 8, recipe, 4)
    with pytest.raises(ConfigError, match="a batch of 7 in 4 micro-batches comes to that"):
        check_training(model, digits_data, 7, recipe, 4)
    check_training(model, digits_data, 7, override(recipe, {"train.sync_batchnorm": True}), 4)


@pytest.mark.parametrize(
    ("name", "found"), [("tuple", "got a tuple"), ("dict", "got a dict"), ("shape", r"got shape (2, 10, 1)")]
)
def test_models_that_give_something_else_in_training(name, found, tmp_path):
    arguments = ("train", "--model", f"test_dry_pass:with_{name}", "--epochs", 1, "--device", "cpu")
    line = fail(1, *arguments, "--out", tmp_path / "m.ckpt")
    assert "the model's output in training for 2 images: expected logits of shape (2, 10), " + found in line
    assert list(tmp_path.iterdir()) == []


def test_errors_of_training_mode_only(digits_data):
    class Picky(Auxiliary):
        def forward(self, x):
            if self.training:
                raise ValueError("no training\nat all")
            return self.layer(x.flatten(1))

    with pytest.raises(DataError, match=r"cannot train on images of shape \(1, 8, 8\): no training$"):
        check_training(Picky(10), digits_data, 64, Recipe(subnetwork=IteRand()), 1)


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(digits_data, training):
    model = Traces().train(training)
    before = {name: value.clone() for name, value in [*model.state_dict().items(), *model.named_buffers()]}
    objects = dict(model.named_buffers())
    generator = torch.get_rng_state()
    check_training(model, digits_data, 64, Recipe(subnetwork=IteRand()), 1)
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training is training
    after = dict([*model.state_dict().items(), *model.named_buffers()])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value is objects[name] for name, value in model.named_buffers())
