"""Masked weights of attention and of recurrent layers: values, gradients, each pass, copies, files, ONNX."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from networks import refresh, settings
from torch import Tensor, nn
from torch.nn import functional as F

from iterand_compress import ImageInput, export_onnx, load, load_session, to_dense, verify_onnx
from iterand_compress.compress.config import SubnetworkConfig
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask.layers import masked_layers, pruned_layers
from iterand_compress.compress.mask.masked_weight import MaskedWeight
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.mask.prune_at_init import find_masks
from iterand_compress.compress.pack import pack
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seedmask import read_seedmask
from iterand_compress.compress.tensors import recovered_state

# Which torch computes in its own way, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

ITERAND = settings(method="iterand", seed=3, every=1, rate=0.5, distribution="normal", score_bound=0.002 * 6**0.5)
CLASSES = 3


class Attending(nn.Module):
    """Attention between three views of a sequence; all the same if ``own``."""

    def __init__(self, *, own: bool = False, **options: object) -> None:
        super().__init__()
        self.own = own
        self.embed = nn.Linear(4, 8)
        self.others = nn.ModuleList([nn.Linear(4, int(options.get(size, 8))) for size in ("kdim", "vdim")])
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        query = self.embed(x)
        key, value = (query, query) if self.own else (layer(x) for layer in self.others)
        return self.head(self.attention(query, key, value)[0].mean(1))


class Encoding(nn.Module):
    """Stock encoder layers, which have a fast path of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.flatten(2).transpose(1, 2))).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer over the pixels."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        places = (0, 2, 1) if self.layer.batch_first else (2, 0, 1)
        return self.head(self.layer(x.flatten(2).permute(places))[0].mean(places.index(2)))


class Stepwise(nn.Module):
    """A cell, pixel by pixel."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for pixel in x.flatten(2).unbind(2):
            state = self.cell(pixel, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


#: Models, the names of the weights that are masked beside those of linear layers, and their fan-ins.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "attention": (Attending, {"attention.in_proj_weight": 8}),
    "attention to itself": (lambda: Attending(own=True), {"attention.in_proj_weight": 8}),
    "attention with sizes": (
        lambda: Attending(kdim=5, vdim=7, add_bias_kv=True, bias=False),
        {"attention.q_proj_weight": 8, "attention.k_proj_weight": 5, "attention.v_proj_weight": 7},
    ),
    "encoder": (Encoding, {f"encoder.layers.{i}.self_attn.in_proj_weight": 8 for i in range(2)}),
    "gru": (
        lambda: Recurrent(nn.GRU(4, 6, 2, batch_first=True, bidirectional=True), 12),
        {
            f"layer.weight_{kind}_l{i}{back}": {"hh": 6, "ih": (4, 12)[i]}[kind]
            for i in range(2)
            for back in ("", "_reverse")
            for kind in ("ih", "hh")
        },
    ),
    "lstm": (lambda: Recurrent(nn.LSTM(4, 6, bias=False), 6), {"layer.weight_ih_l0": 4, "layer.weight_hh_l0": 6}),
    "lstm with projection": (
        lambda: Recurrent(nn.LSTM(4, 6, proj_size=3, batch_first=True), 3),
        {"layer.weight_ih_l0": 4, "layer.weight_hh_l0": 3, "layer.weight_hr_l0": 6},
    ),
    "rnn": (
        lambda: Recurrent(nn.RNN(4, 6, nonlinearity="relu"), 6),
        {"layer.weight_ih_l0": 4, "layer.weight_hh_l0": 6},
    ),
    "gru cell": (lambda: Stepwise(nn.GRUCell(4, 6)), {"cell.weight_ih": 4, "cell.weight_hh": 6}),
    "lstm cell": (lambda: Stepwise(nn.LSTMCell(4, 6)), {"cell.weight_ih": 4, "cell.weight_hh": 6}),
    "rnn cell": (lambda: Stepwise(nn.RNNCell(4, 6)), {"cell.weight_ih": 4, "cell.weight_hh": 6}),
}
EVERY = pytest.mark.parametrize("kind", NETWORKS)


def images() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 4, 2, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % CLASSES


def network(kind: str, config: SubnetworkConfig = ITERAND) -> nn.Module:
    torch.manual_seed(0)
    return mask_model(NETWORKS[kind][0](), config)


def learn(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    inputs, labels = images()
    model.train()
    for step in range(steps):
        refresh(getattr(model, "module", model), step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def outputs(model: nn.Module) -> Tensor:
    """Of weights that ask for no gradient: some of torch's kernels differ by that in the last bits."""
    model = model.eval().requires_grad_(False)
    return model(images()[0])


@EVERY
def test_weights_follow_from_seed_index_and_fan_in(kind: str) -> None:
    make, fans = NETWORKS[kind]
    model = network(kind)
    shapes = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    found = {name: (part, scores) for name, part, scores in masked_layers(model)}
    assert fans.keys() < found.keys()
    assert [part.spec.tensor for part, _ in found.values()] == list(range(len(found)))
    book = get_codebook("normal")
    for name, fan in fans.items():
        part, scores = found[name]
        count = int(np.prod(shapes[name]))
        codes = random_codes(3, part.spec.tensor, book, 0, count).astype(np.float32)
        kept = np.argsort(-scores.detach().numpy(), kind="stable")[: count // 2]
        expected = np.zeros(count, np.float32)
        expected[kept] = (codes * book.scale(fan))[kept]
        layer, _, tensor = name.rpartition(".")
        assert np.array_equal(getattr(model.get_submodule(layer), tensor).detach().numpy().reshape(-1), expected)


@EVERY
def test_training_changes_what_is_computed_in_the_next_pass(kind: str) -> None:
    model = network(kind)
    before = {name: (part.mask(scores), scores.detach().clone()) for name, part, scores in masked_layers(model)}
    first = outputs(copy.deepcopy(model))
    learn(model)
    unused = {"others.0.weight", "others.1.weight"} if kind == "attention to itself" else set()
    for name, _, scores in masked_layers(model):
        assert (name in unused) == torch.equal(scores, before[name][1]), name
    now = {name: part.mask(scores) for name, part, scores in masked_layers(model)}
    assert any(not torch.equal(now[name], before[name][0]) for name in NETWORKS[kind][1])
    plain = to_dense(model)
    assert torch.equal(outputs(copy.deepcopy(model)), outputs(plain))
    assert not torch.equal(outputs(plain), first)


@EVERY
def test_gradients_are_those_of_the_weights_times_the_random_numbers(kind: str) -> None:
    model = network(kind)
    inputs, labels = images()
    plain = to_dense(model)
    for one in (model, plain):
        F.cross_entropy(one(inputs), labels).backward()
    for name, part, scores in masked_layers(model):
        gradient = plain.get_parameter(name).grad
        if gradient is not None:
            assert gradient.any(), name
            torch.testing.assert_close(scores.grad, gradient.reshape(-1) * part.random)


@EVERY
def test_a_plain_network_comes_out(kind: str, tmp_path: Path) -> None:
    make, _ = NETWORKS[kind]
    model = network(kind)
    learn(model)
    plain, fresh = to_dense(model), make()
    assert [type(module) for module in plain.modules()] == [type(module) for module in fresh.modules()]
    assert list(plain.state_dict()) == list(fresh.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in fresh.named_parameters()]
    pack(model, tmp_path / "m.seedmask")
    found = recovered_state(read_seedmask(tmp_path / "m.seedmask"))
    assert found.keys() == fresh.state_dict().keys()
    recovered = load(tmp_path / "m.seedmask", fresh)
    assert torch.equal(outputs(recovered), outputs(model))
    for module in plain.modules():
        if isinstance(module, nn.RNNBase):
            assert all(a is b for a, b in zip(module._flat_weights, module.parameters(), strict=True))
    learned = plain.requires_grad_(True)
    learn(learned, 1)  # and it learns, from the weights that it has
    assert not torch.equal(outputs(learned), outputs(recovered))


@EVERY
def test_copies_and_conversions(kind: str) -> None:
    model = network(kind)
    learn(model)
    twin = copy.deepcopy(model)
    learn(twin)
    assert not torch.equal(outputs(copy.deepcopy(twin)), outputs(copy.deepcopy(model)))
    learn(model)
    assert torch.equal(outputs(copy.deepcopy(twin)), outputs(copy.deepcopy(model)))
    exact = outputs(copy.deepcopy(model))
    model.double()
    double = model.eval()(images()[0].double())
    torch.testing.assert_close(double.float(), exact)
    copy.deepcopy(model.float())
    other = network(kind)
    other.load_state_dict(twin.state_dict())
    assert torch.equal(outputs(other), outputs(twin))


@EVERY
def test_a_pass_computes_each_weight_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(kind)
    calls: list[int] = []
    forward = MaskedWeight.forward
    monkeypatch.setattr(MaskedWeight, "forward", lambda self, x: calls.append(self.spec.tensor) or forward(self, x))
    model(images()[0])
    often = {part.spec.tensor for name, part, _ in masked_layers(model) if "cell" in name or "out_proj" in name}
    once = [tensor for tensor in calls if tensor not in often]
    assert len(once) == len(set(once))


@pytest.mark.parametrize("method", ["snip", "grasp", "magnitude", "synflow", "dense"])
@pytest.mark.parametrize("kind", ["attention", "encoder", "gru", "lstm with projection"])
def test_weights_that_are_trained(kind: str, method: str, tmp_path: Path) -> None:
    config = settings(method=method, seed=3, distribution="normal", sparsity=0.5)
    model = network(kind, config)
    inputs = (4, 2, 3) if method == "synflow" else images()
    if method != "dense":
        find_masks(model, config, inputs)
        assert {name for name, _, _ in pruned_layers(model)} > NETWORKS[kind][1].keys()
    learn(model)
    if method != "dense":
        pack(model, tmp_path / "m.seedmask", with_weights="float32")
        recovered = load(tmp_path / "m.seedmask", NETWORKS[kind][0]())
        assert torch.equal(outputs(recovered), outputs(model))


@pytest.mark.parametrize("kind", ["attention", "attention to itself", "encoder", "gru"])
def test_a_network_in_several_processes(kind: str) -> None:
    alone, model = network(kind), network(kind)
    learn(alone)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        learn(nn.parallel.DistributedDataParallel(model, find_unused_parameters=True))
    finally:
        dist.destroy_process_group()
    assert torch.equal(outputs(model), outputs(alone))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention to itself", "encoder", "gru"])
def test_a_compiled_network(kind: str) -> None:
    model = network(kind)
    inputs, labels = images()
    F.cross_entropy(torch.compile(copy_ := copy.deepcopy(model), backend="aot_eager")(inputs), labels).backward()
    F.cross_entropy(model(inputs), labels).backward()
    for (_, _, scores), (_, _, others) in zip(masked_layers(model), masked_layers(copy_), strict=True):
        if others.grad is not None:
            torch.testing.assert_close(scores.grad, others.grad)


class Everything(nn.Module):
    """All of them in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.gru = nn.GRU(8, 5, batch_first=True, bidirectional=True)
        self.lstm = nn.LSTM(10, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=10, vdim=8)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cell = nn.GRUCell(8, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.embed(x.flatten(2).transpose(1, 2)))
        wide = self.gru(x)[0]
        narrow = self.lstm(wide)[0]
        x = self.cross(self.attention(x, wide, narrow)[0], narrow, narrow)[0]
        return self.head(self.cell(x.mean(1)))


@pytest.mark.slow
@pytest.mark.usefixtures("captured_once")
@pytest.mark.parametrize("distribution", ["normal", "signed-constant"])
def test_every_form_of_an_onnx_file_computes_the_same_bits(distribution: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mask_model(Everything(), ITERAND.model_copy(update={"distribution": distribution}))
    learn(model)
    found = []
    for form in ("dense", "packed", "int8", "seeded"):
        image = {"input": ImageInput((4, 2, 3), [0.0] * 4, [1.0] * 4)}
        report = export_onnx(model, tmp_path / "m.onnx", form=form, **image)
        assert report.unmasked_bytes == 0
        verified = verify_onnx(tmp_path / "m.onnx")
        assert verified.weights == len(masked_layers(model)) == 20
        assert verified.recovered == (0 if form == "dense" else 20)
        pixels = images()[0]
        found.append(load_session(tmp_path / "m.onnx").run(None, {"pixels": pixels.numpy()})[0])
    np.testing.assert_allclose(found[0], outputs(model).numpy(), atol=1e-5)
    assert {one.tobytes() for one in found} == {found[0].tobytes()}


def test_weights_cannot_be_assigned() -> None:
    model = network("gru")
    with pytest.raises(ConfigError, match="cannot be assigned"):
        model.layer.weight_ih_l0 = torch.zeros(18, 4)
    assert outputs(model).isfinite().all()


def test_where_leaves_all_of_a_layer_out() -> None:
    model = mask_model(Encoding(), ITERAND, filter_fn=lambda layer, _: not isinstance(layer, nn.MultiheadAttention))
    names = [name for name, _, _ in masked_layers(model)]
    assert "encoder.layers.0.self_attn.out_proj.weight" in names
    assert not any(name.endswith("in_proj_weight") for name in names)
    assert "encoder.layers.0.self_attn.in_proj_weight" in dict(model.named_parameters())
