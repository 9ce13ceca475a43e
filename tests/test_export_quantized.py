"""``int8 --keep-quantized``: weights stay bytes in memory, and outputs are right wherever a layer stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import randomise, settings
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from iterand_compress import ImageInput, export_onnx, load, load_session, verify_onnx
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.mask.prune_at_init import find_masks
from iterand_compress.compress.pack import network_of
from iterand_compress.compress.seedmask import dumps, read_seedmask

IMAGE = {"input": ImageInput((1, 6, 8), [0.4], [0.2])}
FORMS = {
    "packed": {"form": "packed"},
    "int8": {"form": "int8"},
    "seeded": {"form": "seeded"},
    "kept": {"form": "int8", "keep_quantized": True},
}
pytestmark = pytest.mark.usefixtures("captured_once")


class Net(nn.Module):
    """Layers by name, and what they compute of images ``[batch, 1, 6, 8]``."""

    def __init__(self, compute: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def attention(net: Net, x: Tensor) -> Tensor:
    """One head, whose projections share a weight."""
    query, key, value = (linear(x.squeeze(1), part) for part in net.a.weight.chunk(3))
    return net.b((torch.softmax(query @ key.transpose(1, 2), -1) @ value).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mean": lambda: Net(
        lambda net, x: net.b(relu(net.a(x.squeeze(1))).mean(1)), a=nn.Linear(8, 16), b=nn.Linear(16, 4)
    ),
    "three dimensions": lambda: Net(
        lambda net, x: net.b(relu(net.a(x.squeeze(1)))).mean(1), a=nn.Linear(8, 32), b=nn.Linear(32, 64, bias=False)
    ),
    "four dimensions": lambda: Net(
        lambda net, x: net.b(relu(net.a(x))).mean((1, 2)), a=nn.Linear(8, 16, bias=False), b=nn.Linear(16, 4)
    ),
    "a weight used twice": lambda: Net(
        lambda net, x: net.b(relu(net.a(relu(net.a(x.squeeze(1))).mean(1)))), a=nn.Linear(8, 8), b=nn.Linear(8, 4)
    ),
    "one row": lambda: Net(
        lambda net, x: net.b(relu(net.a(x.squeeze(1))).squeeze(2)), a=nn.Linear(8, 1), b=nn.Linear(6, 4)
    ),
    "embedding": lambda: Net(
        lambda net, x: net.b(net.a((x[:, 0, 0].abs() * 5).long())).mean(1), a=nn.Embedding(16, 8), b=nn.Linear(8, 4)
    ),
    "tied": lambda: Net(lambda net, x: linear(x.squeeze(1), net.a.weight).mean(1), a=nn.Embedding(16, 8)),
    "attention": lambda: Net(attention, a=nn.Linear(8, 24), b=nn.Linear(8, 4)),
    "a view": lambda: Net(
        lambda net, x: (x.squeeze(1) @ net.a.weight.view(8, 32)).mean(1), a=nn.Linear(16, 16, bias=False)
    ),
    "patches": lambda: Net(
        lambda net, x: net.b(net.a(x).flatten(2).transpose(1, 2)).mean(1),
        a=nn.Conv2d(1, 16, 2, stride=2),
        b=nn.Linear(16, 4),
    ),
    "a scale along two axes": lambda: Net(
        lambda net, x: net.b(relu(net.n(net.c(relu(net.a(x))))).mean((2, 3))),
        a=nn.Conv2d(1, 8, 3),
        c=nn.ConvTranspose2d(8, 4, 2, groups=2),
        n=nn.BatchNorm2d(4),
        b=nn.Linear(4, 4),
    ),
    "one-dimensional convolutions": lambda: Net(
        lambda net, x: net.b(net.c(relu(net.a(x.squeeze(1))))).mean(2),
        a=nn.Conv1d(6, 16, 3),
        c=nn.ConvTranspose1d(16, 8, 2),
        b=nn.Conv1d(8, 4, 3, groups=2),
    ),
}


def searched(name: str, distribution: str) -> nn.Module:
    torch.manual_seed(1)
    config = settings(method="edge-popup", sparsity=0.5, seed=3, distribution=distribution)
    return mask_model(randomise(NETWORKS[name]()), config).eval()


def outputs(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    return session.run(None, {"pixels": pixels})[0]


def stock(path: Path) -> onnxruntime.InferenceSession:
    """A session with the options that users have by default."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def assert_right(model: nn.Module, path: Path, tolerance: float) -> None:
    """Whether a file computes what PyTorch does, in both kinds of session."""
    for batch in (1, 2, 5):
        pixels = torch.rand(batch, 1, 6, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            wanted = model((pixels - 0.4) / 0.2).numpy()
        for session in (stock(path), load_session(path)):
            found = outputs(session, pixels.numpy())
            assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "distribution"), [("mean", "signed-constant"), *((name, "uniform") for name in NETWORKS)]
)
def test_layers_of_any_number_of_dimensions(name: str, distribution: str, tmp_path: Path) -> None:
    model = searched(name, distribution)
    export_onnx(model, tmp_path / "dense.onnx", **IMAGE)
    pixels = np.random.default_rng(0).random((3, 1, 6, 8), np.float32)
    dense = outputs(stock(tmp_path / "dense.onnx"), pixels)
    for form, options in FORMS.items():
        path = tmp_path / f"{form}.onnx"
        export_onnx(model, path, **options, **IMAGE)
        assert_right(model, path, 2e-6)
        assert form == "kept" or outputs(stock(path), pixels).tobytes() == dense.tobytes(), form
        verify_onnx(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_values_that_were_trained_as_bytes(name: str, tmp_path: Path) -> None:
    """Their scale has a value for each row."""
    torch.manual_seed(1)
    config = settings(method="random", sparsity=0.5, seed=3)
    model = mask_model(randomise(NETWORKS[name]()), config)
    find_masks(model, config)
    path = tmp_path / "net.seedmask"
    path.write_bytes(dumps(network_of(model.state_dict(), with_weights="int8")))
    plain = load(path, NETWORKS[name]())
    for options in ({"form": "int8"}, {"form": "int8", "keep_quantized": True}):
        export_onnx(plain, tmp_path / "net.onnx", weights=read_seedmask(path), **options, **IMAGE)
        assert_right(plain, tmp_path / "net.onnx", 2e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_layers_that_no_runtime_fuses_read_a_scaled_weight(name: str, tmp_path: Path) -> None:
    """Also where the installed onnxruntime would be right.

    Before 1.28 it makes uint8 of codes whose DequantizeLinear a Transpose or Reshape follows, and from 1.25 on it
    rounds the activations of a MatMul that follows one.
    """
    export_onnx(searched(name, "uniform"), tmp_path / "a.onnx", form="int8", keep_quantized=True, **IMAGE)
    graph = onnx.load(tmp_path / "a.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    expanded = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert expanded
    for node in expanded:
        readers = [other for other in graph.node if node.output[0] in other.input]
        assert {reader.op_type for reader in readers} <= {"Conv", "ConvTranspose", "Gemm", "Mul"}
        assert tensors[node.input[0]].dtype == np.int8
        if any(reader.op_type == "Mul" for reader in readers):
            assert tensors[node.input[1]] == 1


def test_quantised_weights_stay_bytes(tmp_path: Path) -> None:
    """What onnxruntime makes of the file has no masked weight in floating point."""
    for name in NETWORKS:
        export_onnx(searched(name, "uniform"), tmp_path / "a.onnx", form="int8", keep_quantized=True, **IMAGE)
        masked = {tensor.name for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer if tensor.data_type == 3}
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 4
        onnxruntime.InferenceSession(tmp_path / "a.onnx", options)
        kept = onnx.load(tmp_path / "optimised.onnx").graph
        types = {tensor.name: tensor.data_type for tensor in kept.initializer}
        read = [node.input[0] for node in kept.node if node.op_type == "DequantizeLinear"]
        assert {types[codes] for codes in read} == {TensorProto.INT8}
        assert len(set(read)) == len(masked)
