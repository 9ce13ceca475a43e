"""What users hand to an export: taken as they mean it, or refused in one line before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import settings
from onnx import helper
from torch import nn

from conftest import succeed
from iterand_compress import ImageInput, OnnxClassifier, export_onnx, load, pack, verify_onnx
from iterand_compress.compress.errors import ConfigError, ExportError, IterandError
from iterand_compress.compress.inputs import TextInput
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.seedmask import read_seedmask

IMAGE = {"input": ImageInput((3, 4, 4), [0.5] * 3, [0.25] * 3)}
pytestmark = pytest.mark.usefixtures("captured_once")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("inputs") / "net.onnx"
    export_onnx(network(), path, **IMAGE)
    return path.read_bytes()


PIXELS = np.random.default_rng(0).random((4, 3, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"input": ImageInput(torch.Size([3, 4, 4]), 0.5, 0.25)},
        {"samples": PIXELS},
        {"samples": PIXELS.astype(">f4")[::-1]},
        {"samples": torch.from_numpy(PIXELS).requires_grad_()},
        {"samples": PIXELS.tolist()},
        {"metadata": {"iterand.classes": '["a", "b", "c", "d", "e"]'}},
    ],
    ids=lambda change: "-".join(f"{key}-{type(value).__name__}" for key, value in change.items()),
)
def test_other_ways_to_say_the_same(change: dict[str, object], exported: bytes, tmp_path: Path) -> None:
    report = export_onnx(network(), tmp_path / "net.onnx", **{**IMAGE, **change})
    assert report.samples == (4 if "samples" in change else 8)
    model = onnx.load(tmp_path / "net.onnx")
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if "metadata" in change:
        assert entries.pop("iterand.classes") == '["a", "b", "c", "d", "e"]'
        helper.set_model_props(model, entries)
    assert model.SerializeToString(deterministic=True) == exported


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input": {"shape": (3, 4, 4)}},
            r"input: Sequential\.forward\(\) takes \(input\): missing a required argument",
        ),
        ({"input": ImageInput((3, 10**5, 10**5), 0, 1)}, r"input: expected images of at most 268,435,456 values"),
        ({"samples": np.full((9, 9), None)}, "samples: expected a tensor or an array"),
        ({"weights": {"a": torch.zeros(9, 9)}}, "weights: expected a .seedmask file that was read, or its path"),
        ({"samples": "abc"}, "samples: expected a tensor or an array, got 'abc'"),
        ({"samples": np.array([None])}, "samples: expected a tensor or an array"),
        ({"samples": torch.rand(2, 3, 4, 4, device="meta")}, "samples: expected a tensor or an array"),
        (
            {"samples": np.zeros((2, 3, 4, 4), np.uint8)},
            r"samples have the type torch\.uint8, expected .* divided by 255",
        ),
        ({"samples": torch.full((2, 3, 4, 4), float("nan"))}, "samples have values that are not finite"),
        ({"metadata": {"a": 1}}, r"metadata: expected texts \(json\.dumps .*\), got 'a': 1"),
        ({"metadata": {1: "a"}}, "metadata: expected texts .* got 1: 'a'"),
        ({"metadata": {"a": "\udc80"}}, r"metadata: expected texts .* got 'a': '\\udc80'"),
        ({"metadata": ["a"]}, "metadata: expected a dict of texts"),
        ({"metadata": {"iterand.classes": "cat, dog"}}, "iterand.classes: expected a JSON list of names"),
        (
            {"metadata": {"iterand.classes": '["a", "b", "c"]'}},
            r"iterand\.classes names 3 classes, the model's output has the shape \[batch, 5\]",
        ),
        ({"metadata": {"iterand.classes": '["a"]'}, "softmax": True}, "iterand.classes names 1 classes"),
        ({"weights": 3}, "weights: expected a .seedmask file that was read, or its path, got 3"),
        ({"weights": "absent.seedmask"}, "absent.seedmask"),
        ({"opset": "18"}, "opset: expected a whole number, got '18'"),
        ({"ir_version": 8.0}, "ir_version: expected a whole number, got 8.0"),
        ({"form": None}, "form: expected one of dense, packed, int8, seeded, float16, auto, got None"),
        ({"runtime": ["other"]}, "runtime: expected one of onnxruntime, onnxruntime-web, openvino, other, got"),
    ],
    ids=str,
)
def test_refused_in_one_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(IterandError, match=message) as caught:
        export_onnx(network(), tmp_path / "net.onnx", **{**IMAGE, **change})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 7, b"net.onnx", "a\0b.onnx", ""])
def test_a_path_that_is_none(path: object) -> None:
    with pytest.raises(ConfigError, match="path: expected the name of a file, got"):
        export_onnx(network(), path, **IMAGE)


@pytest.mark.parametrize("model", [nn.Linear, lambda x: x, None], ids=["class", "function", "none"])
def test_a_model_that_is_none(model: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: expected a torch\.nn\.Module, got"):
        export_onnx(model, tmp_path / "net.onnx", **IMAGE)


@pytest.mark.slow
def test_weights_by_path(tmp_path: Path) -> None:
    pack(mask_model(network(), settings()), tmp_path / "m.seedmask")
    plain = load(tmp_path / "m.seedmask", network())
    ways = {"text": str(tmp_path / "m.seedmask"), "path": tmp_path / "m.seedmask", "read": None}
    ways["read"] = read_seedmask(tmp_path / "m.seedmask")
    for name, weights in ways.items():
        export_onnx(plain, tmp_path / name, weights=weights, form="packed", **IMAGE)
    assert (tmp_path / "text").read_bytes() == (tmp_path / "path").read_bytes() == (tmp_path / "read").read_bytes()
    with pytest.raises(ExportError, match=r"1\.weight: .*m\.seedmask does not belong to this model"):
        export_onnx(network(), tmp_path / "other", weights=tmp_path / "m.seedmask", form="packed", **IMAGE)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).mean(1)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([[1, 2, 3, 29]]), None),
        (np.array([[1, 2, 3, 0]], np.uint8)[:, ::-1], None),
        (["a b", "c"], None),
        (np.array([[1, 2, 3, 30]]), "samples have tokens up to 30, expected whole numbers from 0 to 29"),
        (np.array([[1, 2, 3, -1]]), "expected whole numbers from 0 to 29"),
        (np.array([[0.5] * 4]), r"samples have the type torch\.float64, expected whole numbers"),
        (np.array([[1, 2, 3]]), r"samples have the shape \[1, 3\], expected tokens \[N, 4\]"),
        ("a text", "samples: expected a tensor or an array, got 'a text'"),
    ],
)
def test_samples_of_texts(samples: object, message: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = TextInput(length=4, vocabulary=30)
    if message is None:
        report = export_onnx(Tokens(), tmp_path / "net.onnx", input=text, samples=samples)
        assert (report.samples, report.argmax_agreement) == (len(samples), 1.0)
        return
    with pytest.raises(ConfigError, match=message):
        export_onnx(Tokens(), tmp_path / "net.onnx", input=text, samples=samples)
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_classes_than_outputs_names_none(exported: bytes, tmp_path: Path) -> None:
    """Such files come from versions that did not compare them."""
    model = onnx.load_from_string(exported)
    helper.set_model_props(
        model, {**{e.key: e.value for e in model.metadata_props}, "iterand.classes": json.dumps(["a", "b"])}
    )
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"expected an output \[batch, 2\], got \[4, 5\]"):
        OnnxClassifier(tmp_path / "net.onnx").classify(PIXELS.astype(np.float32))


def test_endings_in_capitals(exported: bytes, digits: object, tmp_path: Path) -> None:
    (tmp_path / "NET.ONNX").write_bytes(exported)
    assert verify_onnx(tmp_path / "NET.ONNX").max_abs_difference < 1e-5
    assert "ok: form dense" in succeed("verify", tmp_path / "NET.ONNX")
    for name, source in {"MODEL.ONNX": digits.onnx, "MODEL.SEEDMASK": digits.seedmask}.items():
        (tmp_path / name).write_bytes(source.read_bytes())
    accuracies = [
        json.loads(succeed("eval", path, "--json"))["correct"] for path in (tmp_path / "MODEL.ONNX", digits.onnx)
    ]
    assert accuracies[0] == accuracies[1]
    succeed("export", "--onnx", tmp_path / "MODEL.SEEDMASK")  # a name without a value: it is the input
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "MODEL.ONNX",
        "MODEL.SEEDMASK",
        "MODEL.onnx",
        "NET.ONNX",
    ]
