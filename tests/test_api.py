"""``import iterand_compress as ic``: the public names, what importing them loads, and a `Subnetwork` in a loop."""

import ast
import copy
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import refresh
from torch import nn
from torch.nn import functional as F

import iterand_compress as ic
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model, update_kept_counts

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_where_type_checkers_look_for_it():
    tree = ast.parse((ROOT / "api" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed.keys() == set(ic.__all__) == ic._MODULE_OF.keys()
    assert typed == ic._MODULE_OF
    for name in ic.__all__:
        assert getattr(ic, name).__name__ == name
    assert ic.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="has no attribute 'refresh'"):
        ic.refresh  # noqa: B018


def loaded(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, check=True
    )
    return set(run.stdout.decode().split())


def test_what_importing_loads():
    assert not {"torch", "numpy", "onnx"} & loaded("import iterand_compress")
    assert not {"torch", "onnx"} & loaded("from iterand_compress import IteRand, read_seedmask; IteRand()")
    for name in ("pack", "load", "Subnetwork"):
        modules = loaded(f"from iterand_compress import {name}")
        assert not [module for module in modules if module.startswith(("iterand_compress.compress.training", "onnx"))]


def test_examples_in_docstrings():
    attempted = 0
    for package in ("compress", "export"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"iterand_compress.{package}."):
            if ">>>" in Path(str(module.module_finder.find_spec(module.name).origin)).read_text():
                result = doctest.testmod(importlib.import_module(module.name))
                assert result.failed == 0 < result.attempted, module.name
                attempted += result.attempted
    assert attempted > 20


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 5))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(30, 12, generator=generator), torch.arange(30) % 5


METHODS = [
    ic.IteRand(0.6, every=1, rate=0.4, seed=3),
    ic.IteRand(0.6, every=3, rate=0.4, seed=3, scope="global", ramp_epochs=2),
    ic.WeightRecycling(0.5, every=1, distribution="normal", seed=3),
    ic.IteRand(0.5, every=2, recycle=ic.Recycle(every=2), binarise=True, distribution="uniform", seed=3),
    ic.EdgePopup(0.5, seed=3),
]
PER_EPOCH, EPOCHS = 3, 4


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    torch.manual_seed(step)
    images, labels = data()
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(
        key == key2 and (torch.equal(value, value2) if isinstance(value, torch.Tensor) else value == value2)
        for (key, value), (key2, value2) in pairs
    )


@pytest.mark.parametrize("config", METHODS, ids=range(len(METHODS)))
def test_step_after_the_optimizer_does_what_was_done_before_each_step(config):
    """The trainer's order of things, written out, against `Subnetwork.step`; and a run that is cut in two."""
    model = mask_model(net(), config)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    subnet = ic.Subnetwork(net(), config, steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
    other = torch.optim.SGD(subnet.model.parameters(), lr=1.0, momentum=0.9)
    changes = []
    for step in range(PER_EPOCH * EPOCHS):
        changed = refresh(model, step, steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
        assert step == 0 or changes[-1] == changed
        assert same(model, subnet.model)
        learn(model, optimizer, step)
        learn(subnet.model, other, step)
        changes.append(subnet.step())
        if step == 6:
            again = ic.Subnetwork(net(), config, steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
            again.model.load_state_dict(subnet.model.state_dict())
            again.load_state_dict(subnet.state_dict())
            third = torch.optim.SGD(again.model.parameters(), lr=1.0, momentum=0.9)
            third.load_state_dict(copy.deepcopy(other.state_dict()))  # PyTorch would share momentum
        elif step > 6:
            learn(again.model, third, step)
            again.step()
    assert any(changes) == (config.method != "edge-popup")
    assert not changes[-1], "nothing is redrawn after the last step"
    update_kept_counts(masked_layers(model), EPOCHS - 1)
    assert same(model, subnet.model)
    assert same(model, again.model)


def test_a_subnetwork_in_the_loops_that_people_write(tmp_path):
    """A moving average, a compiled network, autocast, several passes with cached weights, and the file at the end."""
    subnet = ic.Subnetwork(net(), ic.IteRand(0.5, every=2, seed=1))
    model, optimizer = subnet.model, torch.optim.SGD(subnet.model.parameters(), lr=0.5)
    average = torch.optim.swa_utils.AveragedModel(model)
    images, labels = data()
    for step in range(4):
        with subnet.cached_weights():
            for half in (slice(15), slice(15, 30)):
                torch.manual_seed(step)
                (F.cross_entropy(model(images[half]), labels[half]) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        assert subnet.step() == (step % 2 == 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
    model.eval()
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images), model(images))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.neg_()
    assert not torch.equal(twin(images), model(images))
    report = subnet.pack(tmp_path / "net.seedmask", classes=list("abcde"))
    plain = ic.load(report.path, net())
    assert torch.equal(plain(images), model(images))
    assert torch.equal(subnet.to_dense().eval()(images), model(images))
    assert ic.read_seedmask(report.path).manifest.classes == tuple("abcde")


def test_what_a_subnetwork_refuses():
    for config in (METHODS[1], METHODS[2]):
        with pytest.raises(ic.IterandError, match=r"count epochs; give Subnetwork\(\) steps_per_epoch= and epochs="):
            ic.Subnetwork(net(), config)
    with pytest.raises(ic.IterandError, match=r"config: expected the settings of a method, got IteRand; call it"):
        ic.Subnetwork(net(), ic.IteRand)
    with pytest.raises(ic.IterandError, match="epochs: expected at least 1, got 0"):
        ic.Subnetwork(net(), METHODS[0], epochs=0)
    with pytest.raises(ic.IterandError, match=r"subnetwork state: expected a number of steps, got {'step': 3}"):
        ic.Subnetwork(net(), METHODS[0]).load_state_dict({"step": 3})
    subnet = ic.Subnetwork(net(), ic.Snip(0.5), filter_fn=lambda layer, name: name == "0")
    with pytest.raises(ic.IterandError, match=r"call prune_at_init\(subnet, …\) after Subnetwork"):
        subnet.model(data()[0]).sum().backward()
    ic.prune_at_init(subnet, data())
    subnet.model(data()[0]).sum().backward()
    assert int((subnet.to_dense()[0].weight != 0).sum()) == 120
