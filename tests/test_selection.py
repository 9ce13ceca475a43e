"""Masks against a sort that is obviously right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask import topk_cpu as host_selection
from iterand_compress.compress.mask.topk import (
    LayerKeys,
    allocate,
    device_mask,
    kept_count,
    select,
    selection_keys,
    topk_mask,
)
from iterand_compress.compress.mask.topk_cpu import HostKeys, new_bracket


def reference_mask(keys: np.ndarray, kept: int) -> np.ndarray:
    """Sort by falling key, then by index; keep the first."""
    order = sorted(range(len(keys)), key=lambda i: (-keys[i], i))
    mask = np.zeros(len(keys), bool)
    mask[order[:kept]] = True
    return mask


@settings(max_examples=200, deadline=None)
@given(
    # few values, so that ties are the rule
    keys=hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0])),
    data=st.data(),
)
def test_ties_go_to_the_lower_index(keys, data):
    kept = data.draw(st.integers(1, len(keys)))
    mask = topk_mask(torch.from_numpy(keys), kept).numpy()
    np.testing.assert_array_equal(mask, reference_mask(keys, kept))


def test_magnitude_and_signed_selection_differ():
    scores = torch.tensor([-3.0, 1.0, 2.0, -0.5])
    assert select(scores, 2, "signed").tolist() == [False, True, True, False]
    assert select(scores, 2, "magnitude").tolist() == [True, False, True, False]


def shaped(kind: str) -> np.ndarray:
    scores = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    if kind == "every 64th is large":  # the sample that brackets the threshold is useless
        scores[::64] += 100
    elif kind == "many ties":
        scores = np.round(scores, 1)
    elif kind == "all equal":
        scores[:] = 0.5
    return scores


@pytest.mark.parametrize("kept", [1, 3_000, 120_000, 299_999])
@pytest.mark.parametrize("kind", ["random", "every 64th is large", "many ties", "all equal"])
@pytest.mark.parametrize("implementation", [topk_mask, device_mask])
def test_large_layers_on_both_paths(implementation, kind, kept):
    scores = shaped(kind)
    order = np.argsort(-scores, kind="stable")
    expected = np.zeros(len(scores), bool)
    expected[order[:kept]] = True
    np.testing.assert_array_equal(implementation(torch.from_numpy(scores), kept).numpy(), expected)


SCORES = [-2.0, -1e-45, -0.0, 0.0, 1e-45, 0.25, 0.5, 3.0]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_run_of_masks_is_exact_whatever_was_remembered(data):
    """Warm, wrong and useless brackets; both selections; weights that are fixed; varying numbers of kept weights."""
    count = data.draw(st.integers(1, 50))
    selection = data.draw(st.sampled_from(["signed", "magnitude"]))
    parts = np.array(data.draw(st.lists(st.sampled_from(["free", "pruned", "kept"]), min_size=count, max_size=count)))
    fixed = (torch.from_numpy(parts == "pruned"), torch.from_numpy(parts == "kept"))
    free = data.draw(st.booleans())
    least, most = (0, count) if free else (int((parts == "kept").sum()), int((parts != "pruned").sum()))
    memory = torch.tensor(data.draw(st.sampled_from([[np.nan] * 4, [0.2, 0.3, 0.25, 5], [-1, 1, 0, 1], [9, 9, 9, 9]])))
    bracket = memory.double()
    for _ in range(3):
        scores = np.array(data.draw(st.lists(st.sampled_from(SCORES), min_size=count, max_size=count)), np.float32)
        kept = data.draw(st.integers(least, most))
        keys = np.abs(scores) if selection == "magnitude" else scores.copy()
        if not free:
            keys[parts == "pruned"], keys[parts == "kept"] = -np.inf, np.inf
        mask = select(torch.from_numpy(scores), kept, selection, None if free else fixed, bracket)
        np.testing.assert_array_equal(mask.numpy(), reference_mask(keys, kept))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_of_other_types(dtype):
    scores = torch.from_numpy(shaped("random")).to(dtype)
    expected = device_mask(scores.double().abs(), 90_000)
    assert torch.equal(select(scores, 90_000, "magnitude"), expected)


def test_scores_that_are_not_numbers_still_give_a_mask():
    """The loop ends such a run when it next looks at the loss; until then nothing may break."""
    scores = torch.tensor([1.0, float("nan"), float("nan"), 2.0, 0.0])
    bracket = new_bracket()
    for _ in range(2):
        assert int(select(scores, 2, "signed", None, bracket).sum()) == 2
    assert select(torch.tensor([1.0, 0.0, 3.0, 2.0, 0.0]), 2, "signed", None, bracket).tolist() == [0, 0, 1, 1, 0]


@pytest.fixture
def sizes(monkeypatch):
    """How many scores were sorted out each time."""
    counts, real = [], np.partition

    def counting(values, place):
        counts.append(len(values))
        return real(values, place)

    monkeypatch.setattr(host_selection.np, "partition", counting)
    return counts


@pytest.mark.parametrize("selection", ["signed", "magnitude"])
def test_only_few_scores_are_sorted(sizes, selection):
    """Otherwise masks would be right, but the bracket pointless."""
    rng = np.random.default_rng(1)
    scores, bracket = shaped("random"), new_bracket()
    for step in range(12):
        keys = np.abs(scores) if selection == "magnitude" else scores
        mask = select(torch.from_numpy(scores), 120_000, selection, None, bracket).numpy()
        assert mask.sum() == 120_000
        assert keys[mask].min() > keys[~mask].max()
        scores += rng.standard_normal(len(scores)).astype(np.float32) * 1e-3 * step + np.float32(1e-4 * step)
    assert len(sizes) == 12, "a bracket that misses is followed by another one"
    assert sizes[0] < 50_000, "from the sample"
    assert max(sizes[1:]) < 6_000, "around the last threshold"
    select(torch.from_numpy(shaped("every 64th is large")), 120_000, selection)
    assert sizes[-1] == 300_000, "a sample that misleads"
    # A layer too small for a sample, and a warm start after all of its scores were sorted.
    sizes.clear()
    small, bracket = shaped("random")[:5_000], new_bracket()
    for _ in range(5):
        keys = np.abs(small) if selection == "magnitude" else small
        mask = select(torch.from_numpy(small), 2_000, selection, None, bracket).numpy()
        assert mask.sum() == 2_000
        assert keys[mask].min() > keys[~mask].max()
        small += rng.standard_normal(len(small)).astype(np.float32) * np.float32(1e-3)
    assert sizes[0] == 5_000
    assert max(sizes[2:]) < 300
    assert len(sizes) == 6


def test_infinite_scores_leave_no_bracket():
    scores, bracket = torch.tensor([1.0] + 4 * [float("-inf")]), new_bracket()
    for _ in range(2):
        assert select(scores, 3, "signed", None, bracket).tolist() == [True, True, True, False, False]
        assert bracket.isnan().all()
    scores[1:] = float("inf")
    assert select(scores, 3, "signed", None, bracket).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("weights", "sparsity", "kept"), [(10, 0.5, 5), (10, 0.6, 4), (3, 0.5, 1), (7, 0.0, 7), (11, 0.9, 1)]
)
def test_kept_count(weights, sparsity, kept):
    assert kept_count(weights, sparsity, "x") == kept


def test_layer_too_small_for_the_sparsity():
    with pytest.raises(
        ConfigError, match=r"layer fc: too small for sparsity 0\.9: of its 4 weights none would be kept"
    ):
        kept_count(4, 0.9, "fc")


def test_fewer_are_kept_than_are_fixed_to_be_kept():
    """Inner ones of nested masks may keep so few: the same everywhere, and nothing that is fixed to pruned."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(500, generator=generator)
    always, pruned = torch.rand(500, generator=generator) < 0.4, torch.zeros(500, dtype=torch.bool)
    pruned[scores.argsort(descending=True)[:50]] = True
    always &= ~pruned
    expected = torch.zeros(500, dtype=torch.bool)
    expected[always.nonzero().squeeze(1)[:60]] = True
    fixed = (pruned, always)
    assert torch.equal(select(scores, 60, "signed", fixed), expected)
    assert torch.equal(device_mask(selection_keys(scores, "signed", fixed), 60), expected)


# --- One threshold for several layers ----------------------------------------------------------------------


def reference_counts(keys: list[torch.Tensor], kept: int, floors: list[int]) -> list[int]:
    """Sort the keys of all layers in every round."""
    counts: dict[int, int] = {}
    while len(counts) < len(keys):
        free = [i for i in range(len(keys)) if i not in counts]
        order = torch.cat([keys[i] for i in free]).double().argsort(descending=True, stable=True)
        layer_of = torch.cat([torch.full((len(keys[i]),), i) for i in free])
        chosen = layer_of[order[: kept - sum(counts.values())]]
        wanted = {i: int((chosen == i).sum()) for i in free}
        counts |= {i: floors[i] for i in free if wanted[i] < floors[i]} or wanted
    return [counts[i] for i in range(len(keys))]


# Neighbours of 1 and of 2, so that different scores have the same quotient.
NEIGHBOURS = [*np.nextafter(np.float32(1), np.float32([0, 1, 2])).tolist(), 2.0, 2.0000002, -1.0000001]
# The first one's quotient may be infinite.
INFINITE = [3e38, float("inf"), float("inf"), float("-inf"), float("-inf"), 1.0]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_run_of_allocations_equals_a_sort_whatever_was_remembered(data):
    """Ties, floors in several rounds, fixed weights, infinite scores; brackets that are absent, wrong or useless."""
    selection = data.draw(st.sampled_from(["signed", "magnitude"]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    sizes = data.draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    units = [data.draw(st.sampled_from([1.0, 0.1, 1 / 3, 0.7, 5.0])) for _ in sizes]
    pool = data.draw(st.sampled_from([SCORES, NEIGHBOURS, INFINITE]))
    fixed, floors = [], []
    for size in sizes:
        kinds = np.array(data.draw(st.lists(st.sampled_from(["free", "pruned", "kept"]), min_size=size, max_size=size)))
        is_fixed = data.draw(st.booleans())
        fixed.append((torch.from_numpy(kinds == "pruned"), torch.from_numpy(kinds == "kept")) if is_fixed else None)
        floors.append(data.draw(st.integers(0, size)))
    odd = data.draw(st.sampled_from([[], [[0.2, 0.3, 0.25, 5]], [[-1, 1, 0, 1], [9, 9, 9, 9]], [[1, 2, 1.5, 1]] * 3]))
    brackets = [torch.tensor(values).double() for values in odd]
    for _ in range(3):
        layers = [
            LayerKeys(
                torch.tensor([data.draw(st.sampled_from(pool)) for _ in range(size)]).to(dtype), selection, pair, unit
            )
            for size, pair, unit in zip(sizes, fixed, units, strict=True)
        ]
        kept = data.draw(st.integers(sum(floors), sum(sizes)))
        keys = [
            selection_keys(layer.scores, selection, pair) / unit
            for layer, pair, unit in zip(layers, fixed, units, strict=True)
        ]
        assert allocate(layers, kept, floors, brackets) == reference_counts(keys, kept, floors)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    unit=st.floats(1e-3, 1e3),
    exponent=st.integers(-30, 30),
    magnitude=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_ends_of_a_bracket_are_those_of_the_quotients(seed, unit, exponent, magnitude, dtype):
    """Scores are compared, and not divided; every one here is a neighbour of a score whose quotient is an end."""
    rng = np.random.default_rng(seed)
    base = (rng.standard_normal(20) * 2.0**exponent).astype(dtype)
    around = [base]
    for _ in range(4):
        around = [np.nextafter(around[0], dtype(-np.inf)), *around, np.nextafter(around[-1], dtype(np.inf))]
    scores = np.concatenate(around)
    keys = (torch.from_numpy(np.abs(scores) if magnitude else scores) / unit).numpy()
    low, high = sorted(keys[rng.integers(0, len(keys), 2)].tolist())
    split = HostKeys(torch.from_numpy(scores), None, None, magnitude=magnitude, unit=unit).split(low, high)
    np.testing.assert_array_equal(split.mask, keys >= high)
    np.testing.assert_array_equal(split.inside, np.flatnonzero((keys >= low) & (keys < high)))
    np.testing.assert_array_equal(split.values, keys[split.inside])
    assert split.above == (keys >= high).sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_allocations_of_other_types_divide_in_them(dtype):
    generator = torch.Generator().manual_seed(0)
    layers = [
        LayerKeys(torch.randn(500, generator=generator).to(dtype), "magnitude", None, unit) for unit in (0.3, 0.7, 1.9)
    ]
    for kept in range(100, 1500, 100):
        expected = reference_counts([layer.scores.abs() / layer.unit for layer in layers], kept, [0, 0, 0])
        assert allocate(layers, kept, [0, 0, 0]) == expected


def test_scores_that_are_not_numbers_still_give_an_allocation():
    layers = [LayerKeys(torch.tensor([1.0, float("nan"), 3.0]), "signed", None, 2.0) for _ in range(2)]
    brackets: list[torch.Tensor] = []
    for kept, counts in ((3, [2, 1]), (5, [3, 2]), (4, [2, 2])):
        assert allocate(layers, kept, [0, 0], brackets) == counts


@pytest.mark.parametrize("selection", ["signed", "magnitude"])
def test_only_few_scores_of_all_layers_are_sorted(sizes, selection):
    """Otherwise counts would be right, but the brackets pointless; the third layer gets its floor, so two rounds."""
    rng = np.random.default_rng(1)
    scores = [rng.standard_normal(size).astype(np.float32) * scale for size, scale in ((200_000, 0.1), (100_000, 2))]
    scores.append(rng.standard_normal(3_000).astype(np.float32) * np.float32(0.001))
    brackets: list[torch.Tensor] = []
    for step in range(12):
        layers = [
            LayerKeys(torch.from_numpy(values), selection, None, unit)
            for values, unit in zip(scores, (0.1, 1.7, 0.9), strict=True)
        ]
        counts = allocate(layers, 120_000, [0, 0, 2_000], brackets)
        assert counts == reference_counts([layer.values() for layer in layers], 120_000, [0, 0, 2_000])
        for values in scores:
            values *= np.float32(1 + 1e-4 * step)
            values += rng.standard_normal(len(values)).astype(np.float32) * np.float32(1e-4) * values.std()
    assert len(sizes) == 24, "no bracket missed"
    assert max(sizes[:2]) < 50_000, "from the sample"
    assert max(sizes[2:]) < 6_000, "around the last thresholds"
