"""Networks with other inputs than images and texts, or several outputs: as PyTorch, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import randomise, settings
from torch import nn
from torch.nn import functional as F

from conftest import fail, succeed
from iterand_compress import (
    ImageInput,
    IterandError,
    OnnxClassifier,
    TextInput,
    export_onnx,
    load,
    load_session,
    pack,
    read_seedmask,
    to_dense,
    verify_onnx,
)
from iterand_compress.compress.errors import ConfigError, ExportError
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.export import capture, pipeline
from iterand_compress.export.graph import Graph

pytestmark = pytest.mark.usefixtures("captured_once")
FORMS = ("dense", "packed", "int8", "seeded")
IMAGE = ImageInput((3, 16, 16), 0.5, 0.25)


class Audio(nn.Module):
    """A waveform of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 8, 9, 4, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3))
        self.last = nn.Linear(8, 5)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(wave).mean(2))


class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU())
        self.last = nn.Linear(4, 5)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(clip).mean((2, 3, 4)))


class Siamese(nn.Module):
    """Two inputs through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (self.encoder(left) - self.encoder(right)).abs().sum(1)


class Fusion(nn.Module):
    """A dictionary of an image and features; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(3, 6, 3), nn.Linear(7, 6), nn.Linear(12, 4)

    def forward(self, batch: dict[str, torch.Tensor], *, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        seen, told = self.conv(batch["image"]).mean((2, 3)), self.first(batch["features"])
        return self.last(torch.cat([seen, told], 1)) * scale, told


class Segmentation(nn.Module):
    """Classes of pixels and of a coarser grid; sides are multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.norm, self.up = nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 6, 2, 2)
        self.head, self.aux = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = F.relu(self.norm(self.down(x)))
        coarse = F.relu(self.deep(fine))
        out = F.interpolate(self.head(fine + self.up(coarse)), size=x.shape[2:], mode="bilinear", align_corners=False)
        return {"out": out, "aux": self.aux(coarse)}


class Pixels(Segmentation):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x)["out"]


class Sequence(nn.Module):
    """Token numbers and which of them count, of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(30, 6), nn.Linear(6, 30)

    def forward(self, ids: torch.Tensor, keep: torch.Tensor) -> dict[str, Any]:
        scores = self.last(self.embedding(ids) * keep.unsqueeze(2))
        return {"scores": scores, "best": scores.argmax(2), "sure": scores.amax(2) > 0, "none": None}


def tabular() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    inputs: Any
    """What export_onnx is given."""
    dynamic: Any
    fed: dict[str, torch.Tensor]
    """By the names of the graph: of other sizes than those of the example."""
    arguments: Callable[[dict[str, torch.Tensor]], tuple[Any, ...]]
    outputs: list[str]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


IDS = torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(1))
CASES = {
    "audio": Case(
        Audio,
        normal(1, 1, 200),  # of one sample
        {"wave": {0: "batch", 2: "time"}},
        {"wave": normal(3, 1, 131)},
        lambda fed: (fed["wave"],),
        ["output"],
    ),
    "video": Case(
        Video,
        {"clip": normal(2, 3, 5, 8, 8)},
        {"clip": {0: "batch", 2: "frames", 3: "height", 4: "width"}},
        {"clip": normal(1, 3, 4, 9, 7)},
        lambda fed: (fed["clip"],),
        ["output"],
    ),
    "tabular": Case(
        tabular, normal(4, 7).numpy(), None, {"input": normal(9, 7)}, lambda fed: (fed["input"],), ["output"]
    ),
    "siamese": Case(
        Siamese,
        {"right": normal(2, 8), "left": normal(2, 8) + 1},  # in another order than forward() has them
        None,
        {"left": normal(5, 8), "right": normal(5, 8) - 1},
        lambda fed: (fed["left"], fed["right"]),
        ["output"],
    ),
    "fusion": Case(
        Fusion,
        ({"image": normal(2, 3, 6, 6), "features": normal(2, 7)},),
        None,
        {"batch_image": normal(3, 3, 6, 6), "batch_features": normal(3, 7)},
        lambda fed: ({"image": fed["batch_image"], "features": fed["batch_features"]},),
        ["output_0", "output_1"],
    ),
    "segmentation": Case(
        Segmentation,
        normal(2, 3, 16, 16),
        {"x": {0: "batch", 2: "height", 3: "width"}},
        {"x": normal(1, 3, 20, 28)},
        lambda fed: (fed["x"],),
        ["out", "aux"],
    ),
    "sequence": Case(
        Sequence,
        {"ids": IDS, "keep": IDS > 3},
        {name: {0: "batch", 1: "length"} for name in ("ids", "keep")},
        {"ids": IDS[:1, :4], "keep": IDS[:1, :4] > 7},
        lambda fed: (fed["ids"], fed["keep"]),
        ["scores", "best", "sure"],
    ),
}


def network(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return mask_model(randomise(build()), settings(distribution="uniform", sparsity=0.5, seed=3)).eval()


def flat(outputs: Any) -> list[np.ndarray]:
    values = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    values = list(values.values()) if isinstance(values, dict) else values
    return [value.detach().numpy() for value in values if value is not None]


def run(path: Path, fed: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: value.numpy() for name, value in fed.items()}), strict=True))


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_as_pytorch_in_every_form(name: str, form: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = network(case.build)
    pack(model, tmp_path / "net.seedmask")
    file = read_seedmask(tmp_path / "net.seedmask")
    path = tmp_path / "net.onnx"
    report = export_onnx(
        model,
        path,
        input=case.inputs,
        dynamic=case.dynamic,
        form=form,
        metadata={"iterand.weights_sha256": file.weights_digest},
    )
    assert report.max_abs_difference < 1e-5
    assert report.argmax_agreement == 1
    found = run(path, case.fed)
    expected = flat(to_dense(model)(*case.arguments(case.fed)))
    assert list(found) == case.outputs
    for (output, values), wanted in zip(found.items(), expected, strict=True):
        assert (values.dtype, values.shape) == (wanted.dtype, wanted.shape), output
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5, err_msg=output)
        else:
            np.testing.assert_array_equal(values, wanted, err_msg=output)
    verified = verify_onnx(path)
    assert verified.weights == len(file.tensors)
    assert verified.weights_digest == (file.weights_digest if form != "dense" else verified.weights_digest)
    assert verified.recovered == (len(file.tensors) if form != "dense" else verified.recovered)
    assert verified.max_abs_difference < 1e-5


@pytest.mark.parametrize("name", ["fusion", "sequence"])
def test_a_plain_module_with_its_file(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = network(case.build)
    pack(model, tmp_path / "net.seedmask")
    plain = load(tmp_path / "net.seedmask", case.build())
    options = {"input": case.inputs, "dynamic": case.dynamic, "form": "packed"}
    export_onnx(plain, tmp_path / "plain.onnx", weights=tmp_path / "net.seedmask", **options)
    export_onnx(model, tmp_path / "masked.onnx", **options)
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "masked.onnx").read_bytes()
    with pytest.raises(ConfigError, match="input: expected an ImageInput or a TextInput, got Tensor: leave it out"):
        pack(model, tmp_path / "other.seedmask", input=normal(2, 7))
    assert not (tmp_path / "other.seedmask").exists()


@pytest.mark.parametrize("name", ["siamese", "segmentation", "sequence"])
def test_the_exporter_for_torch_2_6(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.setattr(capture, "_OLD_TORCH", True)
    monkeypatch.setattr(pipeline, "capture", capture.capture)  # each time anew
    model = network(case.build)
    export_onnx(model, tmp_path / "net.onnx", input=case.inputs, dynamic=case.dynamic, form="packed")
    found = run(tmp_path / "net.onnx", case.fed)
    assert list(found) == case.outputs
    for values, wanted in zip(found.values(), flat(to_dense(model)(*case.arguments(case.fed))), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)


def test_the_file_says_what_varies(tmp_path: Path) -> None:
    case = CASES["sequence"]
    export_onnx(network(case.build), tmp_path / "net.onnx", input=case.inputs, dynamic=case.dynamic)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("ids", "tensor(int64)", ["batch", "length"]),
        ("keep", "tensor(bool)", ["batch", "length"]),
    ]
    assert session.get_outputs()[0].shape == ["batch", "length", 30]
    entries = metadata(tmp_path / "net.onnx")
    assert json.loads(entries["iterand.inputs"]) == [
        {"name": "ids", "dtype": "int64", "shape": [2, 9], "low": int(IDS.min()), "high": int(IDS.max())},
        {"name": "keep", "dtype": "bool", "shape": [2, 9], "low": 0, "high": 1},
    ]
    assert not {"iterand.mean", "iterand.normalize", "iterand.text", "iterand.classes"} & entries.keys()
    with pytest.raises(
        ExportError, match=r"a classifier has one input and one output, got 2 and 3; open it with load_s"
    ):
        OnnxClassifier(tmp_path / "net.onnx")
    assert load_session(tmp_path / "net.onnx").run(["best"], {"ids": IDS.numpy(), "keep": (IDS > 3).numpy()})


class Returns(nn.Module):
    """What ``change`` makes of the output and input of a layer, and of the layer."""

    def __init__(self, change: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(4, 3), change

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, *rest: torch.Tensor, flag: bool = False) -> Any:
        return self.change(self.layer(x), x, self.layer)

    def extra_repr(self) -> str:
        return f"{id(self.change)}"  # networks with the same text share one graph, see `captured_once`


class Pair(NamedTuple):
    mean: torch.Tensor
    spread: torch.Tensor


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda z, x, layer: z, ["output"]),
        (lambda z, x, layer: [z], ["output"]),
        (lambda z, x, layer: (z, None, z + 1), ["output_0", "output_2"]),
        (lambda z, x, layer: (z, z), ["output_0", "output_1"]),
        (lambda z, x, layer: (x, z), ["output_0", "output_1"]),
        (lambda z, x, layer: {"z": z, "weight": layer.weight}, ["z", "weight"]),
        (lambda z, x, layer: Pair(z, z.exp()), ["mean", "spread"]),
        (lambda z, x, layer: {"x": z, "deep": {"list": [z, (z * 2,)]}}, ["x_1", "deep_list_0", "deep_list_1_0"]),
        (lambda z, x, layer: {"add": z * 2, "mul": (z + 1) * 3, "val_0": z.sum()}, ["add", "mul", "val_0"]),
        (lambda z, x, layer: {0: z, 1: z.half()}, ["output_0", "output_1"]),
    ],
)
@pytest.mark.parametrize("form", ["dense", "seeded"])
def test_outputs_keep_their_keys(change: Callable[..., Any], names: list[str], form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mask_model(Returns(change), settings(sparsity=0.5))
    export_onnx(model, tmp_path / "net.onnx", input=normal(2, 4), form=form)
    verify_onnx(tmp_path / "net.onnx")
    sample = normal(5, 4)
    found = run(tmp_path / "net.onnx", {"x": sample})
    assert list(found) == names
    leaves = torch.utils._pytree.tree_leaves(to_dense(model)(sample))
    for values, wanted in zip(found.values(), flat(tuple(leaves)), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=2e-3 if wanted.dtype == np.float16 else 1e-5, atol=1e-5)


def test_arguments_that_are_no_tensors_are_constants(tmp_path: Path) -> None:
    case = CASES["fusion"]
    model = network(case.build)
    export_onnx(model, tmp_path / "one.onnx", input=case.inputs)
    export_onnx(model, tmp_path / "three.onnx", input={"batch": case.inputs[0], "scale": 3.0})
    one, three = (run(tmp_path / f"{name}.onnx", case.fed)["output_0"] for name in ("one", "three"))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-5)


# Softmax over channels, and the sizes of images and texts.


def test_a_segmentation_of_images_of_any_size(tmp_path: Path) -> None:
    model = network(Pixels)
    names = {"iterand.classes": json.dumps(["sky", "sea", "sand", "sun"])}
    options = {"input": IMAGE, "dynamic": ("height", "width"), "softmax": True, "metadata": names}
    for form in FORMS:
        export_onnx(model, tmp_path / f"{form}.onnx", form=form, **options)
        verify_onnx(tmp_path / f"{form}.onnx")
        pixels = torch.rand(2, 3, 24, 8)
        found = run(tmp_path / f"{form}.onnx", {"pixels": pixels})["probabilities"]
        wanted = to_dense(model)((pixels - 0.5) / 0.25).softmax(1).detach().numpy()
        assert found.shape == (2, 4, 24, 8)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    classifier = OnnxClassifier(tmp_path / "dense.onnx")
    assert classifier.outputs(pixels.numpy()).shape == (2, 4, 24, 8)
    with pytest.raises(
        ExportError, match=r"expected pixels float32 \[N, 3, height, width\] in \[0, 1\], got float32 \[2, 1, 24, 8\]"
    ):
        classifier.outputs(pixels[:, :1].numpy())
    with pytest.raises(ExportError, match=r"expected an output \[batch, 4\], got \[2, 4, 24, 8\]"):
        classifier.classify(pixels.numpy())
    with pytest.raises(ConfigError, match=r"names 3 classes, the model's output has the shape \[batch, 4, 16, 16\]"):
        export_onnx(model, tmp_path / "no.onnx", **{**options, "metadata": {"iterand.classes": '["a", "b", "c"]'}})


def test_softmax_of_several_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Returns(lambda z, x, layer: {"features": z + 1, "logits": z})
    export_onnx(model, tmp_path / "net.onnx", input=normal(2, 4), softmax=True)
    verify_onnx(tmp_path / "net.onnx")
    sample = normal(5, 4)
    found = run(tmp_path / "net.onnx", {"x": sample})
    assert list(found) == ["features", "probabilities"]
    logits = model.layer(sample).detach()
    np.testing.assert_allclose(found["probabilities"], logits.softmax(1), atol=1e-6)
    np.testing.assert_allclose(found["features"], logits + 1, atol=1e-6)


def test_texts_of_any_length(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 5)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.embedding(tokens).mean(1)

    model = Mean()
    export_onnx(model, tmp_path / "net.onnx", input=TextInput(length=6, vocabulary=30), dynamic=["length"])
    verify_onnx(tmp_path / "net.onnx")
    found = OnnxClassifier(tmp_path / "net.onnx").logits(IDS.numpy())
    np.testing.assert_allclose(found, model(IDS).detach(), rtol=1e-5, atol=1e-6)


def test_samples_of_a_user(tmp_path: Path) -> None:
    case = CASES["siamese"]
    samples = [(normal(3, 8), normal(3, 8) * 5), {"left": normal(1, 8), "right": normal(1, 8)}]
    report = export_onnx(network(case.build), tmp_path / "net.onnx", input=case.inputs, samples=samples)
    assert report.samples == 3
    (left, right) = json.loads(metadata(tmp_path / "net.onnx")["iterand.inputs"])
    assert right["high"] == float((normal(3, 8) * 5).max()) > left["high"]


# What is wrong in a file is found, and what varies is tried.


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_wrong_second_output_is_found(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.write_dense

    def corrupt(graph: Graph, *rest: Any) -> None:
        real(graph, *rest)
        graph.put("aux.bias", graph.array("aux.bias") + np.float32(value))

    case = CASES["segmentation"]
    monkeypatch.setattr(pipeline, "write_dense", corrupt)
    with pytest.raises(ExportError, match="PyTorch differ: largest absolute difference of the output aux"):
        export_onnx(to_dense(network(case.build)), tmp_path / "net.onnx", input=case.inputs, dynamic=case.dynamic)
    assert not list(tmp_path.iterdir())


def test_wrong_whole_numbers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(graph: Graph, *_: object) -> None:
        graph.put("layer.bias", graph.array("layer.bias") + np.array([0, 9, 0], np.float32))

    model = Returns(lambda z, x, layer: z.argmax(1))
    monkeypatch.setattr(pipeline, "write_dense", corrupt)
    with pytest.raises(ExportError, match=r"PyTorch differ: \d+ of \d+ whole numbers of the outputs"):
        export_onnx(model, tmp_path / "net.onnx", input=normal(8, 4))


def test_verify_finds_a_changed_bit(tmp_path: Path) -> None:
    case = CASES["segmentation"]
    export_onnx(network(case.build), tmp_path / "net.onnx", input=case.inputs, dynamic=case.dynamic, form="packed")
    probe = metadata(tmp_path / "net.onnx")["iterand.probe"]
    assert 4 * 1024 < len(probe) < 4 * 2 * 1024 * 2, "large outputs are recorded at some positions"
    model = onnx.load(tmp_path / "net.onnx")
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "aux.bias"]
    bias.raw_data = bias.raw_data[:3] + bytes([bias.raw_data[3] ^ 0x40]) + bias.raw_data[4:]
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ExportError, match=r"computes something else here than PyTorch did"):
        verify_onnx(tmp_path / "wrong.onnx")
    for text in ("[]", '[{"name": "x"}]', "nothing", None):
        entries = metadata(tmp_path / "net.onnx")
        entries["iterand.inputs"] = text or ""
        if text is None:
            del entries["iterand.inputs"]
        model = onnx.load(tmp_path / "net.onnx")
        onnx.helper.set_model_props(model, entries)
        onnx.save(model, tmp_path / "wrong.onnx")
        with pytest.raises(ExportError) as caught:
            verify_onnx(tmp_path / "wrong.onnx")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda z, x, layer: z.argmax(1), lambda z, x, layer: z.sigmoid()])
def test_a_seeded_file_says_where_its_generator_is_wrong(change: Callable[..., Any], tmp_path: Path) -> None:
    model = mask_model(Returns(change), settings(sparsity=0.5))
    export_onnx(model, tmp_path / "net.onnx", input=normal(2, 4), form="seeded")
    proto = onnx.load(tmp_path / "net.onnx")
    (answers,) = [tensor for tensor in proto.graph.initializer if tensor.name == "iterand.check.answers"]
    answers.raw_data = bytes([answers.raw_data[0] ^ 1]) + answers.raw_data[1:]
    onnx.save(proto, tmp_path / "wrong.onnx")
    (found,) = run(tmp_path / "wrong.onnx", {"x": normal(5, 4)}).values()
    assert np.isnan(found).all() if found.dtype.kind == "f" else (found == -1).all()


def odd_rows(x: torch.Tensor) -> torch.Tensor:
    return x[:, :, 1:] if x.shape[2] % 2 else x


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        (odd_rows, "height 2, height 12, height 14, height 26"),
        (lambda x: x if x.shape[2] > 5 else x * 2, "height 2, height 5"),
        (lambda x: x if x.shape[2] < 80 else x * 2, "height 80"),
    ],
)
def test_code_that_branches_on_a_size(change: Callable[..., Any], labels: str, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(change(x)).mean((2, 3))

        def extra_repr(self) -> str:
            return f"{id(change)}"

    with pytest.raises(ExportError, match=f"differ: .*; only with {labels}: its Python code") as caught:
        export_onnx(Net(), tmp_path / "net.onnx", input=normal(2, 3, 13, 8), dynamic={"x": {2: "height"}})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


TWO = (normal(2, 8), normal(2, 8))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Siamese(), {"input": normal(2, 8)}, r"Siamese\.forward\(\) takes \(left, right\): missing .* 'right'"),
        (Siamese(), {"input": {"left": TWO[0], "up": TWO[1]}}, r"takes \(left, right\): missing .* 'right'"),
        (Siamese(), {"input": (*TWO, TWO[0])}, r"takes \(left, right\): too many positional arguments"),
        (
            Siamese(),
            {"input": (TWO[0], TWO[1][:, :3])},
            r"does not take inputs of shapes left \[2, 8\], right \[2, 3\]",
        ),
        (Siamese(), {"input": (TWO[0], "text")}, r"Siamese does not take an input of shape \[2, 8\]"),
        (
            Siamese(),
            {"input": (TWO[0], object())},
            r"input: right: expected tensors, or tuples, lists and dictionaries",
        ),
        (Siamese(), {"input": (TWO[0], TWO[1].to("meta"))}, "input: right: expected a tensor of numbers"),
        (Siamese(), {"input": (TWO[0], TWO[1] / 0)}, "input: right: expected finite numbers, got values that are not"),
        (Siamese(), {"input": (TWO[0], TWO[1][:0])}, r"input: right: expected finite numbers, got the shape \[0, 8\]"),
        (Siamese(), {"input": (TWO[0], TWO[1].to(torch.complex64))}, "expected floats, integers or booleans, got"),
        (Siamese(), {"input": (1, 2)}, "input: expected at least one tensor, got"),
        (Siamese(), {"input": (IMAGE, TWO[0])}, "input: left: expected tensors, .* got ImageInput"),
        (
            Siamese(),
            {"input": (TWO[0], TWO[1][:1])},
            r"first dimensions .* not one batch \(left has 2, right has 1\): n",
        ),
        (
            Siamese(),
            {"input": TWO, "dynamic": {"up": {0: "batch"}}},
            "there is no input 'up'; the network has left, ri",
        ),
        (Siamese(), {"input": TWO, "dynamic": {"left": {2: "n"}}}, "left: expected dimensions from 0 to 1, got 2"),
        (
            Siamese(),
            {"input": TWO, "dynamic": {"left": {0: "a b"}}},
            "left: 0: expected a name such as height, got 'a b'",
        ),
        (
            Siamese(),
            {"input": TWO, "dynamic": ["height"]},
            r"dynamic: expected names of dimensions by input and number",
        ),
        (
            Siamese(),
            {"input": TWO, "dynamic": {"left": {0: "n"}, "right": {1: "n"}}},
            "dynamic: n is 2 in left and 8 in right: give an example in which both are the same, or two names",
        ),
        (
            Siamese(),
            {"input": TWO, "dynamic": {"left": {1: "n"}}},
            r"dynamic: n: the network takes 8, and none of 2, 7, 9, 16: Siamese does not take .*: RuntimeError: mat1",
        ),
        (
            Siamese(),
            {"input": TWO, "dynamic": {"left": {0: "n"}, "right": {0: "m"}}},
            "cannot be exported: its Python code fixes m, which is said to vary .*; torch.export says: m = n",
        ),
        (Siamese(), {"input": TWO, "normalize": False}, "normalize: tensors have no normalisation to leave out"),
        (Siamese(), {"input": TWO, "samples": TWO[0]}, "samples: expected a list of more examples like input"),
        (
            Siamese(),
            {"input": TWO, "samples": [(TWO[0], TWO[1].int())]},
            r"samples: 0: expected .*right float32.*int32",
        ),
        (Siamese(), {"input": TWO, "softmax": True}, r"softmax: expected a model with an output \[batch, classes\]"),
        (
            Segmentation(),
            {"input": IMAGE, "softmax": True},
            "the outputs out, aux, none of them called logits: leave it",
        ),
        (Pixels(), {"input": IMAGE, "dynamic": ["length"]}, "dynamic: expected names among height, width .*, got"),
        (Pixels(), {"input": IMAGE, "dynamic": {"x": {0: "batch"}}}, "dynamic: expected names among height, width"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 2)),
            {"input": IMAGE, "dynamic": "height"},
            "dynamic: height: the network takes 16, and none of 2, 15, 17, 32: Sequential does not take an input of",
        ),
        (Returns(lambda z, x, layer: (z, 1)), {"input": normal(2, 4)}, "must return tensors, found int"),
        (Returns(lambda z, x, layer: z / 0), {"input": normal(2, 4)}, "computes outputs that are not finite"),
        (Returns(lambda z, x, layer: z + torch.rand(3)), {"input": normal(2, 4)}, "gives other outputs when the same"),
    ],
)
def test_refused_in_one_line(model: nn.Module, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(IterandError, match=message) as caught:
        export_onnx(model, tmp_path / "net.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# The command line.


@pytest.fixture
def audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says neither which network it is nor what that takes."""
    (tmp_path / "sounds.py").write_text(
        "from test_export_tensors import Audio\n\n\ndef audio(num_classes):\n    return Audio()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    pack(network(Audio), tmp_path / "net.seedmask", classes=["a", "b", "c", "d", "e"])
    return tmp_path / "net.seedmask"


def test_a_file_of_sounds_from_the_command_line(audio: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    options = ("--model", "sounds:audio", "--form", "packed", "--softmax")
    text = succeed("export", audio, "-o", path, *options, "--tensor", "wave=float32[batch, 1, time=200]")
    assert "form packed" in text
    assert "same class" not in text
    assert "ok: form packed" in succeed("verify", path)
    wave = CASES["audio"].fed["wave"]
    wanted = to_dense(network(Audio))(wave).softmax(1).detach()
    np.testing.assert_allclose(run(path, {"wave": wave})["probabilities"], wanted, atol=1e-5)
    assert json.loads(metadata(path)["iterand.classes"]) == ["a", "b", "c", "d", "e"]
    with pytest.raises(ExportError, match=r"takes neither images nor texts \(wave .*\); open it with load_session"):
        OnnxClassifier(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--tensor 'NAME=float32[batch,16000]' for each argument of forward(); in Python"),
        (("--tensor", "wave"), "--tensor: expected NAME=TYPE[SIZES] such as 'wave=float32[batch,1,time=16000]', got"),
        (("--tensor", "wave=half[1]"), "--tensor wave=half[1]: expected one of the types float32, bool, int8"),
        (("--tensor", "wave=float32[1,time]"), "time: expected a size to try as well, such as time=64"),
        (("--tensor", "wave=float32[1,a-b]"), "expected sizes and names of dimensions, got 'a-b'"),
        (("--tensor", "wave=float32[0]"), "shape: expected sizes from 1"),
        (("--tensor", "wave=float32[2]<4"), "<4 is for whole numbers, got float32"),
        (("--tensor", "wave=int64[2]<0"), "expected a range inside"),
        (("--tensor", "a=float32[n=2]", "--tensor", "b=float32[n=3]"), "n is 2 elsewhere"),
        (("--tensor", "a=float32[2]", "--tensor", "a=float32[2]"), "a is given twice"),
        (("--tensor", "up=float32[2]"), "forward() takes (wave): missing a required argument: 'wave'"),
        (("--tensor", "wave=float32[2]", "--dynamic", "height"), "--dynamic is for images and texts: with --tensor"),
    ],
)
def test_tensors_that_make_no_sense(options: tuple[str, ...], message: str, audio: Path, tmp_path: Path) -> None:
    assert message in fail(2, "export", audio, "-o", tmp_path / "net.onnx", "--model", "sounds:audio", *options)
    assert not (tmp_path / "net.onnx").exists()


def test_sizes_of_a_file_of_images(digits: Any, tmp_path: Path) -> None:
    line = fail(2, "export", digits.seedmask, "-o", tmp_path / "net.onnx", "--tensor", "x=float32[2]")
    assert "takes images: leave out --tensor" in line
    text = succeed("export", digits.seedmask, "-o", tmp_path / "net.onnx", "--dynamic", "height", "--dynamic", "width")
    assert "same class 100.0 %" in text
    found = run(tmp_path / "net.onnx", {"pixels": torch.rand(2, 1, 9, 8)})
    assert found["logits"].shape == (2, 10)
    assert "names among height, width" in fail(2, "export", digits.seedmask, "-o", "n.onnx", "--dynamic", "depth")
