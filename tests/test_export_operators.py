"""Packed files use only operators that every runtime computes alike."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import settings
from onnx.reference import ReferenceEvaluator
from torch import nn

from iterand_compress import ImageInput, export_onnx
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.export.runtime.records import digest_of, records_of

CONFIGS = {
    "digits of base 3": settings(method="edge-popup", distribution="signed-constant", sparsity=0.5),
    "bits and bytes": settings(method="edge-popup", distribution="uniform", sparsity=0.5),
    "gaps": settings(method="edge-popup", distribution="signed-constant", sparsity=0.95),
    "fields of 2 and 4 bits": settings(
        method="edge-popup", distribution="signed-constant", sparsity=0.3, multiplicity=5
    ),
}


def exported(name: str, folder: Path) -> onnx.ModelProto:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 40))
    mask_model(net, CONFIGS[name])
    path = folder / "net.onnx"
    export_onnx(net, path, input=ImageInput((1, 8, 8), [0.5], [0.5]), form="packed", runtime="openvino")
    return onnx.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_bytes_are_not_shifted_as_openvino_rounds_what_falls_out(name, tmp_path):
    """OpenVINO 2026.4 computes 217 >> 4 as 14."""
    model = exported(name, tmp_path)
    operators = {node.op_type for node in model.graph.node}
    assert not model.functions
    assert {"Gather", "Mul"} <= operators  # packed, not dense
    assert "BitShift" not in operators


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_implementation_expands_the_recorded_weights(name, tmp_path):
    """An implementation of the operators that is not onnxruntime's gives the same bits."""
    model = exported(name, tmp_path)
    records = records_of(model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=record.name) for record in records)
    found = ReferenceEvaluator(model).run(None, {"pixels": np.zeros((1, 1, 8, 8), np.float32)})
    assert [digest_of(value) for value in found] == [record.sha256 for record in records]
