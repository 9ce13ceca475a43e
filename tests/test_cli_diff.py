"""diff: two files whose distances are known by hand."""

import json

import numpy as np
import pytest
from test_packaging import modules_after
from test_storage_bad_input import misstated

from conftest import fail, invoke, succeed
from iterand_compress import read_seedmask
from iterand_compress.compress.analysis.compare import compare
from iterand_compress.compress.inputs import ImageInput
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, write_seedmask


def mask(text: str) -> np.ndarray:
    return np.array([letter == "1" for letter in text])


def tensor(name: str, bits: str, **changes) -> MaskedTensor:
    fields = {"shape": (len(bits),), "codebook": "uniform", "scale": np.float32(0.5)}
    return MaskedTensor(name=name, mask=mask(bits), **{**fields, **changes})


def write(folder, name: str, *tensors: MaskedTensor, coding: str = "auto", **about):
    path = folder / f"{name}.seedmask"
    write_seedmask(Network(seed=about.pop("seed", 5), tensors=tensors, **about), path, coding=coding)
    return path


def diff(*arguments) -> dict:
    return json.loads(succeed("diff", *arguments, "--json"))


def test_masks_by_hand(tmp_path):
    """a: kept 6 and 4 of 10, 3 in both. b: kept 2 and 2 of 10, none in both."""
    first = write(tmp_path, "first", tensor("a", "1111110000"), tensor("b", "1100000000"))
    second = write(tmp_path, "second", tensor("a", "1110000001"), tensor("b", "0000000011"))
    found = diff(first, second)
    a, b = found["layers"]
    assert (a["name"], a["shape"], a["kept"], a["kept_in_both"]) == ("a", [10], [6, 4], 3)
    assert (a["hamming"], a["hamming_fraction"]) == (4, 0.4)
    assert a["iou"] == pytest.approx(3 / 7)
    assert a["iou_by_chance"] == pytest.approx(0.24 / (0.6 + 0.4 - 0.24))
    assert (b["hamming"], b["hamming_fraction"], b["iou"]) == (4, 0.4, 0)
    assert b["iou_by_chance"] == pytest.approx(0.04 / (0.2 + 0.2 - 0.04))
    total = found["totals"]
    assert (total["weights"], total["kept"], total["hamming"], total["kept_in_both"]) == (20, [8, 6], 8, 3)
    assert total["iou"] == pytest.approx(3 / 11)
    assert total["iou_by_chance"] == pytest.approx((2.4 + 0.4) / (14 - 2.8))
    # Same seed, index, codebook and scale: what both keep has one value; in b nothing is kept in both.
    assert (a["equal_values"], a["equal_value_share"], b["equal_value_share"]) == (3, 1.0, 1.0)
    assert (found["equal_weights"], found["equal_state"], a["identical"]) == (False, True, False)
    assert found["settings"] == []

    lines = succeed("diff", first, second).splitlines()
    assert lines[1].split() == ["a", "10", "10", "0.6000", "0.4000", "4", "40.00", "0.4286", "0.3158", "1.0000"]
    assert lines[3].split() == ["total", "20", "0.4000", "0.3000", "8", "40.00", "0.2727", "0.2500", "1.0000"]
    assert lines[-1] == "weights differ, state is equal"


def test_the_order_of_the_files_matters_only_for_the_sides(tmp_path):
    first = write(tmp_path, "first", tensor("a", "1111110000"))
    second = write(tmp_path, "second", tensor("a", "1110000001"))
    (there,), (back,) = diff(first, second)["layers"], diff(second, first)["layers"]
    assert back.pop("kept") == there.pop("kept")[::-1]
    assert there == back


def test_independent_masks_overlap_as_by_chance(tmp_path):
    rng = np.random.default_rng(3)
    paths = [
        write(tmp_path, f"{p}", tensor("a", "".join("01"[int(bit)] for bit in rng.random(40_000) < p)))
        for p in (0.5, 0.2)
    ]
    (layer,) = diff(*paths)["layers"]
    assert layer["iou"] == pytest.approx(layer["iou_by_chance"], abs=0.01)
    assert layer["iou_by_chance"] == pytest.approx(0.1 / 0.6, abs=0.01)


@pytest.mark.parametrize(("bits", "iou"), [("0000", 1.0), ("1111", 1.0)])
def test_empty_and_full_masks(tmp_path, bits, iou):
    paths = [write(tmp_path, name, tensor("a", bits)) for name in "xy"]
    (layer,) = diff(*paths)["layers"]
    assert (layer["iou"], layer["iou_by_chance"], layer["equal_value_share"]) == (iou, iou, 1.0)
    empty = write(tmp_path, "empty", tensor("a", "0000"))
    some = write(tmp_path, "some", tensor("a", "0110"))
    (layer,) = diff(empty, some)["layers"]
    assert (layer["hamming"], layer["iou"], layer["iou_by_chance"]) == (2, 0.0, 0.0)


def test_redrawn_weights_have_other_values(tmp_path):
    """Of 12 weights both keep 8; 3 of these were redrawn in the second file only."""
    bits = "111111110000"
    draws = np.array([0, 1, 0, 2, 0, 0, 3, 0, 9, 0, 0, 0], np.uint8)
    first, second = (
        write(tmp_path, name, tensor("a", bits, draws=values)) for name, values in (("x", None), ("y", draws))
    )
    weights = [read_seedmask(path).weight("a") for path in (first, second)]
    assert int(np.count_nonzero(weights[0] != weights[1])) == 3, "otherwise choose another seed"
    (layer,) = diff(first, second)["layers"]
    assert (layer["hamming"], layer["iou"]) == (0, 1.0)
    assert (layer["kept_in_both"], layer["equal_values"], layer["equal_value_share"]) == (8, 5, 0.625)
    assert not layer["identical"]
    assert invoke("diff", first, second, "--exit-code").exit_code == 1


def test_what_else_a_layer_can_differ_in(tmp_path):
    first = write(tmp_path, "x", tensor("a", "1100"), tensor("b", "1010"), tensor("gone", "1"))
    second = write(
        tmp_path,
        "y",
        tensor("new", "1"),
        tensor("a", "1100", codebook="normal", scale=np.float32(0.25)),
        tensor("b", "101000", shape=(2, 3)),
    )
    found = diff(first, second)
    (a,) = found["layers"]
    assert a["codebook"] == ["uniform", "normal"]
    assert a["scale"] == [0.5, 0.25]
    assert a["index"] == [0, 1]
    assert found["different_shapes"] == [{"name": "b", "first": [4], "second": [2, 3]}]
    assert (found["only_in_first"], found["only_in_second"]) == (["gone"], ["new"])
    assert not found["equal_weights"]
    text = succeed("diff", first, second)
    for line in (
        "a: codebook uniform | normal",
        "a: scale 0.5 | 0.25",
        "a: index 0 | 1",
        "b: shape 4 | 2×3, not compared",
        "gone: only in the first file",
        "new: only in the second file",
    ):
        assert line in text.splitlines()


def test_files_with_nothing_in_common(tmp_path):
    first, second = write(tmp_path, "x", tensor("a", "10")), write(tmp_path, "y", tensor("b", "10"))
    found = diff(first, second)
    assert (found["layers"], found["totals"], found["equal_weights"]) == ([], None, False)
    assert "weights differ" in succeed("diff", first, second)


STATES = [
    # first, second, identical, largest difference
    (np.float32([1, 2, 3]), np.float32([1, 2.5, 2]), False, 1.0),
    (np.float32([1, 2]), np.float32([1, 2]), True, 0.0),
    (np.float32([1, 2]), np.float16([1, 2.5]), False, 0.5),
    (np.float32([0.0]), np.float32([-0.0]), False, 0.0),
    (np.float32([np.nan, np.inf, 1]), np.float32([np.nan, np.inf, 3]), False, 2.0),
    (np.float32([np.nan, 1]), np.float32([2, 1]), False, None),
    (np.float32([np.inf]), np.float32([2]), False, None),
    (np.float32([1, 2]), np.float32([[1], [2]]), False, None),
    (np.int64([-(2**62), 5]), np.int64([2**62, 4]), False, 2.0**63),
    (np.int64([2**53]), np.int64([2**53 + 1]), False, 1.0),  # equal in float64
    (np.uint8([3]), np.uint8([250]), False, 247.0),
    (np.array([True, False]), np.array([True, True]), False, 1.0),
    (np.float32([]), np.float32([]), True, 0.0),
]


@pytest.mark.parametrize(("first", "second", "identical", "largest"), STATES)
def test_state(tmp_path, first, second, identical, largest):
    paths = [
        write(tmp_path, name, tensor("a", "10"), state={"s": StoredTensor.from_numpy(values)})
        for name, values in (("x", first), ("y", second))
    ]
    found = diff(*paths)
    (state,) = found["state"]
    assert (state["identical"], state["largest_difference"]) == (identical, largest)
    assert found["equal_state"] == identical
    assert found["equal_weights"]
    assert invoke("diff", *paths, "--exit-code").exit_code == (0 if identical else 1)


def test_bfloat16_state(tmp_path):
    """0x3F80 is 1, 0x4040 is 3."""
    paths = [
        write(tmp_path, name, tensor("a", "10"), state={"s": StoredTensor.from_numpy(np.uint16([bits]), "BF16")})
        for name, bits in (("x", 0x3F80), ("y", 0x4040))
    ]
    (state,) = diff(*paths)["state"]
    assert (state["dtype"], state["largest_difference"]) == (["BF16", "BF16"], 2.0)


def test_state_in_one_file_only_and_its_lines(tmp_path):
    first = write(
        tmp_path,
        "x",
        tensor("a", "10"),
        state={name: StoredTensor.from_numpy(np.float32(values)) for name, values in (("m", [1]), ("old", [1]))},
    )
    second = write(
        tmp_path,
        "y",
        tensor("a", "10"),
        state={"m": StoredTensor.from_numpy(np.float16([1.5])), "new": StoredTensor.from_numpy(np.int64([1]))},
    )
    found = diff(first, second)
    assert (found["state_only_in_first"], found["state_only_in_second"]) == (["old"], ["new"])
    assert not found["equal_state"]
    lines = succeed("diff", first, second).splitlines()
    assert "state m: F32 | F16, largest difference 0.5" in lines
    assert "state old: only in the first file" in lines
    assert "state new: only in the second file" in lines
    assert lines[-1] == "weights are equal, state differs"


def test_state_that_one_file_lacks_is_a_difference(tmp_path):
    first = write(tmp_path, "x", tensor("a", "10"))
    second = write(tmp_path, "y", tensor("a", "10"), state={"s": StoredTensor.from_numpy(np.float32([1]))})
    for pair in ((first, second), (second, first)):
        assert diff(*pair)["equal_state"] is False
        assert invoke("diff", *pair, "--exit-code").exit_code == 1


def test_settings(tmp_path):
    def about(**changes):
        fields = {
            "architecture": {"name": "conv2", "width": 0.5},
            "input": ImageInput(shape=(1, 8, 8), mean=(0.5,), std=(0.25,)),
            "classes": ["a", "b"],
            "recipe": {"train": {"lr": 0.1, "epochs": 3}, "note": None},
        }
        return {**fields, **changes}

    first = write(tmp_path, "x", tensor("a", "10"), **about())
    second = write(
        tmp_path,
        "y",
        tensor("a", "10"),
        seed=2**64 - 1,
        **about(
            architecture={"name": "conv4", "width": 0.5},
            input=ImageInput(shape=(1, 8, 8), mean=(0.5,), std=(0.5,)),
            classes=["a", "c"],
            recipe={"train": {"lr": 0.2, "epochs": 3}},
        ),
    )
    found = {entry.pop("setting"): entry for entry in diff(first, second)["settings"]}
    assert found == {
        "seed": {"first": 5, "second": 2**64 - 1},
        "architecture.name": {"first": "conv2", "second": "conv4"},
        "input.std": {"first": [0.25], "second": [0.5]},
        "classes": {"first": ["a", "b"], "second": ["a", "c"]},
        "recipe.train.lr": {"first": 0.1, "second": 0.2},
        "recipe.note": {"first": None},
    }
    lines = succeed("diff", first, second).splitlines()
    assert 'architecture.name: "conv2" | "conv4"' in lines
    assert "recipe.note: null | absent" in lines
    bare = write(tmp_path, "z", tensor("a", "10"))
    assert {"setting": "input", "second": None} in diff(first, bare)["settings"]


def test_settings_alone_and_codings_are_no_difference(tmp_path):
    bits = "".join("01"[int(bit)] for bit in np.random.default_rng(1).random(5000) < 0.1)
    first = write(tmp_path, "x", tensor("a", bits), recipe={"lr": 1})
    second = write(tmp_path, "y", tensor("a", bits), recipe={"lr": 2}, coding="raw")
    assert first.stat().st_size < second.stat().st_size
    assert succeed("diff", first, second, "--exit-code").endswith("weights are equal, state is equal\n")


def test_exit_codes(tmp_path, digits):
    first, second = write(tmp_path, "x", tensor("a", "10")), write(tmp_path, "y", tensor("a", "01"))
    assert invoke("diff", first, second).exit_code == 0
    assert invoke("diff", first, second, "--exit-code").exit_code == 1
    assert invoke("diff", first, first, "--exit-code").exit_code == 0
    assert json.loads(invoke("diff", first, second, "--exit-code", "--json").stdout)["equal_weights"] is False
    assert "absent.seedmask: cannot be read" in fail(1, "diff", first, tmp_path / "absent.seedmask")
    damaged = tmp_path / "damaged.seedmask"
    damaged.write_bytes(first.read_bytes()[:-1])
    assert "damaged.seedmask: truncated" in fail(1, "diff", damaged, first)
    assert "Missing argument 'SECOND'" in fail(2, "diff", first)


def test_digests_of_both_files_are_checked(tmp_path):
    right = write(tmp_path, "right", tensor("a", "1010"))
    wrong = tmp_path / "wrong.seedmask"
    wrong.write_bytes(misstated(right.read_bytes()))
    for pair in ((right, wrong), (wrong, right)):
        assert "wrong.seedmask: tensor 'a': expected recovered weights with SHA-256 0000" in fail(1, "diff", *pair)


def test_a_trained_network_against_another_seed_and_itself(digits, tmp_path):
    assert compare(read_seedmask(digits.seedmask), read_seedmask(digits.seedmask)).total.iou == 1.0
    other = tmp_path / "other.ckpt"
    succeed("train", "--epochs", 1, "--width", 0.5, "--seed", 1, "--device", "cpu", "--out", other, "-q")
    succeed("pack", other)
    found = diff(digits.seedmask, other.with_suffix(".seedmask"))
    assert {"seed", "recipe.subnetwork.seed", "recipe.train.epochs", "recipe.subnetwork.resample.every"} == {
        entry["setting"] for entry in found["settings"]
    }
    total = found["totals"]
    assert total["iou"] == pytest.approx(1 / 3, abs=0.02), "independent masks of 50 %"
    assert total["equal_value_share"] == pytest.approx(0.5, abs=0.02), "independent signs"


def test_diff_does_not_import_torch(digits):
    assert not {"torch", "onnx", "onnxruntime"} & modules_after("diff", str(digits.seedmask), str(digits.seedmask))
