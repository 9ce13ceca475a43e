"""Forms of an exported file: all of them hold the same values, bit for bit, and each is as small as it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kinds import expected_weights, networks_of_every_kind
from networks import refresh
from networks import settings as make_settings
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from iterand_compress import ImageInput, export_onnx, load_session, to_dense
from iterand_compress.compress.errors import ConfigError, ExportError
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.mask.prune_at_init import find_masks
from iterand_compress.compress.pack import network_of
from iterand_compress.compress.seed.philox import random_bytes
from iterand_compress.compress.seedmask import Network, dumps, loads
from iterand_compress.export.coded import coded_weights
from iterand_compress.export.forms import write_form
from iterand_compress.export.forms.emitter import Emitter
from iterand_compress.export.forms.functions import functions_for
from iterand_compress.export.forms.layouts import layout_of, write_numbers
from iterand_compress.export.graph import Graph
from iterand_compress.export.opsets import supported_opsets

IMAGE = {"input": ImageInput((3, 16, 16), [0.5, 0.4, 0.3], [0.2, 0.25, 0.3])}
pytestmark = pytest.mark.usefixtures("captured_once")
CODED = ("packed", "int8", "seeded")


def empty_graph() -> Graph:
    graph = helper.make_graph([], "empty", [], [])
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def evaluate(graph: Graph, names: list[str]) -> dict[str, np.ndarray]:
    """Run a graph that needs no input."""
    graph.outputs = [onnx.ValueInfoProto(name=name) for name in names]
    model = graph.model()
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, {}), strict=True))


def in_form(network: Network, form: str, keep_quantized: bool = False) -> dict[str, np.ndarray]:
    graph = empty_graph()
    for name, weight in coded_weights(network).items():
        graph.put_coded(name, weight)
    write_form(graph, form, keep_quantized=keep_quantized)
    return evaluate(graph, [tensor.name for tensor in network.tensors])


@pytest.mark.slow
@given(network=networks_of_every_kind())
@settings(max_examples=60, deadline=None)
def test_every_kind_of_tensor_expands_to_its_weights(network: Network) -> None:
    expected = expected_weights(network)
    for form in CODED:
        found = in_form(network, form)
        for name, weight in expected.items():
            assert found[name].dtype == np.float32
            assert found[name].tobytes() == weight.tobytes(), (form, name)


@pytest.mark.slow
@given(network=networks_of_every_kind())
@settings(max_examples=20, deadline=None)
def test_quantised_weights_are_the_same_values(network: Network) -> None:
    for name, weight in expected_weights(network).items():
        found = in_form(network, "int8", keep_quantized=True)[name]
        assert found.tobytes() == weight.tobytes()


NUMBERS = st.sampled_from([0.02, 0.1, 0.4, 0.9]).flatmap(
    lambda share: st.tuples(
        arrays.arrays(np.float64, st.integers(1, 700), elements=st.floats(0, 1)),
        st.sampled_from([(1,), (-1, 1), (-3, -1, 1, 2), tuple(range(1, 120)), (7, 90_000)]),
        st.integers(0, 2**32),
        st.just(share),
    )
)


@pytest.mark.slow
@given(drawn=NUMBERS)
@settings(max_examples=150, deadline=None)
def test_layouts_give_numbers_back(drawn: tuple[np.ndarray, tuple[int, ...], int, float]) -> None:
    noise, present, seed, share = drawn
    rng = np.random.default_rng(seed)
    dtype = np.int32 if max(present) > 127 else np.int8
    numbers = np.where(noise < share, rng.choice(present, len(noise), p=skewed(len(present))), 0).astype(dtype)
    for allowance in (1.0, 9.0):
        graph, called = empty_graph(), set()
        emitter = Emitter(graph, "w", called)
        name = write_numbers(emitter, numbers, emitter.shape("shape", len(numbers)), allowance=allowance)
        graph.nodes, graph.functions = graph.expansion, functions_for(called, 18)
        graph.opsets["iterand"] = 1
        found = evaluate(graph, [name])[name]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, numbers)


def skewed(count: int) -> np.ndarray:
    """Probabilities that halve: so that one number is commoner than all others together."""
    shares = 0.5 ** np.arange(count)
    return shares / shares.sum()


@pytest.mark.parametrize(
    ("kept", "present", "name", "bits"),
    [
        (0.5, (-1, 1), "bits", 1 + 0.5),
        (0.8, (-1, 1), "ternary", 8 / 5),
        (0.1, (-1, 1), "gaps4", 0.1 * (1 + 4 / (1 - 0.9**15))),
        (0.02, (-1, 1), "gaps7", 0.02 * (1 + 7 / (1 - 0.98**127))),
        (0.005, (-1, 1), "gaps8", 0.005 * (1 + 8 / (1 - 0.995**255))),
        (0.5, (1,), "bits", 1),
        (0.5, tuple(range(-127, 128, 2)), "bits", 1 + 0.5 * 7),
        (0.5, (1, 2, 3), "bits", 1 + 0.5 * (1 + 2 / 3)),
        (0.5, tuple(range(1, 30)), "bits", 1 + 0.5 * 5),
    ],
)
def test_sizes(kept: float, present: tuple[int, ...], name: str, bits: float) -> None:
    rng = np.random.default_rng(3)
    count = 200_000
    numbers = np.where(rng.random(count) < kept, rng.choice(present, count), 0).astype(np.int8)
    layout = layout_of(numbers)
    assert layout.name == name
    assert 8 * layout.size / count == pytest.approx(bits, rel=0.02)


def test_a_rare_number_costs_its_position() -> None:
    """A log that changes one kept weight of twenty needs less than a bit for each."""
    rng = np.random.default_rng(4)
    count = 200_000
    factors = np.where(rng.random(count) < 0.5, np.where(rng.random(count) < 0.05, -1, 1), 0).astype(np.int8)
    gaps = 0.05 * 5 / (1 - 0.95**31)
    assert 8 * layout_of(factors).size / count == pytest.approx(1 + 0.5 * gaps, rel=0.01)


def test_digits_of_base_three_within_their_allowance() -> None:
    numbers = np.random.default_rng(5).choice([-1, 0, 1], 30_000, p=[0.2, 0.6, 0.2]).astype(np.int8)
    assert [layout_of(numbers, allowance=allowance).name for allowance in (1.0, 1.1, 1.15)] == [
        "bits",
        "bits",
        "ternary",
    ]


# What the generator inside a graph computes.


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, 0x0123456789ABCDEF])
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_the_generator_in_a_graph(seed: int, level: str) -> None:
    inputs = {"low": [[seed & 0xFFFFFFFF]], "high": [[seed >> 32]], "tensor": 2**32 - 1, "draw": 255, "blocks": 37}
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in inputs.items()]
    node = helper.make_node("RandomBytes", list(inputs), ["bytes"], domain="iterand")
    graph = helper.make_graph([node], "generator", [], [onnx.ValueInfoProto(name="bytes")], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("iterand", 1)]
    model = helper.make_model(graph, functions=functions_for({"RandomBytes"}, 18), opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {})
    np.testing.assert_array_equal(found, random_bytes(seed, 0, 37 * 16, draw=255, tensor=2**32 - 1))


# Whole files.


def network(distribution: str = "signed-constant", sparsity: float = 0.5, **settings: object) -> nn.Module:
    """Convolutions with and without BatchNorm, grouped and transposed ones, a linear layer; with a resampling log."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 2, groups=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.Flatten(),
        nn.Linear(12 * 13 * 13, 5),
    )
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight)
    often = {} if "method" in settings else {"every": 1, "rate": 0.3}
    config = {"method": "iterand", "distribution": distribution, **often}
    chosen = make_settings(**{**config, "sparsity": sparsity, "seed": 11, **settings})
    mask_model(model, chosen)
    if chosen.method == "magnitude":
        find_masks(model, chosen)
    for step in range(1, 6):
        refresh(model, step, steps_per_epoch=1, epochs=20)
        for _, _, scores in masked_layers(model):
            scores.data.add_(torch.empty_like(scores).normal_() * scores.std())
    return model


def outputs(session: onnxruntime.InferenceSession, batch: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(batch).random((batch, 3, 16, 16), np.float32)
    return session.run(None, {"pixels": pixels})[0]


def plain_session(path: Path, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


METHODS: dict[str, Callable[[], nn.Module]] = {
    "signed": network,
    "uniform": lambda: network("uniform"),
    "normal": lambda: network("normal", 0.9),
    "sparse": lambda: network(sparsity=0.97),
    "recycling": lambda: network("uniform", method="recycling"),
    "coats": lambda: network(method="edge-popup", multiplicity=3),
    "frozen": lambda: network(frozen=0.6, sparsity=0.7),
    "biprop": lambda: network(method="biprop"),
    "inverted": lambda: network(method="signed-supermask"),
    "ticket": lambda: network("normal", method="magnitude", sparsity=0.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_all_forms_compute_the_same_bits(kind: str, tmp_path: Path) -> None:
    model = METHODS[kind]()
    dense = tmp_path / "dense.onnx"
    export_onnx(model, dense, **IMAGE)
    for form in CODED:
        path = tmp_path / f"{form}.onnx"
        if kind == "ticket" and form == "int8":
            with pytest.raises(ConfigError, match=r"form int8: 0\.weight was trained in float32.*with-weights int8"):
                export_onnx(model, path, form=form, **IMAGE)
            continue
        report = export_onnx(model, path, form=form, **IMAGE)
        assert (report.form, report.form_bytes[form]) == (form, path.stat().st_size)
        wanted = outputs(plain_session(dense))
        assert outputs(plain_session(path)).tobytes() == wanted.tobytes(), form
        assert outputs(load_session(path, onnxruntime.SessionOptions())).tobytes() == wanted.tobytes(), form


@pytest.mark.slow
def test_batch_norm_folds_into_the_scale_and_leaves_the_codes(tmp_path: Path) -> None:
    model = network("uniform")
    export_onnx(model, tmp_path / "int8.onnx", form="int8", **IMAGE)
    tensors = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    file = loads(dumps(network_of(model.state_dict())))
    for name in ("0.weight", "3.weight", "6.weight", "8.weight"):
        np.testing.assert_array_equal(tensors[f"{name}.codes"], file.codes(name))
    shapes = {name: tensors[f"{name}.scale"].shape for name in ("0.weight", "3.weight", "6.weight", "8.weight")}
    assert shapes == {"0.weight": (16, 1, 1, 1), "3.weight": (16, 2, 1, 1), "6.weight": (), "8.weight": ()}
    norm = model[1]
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    scale = np.float64(file.tensors[0].scale_value) * factor.detach().numpy()
    np.testing.assert_array_equal(tensors["0.weight.scale"].reshape(-1), scale.astype(np.float32))


@pytest.mark.slow
def test_a_plain_module_with_its_file(tmp_path: Path) -> None:
    model = network()
    file = loads(dumps(network_of(model.state_dict())))
    plain = to_dense(model)
    export_onnx(model, tmp_path / "a.onnx", form="packed", **IMAGE)
    export_onnx(plain, tmp_path / "b.onnx", form="packed", weights=file, **IMAGE)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(ConfigError, match=r"form packed: Sequential is a plain module.*weights= the file"):
        export_onnx(plain, tmp_path / "c.onnx", form="packed", **IMAGE)
    with torch.no_grad():
        plain[6].weight[0, 0, 0, 0] += 1
    with pytest.raises(ExportError, match=r"6\.weight: <memory> does not belong to this model.*other values"):
        export_onnx(plain, tmp_path / "c.onnx", form="packed", weights=file, **IMAGE)
    with pytest.raises(ExportError, match=r"0\.weight: .*expected its weight, got no such weight"):
        export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), tmp_path / "c.onnx", weights=file, **IMAGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_a_plain_module_is_dense_as_ever(tmp_path: Path) -> None:
    report = export_onnx(to_dense(network()), tmp_path / "a.onnx", **IMAGE)
    assert (report.form, report.argmax_agreement) == ("dense", 1.0)


@pytest.mark.parametrize("form", CODED)
def test_a_subnetwork_is_not_changed(form: str, tmp_path: Path) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    export_onnx(model, tmp_path / "a.onnx", form=form, **IMAGE)
    for name, value in model.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, before[name])
    assert masked_layers(model)


@pytest.mark.slow
def test_auto_takes_the_smallest_that_the_runtime_supports(tmp_path: Path) -> None:
    model = network("uniform")
    sizes = {form: export_onnx(model, tmp_path / form, form=form, **IMAGE).file_bytes for form in ("dense", *CODED)}
    for runtime, forms in {
        "onnxruntime": ("dense", "packed", "int8", "seeded"),
        "openvino": ("dense", "packed", "int8"),
        "other": ("dense", "int8"),
    }.items():
        report = export_onnx(model, tmp_path / "auto", form="auto", runtime=runtime, **IMAGE)
        assert tuple(report.form_bytes) == forms
        assert report.form_bytes[report.form] == min(report.form_bytes.values()) == report.file_bytes
        if runtime == "onnxruntime":
            assert report.form_bytes == sizes
            assert (tmp_path / "auto").read_bytes() == (tmp_path / report.form).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("form", CODED)
def test_inlined_files_hold_standard_operators_only(form: str, tmp_path: Path) -> None:
    model = network("uniform")
    export_onnx(model, tmp_path / "dense.onnx", **IMAGE)
    export_onnx(model, tmp_path / "a.onnx", form=form, inline=True, **IMAGE)
    proto = onnx.load(tmp_path / "a.onnx")
    assert not proto.functions
    assert {entry.domain for entry in proto.opset_import} == {""}
    assert {node.domain for node in proto.graph.node} == {""}
    assert (
        outputs(plain_session(tmp_path / "a.onnx")).tobytes()
        == outputs(plain_session(tmp_path / "dense.onnx")).tobytes()
    )


@pytest.mark.parametrize("form", ["packed", "int8"])
def test_openvino_is_kept_from_quantising(form: str, tmp_path: Path) -> None:
    """It takes int8 times a scale for a layer to compute with rounded activations, but not int32 times a scale."""
    model = network()
    export_onnx(model, tmp_path / "dense.onnx", **IMAGE)
    export_onnx(model, tmp_path / "a.onnx", form=form, runtime="openvino", **IMAGE)
    proto = onnx.load(tmp_path / "a.onnx")
    assert not proto.functions
    producers = {output: node for node in proto.graph.node for output in node.output}
    for name in ("0.weight", "3.weight", "6.weight", "8.weight"):
        codes = producers[producers[name].input[0]]
        wide = producers[codes.input[0]]
        assert [node.attribute[0].i for node in (codes, wide)] == [TensorProto.FLOAT, TensorProto.INT32]
    wanted = outputs(plain_session(tmp_path / "dense.onnx"))
    assert outputs(plain_session(tmp_path / "a.onnx")).tobytes() == wanted.tobytes()


def test_functions_are_readable_and_shared(tmp_path: Path) -> None:
    export_onnx(network(), tmp_path / "a.onnx", form="packed", **IMAGE)
    proto = onnx.load(tmp_path / "a.onnx")
    assert [function.name for function in proto.functions] == ["Digits"]
    calls = [node for node in proto.graph.node if node.domain == "iterand"]
    assert [list(node.output) for node in calls] == [[f"{i}.weight.flat"] for i in (0, 3, 6, 8)]
    assert list(calls[0].input) == ["0.weight.digits", "iterand.digits", "0.weight.size"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", *CODED])
def test_every_operator_set(form: str, tmp_path: Path) -> None:
    model = network("uniform")
    export_onnx(model, tmp_path / "dense.onnx", **IMAGE)
    expected = outputs(plain_session(tmp_path / "dense.onnx"))
    for opset in supported_opsets():
        report = export_onnx(model, tmp_path / "a.onnx", form=form, opset=opset, **IMAGE)
        proto = onnx.load(tmp_path / "a.onnx")
        assert {entry.version for entry in proto.opset_import if entry.domain == ""} == {report.opset} == {opset}
        assert outputs(plain_session(tmp_path / "a.onnx")).tobytes() == expected.tobytes(), opset


@pytest.mark.parametrize("form", ["dense", *CODED])
def test_the_same_bytes_again(form: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_onnx(network(), tmp_path / name, form=form, **IMAGE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Own(nn.Module):
    """A user's module: one-dimensional convolutions, an embedding, a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.table = nn.Embedding(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.bn(self.conv(x))).mean(2)
        x = self.line(self.line(x)).mean(2) + self.table.weight.mean(0)
        return self.head(x)


def vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )


def mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v3_small(num_classes=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [Own, vision_transformer, mobilenet],
    ids=["own", "vit", "mobilenet"],
)
def test_other_architectures(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    mask_model(model, make_settings(method="iterand", sparsity=0.5, seed=5, distribution="uniform"))
    masked = sum(scores.numel() for _, _, scores in masked_layers(model))
    dense = export_onnx(model, tmp_path / "dense.onnx", **IMAGE)
    expected = outputs(plain_session(tmp_path / "dense.onnx"))
    for form, bits in {"packed": 1 + 0.5 * 7, "int8": 8, "seeded": 1}.items():
        report = export_onnx(model, tmp_path / "a.onnx", form=form, **IMAGE)
        assert report.argmax_agreement == 1
        assert outputs(plain_session(tmp_path / "a.onnx")).tobytes() == expected.tobytes(), form
        left = sum(
            math.prod(tensor.dims) * (4 if tensor.data_type == TensorProto.FLOAT else 1)
            for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer
            if tensor.data_type in (TensorProto.UINT8, TensorProto.INT8) and not tensor.name.startswith("iterand")
        )
        assert left <= masked * bits / 8 + 256 * sum(1 for _ in masked_layers(model)), form
        if make is mobilenet:
            assert 3.5 * report.file_bytes < dense.file_bytes


# The check inside a seeded file.


def sabotage(path: Path, name: str) -> None:
    model = onnx.load(path)
    for function in model.functions:
        for node in function.node:
            if function.name == "Philox" and node.output[0] == name:
                attribute = node.attribute[0].t
                attribute.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute) ^ 1))
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize("constant", ["m0", "m1", "low_steps", "high_steps"])
def test_a_wrong_generator_makes_outputs_nan(constant: str, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    export_onnx(network(), path, form="seeded", softmax=True, **IMAGE)
    assert np.isfinite(outputs(plain_session(path))).all()
    sabotage(path, constant)
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        assert np.isnan(outputs(plain_session(path, level))).all()
    with pytest.raises(ExportError, match=r"the generator in the graph computes wrong numbers on onnxruntime"):
        load_session(path)


def test_the_check_costs_nothing_once_folded(tmp_path: Path) -> None:
    for form in ("dense", "seeded"):
        export_onnx(network(), tmp_path / f"{form}.onnx", form=form, **IMAGE)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{form}.optimised.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 4
        onnxruntime.InferenceSession(tmp_path / f"{form}.onnx", options)
    operators = {
        form: sorted(node.op_type for node in onnx.load(tmp_path / f"{form}.optimised.onnx").graph.node)
        for form in ("dense", "seeded")
    }
    assert operators["seeded"] == operators["dense"]


# Opening files.


def test_load_session_takes_any_file(tmp_path: Path) -> None:
    export_onnx(to_dense(network()), tmp_path / "a.onnx", **IMAGE)
    model = onnx.load(tmp_path / "a.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "b.onnx")
    wanted = outputs(plain_session(tmp_path / "a.onnx", "ORT_ENABLE_EXTENDED"))
    assert outputs(load_session(tmp_path / "b.onnx")).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "No graph was found"), (b"no onnx", "not an ONNX")],
)
def test_load_session_refuses_in_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=message) as caught:
        load_session(path)
    assert "\n" not in str(caught.value)


# Requests that make no sense.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "pakced"}, r"form: expected one of dense, packed, int8, seeded, float16, auto, got 'pakced'.*packed"),
        ({"runtime": "tflite"}, r"runtime: expected one of onnxruntime, .*got 'tflite'"),
        ({"form": "seeded", "runtime": "openvino"}, r"seeded is not right on openvino: expected one of dense, packed"),
        ({"form": "packed", "keep_quantized": True}, r"keep-quantized belongs to form int8, got form packed"),
        ({"form": "int8", "keep_quantized": True, "runtime": "openvino"}, r"keep-quantized is not right on openvino"),
        (
            {"ir_version": 7},
            r"IR version 7 is not supported with opset 18: expected 8 to \d+ \(what onnx",
        ),
        ({"ir_version": 99}, r"IR version 99 is not supported with opset 18: expected 8 to \d+"),
        ({"opset": 99}, r"opset 99 is not supported: expected 18 to \d+"),
    ],
)
def test_bad_options(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        export_onnx(network(), tmp_path / "a.onnx", **options, **IMAGE)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_newer_file_format(tmp_path: Path) -> None:
    report = export_onnx(network(), tmp_path / "a.onnx", form="packed", ir_version=9, **IMAGE)
    assert report.ir_version == onnx.load(tmp_path / "a.onnx").ir_version == 9
    assert isinstance(onnx.load(tmp_path / "a.onnx"), ModelProto)
