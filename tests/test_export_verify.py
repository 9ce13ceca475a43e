"""``verify model.onnx``: right files are said to be right, and no changed bit of a weight passes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from networks import settings
from onnx import ModelProto, TensorProto
from torch import nn

from iterand_compress import ImageInput, export_onnx, load_session, pack, verify_onnx
from iterand_compress.cli.app import cli
from iterand_compress.compress.errors import ExportError
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.seedmask import read_seedmask

IMAGE = {"input": ImageInput((1, 8, 8), [0.5], [0.25])}
pytestmark = pytest.mark.usefixtures("captured_once")
FORMS = ("dense", "packed", "int8", "seeded")


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return mask_model(model, settings(method="iterand", distribution="uniform", sparsity=0.5, seed=9))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("verify")
    pack(network(), folder / "net.seedmask")
    digest = read_seedmask(folder / "net.seedmask").weights_digest
    found = {"seedmask": folder / "net.seedmask"}
    for form in FORMS:
        found[form] = folder / f"{form}.onnx"
        export_onnx(network(), found[form], form=form, metadata={"iterand.weights_sha256": digest}, **IMAGE)
    return found


def verify(path: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["verify", str(path), *options])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_right_files(form: str, files: dict[str, Path]) -> None:
    found = verify_onnx(files[form])
    digest = read_seedmask(files["seedmask"]).weights_digest
    assert (found.form, found.weights) == (form, 2)
    # A dense file holds products with BatchNorm, whose codes are gone.
    assert (found.recovered, found.weights_digest) == ((0, None) if form == "dense" else (2, digest))
    assert found.max_abs_difference < 1e-5
    said = json.loads(verify(files[form], "--json").stdout)
    assert said["ok"] is True
    assert said["weights_digest"] == found.weights_digest
    text = verify(files[form]).stdout
    assert f"ok: form {form}, 2 masked weights have their digests" in text
    assert (digest in text) is (form != "dense")


def change(path: Path, target: Path, edit: Callable[[ModelProto], None]) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, target)
    return target


def flip(name: str, byte: int = 0, bit: int = 1) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
        raw = bytearray(tensor.raw_data)
        raw[byte] ^= bit
        tensor.raw_data = bytes(raw)

    return edit


@pytest.mark.parametrize(
    ("form", "tensor", "message"),
    [
        ("dense", "4.weight", r"weight '4\.weight': expected values with SHA-256"),
        ("int8", "4.weight.codes", r"weight '4\.weight': expected values with SHA-256"),
        ("int8", "4.weight.scale", r"weight '4\.weight': expected values with SHA-256"),
        ("packed", "4.weight.mask0.bits", r"cannot expand the weights: .*GatherElements"),
        ("packed", "4.weight.numbers0.4.bits", r"weight '4\.weight': expected values with SHA-256"),
        ("seeded", "4.weight.seed.low", r"weight '4\.weight': expected values with SHA-256"),
        ("seeded", "iterand.check.answers", "the generator in the graph computes wrong numbers"),
        ("dense", "4.bias", r"computes something else here than PyTorch did .*largest difference of the probe"),
    ],
)
def test_a_changed_bit(form: str, tensor: str, message: str, files: dict[str, Path], tmp_path: Path) -> None:
    names = {entry.name for entry in onnx.load(files[form]).graph.initializer}
    assert tensor in names, sorted(names)
    bit = 0x40 if tensor.endswith("bias") else 1
    path = change(files[form], tmp_path / "a.onnx", flip(tensor, 3 if tensor.endswith("bias") else 0, bit))
    with pytest.raises(ExportError, match=message) as caught:
        verify_onnx(path)
    assert "\n" not in str(caught.value)
    result = verify(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def entry(key: str, value: Callable[[str], str] | None) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        for item in list(model.metadata_props):
            if item.key == key and value is None:
                model.metadata_props.remove(item)
            elif item.key == key:
                item.value = value(item.value)

    return edit


def other_recovered(text: str) -> str:
    records = json.loads(text)
    records[1]["recovered"] = "0" * 64
    return json.dumps(records)


def other_scale(text: str) -> str:
    records = json.loads(text)
    records[1]["scale"] = [records[1]["scale"]] * 3
    return json.dumps(records)


def other_logits(text: str) -> str:
    probe = json.loads(text)
    logits = np.frombuffer(base64.b64decode(probe["logits"]), "<f4") + np.float32(0.01)
    return json.dumps({**probe, "logits": base64.b64encode(logits.tobytes()).decode()})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (entry("iterand.probe", None), "not exported by this version of iterand-compress: its metadata hold no probe"),
        (entry("iterand.probe", lambda text: text[:-2]), r"damaged metadata: iterand\.probe"),
        (entry("iterand.probe", lambda text: text.replace("[2,10]", "[2,11]")), r"damaged metadata: iterand\.probe"),
        (entry("iterand.probe", other_logits), "computes something else here than PyTorch did"),
        (entry("iterand.weights", lambda text: "[{}]"), r"damaged metadata: iterand\.weights: Field required"),
        (
            entry("iterand.weights", lambda text: text.replace("4.weight", "5.weight")),
            r"'5\.weight' is not in the graph",
        ),
        (entry("iterand.weights", other_recovered), r"'4\.weight': its codes do not give the recovered weight"),
        (entry("iterand.weights", other_scale), r"'4\.weight': its codes do not give the recovered weight"),
        (entry("iterand.weights", lambda text: text.replace("4.weight", "0.weight")), "names one weight twice"),
        (entry("iterand.weights_sha256", lambda text: "0" * 64), "expected recovered weights with SHA-256 0000"),
        (lambda model: model.graph.ClearField("node"), "not valid ONNX"),
    ],
)
def test_changed_metadata(
    edit: Callable[[ModelProto], None], message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = change(files["packed"], tmp_path / "a.onnx", edit)
    with pytest.raises(ExportError, match=message) as caught:
        verify_onnx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", ["[-1, 8]", "[99999999999, 99999999999]", "[3, 3]"])
def test_a_session_with_a_wrong_shape_is_refused(shape: str, files: dict[str, Path], tmp_path: Path) -> None:
    edit = entry("iterand.weights", lambda text: text.replace("[10, 288]", shape))
    path = change(files["packed"], tmp_path / "a.onnx", edit)
    with pytest.raises(ExportError) as caught:
        load_session(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no onnx at all", None])
def test_no_model(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    result = verify(path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {path}: ")
    assert result.stderr.count("\n") == 1


def test_every_truncation_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["packed"].read_bytes()
    for size in range(0, len(data), len(data) // 23):
        (tmp_path / "a.onnx").write_bytes(data[:size])
        with pytest.raises(ExportError):
            verify_onnx(tmp_path / "a.onnx")


def test_deep_is_for_seedmasks(files: dict[str, Path]) -> None:
    result = verify(files["dense"], "--deep")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--deep is for .seedmask files" in result.stderr


def test_foreign_models_are_named(tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    assert "hold no probe" in verify(tmp_path / "a.onnx").stderr


@pytest.mark.processes
def test_verification_needs_no_torch(files: dict[str, Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from iterand_compress import load_session, verify_onnx\n"
        f"assert verify_onnx({str(files['seeded'])!r}).recovered == 2\n"
        f"load_session({str(files['packed'])!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
