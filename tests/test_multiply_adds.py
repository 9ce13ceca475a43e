"""Multiply-adds: against the published counts, counts by hand, and one way of counting against the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import succeed
from iterand_compress import ImageInput, TextInput
from iterand_compress.compress.analysis.flops import count_multiply_adds
from iterand_compress.compress.config import ModelConfig
from iterand_compress.compress.models import resolve
from iterand_compress.compress.models.architecture import FAMILIES
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.models.multiply_adds import multiply_adds


def counted(name: str, takes: ImageInput | TextInput, share: float = 1.0, **config) -> tuple[tuple[int, int], ...]:
    """All and kept multiply-adds, counted by running the network and from shapes; ``share`` of each tensor is kept."""
    architecture = resolve(ModelConfig(name=name, **config), num_classes=7, input=takes)
    model = build_model(architecture, seed=0, device="meta")
    weights = {key: value.numel() for key, value in model.state_dict().items() if value.dim() >= 2}
    kept = {key: int(share * count) for key, count in weights.items()}
    by_shape = multiply_adds(architecture, {key: tuple(value.shape) for key, value in model.state_dict().items()})
    by_run = count_multiply_adds(model, takes, {key: (weights[key], kept[key]) for key in weights})
    return by_run, (by_shape.total(weights), by_shape.total(kept))


@pytest.mark.parametrize("side", [96, 33])
@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [
        (name, value)
        for name, family in FAMILIES.items()
        for value in ((None, True) if family.chooses_batch_norm else (None,))
    ],
)
def test_both_ways_count_the_same(name, batch_norm, side):
    by_run, by_shape = counted(name, ImageInput((3, side, side), 0, 1), 0.5, width=0.5, batch_norm=batch_norm)
    assert by_run == by_shape
    assert by_run[1] == pytest.approx(by_run[0] / 2, rel=0.01)


def test_both_ways_count_the_same_of_texts():
    takes = TextInput(length=28, vocabulary=512)
    by_run, by_shape = counted("text-transformer", takes, 0.25)
    assert by_run == by_shape
    width, blocks = 128, 2
    attention = blocks * 2 * 28 * 28 * width
    linear = blocks * 28 * (4 * width * width + 2 * width * 2 * width) + width * 7
    assert by_run == (attention + linear, attention + linear // 4)


@pytest.mark.parametrize(
    ("name", "side", "published"), [("resnet18", 224, 1.81e9), ("resnet50", 224, 4.09e9), ("resnet20", 32, 41e6)]
)
def test_published_counts(name, side, published):
    """From torchvision's tables of its ResNets for ImageNet, and the widely cited number for ResNet-20."""
    assert counted(name, ImageInput((3, side, side), 0, 1))[0][0] == pytest.approx(published, rel=0.01)


def test_by_hand():
    pixels, pooled = 16 * 16, 8 * 8
    convolutions = 9 * (3 * 64 + 64 * 64) * pixels
    linear = pooled * 64 * 256 + 256 * 256 + 256 * 7
    assert counted("conv2", ImageInput((3, 16, 16), 0, 1))[1][0] == convolutions + linear


class Shared(nn.Module):
    """A module whose inner module's tensors are used by itself, one that runs twice, and one that has no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = x.flatten(1, 2).transpose(1, 2)
        x, _ = self.attention(x, x, x)
        return self.head(self.twice(self.twice(x)).mean(1))


def test_modules_of_others():
    """On [B, 5, 8]: 5·8·24 in, 5·8·8 out, 2·5·5·8 between activations, twice 5·8·8, and 8·3."""
    with torch.device("meta"):
        model = Shared()
    sizes = {"attention.in_proj_weight": (192, 48), "attention.out_proj.weight": (64, 16), "twice.weight": (64, 16)}
    total, kept = count_multiply_adds(model, ImageInput((8, 1, 5), 0, 1), sizes)
    masked = 5 * 8 * 24 + 5 * 8 * 8 + 2 * 5 * 8 * 8
    assert total == masked + 2 * 5 * 5 * 8 + 24
    assert kept == masked // 4 + 2 * 5 * 5 * 8 + 24
    assert model.training


def test_other_models_are_not_counted_from_shapes():
    takes = ImageInput((3, 32, 32), 0, 1)
    architecture = resolve(ModelConfig(name="torchvision:resnet18"), num_classes=7, input=takes)
    assert multiply_adds(architecture, {"conv1.weight": (64, 3, 7, 7)}) is None


def test_estimate_and_inspect(digits):
    shown = json.loads(succeed("inspect", digits.seedmask, "--json"))
    totals = shown["totals"]
    convolutions = {row["name"]: row for row in shown["layers"]}
    sides = {"features.0.weight": 8, "features.3.weight": 8, "features.7.weight": 4, "classifier.weight": 1}
    assert sides.keys() == convolutions.keys()
    for key, count in (("multiply_adds", "weights"), ("kept_multiply_adds", "kept")):
        assert totals[key] == sum(side**2 * convolutions[name][count] for name, side in sides.items())
    line = f"multiply-adds for one image: {totals['multiply_adds']:,} dense, {totals['kept_multiply_adds']:,} with kept"
    assert line in succeed("inspect", digits.seedmask)
    options = ("--model", "digits-cnn", "--sparsity", 0.5, "--width", 0.5, "--channels", 1, "--image-size", 8)
    estimated = json.loads(succeed("estimate", *options, "--json"))["totals"]
    assert estimated["multiply_adds"] == totals["multiply_adds"]
    assert estimated["kept_multiply_adds"] == pytest.approx(totals["kept_multiply_adds"], rel=1e-3)
    assert line in succeed("estimate", *options)


def test_a_network_that_does_not_run_has_an_estimate_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "two_inputs.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x, mask):\n"
        "        return super().forward(x) * mask\n"
        "def build(num_classes):\n"
        "    return Net(12, num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ("--model", "two_inputs:build", "--sparsity", 0.5, "--image-size", 2)
    totals = json.loads(succeed("estimate", *options, "--json"))["totals"]
    assert (totals["weights"], totals["multiply_adds"], totals["kept_multiply_adds"]) == (120, None, None)
    assert succeed("estimate", *options).endswith(
        "multiply-adds: not counted, because the network does not run on one image here\n"
    )


def test_a_file_without_an_architecture_has_no_count():
    path = Path(__file__).parent / "golden" / "v1-none.seedmask"
    totals = json.loads(succeed("inspect", path, "--json"))["totals"]
    assert (totals["multiply_adds"], totals["kept_multiply_adds"]) == (None, None)
    assert "multiply-adds" not in succeed("inspect", path)


@pytest.mark.processes
def test_inspect_counts_without_torch(digits):
    code = (
        "import sys; from iterand_compress.cli.app import cli\n"
        f"try: cli(['inspect', {str(digits.seedmask)!r}])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "multiply-adds for one image" in done.stdout
    assert done.returncode == 0
