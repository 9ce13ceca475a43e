"""Binary activations: where BatchNorm, pooling and signs stand, against written-out computations, and old files."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import fail, succeed
from iterand_compress import ImageInput, IterandError, load_recipe
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import ModelConfig
from iterand_compress.compress.methods.presets import stored_recipe
from iterand_compress.compress.models import Architecture, has_batch_norm, read_architecture, resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.reporter import Reporter
from iterand_compress.compress.training.run_options import RunOptions


def built(name: str, side: int = 32, channels: int = 3, **config) -> nn.Module:
    image = ImageInput((channels, side, side), 0, 1)
    return build_model(resolve(ModelConfig(name=name, **config), num_classes=10, input=image), seed=0)


def kinds(module: nn.Module) -> str:
    """One letter for each module in a row: C conv, L linear, B BatchNorm, P pool, S sign, R ReLU."""
    letters = {"Conv2d": "C", "Linear": "L", "BatchNorm2d": "B", "BatchNorm1d": "B", "MaxPool2d": "P"}
    letters |= {"BinaryActivation": "S", "ReLU": "R"}
    return "".join(letters[type(inner).__name__] for inner in module)


@pytest.mark.parametrize("depth", [2, 4, 6, 8])
@pytest.mark.parametrize(
    ("config", "pair", "linear"),
    [
        ({"activation": "binary"}, "CBS CPBS", "LBS LBS L"),
        ({"activation": "binary", "batch_norm": False}, "CS CPS", "LS LS L"),
        ({"batch_norm": True}, "CBR CPBR", "LBR LBR L"),
        ({}, "CR CPR", "LR LR L"),
    ],
    ids=str,
)
def test_layout_of_conv_nets(depth, config, pair, linear):
    """The first row is that of the authors' Conv2_BinAct to Conv8_BinAct."""
    model = built(f"conv{depth}", width=0.1, **config)
    assert kinds(model.features) == pair.replace(" ", "") * (depth // 2)
    assert kinds(model.classifier) == linear.replace(" ", "")


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({}, "CR CPB C CPB C CPBR"),
        ({"batch_norm": True}, "CBR CPBR CBR CPBR CBR CPBR"),
        ({"activation": "binary", "batch_norm": False}, "CS CPBS CS CPBS CS CPBR"),
        ({"activation": "binary"}, "CBS CPBS CBS CPBS CBS CPBR"),
    ],
    ids=str,
)
def test_layouts_of_vgg_small(config, layers):
    """Those of the authors' VGG_Small, Wide_VGG_Small_132, VGG_Small_BinAct and Wide_VGG_Small."""
    model = built("vgg-small", width=0.1, affine=True, **config)
    assert kinds(model.features) == layers.replace(" ", "")
    assert type(model.classifier) is nn.Linear
    assert all(layer.affine for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))


class Sign(torch.autograd.Function):
    """The sign, with the gradient that Diffenderfer and Kailkhura give it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.where(x.abs() < 1, 2 - 2 * x.abs(), 0.0)


def written_out(model: nn.Module, x: Tensor, order: str, act, *, norm: bool) -> Tensor:
    """A conv net by functions alone: ``order`` of pooling (p), BatchNorm (b) and activation (a) behind each layer."""

    def behind(x: Tensor, pooled: bool) -> Tensor:
        axes = [0, *range(2, x.dim())]
        for step in order:
            if step == "p" and pooled:
                x = F.max_pool2d(x, 2)
            elif step == "b" and norm:
                mean, variance = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, unbiased=False)
                x = (x - mean) / (variance + 1e-5).sqrt()
            elif step == "a":
                x = act(x)
        return x

    convolutions = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    linear = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    for index, weight in enumerate(convolutions):
        x = behind(F.conv2d(x, weight, padding=1), index % 2 == 1)
    x = x.flatten(1)
    for weight in linear[:-1]:
        x = behind(x @ weight.T, False)
    return x @ linear[-1].T


def outputs_and_gradients(model: nn.Module, compute) -> list[Tensor]:
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    model.zero_grad()
    out = compute(x)
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    return [out.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.parametrize("norm", [True, False])
def test_values_and_gradients_of_a_binary_conv_net(norm):
    torch.manual_seed(0)
    model = built("conv4", 16, width=0.25, activation="binary", batch_norm=norm)
    ours = outputs_and_gradients(model, model)
    theirs = outputs_and_gradients(model, lambda x: written_out(model, x, "pba", Sign.apply, norm=norm))
    for own, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, their, rtol=1e-3, atol=1e-5)
    if not norm:  # as files of before were trained: the same network, other gradients
        before = outputs_and_gradients(model, lambda x: written_out(model, x, "ap", Sign.apply, norm=False))
        assert torch.equal(ours[0], before[0])
        assert cosine(ours[1], before[1]) < 0.5


def earlier_order(model: nn.Module) -> nn.Module:
    """Exchange each activation with the pooling in front of it: the order of earlier versions."""
    layers = list(model.features)
    for index in [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:
        layers[index], layers[index + 1] = layers[index + 1], layers[index]
    model.features = nn.Sequential(*layers)
    return model


@pytest.mark.parametrize("activation", ["relu", "binary"])
@pytest.mark.parametrize("name", ["conv2", "conv6", "digits-cnn"])
def test_a_max_pool_commutes_with_an_activation(name, activation):
    """So files of before hold the same networks by the same names; with ReLU the gradients are the same bits, too."""
    config = {"batch_norm": False} if name.startswith("conv") and activation == "binary" else {}
    ours = built(name, 16, width=0.25, activation=activation, **config)
    before = built(name, 16, width=0.25, activation=activation, **config)
    before.load_state_dict(ours.state_dict())
    earlier_order(before)
    new, old = (outputs_and_gradients(model, model) for model in (ours, before))
    assert torch.equal(new[0], old[0])
    same = [torch.equal(a, b) for a, b in zip(new[1:], old[1:], strict=True)]
    assert all(same) == (activation == "relu")
    assert torch.equal(ours.eval()(torch.ones(2, 3, 16, 16)), before.eval()(torch.ones(2, 3, 16, 16)))


@pytest.mark.parametrize("activation", ["relu", "binary"])
def test_the_imagenet_stem_pools_before_the_activation(activation):
    model = built("resnet18", 96, width=0.125, activation=activation)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(5))
    stages = nn.Sequential(model.layer1, model.layer2, model.layer3, model.layer4, model.avgpool, nn.Flatten())
    act = Sign.apply if activation == "binary" else F.relu

    def gradients(stem) -> list[Tensor]:
        model.zero_grad()
        out = model(x) if stem is None else model.fc(stages(stem(model.bn1(model.conv1(x)))))
        out.square().sum().backward()
        return [out.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    ours = gradients(None)
    expected = gradients(lambda x: act(F.max_pool2d(x, 3, stride=2, padding=1)))
    before = gradients(lambda x: F.max_pool2d(act(x), 3, stride=2, padding=1))
    for own, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(own, theirs)
    assert torch.equal(ours[0], before[0])
    assert torch.equal(ours[1], before[1]) == (activation == "relu")


# --- Which networks have BatchNorm, and what old files mean --------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "conv6"}, False),
        ({"name": "conv6", "activation": "relu"}, False),
        ({"name": "conv6", "activation": "binary"}, True),
        ({"name": "conv6", "activation": "binary", "batch_norm": False}, False),
        ({"name": "conv2", "batch_norm": True}, True),
        ({"name": "vgg-small"}, False),
        ({"name": "vgg-small", "activation": "binary"}, True),
        ({"name": "resnet18", "activation": "binary"}, False),
        ({"name": "digits-cnn", "activation": "binary"}, False),
    ],
    ids=str,
)
def test_networks_with_the_choice_have_batch_norm_if_their_activations_are_binary(config, expected):
    section = ModelConfig(**config)
    assert has_batch_norm(section) == expected
    assert resolve(section, num_classes=10, input=ImageInput((3, 32, 32), 0, 1)).batch_norm == expected


def test_an_architecture_from_before_has_no_batch_norm():
    old = {"name": "conv2", "num_classes": 10, "in_channels": 3, "image_size": 32, "width": 0.25, "stem": "none"}
    old |= {"affine": False, "activation": "binary"}
    architecture = read_architecture(old)
    assert architecture == Architecture("conv2", 10, 3, 32, 0.25, activation="binary", batch_norm=False)
    assert architecture.to_dict() == old
    assert kinds(build_model(architecture, seed=0).features) == "CSCPS"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "conv4", "activation": "binary"}, False),
        ({"name": "conv4", "activation": "binary", "batch_norm": None}, None),
        ({"name": "conv4"}, None),
        ({"name": "resnet18", "activation": "binary"}, None),
    ],
    ids=str,
)
def test_a_recipe_from_before_means_the_same_network(model, expected):
    assert stored_recipe({"model": model, "subnetwork": {"method": "biprop"}}, "old").model.batch_norm is expected


RUN = ("--model", "conv2", "--width", 0.125, "--method", "biprop", "--set=model.activation=binary", "--quiet")


class Stopping(Reporter):
    def epoch(self, report):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_run_says_its_layout(tmp_path):
    out = tmp_path / "new.ckpt"
    succeed("train", *RUN, "--epochs", 1, "--out", out)
    checkpoint = load_checkpoint(out)
    assert (checkpoint.recipe.model.batch_norm, checkpoint.architecture.batch_norm) == (True, True)
    assert kinds(build_model(checkpoint.architecture, seed=0).features) == "CBSCPBS"


@pytest.mark.slow
def test_an_old_checkpoint_goes_on_and_is_packed(tmp_path):
    """Made old here: earlier versions wrote neither the setting nor the key of the architecture."""
    old, packed = tmp_path / "old.ckpt", tmp_path / "old.seedmask"
    model = {"name": "conv2", "width": 0.125, "activation": "binary", "batch_norm": False}
    recipe = load_recipe("digits", model=model, train={"epochs": 2}, subnetwork={"method": "biprop"})
    with pytest.raises(IterandError):
        train(recipe, RunOptions(old, device="cpu"), Stopping())
    content = torch.load(old, weights_only=True)
    assert content["recipe"]["model"].pop("batch_norm") is False
    assert "batch_norm" not in content["architecture"]
    torch.save(content, old)
    line = fail(2, "train", *RUN, "--recipe", "digits", "--epochs", 2, "--resume", "--out", old)
    assert "cannot resume with other settings (model.batch_norm: False → True)" in line
    succeed("train", "--resume", "--quiet", "--device", "cpu", "--out", old)
    checkpoint = load_checkpoint(old)
    assert (checkpoint.position.epoch, checkpoint.complete) == (2, True)
    assert kinds(build_model(checkpoint.architecture, seed=0).features) == "CSCPS"
    succeed("pack", old, "--out", packed)
    shown = json.loads(succeed("inspect", packed, "--json"))
    assert "batch_norm" not in shown["architecture"]
    assert [row["name"] for row in shown["layers"]] == [
        *("features.0.weight", "features.2.weight"),
        *("classifier.0.weight", "classifier.2.weight", "classifier.4.weight"),
    ]
    assert json.loads(succeed("eval", packed, "--json"))["accuracy"] == checkpoint.test["correct"] / 360
