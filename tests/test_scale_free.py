"""Scores trained at learning rates of weights: the factors, what they do to a step, and when they are the default."""

import copy
import math

import pytest
import torch
from torch import nn

import iterand_compress as ic
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.recipe import load_recipe, override
from iterand_compress.compress.training.run_options import RunOptions


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5))


METHODS = [
    ic.EdgePopup(0.5),
    ic.EdgePopup(0.8, scale_fan=True),
    ic.IteRand(0.5, distribution="normal", score_bound=0.3),
]


@pytest.mark.parametrize("config", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_factors_are_those_of_the_definition(config, optimizer):
    model = network()
    subnet = ic.Subnetwork(model, config)
    *scores, others = subnet.param_groups(lr=0.5, weight_decay=1e-3, optimizer=optimizer)
    for group, inputs, (_, _, parameter) in zip(scores, (27, 288), masked_layers(model), strict=True):
        bound = config.selection.score_bound / math.sqrt(inputs)
        sigma = math.sqrt(2 / (inputs * (1 - config.sparsity if config.scale_fan else 1)))
        factor = bound / sigma**2 if optimizer == "sgd" else bound / sigma
        assert group["lr"] == pytest.approx(0.5 * factor, rel=1e-6)
        assert group["lr_factor"] == pytest.approx(factor, rel=1e-6)
        decay = factor if optimizer != "adam" else bound / sigma**2
        assert group["weight_decay"] == pytest.approx(1e-3 / decay, rel=1e-6)
        assert group["params"][0] is parameter
    assert (others["lr"], others["weight_decay"], others["lr_factor"]) == (0.5, 1e-3, 1.0)
    named = {id(p) for name, p in model.named_parameters() if "original" not in name}
    assert {id(p) for p in others["params"]} == named


@pytest.mark.parametrize("bound", [0.1, 1.0, 7.0])
def test_the_width_of_the_scores_cancels(bound):
    """Scores in units of their bound, and so the masks, are those of any other bound, decay and momentum included."""

    def trained(score_bound: float) -> list[torch.Tensor]:
        model = network()
        subnet = ic.Subnetwork(model, ic.EdgePopup(0.5, score_bound=score_bound))
        optimizer = torch.optim.SGD(subnet.param_groups(lr=0.3, weight_decay=0.01), momentum=0.9)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(5, (16,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return [scores.detach() / masked.score_bound for _, masked, scores in masked_layers(model)]

    for ours, theirs in zip(trained(bound), trained(2.0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_step_moves_scores_as_far_as_dense_training_moves_weights():
    """Relative to their size: the score of a kept weight, and the same weight of the dense network."""
    model = network()
    config = ic.EdgePopup(0.5, selection="signed")
    subnet = ic.Subnetwork(model, config)
    dense = subnet.to_dense()
    x, y = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
    before = copy.deepcopy(dense.state_dict())
    score_before = {name: scores.detach().clone() for name, _, scores in masked_layers(model)}
    for net, groups in ((model, subnet.param_groups(lr=0.2)), (dense, dense.parameters())):
        optimizer = torch.optim.SGD(groups, lr=0.2)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    for name, masked, scores in masked_layers(model):
        moved = (scores.detach() - score_before[name]) / masked.score_bound
        weight = masked.spec.scale * masked.codes.sign()
        expected = (dense.state_dict()[name] - before[name]).flatten() / masked.spec.scale * weight.sign()
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
        ({"lr": math.nan}, "lr: expected a number above 0, got nan"),
        ({"lr": 1.0, "weight_decay": -1.0}, "weight_decay: expected a number at least 0, got -1.0"),
        ({"lr": 1.0, "optimizer": "lion"}, "optimizer: expected one of sgd, adam, adamw, got 'lion'"),
    ],
)
def test_what_makes_no_groups_is_refused(arguments, match):
    with pytest.raises(ConfigError, match=match):
        ic.Subnetwork(network(), ic.EdgePopup()).param_groups(**arguments)


def test_methods_that_train_weights_have_one_group():
    model = network()
    (group,) = ic.Subnetwork(model, ic.MagnitudePruning(0.5)).param_groups(lr=0.1, weight_decay=1e-4)
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.1, 1e-4, 5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"train.scale_free": False}, False),
        ({"model.name": "conv2"}, False),
        ({"subnetwork.method": "snip"}, False),
    ],
)
def test_it_is_the_default_where_scores_are_trained_and_layers_normalise(tmp_path, changes, expected):
    recipe = override(load_recipe("digits"), {"train.epochs": 1, "model.width": 0.25, **changes})
    train(recipe, RunOptions(out=tmp_path / "m.ckpt"))
    stored = load_checkpoint(tmp_path / "m.ckpt")
    assert stored.recipe.train.scale_free is expected
