"""One thread for small networks, on the command line."""

import pytest
import torch
from torch import nn

from conftest import succeed
from iterand_compress import load_network
from iterand_compress.compress.training.threads import is_small, step_work


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_work_is_positions_times_weights_times_batch():
    layer = nn.Linear(10, 20)
    assert step_work(layer, (3, 8, 4), 16) == 8 * 4 * 220 * 16
    assert step_work(layer, (30,), 2) == 30 * 220 * 2
    assert is_small(nn.Linear(1000, 1000, bias=False), (1, 10, 10), 20)
    assert not is_small(nn.Linear(1000, 1000, bias=False), (1, 10, 10), 21)


def weights(path):
    return load_network(path).model.state_dict().items()


def test_a_small_network_gets_one_thread_unless_the_user_says_more(two_threads, tmp_path, monkeypatch):
    common = ("--epochs", 1, "--device", "cpu")
    output = succeed("train", *common, "--out", tmp_path / "a.ckpt")
    assert "steps on cpu with one thread" in output
    assert torch.get_num_threads() == 2, "of the process, afterwards"
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = succeed("train", *common, "--out", tmp_path / "b.ckpt")
    assert "with one thread" not in output
    pairs = zip(weights(tmp_path / "a.ckpt"), weights(tmp_path / "b.ckpt"), strict=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "with one thread" not in succeed("train", *common, "--out", tmp_path / "c.ckpt")
    monkeypatch.delenv("OMP_NUM_THREADS")
    large = ("--batch-size", 300, *common)
    assert "with one thread" not in succeed("train", *large, "--out", tmp_path / "d.ckpt")
