"""The networks that come with the package are what their table says."""

import json

import pytest
from beside_published import FOLDER, number, trained

from conftest import succeed

ROWS = trained()
#: What the package can load without a folder of data.
BUNDLED = {"digits", "sentences"}


def test_every_file_is_in_the_table_and_all_are_small():
    files = sorted(FOLDER.glob("*.seedmask"))
    assert sorted(row["name"] for row in ROWS) == [path.name for path in files]
    assert len(files) == 8
    assert sum(path.stat().st_size for path in files) <= 1_000_000


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_file_is_the_one_of_the_table(row):
    path = FOLDER / row["name"]
    assert path.stat().st_size == number(row["bytes"])
    found = json.loads(succeed("verify", path, "--json"))
    assert found["weights_digest"] == row["digest"]
    described = json.loads(succeed("inspect", path, "--json"))
    assert described["totals"]["weights"] == number(row["weights"])
    assert described["seed"] == int(row["seed"])
    assert float(row["percent"]) == pytest.approx(100 * number(row["right"]) / number(row["of"]), abs=0.005)


@pytest.mark.parametrize("row", [row for row in ROWS if row["data"] in BUNDLED], ids=lambda row: row["name"])
def test_a_file_is_as_accurate_as_the_table_says(row):
    found = json.loads(succeed("eval", FOLDER / row["name"], "--data", row["data"], "--json"))
    assert found["images"] == number(row["of"])
    assert abs(found["correct"] - number(row["right"])) <= 1  # another processor sums in another order
