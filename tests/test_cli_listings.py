"""``recipes`` and ``models``: what they list can be used, and says what the library does."""

import json
from contextlib import nullcontext

import pytest

from conftest import fail, succeed
from iterand_compress.cli.models_command import _own_settings
from iterand_compress.compress.config import ModelConfig
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.inputs import ImageInput
from iterand_compress.compress.methods.presets import PRESETS
from iterand_compress.compress.models import model_names, resolve
from iterand_compress.compress.models.architecture import TEXT_MODELS
from iterand_compress.compress.training.recipe import load_recipe, override, recipe_names, to_toml


def image(side):
    return ImageInput((3, side, side), (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_is_shown_is_the_recipe(name, tmp_path):
    copy = tmp_path / "copy.toml"
    copy.write_text(succeed("recipes", name), encoding="utf-8")
    assert load_recipe(str(copy)) == load_recipe(name)
    assert json.loads(succeed("recipes", copy, "--json")) == load_recipe(name).model_dump(mode="json")


@pytest.mark.parametrize("method", PRESETS)
def test_toml_of_every_method(method, tmp_path):
    changes = {"subnetwork.method": method, "model.name": 'né"\\\n', "data.seed": 2**64 - 1}
    if method == "iterand":
        changes |= {"subnetwork.resample": "none", "subnetwork.recycle.every": 3}
    recipe = override(load_recipe("digits"), changes)
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(str(copy)) == recipe


def test_all_recipes_are_listed():
    rows = {row["name"]: row for row in json.loads(succeed("recipes", "--json"))["recipes"]}
    assert tuple(rows) == recipe_names()
    assert rows["cifar10-resnet18-recycling"] == {
        "name": "cifar10-resnet18-recycling",
        "data": "cifar10",
        "model": "resnet18",
        "method": "biprop-recycling",
        "sparsity": 0.95,
        "epochs": 250,
    }
    lines = succeed("recipes").splitlines()
    assert [line.split()[0] for line in lines] == ["name", *recipe_names()]
    assert lines[-1].split() == ["text", "sentences", "text-transformer", "iterand", "0.5", "10"]


def test_all_models_are_listed_with_their_weights():
    rows = {row["name"]: row for row in json.loads(succeed("models", "--json"))["models"]}
    assert tuple(rows) == model_names()
    for name in ("digits-cnn", "conv8", "wideresnet50-2"):
        estimated = json.loads(succeed("estimate", "--model", name, "--sparsity", 0.5, "--json"))
        assert rows[name]["weights"] == estimated["totals"]["weights"]
    text = succeed("models")
    assert all(name in text for name in (*model_names(), "torchvision:NAME", "16×16", "texts"))


@pytest.mark.parametrize("name", sorted(set(model_names()) - set(TEXT_MODELS)))
@pytest.mark.parametrize(
    "setting", [{"affine": True}, {"activation": "binary"}, {"batch_norm": True}, {"stem": "cifar"}], ids=str
)
def test_settings_that_are_listed_are_those_that_are_taken(name, setting):
    taken = next(iter(setting)) in _own_settings(name)
    with nullcontext() if taken else pytest.raises(ConfigError, match="does not take"):
        resolve(ModelConfig(name=name, **setting), num_classes=10, input=image(32))


def test_smallest_images_are_the_smallest():
    for row in json.loads(succeed("models", "--json"))["models"]:
        side = row["smallest_image"]
        if side is not None:
            resolve(ModelConfig(name=row["name"]), num_classes=10, input=image(side))
        if side is not None and side > 1:
            with pytest.raises(ConfigError, match="needs images of at least"):
                resolve(ModelConfig(name=row["name"]), num_classes=10, input=image(side - 1))


def test_one_model():
    lines = succeed("models", "conv4").splitlines()
    assert lines[1].split() == ["features.0", "64×3×3×3", "1,728"]
    assert lines[-1].split() == ["total", "2,425,024"]
    shown = json.loads(succeed("models", "torchvision:squeezenet1_1", "--json"))
    assert shown["weights"] == sum(row["weights"] for row in shown["tensors"])
    assert shown["tensors"][0] == {"name": "features.0", "shape": [64, 3, 3, 3], "weights": 1728}
    assert "unknown 'conv5'; did you mean" in fail(2, "models", "conv5")
    assert "recipe: unknown 'digit'; did you mean 'digits'" in fail(2, "recipes", "digit")
