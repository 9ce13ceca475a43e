"""Batches that are computed in parts, one after the other. That they are those of several processes, bit for bit, is in
test_distributed.py."""

import json
import math

import pytest
import torch
from torch import nn

from conftest import fail, succeed
from iterand_compress import masked_layers
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.data.shard import Shard
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.training import run as run_module
from iterand_compress.compress.training.recipe import override
from iterand_compress.compress.training.run import Run
from iterand_compress.compress.training.trainer import RunOptions, train

# 20 steps of a network without BatchNorm, which makes parts of a batch other than the whole.
PLAIN = override(
    Recipe(),
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


def trained(recipe, out, **options):
    """Train; masks and losses after each step, the scores at the end, and how many images were seen at a time."""
    masks, losses, scores, sizes = [], [], [], []
    original = Run.step

    def step(self, *arguments):
        handle = self.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        loss = original(self, *arguments)
        handle.remove()
        losses.append(loss.clone())
        layers = masked_layers(self.model)
        masks.append(torch.cat([part.mask(scores) for _, part, scores in layers]))
        scores[:] = [score.detach().clone() for _, _, score in layers]
        return loss

    Run.step = step
    try:
        train(recipe, RunOptions(out, device="cpu", **options))
    finally:
        Run.step = original
    return torch.stack(masks), torch.stack(losses), torch.cat(scores), sizes


def tensors_of(path):
    return {k: v for k, v in torch.load(path, weights_only=True)["model"].items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("parts", [2, 5])
def test_gradients_of_parts_add_up_to_those_of_the_batch(tmp_path, parts):
    masks, losses, scores, sizes = trained(PLAIN, tmp_path / "whole.ckpt")
    in_parts, sums, other, pieces = trained(PLAIN, tmp_path / "parts.ckpt", accumulate=parts)
    assert sizes == [63] * 20
    assert max(pieces) == math.ceil(63 / parts)
    assert sum(pieces) == sum(sizes)
    torch.testing.assert_close(other, scores, rtol=1e-3, atol=1e-5)  # of sums of floats in another order, 20 times
    torch.testing.assert_close(sums, losses, rtol=1e-5, atol=1e-6)
    assert not torch.equal(masks[0], masks[-1])
    assert torch.equal(in_parts, masks)


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
def test_other_methods_in_parts(tmp_path, changes):
    recipe = override(PLAIN, changes)
    train(recipe, RunOptions(tmp_path / "whole.ckpt", device="cpu"))
    train(recipe, RunOptions(tmp_path / "parts.ckpt", device="cpu", accumulate=3))
    whole, parts = tensors_of(tmp_path / "whole.ckpt"), tensors_of(tmp_path / "parts.ckpt")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_compiled_network_in_parts(tmp_path, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(run_module.torch, "compile", lambda module, mode: real(module, backend="eager"))
    for name, compiled in (("eager", None), ("compiled", "default")):
        train(PLAIN, RunOptions(tmp_path / f"{name}.ckpt", device="cpu", accumulate=2, compile=compiled))
    eager, compiled = tensors_of(tmp_path / "eager.ckpt"), tensors_of(tmp_path / "compiled.ckpt")
    assert all(torch.equal(eager[name], compiled[name]) for name in eager)


def test_pieces_are_the_parts_of_more_processes():
    for size in (64, 63, 7):
        for processes in (1, 2, 3):
            for count in (1, 2, size // processes):
                found = []
                for rank in range(processes):
                    own = Shard(rank, processes)
                    begin = own.of(0, size).start
                    found += [(begin + piece.start, begin + piece.stop) for piece in own.pieces(size, count)]
                of_more = [Shard(part, processes * count).of(0, size) for part in range(processes * count)]
                assert found == [(part.start, part.stop) for part in of_more]


def test_accuracy_and_loss_of_an_epoch_count_all_parts(tmp_path):
    lines = []
    for parts in (1, 2):
        out = tmp_path / f"{parts}.ckpt"
        succeed("train", "--model", "test_accumulation:plain", "--epochs", 1, "--accumulate", parts, "--out", out)
        lines.append(json.loads(out.with_suffix(".metrics.jsonl").read_text().splitlines()[0]))
    whole, in_parts = lines
    assert in_parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert in_parts["accuracy"] == pytest.approx(whole["accuracy"], abs=0.002)
    assert whole["accuracy"] > 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            (
                "--set",
                "train.sync_batchnorm=true",
            ),
            "BatchNorm cannot be synchronised over parts that are computed one after the other (sync_batchnorm); leave",
        ),
        (
            ("--compile", "reduce-overhead"),
            "accumulate: CUDA graphs write over the gradients of the part before (--compile reduce-overhead); leave",
        ),
        (
            ("--batch-size", 1),
            "accumulate: a batch of 1 cannot be computed in 2 parts by each of 1 processes; give 1 at most",
        ),
    ],
)
def test_what_cannot_be_computed_in_parts(tmp_path, words, text):
    out = tmp_path / "m.ckpt"
    assert text in fail(2, "train", "--device", "cpu", "--accumulate", 2, *words, "--out", out)
    assert not out.exists()


def test_numbers_of_parts_that_make_no_sense(tmp_path):
    assert "0 is not in the range x>=1" in fail(2, "train", "--accumulate", 0, "--out", tmp_path / "m.ckpt")
    with pytest.raises(ConfigError, match="accumulate: expected at least 1, got -1"):
        train(PLAIN, RunOptions(tmp_path / "m.ckpt", device="cpu", accumulate=-1))
