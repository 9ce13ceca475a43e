"""Recipes: the shipped ones hold the papers' settings, and mistakes are named."""

import json

import pytest
import torch

from iterand_compress import Dense, IteRand, load_recipe
from iterand_compress.cli.train_command import recipe_changes
from iterand_compress.compress.config import ModelConfig, Recipe, TrainConfig
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.methods.presets import stored_recipe
from iterand_compress.compress.training.optimizer import make_optimizer
from iterand_compress.compress.training.recipe import dense_settings, differences, override, recipe_names, to_toml
from iterand_compress.compress.training.schedule import check_refresh, check_schedule, learning_rate


def test_every_shipped_recipe_loads_and_has_a_schedule():
    names = recipe_names()
    assert names == (
        "cifar10-conv6",
        "cifar10-conv6-biprop",
        "cifar10-conv6-biprop-binary",
        "cifar10-conv6-edge-popup",
        "cifar10-conv6-recycling",
        "cifar10-fast",
        "cifar10-resnet18",
        "cifar10-resnet18-biprop",
        "cifar10-resnet18-edge-popup",
        "cifar10-resnet18-recycling",
        "cifar10-resnet34",
        "cifar10-vgg-small-biprop-binary",
        "digits",
        "imagenet-resnet101",
        "imagenet-resnet34",
        "imagenet-resnet50",
        "imagenet-resnet50-edge-popup",
        "imagenet-wideresnet50-biprop",
        "mnist-tiny",
        "photos",
        "text",
    )
    for name in names:
        recipe = load_recipe(name)
        check_schedule(recipe.train)
        check_refresh(recipe)


@pytest.mark.parametrize(
    ("name", "sparsity", "lr", "decay", "every", "epochs"),
    [
        ("cifar10-conv6", 0.5, 0.3, 1e-4, 300, 100),
        ("cifar10-resnet18", 0.6, 0.1, 5e-4, 300, 100),
        ("cifar10-resnet34", 0.6, 0.1, 5e-4, 300, 100),
        ("imagenet-resnet34", 0.7, 0.1, 1e-4, 1000, 105),
        ("imagenet-resnet50", 0.7, 0.1, 1e-4, 1000, 105),
        ("imagenet-resnet101", 0.7, 0.1, 1e-4, 1000, 105),
    ],
)
def test_settings_of_the_paper(name, sparsity, lr, decay, every, epochs):
    recipe = load_recipe(name)
    assert recipe.subnetwork.method == "iterand"
    assert recipe.subnetwork.sparsity == sparsity
    assert recipe.subnetwork.resample.every == every
    assert recipe.subnetwork.resample.rate == 0.1
    assert recipe.train.lr == lr
    assert recipe.train.weight_decay == decay
    assert recipe.train.epochs == epochs
    assert recipe.train.batch_size == 128
    assert recipe.data.validation == (0.01 if name.startswith("imagenet") else 0.1), (
        "train_val_split of their config.yaml"
    )


@pytest.mark.parametrize(
    ("name", "method", "sparsity", "lr", "momentum", "decay", "batch", "epochs"),
    [
        ("cifar10-conv6-edge-popup", "edge-popup", 0.5, 0.1, 0.9, 1e-4, 128, 100),
        ("cifar10-resnet18-edge-popup", "edge-popup", 0.5, 0.1, 0.9, 5e-4, 256, 100),
        ("imagenet-resnet50-edge-popup", "edge-popup", 0.7, 0.256, 0.875, 2**-15, 256, 100),
        ("cifar10-conv6-biprop", "biprop", 0.5, 0.1, 0.9, 1e-4, 128, 250),
        ("cifar10-conv6-biprop-binary", "biprop", 0.5, 0.1, 0.9, 0, 128, 250),
        ("cifar10-resnet18-biprop", "biprop", 0.8, 0.1, 0.9, 5e-4, 256, 100),
        ("cifar10-vgg-small-biprop-binary", "biprop", 0.75, 0.1, 0.9, 0, 128, 100),
        ("imagenet-wideresnet50-biprop", "biprop", 0.8, 0.256, 0.875, 2**-15, 256, 100),
        ("cifar10-conv6-recycling", "recycling", 0.5, 0.1, 0.9, 1e-4, 128, 250),
        ("cifar10-resnet18-recycling", "biprop-recycling", 0.95, 0.1, 0.9, 5e-4, 128, 250),
    ],
)
def test_settings_of_the_other_papers(name, method, sparsity, lr, momentum, decay, batch, epochs):
    recipe = load_recipe(name)
    train = recipe.train
    assert (recipe.subnetwork.method, recipe.subnetwork.sparsity) == (method, sparsity)
    assert (train.lr, train.momentum, train.weight_decay) == (lr, momentum, decay)
    assert (train.batch_size, train.epochs, recipe.data.validation) == (batch, epochs, 0)


@pytest.mark.parametrize("name", ["cifar10-conv6", "cifar10-resnet18", "cifar10-resnet34"])
def test_iterand_normalises_cifar_as_imagenet(name):
    """``norm_param`` in models/supervised_learning.py of the authors' code, for every data set in colour."""
    data = load_recipe(name).data
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", r"data\.std: value should have at least 1 item"),
        ("[0.1, 0]", r"data\.std\.1: input should be greater than 0, got 0"),
        ("0", r"data\.std\.0: input should be greater than 0, got 0"),
        ("x", r"data\.std: expected a number, or a list of numbers, got 'x'"),
        ("[true]", r"data\.std\.0: input should be a valid number, got True"),
    ],
)
def test_bad_constants_of_the_normalisation(value, message):
    with pytest.raises(ConfigError, match=message):
        override(load_recipe("digits"), recipe_changes({"data": None, "settings": (f"data.std={value}",)}))


def test_constants_of_the_normalisation_survive_toml_and_json(tmp_path):
    recipe = load_recipe("digits", data={"mean": 0.5, "std": [1, 2.5, 3]})
    assert (recipe.data.mean, recipe.data.std) == ((0.5,), (1.0, 2.5, 3.0))
    (tmp_path / "a.toml").write_text(to_toml(recipe))
    assert load_recipe(str(tmp_path / "a.toml")) == recipe
    assert stored_recipe(json.loads(recipe.model_dump_json()), "a file") == recipe


def test_settings_that_only_one_paper_has():
    edge_popup = load_recipe("imagenet-resnet50-edge-popup").train
    assert (edge_popup.label_smoothing, edge_popup.warmup_epochs) == (0.1, 5)
    biprop = load_recipe("cifar10-conv6-biprop").subnetwork
    assert (biprop.distribution, biprop.scale_fan) == ("normal", True)
    for name, batch_norm in (("cifar10-conv6-biprop-binary", None), ("cifar10-vgg-small-biprop-binary", True)):
        recipe = load_recipe(name)
        assert (recipe.model.activation, recipe.model.batch_norm) == ("binary", batch_norm)
        assert (recipe.train.optimizer, recipe.subnetwork.distribution) == ("adam", "normal")
    assert load_recipe("imagenet-wideresnet50-biprop").subnetwork.distribution == "signed-constant"
    for name, warmup in (("cifar10-conv6-recycling", 0), ("cifar10-resnet18-recycling", 50)):
        rule = load_recipe(name).subnetwork.recycle
        assert (rule.every, rule.rate, rule.warmup, rule.after) == (10, 0.2, warmup, None)


def test_adam_has_no_weight_decay_of_its_own(tmp_path):
    """As in Biprop's code, which gives its weight decay to SGD alone."""
    recipe = load_recipe("cifar10-conv6-biprop")
    assert recipe.train.weight_decay == 1e-4
    adam = override(recipe, {"train.optimizer": "adam"})
    assert adam.train.weight_decay == 0
    assert override(adam, {"train.epochs": 3}).train.weight_decay == 0
    decayed = override(adam, {"train.weight_decay": 1e-3})
    assert override(decayed, {"train.optimizer": "adam"}).train.weight_decay == 1e-3
    assert override(recipe, {"train.optimizer": "adam", "train.weight_decay": 1e-4}).train.weight_decay == 1e-4
    assert override(decayed, {"train.optimizer": "sgd"}).train.weight_decay == 5e-4
    assert override(recipe, {"train.optimizer": "sgd"}).train.weight_decay == 1e-4, "which it has anyway"
    path = tmp_path / "adam.toml"
    for text, expected in (("", 0), ("weight_decay = 2e-4", 2e-4)):
        path.write_text(f'[train]\noptimizer = "adam"\n{text}\n')
        assert load_recipe(str(path)).train.weight_decay == expected
    model = torch.nn.Linear(2, 2)
    assert make_optimizer(model, adam.train).param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(
    "name", sorted(set(recipe_names()) - {"cifar10-fast", "digits", "mnist-tiny", "photos", "text"})
)
def test_papers_computed_in_float32_at_the_rates_that_they_state(name):
    assert load_recipe(name).train.precision == "float32"
    assert load_recipe(name).train.scale_free is False


@pytest.mark.parametrize(
    ("name", "model", "distribution", "train"),
    [
        ("cifar10-conv6", {"bias": True}, "uniform", {"lr": 0.01}),
        ("cifar10-resnet18", {"bias": True, "affine": True}, "uniform", {}),
        ("cifar10-resnet34", {"bias": True, "affine": True}, "uniform", {}),
        ("imagenet-resnet34", {"bias": True, "affine": True}, "uniform", {}),
        ("imagenet-resnet50", {"bias": True, "affine": True}, "uniform", {}),
        ("imagenet-resnet101", {"bias": True, "affine": True}, "uniform", {}),
        ("cifar10-conv6-edge-popup", {}, "normal", {"lr": 0.01}),
        ("cifar10-resnet18-edge-popup", {"affine": True}, "normal", {}),
        ("imagenet-resnet50-edge-popup", {"affine": True}, "normal", {}),
        ("cifar10-conv6-biprop", {}, "normal", {"lr": 0.01, "epochs": 100}),
        (
            "cifar10-conv6-biprop-binary",
            {"activation": "relu"},
            "normal",
            {"lr": 0.01, "epochs": 100, "optimizer": "sgd", "weight_decay": 1e-4},
        ),
        ("cifar10-resnet18-biprop", {"affine": True}, "normal", {}),
        (
            "cifar10-vgg-small-biprop-binary",
            {"affine": True, "activation": "relu"},
            "normal",
            {"optimizer": "sgd", "weight_decay": 5e-4},
        ),
        ("imagenet-wideresnet50-biprop", {"affine": True}, "normal", {}),
        ("cifar10-conv6-recycling", {}, "normal", {"lr": 0.01, "epochs": 100}),
        (
            "cifar10-resnet18-recycling",
            {"affine": True},
            "normal",
            {"lr": 3e-4, "epochs": 100, "batch_size": 64, "optimizer": "adam", "weight_decay": 0.0},
        ),
    ],
)
def test_dense_training_has_the_settings_of_its_authors(name, model, distribution, train):
    """Each is the dense configuration in the authors' code, which the recipe names."""
    plain, dense = load_recipe(name), load_recipe(name, subnetwork={"method": "dense"})
    assert dense.subnetwork == Dense(distribution=distribution)
    assert dense.model == plain.model.model_copy(update=model)
    assert dense.train == plain.train.model_copy(update=train)
    assert dense.data == plain.data
    own = load_recipe(name, subnetwork={"method": "dense"}, train={"lr": 0.7}, model={"affine": False})
    assert (own.train.lr, own.model.affine) == (0.7, False), "what is given is obeyed"


def test_a_dense_table_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nlr = 0.5\n[dense.train]\nlr = 0.02\n")
    assert load_recipe(str(path)).train.lr == 0.5
    assert load_recipe(str(path), subnetwork={"method": "snip"}).train.lr == 0.5
    assert load_recipe(str(path), subnetwork={"method": "dense"}).train.lr == 0.02
    path.write_text('[train]\nlr = 0.5\n[dense.train]\nlr = 0.02\n[subnetwork]\nmethod = "dense"\n')
    assert load_recipe(str(path)).train.lr == 0.02
    path.write_text(to_toml(load_recipe("cifar10-conv6"), dense_settings("cifar10-conv6")))
    for method in ("iterand", "dense"):
        own = {"subnetwork": {"method": method}}
        assert load_recipe(str(path), **own) == load_recipe("cifar10-conv6", **own)
    for text, match in (
        ("dense = 3", r"dense: expected a table"),
        ("[dense.train]\nrl = 1", r"unknown key 'train\.rl'"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=match):
            load_recipe(str(path), subnetwork={"method": "dense"})


def test_imagenet_schedule():
    train = load_recipe("imagenet-resnet50").train
    rates = [learning_rate(train, epoch) for epoch in range(105)]
    assert rates[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert rates[99] == pytest.approx(0.1 * 0.5 * (1 - 0.999453), rel=1e-2)
    assert rates[100:] == [1e-5] * 5


def test_cosine_per_epoch():
    train = TrainConfig(epochs=4, lr=1.0)
    assert [learning_rate(train, epoch) for epoch in range(4)] == pytest.approx([1, 0.853553, 0.5, 0.146447], rel=1e-5)


def test_a_straight_line_changes_from_step_to_step():
    train = TrainConfig(epochs=5, lr=2.0, schedule="linear", warmup_epochs=2)
    rates = [learning_rate(train, epoch, half / 2) for epoch in range(5) for half in (0, 1)]
    assert rates == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 5 / 3, 4 / 3, 1.0, 2 / 3, 1 / 3])
    assert learning_rate(train, 4, 0.999) == pytest.approx(2 * 0.001 / 3)
    assert learning_rate(TrainConfig(epochs=2, lr=1.0, schedule="linear"), 1) == 0.5
    assert learning_rate(TrainConfig(epochs=2, lr=1.0, schedule="cosine"), 1, 0.9) == 0.5, "constant within an epoch"
    with pytest.raises(ValueError, match="schedule: milestones are a schedule, too; leave out linear"):
        TrainConfig(schedule="linear", milestones=(3,))


def test_runs_of_earlier_versions_keep_their_rates():
    values = Recipe(subnetwork=IteRand(), train=TrainConfig(lr=0.5)).model_dump()
    assert stored_recipe(values, "here").train.scale_free is None
    del values["train"]["scale_free"]
    assert stored_recipe(values, "here").train.scale_free is False
    assert stored_recipe({"subnetwork": values["subnetwork"]}, "here").train.scale_free is False


def test_steps_are_those_of_multisteplr():
    train = TrainConfig(epochs=9, lr=0.4, milestones=(3, 4, 7), gamma=0.5)
    check_schedule(train)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 4, 7], gamma=0.5)
    expected = []
    for _ in range(9):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [learning_rate(train, epoch) for epoch in range(9)] == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx([0.4] * 3 + [0.2] + [0.1] * 3 + [0.05] * 2)
    tenth = TrainConfig(epochs=3, lr=1.0, milestones=(1,), warmup_epochs=0, cooldown_epochs=1)
    assert [learning_rate(tenth, epoch) for epoch in range(3)] == pytest.approx([1.0, 0.1, 1e-5])
    constant = TrainConfig(epochs=4, lr=0.1, milestones=(), warmup_epochs=2)
    assert [learning_rate(constant, epoch) for epoch in range(4)] == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_nesterov_is_torchs():
    settings = TrainConfig(lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.0)
    model = torch.nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    optimizer = make_optimizer(model, settings)
    for _ in range(2):  # the gradient is 1: v = 1, then 1.5; a step goes by lr (1 + momentum v)
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
    assert model.weight.item() == pytest.approx(start - 0.1 * (1 + 0.5 + 1 + 0.5 * 1.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("train.milestones=[2,1]", r"train\.milestones: expected ascending epochs, got \[2, 1\]"),
        ("train.gamma=0.5", r"train\.gamma: there are no milestones"),
        ("train.milestones=x", r"train\.milestones: expected a number, or a list of numbers, got 'x'"),
        ("train.nesterov=true train.optimizer=adam", r"train\.nesterov: it is a momentum of SGD"),
        ("train.nesterov=true train.momentum=0", r"train\.nesterov: it is a momentum of SGD"),
    ],
)
def test_schedules_and_optimizers_that_do_not_exist(settings, message):
    with pytest.raises(ConfigError, match=message):
        override(load_recipe("digits"), recipe_changes({"data": None, "settings": settings.split()}))


@pytest.mark.parametrize("milestone", [0, 5, 29])
def test_a_step_that_never_comes(milestone):
    train = TrainConfig(epochs=30, warmup_epochs=5, cooldown_epochs=1, milestones=(milestone,))
    with pytest.raises(ConfigError, match=f"milestones: expected epochs from 6 to 28, .* got {milestone}:"):
        check_schedule(train)


def test_milestones_survive_toml_and_json(tmp_path):
    recipe = load_recipe("digits", train={"milestones": [10, 20], "nesterov": True})
    (tmp_path / "a.toml").write_text(to_toml(recipe))
    assert load_recipe(str(tmp_path / "a.toml")) == recipe
    assert stored_recipe(json.loads(recipe.model_dump_json()), "a file") == recipe


def test_a_file_and_overrides(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[train]\nlr = 0.5\n[subnetwork]\nmethod = "edge-popup"\n')
    recipe = override(load_recipe(str(path)), {"train.epochs": 7})
    assert (recipe.train.lr, recipe.train.epochs, recipe.subnetwork.method) == (0.5, 7, "edge-popup")
    assert differences(Recipe(subnetwork=IteRand()), recipe) == [
        "subnetwork.method: 'iterand' → 'edge-popup'",
        "train.epochs: 30 → 7",
        "train.lr: 0.1 → 0.5",
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "[train]\nlearning_rat = 1.0\n",
            r"mine\.toml: unknown key 'train\.learning_rat'; known: batch_size",
        ),
        ("[train]\nbatchsize = 1\n", r"unknown key 'train\.batchsize'; did you mean 'batch_size'\?"),
        ("[trian]\n", r"unknown key 'trian'; did you mean 'train'\?"),
        ("[subnetwork]\nsparsity = 1.0\n", r"subnetwork\.sparsity: input should be less than 1, got 1\.0"),
        (
            "[subnetwork]\nsparsity = -0.1\n",
            r"subnetwork\.sparsity: input should be greater than or equal to 0, got -0\.1",
        ),
        (
            "[subnetwork]\nmethod = 'iterant'\n",
            r"subnetwork\.method: unknown 'iterant'; did you mean 'iterand'\?",
        ),
        ("[train]\nlr = nan\n", r"train\.lr: input should be a finite number, got nan"),
        ("[train]\nepochs = '3'\n", r"train\.epochs: input should be a valid integer, got '3'"),
        ("lr = ", r"not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, match):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_recipe(str(path))


def test_unknown_recipe_and_missing_file():
    with pytest.raises(ConfigError, match=r"recipe: unknown 'cifar10-conv'; did you mean 'cifar10-conv6'"):
        load_recipe("cifar10-conv")
    with pytest.raises(ConfigError, match=r"recipe absent\.toml: cannot be read: No such file"):
        load_recipe("absent.toml")


def test_no_room_for_the_cosine():
    with pytest.raises(
        ConfigError,
        match=r"warmup_epochs \(3\) and cooldown_epochs \(2\) must leave at least one of epochs \(5\)",
    ):
        check_schedule(TrainConfig(epochs=5, warmup_epochs=3, cooldown_epochs=2))


def test_a_model_that_is_not_built_in_takes_no_settings_of_the_recipes_model():
    photos = load_recipe("photos")
    assert (photos.model.name, photos.model.width) == ("resnet18", 0.25)
    foreign = override(photos, {"model.name": "torchvision:mobilenet_v3_small"})
    assert foreign.model == ModelConfig(name="torchvision:mobilenet_v3_small")
    assert foreign.data == photos.data
    assert override(photos, {"model.name": "resnet34"}).model.width == 0.25
