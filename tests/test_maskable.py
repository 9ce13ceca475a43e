"""Which weights may be masked, and what a file then holds: each case recovers as a plain module, or is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from networks import refresh
from networks import settings as make_settings
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from iterand_compress import export_onnx, load, load_session, to_dense, verify_onnx
from iterand_compress.compress.analysis.estimate import estimate
from iterand_compress.compress.config import ModelConfig, SubnetworkConfig
from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.inputs import ImageInput
from iterand_compress.compress.mask.layers import masked_layers, pruned_layers
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.mask.prune_at_init import find_masks, use_masks
from iterand_compress.compress.models import resolve
from iterand_compress.compress.pack import pack
from iterand_compress.compress.recover import load_ticket
from iterand_compress.compress.seedmask import read_seedmask
from iterand_compress.compress.tensors import recovered_state
from iterand_compress.export.export_options import ExportOptions
from iterand_compress.export.from_file import export_network

EDGE_POPUP = make_settings(method="edge-popup", seed=5)


def config(method: str = "edge-popup", **changes: object) -> SubnetworkConfig:
    return make_settings(method, seed=5, **changes)


def learn(model: nn.Module, inputs: Tensor, steps: int = 3, *, epochs: int | None = None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step in range(steps):
        refresh(model, step, steps_per_epoch=1, epochs=epochs or steps)
        optimizer.zero_grad()
        output = model(inputs)
        F.cross_entropy(output, torch.arange(len(output)) % output.shape[1]).backward()
        optimizer.step()


def comes_back(model: nn.Module, plain: nn.Module, inputs: Tensor, path: Path) -> nn.Module:
    """The recovered network computes what the trained one does; a plain state dict has exactly its keys."""
    pack(model, path)
    assert recovered_state(read_seedmask(path)).keys() == plain.state_dict().keys()
    recovered = load(path, plain)
    model.eval()
    with torch.no_grad():
        assert torch.equal(recovered(inputs), model(inputs))
    return recovered


class Twins(nn.Module):
    """A layer under two names, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = self.a
        self.c = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


METHODS = [
    config(),
    config("iterand", every=1, rate=0.5),
    config("iterand", distribution="normal", every=1, rate=0.5),
    config("recycling", every=1, distribution="uniform"),
    config("biprop", distribution="normal"),
    config("signed-supermask"),
    config("signed-supermask", distribution="normal"),
    config(multiplicity=3, distribution="signed-constant", frozen=0.3),
    config(scope="global", ramp_epochs=2),
]


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
def test_a_layer_under_two_names_is_stored_under_both(method: SubnetworkConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = mask_model(Twins(), method), torch.randn(9, 6)
    learn(model, inputs, 4)
    recovered = comes_back(model, Twins(), inputs, tmp_path / "twins.seedmask")
    assert recovered.a is recovered.b
    weights = read_seedmask(tmp_path / "twins.seedmask").weights()
    assert list(weights) == ["a.weight", "c.weight", "b.weight"]
    assert weights["a.weight"].tobytes() == weights["b.weight"].tobytes()
    assert torch.equal(torch.from_numpy(weights["a.weight"]), to_dense(model).a.weight)


@pytest.mark.parametrize("values", ["initial", "float32", "int8"])
def test_a_pruned_layer_under_two_names(values: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, inputs = tmp_path / "ticket.seedmask", torch.randn(9, 6)
    model = mask_model(Twins(), config("magnitude"))
    find_masks(model, config("magnitude"))
    learn(model, inputs)
    pack(model, path, with_weights=values)
    found = recovered_state(read_seedmask(path))
    assert torch.equal(found["a.weight"], found["b.weight"])
    Twins().load_state_dict(found, strict=True)
    again = mask_model(Twins(), config("magnitude"))
    use_masks(again, load_ticket(path).masks)
    masks, expected = ([part.mask for _, part, _ in pruned_layers(one)] for one in (again, model))
    assert all(torch.equal(*pair) for pair in zip(masks, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "packed", "int8", "seeded"])
def test_a_layer_under_two_names_is_exported_once(form: str, tmp_path: Path) -> None:
    class Images(Twins):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1))

    torch.manual_seed(0)
    model = mask_model(Images(), EDGE_POPUP)
    image = {"input": ImageInput((1, 2, 3), [0.0], [1.0])}
    export_onnx(model, tmp_path / "twins.onnx", form=form, **image)
    pixels = torch.rand(4, 1, 2, 3)
    (found,) = load_session(tmp_path / "twins.onnx").run(None, {"pixels": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(pixels).detach())


def test_layers_that_only_look_like_one_are_not_stored_as_one() -> None:
    model = nn.Sequential(mask_model(nn.Linear(6, 6), EDGE_POPUP), mask_model(nn.Linear(6, 6), EDGE_POPUP))
    with torch.no_grad():
        model[1].parametrizations.weight.original.neg_()
    with pytest.raises(SeedMaskError, match=r"layers 0\.weight and 1\.weight have the same random weights"):
        pack(model, "never.seedmask")


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 8)
        self.head.weight = self.embed.weight


class Named(nn.Module):
    """A weight under a second name, given by ``hold``."""

    def __init__(self, hold: Callable[[nn.Linear], object]) -> None:
        super().__init__()
        self.enc = nn.Linear(4, 4)
        self.w = hold(self.enc)


REFUSED: list[tuple[str, Callable[[], nn.Module], str]] = [
    ("tied", Tied, r"layers embed and head share one weight; give each of them a weight of its own"),
    (
        "parameter",
        lambda: Named(lambda layer: layer.weight),
        r"layer enc: its weight is w as well.*give w a copy of its own",
    ),
    ("view", lambda: Named(lambda layer: layer.weight.data.t()), r"layer enc: its weight is w as well"),
    ("part", lambda: Named(lambda layer: layer.weight[2:]), r"layer enc: its weight is w as well"),
    ("list", lambda: Named(lambda layer: [layer.weight]), r"layer enc: its weight is w as well"),
    ("dict", lambda: Named(lambda layer: {"x": layer.weight}), r"layer enc: its weight is w as well"),
    ("parameters", lambda: Named(lambda layer: nn.ParameterList([layer.weight])), r"its weight is w\.0 as well"),
    ("prune", lambda: prune_(nn.Linear(4, 4)), r"layer 1: weight: expected a floating-point parameter, got something"),
    (
        "weight_norm",
        lambda: weight_norm(nn.Linear(4, 4)),
        r"layer 1: weight: expected .*build the model without what replaced it",
    ),
    ("spectral_norm", lambda: spectral_norm(nn.Linear(4, 4)), r"layer 1: weight: expected .*build the model without"),
    ("complex", lambda: nn.Linear(4, 4, dtype=torch.complex64), r"layer 1: weight: expected .*got torch\.complex64"),
    ("new norm", lambda: parametrizations.weight_norm(nn.Linear(4, 4)), r"layer 1: parametrized already"),
    ("recurrent", lambda: weight_norm(nn.GRU(4, 4), "weight_hh_l0"), r"layer 1: weight_hh_l0: expected a floating"),
]


def prune_(layer: nn.Linear) -> nn.Linear:
    return prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("method", ["edge-popup", "snip"])
@pytest.mark.parametrize(("make", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_no_weight_of_its_own_is_refused_and_left_alone(
    make: Callable[[], nn.Module], message: str, method: str
) -> None:
    odd = make()
    model = odd if isinstance(odd, Tied | Named) else nn.Sequential(nn.Linear(4, 4), odd)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    advice = r"\(in Python, the argument filter_fn= of Subnetwork\(\) can leave layers out\)$"
    with pytest.raises(ConfigError, match=f"{message}.*{advice}"):
        mask_model(model, config(method))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("method", ["edge-popup", "snip"])
def test_tied_weights_of_which_one_is_left_out_are_refused(method: str) -> None:
    model = Tied()
    with pytest.raises(ConfigError, match=r"layer embed: its weight is head\.weight as well, which would then hold"):
        mask_model(model, config(method), filter_fn=lambda _, name: name != "head")
    assert model.head.weight is model.embed.weight
    mask_model(model, config(method), filter_fn=lambda _, name: name == "mix")  # as the message says
    assert model.head.weight is model.embed.weight
    assert model.head.weight.shape == (8, 4)


def norms() -> Iterator[nn.Module]:
    yield parametrizations.weight_norm(nn.Linear(6, 6))
    yield parametrizations.spectral_norm(nn.Linear(6, 6))
    yield parametrizations.orthogonal(nn.Linear(6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield weight_norm(nn.Linear(6, 6))
    yield spectral_norm(nn.Linear(6, 6))
    yield prune_(nn.Linear(6, 6))


@pytest.mark.parametrize("index", range(6))
def test_weights_that_others_compute_come_back_where_they_are_left_out(index: int, tmp_path: Path) -> None:
    def plain() -> nn.Sequential:
        return nn.Sequential(list(norms())[index], nn.ReLU(), nn.Linear(6, 3))

    torch.manual_seed(0)
    inputs = torch.randn(9, 6)
    model = mask_model(plain(), EDGE_POPUP, filter_fn=lambda _, name: name == "2")
    learn(model, inputs)
    torch.manual_seed(1)
    comes_back(model, plain(), inputs, tmp_path / "norms.seedmask")


def test_what_is_put_on_top_of_a_mask_is_refused(tmp_path: Path) -> None:
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

        def right_inverse(self, weight: Tensor) -> Tensor:
            return weight / 2

    model = mask_model(nn.Sequential(nn.Linear(6, 3)), EDGE_POPUP)
    model[0].parametrizations.weight.append(Double())
    for use in (lambda: pack(model, tmp_path / "m.seedmask"), lambda: masked_layers(model)):
        with pytest.raises(ConfigError, match=r"0\.weight: has another parametrization on top of the mask"):
            use()
    other = mask_model(nn.Sequential(nn.Linear(6, 3)), EDGE_POPUP)
    nn.utils.parametrize.register_parametrization(other[0], "bias", Double())
    with pytest.raises(ConfigError, match=r"layer 0: its bias was parametrized after Subnetwork"):
        to_dense(other)


class Padded(nn.Module):
    """Means of embeddings, the last of which is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 12, padding_idx=-2)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))


TOKENS = torch.arange(40).reshape(8, 5) % 7


PADDED = [*METHODS[:5], config(multiplicity=3, frozen=0.3, frozen_kept=0), METHODS[6]]


@pytest.mark.parametrize(
    ("method", "sparsity"),
    # Nothing can be pruned less than is frozen to pruned.
    [(method, sparsity) for method in PADDED for sparsity in (0.01, 0.5, 0.9) if not method.frozen or sparsity > 0.3],
)
def test_the_row_of_padding_is_zero_like_pytorch_has_it(
    method: SubnetworkConfig, sparsity: float, tmp_path: Path
) -> None:
    method = method.model_copy(update={"sparsity": sparsity})
    torch.manual_seed(0)
    model = mask_model(Padded(), method)
    learn(model, TOKENS, 4)
    assert not model.embed.weight[5].any()
    recovered = comes_back(model, Padded(), TOKENS, tmp_path / "padded.seedmask")
    kept = recovered.embed.weight != 0
    assert not kept[5].any()
    if method.selection.scope != "global":
        assert int(kept.sum()) == 72 - int(sparsity * 72 + 0.5), "the sparsity is that of the rows that learn"
    assert not model.embed.parametrizations.weight.original.grad.view(7, 12)[5].any()


@pytest.mark.parametrize("method", ["magnitude", "random", "snip", "dense"])
def test_the_row_of_padding_is_zero_where_weights_are_trained(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = config(method, sparsity=0.1, distribution="normal")
    model = mask_model(Padded(), settings)
    if method != "dense":
        assert not model.embed.weight[5].any()
        find_masks(model, settings, (TOKENS, torch.arange(8) % 3))
        assert sum(part.spec.kept for _, part, _ in pruned_layers(model)) == 108 - 11
    learn(model, TOKENS)
    assert not model.embed.weight[5].any()
    assert model.embed.weight[4].any()
    if method != "dense":
        pack(model, tmp_path / "m.seedmask", with_weights="float32")
        recovered = load(tmp_path / "m.seedmask", Padded())
        assert torch.equal(recovered.embed.weight, to_dense(model).embed.weight)


def test_frozen_weights_of_padding_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layer embed: its row 5 is padding.*frozen_kept = 0 \(in Python"):
        mask_model(Padded(), config(frozen=0.3))


LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(3, 4),
    lambda: nn.Conv2d(3, 4, 3),
    lambda: nn.GRU(3, 4, 2, bidirectional=True),
    lambda: nn.LSTM(5, 4, proj_size=2, bias=False),
    lambda: nn.LSTMCell(3, 4),
    lambda: nn.MultiheadAttention(4, 2),
    lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
    lambda: nn.TransformerEncoderLayer(4, 2, 8),
]


@pytest.mark.parametrize("make", LAYERS)
def test_parameters_keep_their_order(make: Callable[[], nn.Module]) -> None:
    plain = nn.Sequential(make())
    for method in ("edge-popup", "snip"):
        found = to_dense(mask_model(nn.Sequential(make()), config(method)))
        assert [name for name, _ in found.named_parameters()] == [name for name, _ in plain.named_parameters()]
        assert list(found.state_dict()) == list(plain.state_dict())
        assert [type(module) for module in found.modules()] == [type(module) for module in plain.modules()]


def test_a_file_has_the_size_that_was_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.a = nn.Linear(300, 300)\n"
        "        self.b = self.a\n"
        "        self.t = nn.Embedding(100, 50, padding_idx=0)\n"
        "        self.g = nn.GRU(20, 30)\n"
        "        self.c = nn.Linear(300, num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    foretold = estimate(
        ModelConfig(name="ours:Net"), EDGE_POPUP, num_classes=10, input=ImageInput((3, 10, 10), 0, 1), allow_import=True
    )
    import ours

    report = pack(mask_model(ours.Net(10), EDGE_POPUP), tmp_path / "m.seedmask")
    names = [entry.name for entry in read_seedmask(tmp_path / "m.seedmask").tensors]
    assert [layer.name for layer in foretold.layers] == names
    assert names == ["a.weight", "t.weight", "g.weight_ih_l0", "g.weight_hh_l0", "c.weight", "b.weight"]
    assert (foretold.weights, foretold.kept) == (report.weights, report.kept)
    assert foretold.dense_bytes == report.dense_bytes
    assert abs(foretold.mask_bytes + foretold.log_bytes - (report.mask_bits + report.log_bits) / 8) < 500


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "packed"])
def test_a_file_with_weights_that_no_graph_has_is_exported(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unread.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.unused = nn.Linear(5, 5)\n"
        "        self.a = nn.Linear(12, 12)\n"
        "        self.b = self.a\n"
        "        self.c = nn.Linear(12, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.c(self.b(self.a(x.flatten(1)).relu()))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import unread

    about = resolve(ModelConfig(name="unread:Net"), num_classes=3, input=ImageInput((3, 2, 2), 0, 1)).to_dict()
    given = ImageInput(shape=(3, 2, 2), mean=(0.5,) * 3, std=(0.5,) * 3)
    pack(mask_model(unread.Net(3), EDGE_POPUP), tmp_path / "m.seedmask", architecture=about, input=given)
    export_network(tmp_path / "m.seedmask", tmp_path / "m.onnx", ExportOptions(form), model="unread:Net")
    assert verify_onnx(tmp_path / "m.onnx").weights == 2


def test_what_a_forward_pass_leaves_behind_can_be_copied() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.fc(x)
            return self.last

    model = mask_model(Remembers(), EDGE_POPUP)
    x = torch.randn(2, 4)
    expected = model(x)
    assert torch.equal(to_dense(model)(x), expected)
