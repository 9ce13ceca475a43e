"""Our methods against what their authors' code gave: a rule that changes unseen turns one of these red.

The values were recorded once, by benchmarks/authors_record.py; benchmarks/authors.py also compares the large networks.
"""

import authors
import pytest

from iterand_compress.compress.training.recipe import recipe_names

RECORDED = authors.read_recorded()
QUICK = [name for name, comparison in authors.COMPARISONS.items() if not comparison.slow]


@pytest.mark.parametrize("name", QUICK)
def test_a_method_agrees_with_the_code_of_its_authors(name):
    row = authors.compare(name, RECORDED["comparisons"])
    assert row.agrees, f"{row.what}: {row.agreement} ({row.source})"


@pytest.mark.parametrize("name", RECORDED["recipes"])
def test_a_recipe_has_the_settings_of_its_authors(name):
    differing = [
        row.what + ": " + row.agreement for row in authors.compare_recipe(name, RECORDED["recipes"]) if not row.agrees
    ]
    assert not differing


#: Recipes that are of no paper.
OURS = {"cifar10-fast", "digits", "mnist-tiny", "photos", "text"}


def test_all_that_is_recorded_is_compared_and_every_recipe_of_a_paper_is_recorded():
    assert set(RECORDED["comparisons"]) == set(authors.COMPARISONS)
    recipes = {name.removeprefix("dense ") for name in RECORDED["recipes"]}
    assert recipes == set(recipe_names()) - OURS
    assert {name for name, _ in authors.MEANT} <= set(RECORDED["recipes"])


def test_a_difference_that_is_meant_is_reported_when_it_is_gone(monkeypatch):
    key = ("cifar10-conv6", "train.epochs")
    monkeypatch.setitem(authors.MEANT, key, "a reason")
    rows = authors.compare_recipe("cifar10-conv6", RECORDED["recipes"])
    assert [row.agreement for row in rows if not row.agrees] == [authors.NO_LONGER]
    assert rows[0].source.startswith("dchiji-ntt/iterand: config.yaml")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}, authors.Difference(floats=0.2)),
        ({"a": [3, 4]}, {"a": [3, 6]}, authors.Difference(integers=2)),
        ({"a": {"b": "x"}, "c": "y"}, {"a": {"b": "z"}, "c": "y"}, authors.Difference(other="a b")),
        ({"a": [1]}, {"a": [1, 2]}, authors.Difference(other="a")),
        ({"a": 1}, {"b": 1}, authors.Difference(other="structure")),
        ({"a": [0.0]}, {"a": [0.0]}, authors.Difference()),
    ],
)
def test_differences_are_seen(ours, theirs, expected):
    assert authors.difference(ours, theirs) == expected
