"""Modules as people have them: each exports right or is refused in one line, and stays as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import settings
from torch import nn

from iterand_compress import ImageInput, OnnxClassifier, export_onnx, load, pack, to_dense, verify_onnx
from iterand_compress.compress.errors import ExportError
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.export import capture, pipeline
from iterand_compress.export.graph import Graph
from iterand_compress.export.runtime.structure import accepted_difference

UNSCALED = ImageInput((3, 4, 4), 0, 1)
IMAGE = {"input": ImageInput((3, 4, 4), [0.5] * 3, [0.25] * 3)}


class Net(nn.Module):
    """A linear layer, and what ``change`` makes of its input and output."""

    def __init__(self, change: Callable[[Net, torch.Tensor], torch.Tensor] = lambda net, x: net.head(x)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(48, 5)
        self.change = change

    def head(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(self, x)

    def extra_repr(self) -> str:
        return f"{id(self.change)}"  # networks with the same text share one graph, see `captured_once`


def subnetwork() -> nn.Module:
    torch.manual_seed(0)
    return mask_model(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), settings(sparsity=0.5))


def refused(model: nn.Module, message: str, folder: Path, **options: object) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(model, folder / "net.onnx", **{**IMAGE, **options})
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())
    assert torch.equal(torch.get_rng_state(), before), "the global random generator was used"


def exported(model: nn.Module, folder: Path, **options: object) -> bytes:
    export_onnx(model, folder / "net.onnx", **{**IMAGE, **options})
    verify_onnx(folder / "net.onnx")
    return (folder / "net.onnx").read_bytes()


def content(data: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """Tensors and metadata, in no order."""
    model = onnx.load_from_string(data)
    tensors = {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
    return tensors, {entry.key: entry.value for entry in model.metadata_props}


# The rule that tells rounding from a wrong graph.


def test_what_counts_as_rounding() -> None:
    ulp = float(np.finfo(np.float32).eps)
    spread = np.array([[-1, 2], [0, 1]], np.float32)
    assert accepted_difference(spread) == pytest.approx(3e-4, rel=0.1)
    assert accepted_difference(spread * np.float32(1e-5)) == pytest.approx(3e-9, rel=0.1), "whatever the scale"
    assert accepted_difference(spread + np.float32(1e4)) == pytest.approx(3e-4 + 32 * ulp * 1e4, rel=0.01)
    one = np.array([[3.0]], np.float32)  # of one class and one sample, there is no spread
    assert accepted_difference(one) == accepted_difference(one.astype(np.float64)) == pytest.approx(96 * ulp)
    assert accepted_difference(one.astype(np.float16)) == pytest.approx(96 * float(np.finfo(np.float16).eps))
    assert accepted_difference(one * 0) == accepted_difference(one[:0]) == 0.0
    even = np.full((1, 4), 0.25)  # probabilities move with the rounding of their logits
    assert accepted_difference(even, np.full((1, 4), 1e4, np.float32)) == pytest.approx(0.25 * 1e4 * 32 * ulp, rel=0.01)
    assert np.isnan(accepted_difference(np.array([1, np.nan], np.float32)))


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (1e-5, 0.0), (1e-30, 0.0), (1.0, 1e4), (0.0, 0.0), (0.0, 3.0)])
@pytest.mark.parametrize("softmax", [False, True])
def test_right_graphs_of_any_scale(
    scale: float, bias: float, softmax: bool, tmp_path: Path, captured_once: None
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with torch.no_grad():
        model[1].weight.mul_(scale)
        model[1].bias.mul_(scale).add_(bias)
    exported(model, tmp_path, softmax=softmax)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2, 8])
def test_one_class(samples: int, tmp_path: Path, captured_once: None) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    exported(model, tmp_path, samples=torch.rand(samples, 3, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "bias", "error"), [(1e-5, 0.0, 1e-3), (1e-5, 1.0, 2.0), (1.0, 1e4, 0.5)])
def test_wrong_graphs_of_any_scale(
    scale: float, bias: float, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``error`` is relative to the weights."""

    def corrupt(graph: Graph, *_: object) -> None:
        graph.put("last.weight", graph.array("last.weight") * np.float32(1 + error))

    model = Net()
    with torch.no_grad():
        model.last.weight.mul_(scale)
        model.last.bias.mul_(scale).add_(bias)
    monkeypatch.setattr(pipeline, "write_dense", corrupt)
    refused(model, "onnxruntime and PyTorch differ: largest absolute difference of the outputs", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda net, x: nn.functional.dropout(net.head(x)) * 1e-5,
        lambda net, x: nn.functional.dropout(net.head(x)) + 1e4 * torch.arange(5),
        lambda net, x: net.head(x) + torch.rand(5),
        lambda net, x: net.head(x[torch.randperm(len(x))]),
        lambda net, x: net.head(x) + float(np.random.default_rng().random()),
        lambda net, x: (setattr(net, "calls", getattr(net, "calls", 0) + 1), net.head(x) * net.calls)[1],
    ],
    ids=["dropout", "beside-a-bias", "rand", "randperm", "numpy", "counter"],
)
def test_a_network_that_is_no_function(change: Callable[[Net, torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    refused(Net(change), "Net gives other outputs when the same inputs come again: it draws random numbers", tmp_path)


# What forward() does to tensors that are not its own.


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda n, x: n.head(x.sub_(1)), lambda n, x: n.head(nn.functional.relu(x, True))])
def test_an_input_that_is_changed_in_place(change: Callable[[Net, torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    samples = torch.rand(4, 3, 4, 4)
    before = samples.clone()
    data = exported(Net(change), tmp_path, samples=samples, normalize=False, input=UNSCALED)
    assert torch.equal(samples, before)
    assert data
    wanted = Net(change)(samples.clone()).detach().numpy()
    np.testing.assert_allclose(OnnxClassifier(tmp_path / "net.onnx").logits(before.numpy()), wanted, atol=1e-5)


def keep(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.kept = {"features": [x * net.last.bias.sum()]}
    return net.head(net.kept["features"][0])


@pytest.mark.slow
def test_features_that_forward_keeps(tmp_path: Path) -> None:
    fresh, used = Net(keep), Net(keep)
    used(torch.rand(2, 3, 4, 4))
    features = used.kept["features"][0]
    assert exported(used, tmp_path) == exported(fresh, tmp_path)
    assert used.kept["features"][0] is features
    model = mask_model(used, settings())
    model(torch.rand(2, 3, 4, 4))
    assert torch.equal(to_dense(model).last.weight, model.last.weight)
    exported(model, tmp_path, form="packed")


def test_features_out_of_reach(tmp_path: Path) -> None:
    model = Net()
    model.kept = type("Box", (), {})()
    model.kept.features = model.last.weight * 2
    refused(model, "cannot be copied for the export: it keeps a tensor .* has gradients", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_are_computed_by_hooks(tmp_path: Path) -> None:
    for wrap in (nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm):
        model = nn.Sequential(nn.Flatten(), wrap(nn.Linear(48, 5))).eval()
        exported(model, tmp_path)
        pixels = torch.rand(2, 3, 4, 4)
        found = OnnxClassifier(tmp_path / "net.onnx").logits(pixels.numpy())
        np.testing.assert_allclose(found, model((pixels - 0.5) / 0.25).detach().numpy(), atol=1e-5)


# Types and wrappers.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_subnetwork_in_another_type(dtype: torch.dtype, tmp_path: Path, captured_once: None) -> None:
    """Its export is that of what load() gives: float32 weights, though the module computes with rounded ones."""
    model = subnetwork().to(dtype)
    pack(model, tmp_path / "m.seedmask")
    empty = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).to(torch.promote_types(dtype, torch.float32))
    plain = load(tmp_path / "m.seedmask", empty)
    for form in ("dense", "packed", "seeded"):
        data = content(exported(model, tmp_path, form=form))
        assert data == content(exported(plain, tmp_path, form=form, weights=tmp_path / "m.seedmask"))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert data == content(exported(plain.to(dtype), tmp_path, form=form, weights=tmp_path / "m.seedmask"))
    with torch.no_grad():
        plain[1].weight[plain[1].weight != 0] *= 1 + 2**-6
    (tmp_path / "none").mkdir()
    refused(plain, "expected its weight, got other values", tmp_path / "none", weights=tmp_path / "m.seedmask")


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m))])
def test_wrappers_leave_no_trace(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path, captured_once: None) -> None:
    assert exported(wrap(subnetwork()), tmp_path, form="packed") == exported(subnetwork(), tmp_path, form="packed")


@pytest.mark.slow
def test_a_compiled_layer_inside(tmp_path: Path) -> None:
    model = Net()
    wanted = content(exported(model, tmp_path))[1]["iterand.probe"]
    model.last = torch.compile(model.last)
    assert content(exported(model, tmp_path))[1]["iterand.probe"] == wanted


@contextlib.contextmanager
def default(what: str, value: object, normal: object) -> Iterator[None]:
    getattr(torch, f"set_default_{what}")(value)
    try:
        yield
    finally:
        getattr(torch, f"set_default_{what}")(normal)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        lambda: torch.device("meta"),
        lambda: default("device", "meta", None),
        lambda: default("dtype", torch.float64, torch.float32),
    ],
    ids=["autocast", "inference", "device", "default-device", "default-dtype"],
)
def test_modes_of_torch_play_no_part(
    mode: Callable[[], contextlib.AbstractContextManager[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "capture", capture.capture)  # each time anew
    model = subnetwork()
    plain = Net(lambda net, x: net.head(x) + torch.ones(5))  # made in forward(), where the default device says
    wanted = [exported(model, tmp_path, form="packed"), exported(plain, tmp_path)]
    with mode():
        found = [exported(model, tmp_path, form="packed"), exported(plain, tmp_path)]
        assert torch.empty(0).device.type in ("cpu", "meta")
    assert found == wanted
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Net(lambda net, x: {net.head(x)}), "must return tensors, found set"),
        (Net(lambda net, x: net.head(x).bfloat16()), r"must return tensors of float16 .*, found torch\.bfloat16"),
        (Net(lambda net, x: net.head(x).to_sparse()), r"must return tensors .*, found .*\(torch\.sparse_coo, cpu\)"),
        (Net(lambda net, x: net.head(x).to("meta")), r"must return tensors .*, found .*\(torch\.strided, meta\)"),
        (Net(lambda net, x: net.head(x)[:, :0]), r"must return tensors with elements, found the shape \[1, 0\]"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), "lazy layers that have not seen an input yet; run it once"),
        (nn.ModuleList([nn.Linear(3, 3)]), "ModuleList does not take an input of shape"),
        (
            Net(lambda net, x: net.head(x) if x.shape[0] > 1 else net.head(x) * 2),
            "only one sample alone differs, so its Python code treats a batch of 1 in another way",
        ),
        (
            Net(lambda net, x: net.head(x) if x.shape[0] > 7 else net.head(x) * 2),
            "its Python code fixes the batch size: .*an `if` on the batch size",
        ),
        (
            Net(lambda net, x: net.head(x.view(len(x), 48))),
            r"fixes the batch size: with len\(x\) in the place of x\.shape",
        ),
        (nn.Linear(4, 5, device="meta"), "weights on the meta device, where they hold no numbers"),
        (Net(lambda net, x: net.head(x.view(2, 3, 16))), r"Net does not take an input of shape \[1, 3, 4, 4\]"),
        (
            Net(lambda net, x: torch.stack([net.last(one.flatten()) for one in x])),
            "its Python code fixes the batch size: .*a loop over its samples",
        ),
    ],
    ids=[
        "set",
        "bfloat16",
        "sparse",
        "elsewhere",
        "empty",
        "lazy",
        "no-forward",
        "if-one",
        "if-eight",
        "len",
        "meta",
        "view",
        "loop",
    ],
)
def test_one_line(model: nn.Module, message: str, tmp_path: Path) -> None:
    refused(model, message, tmp_path)


class Complex(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.complex(torch.zeros(5), torch.ones(5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) + (self.head(x) * self.turn).imag


@pytest.mark.slow
def test_complex_numbers_do_not_become_real(tmp_path: Path) -> None:
    """They were: the copy that was exported and compared had lost its imaginary parts."""
    with contextlib.suppress(ExportError):
        export_onnx(Complex(), tmp_path / "net.onnx", normalize=False, **IMAGE)
        pixels = torch.rand(2, 3, 4, 4)
        found = OnnxClassifier(tmp_path / "net.onnx").logits(pixels.numpy())
        np.testing.assert_allclose(found, Complex()((pixels - 0.5) / 0.25).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["pixels", "input", "logits", "probabilities"])
def test_a_parameter_with_the_name_of_an_input(name: str, tmp_path: Path) -> None:
    model = Net(lambda net, x: net.head(x) * getattr(net, name))
    model.register_parameter(name, nn.Parameter(torch.rand(5)))
    refused(model, f"{name}: a parameter or buffer has the name of the graph's input or output", tmp_path, softmax=True)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(10, 4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.bag(x.flatten(1).abs().clamp(max=9).long()))


@pytest.mark.slow
def test_an_operator_that_would_end_the_process(tmp_path: Path) -> None:
    """A loop that carries a sequence of tensors crashes onnxruntime 1.32."""
    refused(Bag(), r"Bag cannot be exported: aten\.embedding_bag becomes a loop over a sequence of tensors", tmp_path)


class Auxiliary(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return (self.head(x), self.head(-x)) if self.training else self.head(x)


@pytest.mark.slow
def test_a_tuple_in_training_only(tmp_path: Path) -> None:
    model = Auxiliary().train()
    exported(model, tmp_path)
    assert model.training
