"""``--state-dtype folded``: BatchNorm's statistics go into its weight and bias; a mean and a variance are one value."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden.make import constants, tiny
from safetensors.torch import load_file
from torch import Tensor, nn

import iterand_compress as ic
from conftest import fail, succeed
from iterand_compress.compress.errors import ConfigError, SeedMaskError
from iterand_compress.compress.models.state import foldable_batch_norms
from iterand_compress.compress.seedmask import StoredTensor, dumps, loads, read_seedmask
from iterand_compress.compress.seedmask.state_dtype import round_state

# ---- What a network computes


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24, eps=0.01, momentum=None), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(384, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)),
    )


@pytest.fixture(scope="module")
def trained() -> ic.Subnetwork:
    """Weights, biases and statistics as they are after some steps, with a channel that is always the same."""
    torch.manual_seed(0)
    model = convolutional()
    subnet = ic.Subnetwork(model, ic.EdgePopup(sparsity=0.5))
    optimizer = torch.optim.SGD(subnet.param_groups(lr=0.1), momentum=0.9)
    for _ in range(20):
        images = 3 * torch.randn(32, 3, 8, 8) + 1
        loss = nn.functional.cross_entropy(model(images), images.mean((1, 2, 3)).mul(5).long().clamp(0, 4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        subnet.step()
    with torch.no_grad():
        model[1].running_var[2], model[1].running_mean[2] = 1e-20, 0.3
        model[1].running_var[3] = 0.0
        model[1].weight[2:4] = 0.001
    model.eval()
    return subnet


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(3 * torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 1)


@pytest.mark.parametrize("form", ["json", "compact"])
def test_a_folded_network_computes_the_same_but_for_rounding(trained: ic.Subnetwork, tmp_path: Path, form: str) -> None:
    exact = outputs(trained.model)
    found, reports = {}, {}
    for dtype in ("exact", "float16", "folded"):
        path = tmp_path / f"{dtype}.seedmask"
        reports[dtype] = trained.pack(path, state_dtype=dtype, form=form)
        found[dtype] = outputs(ic.load(path, model=convolutional()))
    assert torch.equal(found["exact"], exact)
    spread = float(exact.max() - exact.min())
    for dtype in ("float16", "folded"):
        assert 0 < float((found[dtype] - exact).abs().max()) < 2**-10 * spread, dtype
    assert torch.equal(found["folded"].argmax(1), exact.argmax(1))
    # 72 channels: float16 holds four vectors of them, folded two, and a mean and a variance of each of three layers.
    assert reports["float16"].state_bytes - reports["folded"].state_bytes == 2 * (2 * 72 - 2 * 3)
    assert reports["folded"].file_bytes < reports["float16"].file_bytes < reports["exact"].file_bytes
    assert reports["folded"].dense_bytes == reports["float16"].dense_bytes


def test_the_values_of_a_folded_layer(trained: ic.Subnetwork, tmp_path: Path) -> None:
    trained.pack(tmp_path / "m.seedmask", state_dtype="folded")
    file = read_seedmask(tmp_path / "m.seedmask")
    assert "constants" in file.manifest.required_features
    state, norm = file.state(), trained.model[4]
    scale, shift, mean, variance = (
        tensor.detach().double().numpy() for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = scale / np.sqrt(variance + 0.01)
    expected = scale * math.sqrt(1.01), shift - mean * scale, np.zeros(24), np.ones(24)
    for name, values in zip(("weight", "bias", "running_mean", "running_var"), expected, strict=True):
        stored = state[f"4.{name}"]
        assert (stored.dtype, stored.numpy().tobytes()) == ("F16", values.astype(np.float16).tobytes()), name
    values = {entry.name: entry.value for entry in file.manifest.state}
    assert (values["4.running_mean"], values["4.running_var"], values["4.bias"]) == ("0000", "3c00", None)
    assert state["4.num_batches_tracked"].numpy() == 20, "its momentum is None"


def test_a_file_of_one_tensor_has_one_form(trained: ic.Subnetwork, tmp_path: Path) -> None:
    for form in ("json", "compact"):
        path = tmp_path / f"{form}.seedmask"
        trained.pack(path, state_dtype="folded", form=form)
        assert dumps(loads(path.read_bytes()).network()) == path.read_bytes()
        assert json.loads(succeed("verify", path, "--deep", "--json"))["canonical"]


# ---- Which layers


class Own(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) + self.running_mean


class Net(nn.Module):
    """A layer that is folded, under two names, and those that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.plain = nn.BatchNorm1d(4)
        self.again = self.plain
        self.without_affine = nn.BatchNorm1d(4, affine=False)
        self.without_statistics = nn.BatchNorm1d(4, track_running_stats=False)
        self.own = Own(4)
        self.tied, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.other.weight = self.tied.weight
        self.instance = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.linear, self.plain, self.without_affine, self.own, self.tied, self.other, self.again):
            x = layer(x)
        return x


def test_layers_that_cannot_be_folded_are_left_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    subnet = ic.Subnetwork(model, ic.EdgePopup(sparsity=0.5))
    for _ in range(9):
        model(torch.randn(50, 4) * 2 + 3)
    model.eval()
    assert foldable_batch_norms(model) == {"plain": 1e-5, "again": 1e-5}
    assert foldable_batch_norms(nn.DataParallel(model)) == {"plain": 1e-5, "again": 1e-5}
    path = tmp_path / "m.seedmask"
    ic.pack(nn.DataParallel(model), path, state_dtype="folded")
    state = read_seedmask(path).state()
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            constant = {"running_mean": 0, "running_var": 1}[name.split(".")[1]] * np.ones(4)
            expected = constant if name.split(".")[0] in ("plain", "again") else value.numpy().astype(np.float16)
            assert state[name].numpy().tolist() == expected.tolist(), name
    x = torch.randn(30, 4) * 2 + 3
    with torch.no_grad():
        difference = ic.load(path, model=Net())(x) - model(x)
    assert float(difference.abs().max()) < 0.01
    subnet.pack(path)
    assert "constants" not in read_seedmask(path).manifest.required_features


def layer(**changed: StoredTensor | None) -> dict[str, StoredTensor]:
    values = {"weight": [2.0, 1], "bias": [1.0, -1], "running_mean": [3.0, 5], "running_var": [4.0, 9]}
    state = {name: StoredTensor.from_numpy(np.float32(numbers)) for name, numbers in values.items()}
    return {f"bn.{name}": tensor for name, tensor in (state | changed).items() if tensor is not None}


def test_the_loss_is_that_of_rounding_what_was_folded() -> None:
    folded, report = round_state(layer(), "folded", {"bn": 0.0})
    weight, bias = folded["bn.weight"].numpy(), folded["bn.bias"].numpy()
    assert weight.tolist() == [1.0, np.float16(1 / 3)]
    assert bias.tolist() == [-2.0, np.float16(-8 / 3)]
    assert report.largest_relative_error == pytest.approx(2**-12, rel=1e-9)
    assert (report.tensor, report.folded, report.rounded) == ("bn.weight", 1, 4)
    assert (report.exact_bytes, report.bytes) == (32, 2 * 4 + 2 + 2)


def test_variances_beyond_float16_and_those_of_dead_channels() -> None:
    variances = StoredTensor.from_numpy(np.float32([1e9, 1e-14]))
    with pytest.raises(SeedMaskError, match=r"state 'bn.running_var': 1e\+09 is beyond float16|1000000000.0 is beyond"):
        round_state(layer(running_var=variances), "float16")
    folded, report = round_state(layer(running_var=variances), "folded", {"bn": 1e-5})
    assert report.folded == 1
    expected = np.float64([2, 1]) / np.sqrt(np.float64(np.float32([1e9, 1e-14])) + 1e-5) * math.sqrt(1 + 1e-5)
    assert folded["bn.weight"].numpy() == pytest.approx(expected, rel=2**-10)


@pytest.mark.parametrize(
    "changed",
    [
        {"running_mean": None},
        {"weight": None},
        {"running_var": StoredTensor.from_numpy(np.float32([-1, 1]))},
        {"running_mean": StoredTensor.from_numpy(np.float32([np.inf, 1]))},
        {"bias": StoredTensor.from_numpy(np.uint16([0, 1]), "BF16")},
    ],
    ids=["no mean", "no weight", "negative variance", "infinite mean", "bfloat16"],
)
def test_a_layer_without_a_finite_function_or_a_tensor_is_rounded_as_it_is(changed: dict[str, StoredTensor]) -> None:
    state = layer(**changed)
    folded, report = round_state(state, "folded", {"bn": 0.0})
    rounded, _ = round_state(state, "float16")
    assert report.folded == 0
    assert {name: stored.data.tobytes() for name, stored in folded.items()} == {
        name: stored.data.tobytes() for name, stored in rounded.items()
    }


def test_a_weight_beyond_float16_is_refused() -> None:
    huge = StoredTensor.from_numpy(np.float32([1e4, 1]))
    tiny_variance = StoredTensor.from_numpy(np.float32([0, 1]))
    with pytest.raises(SeedMaskError, match=r"state 'bn.weight': 31622\d\d.* is beyond float16.*--state-dtype exact"):
        round_state(layer(weight=huge, running_var=tiny_variance), "folded", {"bn": 1e-5})


# ---- Constants in a file


def test_a_network_without_constants_is_what_it_was() -> None:
    assert dumps(replace(tiny(), constants=True)) == dumps(tiny())
    network = constants()
    assert dumps(replace(network, constants=False)) != dumps(network)
    state = loads(dumps(network)).state()
    for name, stored in loads(dumps(replace(network, constants=False))).state().items():
        assert (state[name].dtype, state[name].shape) == (stored.dtype, stored.shape)
        assert state[name].data.tobytes() == stored.data.tobytes(), name


def test_only_several_items_of_the_same_bits_are_constants() -> None:
    manifest = loads(dumps(constants())).manifest
    assert {entry.name: entry.value for entry in manifest.state if entry.value} == {
        "bn.running_mean": "0000",
        "bn.running_var": "3c00",
        "flag": "01",
        "half": "3f80",
        "large": "bfb999999999999a",
        "nan": "7fc12345",
    }


def test_the_limit_counts_what_constants_stand_for() -> None:
    data = dumps(constants())
    # 20 weights; 6 + 6 bytes of bn, 4 of flags, 4 of half, 40,000 of large, 12 of nan
    most = 20 + 2 + 2 + 1 + 1 + 10_000 + 3
    loads(data, max_weights=most)
    with pytest.raises(SeedMaskError, match=rf"expected at most {most - 1} weights \(4 bytes of a tensor of one value"):
        loads(data, max_weights=most - 1)


# ---- Commands


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("folded")
    files = SimpleNamespace(root=root, checkpoint=root / "d.ckpt", reports={})
    succeed(
        "train",
        "--data",
        "digits",
        "--epochs",
        2,
        "--set",
        "model.affine=true",
        "--device",
        "cpu",
        "--out",
        files.checkpoint,
    )
    for dtype in ("exact", "float16", "folded"):
        setattr(files, dtype, root / f"{dtype}.seedmask")
        options = ("--bare", "--state-dtype", dtype, "--json", "--out", root / f"{dtype}.seedmask")
        files.reports[dtype] = json.loads(succeed("pack", files.checkpoint, *options))
    return files


def test_pack_says_what_it_folded_and_what_that_lost(digits: SimpleNamespace) -> None:
    half, folded = digits.reports["float16"], digits.reports["folded"]
    assert (half["batch_norms_folded"], folded["batch_norms_folded"]) == (0, 3)
    assert 0 < folded["state_largest_relative_error"] < 2**-10
    assert folded["state_exact_bytes"] == digits.reports["exact"]["state_bytes"]
    assert folded["file_bytes"] < half["file_bytes"] < digits.reports["exact"]["file_bytes"]
    assert folded["weights_digest"] == half["weights_digest"]
    line = succeed("pack", digits.checkpoint, "--bare", "--state-dtype", "folded", "--out", digits.root / "x.seedmask")
    assert f"state {folded['state_bytes']:,} bytes, 3 BatchNorm layers folded, in float16 instead of" in line
    assert (digits.root / "x.seedmask").read_bytes() == digits.folded.read_bytes()


def test_commands_take_folded_files(digits: SimpleNamespace, tmp_path: Path) -> None:
    losses = [json.loads(succeed("eval", path, "--data", "digits", "--json")) for path in (digits.exact, digits.folded)]
    assert losses[0]["accuracy"] == losses[1]["accuracy"]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=0.01)
    totals = json.loads(succeed("inspect", digits.folded, "--json"))["totals"]
    assert totals["state_bytes"] == digits.reports["folded"]["state_bytes"]
    assert f"(state {totals['state_bytes']:,}, compact manifest" in succeed("inspect", digits.folded)
    assert json.loads(succeed("verify", digits.folded, "--deep", "--json"))["canonical"]
    succeed("recover", digits.folded, "--out", tmp_path / "m.safetensors")
    state = load_file(tmp_path / "m.safetensors")
    norm = next(name for name in state if name.endswith("running_var"))
    assert torch.equal(state[norm], torch.ones_like(state[norm]))
    difference = succeed("diff", digits.exact, digits.folded)
    assert "weights are equal" in difference
    assert f"state {norm}: F32 | F16, largest difference" in difference
    for form in ("packed", "dense"):
        succeed("export", digits.folded, "--onnx", tmp_path / f"{form}.onnx", "--form", form)
        succeed("verify", tmp_path / f"{form}.onnx")
        accuracy = json.loads(succeed("eval", tmp_path / f"{form}.onnx", "--data", "digits", "--json"))["accuracy"]
        assert accuracy == losses[0]["accuracy"]


def test_an_unknown_dtype(digits: SimpleNamespace) -> None:
    assert "'fold' is not one of 'exact', 'float16', 'folded'" in fail(
        2, "pack", digits.checkpoint, "--state-dtype", "fold"
    )
    with pytest.raises(ConfigError, match="state dtype: unknown 'foldd'; did you mean 'folded'"):
        ic.pack(ic.Subnetwork(convolutional(), ic.EdgePopup(sparsity=0.5)).model, "m.seedmask", state_dtype="foldd")
