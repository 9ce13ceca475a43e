"""Dead-unit elimination: what must go, what must stay, and that the outputs are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import randomise
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from iterand_compress import ImageInput, export_onnx
from iterand_compress.compress.inputs import TextInput
from iterand_compress.compress.models.architecture import Architecture, TextArchitecture
from iterand_compress.compress.models.build import build_model
from iterand_compress.export.capture import capture, evaluation_copy
from iterand_compress.export.coded import CodedWeight
from iterand_compress.export.forms.dense import write_dense
from iterand_compress.export.graph import Graph
from iterand_compress.export.opsets import ir_version_for
from iterand_compress.export.passes.batchnorm import fold_batch_norms
from iterand_compress.export.passes.cleanup import drop_unused, remove_identities
from iterand_compress.export.passes.constants import drop_zero_biases, fix_reshapes, fold_constants
from iterand_compress.export.passes.shrink import shrink
from iterand_compress.export.report import LayerShrink, ShrinkReport
from iterand_compress.export.session import open_session
from iterand_compress.export.signature import Signature

SIZE = 8


CAPTURED: dict[str, bytes] = {}


def graph_of(model: nn.Module, inputs: torch.Tensor, coded: dict[str, CodedWeight] | None = None) -> Graph:
    """As the exporter makes it; what was captured serves all networks of the same layers."""
    key = f"{model}{inputs.shape[1:]}"
    if key not in CAPTURED:
        sample = inputs[:1].repeat(2, *[1] * (inputs.ndim - 1))
        graph = capture(evaluation_copy(model), Signature.single("input"), [sample], ["logits"])
        CAPTURED[key] = graph.SerializeToString()
    graph = Graph(onnx.load_from_string(CAPTURED[key]))
    for name, value in model.state_dict().items():
        if name in graph.initializers:
            graph.put(name, value.numpy())
    remove_identities(graph)
    parameters = set(graph.initializers)
    fold_constants(graph)
    drop_zero_biases(graph, graph.initializers.keys() - parameters)
    fix_reshapes(graph)
    write_dense(graph, fold_batch_norms(graph), coded or {})
    drop_unused(graph)
    return graph


def run(graph: Graph, inputs: torch.Tensor) -> np.ndarray:
    """What the graph computes, after onnx's full checker has compared all shapes that it declares."""
    drop_unused(graph)
    proto = graph.model()
    proto.ir_version = ir_version_for(graph.opsets[""])
    onnx.checker.check_model(proto, full_check=True)
    return open_session(proto.SerializeToString()).run(None, {"input": inputs.numpy()})[0]


def images(channels: int = 3, count: int = 5, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(3))


def shrunk(model: nn.Module, inputs: torch.Tensor | None = None, *, multiple: int = 1) -> tuple[ShrinkReport, Graph]:
    """Shrink, compare the outputs with PyTorch's and those of the graph before, and find nothing a second time."""
    inputs = images() if inputs is None else inputs
    graph = graph_of(model, inputs)
    before = run(graph, inputs)
    report = shrink(graph, multiple=multiple)
    after = run(graph, inputs)
    scale = max(1, np.abs(before).max())
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * scale)
    with torch.no_grad():
        expected = evaluation_copy(model)(inputs).numpy()
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-4 * scale)
    again = shrink(graph, multiple=multiple)
    assert (again.channels_removed, again.nodes_removed, again.weights_before) == (0, 0, report.weights)
    check(report, graph)
    return report, graph


def check(report: ShrinkReport, graph: Graph) -> None:
    """A report agrees with itself and with the graph."""
    for layer in report.layers:
        assert layer.outputs_before - layer.outputs == layer.constant + layer.unread, layer
        dims = graph.initializers[layer.name].dims if layer.name in graph.initializers else [0]
        assert layer.weights == np.prod(dims), layer
    assert report.channels_removed == report.constant + report.unread


def widths(report: ShrinkReport) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each layer."""
    return {layer.name.removesuffix(".weight"): (layer.inputs, layer.outputs) for layer in report.layers}


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


def layer_of(model: nn.Module, name: str) -> torch.Tensor:
    return model.get_parameter(f"{name}.weight").data


def chain(*, padding: int = 1, bias: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=padding, bias=bias),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=padding, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 7, 3 if padding else 1, padding=padding, bias=bias),
        nn.ReLU(),
        *head(7),
    )


@pytest.mark.slow
def test_nothing_dead() -> None:
    report, _ = shrunk(chain())
    assert widths(report) == {"0": (3, 6), "2": (6, 8), "5": (8, 7), "9": (7, 5)}
    assert (report.channels_removed, report.stuck, report.nodes_removed) == (0, 0, 0)
    assert report.weights == report.weights_before == 6 * 27 + 8 * 54 + 7 * 72 + 35
    assert (report.channels_before, report.constant, report.unread) == (26, 0, 0)


def test_dead_inputs_and_outputs_and_what_follows_from_them() -> None:
    model = chain()
    layer_of(model, "2")[[1, 4]] = 0  # constant
    layer_of(model, "2")[0] = -0.0  # pruned, with the sign of its product
    layer_of(model, "5")[:, 6] = 0  # unread
    layer_of(model, "2")[[2, 3, 5, 7], 2] = 0  # with the ones above, channel 2 is read by channel 6 alone
    report, graph = shrunk(model)
    assert widths(report) == {"0": (3, 5), "2": (5, 4), "5": (4, 7), "9": (7, 5)}
    assert report.layers[1] == LayerShrink("2.weight", 6, 5, 8, 4, 3, 1, 0, 432, 4 * 5 * 9)
    assert (report.layers[0].constant, report.layers[0].unread) == (0, 1)
    assert np.array_equal(graph.array("2.weight"), layer_of(model, "2")[[2, 3, 5, 7]][:, [0, 1, 3, 4, 5]].numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("dead", "left"), [(0, 16), (3, 16), (4, 12), (5, 12), (15, 4)])
def test_convolutions_keep_the_number_of_channels_that_is_fast(dead: int, left: int) -> None:
    """Multiples of 4 stay multiples of 4; what was none is cut to the last dead channel."""
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 18, 3), nn.ReLU(), nn.Conv2d(18, 4, 1), *head(4))
    )
    layer_of(model, "0")[:dead] = 0
    layer_of(model, "4")[:, :3] = 0
    report, _ = shrunk(model, multiple=4)
    assert widths(report)["2"] == (left, 15)
    assert report.layers[0].stuck == left - (16 - dead)


@pytest.mark.slow
def test_a_constant_goes_into_the_bias_where_there_is_no_border() -> None:
    model = chain(padding=0, bias=True)
    layer_of(model, "0")[2] = 0
    model[0].bias.data[2] = 0.7
    report, graph = shrunk(model)
    assert widths(report)["2"] == (5, 8)
    assert report.layers[0].constant == 1
    expected = model[2].bias + 0.7 * layer_of(model, "2")[:, 2].sum((1, 2))
    np.testing.assert_allclose(graph.array("2.bias"), expected.detach().numpy(), rtol=1e-6)


@pytest.mark.slow
def test_a_layer_without_bias_gets_one_for_the_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3, bias=False), *head(4))
    layer_of(model, "0")[2] = 0
    model[0].bias.data[2] = 0.7
    report, graph = shrunk(model)
    assert widths(report)["2"] == (5, 4)
    expected = torch.sigmoid(torch.tensor(0.7)) * layer_of(model, "2")[:, 2].sum((1, 2))
    np.testing.assert_allclose(graph.array("2.bias"), expected.numpy(), rtol=1e-5)


@pytest.mark.slow
def test_a_constant_stays_where_the_border_would_tell() -> None:
    model = chain(bias=True)
    layer_of(model, "0")[[2, 3]] = 0
    model[0].bias.data[[2, 3]] = torch.tensor([0.7, -0.7])  # the second is 0 behind the ReLU
    report, _ = shrunk(model)
    assert widths(report)["2"] == (5, 8)
    assert (report.layers[0].constant, report.layers[0].stuck) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "stays"), [(nn.AvgPool2d(3, 2, 1), 1), (nn.AvgPool2d(2), 0), (nn.MaxPool2d(3, 2, 1), 0)]
)
def test_pooling(pool: nn.Module, stays: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), pool, nn.Conv2d(6, 4, 1), *head(4))
    layer_of(model, "0")[2] = 0
    model[0].bias.data[2] = 0.7
    report, _ = shrunk(model)
    assert widths(report)["0"] == (3, 5 + stays)


@pytest.mark.slow
def test_batch_norm_makes_the_constant() -> None:
    """A pruned channel is its BatchNorm's shift, through the activation."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 4, 3), *head(4)))
    layer_of(model, "0")[[1, 5, 6]] = 0
    report, _ = shrunk(model)
    assert widths(report) == {"0": (3, 6), "3": (6, 4), "6": (4, 5)}


@pytest.mark.slow
def test_batch_norm_that_stayed() -> None:
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.BatchNorm2d(9), nn.PReLU(9), nn.Conv2d(9, 4, 3), *head(4))
    )
    layer_of(model, "0")[[1, 5]] = 0
    layer_of(model, "4")[:, 7] = 0
    report, graph = shrunk(model)
    assert widths(report)["0"] == (3, 6)
    assert graph.initializers["2.running_mean"].dims[:] == [6]
    assert np.array_equal(graph.array("2.weight"), model[2].weight.detach().numpy()[[0, 2, 3, 4, 6, 8]])


class Residual(nn.Module):
    """Stem, two blocks, head; every BatchNorm shifts."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.bn = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.a = nn.ModuleList(nn.Conv2d(channels, channels + 2, 3, padding=1, bias=False) for _ in range(2))
        self.b = nn.ModuleList(nn.Conv2d(channels + 2, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn_a = nn.ModuleList(nn.BatchNorm2d(channels + 2) for _ in range(2))
        self.bn_b = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.stem(x)).relu()
        for a, bn_a, b, bn_b in zip(self.a, self.bn_a, self.b, self.bn_b, strict=True):
            x = (x + bn_b(b(bn_a(a(x)).relu()))).relu()
        return self.fc(x.mean((2, 3)))


def residual(*, shift: float | None) -> Residual:
    """With BatchNorms that shift what was pruned to ``shift``; None: by random numbers."""
    model = randomise(Residual())
    for module in model.modules():
        if shift is not None and isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.bias.data.fill_(shift)
    return model


@pytest.mark.slow
def test_residual_addition_ties_its_channels() -> None:
    model = residual(shift=0)
    for layer in (model.stem, *model.b):
        layer.weight.data[2] = 0  # dead everywhere
    model.stem.weight.data[3] = 0  # these are dead in one place only
    model.b[0].weight.data[4] = 0
    model.b[1].weight.data[5] = 0
    report, _ = shrunk(model)
    assert widths(report) == {"stem": (3, 5), "a.0": (5, 8), "b.0": (8, 5), "a.1": (5, 8), "b.1": (8, 5), "fc": (5, 5)}
    assert (report.constant, report.stuck) == (3, 3)


@pytest.mark.parametrize(("shift", "removed"), [(-0.5, 2), (0.5, 0)])
def test_dead_channels_of_a_residual_net_are_constants(shift: float, removed: int) -> None:
    """Behind the ReLU, a negative one is 0 and goes; a positive one meets padding and stays, with all tied to it."""
    model = residual(shift=shift)
    for layer in (model.stem, *model.b):
        layer.weight.data[[1, 4]] = 0
    report, _ = shrunk(model)
    assert [layer.outputs for layer in report.layers] == [6 - removed, 8, 6 - removed, 8, 6 - removed, 5]
    assert report.stuck == 3 * (2 - removed)


def test_unread_channels_of_a_residual_net() -> None:
    """A channel that reads itself alone, through the blocks, is unread."""
    model = residual(shift=None)
    model.fc.weight.data[:, 3] = 0
    for index in range(2):
        model.a[index].weight.data[1:, 3] = 0  # only a's channel 0 reads it,
        model.b[index].weight.data[[0, 1, 2, 4, 5], 0] = 0  # and only it reads a's channel 0
    report, _ = shrunk(model)
    assert widths(report) == {"stem": (3, 5), "a.0": (5, 7), "b.0": (7, 5), "a.1": (5, 7), "b.1": (7, 5), "fc": (5, 5)}
    assert (report.constant, report.unread) == (0, 5)


@pytest.mark.parametrize(("shift", "removed"), [(0.0, 4), (0.5, 3), (-0.5, 3)])
def test_a_branch_without_weights_is_gone(shift: float, removed: int) -> None:
    """With no shift, the addition goes with it; otherwise what it adds is a constant."""
    model = residual(shift=shift)
    model.b[0].weight.data.zero_()
    report, graph = shrunk(model)
    assert report.nodes_removed == removed, [node.op_type for node in graph.nodes]
    assert (report.layers[1].outputs, report.layers[2].outputs, report.layers[2].weights) == (0, 0, 0)
    assert not {"a.0.weight", "b.0.weight"} & graph.initializers.keys()


class Gated(nn.Module):
    """A map that is constant, times a gate that has no positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(13)
        self.a, self.gate, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.fc = nn.Linear(2 * SIZE * SIZE, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c(self.a(x) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()).flatten(1))


@pytest.mark.slow
def test_a_constant_that_gives_its_shape_stays() -> None:
    model = Gated()
    model.a.weight.data.zero_()
    report, _ = shrunk(model)
    assert widths(report) == {"a": (3, 4), "gate": (3, 4), "c": (4, 2), "fc": (128, 5)}
    assert (report.stuck, report.nodes_removed) == (4, 0)


@pytest.mark.slow
def test_a_bias_that_two_layers_share_is_cut_for_each() -> None:
    torch.manual_seed(14)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), *head(6))
    model[2].bias = model[0].bias
    layer_of(model, "2")[:, 1] = 0
    layer_of(model, "6")[:, [3, 4]] = 0
    report, graph = shrunk(model)
    assert widths(report) == {"0": (3, 5), "2": (5, 4), "6": (4, 5)}
    shapes = [list(graph.initializers[node.input[2]].dims) for node in graph.nodes if node.op_type == "Conv"]
    assert shapes == [[5], [4]]


class Mobile(nn.Module):
    """An inverted residual, with a gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.expand, self.bn1 = nn.Conv2d(3, 10, 1, bias=False), nn.BatchNorm2d(10)
        self.depth, self.bn2 = nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False), nn.BatchNorm2d(10)
        self.twice = nn.Conv2d(10, 20, 3, groups=10)
        self.down, self.up = nn.Conv2d(20, 4, 1), nn.Conv2d(4, 20, 1)
        self.project = nn.Conv2d(20, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.bn1(self.expand(x)))
        x = F.hardswish(self.twice(F.relu6(self.bn2(self.depth(x)))))
        gate = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.fc(self.project(x * gate).mean((2, 3)))


@pytest.mark.slow
def test_depthwise_convolutions_hand_channels_on() -> None:
    model = randomise(Mobile())
    model.bn1.bias.data.fill_(-5)  # behind the ReLU: 0
    model.bn1.running_mean.zero_()
    model.expand.weight.data[[1, 7]] = 0
    model.up.weight.data[[2, 3, 14, 15]] = 0
    for layer in (model.down, model.project):
        layer.weight.data[:, [8, 9, 10]] = 0  # both of channel 4, one of channel 5
    report, graph = shrunk(model)
    found = widths(report)
    assert (found["expand"], found["depth"], found["twice"]) == ((3, 7), (1, 7), (1, 14))
    assert (found["down"], found["up"], found["project"]) == ((14, 4), (4, 14), (14, 6))
    groups = [attribute.i for node in graph.nodes for attribute in node.attribute if attribute.name == "group"]
    assert groups == [1, 7, 7, 1, 1, 1]


def test_depthwise_border() -> None:
    """A constant that is not 0 varies behind a depthwise convolution with padding."""
    model = randomise(Mobile())
    model.bn1.bias.data.fill_(0.5)
    model.bn1.running_mean.zero_()
    model.expand.weight.data[1] = 0
    report, _ = shrunk(model)
    assert (report.channels_removed, report.stuck) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("padding", [0, 1])
def test_flattening(padding: int) -> None:
    places = (3 + padding) ** 2
    torch.manual_seed(5)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(6 * places, 9), nn.ReLU(), nn.Linear(9, 5)),
    )
    layer_of(model, "0")[[0, 4]] = 0
    model[0].bias.data[[0, 4]] = torch.tensor([-1.0, 0.6])  # a linear layer has no border: both go
    layer_of(model, "4")[:, places : 2 * places] = 0
    layer_of(model, "4")[:, 2 * places + 1 : 3 * places] = 0  # one place of channel 2 is read
    layer_of(model, "6")[:, 3] = 0
    report, _ = shrunk(model)
    assert widths(report) == {"0": (3, 3), "4": (3 * places, 8), "6": (8, 5)}
    assert report.layers[0] == LayerShrink("0.weight", 3, 3, 6, 3, 2, 1, 0, 162, 81)


class Joined(nn.Module):
    """Two branches side by side; the input itself beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 1), nn.Conv2d(12, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.c(torch.cat([self.a(x).relu(), x, self.b(x)], 1)).mean((2, 3)))


@pytest.mark.slow
def test_concatenation() -> None:
    model = Joined()
    model.a.weight.data[1] = 0
    model.c.weight.data[:, [0, 5, 8]] = 0  # of a, of the input, of b
    report, graph = shrunk(model)
    assert widths(report) == {"a": (3, 2), "b": (3, 4), "c": (9, 6), "fc": (6, 5)}
    kept = [2, 3, 4, 5, 6, 7, 9, 10, 11]
    assert np.array_equal(graph.array("c.weight"), model.c.weight.detach().numpy()[:, kept])


@pytest.mark.slow
def test_transposed_and_grouped_convolutions() -> None:
    """A transposed convolution is a layer like any other; what is grouped, but not depthwise, is left alone."""
    torch.manual_seed(7)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 8, 3, stride=2), nn.ReLU()),
        *(nn.Conv2d(8, 4, 3, groups=2), nn.ReLU(), *head(4)),
    )
    layer_of(model, "0")[[1, 2]] = 0
    model[0].bias.data[[1, 2]] = torch.tensor([-1.0, 1.0])  # the border shows the second
    layer_of(model, "2")[4] = 0
    layer_of(model, "2")[:, 5] = 0  # dead, but a grouped convolution reads it
    report, _ = shrunk(model)
    assert widths(report) == {"0": (3, 4), "2": (4, 8), "8": (4, 5)}


class Odd(nn.Module):
    """Operators that are not understood, and values that have other readers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.norm, self.fc = nn.GroupNorm(2, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.norm(self.a(x)))
        x = self.c(x).relu() + self.c(x * 0.5).softmax(1)  # one weight, twice
        return self.fc(x.mean((2, 3)))


@pytest.mark.slow
def test_what_is_not_understood_is_left_alone() -> None:
    model = Odd()
    for layer in (model.a, model.b, model.c):
        layer.weight.data[[1, 3]] = 0
        layer.weight.data[:, 2] = 0
    model.fc.weight.data[:, 1] = 0
    report, _ = shrunk(model)
    assert report.channels_removed == 0


@pytest.mark.parametrize("dead", ["first", "middle", "last", "all"])
def test_a_layer_that_is_dead_all_over(dead: str) -> None:
    """Every value keeps a channel."""
    model = chain(bias=True)
    for name in {"first": "0", "middle": "2", "last": "9", "all": "0 2 5 9"}[dead].split():
        layer_of(model, name)[:] = 0
    report, graph = shrunk(model)
    assert all(layer.outputs >= 1 and layer.inputs >= 1 for layer in report.layers)
    assert report.channels_removed > 0
    assert [output.type.tensor_type.shape.dim[1].dim_value for output in graph.outputs] == [5]


def test_coded_weights_stay_coded() -> None:
    model = chain()
    rng = np.random.default_rng(0)
    coded = {}
    for name, scale in {"0": (6, 1, 1, 1), "2": ()}.items():
        codes = rng.integers(-3, 4, layer_of(model, name).shape).astype(np.int8)
        if name == "2":
            codes[[1, 4]] = codes[:, 3] = 0
        coded[f"{name}.weight"] = CodedWeight(codes, rng.uniform(0.5, 1, scale).astype(np.float32))
        layer_of(model, name)[:] = torch.from_numpy(coded[f"{name}.weight"].values())
    graph = graph_of(model, images(), coded)
    before = run(graph, images())
    shrink(graph, multiple=1)
    np.testing.assert_allclose(run(graph, images()), before, atol=1e-5)
    assert graph.coded.keys() == coded.keys()
    first, second = graph.coded["0.weight"], graph.coded["2.weight"]
    kept = [0, 1, 2, 4, 5]
    assert np.array_equal(first.codes, coded["0.weight"].codes[kept])
    assert np.array_equal(first.scale, coded["0.weight"].scale[kept])
    assert np.array_equal(second.codes, coded["2.weight"].codes[[0, 2, 3, 5, 6, 7]][:, kept])
    assert np.array_equal(second.values(), graph.array("2.weight"))


@pytest.mark.slow
def test_text_transformer() -> None:
    torch.manual_seed(9)
    arch = TextArchitecture("text-transformer", 4, length=6, vocabulary=20, width=0.5)
    model = build_model(arch, seed=0)
    model.blocks[0].mlp[0].weight.data[[0, 7]] = 0
    model.blocks[1].mlp[2].weight.data[:, 5] = 0
    model.blocks[0].attention.value.weight.data[3] = 0
    model.blocks[0].attention.out.weight.data[:, 3] = 0
    model.classifier.weight.data[:, 11] = 0
    tokens = torch.randint(0, 20, (5, 6), generator=torch.Generator().manual_seed(0))
    report, _ = shrunk(model, tokens)
    assert {layer.name: (layer.constant, layer.unread) for layer in report.layers if layer.constant + layer.unread} == {
        "blocks.0.mlp.0.weight": (2, 0),
        "blocks.1.mlp.0.weight": (0, 1),
    }
    assert len(report.layers) == 13


@pytest.mark.slow
def test_vision_transformer() -> None:
    torch.manual_seed(10)
    model = torchvision.models.VisionTransformer(16, 8, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    for name in ("0", "1"):
        layer_of(model, f"encoder.layers.encoder_layer_{name}.mlp.3")[:, int(name) : 3] = 0
    layer_of(model, "encoder.layers.encoder_layer_0.mlp.0")[9] = 0  # its bias, through GELU: no bias to put it into
    model.class_token.data.normal_()
    report, _ = shrunk(model, images(size=16))
    assert {layer.name: layer.unread for layer in report.layers if layer.unread} == {
        "encoder.layers.encoder_layer_0.mlp.0.weight": 3,
        "encoder.layers.encoder_layer_1.mlp.0.weight": 2,
    }
    assert (report.constant, report.stuck) == (0, 1)


@pytest.mark.slow
def test_resnet18_at_50_percent_has_nothing_dead() -> None:
    torch.manual_seed(11)
    model = build_model(Architecture("resnet18", 10, 3, 16, 0.25, "cifar"), seed=0)
    for parameter in model.parameters():
        parameter.data *= torch.rand(parameter.shape) < 0.5
    report, _ = shrunk(randomise(model), images(size=16))
    assert (report.channels_removed, report.stuck, report.nodes_removed, len(report.layers)) == (0, 0, 0, 22)
    assert report.weights == report.weights_before == 708_288


@pytest.mark.slow
def test_mobilenet() -> None:
    """A large network of many operators: the outputs stay."""
    torch.manual_seed(12)
    model = torchvision.models.mobilenet_v3_small(num_classes=10)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            dead = torch.rand(len(module.weight)) < 0.2
            module.weight.data[dead] = 0
            if module.bias is not None:
                module.bias.data[dead] = 0
        elif isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-1, 0.2)
    report, _ = shrunk(model, images(count=2, size=32))
    assert report.channels_removed > 0.05 * report.channels_before


CHAIN = [("0", 3, 6), ("2", 6, 8), ("5", 8, 7), ("9", 7, 5)]
BASES: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "biases": lambda: chain(bias=True),
    "no padding": lambda: chain(padding=0, bias=True),
    "residual": lambda: residual(shift=None),
    "residual, no shift": lambda: residual(shift=0),
    "mobile": lambda: randomise(Mobile()),
    "joined": Joined,
}


@pytest.fixture(scope="module")
def bases() -> dict[str, bytes]:
    """Each network captured once; masks are put into the graph."""
    return {name: graph_of(build(), images()).model().SerializeToString() for name, build in BASES.items()}


def masked(base: bytes, sparsity: float, seed: int) -> Graph:
    """A graph whose weights are pruned at random, and a third of whose biases are 0."""
    graph, rng = Graph(onnx.load_from_string(base)), np.random.default_rng(seed)
    for name in list(graph.initializers):
        array = graph.array(name)
        if name.endswith((".weight", ".bias")):
            pruned = sparsity if name.endswith(".weight") else 1 / 3
            graph.put(name, np.where(rng.random(array.shape) < pruned, np.copysign(0, array), array))
    return graph


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(BASES)), sparsity=st.floats(0.8, 0.99), seed=st.integers(0, 2**32))
def test_outputs_stay(bases: dict[str, bytes], name: str, sparsity: float, seed: int) -> None:
    graph = masked(bases[name], sparsity, seed)
    before = run(graph, images())
    report = shrink(graph)
    check(report, graph)
    np.testing.assert_allclose(run(graph, images()), before, rtol=0, atol=1e-5 * max(1, np.abs(before).max()))
    assert shrink(graph).channels_removed == 0


def alive(graph: Graph) -> list[int]:
    """Channels of each layer of the chain on a path of weights from the input to the output, searched one by one."""
    weights = [np.abs(graph.array(f"{name}.weight")) for name, *_ in CHAIN]
    used = [weight.reshape(*weight.shape[:2], -1).sum(2) > 0 for weight in weights]
    ahead = [{0, 1, 2}]
    for matrix in used:
        ahead.append({o for o in range(len(matrix)) if any(matrix[o, i] for i in ahead[-1])})
    back = [set(range(5))]
    for matrix in reversed(used):
        back.insert(0, {i for i in range(matrix.shape[1]) if any(matrix[o, i] for o in back[0])})
    return [len(one & other) for one, other in zip(ahead[1:-1], back[1:-1], strict=True)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sparsity=st.floats(0.8, 0.99), seed=st.integers(0, 2**32))
def test_a_chain_keeps_what_lies_on_a_path(bases: dict[str, bytes], sparsity: float, seed: int) -> None:
    graph = masked(bases["chain"], sparsity, seed)
    expected = alive(graph)
    report = shrink(graph, multiple=1)
    if all(expected):
        assert [layer.outputs for layer in report.layers] == [*expected, 5]
    else:  # nothing gets through, and every value keeps a channel
        assert np.ptp(run(graph, images()), axis=0).max() == 0


@pytest.mark.slow
def test_export_says_what_it_found(tmp_path: Path) -> None:
    model = chain()
    layer_of(model, "2")[[1, 4, 5, 7]] = 0
    given_images = {"input": ImageInput((3, SIZE, SIZE), [0.5] * 3, [0.2] * 3)}
    plain = export_onnx(model, tmp_path / "plain.onnx", **given_images)
    small = export_onnx(model, tmp_path / "small.onnx", shrink=True, **given_images)
    assert plain.shrink is None
    assert small.shrink is not None
    assert (small.shrink.channels_removed, small.shrink.weights_before - small.shrink.weights) == (4, 4 * 54 + 4 * 63)
    assert plain.file_bytes - small.file_bytes >= 4 * 468
    tensors = {t.name: numpy_helper.to_array(t).shape for t in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert (tensors["2.weight"], tensors["5.weight"]) == ((4, 6, 3, 3), (7, 4, 3, 3))


@pytest.mark.slow
def test_export_of_texts(tmp_path: Path) -> None:
    model = build_model(TextArchitecture("text-transformer", 4, length=6, vocabulary=20, width=0.25), seed=0)
    model.blocks[0].mlp[0].weight.data[0] = 0
    report = export_onnx(model, tmp_path / "net.onnx", input=TextInput(6, 20), shrink=True)
    assert report.shrink is not None
    assert report.shrink.channels_removed == 1
