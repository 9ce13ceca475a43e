"""Folding BatchNorm: where it is legal, where it is not, and that the values stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from networks import randomise
from onnx import numpy_helper
from torch import nn

from iterand_compress import ImageInput, export_onnx

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def export(model: nn.Module, path: Path, size: int = 8) -> Counter[str]:
    report = export_onnx(randomise(model), path, input=ImageInput((3, size, size), MEAN, STD))
    assert report.argmax_agreement == 1
    return operators(path)


def head(channels: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(6, affine=False)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.bn2 = nn.BatchNorm2d(6, affine=False)
        self.head = nn.Conv2d(6, 5, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn0(self.stem(x)).relu()
        x = (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)


class SharedOutput(nn.Module):
    """The convolution's output is needed as it is, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.tail = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(*head(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.tail(x.sigmoid() + self.bn(x))


class SharedConvolution(nn.Module):
    """One convolution, used twice with a BatchNorm of its own each time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.tail = nn.Sequential(*head(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.b(self.conv(self.a(self.conv(x)).relu())))


class Product(nn.Module):
    """``x @ w`` instead of a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.bn = nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x.mean((2, 3)) @ self.weight)


class Sequence(nn.Module):
    """A product with three dimensions: the BatchNorm's channels are the rows, not the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 24))
        self.bn, self.last = nn.BatchNorm1d(24), nn.Linear(576, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.bn(x.flatten(1, 2) @ self.weight).flatten(1))


class Joined(nn.Module):
    """A concatenation of one tensor, which the exporter writes as Identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.tail = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(*head(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.bn(torch.cat([self.conv(x)], 1)))


def conv_bn(**kwargs: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, **kwargs), nn.BatchNorm2d(6), *head(6))  # type: ignore[arg-type]


FOLDED = {
    "bias": lambda: conv_bn(),
    "no bias": lambda: conv_bn(bias=False),
    "grouped": lambda: conv_bn(groups=3, bias=False),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6), *head(6)),
    "transposed, grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.ConvTranspose2d(6, 9, (2, 3), groups=3, bias=False, stride=2),
        nn.BatchNorm2d(9),
        *head(9),
    ),
    "residual": Residual,
    "linear": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 16, bias=False),
        nn.BatchNorm1d(16, affine=False),
        nn.ReLU(),
        nn.Linear(16, 5),
    ),
    "product": Product,
    "dropout between": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity(), nn.BatchNorm2d(4), *head(4)
    ),
    "identity between": Joined,
    "two in a row": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), *head(4)),
    "last": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)),
}
KEPT = {
    "before": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), *head(4)), 1),
    "after relu": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), *head(4)), 1),
    "shared output": (SharedOutput, 1),
    "shared convolution": (SharedConvolution, 2),
    "three dimensions": (Sequence, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDED)
def test_folded(name: str, tmp_path: Path) -> None:
    count = export(FOLDED[name](), tmp_path / "net.onnx")
    assert count["BatchNormalization"] == 0
    layers = ("Conv", "ConvTranspose", "Gemm", "Relu", "Add", "ReduceMean", "Reshape", "Sub", "Div")
    assert set(count) <= {*layers, "GlobalAveragePool", "Flatten"}, "the graph holds nothing but layers"


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_kept_where_folding_would_be_wrong(name: str, tmp_path: Path) -> None:
    build, number = KEPT[name]
    assert export(build(), tmp_path / "net.onnx")["BatchNormalization"] == number


@pytest.mark.slow
def test_names_and_values_are_those_of_the_definition(tmp_path: Path) -> None:
    model = randomise(Residual()).eval()
    export_onnx(model, tmp_path / "net.onnx", input=ImageInput((3, 8, 8), MEAN, STD))
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert {name for name in tensors if not name.startswith("val_")} == {
        *(
            "stem.weight",
            "stem.bias",
            "conv1.weight",
            "conv1.bias",
            "conv2.weight",
            "conv2.bias",
            "head.weight",
        ),
        *("normalize.mean", "normalize.std", "logits.shape"),
    }
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    epsilon = float(np.float32(1e-5))
    factor = state["bn1.weight"] / np.sqrt(state["bn1.running_var"] + epsilon)
    weight = (state["conv1.weight"] * factor[:, None, None, None]).astype(np.float32)
    bias = (state["bn1.bias"] - state["bn1.running_mean"] * factor).astype(np.float32)
    assert np.array_equal(tensors["conv1.weight"], weight)
    assert np.array_equal(tensors["conv1.bias"], bias)
    assert np.array_equal(tensors["head.weight"], state["head.weight"].astype(np.float32)), "no BatchNorm: same bits"


@pytest.mark.slow
def test_a_bias_that_two_layers_share_is_not_overwritten(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), *head(3))
    model[2].bias = model[0].bias
    count = export(model, tmp_path / "net.onnx")
    assert count["BatchNormalization"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "convolutions"), [("resnet18", 20), ("mobilenet_v3_small", 52)])
def test_torchvision(name: str, convolutions: int, tmp_path: Path) -> None:
    count = export(torchvision.models.get_model(name, weights=None, num_classes=10), tmp_path / "net.onnx", size=64)
    assert (count["Conv"], count["BatchNormalization"], count["Shape"]) == (convolutions, 0, 0)
