"""inspect of every kind of file, and what estimate, theory, eval and train say beside their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import iterand_compress as ic
from conftest import fail, succeed

# --- inspect


def test_a_checkpoint(digits) -> None:
    found = json.loads(succeed("inspect", digits.checkpoint, "--json"))
    packed = json.loads(succeed("inspect", digits.seedmask, "--json"))
    assert (found["kind"], packed["kind"], found["method"], found["data"]) == (
        "checkpoint",
        "seedmask",
        "iterand",
        "digits",
    )
    columns = ("name", "shape", "weights", "kept")
    rows = [[[layer[column] for column in columns] for layer in one["layers"]] for one in (found, packed)]
    assert rows[0] == rows[1]
    for key in ("weights", "kept", "state_bytes", "dense_bytes"):
        assert found["totals"][key] == packed["totals"][key], key
    assert found["totals"]["file_bytes"] == digits.checkpoint.stat().st_size
    for key in ("architecture", "input", "classes", "recipe"):
        assert found[key] == packed[key], key
    score = json.loads(succeed("eval", digits.checkpoint, "--device", "cpu", "--json"))
    assert found["test_accuracy"] == score["accuracy"]
    assert found["unfinished"] is None
    text = succeed("inspect", digits.checkpoint)
    assert f"complete after 3 epochs, 60 steps: test accuracy {100 * score['accuracy']:.2f} %" in text
    assert "digits-cnn, iterand on digits, seed 0, signed-constant\ntakes images of 1×8×8, mean" in text
    assert "10 classes: 0, 1, 2" in succeed("inspect", digits.seedmask)
    assert "made by iterand on digits" in succeed("inspect", digits.seedmask)


def test_checkpoints_of_tickets_and_of_dense_networks(ticket, tmp_path) -> None:
    found = json.loads(succeed("inspect", ticket.checkpoint, "--json"))
    packed = json.loads(succeed("inspect", ticket.seedmask, "--json"))
    assert [layer["kept"] for layer in found["layers"]] == [layer["kept"] for layer in packed["layers"]]
    assert found["totals"]["sparsity"] == pytest.approx(0.7, abs=1e-3)
    dense = tmp_path / "dense.ckpt"
    succeed("train", "--method", "dense", "--width", 0.1, "--epochs", 1, "--device", "cpu", "-q", "--out", dense)
    found = json.loads(succeed("inspect", dense, "--json"))
    assert found["method"] == "dense"
    plain = ic.load_network(dense).model.state_dict()
    assert found["totals"]["dense_bytes"] == sum(value.nbytes for value in plain.values())
    assert found["totals"]["sparsity"] == 0


def test_a_run_that_is_not_complete(digits, tmp_path) -> None:
    content = torch.load(digits.checkpoint, weights_only=True)
    content["test"], content["optimizer"] = None, {}
    content["recipe"]["train"]["epochs"] = 5
    torch.save(content, tmp_path / "half.ckpt")
    assert "of an unfinished run, after step 60 (3 of 5 epochs are done)" in succeed("inspect", tmp_path / "half.ckpt")


def test_onnx(digits, tmp_path) -> None:
    found = json.loads(succeed("inspect", digits.onnx, "--json"))
    assert (found["kind"], found["form"], found["method"]) == ("onnx", "dense", "iterand")
    assert found["classes"] == [str(number) for number in range(10)]
    assert found["inputs"] == [{"name": "pixels", "dtype": "float", "shape": ["batch", 1, 8, 8]}]
    assert found["file_bytes"] == digits.onnx.stat().st_size
    weights = {tensor["name"]: tensor for tensor in found["tensors"]}
    for layer in json.loads(succeed("inspect", digits.seedmask, "--json"))["layers"]:
        assert weights[layer["name"]]["shape"] == layer["shape"]
        assert weights[layer["name"]]["bytes"] == 4 * layer["weights"]
    text = succeed("inspect", digits.onnx)
    assert "form dense, iterand, sparsity 0.5" in text
    assert "takes pixels float [batch, 1, 8, 8]\ngives logits float [batch, 10]" in text
    assert "3 Conv" in text
    assert f"{found['file_bytes']:,}" in text


def test_onnx_of_somebody_else(tmp_path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "w\x1b[2J")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", weight.name], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    text = succeed("inspect", path)
    assert "not exported by iterand-compress\ntakes x float [n, 3]\ngives y float [n, 2]\noperators: 1 MatMul" in text
    assert "\x1b" not in text
    assert "written by an unnamed program" in text
    (tmp_path / "no.onnx").write_bytes(b"\x00\x01")
    assert "no.onnx: not an ONNX model" in fail(1, "inspect", tmp_path / "no.onnx")


# --- other commands


def test_eval_of_a_ticket_says_that_its_weights_are_untrained(ticket, digits, tmp_path) -> None:
    line = "a ticket: its weights are untrained, those that training is to begin with"
    assert line in succeed("eval", ticket.seedmask, "--device", "cpu")
    assert json.loads(succeed("eval", ticket.seedmask, "--device", "cpu", "--json"))["untrained"] is True
    whole = tmp_path / "whole.seedmask"
    succeed("pack", ticket.checkpoint, "--with-weights", "float32", "--out", whole)
    for file in (whole, ticket.checkpoint, digits.seedmask):
        assert line not in succeed("eval", file, "--device", "cpu")
        assert json.loads(succeed("eval", file, "--device", "cpu", "--json"))["untrained"] is False


def test_estimate_says_what_it_assumed() -> None:
    size = ("estimate", "--model", "conv2", "--sparsity", 0.5)
    text = succeed(*size)
    assert "for images of 3×32×32 and 10 classes (--classes, --image-size, --channels not given, so assumed)" in text
    found = json.loads(succeed(*size, "--image-size", 28, "--channels", 1, "--json"))
    assert found["assumed"] == ["classes"]
    assert found["input"]["shape"] == [1, 28, 28]
    given = succeed(*size, "--image-size", 32, "--channels", 3, "--classes", 10)
    assert "for images of 3×32×32 and 10 classes\n" in given
    texts = succeed("estimate", "--model", "text-transformer", "--sparsity", 0.5, "--tokens", 12, "--vocabulary", 50)
    assert "for texts of 12 tokens out of 50 and 10 classes (--classes not given, so assumed)" in texts


def test_theory_says_what_it_means() -> None:
    text = succeed("theory", "--widths", "7,3", "--resamples", 1, "--resamples", 100)
    found = json.loads(succeed("theory", "--widths", "7,3", "--resamples", 1, "--resamples", 100, "--json"))
    first, last = (network["parameters"] for network in found["networks"])
    assert "For your network: this is enough in the worst case" in text
    assert f"here {first / last:,.1f} times fewer weights with R = 100 than with R = 1." in text
    assert "the random network needs." in succeed("theory", "--widths", "7,3", "--resamples", 5)


def test_a_finished_run_is_not_extended_in_silence(digits) -> None:
    before = Path(digits.checkpoint).read_bytes()
    line = fail(2, "train", "--resume", "--out", digits.checkpoint, "--epochs", 9, "--device", "cpu", "-q")
    assert (
        "model.ckpt: cannot resume with other settings (train.epochs: 3 → 9); a run of 9 epochs has schedules of its "
        "own (learning rate, ramps, recycling), so this one cannot be extended: train anew, by the same command with "
        "another --out instead of --resume"
    ) in line
    assert Path(digits.checkpoint).read_bytes() == before
