"""Files larger than the memory: tensors made on demand, payloads read on demand, groups of bounded size."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden.make import GOLDEN
from safetensors.numpy import load_file

from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    StoredTensor,
    dumps,
    loads,
    read_seedmask,
    seedmask,
    write_seedmask,
    write_tensors,
    writer,
)


class OnDemand(Sequence[MaskedTensor]):
    """Tensors that exist while somebody holds them; ``most`` is how many did at a time."""

    def __init__(self, tensors: Sequence[MaskedTensor]) -> None:
        self.tensors = tensors
        self.alive: weakref.WeakSet[MaskedTensor] = weakref.WeakSet()
        self.most = 0

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> MaskedTensor:  # type: ignore[override]
        made = replace(self.tensors[index])
        self.alive.add(made)
        gc.collect()
        self.most = max(self.most, len(self.alive))
        return made


@pytest.mark.slow
@pytest.mark.parametrize("stem", GOLDEN)
def test_groups_and_tensors_on_demand_change_no_byte(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = GOLDEN[stem]()
    expected, weights = dumps(network), loads(dumps(network)).weights()
    monkeypatch.setattr(writer, "GROUP", 1)
    monkeypatch.setattr(seedmask, "GROUP", 1)
    tensors = OnDemand(network.tensors)
    lazy = replace(network, tensors=tensors)
    assert dumps(lazy) == expected
    assert tensors.most == 1, "the next one is made when the one before it is done with"
    again = loads(expected)
    found = again.weights()
    assert list(found) == list(weights)
    for name, values in found.items():
        assert values.tobytes() == weights[name].tobytes()
    again.verify()
    assert dumps(again.lazy_network()) == expected
    assert [row.log_bound for row in again.layer_report()] == [
        pytest.approx(row.log_bound) for row in loads(expected).layer_report()
    ]


@pytest.mark.slow
def test_names_of_tensors_on_demand_are_checked_when_they_are_packed(tmp_path: Path) -> None:
    (tensor,) = GOLDEN["v1-none"]().tensors
    network = Network(seed=1, tensors=OnDemand([tensor, tensor]))
    with pytest.raises(SeedMaskError, match=r"x: tensor 'fc\.weight': expected unique names"):
        write_seedmask(network, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [0, 1 << 26])
def test_payloads_wait_on_disk_or_in_memory_with_the_same_result(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SPOOL", max(limit, 1))
    network = GOLDEN["v1-rans"]()
    report = write_seedmask(network, tmp_path / "x.seedmask")
    assert (tmp_path / "x.seedmask").read_bytes() == dumps(network)
    assert report.file_bytes == len(dumps(network))
    assert [path.name for path in tmp_path.iterdir()] == ["x.seedmask"]


def test_an_open_file_outlives_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "x.seedmask"
    write_seedmask(GOLDEN["v1-rans"](), path)
    before = read_seedmask(path)
    expected = before.weights()
    write_seedmask(GOLDEN["v1-gaps"](), path)
    for name, values in before.weights().items():
        assert np.array_equal(values, expected[name])
    assert set(read_seedmask(path).weights()) == {"sparse", "sparser", "flipped", "one"}


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.seedmask"
    write_seedmask(GOLDEN["v1-rans"](), path)
    file = read_seedmask(path)
    os.truncate(path, 3000)
    with pytest.raises(SeedMaskError, match=r"x\.seedmask: truncated while it was read: \d+ bytes are gone"):
        file.weights()


def test_a_payload_that_changes_while_the_file_is_open_never_gives_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.seedmask"
    write_seedmask(GOLDEN["v1-draws"](), path)
    file = read_seedmask(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SeedMaskError, match="tensor 'c': expected a mask that keeps"):
        file.weights()


@pytest.mark.parametrize("group", [1, 1 << 26])
@pytest.mark.parametrize("stem", ["v1-rans", "v1-gaps", "v1-draws"])
def test_recovered_files_hold_weights_masks_and_state(
    stem: str, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seedmask, "GROUP", group)
    network = GOLDEN[stem]()
    state = {
        "bias": StoredTensor.from_numpy(np.array([1.5, 2.5], np.float64)),
        "flag": StoredTensor.from_numpy(np.array(True)),
    }
    network = Network(network.seed, network.tensors, state)
    path, out = tmp_path / "x.seedmask", tmp_path / "out"
    write_seedmask(network, path)
    file = read_seedmask(path)
    size, count = write_tensors(file, out)
    assert (size, count) == (out.stat().st_size, len(network.tensors) + 2)
    found = load_file(out)
    for name, values in file.weights().items():
        assert found[name].tobytes() == values.tobytes()
        assert found[name].shape == values.shape
    assert found["bias"].tolist() == [1.5, 2.5]
    assert found["flag"].item() is True
    write_tensors(file, out, masks=True)
    masks = load_file(out)
    assert set(masks) == {tensor.name for tensor in network.tensors}
    for tensor in network.tensors:
        assert masks[tensor.name].dtype == np.bool_
        assert np.array_equal(masks[tensor.name], tensor.mask.reshape(tensor.shape))
    second = network.tensors[1].name
    assert write_tensors(file, out, [second])[1] == 1
    assert np.array_equal(load_file(out)[second], file.weight(second))


def test_nothing_is_written_for_a_tensor_that_is_not_there_or_not_right(tmp_path: Path) -> None:
    path, out = tmp_path / "x.seedmask", tmp_path / "out"
    write_seedmask(GOLDEN["v1-rans"](), path)
    with pytest.raises(SeedMaskError, match=r"no masked tensor 'nix'; it has: conv\.weight, fc\.weight, full, small"):
        write_tensors(read_seedmask(path), out, ["nix"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 2
    path.write_bytes(data)
    with pytest.raises(SeedMaskError, match="tensor 'small': expected a mask that keeps"):
        write_tensors(read_seedmask(path, verify=False), out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.seedmask"]
