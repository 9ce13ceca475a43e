"""Soft masks: what a weight counts, that gradients, files and evaluation are those of hard masks, and the schedule."""

import copy

import numpy as np
import pytest
import torch
from test_training import StopAt
from torch import nn

import iterand_compress as ic
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.softness import width_at
from iterand_compress.compress.training import loop
from iterand_compress.compress.training.interrupt import RunStoppedError
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.recipe import load_recipe, override
from iterand_compress.compress.training.run_options import RunOptions


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20, bias=False), nn.ReLU(), nn.Linear(20, 4, bias=False))


METHODS = {
    "magnitude": ic.EdgePopup(0.7, softness=0.4, soft_until=0.5),
    "signed": ic.IteRand(0.7, every=3, softness=0.4, soft_until=0.5, distribution="uniform"),
    "invert": ic.SignedSupermask(0.7, softness=0.4, soft_until=0.5),
    "frozen": ic.EdgePopup(0.7, softness=0.4, soft_until=0.5, frozen=0.5),
}


def reference(masked, scores, width: float) -> np.ndarray:
    """The weights that a soft mask gives, in double precision."""
    values = scores.detach().double().numpy()
    rule = masked.spec.selection
    keys = values if rule == "signed" else np.abs(values)
    spread = keys.std()
    if masked.fixed is not None:
        pruned, kept = (one.numpy() for one in masked.fixed)
        keys = np.where(pruned, -np.inf, np.where(kept, np.inf, keys))
    threshold = np.sort(keys)[::-1][masked.spec.kept - 1]
    share = np.where(keys == np.inf, 1, 1 / (1 + np.exp(-(keys - threshold) / (width * spread))))
    signs = np.where(values < 0, -1, 1) if rule == "invert" else 1
    return masked.codes.numpy() * float(masked.spec.scale) * signs * share


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_gradients_are_those_of_the_reference(name):
    model = network()
    subnet = ic.Subnetwork(model, METHODS[name], steps_per_epoch=5, epochs=4)
    with torch.no_grad():
        for _, _, scores in masked_layers(model):
            scores.mul_(torch.where(torch.rand_like(scores) < 0.3, -1.0, 1.0))
    for step in range(20):
        width = 0.4 * max(0, 1 - step / 10)
        for (_, masked, scores), layer in zip(masked_layers(model), (model[0], model[2]), strict=True):
            weight = layer.weight
            if width:
                assert masked.mask(scores).sum() == masked.spec.kept
                np.testing.assert_allclose(
                    weight.detach().numpy().ravel(), reference(masked, scores, width), rtol=1e-4, atol=1e-6
                )
            else:
                assert int((weight != 0).sum()) == masked.spec.kept
            given = torch.randn_like(weight)
            (found,) = torch.autograd.grad(weight, scores, given)
            expected = given.ravel() * masked.codes * masked.spec.scale
            if masked.spec.selection == "magnitude":
                expected = expected * scores.detach().sign()
            torch.testing.assert_close(found, expected)
        subnet.step()


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_copies_and_files_have_hard_masks(name, tmp_path):
    model = network()
    subnet = ic.Subnetwork(model, METHODS[name], steps_per_epoch=5, epochs=4)
    hard = {name: masked.mask(scores) for name, masked, scores in masked_layers(model)}
    soft = model[0].weight.detach().clone()
    plain = subnet.to_dense()
    assert torch.equal(plain[0].weight.ravel() != 0, hard["0.weight"])
    subnet.pack(tmp_path / "m.seedmask")
    loaded = ic.load(tmp_path / "m.seedmask", model=network())
    assert torch.equal(loaded[2].weight, plain[2].weight)
    model.eval()
    assert torch.equal(model[0].weight, plain[0].weight)
    model.train()
    assert torch.equal(model[0].weight, soft), "nothing of this ends the training"
    assert int((soft != 0).sum()) > int(hard["0.weight"].sum())


def test_masks_harden_along_a_line():
    assert [width_at(0.3, 0.5, done) for done in (0, 0.25, 0.5, 0.75, 1)] == [0.3, 0.15, 0, 0, 0]
    assert width_at(0.3, 1.0, 0.9) == pytest.approx(0.03)
    model = network()
    subnet = ic.Subnetwork(model, ic.EdgePopup(0.7, softness=0.4, soft_until=1.0), steps_per_epoch=2, epochs=2)
    for _ in range(3):
        subnet.step()
        assert int((model[0].weight == 0).sum()) < 10
    subnet.step()
    assert int((model[0].weight == 0).sum()) == round(0.7 * 240), "after the last step"


def test_scores_that_are_all_equal_have_no_spread():
    model = network()
    ic.Subnetwork(model, ic.EdgePopup(0.5, softness=0.4), steps_per_epoch=2, epochs=2)
    (_, masked, scores), _ = masked_layers(model)
    with torch.no_grad():
        scores.fill_(0.25)
    assert torch.equal(model[0].weight, masked.random.view(20, 12) / 2)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ic.EdgePopup(multiplicity=2, softness=0.1), "softness: several masks have no one threshold"),
        (lambda: ic.Biprop(distribution="normal", softness=0.1), "softness: α is that of a hard mask"),
        (lambda: ic.EdgePopup(softness=-1.0), "softness: input should be greater than or equal to 0"),
        (lambda: ic.EdgePopup(softness=1.0, soft_until=0.0), "soft_until: input should be greater than 0"),
        (lambda: ic.Subnetwork(network(), ic.EdgePopup(softness=1.0)), "ramps, soft masks and Weight Recycling count"),
    ],
)
def test_what_cannot_be_soft_is_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


@pytest.mark.slow
def test_a_soft_run_resumes_exactly_and_does_not_depend_on_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0)
    changes = {"train.epochs": 3, "model.width": 0.25, "subnetwork.selection.softness": 0.5}
    recipe = override(load_recipe("digits"), changes)
    whole, parts = tmp_path / "whole.ckpt", tmp_path / "parts.ckpt"
    train(recipe, RunOptions(whole, device="cpu"))
    with pytest.raises(RunStoppedError):
        train(recipe, RunOptions(parts, device="cpu"), StopAt(26))
    train(recipe, RunOptions(parts, device="cpu", resume=True))
    expected, found = (load_checkpoint(out).model for out in (whole, parts))
    assert all(torch.equal(found[key], value) for key, value in expected.items() if isinstance(value, torch.Tensor))
    hard, out = override(recipe, {"subnetwork.selection.softness": 0.0}), tmp_path / "hard.ckpt"
    train(hard, RunOptions(out, device="cpu"))
    other, key = load_checkpoint(out).model, "classifier.parametrizations.weight.original"
    assert not torch.equal(other[key], expected[key])


def test_copies_and_compiled_networks_are_soft_too():
    model = network()
    ic.Subnetwork(model, METHODS["magnitude"], steps_per_epoch=5, epochs=4)
    x = torch.randn(3, 12)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
