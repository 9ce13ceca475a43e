"""Graphs that other tools take: constant weights, and no operators that they lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from iterand_compress import ImageInput, IteRand, Subnetwork, export_onnx, verify_onnx

pytestmark = pytest.mark.slow
IMAGE = ImageInput((3, 8, 8), mean=0.5, std=0.25)


class Tokens(nn.Module):
    """Attention, a Linear over three dimensions that is used twice, a tied table, and splits."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, stride=2)
        self.table = nn.Embedding(12, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.wide = nn.Linear(16, 48)
        self.mix = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # [batch, 16, 16]
        x = x + self.table((x[..., 0].abs() * 8).long().clamp(max=11))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        first, second, third = self.wide(x).chunk(3, -1)
        narrow, rest = torch.split(first, [6, 10], -1)
        x = self.mix(torch.relu(self.mix(torch.cat([rest, narrow], -1) + second * third)))
        x = x + x.unbind(1)[3].unsqueeze(1)
        return nn.functional.linear(x, self.table.weight).mean(1)


def tokens() -> nn.Module:
    torch.manual_seed(0)
    return Subnetwork(Tokens(), IteRand(0.5, every=1, rate=0.2, distribution="uniform", seed=3)).model.eval()


@pytest.mark.parametrize("form", ["dense", "packed", "int8", "seeded"])
def test_weights_are_not_behind_a_transpose_and_operators_are_common_ones(form: str, tmp_path: Path) -> None:
    report = export_onnx(tokens(), tmp_path / "net.onnx", input=IMAGE, form=form)
    model = onnx.load(tmp_path / "net.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"CastLike", "SplitToSequence", "SequenceAt"}
    assert {"Split", "MatMul"} <= operators
    assert not [node for node in model.graph.node for setting in node.attribute if setting.name == "allowzero"]
    turned = {node.input[0] for node in model.graph.node if node.op_type == "Transpose"}
    # The table is looked up and multiplied with, so it is the one weight that keeps its Transpose.
    weights = {name for name in turned if name.endswith("weight")}
    assert weights == {"table.weight"}
    assert report.argmax_agreement == 1
    verify_onnx(tmp_path / "net.onnx")


def test_a_transposed_weight_holds_the_parameter_the_other_way_round(tmp_path: Path) -> None:
    model = tokens()
    export_onnx(model, tmp_path / "net.onnx", input=IMAGE)
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer
    }
    for name in ("wide", "mix"):
        weight = model.get_submodule(name).weight.detach().numpy()
        np.testing.assert_array_equal(stored[f"{name}.weight"], weight.T)


def test_dynamic_quantisation_finds_the_linear_weights(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    export_onnx(tokens(), tmp_path / "net.onnx", input=IMAGE)
    quantize_dynamic(tmp_path / "net.onnx", tmp_path / "small.onnx", op_types_to_quantize=["MatMul"])
    stored = {tensor.name for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert {f"{name}_quantized" for name in ("wide.weight", "mix.weight", "attention.in_proj_weight")} <= stored
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    assert np.isfinite(session.run(None, {"pixels": np.zeros((2, 3, 8, 8), np.float32)})[0]).all()
