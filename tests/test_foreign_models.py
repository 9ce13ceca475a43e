"""Networks that are not built in, from training to ONNX: what their code keeps outside the tensors of a state dict."""

from __future__ import annotations

import json
import random
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import settings
from PIL import Image
from torch import nn

from conftest import fail, succeed
from iterand_compress import ImageInput, export_onnx, load, load_network, pack
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.errors import ExportError, SeedMaskError
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.models import Architecture
from iterand_compress.compress.models.build import build_model

TRAIN = ("train", "--epochs", 1, "--device", "cpu", "-q", "--lr", 0.3)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Writes a module of the user's into the working directory; returns the name of its factory."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(body: str) -> str:
        name = f"net_{tmp_path.name}_{len(written)}".replace("-", "_")
        written.append(name)
        head = "import os, random\nimport numpy as np\nimport torch\nfrom torch import nn\n\n"
        Path(f"{name}.py").write_text(head + textwrap.dedent(body))
        return f"{name}:make"

    return write


def accuracy(*arguments: object) -> float:
    return json.loads(succeed("eval", *arguments, "--json"))["accuracy"]


def everywhere(name: str) -> list[float]:
    """Accuracies of a run of this network: as trained, and from checkpoint, packed and exported file."""
    trained = json.loads(succeed(*TRAIN, "--model", name, "--out", "m.ckpt", "--json"))["test_accuracy"]
    succeed("pack", "m.ckpt", "--model", name)
    succeed("export", "m.seedmask", "--model", name, "--onnx", "m.onnx")
    return [trained, *(accuracy(file, "--model", name) for file in ("m.ckpt", "m.seedmask")), accuracy("m.onnx")]


def unfinished(path: str) -> str:
    """A copy of a checkpoint whose run has another epoch to go."""
    content = torch.load(path, weights_only=True)
    content["recipe"]["train"]["epochs"] += 1
    content["test"] = content["best"] = None
    torch.save(content, "unfinished.ckpt")
    return "unfinished.ckpt"


# --- What a constructor draws ------------------------------------------------------------------------------

DRAWS = {
    "torch": "torch.randperm(64).tolist()",
    "numpy": "np.random.permutation(64).tolist()",
    "random": "random.sample(range(64), 64)",
}
PERMUTING = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.order = {draw}
            self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

        def forward(self, x):
            keep = self.order[:32]  # the other pixels are not looked at
            x = x.flatten(1)
            x = x.index_select(1, torch.tensor(keep, device=x.device))
            return self.layers(torch.cat([x, x], 1))

    def make(num_classes):
        return Net()
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", DRAWS)
def test_what_a_constructor_draws_is_drawn_again(network, source):
    found = everywhere(network(PERMUTING.format(draw=DRAWS[source])))
    assert found[0] > 0.3
    assert found == [found[0]] * 4


@pytest.mark.processes
def test_what_a_module_draws_when_it_is_imported_is_drawn_again(network, tmp_path):
    import subprocess
    import sys

    name = network("ORDER = torch.randperm(64).tolist()\n" + textwrap.dedent(PERMUTING.format(draw="ORDER")))
    script = (
        "import sys, torch, numpy, random; torch.manual_seed(int(sys.argv[1]));"
        "from iterand_compress.compress.models import Architecture;"
        "from iterand_compress.compress.models.build import build_model;"
        f"print(build_model(Architecture({name!r}, 10, 1, 8), seed=5, allow_import=True).order)"
    )
    runs = [subprocess.run([sys.executable, "-c", script, str(n)], check=True, capture_output=True) for n in (1, 2)]
    assert runs[0].stdout == runs[1].stdout != b""


def test_another_seed_draws_something_else_and_the_users_generators_go_on(network):
    arch = Architecture(network(PERMUTING.format(draw=DRAWS["torch"])), 10, 1, 8)
    draws = lambda: (torch.rand(()).item(), np.random.rand(), random.random())  # noqa: E731, NPY002
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    orders = [build_model(arch, seed=seed, allow_import=True).order for seed in (1, 1, 2, 2**64 - 1)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert draws() == expected


def test_what_no_seed_determines_is_refused_before_training(network):
    name = network(PERMUTING.format(draw="sorted(range(64), key=lambda _: os.urandom(4))"))
    message = fail(1, *TRAIN, "--model", name, "--out", "m.ckpt")
    assert f"{name}, built again, computes something else than the network that was trained" in message
    assert "draw them from torch's, NumPy's or Python's global generator" in message
    assert not Path("m.ckpt").exists()


CHANGING = """
    def make(num_classes):
        layers = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
        if os.environ.get("CHANGED"):
            layers[2] = nn.Tanh()
        return nn.Sequential(*layers)
"""


def test_code_that_has_changed_is_refused(network, monkeypatch):
    name = network(CHANGING)
    succeed(*TRAIN, "--epochs", 2, "--model", name, "--out", "m.ckpt")
    assert json.loads(succeed("pack", "m.ckpt", "--model", name, "--json"))["compared"] is True
    packed = Path("m.seedmask").read_bytes()
    monkeypatch.setenv("CHANGED", "1")
    for command in (
        ("pack", "m.ckpt", "--model", name),
        ("eval", "m.ckpt", "--model", name),
        ("export", "m.ckpt", "--model", name, "--onnx", "m.onnx"),
        ("train", "--resume", "--model", name, "--out", unfinished("m.ckpt"), "-q"),
    ):
        assert "computes something else than the network that was trained" in fail(1, *command), command
    assert Path("m.seedmask").read_bytes() == packed
    assert not Path("m.onnx").exists()


def test_pack_says_that_it_did_not_build_a_network_of_the_users(network):
    name = network(CHANGING)
    succeed(*TRAIN, "--model", name, "--out", "m.ckpt")
    said = succeed("pack", "m.ckpt")
    assert f"not compared with {name} built again" in said
    assert "only the model tells where BatchNorm is: give --model" in fail(
        2, "pack", "m.ckpt", "--state-dtype", "folded"
    )
    assert f"--model {name}" in said
    assert json.loads(succeed("pack", "m.ckpt", "--json"))["compared"] is False
    assert "compared" not in succeed("pack", "m.ckpt", "--model", name)


# --- Versions of modules -----------------------------------------------------------------------------------

VERSIONED = """
    class Scaled(nn.Module):
        _version = 2

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)
            self.register_buffer("factor", torch.full((), 0.5))

        def forward(self, x):
            return self.linear(x.flatten(1)) * self.factor

        def _load_from_state_dict(self, state, prefix, metadata, *rest):
            if metadata.get("version", 1) < 2:  # earlier versions stored it in other units
                state[prefix + "factor"] = state[prefix + "factor"] * 10
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    def make(num_classes):
        return nn.Sequential(Scaled())
"""


@pytest.mark.slow
def test_a_state_dict_of_the_present_version_is_not_converted(network):
    name = network(VERSIONED)
    found = everywhere(name)
    assert found == [found[0]] * 4
    plain = build_model(Architecture(name, 10, 1, 8), seed=0, allow_import=True)
    assert load("m.seedmask", plain)[0].factor.item() == 0.5
    assert load_checkpoint(Path("m.ckpt")).model._metadata["0"] == {"version": 2}
    succeed("train", "--resume", "--model", name, "--out", unfinished("m.ckpt"), "-q")
    assert load_checkpoint(Path("unfinished.ckpt")).model["0.factor"].item() == 0.5


def test_a_checkpoint_of_an_earlier_version_is_converted_once(network):
    name = network(VERSIONED)
    succeed(*TRAIN, "--model", name, "--out", "m.ckpt")
    content = torch.load("m.ckpt", weights_only=True)
    content["versions"]["0"] = 1
    content["probe"] = None
    torch.save(content, "old.ckpt")
    assert load_network("old.ckpt", model=name).model[0].factor.item() == 5.0
    del content["versions"]  # and one from before versions were kept is taken as it is
    torch.save(content, "older.ckpt")
    assert load_network("older.ckpt", model=name).model[0].factor.item() == 0.5


@pytest.mark.slow
def test_mnasnet_which_refuses_a_state_dict_without_version(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for index in range(4):
                colour = (255 * (label == "a"), 30 * index, 90)
                Image.new("RGB", (32, 32), colour).save(folder / split / label / f"{index}.png")
    options = ("--data", "folder", "--data-dir", "images", "--set=data.validation=0", "--batch-size", 4)
    succeed(*TRAIN, *options, "--model", "torchvision:mnasnet0_5", "--out", "m.ckpt")
    assert json.loads(succeed("pack", "m.ckpt", "--json"))["compared"] is True
    scores = {accuracy(file, "--data-dir", "images") for file in ("m.ckpt", "m.seedmask")}
    assert len(scores) == 1
    succeed("train", "--resume", "--data-dir", "images", "--out", unfinished("m.ckpt"), "-q")


# --- What a factory may return ------------------------------------------------------------------------------


def test_parts_in_other_types(network):
    name = network("""
        class Mixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(64, 32).bfloat16(), nn.Linear(32, 10).double()

            def forward(self, x):
                return self.b(self.a(x.flatten(1).bfloat16()).relu().double()).float()

        def make(num_classes):
            return Mixed()
    """)
    trained = json.loads(succeed(*TRAIN, "--model", name, "--out", "m.ckpt", "--json"))["test_accuracy"]
    succeed("pack", "m.ckpt", "--model", name)
    assert [accuracy(file, "--model", name) for file in ("m.ckpt", "m.seedmask")] == [trained] * 2
    message = fail(1, "export", "m.seedmask", "--model", name, "--onnx", "m.onnx")
    assert "an export computes in float32 throughout, and parts of the model are in torch.bfloat16" in message


@pytest.mark.parametrize("wrap", ["nn.DataParallel(net)", "torch.compile(net, backend='eager')"])
def test_what_wraps_a_network_is_taken_off(network, wrap):
    name = network(f"""
        def make(num_classes):
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            return {wrap}
    """)
    succeed(*TRAIN, "--model", name, "--out", "m.ckpt")
    succeed("pack", "m.ckpt", "--model", name)
    assert accuracy("m.ckpt", "--model", name) == accuracy("m.seedmask", "--model", name)
    assert [key for key in load_checkpoint(Path("m.ckpt")).model if key.endswith("bias")] == ["1.bias"]


STATEFUL = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(64, 10), 0
            self.register_buffer("mu", torch.zeros(64), persistent=False)

        def forward(self, x):
            x = x.flatten(1)
            if self.training:
                {change}
            return self.linear(x - self.mu) * (1 + self.calls)

    def make(num_classes):
        return Net()
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("self.mu = self.mu + 1", "the model changes its buffer 'mu' in training, and no state dict holds it"),
        ("self.mu.add_(1)", "register it with persistent=True"),
        ("self.calls += 1", "it keeps what it learns outside its state dict (keep that in a persistent buffer)"),
    ],
)
def test_what_training_leaves_outside_the_state_dict_is_refused_before(network, change, message):
    name = network(STATEFUL.format(change=change))
    assert message in fail(1, *TRAIN, "--model", name, "--out", "m.ckpt")
    assert not Path("m.ckpt").exists()


def test_weights_that_forward_changes_in_place(network):
    name = network("""
        class Clamped(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)

            def forward(self, x):
                with torch.no_grad():
                    self.b.weight.clamp_(-0.1, 0.1)
                return self.b(self.a(x.flatten(1)).relu())

        def make(num_classes):
            return Clamped()
    """)
    assert "or its forward() changes weights in place" in fail(1, *TRAIN, "--model", name, "--out", "m.ckpt")
    model = build_model(Architecture(name, 10, 1, 8), seed=0, allow_import=True)
    model = mask_model(model, settings())
    with pytest.raises(ExportError, match=r"Clamped computes something else without its masks.*changes a masked"):
        export_onnx(model, "m.onnx", input=ImageInput((1, 8, 8), 0.5, 0.5))
    assert not Path("m.onnx").exists()


def test_an_output_that_is_no_tensor(network):
    name = network("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(64, 10)

            def forward(self, x):
                return {"logits": self.linear(x.flatten(1))}

        def make(num_classes):
            return Net()
    """)
    message = fail(1, *TRAIN, "--model", name, "--out", "m.ckpt")
    assert "the model's output for 2 images: expected logits (2, 10) (10 classes of digits), got a dict" in message


AUX = """
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aux, self.head = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(32, 10)

        def forward(self, x):
            h = self.body(x.flatten(1)).relu()
            y = self.head(h)
            return y + 0.3 * self.aux(h) if self.training else y

    def make(num_classes):
        return Aux()
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "packed", "int8", "seeded"])
def test_weights_that_only_training_uses(network, form):
    name = network(AUX)
    succeed(*TRAIN, "--model", name, "--out", "m.ckpt")
    succeed("export", "m.ckpt", "--model", name, "--onnx", "m.onnx", "--form", form)
    succeed("verify", "m.onnx")
    assert accuracy("m.onnx") == accuracy("m.ckpt", "--model", name)


def test_a_module_without_content_is_no_place_to_recover_into(digits):
    with torch.device("meta"):
        plain = nn.Linear(3, 3)
    with pytest.raises(SeedMaskError, match=r"weight: the module has no content \(device meta\)"):
        load(digits.seedmask, plain)
    model = mask_model(plain, settings())
    with pytest.raises(SeedMaskError, match=r"weight: has no content \(device meta\)"):
        pack(model, digits.folder / "meta.seedmask")
