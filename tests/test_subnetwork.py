"""Subnetworks on stock modules: values, gradients, resampling, copies, state, compile."""

import copy
import io

import numpy as np
import pytest
import torch
from networks import refresh, settings
from torch import nn
from torch.nn import functional as F

from iterand_compress import to_dense
from iterand_compress.compress.config import SubnetworkConfig
from iterand_compress.compress.errors import CheckpointError, ConfigError
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.maskable import MASKABLE
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seed.philox import Purpose, random_words

ITERAND = settings(method="iterand", every=2, rate=0.5, seed=17)


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 10, bias=False),
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))


def train(model: nn.Module, steps: int, first: int = 0, optimizer: torch.optim.Optimizer | None = None) -> None:
    images, labels = batch()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(first, first + steps):
        refresh(model, step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def layer_of(model: nn.Module, name: str):
    return {layer: (part, scores) for layer, part, scores in masked_layers(model)}[name]


def test_effective_weight_is_mask_times_reference_weight():
    model = mask_model(small_net(), ITERAND)
    _, scores = layer_of(model, "4.weight")
    book = get_codebook("signed-constant")
    codes = random_codes(17, 1, book, 0, 2160)
    random = codes.astype(np.float32) * book.scale(216)
    kept = np.argsort(-scores.detach().numpy(), kind="stable")[:1080]
    expected = np.zeros(2160, np.float32)
    expected[kept] = random[kept]
    got = model[4].weight.detach().numpy()
    np.testing.assert_array_equal(got.reshape(-1).view(np.uint32), expected.view(np.uint32))  # +0, not -0


def test_only_scores_are_parameters():
    model = mask_model(small_net(), ITERAND)
    names = [name for name, _ in model.named_parameters()]
    assert names == ["0.parametrizations.weight.original", "4.parametrizations.weight.original"]


@pytest.mark.parametrize("selection", ["signed", "magnitude", "invert"])
def test_gradient_passes_straight_through(selection):
    model = mask_model(small_net(), settings("iterand", every=2, rate=0.5, seed=17, selection=selection))
    images, labels = batch()
    F.cross_entropy(model(images), labels).backward()
    plain = to_dense(model)
    F.cross_entropy(plain(images), labels).backward()
    part, scores = layer_of(model, "4.weight")
    expected = plain[4].weight.grad.reshape(-1) * part.random
    if selection == "magnitude":
        expected = expected * scores.detach().sign()
    torch.testing.assert_close(scores.grad, expected)
    assert (scores.grad[~part.mask(scores)] != 0).any(), "pruned weights must get a gradient, too"


def test_score_start_of_each_method():
    for method, options, gain in (
        ("iterand", {}, 6**0.5),
        ("edge-popup", {}, 1.0),
        ("edge-popup", {"score_bound": 0.5}, 0.5),
    ):
        model = mask_model(small_net(), settings(method, **options))
        _, scores = layer_of(model, "0.weight")
        words = random_words(0, 54, draw=0, tensor=0, purpose=Purpose.SCORES)
        expected = ((words >> 8) / 2**23 - 1) * gain / 3
        np.testing.assert_allclose(scores.detach().numpy(), expected, rtol=1e-6)


def test_resampling_against_a_plain_loop():
    model = mask_model(small_net(), ITERAND)
    part, scores = layer_of(model, "0.weight")
    mask = part.mask(scores).numpy()
    draws = np.zeros(54, int)
    assert not refresh(model, 0)
    for step, event in ((1, 1), (3, 2), (5, 3)):
        assert refresh(model, step)
        words = random_words(17, 54, draw=event, tensor=0, purpose=Purpose.RESAMPLING)
        for i in range(54):
            decision = (int(words[i // 2]) >> (16 * (i % 2))) & 0xFFFF
            if not mask[i] and decision < 32768:
                draws[i] += 1
    assert part.draws.tolist() == draws.tolist()
    assert draws.max() >= 2
    assert (draws[mask] == 0).all()
    book = get_codebook("signed-constant")
    expected = random_codes(17, 0, book, 0, 54, draws.astype(np.uint8)).astype(np.float32) * book.scale(9)
    np.testing.assert_array_equal(part.random.numpy(), expected)


def test_draws_cycle():
    model = mask_model(small_net(), settings("iterand", every=2, draws=2, rate=1.0, seed=17))
    part, scores = layer_of(model, "0.weight")
    pruned = ~part.mask(scores)
    first = part.random.clone()
    refresh(model, 1)
    assert part.draws[pruned].tolist() == [1] * int(pruned.sum())
    refresh(model, 3)
    assert part.draws.sum() == 0
    assert torch.equal(part.random, first)


def test_edge_popup_never_resamples():
    model = mask_model(small_net(), settings("edge-popup"))
    part, _ = layer_of(model, "0.weight")
    assert not refresh(model, 0)
    assert part.draws is None


def test_dense_starts_from_the_random_weights_and_trains_them():
    model = mask_model(small_net(), settings(method="dense", distribution="uniform"))
    book = get_codebook("uniform")
    expected = random_codes(0, 1, book, 0, 2160).astype(np.float32) * book.scale(216)
    np.testing.assert_array_equal(model[4].weight.detach().numpy().reshape(-1), expected)
    assert not masked_layers(model)


def test_materialise_gives_stock_layers_with_equal_bits_and_leaves_the_model_alone():
    model = mask_model(small_net(), ITERAND)
    train(model, 5)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    images, _ = batch()
    expected = model(images)
    plain = to_dense(model)
    assert [type(layer) for layer in plain] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert torch.equal(plain(images), expected)
    assert torch.equal(model(images), expected)
    assert set(plain.state_dict()) == set(small_net().state_dict())
    for key, value in before.items():
        after = model.state_dict()[key]
        assert torch.equal(after, value) if isinstance(value, torch.Tensor) else after == value


def test_deepcopy_trains_on_its_own():
    model = mask_model(small_net(), ITERAND)
    twin = copy.deepcopy(model)
    train(twin, 3)
    scores, twin_scores = layer_of(model, "0.weight")[1], layer_of(twin, "0.weight")[1]
    assert not torch.equal(scores, twin_scores)
    train(model, 3)
    assert torch.equal(scores, twin_scores)


def test_state_dict_restores_draws_and_weights():
    model = mask_model(small_net(), ITERAND)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, 8, optimizer=optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    twin = mask_model(small_net(), ITERAND)
    twin.load_state_dict(stored["model"])
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    twin_optimizer.load_state_dict(stored["optimizer"])
    part, twin_part = layer_of(model, "4.weight")[0], layer_of(twin, "4.weight")[0]
    assert part.draws.max() > 0
    assert torch.equal(part.random, twin_part.random)
    train(model, 5, 8, optimizer)
    train(twin, 5, 8, twin_optimizer)
    assert torch.equal(model[4].weight, twin[4].weight)


def test_state_dict_of_another_seed_is_refused():
    model = mask_model(small_net(), ITERAND)
    other = mask_model(small_net(), ITERAND.model_copy(update={"seed": 18}))
    with pytest.raises(CheckpointError, match="another subnetwork: seed 17 here, 18 there"):
        model.load_state_dict(other.state_dict())


def test_conversions_keep_mask_and_weights():
    model = mask_model(small_net(), ITERAND)
    train(model, 4)
    weight = model[0].weight.detach().clone()
    model.to(memory_format=torch.channels_last)
    assert torch.equal(model[0].weight, weight)
    model.to(torch.float64)
    assert torch.equal(model[0].weight, weight.double())


@pytest.mark.slow
def test_compiled_step_equals_eager_step():
    eager = mask_model(small_net(), ITERAND)
    twin = copy.deepcopy(eager)
    images, labels = batch()
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    F.cross_entropy(compiled(images), labels).backward()
    F.cross_entropy(eager(images), labels).backward()
    torch.testing.assert_close(layer_of(twin, "0.weight")[1].grad, layer_of(eager, "0.weight")[1].grad)


LAYERS = [
    (nn.Linear(6, 4), (2, 6)),
    (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    (nn.Conv2d(4, 4, 3, groups=2), (2, 4, 9, 9)),
    (nn.Conv3d(2, 3, 2), (2, 2, 5, 5, 5)),
    (nn.ConvTranspose1d(3, 4, 3), (2, 3, 9)),
    (nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 9, 9)),
    (nn.ConvTranspose3d(2, 3, 2), (2, 2, 5, 5, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: type(value).__name__)
def test_every_layer_type(layer, shape):
    model = mask_model(nn.Sequential(copy.deepcopy(layer)), ITERAND)
    output = model(torch.randn(shape))
    output.sum().backward()
    assert int((model[0].weight != 0).sum()) == layer.weight.numel() // 2
    assert torch.equal(to_dense(model)[0].weight, model[0].weight)
    assert type(to_dense(model)[0]) is type(layer)


def test_embedding():
    model = mask_model(nn.Sequential(nn.Embedding(10, 4)), ITERAND)
    model(torch.tensor([[1, 2]])).sum().backward()
    _, scores = layer_of(model, "0.weight")
    assert (scores.grad.view(10, 4).abs().sum(1) > 0).nonzero().squeeze(1).tolist() == [1, 2]


def test_all_types_are_tested():
    others = {nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell}
    assert {type(layer) for layer, _ in LAYERS} | {nn.Embedding} | others == set(MASKABLE)


def test_biases_and_unchosen_layers_stay_ordinary_parameters():
    model = mask_model(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), ITERAND, filter_fn=lambda _, name: name == "1")
    assert [name for name, _ in model.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.bias",
        "1.parametrizations.weight.original",
    ]


def test_a_bare_layer_can_be_a_subnetwork():
    model = mask_model(nn.Linear(8, 4), ITERAND)
    assert [name for name, _, _ in masked_layers(model)] == ["weight"]


def refuse(model: nn.Module, match: str, config: SubnetworkConfig = ITERAND) -> None:
    before = [type(module) for module in model.modules()]
    with pytest.raises(ConfigError, match=match):
        mask_model(model, config)
    assert [type(module) for module in model.modules()] == before


def test_refusals():
    refuse(nn.Sequential(nn.ReLU()), "Sequential: no layer to mask; expected at least one of Linear, Conv1d")
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    refuse(tied, "layers 0 and 1 share one weight")
    refuse(
        nn.Sequential(nn.Linear(64, 8), nn.Linear(2, 2)),
        "layer 1: too small for sparsity 0.9",
        ITERAND.model_copy(update={"sparsity": 0.9}),
    )
    refuse(nn.Sequential(nn.Embedding(4, 4, sparse=True)), "layer 0: sparse gradients")
    refuse(mask_model(small_net(), ITERAND), "layer 0: parametrized already")
    refuse(nn.Sequential(nn.LazyLinear(4)), "layer 0: a lazy layer without a shape")


def test_assigning_a_weight_is_refused():
    model = mask_model(small_net(), ITERAND)
    with pytest.raises(ConfigError, match="cannot be assigned"):
        model[0].weight = torch.zeros(6, 1, 3, 3)
