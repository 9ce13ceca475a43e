"""Masks against a sort that is obviously right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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


def test_large_random_scores():
    scores = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    mask = topk_mask(torch.from_numpy(scores), 40_000).numpy()
    assert mask.sum() == 40_000
    assert scores[mask].min() >= scores[~mask].max()


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
