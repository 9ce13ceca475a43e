"""Running exported files, and files of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import iterand_compress as ic
from iterand_compress import ImageInput, OnnxClassifier, export_onnx
from iterand_compress.compress.errors import ExportError

IMAGE = {"input": ImageInput((1, 6, 8), [0.3], [0.4])}
CLASSES = ["zero", "ein Käse"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same network with and without the normalisation baked in."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    folder = tmp_path_factory.mktemp("files")
    paths = {True: folder / "baked.onnx", False: folder / "plain.onnx"}
    for baked, path in paths.items():
        names = {"iterand.classes": json.dumps(CLASSES), "note": "n"}
        export_onnx(model, path, normalize=baked, metadata=names, **IMAGE)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("baked", [True, False])
def test_it_describes_itself(files: dict[bool, Path], baked: bool) -> None:
    classifier = OnnxClassifier(files[baked])
    assert classifier.input.shape == (1, 6, 8)
    assert classifier.classes == tuple(CLASSES)
    assert classifier.metadata["note"] == "n"
    assert classifier.normalize_baked is baked


def test_the_same_logits_whether_the_normalisation_is_baked_in_or_not(files: dict[bool, Path]) -> None:
    pixels = np.random.default_rng(0).random((5, 1, 6, 8), np.float32)
    baked, plain = (OnnxClassifier(files[key]).logits(pixels) for key in (True, False))
    assert baked.shape == (5, 2)
    assert baked.dtype == np.float32
    np.testing.assert_array_equal(baked, plain)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((1, 6, 8), np.float32), np.zeros((2, 1, 8, 6), np.float32), np.zeros((2, 1, 6, 8), np.uint8)],
)
def test_pixels_that_do_not_fit(files: dict[bool, Path], pixels: np.ndarray) -> None:
    with pytest.raises(ExportError, match=r"expected pixels float32 \[N, 1, 6, 8\] in \[0, 1\], got"):
        OnnxClassifier(files[True]).logits(pixels)


def foreign(path: Path, shape: Sequence[int | str], outputs: int = 1) -> Path:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    targets = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, None) for n in range(outputs)]
    nodes = [helper.make_node("Flatten", ["x"], [target.name]) for target in targets]
    graph = helper.make_graph(nodes, "foreign", [source], targets)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_foreign_file_with_a_fixed_image_shape(tmp_path: Path) -> None:
    classifier = OnnxClassifier(foreign(tmp_path / "f.onnx", ["n", 1, 2, 2]))
    assert (classifier.input.shape, classifier.classes, classifier.normalize_baked) == ((1, 2, 2), (), None)
    pixels = np.full((3, 1, 2, 2), 0.25, np.float32)
    np.testing.assert_array_equal(classifier.logits(pixels), pixels.reshape(3, 4))


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], ["n", 12]])
def test_a_foreign_file_without_an_image_shape(shape: list[int | str], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"f\.onnx: not exported by iterand-compress, and its input has no fixed"):
        OnnxClassifier(foreign(tmp_path / "f.onnx", shape))


def test_a_foreign_file_with_two_outputs(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="one input and one output, got 1 and 2"):
        OnnxClassifier(foreign(tmp_path / "f.onnx", ["n", 1, 2, 2], outputs=2))


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x08\x12", b"PK\x03\x04 a zip file"])
def test_not_an_onnx_file(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"f\.onnx: onnxruntime cannot load it as an ONNX model: ") as caught:
        OnnxClassifier(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_of_another_step_says_what_it_is(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "m.ckpt")
    network = ic.Subnetwork(torch.nn.Linear(8, 4), ic.EdgePopup(sparsity=0.5))
    network.pack(tmp_path / "m.seedmask")
    for name, what in (("m.ckpt", "a file of torch.save"), ("m.seedmask", "a .seedmask file")):
        for opens in (OnnxClassifier, ic.load_session):
            with pytest.raises(ExportError) as caught:
                opens(tmp_path / name)
            assert str(caught.value).endswith(f"{what}, not an ONNX model; make one of it: iterand-compress export")


def test_a_truncated_file(files: dict[bool, Path], tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    path.write_bytes(files[True].read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"f\.onnx: "):
        OnnxClassifier(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent\.onnx: no such file"):
        OnnxClassifier(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("iterand.mean", "[0.1", "damaged metadata"),
        ("iterand.mean", '["a"]', "damaged metadata: image: mean: expected numbers"),
        ("iterand.std", "[0]", "damaged metadata: image: std: expected finite and positive float32 numbers"),
        ("iterand.image_shape", "[1, 6]", "damaged metadata: image: shape: expected"),
        ("iterand.normalize", "perhaps", "expected 'baked' or 'none'"),
        ("iterand.classes", "7", "damaged metadata"),
        ("iterand.std", None, "its metadata lack 'iterand.std'"),
    ],
)
def test_damaged_metadata(files: dict[bool, Path], key: str, value: str | None, message: str, tmp_path: Path) -> None:
    model = onnx.load(files[True])
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries[key] = value or ""
    if value is None:
        del entries[key]
    helper.set_model_props(model, entries)
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(ExportError, match=message):
        OnnxClassifier(tmp_path / "f.onnx")
