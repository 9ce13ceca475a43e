"""Masks against a sort that is obviously right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from iterand_compress.compress import selection
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.selection import kept_count, select, topk_mask


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
@pytest.mark.parametrize("implementation", [selection._host_mask, selection._device_mask])
def test_large_layers_on_both_paths(implementation, kind, kept):
    scores = shaped(kind)
    order = np.argsort(-scores, kind="stable")
    expected = np.zeros(len(scores), bool)
    expected[order[:kept]] = True
    np.testing.assert_array_equal(implementation(torch.from_numpy(scores), kept).numpy(), expected)


def test_the_bracket_spares_most_keys(monkeypatch):
    """Otherwise the CPU path would be right, but pointless."""
    sizes = []
    real = torch.Tensor.kthvalue

    def counting(keys, k):
        sizes.append(keys.numel())
        return real(keys, k)

    monkeypatch.setattr(torch.Tensor, "kthvalue", counting)
    for kind in ("random", "every 64th is large"):
        topk_mask(torch.from_numpy(shaped(kind)), 120_000)
    assert sizes[0] < 50_000
    assert sizes[1] == 300_000


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
