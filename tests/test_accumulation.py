"""Batches that are computed in micro-batches, one after the other.

That they are those of several processes, bit for bit, is in test_distributed.py.
"""

import json
import math

import pytest
import torch
from torch import nn

from conftest import fail, succeed
from iterand_compress import IteRand
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.data.shard import Shard
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.training import loop
from iterand_compress.compress.training.loop import train
from iterand_compress.compress.training.recipe import override
from iterand_compress.compress.training.run_options import RunOptions

# 20 steps of a network without BatchNorm, whose statistics are those of each micro-batch.
PLAIN = override(
    Recipe(subnetwork=IteRand()),
    {
        "model.name": "test_accumulation:plain",
        "subnetwork.resample.every": 4,
        "train.batch_size": 63,
        "train.epochs": 1,
        "train.label_smoothing": 0.1,
    },
)


def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, num_classes))


def trained(recipe, out, monkeypatch, **options):
    """Train; masks and losses after each step, the scores at the end, and how many images were seen at a time."""
    masks, losses, scores, sizes = [], [], [], []
    original = loop.training_step

    def step(run, *arguments):
        handle = run.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        loss = original(run, *arguments)
        handle.remove()
        losses.append(loss.clone())
        layers = masked_layers(run.model)
        masks.append(torch.cat([masked.mask(scores) for _, masked, scores in layers]))
        scores[:] = [score.detach().clone() for _, _, score in layers]
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", step)
        train(recipe, RunOptions(out, device="cpu", **options))
    return torch.stack(masks), torch.stack(losses), torch.cat(scores), sizes


def tensors_of(path):
    return {k: v for k, v in torch.load(path, weights_only=True)["model"].items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("count", [2, 5])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(tmp_path, monkeypatch, count):
    masks, losses, scores, sizes = trained(PLAIN, tmp_path / "whole.ckpt", monkeypatch)
    accumulated, sums, other, micro = trained(PLAIN, tmp_path / "micro.ckpt", monkeypatch, accumulate=count)
    assert sizes == [63] * 20
    assert max(micro) == math.ceil(63 / count)
    assert sum(micro) == sum(sizes)
    torch.testing.assert_close(other, scores, rtol=1e-3, atol=1e-5)  # of sums of floats in another order, 20 times
    torch.testing.assert_close(sums, losses, rtol=1e-5, atol=1e-6)
    assert not torch.equal(masks[0], masks[-1])
    assert torch.equal(accumulated, masks)


@pytest.mark.parametrize(
    "changes",
    [
        {"subnetwork.selection.multiplicity": 2, "subnetwork.method": "edge-popup"},
        {"subnetwork.method": "biprop", "subnetwork.distribution": "normal"},
        {"subnetwork.method": "snip", "train.lr": 0.05},
        {"subnetwork.method": "dense", "train.lr": 0.05},
    ],
    ids=["coats", "biprop", "snip", "dense"],
)
def test_other_methods_in_micro_batches(tmp_path, changes):
    recipe = override(PLAIN, changes)
    train(recipe, RunOptions(tmp_path / "whole.ckpt", device="cpu"))
    train(recipe, RunOptions(tmp_path / "micro.ckpt", device="cpu", accumulate=3))
    whole, micro = tensors_of(tmp_path / "whole.ckpt"), tensors_of(tmp_path / "micro.ckpt")
    for name, tensor in whole.items():
        torch.testing.assert_close(micro[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_compiled_network_in_micro_batches(tmp_path, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, mode: real(module, backend="eager"))
    for name, compiled in (("eager", None), ("compiled", "default")):
        train(PLAIN, RunOptions(tmp_path / f"{name}.ckpt", device="cpu", accumulate=2, compile=compiled))
    eager, compiled = tensors_of(tmp_path / "eager.ckpt"), tensors_of(tmp_path / "compiled.ckpt")
    assert all(torch.equal(eager[name], compiled[name]) for name in eager)


def test_micro_batches_are_the_shards_of_more_processes():
    for size in (64, 63, 7):
        for processes in (1, 2, 3):
            for count in (1, 2, size // processes):
                found = []
                for rank in range(processes):
                    own = Shard(rank, processes)
                    begin = own.of(0, size).start
                    found += [(begin + each.start, begin + each.stop) for each in own.micro_batches(size, count)]
                of_more = [Shard(rank, processes * count).of(0, size) for rank in range(processes * count)]
                assert found == [(shard.start, shard.stop) for shard in of_more]


def test_accuracy_and_loss_of_an_epoch_count_all_micro_batches(tmp_path):
    lines = []
    for count in (1, 2):
        out = tmp_path / f"{count}.ckpt"
        succeed("train", "--model", "test_accumulation:plain", "--epochs", 1, "--accumulate", count, "--out", out)
        lines.append(json.loads(out.with_suffix(".metrics.jsonl").read_text().splitlines()[0]))
    whole, accumulated = lines
    assert accumulated["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert accumulated["accuracy"] == pytest.approx(whole["accuracy"], abs=0.002)
    assert whole["accuracy"] > 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("--set=train.sync_batchnorm=true",),
            "BatchNorm cannot be synchronised over micro-batches that are computed in turn (sync_batchnorm); leave",
        ),
        (
            ("--compile", "reduce-overhead"),
            "accumulate: CUDA graphs overwrite the gradients of the micro-batch before (--compile reduce-overhead);",
        ),
        (
            ("--batch-size", 1),
            "accumulate: a batch of 1 cannot be computed in 2 micro-batches by each of 1 processes; give 1 at most",
        ),
    ],
)
def test_what_cannot_be_computed_in_micro_batches(tmp_path, words, text):
    out = tmp_path / "m.ckpt"
    assert text in fail(2, "train", "--device", "cpu", "--accumulate", 2, *words, "--out", out)
    assert not out.exists()


def test_numbers_of_micro_batches_that_make_no_sense(tmp_path):
    assert "0 is not in the range x>=1" in fail(2, "train", "--accumulate", 0, "--out", tmp_path / "m.ckpt")
    with pytest.raises(ConfigError, match="accumulate: expected at least 1, got -1"):
        train(PLAIN, RunOptions(tmp_path / "m.ckpt", device="cpu", accumulate=-1))
