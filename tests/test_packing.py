"""Whatever ``pack`` accepts, ``recover`` accepts; what it cannot hold is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import refresh
from networks import settings as make_settings
from torch import nn

from conftest import fail, succeed
from iterand_compress import RunOptions, load, load_network, load_recipe, pack, to_dense, train
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.mask.prune_at_init import find_masks
from iterand_compress.compress.training.recipe import override


class Net(nn.Module):
    """A linear layer beside whatever a test adds."""

    def __init__(self, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.linear(x)


STORABLE = {
    "empty float": torch.empty(0),
    "empty matrix": torch.empty(3, 0, dtype=torch.float64),
    "empty integers": torch.empty(0, dtype=torch.int64),
    "scalar": torch.tensor(2.5),
    "transposed": torch.arange(6.0).view(2, 3).t(),
    "uint16": torch.tensor([1, 65535], dtype=torch.uint16),
    "uint32": torch.tensor([1, 2**32 - 1], dtype=torch.uint32),
    "uint64": torch.tensor([1, 2**63], dtype=torch.uint64),
    "bfloat16": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
}


@pytest.mark.parametrize("kind", STORABLE)
def test_buffers_that_come_back_as_they_were(kind, tmp_path):
    value = STORABLE[kind]
    pack(mask_model(Net(extra=value.clone()), make_settings(seed=1)), tmp_path / "net.seedmask")
    found = load(tmp_path / "net.seedmask", Net(extra=torch.zeros_like(value))).extra
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert found.tolist() == value.tolist()


def test_an_extra_state_that_is_a_tensor_comes_back(tmp_path):
    class Extra(Net):
        seen = None

        def get_extra_state(self):
            return torch.tensor([3, 1])

        def set_extra_state(self, state):
            self.seen = state.tolist()

    pack(mask_model(Extra(), make_settings()), tmp_path / "net.seedmask")
    assert load(tmp_path / "net.seedmask", Extra()).seen == [3, 1]


class DictState(Net):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


# What a file cannot hold, as source text for the command line, and what is said of it.
REFUSED = {
    "sparse": ("self.register_buffer('odd', torch.eye(3).to_sparse())", "state odd: a torch.sparse_coo tensor cannot"),
    "complex": (
        "self.register_buffer('odd', torch.ones(2, dtype=torch.complex64))",
        "state odd: torch.complex64 cannot be stored; register torch.view_as_real() of it",
    ),
    "meta": (
        "self.register_buffer('odd', torch.ones(2, device='meta'))",
        "the model's odd has no content (device meta)",
    ),
    "tab": ("self.add_module('a\\tb', nn.BatchNorm1d(3))", r"contains the control character '\t'"),
    "dict": (
        "type(self).get_extra_state = lambda _: {'calls': 1}",
        "state _extra_state: expected a tensor, got a dict",
    ),
    "expanded": (
        "self.register_buffer('odd', torch.ones(1).expand(3))",
        "the network could be packed, but not loaded again",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_file_cannot_hold_is_refused_before_training(kind, tmp_path, monkeypatch):
    line, message = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    name = f"odd_{kind}_net"
    Path(f"{name}.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n        self.linear = nn.Linear(64, 10)\n        {line}\n"
        "    def forward(self, x):\n        return self.linear(x.flatten(1))\n"
        "    def set_extra_state(self, state):\n        pass\n\n"
        "def make(num_classes):\n    return Net()\n"
    )
    assert message in fail(1, "train", "--model", f"{name}:make", "--device", "cpu", "-q", "--out", "m.ckpt")
    assert [path.name for path in tmp_path.glob("m.*")] == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DictState(), "state _extra_state: expected a tensor, got a dict; a file holds tensors alone"),
        (Net(odd=torch.eye(2).to_sparse()), r"state odd: a torch.sparse_coo tensor cannot be stored"),
        (Net(odd=torch.ones(2, dtype=torch.complex64)), r"state odd: torch.complex64 .*; register torch.view_as_real"),
    ],
)
def test_what_no_file_can_hold_is_refused_when_the_subnetwork_is_made_and_when_it_is_packed(model, message, tmp_path):
    before = list(model.state_dict())
    with pytest.raises(SeedMaskError, match=message):
        mask_model(model, make_settings())
    assert list(model.state_dict()) == before
    later = mask_model(Net(), make_settings())
    later.add_module("more", model)
    with pytest.raises(SeedMaskError, match=message.replace("state ", "state more.")):
        pack(later, tmp_path / "net.seedmask")
    assert list(tmp_path.iterdir()) == []


# --- Wrappers and devices ----------------------------------------------------------------------------------


class Pair(nn.Module):
    """Two layers, one of them behind a child that happens to be called ``module``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.module = nn.Sequential(nn.Linear(8, 4))

    def forward(self, x):
        return self.module(self.first(x))


def wrapped_inside() -> Pair:
    model = Pair()
    model.first = torch.compile(model.first, backend="eager")
    model.module[0] = nn.DataParallel(model.module[0])
    return model


WRAPPERS = {
    "data parallel": lambda: nn.DataParallel(Pair()),
    "compiled": lambda: torch.compile(Pair(), backend="eager"),
    "both": lambda: torch.compile(nn.DataParallel(Pair()), backend="eager"),
    "inside": wrapped_inside,
    "none": Pair,
}


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("first", ["wrapped", "masked"])
def test_wrappers_leave_no_trace_in_a_file(kind, first, tmp_path):
    config = make_settings(seed=3, sparsity=0.4)
    plain = mask_model(Pair(), config)
    if first == "wrapped":
        model = mask_model(WRAPPERS[kind](), config)
    elif kind == "data parallel":
        model = nn.DataParallel(mask_model(Pair(), config))
    elif kind == "compiled":
        model = torch.compile(mask_model(Pair(), config), backend="eager")
    else:
        return
    with torch.no_grad():
        for network in (plain, model):
            for name, value in network.named_parameters():
                if name.endswith("bias"):
                    value.fill_(0.5)
    pack(plain, tmp_path / "plain.seedmask")
    pack(model, tmp_path / "wrapped.seedmask")
    assert (tmp_path / "wrapped.seedmask").read_bytes() == (tmp_path / "plain.seedmask").read_bytes()
    x = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    expected = to_dense(plain).eval()(x)
    assert torch.equal(load(tmp_path / "wrapped.seedmask", Pair())(x), expected)
    assert torch.equal(load(tmp_path / "wrapped.seedmask", nn.DataParallel(Pair())).module(x), expected)


@pytest.mark.parametrize(
    "method", ["iterand", "biprop", "recycling", "edge-popup", "signed-supermask", "snip", "grasp", "synflow", "random"]
)
def test_another_default_device_changes_nothing(method, tmp_path):
    """As with ``torch.set_default_device("cuda")`` and a network on the CPU; meta needs no GPU."""

    def run(path: Path) -> bytes:
        cpu = torch.device("cpu")
        generator = torch.Generator("cpu").manual_seed(0)
        x, y = torch.rand(12, 8, generator=generator, device=cpu), torch.arange(12, device=cpu) % 4
        config = make_settings(method, seed=2, sparsity=0.5, **({"every": 2} if method == "iterand" else {}))
        model = mask_model(nn.Sequential(nn.Linear(8, 16, device=cpu), nn.ReLU(), nn.Linear(16, 4, device=cpu)), config)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("bias"):
                    value.zero_()
        if method in ("snip", "grasp"):
            find_masks(model, config, (x, y))
        elif method in ("synflow", "random"):
            find_masks(model, config, (8,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(5):
            refresh(model, step, steps_per_epoch=2, epochs=30)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pack(model, path, with_weights="float32" if method in ("snip", "grasp", "synflow", "random") else None)
        plain = load(path, nn.Sequential(nn.Linear(8, 16, device=cpu), nn.ReLU(), nn.Linear(16, 4, device=cpu)))
        assert torch.equal(plain(x), to_dense(model).eval()(x))
        return path.read_bytes()

    expected = run(tmp_path / "a.seedmask")
    torch.set_default_device("meta")
    try:
        found = run(tmp_path / "b.seedmask")
    finally:
        torch.set_default_device(None)
    assert found == expected


@pytest.mark.slow
def test_training_with_another_default_device_gives_the_same_network(tmp_path):
    def run(name: str, **settings) -> dict:
        recipe = override(load_recipe("digits"), {"train.epochs": 1, "model.width": 0.25, **settings})
        train(recipe, RunOptions(tmp_path / name, device="cpu"))
        return {key: value for key, value in load_checkpoint(tmp_path / name).model.items() if torch.is_tensor(value)}

    expected = run("a.ckpt")
    torch.set_default_device("meta")
    try:
        found = run("b.ckpt")
        score = load_network(tmp_path / "b.ckpt").model(torch.zeros(1, 1, 8, 8, device="cpu"))
    finally:
        torch.set_default_device(None)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert score.device.type == "cpu"


# --- Trained weights that would be lost --------------------------------------------------------------------


def test_a_network_that_was_never_pruned_is_neither_trained_nor_packed(tmp_path):
    model = mask_model(nn.Sequential(nn.Linear(8, 4)), make_settings(method="snip"))
    with pytest.raises(ConfigError, match=r"was not: call prune_at_init\(subnet, …\) after Subnetwork"):
        model(torch.zeros(2, 8)).sum().backward()
    with pytest.raises(SeedMaskError, match=r"0.weight: was never pruned.*call prune_at_init"):
        pack(model, tmp_path / "net.seedmask")
    assert list(tmp_path.iterdir()) == []
    assert model[0].weight.shape == (4, 8)  # to look at it is no mistake


@pytest.mark.parametrize("settings", [{"scope": "global"}, {"ramp_epochs": 3}])
def test_a_loop_that_never_selects_is_told(settings):
    model = mask_model(nn.Sequential(nn.Linear(8, 4)), make_settings(method="edge-popup", **settings))
    with pytest.raises(
        ConfigError, match=r"nothing did: create the network with Subnetwork\(\), and call its step\(\)"
    ):
        model(torch.zeros(2, 8)).sum().backward()
    refresh(model, 0, steps_per_epoch=4, epochs=9)
    model(torch.zeros(2, 8)).sum().backward()
    again = mask_model(nn.Sequential(nn.Linear(8, 4)), make_settings(method="edge-popup", **settings))
    again.load_state_dict(model.state_dict())
    again(torch.zeros(2, 8)).sum().backward()


def test_trained_weights_are_not_lost_in_silence(tmp_path):
    config = make_settings(method="magnitude", distribution="normal", seed=1)
    model = mask_model(nn.Sequential(nn.Linear(8, 4)), config)
    find_masks(model, config)
    path = tmp_path / "net.seedmask"
    pack(model, path)  # not trained yet: the ticket
    ticket = path.read_bytes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 8)).square().sum().backward()
    optimizer.step()
    with pytest.raises(SeedMaskError, match=r"0.weight: its weights were trained.*with_weights='float32'.*'initial'"):
        pack(model, path)
    assert path.read_bytes() == ticket
    pack(model, path, with_weights="float32")
    x = torch.ones(2, 8)
    assert torch.equal(load(path, nn.Sequential(nn.Linear(8, 4)))(x), model.eval()(x))
    pack(model, path, with_weights="initial")
    assert not torch.equal(load(path, nn.Sequential(nn.Linear(8, 4)))(x), model(x))


def test_a_state_dict_says_whether_its_network_was_pruned(tmp_path):
    config = make_settings(method="random", seed=1, sparsity=0.0)
    model = mask_model(nn.Sequential(nn.Linear(8, 4)), config)
    find_masks(model, config)
    again = mask_model(nn.Sequential(nn.Linear(8, 4)), config)
    again.load_state_dict(model.state_dict())
    again(torch.zeros(2, 8))
    pack(again, tmp_path / "net.seedmask")


def test_the_command_packs_the_ticket_and_says_so(ticket, tmp_path):
    said = succeed("pack", ticket.checkpoint, "--out", tmp_path / "net.seedmask")
    assert "a ticket: its weights are those that training began with" in said
