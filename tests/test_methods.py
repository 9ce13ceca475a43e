"""Each method's scores, mask, refresh or α on a small network, against NumPy computations written out here."""

import math

import numpy as np
import pytest
import torch
from networks import refresh
from networks import settings as make_settings
from torch import nn
from torch.nn import functional as F

from iterand_compress import Recycle, Resample, load, load_recipe, pack, read_seedmask, to_dense
from iterand_compress.compress.config import SubnetworkConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.errors import CheckpointError, ConfigError, DataError
from iterand_compress.compress.mask.layers import masked_layers, pruned_layers
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.mask.prune_at_init import class_sample, find_masks, use_masks
from iterand_compress.compress.methods.presets import PRESETS, read_recipe, stored_recipe
from iterand_compress.compress.methods.recycling import recycling_is_due
from iterand_compress.compress.models.activation import BinaryActivation
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seed.philox import Purpose, random_words
from iterand_compress.compress.training import checks
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.run_options import RunOptions

INPUTS, HIDDEN, CLASSES = 6, 7, 3


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, CLASSES, bias=False))


def config(method: str = "edge-popup", **options) -> SubnetworkConfig:
    return make_settings(method=method, seed=5, **options)


def layers_of(model):
    return [(part, scores.detach().numpy().copy()) for _, part, scores in masked_layers(model)]


def weights_of(model) -> list[np.ndarray]:
    return [model[i].weight.detach().numpy().reshape(-1) for i in (0, 2)]


def reference_weights(distribution: str, scales=(1.0, 1.0)) -> list[np.ndarray]:
    book = get_codebook(distribution)
    sizes = (INPUTS * HIDDEN, INPUTS), (HIDDEN * CLASSES, HIDDEN)
    return [
        random_codes(5, i, book, 0, count).astype(np.float32) * np.float32(book.unit / math.sqrt(fan_in * scale))
        for i, ((count, fan_in), scale) in enumerate(zip(sizes, scales, strict=True))
    ]


def largest(keys: np.ndarray, kept: int) -> np.ndarray:
    """Mask of the largest keys, the earlier of equal ones first."""
    mask = np.zeros(len(keys), bool)
    mask[np.argsort(-keys, kind="stable")[:kept]] = True
    return mask


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, INPUTS, generator=generator), torch.arange(12) % CLASSES


# Selection


@pytest.mark.parametrize(("selection", "key"), [("signed", lambda s: s), ("magnitude", np.abs)])
def test_layerwise_selection(selection, key):
    model = mask_model(mlp(), config(selection=selection, sparsity=0.7))
    for (_, scores), weight, random in zip(
        layers_of(model), weights_of(model), reference_weights("signed-constant"), strict=True
    ):
        kept = len(scores) - math.floor(0.7 * len(scores) + 0.5)
        np.testing.assert_array_equal(weight, np.where(largest(key(scores), kept), random, 0))


def test_global_selection_is_one_threshold_over_all_layers():
    model = mask_model(mlp(), config(scope="global", sparsity=0.6))
    refresh(model, 0, steps_per_epoch=1, epochs=1)
    (_, first), (_, second) = layers_of(model)
    # In units of what scores start from, ±1/√fan_in, so that no layer has a start on the others.
    keys = np.concatenate([first / np.float32(1 / math.sqrt(INPUTS)), second / np.float32(1 / math.sqrt(HIDDEN))])
    mask = largest(np.abs(keys), 63 - math.floor(0.6 * 63 + 0.5))
    got = np.concatenate(weights_of(model)) != 0
    np.testing.assert_array_equal(got, mask)
    assert got[:42].sum() not in (17, 0), "layerwise selection would keep 17 of the 42"


def test_global_selection_never_empties_a_layer():
    model = mask_model(mlp(), config(scope="global", sparsity=0.8))
    with torch.no_grad():
        for index, (_, _, scores) in enumerate(masked_layers(model)):
            scores.fill_(1.0 - index)  # without a floor the second layer would lose all
    refresh(model, 0, steps_per_epoch=1, epochs=1)
    # The floor of the second layer: one for each of its 3 rows, but no more than half of 0.2 * 21, rounded up.
    assert [part.spec.kept for part, _ in layers_of(model)] == [63 - 50 - 3, 3]
    assert [int(weight.astype(bool).sum()) for weight in weights_of(model)] == [10, 3]


def test_first_and_last_layer_may_have_sparsities_of_their_own():
    model = nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(4)))
    settings = {"first_sparsity": 0.0, "last_sparsity": 0.25, "scale_fan": True, "ramp_epochs": 2}
    mask_model(model, config(sparsity=0.8, **settings))
    kept, scales = [], [part.spec.scale for part, _ in layers_of(model)]
    for epoch in range(3):
        refresh(model, 3 * epoch, steps_per_epoch=3, epochs=3)
        kept.append([part.spec.kept for part, _ in layers_of(model)])
        assert [int((layer.weight != 0).sum()) for layer in model] == kept[-1]
    assert kept == [[100, 30, 30, 78], [100, 20, 20, 75], [100, 20, 20, 75]], "0.7 and 0.219 in the first epoch"
    assert scales == pytest.approx([math.sqrt(2 / (10 * share)) for share in (1, 0.2, 0.2, 0.75)])
    single = mask_model(nn.Sequential(nn.Linear(10, 10)), config(sparsity=0.8, first_sparsity=0.5))
    assert layers_of(single)[0][0].spec.kept == 50
    for clash in ({"scope": "global"}, {"frozen": 0.5}):
        with pytest.raises(ConfigError, match=r"selection\.last_sparsity: .*, by one sparsity; leave it out"):
            config(last_sparsity=0.5, **clash)


def test_ramp_is_cubic_and_ends():
    model = mask_model(mlp(), config(ramp_epochs=4, sparsity=0.8))
    found = []
    for epoch in range(6):
        refresh(model, 3 * epoch + 1, steps_per_epoch=3, epochs=6)
        found.append(layers_of(model)[0][0].spec.kept)
    expected = [0.8 * (1 - (1 - share) ** 3) for share in (0.25, 0.5, 0.75, 1, 1, 1)]
    assert found == [42 - math.floor(sparsity * 42 + 0.5) for sparsity in expected]
    assert found[0] == 42 - 19
    assert found[3] == found[5] == 8


def test_frozen_weights_follow_from_the_seed():
    options = config(frozen=0.6, frozen_kept=0.2, sparsity=0.5)
    model = mask_model(mlp(), options)
    for tensor, (part, scores) in enumerate(layers_of(model)):
        words = random_words(5, len(scores), draw=0, tensor=tensor, purpose=Purpose.FREEZING)
        values = [(int(words[i // 2]) >> (16 * (i % 2))) & 0xFFFF for i in range(len(scores))]
        pruned = np.array([value < round(0.4 * 65536) for value in values])
        kept = np.array([round(0.4 * 65536) <= value < round(0.4 * 65536) + round(0.2 * 65536) for value in values])
        total = min(max(len(scores) - math.floor(0.5 * len(scores) + 0.5), kept.sum()), (~pruned).sum())
        keys = np.where(pruned, -np.inf, np.where(kept, np.inf, np.abs(scores)))
        mask = largest(keys, total)
        assert (mask & kept == kept).all()
        assert not (mask & pruned).any()
        np.testing.assert_array_equal(part.mask(torch.from_numpy(scores)).numpy(), mask)
    assert pruned.any()
    assert kept.any()


def test_frozen_kept_share_defaults_to_the_density():
    assert config(frozen=0.5, sparsity=0.8).frozen == config(frozen=0.5, frozen_kept=0.1, sparsity=0.8).frozen


def test_coats_are_nested_masks_that_add_up():
    model = mask_model(mlp(), config(multiplicity=3, sparsity=0.5))
    for (_, scores), weight, random in zip(
        layers_of(model), weights_of(model), reference_weights("signed-constant"), strict=True
    ):
        kept = len(scores) - math.floor(0.5 * len(scores) + 0.5)
        times = sum(largest(np.abs(scores), math.ceil(kept * part / 3)).astype(int) for part in (3, 2, 1))
        assert set(times) == {0, 1, 2, 3}
        np.testing.assert_array_equal(weight, times.astype(np.float32) * random)


def test_scale_fan_counts_the_inputs_that_are_kept():
    model = mask_model(mlp(), config(scale_fan=True, sparsity=0.75))
    for weight, fan_in in zip(weights_of(model), (INPUTS, HIDDEN), strict=True):
        assert set(np.abs(weight)) == {np.float32(0), np.float32(math.sqrt(2 / (fan_in * 0.25)))}
    model = mask_model(mlp(), config(scale_fan=True, sparsity=0.5, multiplicity=2))
    # Multiples 1 and 2, half of the kept weights each: mean square 0.5 * (1 + 4) / 2.
    assert np.abs(weights_of(model)[0]).max() == 2 * np.float32(math.sqrt(2 / (INPUTS * 1.25)))


# Signed supermasks


def learned(model, steps: int = 3) -> None:
    """Train long enough at a high rate for many scores to change their sign."""
    images, labels = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0, momentum=0.9)
    for step in range(steps):
        refresh(model, step, steps_per_epoch=1, epochs=9)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


SIGNED = {
    "signed constant": {},
    "uniform": {"distribution": "uniform"},
    "normal": {"distribution": "normal"},
    "binarised": {"distribution": "normal", "binarise": True},
    "all weights": {"sparsity": 0.0},
    "nested": {"multiplicity": 3},
    "frozen": {"frozen": 0.4},
    "global": {"scope": "global", "sparsity": 0.6},
    "redrawn": {"resample": Resample(every=1, rate=0.9), "distribution": "normal"},
    "recycled": {"recycle": Recycle(every=1), "distribution": "uniform"},
}


@pytest.mark.parametrize("options", SIGNED.values(), ids=SIGNED)
def test_signed_supermasks_keep_hide_and_invert(options, tmp_path):
    """Mask, weights and gradients bit for bit; what is packed comes back with the same bits."""
    model = mask_model(mlp(), config("signed-supermask", **options))
    learned(model)
    with torch.no_grad():
        for _, _, scores in masked_layers(model):
            scores[:2] = torch.tensor([-0.0, 0.0])
    images, labels = data()
    F.cross_entropy(model(images), labels).backward()
    plain = to_dense(model)
    F.cross_entropy(plain(images), labels).backward()
    nothing_inverted = True
    for i, (_, part, scores) in enumerate(masked_layers(model)):
        values, random = scores.detach().numpy(), part.random.numpy()
        keys = np.abs(values)
        if part.fixed is not None:
            keys = np.where(part.fixed[0], -np.inf, np.where(part.fixed[1], np.inf, keys))
        of = part.spec.multiplicity
        times = sum(largest(keys, math.ceil(part.spec.kept * c / of)).astype(np.float32) for c in range(1, of + 1))
        base = random
        if part.spec.binarised:
            total = np.abs(part.codes.numpy()[times > 0].astype(np.int64)).sum()
            base = np.sign(random) * np.float32(total * part.spec.scale / part.spec.kept)
        wanted = np.where(times == 0, np.float32(0), np.where(values < 0, -base, base) * times).astype(np.float32)
        np.testing.assert_array_equal(weights_of(model)[i].view(np.uint32), wanted.view(np.uint32))
        above = plain[2 * i].weight.grad.numpy().reshape(-1)
        np.testing.assert_array_equal(scores.grad.numpy(), above * random)  # no sign of the score
        nothing_inverted &= not (values[times > 0] < 0).any()
    assert not nothing_inverted
    pack(model, tmp_path / "m.seedmask")
    recovered = load(tmp_path / "m.seedmask", mlp())
    for index in (0, 2):
        assert torch.equal(recovered[index].weight.view(torch.int32), plain[index].weight.view(torch.int32))
    file = read_seedmask(tmp_path / "m.seedmask")
    two_valued = "distribution" not in options or "binarise" in options
    assert {file.log(tensor.name).kind for tensor in file.tensors} == {"flips" if two_valued else "deltas"}


def test_signed_supermasks_begin_with_nothing_inverted(tmp_path):
    """All scores start positive, those of edge-popup without their signs; so there is no log, and a flip is a sign."""
    model, popup = (mask_model(mlp(), config(method)) for method in ("signed-supermask", "edge-popup"))
    for (part, scores), (other, usual) in zip(layers_of(model), layers_of(popup), strict=True):
        np.testing.assert_array_equal(scores, np.abs(usual))
        assert torch.equal(part.random, other.random)
    assert all((one == other).all() for one, other in zip(weights_of(model), weights_of(popup), strict=True))
    pack(model, tmp_path / "new.seedmask")
    pack(popup, tmp_path / "popup.seedmask")
    assert (tmp_path / "new.seedmask").read_bytes() == (tmp_path / "popup.seedmask").read_bytes()
    learned(model)
    pack(model, tmp_path / "m.seedmask")
    file = read_seedmask(tmp_path / "m.seedmask")
    for (part, scores), tensor in zip(layers_of(model), file.tensors, strict=True):
        mask = largest(np.abs(scores), part.spec.kept)
        np.testing.assert_array_equal(file.log(tensor.name).values, scores[mask] < 0)


def test_trained_signs_survive_a_state_dict_and_no_other_method_takes_it():
    model, twin = (mask_model(mlp(), config("signed-supermask")) for _ in range(2))
    learned(model)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin[0].weight, model[0].weight)
    with pytest.raises(CheckpointError, match="selection 'magnitude' here, 'invert' there"):
        mask_model(mlp(), config()).load_state_dict(model.state_dict())


# Biprop


@pytest.mark.parametrize("distribution", ["normal", "uniform", "signed-constant"])
def test_biprop_alpha_and_gradient(distribution):
    model = mask_model(mlp(), config("biprop", distribution=distribution))
    images, labels = data()
    F.cross_entropy(model(images), labels).backward()
    plain = to_dense(model)
    F.cross_entropy(plain(images), labels).backward()
    for i, (_, part, scores) in enumerate(masked_layers(model)):
        random = reference_weights(distribution)[i].astype(np.float64)
        values = scores.detach().numpy()
        mask = largest(np.abs(values), part.spec.kept)
        alpha = np.float32(np.abs(random[mask]).sum() / mask.sum())
        got = weights_of(model)[i]
        np.testing.assert_allclose(got, np.where(mask, alpha * np.sign(random), 0), rtol=1e-6)
        assert len(np.unique(np.abs(got))) == 2, "0 and α"
        gradient = plain[2 * i].weight.grad.numpy().reshape(-1)
        np.testing.assert_allclose(scores.grad.numpy(), gradient * random * np.sign(values), rtol=1e-5, atol=1e-9)


def test_binary_activation():
    layer = BinaryActivation()
    x = torch.tensor([-2.0, -0.75, -0.0, 0.0, 0.25, 1.0, 3.0], requires_grad=True)
    expected = [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert layer(x).tolist() == expected
    assert layer.eval()(x).tolist() == expected
    layer.train()(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.5, 2.0, 2.0, 1.5, 0.0, 0.0]


# Recycling


def recycled(values: np.ndarray, keys: np.ndarray, rate: float) -> np.ndarray:
    order = np.argsort(keys, kind="stable")
    out, count = values.copy(), int(rate * len(keys))
    for rank in range(count):
        out[order[rank]] = values[order[len(keys) - count + rank]]
    return out


def test_recycling_moves_values_from_high_scores_to_low_ones():
    model = mask_model(mlp(), config("recycling", every=2, distribution="uniform"))
    expected = reference_weights("uniform")
    events = []
    for step in range(3 * 7):
        before = [part.random.clone() for part, _ in layers_of(model)]
        happened = refresh(model, step, steps_per_epoch=3, epochs=7)
        if happened:
            events.append(step)
            layers = layers_of(model)
            expected = [recycled(w, np.abs(s), 0.2) for w, (_, s) in zip(expected, layers, strict=True)]
            with torch.no_grad():
                for _, _, scores in masked_layers(model):
                    scores.copy_(scores.roll(5))
        for old, (part, _), wanted in zip(before, layers_of(model), expected, strict=True):
            np.testing.assert_array_equal(part.random.numpy(), wanted)
            assert happened != torch.equal(old, part.random)
    assert events == [9, 15], "after epochs 2 and 4, counted from 0; not after the last, 6"


def due(rule: Recycle, epochs: int) -> list[int]:
    """Epochs that begin with a recycling, counted from 0."""
    return [epoch for epoch in range(epochs) if recycling_is_due(rule, epoch, epochs)]


def test_recycling_comes_when_the_authors_code_does_it():
    """Gorbett and Whitley's main.py recycles after epoch e (from 0) if e % F == 0, e > 0, and e is not the last;
    main_parallel.py also asks for e > warmup.
    """

    def authors(every: int, epochs: int, warmup: int = 0) -> list[int]:
        return [e + 1 for e in range(epochs) if e % every == 0 and e > 0 and e != epochs - 1 and e > warmup]

    assert due(Recycle(), 41) == authors(10, 41) == [11, 21, 31]
    assert due(Recycle(), 42) == authors(10, 42) == [11, 21, 31, 41], "also before the last epoch"
    assert due(Recycle(warmup=50), 100) == authors(10, 100, warmup=50) == [61, 71, 81, 91]
    assert due(Recycle(every=1), 5) == authors(1, 5) == [2, 3, 4]
    assert due(config("biprop-recycling", warmup=15, rate=0.5).recycle, 41) == [21, 31]


@pytest.mark.parametrize(
    "stored",
    [
        {"subnetwork": {"method": "recycling", "recycle": {"every": 10, "rate": 0.2, "after": 0}}},
        {"subnetwork": {"method": "recycling", "resample_every": 300, "recycle_every": 10, "recycle_after": 0}},
        {"subnetwork": {"method": "recycling", "resample_every": 300, "recycle_every": None}},
    ],
)
def test_runs_of_earlier_versions_recycle_when_they_did(stored):
    assert due(stored_recipe(stored, "a checkpoint").subnetwork.recycle, 41) == [10, 20, 30]
    assert due(read_recipe({"subnetwork": {"method": "recycling"}}, "a recipe").subnetwork.recycle, 41) == [11, 21, 31]
    assert due(Recycle(after=15), 41) == [20, 30]
    with pytest.raises(ConfigError, match=r"recycle\.after: it counts as earlier versions did"):
        read_recipe({"subnetwork": {"method": "recycling", "recycle": {"after": 3, "warmup": 2}}}, "a recipe")


def test_recycling_and_resampling_together():
    model = mask_model(mlp(), config("iterand", every=1, rate=1.0, recycle=Recycle(every=1), distribution="uniform"))
    (part, scores), _ = layers_of(model)
    assert refresh(model, 6, steps_per_epoch=3, epochs=4)
    pruned = ~part.mask(torch.from_numpy(scores)).numpy()
    wanted = recycled(reference_weights("uniform")[0], scores, 0.2)
    redrawn = random_codes(5, 0, get_codebook("uniform"), 0, 42, np.ones(42, np.uint8)).astype(np.float32)
    wanted[pruned] = (redrawn * np.float32(part.spec.scale))[pruned]
    np.testing.assert_array_equal(part.random.numpy(), wanted)
    twin = mask_model(mlp(), config("iterand", every=1, rate=1.0, recycle=Recycle(every=1), distribution="uniform"))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin[0].weight, model[0].weight)


# Pruning at initialisation: gradients by hand


def forward(first: np.ndarray, second: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.maximum(x @ first.T, 0)
    return hidden, hidden @ second.T


def gradients(first: np.ndarray, second: np.ndarray, x: np.ndarray, y: np.ndarray, temperature: float = 1.0):
    """Of the mean cross entropy, float64."""
    hidden, logits = forward(first, second, x)
    z = logits / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    d = p / (len(y) * temperature)
    return (d @ second * (hidden > 0)).T @ x, d.T @ hidden


def ticket(method: str, sparsity: float = 0.5, **options):
    settings = config(method, sparsity=sparsity, **options)
    model = mask_model(mlp(), settings)
    weights = [weight.detach().numpy().astype(np.float64) for _, _, weight in pruned_layers(model)]
    images, labels = data()
    find_masks(model, settings, (INPUTS,) if method == "synflow" else (images, labels))
    masks = np.concatenate([part.mask.numpy() for _, part, _ in pruned_layers(model)])
    return model, weights, masks


def kept_of(scores: list[np.ndarray], sparsity: float) -> np.ndarray:
    flat = np.concatenate([score.reshape(-1) for score in scores])
    return largest(flat, len(flat) - math.floor(sparsity * len(flat) + 0.5))


def test_snip():
    _, weights, masks = ticket("snip", 0.6)
    images, labels = data()
    found = gradients(*weights, images.numpy().astype(np.float64), labels.numpy())
    np.testing.assert_array_equal(masks, kept_of([np.abs(w * g) for w, g in zip(weights, found, strict=True)], 0.6))


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_batchnorm_of_a_new_network_does_nothing_in_evaluation_mode(method):
    """So the masks are those of the network without BatchNorm, whose outputs are divided by √(1 + eps)."""

    def masks(eval_mode: bool) -> np.ndarray:
        layers = mlp()
        model = nn.Sequential(layers[0], nn.BatchNorm1d(HIDDEN, eps=3.0), *layers[1:])
        settings = config(method, sparsity=0.6, eval_mode=eval_mode)
        mask_model(model, settings)
        images, labels = data()
        find_masks(model, settings, (3 * images, labels))
        assert model.training
        assert not model[1].num_batches_tracked
        return np.concatenate([part.mask.numpy() for _, part, _ in pruned_layers(model)])

    class Halved(nn.Module):
        def forward(self, x):
            return x / 2

    layers, settings = mlp(), config(method, sparsity=0.6)
    plain = mask_model(nn.Sequential(layers[0], Halved(), *layers[1:]), settings)
    images, labels = data()
    find_masks(plain, settings, (3 * images, labels))
    expected = np.concatenate([part.mask.numpy() for _, part, _ in pruned_layers(plain)])
    np.testing.assert_array_equal(masks(True), expected)
    assert not np.array_equal(masks(False), expected)


def test_a_random_sample_is_augmented(tmp_path, monkeypatch):
    seen = []

    def found(model, settings, inputs):
        seen.append(inputs)
        return find_masks(model, settings, inputs)

    monkeypatch.setattr(checks, "find_masks", found)
    changes = {"method": "snip", "prune": {"samples_per_class": 3}}
    for random_sample in (None, True):
        changes["prune"]["random_sample"] = random_sample
        recipe = load_recipe("digits", subnetwork=changes, train={"epochs": 1}, model={"width": 0.25})
        train(recipe, RunOptions(tmp_path / f"{random_sample}.ckpt", device="cpu"))
    (plain, balanced), (augmented, drawn) = seen
    assert balanced.bincount().tolist() == [3] * 10
    assert len(drawn) == 30
    assert drawn.bincount(minlength=10).tolist() != [3] * 10
    images = load_data(recipe.data, seed=0).train
    pixels, labels = next(images.train_batches(0, 30, "cpu"))
    assert torch.equal(drawn, labels)
    assert augmented.shape == plain.shape == pixels.shape
    assert not torch.equal(augmented, plain)


def test_grasp():
    _, weights, masks = ticket("grasp", 0.6)
    images, labels = data()
    about = images.numpy().astype(np.float64), labels.numpy(), 200.0
    direction = gradients(*weights, *about)
    step = 1e-3 / max(np.abs(g).max() for g in direction)
    ahead = gradients(*(w + step * g for w, g in zip(weights, direction, strict=True)), *about)
    behind = gradients(*(w - step * g for w, g in zip(weights, direction, strict=True)), *about)
    product = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
    scores = [w * h for w, h in zip(weights, product, strict=True)]
    np.testing.assert_array_equal(masks, kept_of(scores, 0.6))
    assert not np.array_equal(masks, kept_of([-score for score in scores], 0.6))


@pytest.mark.parametrize("rounds", [1, 4])
def test_synflow(rounds):
    _, weights, masks = ticket("synflow", 0.9, rounds=rounds)
    first, second = (np.abs(w) for w in weights)
    mask = np.ones(63, bool)
    kept = 63 - math.floor(0.9 * 63 + 0.5)
    for round_ in range(1, rounds + 1):
        a, b = first * mask[:42].reshape(first.shape), second * mask[42:].reshape(second.shape)
        # R = 1ᵀ |W2| |W1| 1: the flow through a weight is what comes in, times it, times what goes out.
        scores = [a * b.sum(0)[:, None], b * a.sum(1)[None, :]]
        flat = np.concatenate([score.reshape(-1) for score in scores])
        count = max(kept, round(63 * (kept / 63) ** (round_ / rounds)))
        mask = largest(np.where(mask, flat, -1), count)
    assert mask.sum() == kept == 6
    np.testing.assert_array_equal(masks, mask)


def test_magnitude():
    _, weights, masks = ticket("magnitude", 0.7)
    np.testing.assert_array_equal(masks, kept_of([np.abs(w) for w in weights], 0.7))


def test_random():
    _, _, masks = ticket("random", 0.7)
    words = [random_words(5, count, draw=0, tensor=i, purpose=Purpose.SCORES) for i, count in enumerate((42, 21))]
    np.testing.assert_array_equal(masks, kept_of([(w >> 8).astype(np.int64) for w in words], 0.7))


def test_kept_weights_are_trained_and_pruned_ones_stay_zero():
    model, weights, masks = ticket("snip", 0.6)
    images, labels = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        assert not refresh(model, step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    got = np.concatenate(weights_of(model))
    start = np.concatenate([w.reshape(-1) for w in weights])
    assert (got[~masks] == 0).all()
    assert (got[masks] != start[masks]).all()
    np.testing.assert_array_equal(np.concatenate(weights_of(to_dense(model))), got)


def test_scoring_leaves_the_network_alone():
    for method in ("snip", "synflow"):
        settings = config(method)
        model = mask_model(nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)), settings)
        before = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        find_masks(model, settings, (INPUTS,) if method == "synflow" else data())
        for key, value in before.items():
            if not key.endswith("mask"):
                assert torch.equal(model.state_dict()[key], value), key


# What is refused


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("snip", {"binarise": True}, "Snip: unknown key 'binarise'"),
        ("snip", {"scope": "global"}, "Snip: unknown key 'scope'"),
        ("edge-popup", {"every": 2}, "EdgePopup: unknown key 'every'"),
        ("edge-popup", {"sparsty": 2}, "EdgePopup: unknown key 'sparsty'"),
        ("iterand", {"sparcity": 0.6}, "IteRand: unknown key 'sparcity'; did you mean 'sparsity'"),
        (
            "iterand",
            {"resample": Resample()},
            "resample is given twice, by every=, rate=, draws= and by resample=",
        ),
        ("recycling", {"recycle": None}, "WeightRecycling: recycle is given twice, by every=, rate=, warmup="),
        ("edge-popup", {"sparsity": 1.0}, "EdgePopup: sparsity: input should be less than 1, got 1.0"),
        ("edge-popup", {"selection": "sined"}, "selection.rule: unknown 'sined'; did you mean 'signed'?"),
        ("magnitude", {"distribution": "signed-constant"}, "differ in sign only, and magnitude pruning compares"),
        ("iterand", {"multiplicity": 2, "distribution": "uniform"}, "multiples of uniform weights do not fit"),
        ("iterand", {"rate": 1e-9}, "IteRand: resample.rate: expected 0 or at least 1.5e-05 (1/65536), got 1e-09"),
        ("edge-popup", {"frozen_kept": 0.1}, "selection.frozen_kept: nothing is frozen; give selection.frozen"),
        ("edge-popup", {"frozen": 0.2, "frozen_kept": 0.3}, "frozen_kept: expected at most frozen = 0.2, got 0.3"),
        ("edge-popup", {"frozen": 0.9, "frozen_kept": 0.0}, "leaves no mask of sparsity 0.5"),
        ("edge-popup", {"frozen": 1e-9}, "selection.frozen: expected at least 1.5e-05"),
    ],
)
def test_impossible_combinations(method, options, message):
    with pytest.raises(ConfigError) as caught:
        config(method, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("subnetwork", "message"),
    [
        ({"method": "snap"}, "subnetwork.method: unknown 'snap'; did you mean 'snip'?"),
        ({"resample": {"evry": 3}}, "unknown key 'subnetwork.resample.evry'; did you mean 'every'?"),
        ({"resample_every": 3}, "unknown key 'subnetwork.resample_every'; did you mean 'resample'?"),
        ({"method": "dense", "sparsity": 0.5}, "subnetwork.sparsity: dense prunes nothing; leave it out"),
        ({"method": "synflow", "prune": {"samples_per_class": 3}}, "prune.samples_per_class: synflow looks at no data"),
        ({"method": "snip", "prune": {"rounds": 3}}, "subnetwork.prune.rounds: snip has no rounds; leave it out"),
        (
            {"method": "snip", "selection": {}},
            "subnetwork.prune: a mask is found in training (selection) or before it",
        ),
        ({"method": "snip", "resample": {}}, "subnetwork.resample: snip trains weights, and has no scores"),
        (3, "subnetwork: expected a table of settings, got 3"),
    ],
)
def test_a_recipe_is_refused_by_its_types(subnetwork, message):
    with pytest.raises(ConfigError) as caught:
        read_recipe({"subnetwork": subnetwork}, "here")
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)


def test_a_recipe_fills_what_its_method_says_and_can_combine():
    filled = read_recipe({"subnetwork": {"method": "biprop", "resample": {"every": 7}}}, "here").subnetwork
    assert filled == config("biprop", resample=Resample(every=7)).model_copy(update={"seed": 0})
    without = read_recipe({"subnetwork": {"method": "iterand", "resample": "none"}}, "here").subnetwork
    assert without.resample is None
    assert without.selection.rule == "signed"


def test_settings_of_the_first_versions():
    old = {"method": "iterand", "sparsity": 0.6, "resample_every": 30, "resample_rate": 0.2, "draws": 2, "seed": 5,
           "score_scale": 0.5, "coats": None, "recycle_every": None, "scope": "global"}  # fmt: skip
    expected = config("iterand", sparsity=0.6, every=30, rate=0.2, draws=2, scope="global", score_bound=0.5 * 6**0.5)
    assert stored_recipe({"subnetwork": old}, "old").subnetwork == expected
    old = {**old, "method": "biprop-recycling", "coats": 3, "recycle_every": 4, "frozen": 0.5, "score_scale": 1.0}
    expected = config("biprop-recycling", sparsity=0.6, every=4, multiplicity=3, frozen=0.5, scope="global")
    expected = expected.model_copy(update={"recycle": Recycle(every=4, after=0)})
    assert stored_recipe({"subnetwork": old}, "old").subnetwork == expected
    old = {"method": "synflow", "sparsity": 0.9, "resample_every": 300, "rounds": 4, "seed": 5}
    assert stored_recipe({"subnetwork": old}, "old").subnetwork == config("synflow", sparsity=0.9, rounds=4)
    old = {"method": "dense", "sparsity": 0.5, "resample_every": 300, "seed": 5}
    assert stored_recipe({"subnetwork": old}, "old").subnetwork == config("dense")


def test_every_method_trains_one_thing():
    for name, preset in PRESETS.items():
        filled = preset()
        assert filled.method == name
        assert (filled.selection is not None) + (filled.prune is not None) == (name != "dense")


def test_global_sparsity_that_leaves_no_room():
    with pytest.raises(ConfigError, match="1 of 63 weights are too few for global selection"):
        mask_model(mlp(), config(scope="global", sparsity=0.98))


def test_methods_that_count_epochs_need_them():
    with pytest.raises(ConfigError, match="give steps_per_epoch and epochs"):
        refresh(mask_model(mlp(), config("recycling")), 0)
    with pytest.raises(ConfigError, match="ramp: the method counts epochs"):
        refresh(mask_model(mlp(), config(ramp_epochs=2)), 0)


def test_tickets_need_what_they_look_at():
    for method, inputs, message in (
        ("snip", None, "snip: expected a sample of the data with labels, got none"),
        ("grasp", (3, 4), "grasp: expected a sample of the data"),
        ("synflow", None, "synflow: expected the shape of one input"),
        ("edge-popup", None, "edge-popup: it does not prune at initialisation"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_masks(mask_model(mlp(), config(method)), config(method), inputs)


class Detour(nn.Module):
    """The second layer is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(INPUTS, CLASSES), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_a_layer_without_gradient_is_named(method):
    model = mask_model(Detour(), config(method))
    with pytest.raises(ConfigError, match=f"{method}: layer idle.weight cannot be scored: no gradient reaches it"):
        find_masks(model, config(method), (INPUTS,) if method == "synflow" else data())


def test_sample_takes_the_first_of_each_class():
    images = torch.arange(8.0).unsqueeze(1)
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 2, 2])
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    found, targets = class_sample(batches, ("a", "b", "c"), 2)
    assert found.flatten().tolist() == [0, 1, 3, 5, 6, 7]
    assert targets.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match="class 'b': expected 3 training images for the sample, got 2"):
        class_sample(batches, ("a", "b", "c"), 3)
    with pytest.raises(DataError, match="class 'd': expected 1 training images for the sample, got 0"):
        class_sample(batches, ("a", "b", "c", "d"), 1)


def test_given_masks():
    model = mask_model(mlp(), config("random"))
    masks = {"0.weight": np.arange(42) % 2 == 0, "2.weight": np.arange(21) % 3 == 0}
    use_masks(model, masks)
    np.testing.assert_array_equal(weights_of(model)[0] != 0, masks["0.weight"])
    assert [part.spec.kept for _, part, _ in pruned_layers(model)] == [21, 7]
    with pytest.raises(ConfigError, match=r"2\.weight is only in one of them"):
        use_masks(model, {"0.weight": masks["0.weight"]})
    with pytest.raises(ConfigError, match=r"0\.weight: expected a mask of 42 weights, got 3"):
        use_masks(model, {**masks, "0.weight": np.ones(3, bool)})


def test_state_of_a_varying_number_of_kept_weights():
    model = mask_model(mlp(), config(ramp_epochs=4, sparsity=0.8))
    refresh(model, 1, steps_per_epoch=1, epochs=9)
    twin = mask_model(mlp(), config(ramp_epochs=4, sparsity=0.8))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin[0].weight, model[0].weight)
    with pytest.raises(CheckpointError, match="kept 25 here"):
        mask_model(mlp(), config(sparsity=0.4)).load_state_dict(mask_model(mlp(), config()).state_dict())
