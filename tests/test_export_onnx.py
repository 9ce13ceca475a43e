"""The exported file: values, versions, metadata, bytes; and a model that stays as it was."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from iterand_compress import ImageInput, export_onnx
from iterand_compress.compress.errors import ConfigError
from iterand_compress.export.opsets import supported_opsets
from iterand_compress.export.report import ExportReport

IMAGE = {"input": ImageInput((3, 8, 8), [0.5, 0.4, 0.3], [0.2, 0.25, 0.3])}
HERE = Path(__file__).parent


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(54, 5),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, ExportReport]:
    model, path = network(), tmp_path_factory.mktemp("export") / "net.onnx"
    metadata = {"zeta": "last", "iterand.classes": '["a", "b", "c", "d", "e"]', "alpha": "first"}
    return model, path, export_onnx(model, path, metadata=metadata, **IMAGE)


def run(path: Path, values: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {session.get_inputs()[0].name: values.numpy()})[0]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    return (pixels - mean) / std


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_values_are_those_of_pytorch(exported: tuple[nn.Module, Path, ExportReport], batch: int) -> None:
    model, path, _ = exported
    pixels = torch.rand(batch, 3, 8, 8)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(normalised(pixels)).numpy()
    np.testing.assert_allclose(run(path, pixels), expected, atol=1e-5)


def test_report(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    _, path, report = exported
    assert (report.path, report.file_bytes) == (path, path.stat().st_size)
    assert (report.opset, report.ir_version, report.samples, report.argmax_agreement) == (18, 8, 8, 1.0)
    assert 0 <= report.max_abs_difference < 1e-5
    assert list(path.parent.iterdir()) == [path], "one file, nothing beside it"


def test_signature_and_metadata(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    model = onnx.load(exported[1])
    (source,), (target,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in (source, target)]
    assert (source.name, target.name, shapes) == ("pixels", "logits", [["batch", 3, 8, 8], ["batch", 5]])
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert list(entries) == sorted(entries)
    expected = {"image_shape": [3, 8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    assert {key: json.loads(entries[f"iterand.{key}"]) for key in expected} == expected
    assert (entries["iterand.normalize"], entries["alpha"]) == ("baked", "first")
    assert model.producer_name == "iterand-compress"
    assert model.producer_version not in ("", "unknown")


def test_no_local_paths_and_no_stack_traces(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    content = exported[1].read_bytes()
    for trace in (b"/home", b"site-packages", str(HERE).encode(), b".py", b"torch", b"stack_trace", b"File "):
        assert trace not in content


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        export_onnx(network(), tmp_path / name, **IMAGE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.processes
def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    export_onnx(network(), tmp_path / "here", **IMAGE)
    code = f"from test_export_onnx import *; export_onnx(network(), {str(tmp_path / 'there')!r}, **IMAGE)"
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("here", "there")]
    assert digests[0] == digests[1]


def test_the_exporter_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(network(), tmp_path / "net.onnx", **IMAGE)
    assert capfd.readouterr() == ("", "")


def test_without_normalisation_the_graph_takes_normalised_input(
    exported: tuple[nn.Module, Path, ExportReport], tmp_path: Path
) -> None:
    model, baked, _ = exported
    export_onnx(model, tmp_path / "raw.onnx", normalize=False, **IMAGE)
    raw = onnx.load(tmp_path / "raw.onnx")
    assert raw.graph.input[0].name == "input"
    assert not {"Sub", "Div"} & {node.op_type for node in raw.graph.node}
    assert {entry.key: entry.value for entry in raw.metadata_props}["iterand.normalize"] == "none"
    pixels = torch.rand(3, 3, 8, 8)
    np.testing.assert_array_equal(run(tmp_path / "raw.onnx", normalised(pixels)), run(baked, pixels))


@pytest.mark.parametrize("opset", [18, 19, 20, 21, supported_opsets()[-1]])
def test_opsets(opset: int, tmp_path: Path) -> None:
    report = export_onnx(network(), tmp_path / "net.onnx", opset=opset, **IMAGE)
    model = onnx.load(tmp_path / "net.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == report.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    assert {18: 8, 19: 9, 20: 9, 21: 10}.get(opset, report.ir_version) == report.ir_version
    assert {"0.weight", "0.bias", "6.weight", "6.bias"} <= {tensor.name for tensor in model.graph.initializer}
    assert b"site-packages" not in (tmp_path / "net.onnx").read_bytes()


@pytest.mark.parametrize("opset", [7, 17, supported_opsets()[-1] + 1, 999])
def test_an_unsupported_opset_names_the_supported_ones(opset: int, tmp_path: Path) -> None:
    newest = supported_opsets()[-1]
    with pytest.raises(ConfigError, match=rf"opset {opset} is not supported: expected 18 to {newest} .*onnxruntime"):
        export_onnx(network(), tmp_path / "net.onnx", opset=opset, **IMAGE)
    assert not list(tmp_path.iterdir())


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    names = [dir(module) for module in model.modules()]
    generator = torch.get_rng_state()
    images = torch.rand(4, 3, 8, 8)
    torch.set_rng_state(generator)
    output = model(images)
    torch.set_rng_state(generator)
    export_onnx(model, tmp_path / "net.onnx", **IMAGE)
    assert torch.equal(torch.get_rng_state(), generator), "the global random generator was used"
    assert torch.equal(model(images), output)
    assert [module.training for module in model.modules()] == flags
    assert [dir(module) for module in model.modules()] == names
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_a_model_in_another_type_is_exported_in_float32(tmp_path: Path) -> None:
    model = network().to(torch.bfloat16)
    export_onnx(model, tmp_path / "net.onnx", **IMAGE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


@pytest.mark.parametrize("count", [1, 2, 130])
def test_given_samples_are_compared(count: int, tmp_path: Path) -> None:
    samples = torch.rand(count, 3, 8, 8, dtype=torch.float64)
    report = export_onnx(network(), tmp_path / "net.onnx", samples=samples, **IMAGE)
    assert (report.samples, report.argmax_agreement) == (count, 1.0)


@pytest.mark.slow
def test_an_output_of_another_shape_is_fine(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sigmoid())
    export_onnx(model, tmp_path / "net.onnx", **IMAGE)
    assert run(tmp_path / "net.onnx", torch.rand(3, 3, 8, 8)).shape == (3, 2, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": torch.rand(3, 8, 8)}, r"expected \[N, 3, 8, 8\]"),
        ({"samples": torch.rand(0, 3, 8, 8)}, r"expected \[N, 3, 8, 8\]"),
        ({"metadata": {"iterand.mean": "[0]"}}, "iterand.mean cannot be given"),
    ],
)
def test_options_that_do_not_fit(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export_onnx(network(), tmp_path / "net.onnx", **{**IMAGE, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_classifying_needs_no_torch() -> None:
    code = "import sys, iterand_compress as ic; ic.OnnxClassifier; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
