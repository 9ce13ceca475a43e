"""``export`` and ``verify`` of ONNX files from the command line: forms, versions, shrinking, and what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from conftest import fail, succeed
from iterand_compress import read_seedmask
from iterand_compress.cli.options import FORM_CHOICES, RUNTIME_CHOICES
from iterand_compress.export.export_options import AUTO, FLOAT16, FORMS, RUNTIMES

pytestmark = pytest.mark.usefixtures("captured_once")
OLD = b"\x08\x08\x12old"  # of ONNX, as far as can be seen


def answers(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    return session.run(None, {"pixels": pixels})[0]


def test_choices_are_those_of_the_library():
    assert (*FORMS, FLOAT16, AUTO) == FORM_CHOICES
    assert tuple(RUNTIMES) == RUNTIME_CHOICES


@pytest.mark.parametrize("form", ["packed", "int8", "seeded"])
@pytest.mark.parametrize("source", ["checkpoint", "seedmask"])
def test_every_form_of_checkpoint_and_seedmask(form, source, digits, tmp_path):
    path = tmp_path / "model.onnx"
    report = json.loads(succeed("export", getattr(digits, source), "--onnx", path, "--form", form, "--json"))
    assert (report["form"], report["form_bytes"][form]) == (form, path.stat().st_size)
    assert report["argmax_agreement"] == 1
    assert answers(path).tobytes() == answers(digits.onnx).tobytes()
    digest = read_seedmask(digits.seedmask).weights_digest
    assert json.loads(succeed("verify", path, "--json"))["weights_digest"] == digest
    evaluated = [json.loads(succeed("eval", file, "--json"))["correct"] for file in (path, digits.onnx)]
    assert evaluated[0] == evaluated[1]


def test_packed_is_nearly_as_small_as_the_seedmask(digits, tmp_path):
    text = succeed("export", digits.seedmask, "--onnx", tmp_path / "a.onnx", "--form", "packed")
    size = (tmp_path / "a.onnx").stat().st_size
    assert f"{size:,} bytes, form packed, opset 18, IR 8" in text
    file = read_seedmask(digits.seedmask)
    weights, kept = (sum(getattr(entry, what) for entry in file.tensors) for what in ("weights", "kept"))
    assert size < 1.6 * weights / 8 + 25_000 < digits.onnx.stat().st_size / 6
    assert kept == weights // 2


def test_a_smaller_form_is_named(digits, tmp_path):
    sizes = {}
    for form in ("packed", "int8"):
        text = succeed("export", digits.seedmask, "--onnx", tmp_path / f"{form}.onnx", "--form", form)
        sizes[form] = (tmp_path / f"{form}.onnx").stat().st_size
        assert ("would be smaller" in text) == (form == "int8")
    assert f"int8.onnx: form packed would be smaller, {sizes['packed']:,} bytes" in text


def test_auto_says_what_it_chose(digits, tmp_path):
    report = json.loads(succeed("export", digits.seedmask, "--onnx", tmp_path / "a.onnx", "--form", "auto", "--json"))
    assert set(report["form_bytes"]) == set(FORMS)
    assert report["file_bytes"] == min(report["form_bytes"].values()) == (tmp_path / "a.onnx").stat().st_size


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (("--onnx",), "model.onnx"),
        (("--onnx", "model.seedmask"), "model.onnx"),
        (("model.seedmask", "--onnx"), "model.onnx"),
        (("model.seedmask", "--onnx", "out.onnx"), "out.onnx"),
        (("--onnx", "out.onnx"), "out.onnx"),
        (("--onnx", "model.seedmask", "-o", "out.onnx"), "out.onnx"),
        (("model.seedmask", "-o", "out.onnx"), "out.onnx"),
        (("--onnx", "--out", "out"), "out"),
    ],
    ids=" ".join,
)
def test_where_the_input_and_the_output_may_stand(words, written, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits.seedmask, "model.seedmask")
    succeed("export", *words)
    assert {path.name for path in tmp_path.iterdir()} == {"model.seedmask", written}
    assert Path("model.seedmask").read_bytes() == digits.seedmask.read_bytes()
    assert Path(written).read_bytes() == digits.onnx.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.seedmask", "--onnx", "b.seedmask"), "expected one input, got a.seedmask and --onnx b.seedmask; name the"),
        (("--onnx", "a.seedmask", "out.onnx"), "expected one input, got out.onnx and --onnx a.seedmask; name the"),
        (("--onnx", "a.ckpt", "b.ckpt"), "expected one input, got b.ckpt and --onnx a.ckpt"),
        (("--onnx", "model"), "--onnx model may be input or output; give INPUT --onnx, and name the output with -o"),
        (("a.seedmask", "--onnx", "b.onnx", "-o", "c.onnx"), "expected one output, got --onnx b.onnx and --out c.onnx"),
        (("a.ckpt", "-o", "a.SEEDMASK"), "--out a.SEEDMASK has the ending of an input; give -o FILE.onnx"),
        (("a.seedmask",), "Missing option '--onnx'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_may_be_input_or_output_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.seedmask", "b.seedmask", "a.ckpt", "b.ckpt", "model", "out.onnx"):
        Path(name).write_bytes(OLD)
    assert message in fail(2, "export", *words)
    assert all(path.read_bytes() == OLD for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 6


def test_versions_and_inlining(digits, tmp_path):
    options = ("--form", "packed", "--runtime", "openvino", "--opset", 19, "--ir-version", 9)
    succeed("export", digits.seedmask, "--onnx", tmp_path / "a.onnx", *options)
    model = onnx.load(tmp_path / "a.onnx")
    assert (model.ir_version, [entry.version for entry in model.opset_import], len(model.functions)) == (9, [19], 0)
    assert answers(tmp_path / "a.onnx").tobytes() == answers(digits.onnx).tobytes()


def test_shrink_reports_even_if_there_is_nothing(digits, tmp_path):
    text = succeed("export", digits.seedmask, "--onnx", tmp_path / "a.onnx", "--shrink")
    assert "shrink: nothing to remove from" in text
    assert answers(tmp_path / "a.onnx").tobytes() == answers(digits.onnx).tobytes()


@pytest.mark.slow
def test_shrink_of_a_sparse_network(tmp_path):
    options = ("--set=subnetwork.selection.scope=global", "--sparsity", 0.99, "--width", 0.25, "--epochs", 1, "-q")
    succeed("train", *options, "--device", "cpu", "--out", tmp_path / "model.ckpt")
    succeed("export", tmp_path / "model.ckpt", "--onnx", tmp_path / "whole.onnx")
    arguments = ("export", tmp_path / "model.ckpt", "--onnx", tmp_path / "a.onnx", "--shrink", "--form", "packed")
    report = json.loads(succeed(*arguments, "--json"))["shrink"]
    assert report["channels_removed"] == report["constant"] + report["unread"] > 0
    assert report["weights"] == sum(layer["weights"] for layer in report["layers"]) < report["weights_before"]
    text = succeed(*arguments)
    assert f"removed {report['channels_removed']} of {report['channels_before']} channels" in text
    np.testing.assert_allclose(answers(tmp_path / "a.onnx"), answers(tmp_path / "whole.onnx"), rtol=1e-5, atol=1e-6)
    verified = json.loads(succeed("verify", tmp_path / "a.onnx", "--json"))
    assert verified["weights"] > verified["recovered"], "a shrunk weight cannot be traced back to that of the seed"


@pytest.mark.slow
def test_trained_values(ticket, tmp_path):
    succeed("export", ticket.checkpoint, "--onnx", tmp_path / "dense.onnx")
    wanted = answers(tmp_path / "dense.onnx")
    line = fail(2, "export", ticket.checkpoint, "--onnx", tmp_path / "a.onnx", "--form", "int8")
    assert "was trained in float32" in line
    assert "--with-weights int8" in line
    assert not (tmp_path / "a.onnx").exists()
    for dtype, tolerance in {"float32": 0.0, "float16": 0.01, "int8": 0.1}.items():
        seedmask = tmp_path / f"{dtype}.seedmask"
        succeed("pack", ticket.checkpoint, "--with-weights", dtype, "--out", seedmask)
        succeed("export", seedmask, "--onnx", tmp_path / "a.onnx", "--form", "packed")
        succeed("export", seedmask, "--onnx", tmp_path / "b.onnx")
        assert answers(tmp_path / "a.onnx").tobytes() == answers(tmp_path / "b.onnx").tobytes()
        assert np.abs(answers(tmp_path / "a.onnx") - wanted).max() <= tolerance * np.abs(wanted).max()
        digest = json.loads(succeed("verify", tmp_path / "a.onnx", "--json"))["weights_digest"]
        assert digest == read_seedmask(seedmask).weights_digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--form", "seeded", "--runtime", "openvino"), "form seeded is not right on openvino: expected one of dense"),
        (("--form", "packed", "--keep-quantized"), "keep-quantized belongs to form int8, got form packed"),
        (("--opset", 17), "opset 17 is not supported: expected 18 to"),
        (("--ir-version", 7), "IR version 7 is not supported with opset 18: expected 8 to"),
    ],
)
def test_requests_that_make_no_sense(options, words, digits, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(OLD)
    assert words in fail(2, "export", digits.seedmask, "--onnx", path, *options)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_dense_training_has_no_other_form(tmp_path):
    succeed("train", "--method", "dense", "--width", 0.25, "--epochs", 1, "-q", "--out", tmp_path / "dense.ckpt")
    line = fail(2, "export", tmp_path / "dense.ckpt", "--onnx", tmp_path / "a.onnx", "--form", "packed")
    assert "form packed is for masked weights, and this network has none; take form dense" in line
    succeed("export", tmp_path / "dense.ckpt", "--onnx", tmp_path / "a.onnx")
    assert "ok: form dense, 0 masked weights" in succeed("verify", tmp_path / "a.onnx")


def test_verify_of_a_damaged_file(digits, tmp_path):
    path = tmp_path / "model.onnx"
    shutil.copy(digits.onnx, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert "expected values with SHA-256" in fail(1, "verify", path)
