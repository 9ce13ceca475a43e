"""Tickets in files: packed with and without trained weights, and trained again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import fail, succeed
from iterand_compress import load_network, read_seedmask
from iterand_compress.cli.options import VALUE_DTYPE_CHOICES
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.pack import network_of_checkpoint, trained_error
from iterand_compress.compress.seedmask import quantise, write_seedmask


def test_choices_are_those_of_the_library():
    for name in VALUE_DTYPE_CHOICES:
        assert len(quantise(np.ones(2, np.float32), np.ones(2, bool), (2,), name).values) == 2


# train --ticket


@pytest.mark.slow
def test_a_ticket_is_trained_as_the_first_time(ticket, tmp_path):
    out = tmp_path / "again.ckpt"
    succeed("train", "--ticket", ticket.seedmask, "--device", "cpu", "-q", "--out", out)
    first, again = load_checkpoint(ticket.checkpoint), load_checkpoint(out)
    assert first.recipe == again.recipe
    masks = {tensor.name: tensor.mask for tensor in network_of_checkpoint(again).tensors}
    for entry in read_seedmask(ticket.seedmask).tensors:
        np.testing.assert_array_equal(masks[entry.name], read_seedmask(ticket.seedmask).mask(entry.name))
    for name, value in first.model.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again.model[name]), name
    assert first.test == again.test


def test_masks_come_from_the_file_whatever_the_recipe(ticket, tmp_path):
    """Random pruning of the same seed would find others."""
    out = tmp_path / "other.ckpt"
    about = ("--recipe", "digits", "--method", "random", "--width", 0.25, "--epochs", 1, "--seed", 8)
    succeed("train", "--ticket", ticket.seedmask, *about, "--device", "cpu", "-q", "--out", out)
    run = load_checkpoint(out)
    assert (run.recipe.subnetwork.method, run.recipe.subnetwork.seed, run.recipe.train.batch_size) == ("random", 8, 64)
    for tensor in network_of_checkpoint(run).tensors:
        np.testing.assert_array_equal(tensor.mask, read_seedmask(ticket.seedmask).mask(tensor.name))


def test_tickets_that_cannot_be_trained(ticket, digits, tmp_path):
    out = ("--out", tmp_path / "x.ckpt")
    line = fail(2, "train", "--ticket", digits.seedmask, *out)
    assert "its masks belong to untrained weights; they come from iterand, which finds them in training" in line
    assert "a ticket comes from one of magnitude, random, snip, grasp, synflow" in line
    line = fail(2, "train", "--ticket", ticket.seedmask, "--resume", "--out", ticket.checkpoint)
    assert "--ticket with --resume: the masks are in the checkpoint already" in line
    line = fail(2, "train", "--ticket", ticket.seedmask, "--method", "iterand", *out)
    assert "ticket: method iterand finds its masks in training" in line
    line = fail(2, "train", "--ticket", ticket.seedmask, "--width", 0.5, *out)
    assert "expected a mask of" in line
    assert "absent.seedmask: cannot be read" in fail(1, "train", "--ticket", tmp_path / "absent.seedmask", *out)
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_without_recipe_needs_one(ticket, tmp_path):
    bare = tmp_path / "bare.seedmask"
    write_seedmask(replace(read_seedmask(ticket.seedmask).network(), recipe=None), bare)
    line = fail(2, "train", "--ticket", bare, "--out", tmp_path / "x.ckpt")
    assert "bare.seedmask: holds no recipe that this version knows; give --recipe" in line


def test_a_ticket_never_makes_us_import_code(tmp_path, monkeypatch):
    (tmp_path / "ticketnet.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    about = ("--epochs", 1, "--device", "cpu", "-q")
    succeed(
        "train", "--model", "ticketnet:build", "--method", "magnitude", "--set=subnetwork.distribution=normal", *about
    )
    succeed("pack", "model.ckpt")
    for command in (("train", "--out", "x.ckpt", "--ticket"), ("ablate", "--device", "cpu")):
        assert "a file never makes us import code" in fail(2, *command, "model.seedmask")
    named = ("--model", "ticketnet:build")
    succeed("train", "--ticket", "model.seedmask", *named, *about, "--out", "x.ckpt")
    assert load_checkpoint(tmp_path / "x.ckpt").test == load_checkpoint(tmp_path / "model.ckpt").test
    found = json.loads(succeed("ablate", "model.ckpt", *named, "--reinit", "--json", "--device", "cpu"))
    assert [variant["name"] for variant in found["variants"]] == ["baseline", "reinit"]


# pack --with-weights


@pytest.fixture(scope="module")
def packed(ticket, tmp_path_factory):
    """Report of each dtype; ``None`` is the ticket alone."""
    folder, reports = tmp_path_factory.mktemp("packed"), {}
    for dtype in (None, *VALUE_DTYPE_CHOICES):
        options = ("--with-weights", dtype) if dtype else ()
        text = succeed("pack", ticket.checkpoint, "--out", folder / f"{dtype}.seedmask", *options, "--json")
        reports[dtype] = json.loads(text)
    return reports


def test_exact_weights_recover_the_trained_network(ticket, packed):
    trained = load_network(ticket.checkpoint).model.state_dict()
    recovered = load_network(packed["float32"]["file"]).model.state_dict()
    assert trained.keys() == recovered.keys()
    for name, value in trained.items():
        assert value.numpy().tobytes() == recovered[name].numpy().tobytes(), name
    scores = [json.loads(succeed("eval", file, "--json")) for file in (ticket.checkpoint, packed["float32"]["file"])]
    assert scores[0]["correct"] == scores[1]["correct"] == load_checkpoint(ticket.checkpoint).test["correct"]
    assert scores[0]["loss"] == scores[1]["loss"]


def test_sizes(packed):
    sizes = [packed[dtype]["file_bytes"] for dtype in ("float32", "float16", "int8", None)]
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] < 8000, "of which nearly 4000 are header and state"
    kept = packed["float32"]["kept"]
    assert packed["float32"]["value_bits"] == 32 * kept
    assert packed["float16"]["value_bits"] == 16 * kept
    assert packed[None]["value_bits"] == 0


def test_rounding_errors(ticket, packed):
    trained = load_network(ticket.checkpoint).model.state_dict()
    assert packed["float32"]["values_largest_error"] == packed[None]["values_largest_error"] == 0
    for dtype in ("float16", "int8"):
        file = read_seedmask(packed[dtype]["file"])
        errors = {
            name: float(np.abs(weights.astype(np.float64) - trained[name].numpy()).max())
            for name, weights in file.weights().items()
        }
        worst = max(errors, key=errors.__getitem__)
        assert packed[dtype]["values_largest_error"] == errors[worst] > 0
        run = load_checkpoint(ticket.checkpoint)
        assert trained_error(network_of_checkpoint(run, with_weights=dtype), run) == (errors[worst], worst)
    largest = max(float(np.abs(value.numpy()).max()) for name, value in trained.items() if value.dim() > 1)
    assert packed["float16"]["values_largest_error"] <= largest * 2**-11
    assert packed["int8"]["values_largest_error"] <= largest / 254 * (1 + 1e-6)


def test_what_is_printed(ticket, packed, tmp_path):
    out = ("--out", tmp_path / "x.seedmask")
    assert "a ticket: its weights are those that training began with; --with-weights" in succeed(
        "pack", ticket.checkpoint, *out
    )
    text = succeed("pack", ticket.checkpoint, *out, "--with-weights", "float32")
    assert f"trained weights {4 * packed['float32']['kept']:,} bytes in float32, exact" in text
    text = succeed("pack", ticket.checkpoint, *out, "--with-weights", "int8")
    report = packed["int8"]
    assert f"trained weights {report['value_bits'] // 8:,} bytes in int8; largest error " in text
    assert f"{report['values_largest_error']:.2g}, in " in text


def test_a_subnetwork_has_no_trained_weights(digits, tmp_path):
    line = fail(1, "pack", digits.checkpoint, "--out", tmp_path / "x.seedmask", "--with-weights", "int8")
    assert "the weights of a subnetwork are not trained" in line
    line = fail(2, "pack", digits.checkpoint, "--out", tmp_path / "x.seedmask", "--with-weights", "int4")
    assert "Invalid value for '--with-weights'" in line
    assert list(tmp_path.iterdir()) == []
