"""The commands, from a user's side: values, exit codes, and one clear line for every mistake."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

from conftest import fail, invoke, succeed
from iterand_compress import load, load_network, read_seedmask
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.models import Architecture
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.tensors import recovered_state


def test_three_files_one_accuracy(digits):
    results = [
        json.loads(succeed("eval", file, "--json")) for file in (digits.checkpoint, digits.seedmask, digits.onnx)
    ]
    assert len({result["correct"] for result in results}) == 1
    assert results[0]["images"] == 360
    assert results[0]["accuracy"] > 0.6, "three epochs at half width"
    assert load_checkpoint(digits.checkpoint).test["correct"] == results[0]["correct"]


def test_packed_weights_are_the_trained_weights(digits):
    trained = load_network(digits.checkpoint).model.state_dict()
    recovered = load(digits.seedmask).state_dict()
    assert trained.keys() == recovered.keys()
    for name, value in trained.items():
        assert torch.equal(value, recovered[name]), name
        assert value.numpy().tobytes() == recovered[name].numpy().tobytes(), name


def test_the_log_is_needed(digits):
    """Without resampled weights among the kept ones the other tests would not see a wrong log."""
    kinds = {row.log_kind for row in read_seedmask(digits.seedmask).layer_report()}
    assert "flips" in kinds


def test_pack_reports_and_defaults_to_the_same_name(digits, tmp_path):
    checkpoint = tmp_path / "net.ckpt"
    shutil.copy(digits.checkpoint, checkpoint)
    report = json.loads(succeed("pack", checkpoint, "--json"))
    target = tmp_path / "net.seedmask"
    assert report["file"] == str(target)
    assert report["file_bytes"] == target.stat().st_size
    assert target.read_bytes() == digits.seedmask.read_bytes()
    assert report["kept"] == report["weights"] // 2
    assert target.stat().st_size * 10 < checkpoint.stat().st_size


def test_no_local_path_travels(digits):
    assert str(digits.folder).encode() not in digits.seedmask.read_bytes()
    assert str(digits.folder).encode() not in digits.onnx.read_bytes()


def test_inspect(digits):
    report = json.loads(succeed("inspect", digits.seedmask, "--json"))
    totals = report["totals"]
    assert report["architecture"]["name"] == "digits-cnn"
    assert report["architecture"]["width"] == 0.5
    assert report["recipe"]["subnetwork"]["resample"]["every"] == 10
    assert totals["file_bytes"] == digits.seedmask.stat().st_size
    assert totals["weights"] == sum(layer["weights"] for layer in report["layers"])
    assert totals["mask_bound"] == pytest.approx(1.0, abs=1e-3)
    assert 1.0 <= totals["mask_bits_per_weight"] < 1.01
    assert 0 < totals["log_bound"] < totals["log_bits_per_weight"] <= 0.51
    text = succeed("inspect", digits.seedmask)
    assert report["weights_digest"] in text
    assert f"file {totals['file_bytes']:,} bytes" in text


def test_verify(digits, tmp_path):
    assert "recovered bit for bit" in succeed("verify", digits.seedmask)
    content = bytearray(digits.seedmask.read_bytes())
    content[-1] ^= 1
    flipped = tmp_path / "flipped.seedmask"
    flipped.write_bytes(content)
    line = fail(1, "verify", flipped)
    assert "flipped.seedmask: payload digest: expected" in line


def test_recover_loads_strictly_into_the_dense_model(digits, tmp_path):
    out = tmp_path / "weights.safetensors"
    succeed("recover", digits.seedmask, "--out", out)
    manifest = read_seedmask(digits.seedmask).manifest
    model = build_model(Architecture.from_dict(manifest.architecture), seed=0)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in load_file(out).items()}
    model.load_state_dict(tensors, strict=True)
    for name, value in recovered_state(read_seedmask(digits.seedmask)).items():
        assert torch.equal(tensors[name], value)


@pytest.mark.slow
def test_export_without_names_takes_the_one_file(digits, tmp_path, monkeypatch):
    shutil.copy(digits.seedmask, tmp_path / "net.seedmask")
    monkeypatch.chdir(tmp_path)
    succeed("export", "--onnx")
    assert (tmp_path / "net.onnx").read_bytes() == digits.onnx.read_bytes()
    shutil.copy(digits.seedmask, tmp_path / "second.seedmask")
    assert "expected one .seedmask file in this folder, got net.seedmask, second.seedmask" in fail(
        2, "export", "--onnx"
    )


def test_export_provenance(digits):
    properties = {entry.key: entry.value for entry in onnx.load(digits.onnx).metadata_props}
    assert properties["iterand.weights_sha256"] == read_seedmask(digits.seedmask).weights_digest
    assert float(properties["iterand.sparsity"]) == pytest.approx(0.5, abs=1e-3)
    assert json.loads(properties["iterand.classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(properties["iterand.recipe"])["subnetwork"]["method"] == "iterand"


def test_export_without_normalisation_evaluates_the_same(digits, tmp_path):
    out = tmp_path / "raw.onnx"
    succeed("export", digits.seedmask, "--onnx", out, "--no-normalize", "--opset", 20)
    baked, raw = (json.loads(succeed("eval", file, "--json")) for file in (digits.onnx, out))
    assert baked["correct"] == raw["correct"]
    assert {entry.version for entry in onnx.load(out).opset_import if entry.domain == ""} == {20}


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(digits, tmp_path):
    succeed("export", digits.seedmask, "--onnx", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == digits.onnx.read_bytes()


MISTAKES = [
    (2, ("train", "--recipe", "cifar10"), "recipe: unknown 'cifar10'"),
    (2, ("train", "--data", "mnits"), "unknown 'mnits'; did you mean 'mnist'"),
    (2, ("train", "--model", "resnet19"), "unknown 'resnet19'; did you mean"),
    (2, ("train", "--method", "iterant"), "unknown 'iterant'; did you mean 'iterand'?"),
    (2, ("train", "--sparsity", 1), "subnetwork.sparsity: input should be less than 1, got 1.0"),
    (2, ("train", "--sparsity", -0.5), "subnetwork.sparsity: input should be greater than or equal to 0"),
    (2, ("train", "--sparsity", 0.9999), "too small for sparsity 0.9999"),
    (
        2,
        ("train", "--set=subnetwork.resample.draws=300"),
        "subnetwork.resample.draws: input should be less than or equal to 256, got 300",
    ),
    (2, ("train", "--device", "cuda:7"), "device: 'cuda:7' was asked for"),
    (2, ("train", "--device", "gpu"), "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    (2, ("train", "--set=train.learning_rate=1"), "unknown key 'train.learning_rate'"),
    (2, ("train", "--set=lr"), "--set: expected SECTION.KEY=VALUE, got 'lr'"),
    (2, ("train", "--epochs", "many"), "Invalid value for '--epochs'"),
    (2, ("train", "--model", "nowhere.such:net"), "nowhere"),
    (1, ("train", "--data", "folder", "--data-dir", "absent"), "absent"),
    (1, ("train", "--data", "mnist", "--data-dir", "absent", "--no-download"), "--download"),
    (1, ("train", "--resume"), "model.ckpt: no such checkpoint"),
    (
        1,
        ("train", "--out", "missing/model.ckpt"),
        "missing/model.ckpt: cannot be written: No such file or directory; create the folder",
    ),
    (2, ("trian",), "No such command 'trian'"),
    (2, ("export",), "Missing option '--onnx'"),
    (2, ("export", "--onnx"), "expected one .seedmask file in this folder, got none"),
    (1, ("pack", "absent.ckpt"), "absent.ckpt: no such checkpoint"),
    (1, ("inspect", "absent.seedmask"), "absent.seedmask: cannot be read: No such file"),
    (1, ("verify", "absent.seedmask"), "absent.seedmask: cannot be read: No such file"),
    (1, ("recover", "absent.seedmask"), "absent.seedmask: cannot be read: No such file"),
    (1, ("eval", "absent.seedmask"), "absent.seedmask: cannot be read: No such file"),
    (1, ("eval", "absent.onnx"), "absent.onnx"),
]


@pytest.mark.parametrize(
    ("code", "arguments", "text"),
    MISTAKES,
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_mistakes_get_one_line(code, arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text in fail(code, *arguments)
    assert list(tmp_path.iterdir()) == [], "a mistake leaves no file"


def test_damaged_seedmask_files_get_one_line(digits, tmp_path):
    whole = digits.seedmask.read_bytes()
    cases = {
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "empty": (b"", "the file is empty"),
        "foreign": (digits.onnx.read_bytes(), "foreign.seedmask"),
        "newer": (
            whole.replace(b'\\"format_version\\":1', b'\\"format_version\\":7'),
            "newer iterand-compress",
        ),
        "weights": (whole.replace(b"digits-cnn", b"digits-cnm"), "manifest digest"),
    }
    for name, (content, text) in cases.items():
        path = tmp_path / f"{name}.seedmask"
        path.write_bytes(content)
        for command in (
            ("inspect",),
            ("verify",),
            ("recover",),
            ("eval",),
            ("export", "--onnx", tmp_path / "x.onnx"),
        ):
            if (name, *command) == ("foreign", "inspect"):  # which says what any file is
                assert "written by iterand-compress" in succeed("inspect", path)
                continue
            assert text in fail(1, command[0], path, *command[1:]), (name, command)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".seedmask"] * 5


def test_class_count_that_does_not_match(digits, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in "ab":
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("L", (8, 8)).save(folder / "0.png")
    line = fail(1, "eval", digits.seedmask, "--data", "folder", "--data-dir", tmp_path)
    assert "tells 10 classes apart, folder has 2" in line


def test_the_users_own_model_is_imported_only_when_given(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    succeed("train", "--model", "mynet:build", "--epochs", 1, "--device", "cpu", "-q")
    succeed("pack", "model.ckpt")
    assert "--model" in fail(2, "eval", "model.seedmask")
    assert "--model" in fail(2, "export", "--onnx")
    named = json.loads(succeed("eval", "model.seedmask", "--model", "mynet:build", "--json"))
    assert named["correct"] == load_checkpoint(tmp_path / "model.ckpt").test["correct"]
    assert "does not fit the model" in fail(1, "eval", "model.seedmask", "--model", "digits-cnn")


def test_missing_extra_names_the_pip_line(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.chdir(tmp_path)
    assert "pip install 'scikit-learn>=1.4' (the extra 'demo')" in fail(2, "train")


def test_help_and_version():
    assert invoke("--help").exit_code == 0
    assert succeed("--version").startswith("iterand-compress 0.")
    for command in ("train", "pack", "inspect", "verify", "recover", "eval", "export"):
        assert "Example: iterand-compress" in succeed(command, "--help")
