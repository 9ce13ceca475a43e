"""Packed files use only operators that every runtime computes alike."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import settings
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
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


class GatherElements(OpRun):
    """The operator by NumPy: that of onnx's reference implementation takes 64 rows at most."""

    op_domain = ""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_bit_falls_out_of_a_shift_as_openvino_rounds(name, tmp_path):
    """OpenVINO 2026.4 computes 217 >> 4 as 14."""
    model = exported(name, tmp_path)
    assert not model.functions
    assert {"GatherElements", "Gather"} & {node.op_type for node in model.graph.node}  # packed, not dense
    made_by = {output: node for node in model.graph.node for output in node.output}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    for node in model.graph.node:
        if node.op_type == "BitShift" and node.attribute[0].s == b"RIGHT":
            masking = made_by[node.input[0]]
            assert masking.op_type == "BitwiseAnd", node.name
            mask = values[masking.input[1]]
            lost = np.left_shift(1, values[node.input[1]].astype(np.int64)) - 1
            assert not (mask.astype(np.int64) & lost).any(), node.name


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_implementation_expands_the_recorded_weights(name, tmp_path):
    """An implementation of the operators that is not onnxruntime's gives the same bits."""
    model = exported(name, tmp_path)
    records = records_of(model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=record.name) for record in records)
    evaluator = ReferenceEvaluator(model, new_ops=[GatherElements])
    found = evaluator.run(None, {"pixels": np.zeros((1, 1, 8, 8), np.float32)})
    assert [digest_of(value) for value in found] == [record.sha256 for record in records]
