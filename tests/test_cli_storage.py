"""pack, inspect, verify and recover: their options, through the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from networks import settings
from safetensors.numpy import load_file
from test_packaging import modules_after
from test_storage_bad_input import misstated

from conftest import fail, succeed
from iterand_compress import load_network, pack, read_seedmask
from iterand_compress.cli.options import STATE_DTYPE_CHOICES, max_weights_option
from iterand_compress.cli.pack_command import command as pack_command
from iterand_compress.compress import recover as recovery
from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.models import Architecture
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.recover import recover_on_device
from iterand_compress.compress.seed.codebooks import CODEBOOKS, get_codebook
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    StoredTensor,
    default_max_weights,
    dumps,
    write_seedmask,
)
from iterand_compress.compress.seedmask.codings import CODING_CHOICES
from iterand_compress.compress.seedmask.state_dtype import STATE_DTYPES, round_state

KINDS = ("none", "flips", "draws")


def network(sparsity: float = 0.5, weights: int = 20_000) -> Network:
    """Three codebooks; logs of each kind."""
    rng = np.random.default_rng(7)
    tensors = []
    for codebook, largest in (("signed-constant", 3), ("uniform", 200), ("normal", 1)):
        draws = np.where(rng.random(weights) < 0.3, rng.integers(0, largest, weights), 0).astype(np.uint8)
        keep = rng.random(weights) >= sparsity
        tensors.append(MaskedTensor(f"{codebook}.weight", (weights // 5, 5), codebook, np.float32(0.25), keep, draws))
    state = {"bn.running_mean": StoredTensor.from_numpy(np.float32([1, 2]))}
    return Network(seed=99, tensors=tuple(tensors), state=state)


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "net.seedmask"
    write_seedmask(network(), path)
    assert [entry.log.kind for entry in read_seedmask(path).tensors] == ["flips", "draws", "none"]
    return path


# --- choices that the help must know without NumPy


def test_choices_written_out_in_the_commands_are_those_of_the_library():
    coding = next(option for option in pack_command.params if option.name == "coding")
    assert tuple(coding.type.choices) == CODING_CHOICES
    assert STATE_DTYPE_CHOICES == STATE_DTYPES

    @max_weights_option
    def probe() -> None: ...

    text = probe.__click_params__[0].help
    assert default_max_weights(0) == 2**24
    assert default_max_weights(2**20) == 1024 * 2**20
    assert default_max_weights(2**40) == 2**33
    assert "1024 for each of its bytes, at least 2**24, at most 2**33" in text


@pytest.mark.parametrize("command", ["pack", "inspect", "verify", "diff", "estimate", "doctor"])
def test_help_imports_neither_torch_nor_numpy(command):
    assert not {"torch", "numpy", "onnx", "onnxruntime"} & modules_after(command, "--help")


@pytest.mark.parametrize("options", [["verify", "--deep"], ["recover", "--masks"], ["recover", "--tensor"]])
def test_files_are_read_without_torch(options, packed, tmp_path):
    more = {"--deep": [], "--masks": ["--out", str(tmp_path / "m")], "--tensor": ["normal.weight"]}[options[1]]
    assert not {"torch", "onnx", "onnxruntime"} & modules_after(options[0], str(packed), options[1], *more)


# --- pack --coding


@pytest.mark.slow
def test_codings_change_the_size_and_not_the_weights(digits, tmp_path):
    reports = {}
    for coding in CODING_CHOICES:
        path = tmp_path / f"{coding}.seedmask"
        reports[coding] = json.loads(succeed("pack", digits.checkpoint, "--out", path, "--coding", coding, "--json"))
        parts = [part for entry in read_seedmask(path).tensors for part in (entry.mask, entry.log) if part.bytes]
        used = {part.coding for part in parts}
        assert {"raw": used == {"raw"}, "rans": "raw" not in used, "auto": "rans" in used}[coding], used
    assert reports["raw"]["mask_bits"] == sum(
        -(-entry.weights // 8) * 8 for entry in read_seedmask(digits.seedmask).tensors
    )
    assert reports["auto"]["file_bytes"] < min(reports["raw"]["file_bytes"], reports["rans"]["file_bytes"])
    assert len({report["weights_digest"] for report in reports.values()}) == 1
    assert (tmp_path / "auto.seedmask").read_bytes() == digits.seedmask.read_bytes(), "auto is the default"


def test_an_unknown_coding(digits):
    assert "'zstd' is not one of 'auto', 'raw', 'rans'" in fail(2, "pack", digits.checkpoint, "--coding", "zstd")


# --- pack --state-dtype


@pytest.fixture(scope="module")
def half(digits):
    path = digits.folder / "half.seedmask"
    report = json.loads(succeed("pack", digits.checkpoint, "--out", path, "--state-dtype", "float16", "--json"))
    return path, report


def test_float16_halves_the_state_and_says_the_error(digits, half):
    path, report = half
    exact = json.loads(succeed("inspect", digits.seedmask, "--json"))["totals"]["state_bytes"]
    # Six vectors of statistics and three counters of batches, which stay 8 bytes.
    counters = 3 * 8
    assert report["state_exact_bytes"] == exact
    assert report["state_bytes"] == (exact - counters) // 2 + counters
    assert json.loads(succeed("inspect", path, "--json"))["totals"]["state_bytes"] == report["state_bytes"]

    before, after = read_seedmask(digits.seedmask).state(), read_seedmask(path).state()
    worst = 0.0
    for name, stored in before.items():
        if stored.dtype != "F32":
            assert (after[name].dtype, after[name].data.tobytes()) == (stored.dtype, stored.data.tobytes())
            continue
        assert after[name].dtype == "F16"
        values, rounded = stored.numpy().astype(np.float64), after[name].numpy().astype(np.float64)
        worst = max(worst, float(np.max(np.abs(rounded - values) / np.abs(values))))
    assert report["state_largest_relative_error"] == pytest.approx(worst, rel=1e-12)
    assert 1e-5 < worst < 1e-2
    text = succeed("pack", digits.checkpoint, "--out", digits.folder / "half2.seedmask", "--state-dtype", "float16")
    assert f"state {report['state_bytes']:,} bytes in float16 instead of {exact:,}" in text
    assert f"largest relative error {worst:.2g}, in features." in text


def test_exact_is_the_default_and_reports_no_error(digits, tmp_path):
    report = json.loads(succeed("pack", digits.checkpoint, "--out", tmp_path / "m.seedmask", "--json"))
    assert (report["state_dtype"], report["state_largest_relative_error"]) == ("exact", 0.0)
    assert report["state_bytes"] == report["state_exact_bytes"]


@pytest.mark.slow
def test_a_file_with_float16_state_loads_everywhere(digits, half, tmp_path):
    path, report = half
    exact, rounded = (json.loads(succeed("eval", file, "--json")) for file in (digits.seedmask, path))
    assert rounded["accuracy"] == pytest.approx(exact["accuracy"], abs=0.02)
    assert rounded["loss"] != exact["loss"], "rounding must have reached the network"
    assert rounded["loss"] == pytest.approx(exact["loss"], abs=0.01)

    succeed("export", path, "--onnx", tmp_path / "half.onnx")
    assert json.loads(succeed("eval", tmp_path / "half.onnx", "--json"))["correct"] == rounded["correct"]

    succeed("recover", path, "--out", tmp_path / "half.safetensors")
    tensors = {name: torch.from_numpy(array) for name, array in load_file(tmp_path / "half.safetensors").items()}
    assert tensors["features.1.running_var"].dtype == torch.float16
    model = build_model(Architecture.from_dict(read_seedmask(path).manifest.architecture), seed=0)
    model.load_state_dict(tensors, strict=True)
    loaded = load_network(path).model.state_dict()
    assert loaded["features.1.running_var"].dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded[name]), name
    assert report["weights_digest"] == read_seedmask(digits.seedmask).weights_digest, "masked weights stay exact"


def checkpoint_with(digits, tmp_path, name, value):
    """The digits checkpoint with one value of its state replaced."""
    content = torch.load(digits.checkpoint, weights_only=True)
    content["model"][name].view(-1)[3] = value
    path = tmp_path / "changed.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features.1.running_mean", 70000.0, "state 'features.1.running_mean': 70000.0 is beyond float16"),
        ("features.1.running_mean", -1e30, "is beyond float16, whose largest number is 65504; keep the state exact"),
        ("features.4.running_var", 2e-8, "state 'features.4.running_var': the variance 1.999999987845"),
    ],
)
def test_values_that_float16_cannot_hold(digits, tmp_path, name, value, message):
    checkpoint = checkpoint_with(digits, tmp_path, name, value)
    assert message in fail(1, "pack", checkpoint, "--state-dtype", "float16")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.ckpt"]
    succeed("pack", checkpoint, "--state-dtype", "exact")


@pytest.mark.parametrize("variance", [1.4e-45, 5e-15])
def test_the_variance_of_a_channel_that_is_always_the_same_may_become_zero(digits, tmp_path, variance):
    """Learned masks leave such channels; BatchNorm adds its eps to their variance."""
    checkpoint = checkpoint_with(digits, tmp_path, "features.4.running_var", variance)
    report = json.loads(succeed("pack", checkpoint, "--state-dtype", "float16", "--json"))
    assert report["state_largest_relative_error"] < 1e-3
    stored = read_seedmask(tmp_path / "changed.seedmask").state()["features.4.running_var"].numpy()
    assert stored[3] == 0
    assert (np.delete(stored, 3) > 0).all()


def test_a_mean_may_become_zero(digits, tmp_path):
    checkpoint = checkpoint_with(digits, tmp_path, "features.1.running_mean", 1e-9)
    report = json.loads(succeed("pack", checkpoint, "--state-dtype", "float16", "--json"))
    assert report["state_largest_relative_error"] == 1.0


def test_what_is_rounded_and_what_is_not():
    state = {
        "f64": StoredTensor.from_numpy(np.float64([1 + 2**-11 + 2**-40, np.inf, np.nan, 0.0])),
        "f32": StoredTensor.from_numpy(np.float32([65519.0])),
        "i64": StoredTensor.from_numpy(np.int64([2**40])),
        "bool": StoredTensor.from_numpy(np.array([True])),
        "bf16": StoredTensor.from_numpy(np.uint16([0x3F80]), "BF16"),
        "block.running_var": StoredTensor.from_numpy(np.float32([0.0, 1e-7])),
    }
    rounded, report = round_state(state, "float16")
    assert [rounded[name].dtype for name in state] == ["F16", "F16", "I64", "BOOL", "BF16", "F16"]
    assert rounded["f32"].numpy()[0] == 65504
    values = rounded["f64"].numpy()
    assert values[0] == 1 + 2**-10, "rounded once: by way of float32 it would be 1"
    assert np.isinf(values[1])
    assert np.isnan(values[2])
    assert report.rounded == 3
    assert report.tensor == "block.running_var"
    assert report.largest_relative_error == pytest.approx(2**-23 / 1e-7 - 1, rel=1e-6)
    assert (report.bytes, report.exact_bytes) == (8 + 2 + 8 + 1 + 2 + 4, 32 + 4 + 8 + 1 + 2 + 8)
    same, exact = round_state(state, "exact")
    assert same == state
    assert (exact.rounded, exact.largest_relative_error, exact.tensor) == (0, 0.0, None)
    with pytest.raises(ConfigError, match="state dtype: unknown 'float8'; did you mean 'float16'"):
        round_state(state, "float8")


def test_pack_in_python_takes_the_same_choices(tmp_path):
    from torch import nn

    model = nn.Sequential(nn.Linear(64, 40), nn.BatchNorm1d(40))
    mask_model(model, settings(sparsity=0.9))
    auto = pack(model, tmp_path / "auto")
    raw = pack(model, tmp_path / "raw", coding="raw", state_dtype="float16")
    assert raw.mask_bits == 64 * 40
    assert auto.mask_bits < raw.mask_bits
    assert auto.state_bytes - raw.state_bytes == 5 * 40 * 2, "five vectors: biases, and BatchNorm's four"
    with pytest.raises(ConfigError, match="coding: unknown 'zip'"):
        pack(model, tmp_path / "no", coding="zip")


# --- inspect


def test_inspect_names_codings_and_sums_bits(packed):
    report = json.loads(succeed("inspect", packed, "--json"))
    entries = read_seedmask(packed).tensors
    for layer, entry in zip(report["layers"], entries, strict=True):
        assert (layer["mask_coding"], layer["log_coding"]) == (entry.mask.coding, entry.log.coding)
    weights = sum(entry.weights for entry in entries)
    stored = 8 * sum(entry.mask.bytes + entry.log.bytes for entry in entries)
    totals = report["totals"]
    assert totals["bits_per_weight"] == pytest.approx(stored / weights)
    assert totals["bound"] == pytest.approx(totals["mask_bound"] + totals["log_bound"])
    assert totals["bound"] < totals["bits_per_weight"]
    lines = succeed("inspect", packed).splitlines()
    assert lines[0].split() == [
        *("tensor", "shape", "weights", "sparsity"),
        *("mask", "bits", "bound"),
        *("log", "bits", "bound"),
    ]
    flips = lines[1].split()
    assert flips[0] == "signed-constant.weight"
    assert flips[4] == entries[0].mask.coding
    assert flips[7:9] == ["flips", entries[0].log.coding]
    assert lines[5].split() == ["mask", "and", "log", f"{totals['bits_per_weight']:.3f}", f"{totals['bound']:.3f}"]


def test_the_table_of_a_resnet_fits_120_columns(tmp_path):
    shape = (512, 512, 3, 3)
    keep = np.random.default_rng(0).random(512 * 512 * 9) < 0.4
    tensors = [
        MaskedTensor(
            "layer4.1.downsample.0.weight", shape, "signed-constant", np.float32(1), keep, keep.astype(np.uint8)
        )
    ]
    write_seedmask(Network(seed=1, tensors=tuple(tensors)), tmp_path / "big.seedmask")
    table = succeed("inspect", tmp_path / "big.seedmask").split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 120


# --- --max-weights


@pytest.mark.parametrize("command", ["inspect", "verify", "recover", "diff", "eval", "export"])
def test_max_weights(command, digits, tmp_path):
    path = shutil.copy(digits.seedmask, tmp_path / "net.seedmask")
    weights = sum(entry.weights for entry in read_seedmask(path).tensors)
    more = {"diff": [path], "export": ["--onnx", tmp_path / "net.onnx"]}.get(command, [])
    line = fail(1, command, path, *more, "--max-weights", weights - 1)
    assert f"expected at most {weights - 1} weights, got {weights}" in line
    succeed(command, path, *more, "--max-weights", weights)
    assert "Invalid value for '--max-weights'" in fail(2, command, path, *more, "--max-weights", 0)


# --- verify --deep


@pytest.mark.slow
@pytest.mark.parametrize("coding", CODING_CHOICES)
def test_deep_names_the_coding(coding, tmp_path):
    path = tmp_path / "net.seedmask"
    write_seedmask(network(), path, coding=coding)
    report = json.loads(succeed("verify", path, "--deep", "--json"))
    assert (report["ok"], report["canonical"], report["coding"]) == (True, True, coding)
    assert f"gives the same bytes (--coding {coding})" in succeed("verify", path, "--deep")
    assert "canonical" not in json.loads(succeed("verify", path, "--json")), "not looked at"


def test_deep_of_a_trained_network(digits):
    assert json.loads(succeed("verify", digits.seedmask, "--deep", "--json"))["coding"] == "auto"


def test_deep_of_a_file_that_another_program_wrote(tmp_path, monkeypatch):
    """Every lane with half of the symbols: right, but not what the packer chooses."""
    from iterand_compress.compress.seedmask import codings

    packer = codings.choose_lane
    with monkeypatch.context() as other_program:
        other_program.setattr(codings, "choose_lane", lambda bits, number: packer(bits, number) // 2)
        foreign = dumps(network(sparsity=0.9))
    path = tmp_path / "foreign.seedmask"
    path.write_bytes(foreign)
    assert foreign != dumps(network(sparsity=0.9))
    report = json.loads(succeed("verify", path, "--deep", "--json"))
    assert (report["ok"], report["canonical"], report["coding"]) == (True, False, None)
    assert "recovers right, but is not in the form that this version packs" in succeed("verify", path, "--deep")


def test_deep_of_a_damaged_file(packed):
    content = bytearray(packed.read_bytes())
    content[-9] ^= 4
    packed.write_bytes(content)
    assert "payload digest" in fail(1, "verify", packed, "--deep")


# --- recover


def test_recover_single_tensors(packed, tmp_path):
    out = tmp_path / "two.safetensors"
    names = ["normal.weight", "signed-constant.weight"]
    arguments = [part for name in [*names, names[0]] for part in ("--tensor", name)]
    report = json.loads(succeed("recover", packed, "--out", out, *arguments, "--json"))
    found = load_file(out)
    assert sorted(found) == sorted(names), "without the state"
    assert report["tensors"] == 2
    assert report["file_bytes"] == out.stat().st_size
    for name in names:
        assert found[name].tobytes() == read_seedmask(packed).weight(name).tobytes()
    line = fail(1, "recover", packed, "--out", tmp_path / "no", "--tensor", "bn.running_mean")
    assert "no masked tensor 'bn.running_mean'; it has: signed-constant.weight, uniform.weight" in line
    assert not (tmp_path / "no").exists()


def test_recover_masks(packed, tmp_path):
    out = tmp_path / "masks.safetensors"
    assert f"{out}: " in succeed("recover", packed, "--masks", "--out", out)
    found = load_file(out)
    expected = {tensor.name: tensor.mask.reshape(tensor.shape) for tensor in network().tensors}
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert found[name].dtype == np.bool_
        assert np.array_equal(found[name], mask)
    succeed("recover", packed, "--masks", "--out", out, "--tensor", "normal.weight")
    assert list(load_file(out)) == ["normal.weight"]


def test_recover_with_torch_gives_the_same_file(packed, digits, tmp_path):
    for file in (packed, digits.seedmask):
        for more in ((), ("--tensor", read_seedmask(file).tensors[1].name)):
            succeed("recover", file, "--out", tmp_path / "numpy", *more)
            succeed("recover", file, "--out", tmp_path / "torch", "--device", "cpu", *more)
            assert (tmp_path / "numpy").read_bytes() == (tmp_path / "torch").read_bytes()


def test_pruned_weights_on_a_device_are_positive_zeros(packed):
    for name, weights in recover_on_device(read_seedmask(packed), "cpu", ["signed-constant.weight"]).items():
        expected = read_seedmask(packed).weight(name)
        assert weights.shape == expected.shape
        assert weights.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"), ("cuda:7", "device: 'cuda:7' was asked for")],
)
def test_unknown_devices(packed, tmp_path, device, message):
    assert message in fail(2, "recover", packed, "--out", tmp_path / "x", "--device", device)
    assert not (tmp_path / "x").exists()


def test_masks_need_no_device(packed):
    assert "--masks computes no weights" in fail(2, "recover", packed, "--masks", "--device", "cpu")


def test_a_device_that_computes_wrong_is_told_from_a_damaged_file(packed, monkeypatch):
    right = recovery.random_weights
    monkeypatch.setattr(recovery, "random_weights", lambda *about: right(*about) * 2)
    line = fail(1, "recover", packed, "--device", "cpu")
    assert "tensor 'signed-constant.weight': cpu computed weights with SHA-256" in line
    assert "the file is whole: recover without --device" in line
    assert not packed.with_suffix(".safetensors").exists()


def test_a_file_with_wrong_digests_is_called_damaged_on_a_device_too(tmp_path):
    path = tmp_path / "wrong.seedmask"
    path.write_bytes(misstated(dumps(network())))
    for more in ((), ("--device", "cpu")):
        assert "the file is damaged, get it again" in fail(1, "recover", path, *more)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_every_codebook_and_log_on_a_device(codebook, tmp_path):
    """Kept weights at the ends of the tensor, and counts that fill no whole byte or block."""
    for weights, draws in ((1, [1]), (37, [0, 1]), (4099, [0, 255]), (4099, [0])):
        keep = np.ones(weights, np.bool_)
        keep[1:-1:3] = False
        own = np.resize(np.array(draws, np.uint8), weights)
        tensor = MaskedTensor("w", (weights,), codebook, get_codebook(codebook).scale(weights), keep, own)
        path = tmp_path / "net.seedmask"
        write_seedmask(Network(seed=2**64 - 1, tensors=(tensor,)), path)
        seedmask = read_seedmask(path)
        assert recover_on_device(seedmask, "cpu")["w"].numpy().tobytes() == seedmask.weight("w").tobytes()


def test_no_such_tensor_on_a_device(packed):
    with pytest.raises(SeedMaskError, match="no masked tensor 'x'"):
        recover_on_device(read_seedmask(packed), torch.device("cpu"), ["x"])
