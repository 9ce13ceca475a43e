"""The float16 form: half the bytes, checked against PyTorch with a tolerance of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from iterand_compress import ImageInput, IteRand, OnnxClassifier, Subnetwork, export_onnx, verify_onnx
from iterand_compress.compress.errors import ExportError
from iterand_compress.export.export_options import FLOAT16

pytestmark = pytest.mark.slow
IMAGE = ImageInput((3, 16, 16), mean=0.5, std=0.25)


class Mixed(nn.Module):
    """Convolutions with BatchNorm, attention over their pixels, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(x).mean(1)


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Subnetwork(Mixed(), IteRand(0.5, every=1, rate=0.2, distribution="uniform", seed=3)).model.eval()


def test_weights_are_rounded_to_half_the_bytes_and_outputs_stay_close(tmp_path: Path) -> None:
    model = mixed()
    dense = export_onnx(model, tmp_path / "dense.onnx", input=IMAGE)
    half = export_onnx(model, tmp_path / "half.onnx", input=IMAGE, form=FLOAT16)
    assert half.file_bytes < 0.65 * dense.file_bytes  # a small network: the graph itself is the rest
    stored = {tensor.name: tensor for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer}
    exact = {tensor.name: tensor for tensor in onnx.load(tmp_path / "dense.onnx").graph.initializer}
    weights = [name for name, tensor in exact.items() if name.endswith("weight") and len(tensor.dims) > 1]
    assert len(weights) == 5
    for name in weights:
        assert stored[name].data_type == TensorProto.FLOAT16
        rounded = numpy_helper.to_array(exact[name]).astype(np.float16)
        np.testing.assert_array_equal(numpy_helper.to_array(stored[name]), rounded)
    images = np.random.default_rng(0).random((8, 3, 16, 16), np.float32)
    outputs = [
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"pixels": images})[0]
        for name in ("dense", "half")
    ]
    assert outputs[1].dtype == np.float32
    assert 0 < np.abs(outputs[1] - outputs[0]).max() < 1e-2 * (outputs[0].max() - outputs[0].min())
    assert verify_onnx(tmp_path / "half.onnx").form == FLOAT16
    assert OnnxClassifier(tmp_path / "half.onnx").outputs(images).dtype == np.float32


def test_a_changed_float16_weight_is_found(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    export_onnx(mixed(), path, input=IMAGE, form=FLOAT16)
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.0.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.flatnonzero(values)[0]] *= -1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"weight 'head.0.weight': expected values with SHA-256"):
        verify_onnx(path)


def test_plain_modules_and_values_beyond_float16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10)).eval()
    report = export_onnx(net, tmp_path / "plain.onnx", input=IMAGE, form=FLOAT16)
    assert report.form == FLOAT16
    with torch.no_grad():
        net[1].weight[0, 0] = 1e6
    with pytest.raises(ExportError, match="onnxruntime and PyTorch differ"):
        export_onnx(net, tmp_path / "large.onnx", input=IMAGE, form=FLOAT16)
    assert not (tmp_path / "large.onnx").exists()


def test_small_files_say_which_form_would_be_smaller(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 144, 4))
    model = Subnetwork(net, IteRand(0.5, every=1, rate=0.2, distribution="uniform", seed=3)).model.eval()
    report = export_onnx(model, tmp_path / "net.onnx", input=IMAGE, form="packed", shrink=True)
    assert set(report.form_bytes) == {"dense", "packed", "int8"}
    for form, size in report.form_bytes.items():
        written = export_onnx(model, tmp_path / f"{form}.onnx", input=IMAGE, form=form)
        assert written.file_bytes == (tmp_path / f"{form}.onnx").stat().st_size
        assert abs(written.file_bytes - size) < 32  # nothing was shrunk, only names differ
        if form == "packed":
            assert report.unshrunk_bytes is not None
            assert abs(report.unshrunk_bytes - written.file_bytes) < 32
    smallest = export_onnx(model, tmp_path / "auto.onnx", input=IMAGE, form="auto")
    assert smallest.file_bytes == min(smallest.form_bytes.values()) == (tmp_path / "auto.onnx").stat().st_size
