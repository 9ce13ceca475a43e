"""Files that a loop of the user's packs: what they say, and what the command line is told instead."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import iterand_compress as ic
from conftest import fail, succeed
from iterand_compress.compress.errors import ConfigError

GREY = ic.ImageInput((1, 8, 8), 0.25, 0.5)
SPELLED = "1x8x8:0.25:0.5"
FACTORY = """
    from torch import nn

    def make(num_classes):
        return nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4 + num_classes),
            nn.ReLU(), nn.Linear(4 + num_classes, 2 * num_classes), nn.Linear(2 * num_classes, num_classes),
        )

    def fixed(num_classes):
        return make(10)
"""
CLASSES = [str(number) for number in range(10)]


@pytest.fixture
def name(tmp_path, monkeypatch) -> str:
    """The module of the factory, in the working directory."""
    monkeypatch.chdir(tmp_path)
    module = f"own_{tmp_path.name}".replace("-", "_")
    Path(f"{module}.py").write_text(textwrap.dedent(FACTORY))
    return module


@pytest.fixture
def subnet(name) -> ic.Subnetwork:
    scope: dict[str, object] = {}
    exec(textwrap.dedent(FACTORY), scope)
    torch.manual_seed(0)
    return ic.Subnetwork(scope["make"](10), ic.IteRand(sparsity=0.4, every=1))  # type: ignore[operator]


def evaluated(*arguments: object) -> tuple[int, float]:
    found = json.loads(succeed("eval", *arguments, "--data", "digits", "--device", "cpu", "--json"))
    return found["correct"], found["loss"]


def test_what_the_file_lacks_comes_from_the_command_line(subnet, name) -> None:
    subnet.pack("bare.seedmask")
    subnet.pack("named.seedmask", input=GREY, classes=CLASSES)
    subnet.pack("full.seedmask", input=GREY, architecture=f"{name}:make")
    subnet.model.eval()
    from iterand_compress.compress.config import DataConfig
    from iterand_compress.compress.data.loading import load_data

    test = load_data(DataConfig()).test
    with torch.no_grad():
        correct = sum(
            int((subnet.model(GREY.normalize(pixels)).argmax(1) == labels).sum())
            for pixels, labels in test.batches(500, torch.device("cpu"))
        )
    own = f"{name}:make"
    found = {
        evaluated("bare.seedmask", "--model", own, "--input", SPELLED),
        evaluated("named.seedmask", "--model", own),
        evaluated("full.seedmask", "--model", own),
        evaluated("bare.seedmask", "--model", f"{name}:fixed", "--input", SPELLED),
    }
    assert {right for right, _ in found} == {correct}
    assert len(found) == 1
    other = evaluated("bare.seedmask", "--model", own, "--input", "1x8x8:0.75:0.5")
    assert other not in found, "the normalisation that is given counts"


def test_a_file_that_says_all_needs_no_words(name) -> None:
    from iterand_compress.compress.models import Architecture
    from iterand_compress.compress.models.build import build_model

    model = build_model(Architecture("digits-cnn", 10, 1, 8, width=0.25), seed=0)
    subnet = ic.Subnetwork(model, ic.EdgePopup(sparsity=0.5))
    subnet.pack("m.seedmask", input=GREY, classes=CLASSES, architecture=ic.ModelConfig(name="digits-cnn", width=0.25))
    expected = subnet.to_dense().state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ic.load("m.seedmask").state_dict().items())
    assert evaluated("m.seedmask")[0] == evaluated("m.seedmask", "--model", "digits-cnn")[0]
    succeed("export", "m.seedmask", "--onnx")
    assert ic.OnnxClassifier("m.onnx").classes == tuple(CLASSES)


def test_the_number_of_classes_shows_in_the_shapes(subnet, name) -> None:
    subnet.pack("m.seedmask", input=GREY, architecture=f"{name}:make")
    assert ic.read_seedmask("m.seedmask").manifest.architecture == {
        "name": f"{name}:make",
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 8,
        "width": 1.0,
        "stem": "none",
        "affine": False,
    }


def test_an_architecture_that_the_model_is_not(subnet, name) -> None:
    own = f"{name}:make"
    for settings, message in (
        ({"architecture": own}, f"architecture: {own} is built for what it takes: give input=ImageInput"),
        ({"architecture": f"{name}:fixed", "input": GREY}, "does not show its number of classes: give classes="),
        (
            {"architecture": own, "input": GREY, "classes": ["a", "b"]},
            "not .* for 2 classes: 4.weight: expected the sh",
        ),
        ({"architecture": "conv2", "input": GREY}, "the model is not conv2: .*; leave architecture= out"),
        ({"architecture": "conv3", "input": GREY}, "unknown 'conv3'; did you mean"),
    ):
        with pytest.raises(ConfigError, match=message):
            subnet.pack("m.seedmask", **settings)
    assert not Path("m.seedmask").exists()


def test_what_is_missing_is_named(subnet, name, tmp_path) -> None:
    subnet.pack("bare.seedmask")
    subnet.pack("input.seedmask", input=GREY)
    own = ("--model", f"{name}:make")
    for command in (("eval", "bare.seedmask", "--data", "digits"), ("export", "bare.seedmask", "--onnx")):
        line = fail(2, *command)
        assert "does not say which architecture it is, nor what the network takes: give --model NAME (torch" in line
        assert (
            "and --input 3x32x32:MEAN:STD, or, to export what takes other tensors, --tensor (see export --help); in "
            in line
        )
        assert "in Python load(path, model=module), or pack(…, architecture=NAME" in line
        assert "what the network takes: give --input 3x32x32:MEAN:STD (see --help)" in fail(2, *command, *own)
    line = fail(2, "eval", "input.seedmask", "--data", "digits")
    assert "which architecture it is: give --model NAME" in line
    assert "--input" not in line
    assert "does not say what it was trained on: give --data NAME" in fail(2, "eval", "input.seedmask", *own)
    for text in ("1x8x8", "1x8x8:1", "8:0.5:0.5", "1x8x8:a:b", "1x8x8:0.5:0.5:0.5"):
        assert "expected 3x32x32:MEAN:STD" in fail(2, "export", "bare.seedmask", "--onnx", *own, "--input", text)
    assert "image: std: expected finite and positive" in fail(2, "eval", "bare.seedmask", *own, "--input", "1x8x8:0:0")
    assert "the file says that it takes ImageInput(shape=(1, 8, 8)" in fail(
        2, "export", "input.seedmask", "--onnx", *own, "--input", "1x8x8:0:1"
    )
    succeed("export", "input.seedmask", "--onnx", *own, "--input", SPELLED)
    assert "--input is for .seedmask files" in fail(2, "eval", "input.onnx", "--input", SPELLED)


def test_data_of_other_classes(name) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    ic.Subnetwork(network, ic.EdgePopup(sparsity=0.5)).pack("three.seedmask", input=GREY)
    Path("three.py").write_text(
        "from torch import nn\ndef make(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    line = fail(1, "eval", "three.seedmask", "--model", "three:make", "--data", "digits")
    assert "gives outputs [3] for images of 10 classes of digits" in line


def test_texts(tmp_path, monkeypatch) -> None:
    from iterand_compress.compress.models import TextArchitecture
    from iterand_compress.compress.models.build import build_model

    monkeypatch.chdir(tmp_path)
    model = build_model(TextArchitecture("text-transformer", 4, 12, 50, width=0.25), seed=0)
    subnet = ic.Subnetwork(model, ic.EdgePopup(sparsity=0.5))
    small = ic.ModelConfig(name="text-transformer", width=0.25)
    subnet.pack("m.seedmask", input=ic.TextInput(12, 50), architecture=small)
    assert ic.read_seedmask("m.seedmask").manifest.architecture["num_classes"] == 4
    subnet.pack("bare.seedmask")
    line = fail(1, "export", "bare.seedmask", "--onnx", "--model", "text-transformer", "--input", "12:50:words")
    assert "does not fit the model" in line  # of width 1
