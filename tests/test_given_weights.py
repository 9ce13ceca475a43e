"""Weights that a network brings along: trained ones, frozen ones, half precision, and files that hold nothing else."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import iterand_compress as ic
from conftest import fail, invoke, succeed
from iterand_compress.compress.checkpoint import load_checkpoint, save_checkpoint
from iterand_compress.compress.errors import ConfigError, DiscardedWeightsWarning, SeedMaskError

EDGE = ic.EdgePopup(sparsity=0.5)


def trained(model: nn.Module, *shape: int, steps: int = 200) -> nn.Module:
    """Some steps of classifying noise by its mean."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        inputs = torch.randn(32, *shape) + torch.randint(0, 4, (32, *[1] * len(shape)))
        labels = inputs.flatten(1).mean(1).round().clamp(0, 3).long()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 4))


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))


def batch_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(288, 4))


# --- trained weights


@pytest.mark.parametrize(
    ("make", "shape", "layer"), [(plain_net, (64,), "0"), (norm_net, (64,), "1"), (batch_net, (1, 8, 8), "1")]
)
def test_trained_weights_are_not_discarded_in_silence(make, shape, layer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ic.Subnetwork(make(), EDGE)
    model = trained(make(), *shape)
    with pytest.warns(
        DiscardedWeightsWarning, match=rf"look trained \(layer {layer} does\) and are replaced"
    ) as caught:
        ic.Subnetwork(model, EDGE)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def deep_net() -> nn.Module:
    """Every layer has BatchNorm behind it but the last one."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 4)
    )


@pytest.mark.parametrize("frozen", [True, False])
def test_a_new_head_on_a_trained_network_that_stays_is_no_discarded_weight(frozen) -> None:
    model = trained(deep_net(), 1, 8, 8)
    model[5] = nn.Linear(128, 4)
    kept = [parameter.detach().clone() for parameter in model[:5].parameters()]
    model[:5].requires_grad_(not frozen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ic.Subnetwork(model, EDGE, filter_fn=None if frozen else lambda layer, name: name == "5")
    assert all(map(torch.equal, kept, model[:5].parameters()))


def test_the_layer_that_looks_trained_is_one_whose_weights_are_replaced() -> None:
    model = trained(deep_net(), 1, 8, 8)
    model[:2].requires_grad_(False)
    with pytest.warns(DiscardedWeightsWarning, match=r"layer 3 does"):
        ic.Subnetwork(model, EDGE)
    wide = trained(
        nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 4)), 64
    )
    wide[0].requires_grad_(False)
    with pytest.warns(DiscardedWeightsWarning, match=r"layer 2 does"):  # by its weight: no layer normalises behind it
        ic.Subnetwork(wide, EDGE)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet18", "expected a torch.nn.Module, got str 'resnet18'; load_network"),
        (nn.Identity, "expected a torch.nn.Module, got Identity; call it: Identity()"),
        (ic.Subnetwork(plain_net(), EDGE), "expected a torch.nn.Module, got Subnetwork; give its attribute model"),
    ],
    ids=["name", "class", "subnetwork"],
)
def test_what_is_no_module_is_refused_in_words(model, words, tmp_path) -> None:
    path = tmp_path / "m.seedmask"
    ic.Subnetwork(plain_net(), EDGE).pack(path)
    for call in (
        lambda: ic.Subnetwork(model, EDGE),
        lambda: ic.load(path, model),
        lambda: ic.pack(model, path),
        lambda: ic.to_dense(model),
        lambda: ic.export_onnx(model, tmp_path / "m.onnx", input=torch.zeros(1, 64)),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="prune_at_init: expected a Subnetwork, got Sequential"):
        ic.prune_at_init(plain_net(), (64,))
    with pytest.raises(ConfigError, match=r"synflow: expected the shape of one input, .* got none"):
        ic.prune_at_init(ic.Subnetwork(plain_net(), ic.SynFlow()))
    with pytest.raises(ConfigError, match=r"expected a name .*, got Sequential; .* load\(path, model=module\)"):
        ic.load_network(path, model=plain_net())


def test_a_new_model_is_not_taken_for_a_trained_one() -> None:
    initialisers = (nn.init.orthogonal_, nn.init.dirac_, nn.init.ones_, nn.init.uniform_, nn.init.trunc_normal_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for initialise in initialisers:
            layer = nn.Conv2d(64, 64, 3)
            initialise(layer.weight)
            ic.Subnetwork(layer, EDGE)
        ic.Subnetwork(nn.Embedding(2000, 64, padding_idx=0), EDGE)
        lazy = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))
        lazy(torch.randn(4, 1, 8, 8))  # which gives it its shapes
        ic.Subnetwork(lazy, EDGE)


FACTORY = """
    import torch
    from torch import nn

    def make(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, num_classes))

    def frozen(num_classes):
        model = make(num_classes)
        model[1].requires_grad_(False)
        return model

    def pretrained(num_classes):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Linear(24, num_classes))
        model[2].running_mean.fill_(0.5)
        return model
"""


@pytest.fixture
def name(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    module = f"given_{tmp_path.name}".replace("-", "_")
    Path(f"{module}.py").write_text(textwrap.dedent(FACTORY))
    return module


TRAIN = ("train", "--epochs", 1, "--device", "cpu", "-q", "--out", "m.ckpt", "--model")


@pytest.mark.slow
def test_the_command_line_warns_in_one_line(name) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = invoke(*TRAIN, f"{name}:pretrained")
        assert result.exit_code == 0
        (line,) = result.stderr.splitlines()
        assert line.startswith(
            "warning: Sequential: its weights look trained (layer 2 does) and are replaced by random"
        )
        assert invoke("eval", "m.ckpt", "--model", f"{name}:pretrained").stderr == "", "once, when a run begins"


# --- frozen weights


@pytest.mark.parametrize("config", [EDGE, ic.MagnitudePruning(sparsity=0.5), ic.Dense()], ids=lambda one: one.method)
def test_frozen_weights_stay_as_they_are(config, tmp_path) -> None:
    model = plain_net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    subnet = ic.Subnetwork(model, config)
    if config.prune is not None:
        ic.prune_at_init(subnet)
    trained(model, 64, steps=3)
    assert torch.equal(model[0].weight, before)
    assert not model[0].weight.requires_grad
    if config.has_masks:
        subnet.pack(tmp_path / "m.seedmask", with_weights="float32" if config.prune else None)
        file = ic.read_seedmask(tmp_path / "m.seedmask")
        assert [entry.name for entry in file.tensors] == ["2.weight"]
        plain = ic.load(tmp_path / "m.seedmask", model=plain_net())
        assert torch.equal(plain[0].weight, before)
        assert torch.equal(plain[2].weight, model[2].weight)


def test_a_model_that_is_frozen_throughout() -> None:
    model = plain_net().requires_grad_(False)
    with pytest.raises(ConfigError, match=r"no layer to mask.*requires_grad=False stay as they are: 4 parameters have"):
        ic.Subnetwork(model, EDGE)


@pytest.mark.slow
def test_frozen_layers_of_a_run(name) -> None:
    own = f"{name}:frozen"
    succeed(*TRAIN, own)
    succeed("pack", "m.ckpt", "--model", own)
    file = ic.read_seedmask("m.seedmask")
    assert [entry.name for entry in file.tensors] == ["3.weight"]
    assert {"1.weight", "1.bias", "3.bias"} == file.state().keys()
    counts = {succeed("eval", path, "--model", own).split(": ")[1] for path in ("m.ckpt", "m.seedmask")}
    assert len(counts) == 1


@pytest.mark.slow
def test_a_checkpoint_whose_frozen_layers_are_masked_opens_as_before(name) -> None:
    """Frozen layers were masked like any other."""
    from dataclasses import replace

    succeed(*TRAIN, f"{name}:make")
    run = load_checkpoint(Path("m.ckpt"))
    old = replace(run, architecture=replace(run.architecture, name=f"{name}:frozen"))
    save_checkpoint(old, Path("old.ckpt"))
    results = [
        succeed("eval", path, "--model", f"{name}:{factory}")
        for path, factory in (("m.ckpt", "make"), ("old.ckpt", "frozen"))
    ]
    assert results[0].split(": ")[1] == results[1].split(": ")[1]


@pytest.mark.slow
def test_a_ticket_with_masks_of_frozen_layers_trains_as_before(name) -> None:
    succeed(*TRAIN, f"{name}:make", "--method", "random", "--sparsity", "0.5")
    succeed("pack", "m.ckpt", "--out", "ticket.seedmask")
    succeed(*TRAIN, f"{name}:frozen", "--ticket", "ticket.seedmask", "--out", "again.ckpt")
    succeed("pack", "again.ckpt", "--out", "again.seedmask")
    files = [ic.read_seedmask(path) for path in ("ticket.seedmask", "again.seedmask")]
    assert files[0].tensors == files[1].tensors
    assert len(files[0].tensors) == 2


# --- half precision


def test_a_module_that_would_round_is_refused(tmp_path) -> None:
    subnet = ic.Subnetwork(batch_net(), EDGE)
    subnet.pack(tmp_path / "m.seedmask")
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(
            SeedMaskError, match=rf"m.seedmask: 0.weight: the file holds torch.float32, the module {half}"
        ):
            ic.load(tmp_path / "m.seedmask", model=batch_net().to(half))
    wide = ic.load(tmp_path / "m.seedmask", model=batch_net().double())
    assert torch.equal(wide[0].weight, subnet.to_dense()[0].weight.double())


# --- files of weights alone


@pytest.mark.parametrize("command", [("pack",), ("eval",), ("export", "--onnx", "m.onnx"), ("inspect",)])
def test_files_of_trained_weights_say_why_they_cannot_be_packed(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = plain_net()
    state = model.state_dict()
    torch.save(state, "state.pth")
    torch.save(state, "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, "loop.pth")
    torch.save(model, "module.pth")
    for file, what in (
        ("state.pth", "not an iterand-compress checkpoint, but 4 ordinary tensors, without a seed and masks"),
        ("legacy.pth", "not an iterand-compress checkpoint, but 4 ordinary tensors, without a seed and masks"),
        ("loop.pth", "not an iterand-compress checkpoint, but 4 ordinary tensors, without a seed and masks"),
        ("module.pth", "(a pickle of a whole module, perhaps, that may run code when loaded)"),
    ):
        line = fail(1, command[0], file, *command[1:])
        assert f"{file}: " in line
        assert what in line
        assert "only a network whose weights come from a seed can be packed" in line
    ic.Subnetwork(model, EDGE)
    torch.save(model.state_dict(), "subnet.pth")
    line = fail(1, command[0], "subnet.pth", *command[1:])
    assert "the state dict of a subnetwork, which does not say how it is built: load it into the model" in line
    torch.save({"epoch": 3}, "nothing.pth")
    assert "but a dict without weights; make one with 'iterand" in fail(1, command[0], "nothing.pth", *command[1:])
    save_file(state, "w.safetensors")
    if command == ("pack",):
        assert "a safetensors file without seed and masks, not a checkpoint; only a network" in fail(
            1, "pack", "w.safetensors"
        )
