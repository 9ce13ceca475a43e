"""estimate: the size that is foretold is the size that comes out."""

import json

import numpy as np
import pytest
from networks import settings as make_settings

from conftest import fail, succeed
from iterand_compress import SubnetworkConfig
from iterand_compress.compress.analysis.estimate import draw_distribution
from iterand_compress.compress.config import ModelConfig, Recipe
from iterand_compress.compress.inputs import ImageInput
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.models import resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.pack import network_of
from iterand_compress.compress.seedmask import MaskedTensor, Network, dumps, loads
from iterand_compress.compress.seedmask.bits import symbol_entropy
from iterand_compress.compress.seedmask.state_dtype import STATE_DTYPES


def estimate(*arguments) -> dict:
    return json.loads(succeed("estimate", *arguments, "--json"))


def random_file(model: str, config: SubnetworkConfig, redrawn: float, **settings) -> bytes:
    """A file of this network with random masks, of which ``redrawn`` of the kept weights were redrawn."""
    rng = np.random.default_rng(11)
    section = ModelConfig(name=model, **settings)
    image = ImageInput((3, 32, 32), mean=0.4914, std=0.247)
    architecture = resolve(section, num_classes=10, input=image)
    network = mask_model(build_model(architecture, seed=0), config)
    tensors = []
    for name, part, _ in masked_layers(network):
        spec = part.spec
        weights = int(np.prod(spec.shape))
        keep = np.zeros(weights, np.bool_)
        keep[rng.permutation(weights)[: spec.kept]] = True
        draws = rng.choice(23, weights, p=draw_distribution(redrawn)).astype(np.uint8)
        tensors.append(MaskedTensor(name, spec.shape, spec.codebook, np.float32(spec.scale), keep, draws))
    state = network_of(network.state_dict()).state
    return dumps(
        Network(
            seed=12345,
            tensors=tuple(tensors),
            state=state,
            architecture=architecture.to_dict(),
            input=image,
            classes=["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
            recipe=Recipe(model=section, subnetwork=config).model_dump(exclude_none=True),
        )
    )


CASES = [
    # model, sparsity, method, distribution, redrawn, width
    ("conv6", 0.5, "iterand", "signed-constant", None, 0.25),
    ("conv6", 0.5, "iterand", "signed-constant", 1.0, 0.25),
    ("conv6", 0.9, "iterand", "signed-constant", 0.05, 0.25),
    ("conv6", 0.98, "edge-popup", "signed-constant", None, 0.5),
    ("conv6", 0.7, "iterand", "uniform", 0.36, 0.25),
    ("conv4", 0.6, "iterand", "normal", None, 0.25),
    ("conv6", 0.7, "edge-popup", "normal", None, 0.25),
    ("resnet18", 0.8, "iterand", "signed-constant", None, 0.25),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "sparsity", "method", "distribution", "redrawn", "width"), CASES)
def test_within_two_per_cent_of_a_real_file(model, sparsity, method, distribution, redrawn, width):
    more = () if redrawn is None else ("--redrawn", redrawn)
    found = estimate(
        *("--model", model, "--sparsity", sparsity, "--method", method, "--width", width),
        *("--distribution", distribution, *more),
    )
    share = {"iterand": 0.5, "edge-popup": 0.0}[method] if redrawn is None else redrawn
    assert found["redrawn"] == share
    config = make_settings(method=method, sparsity=sparsity, distribution=distribution)
    content = random_file(model, config, share, width=width)
    totals, file = found["totals"], loads(content)
    assert totals["file_bytes"] == pytest.approx(len(content), rel=0.02)
    assert totals["mask_bytes"] == pytest.approx(sum(entry.mask.bytes for entry in file.tensors), rel=0.02)
    assert totals["log_bytes"] == pytest.approx(sum(entry.log.bytes for entry in file.tensors), rel=0.02, abs=64)
    assert totals["state_bytes"] == sum(stored.data.nbytes for stored in file.state().values())
    assert totals["kept"] == sum(entry.kept for entry in file.tensors)
    assert totals["weights"] == sum(entry.weights for entry in file.tensors)
    payload = sum(totals[f"{part}_bytes"] for part in ("mask", "log", "state"))
    assert totals["file_bytes"] == payload + totals["header_bytes"]
    assert totals["header_bytes"] == pytest.approx(len(content) - payload, rel=0.15)
    for layer, entry in zip(found["layers"], file.tensors, strict=True):
        assert (layer["name"], tuple(layer["shape"]), layer["kept"]) == (entry.name, entry.shape, entry.kept)
        assert layer["mask_bytes"] == pytest.approx(entry.mask.bytes, rel=0.03, abs=16)
        assert layer["log_bytes"] == pytest.approx(entry.log.bytes, rel=0.06, abs=32)  # few flips, much chance


def test_an_estimate_of_the_file_that_training_makes(digits):
    """Three epochs redraw few of the weights they keep: given how many, the size is right."""
    file = loads(digits.seedmask.read_bytes())
    kept = sum(entry.kept for entry in file.tensors)
    flips = sum(file.log(entry.name).row.ones() for entry in file.tensors if entry.log.kind == "flips")
    found = estimate(
        *("--model", "digits-cnn", "--sparsity", 0.5, "--width", 0.5, "--channels", 1, "--image-size", 8),
        *("--redrawn", 2 * flips / kept),
    )
    assert found["totals"]["file_bytes"] == pytest.approx(digits.seedmask.stat().st_size, rel=0.03)
    assert (
        found["totals"]["dense_bytes"]
        == json.loads(succeed("inspect", digits.seedmask, "--json"))["totals"]["dense_bytes"]
    )


@pytest.mark.parametrize("dtype", STATE_DTYPES)
def test_an_estimate_of_a_bare_file(dtype, digits, tmp_path):
    path = tmp_path / "bare.seedmask"
    packed = json.loads(succeed("pack", digits.checkpoint, "--out", path, "--bare", "--state-dtype", dtype, "--json"))
    file = loads(path.read_bytes())
    kept = sum(entry.kept for entry in file.tensors)
    flips = sum(file.log(entry.name).row.ones() for entry in file.tensors if entry.log.kind == "flips")
    found = estimate(
        *("--model", "digits-cnn", "--sparsity", 0.5, "--width", 0.5, "--channels", 1, "--image-size", 8),
        *("--redrawn", 2 * flips / kept, "--bare", "--state-dtype", dtype),
    )["totals"]
    payloads = sum(entry.mask.bytes + entry.log.bytes for entry in file.tensors)
    assert found["state_bytes"] == packed["state_bytes"]
    assert found["header_bytes"] == pytest.approx(path.stat().st_size - payloads - packed["state_bytes"], abs=16)
    assert found["dense_bytes"] == json.loads(succeed("inspect", path, "--json"))["totals"]["dense_bytes"]
    assert found["file_bytes"] == pytest.approx(path.stat().st_size, rel=0.02)


def test_trained_signs_take_a_bit_of_the_log_for_each_kept_weight():
    """Whatever share of the kept weights is inverted, each of them has another value; 1 bit for half of them."""
    options = ("--model", "conv2", "--width", 0.125, "--sparsity", 0.5, "--method", "signed-supermask")
    for share, bits in ((0.5, 1.0), (0.11, 0.5), (0.0, 0.0)):
        totals = estimate(*options, "--redrawn", share)["totals"]
        assert 8 * totals["log_bytes"] / totals["kept"] == pytest.approx(bits, abs=0.02)
    assert estimate(*options)["redrawn"] > 0
    assert "0.25 of the kept weights inverted" in succeed("estimate", *options, "--redrawn", 0.25)


@pytest.mark.slow
def test_no_weights_are_allocated(monkeypatch):
    """A ResNet-50 for ImageNet, whose weights are 100 MB."""
    from torch import nn

    from iterand_compress.compress.models import from_shapes as module

    built = []
    build = module.build_model
    monkeypatch.setattr(module, "build_model", lambda *a, **k: built.append(build(*a, **k)) or built[-1])
    found = estimate("--model", "resnet50", "--sparsity", 0.7, "--classes", 1000, "--image-size", 224)
    assert found["totals"]["weights"] == 25_502_912
    assert found["architecture"]["stem"] == "imagenet"
    (network,) = built
    assert isinstance(network, nn.Module)
    assert {tensor.device.type for tensor in network.state_dict().values() if hasattr(tensor, "device")} == {"meta"}


@pytest.mark.slow
def test_models_of_torchvision_and_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "peeking.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(num_classes):\n"
        "    assert float(torch.zeros(1)) == 0  # cannot be asked of a tensor without content\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    found = estimate("--model", "peeking:build", "--sparsity", 0.5, "--image-size", 2)
    assert (found["totals"]["weights"], found["totals"]["kept"], found["totals"]["state_bytes"]) == (120, 60, 40)
    small = estimate("--model", "torchvision:mobilenet_v3_small", "--sparsity", 0.5, "--image-size", 224)
    assert small["totals"]["weights"] > 1_500_000


@pytest.mark.slow
def test_more_is_larger():
    def size(*more) -> int:
        return estimate("--model", "conv4", "--width", 0.25, *more)["totals"]["file_bytes"]

    plain = size("--sparsity", 0.5)
    assert size("--sparsity", 0.9) < size("--sparsity", 0.7) < plain
    assert size("--sparsity", 0.5, "--redrawn", 0) < size("--sparsity", 0.5, "--redrawn", 0.2) < plain
    assert size("--sparsity", 0.5, "--method", "edge-popup") < plain
    assert size("--sparsity", 0.5, "--width", 0.5) > 2 * plain


def test_draws_are_those_that_were_measured():
    """Of a full-length run with a uniform codebook: 0.357 redrawn, 1.03 bits per weight for half of the weights."""
    shares = draw_distribution(0.39)
    assert shares.sum() == pytest.approx(1)
    assert shares[:4] == pytest.approx([0.61, 0.11, 0.07, 0.06])
    assert np.all(np.diff(shares) < 0)
    assert len(shares) == 23
    counts = np.rint(draw_distribution(0.357) * 1e7).astype(np.int64)
    assert symbol_entropy(counts) / counts.sum() == pytest.approx(2.06, rel=0.02)


def test_text():
    lines = succeed("estimate", "--model", "conv2", "--sparsity", 0.5, "--redrawn", 0.2).splitlines()
    totals = estimate("--model", "conv2", "--sparsity", 0.5, "--redrawn", 0.2)["totals"]
    assert lines[1].split()[:4] == ["features.0.weight", "64×3×3×3", "1,728", "864"]
    assert next(line for line in lines if line.startswith("total")).split()[1] == f"{totals['weights']:,}"
    assert "conv2, iterand, signed-constant, sparsity 0.5, 0.2 of the kept weights redrawn" in lines
    assumed = "for images of 3×32×32 and 10 classes (--classes, --image-size, --channels not given, so assumed)"
    assert lines[-3] == assumed
    assert lines[-2].startswith(f"about {totals['file_bytes']:,} bytes: masks {totals['mask_bytes']:,}, ")
    assert "Example: iterand-compress estimate" in succeed("estimate", "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet19", "--sparsity", 0.5), "unknown 'resnet19'; did you mean"),
        (("--model", "conv2", "--sparsity", 1), "subnetwork.sparsity: input should be less than 1, got 1.0"),
        (("--model", "conv2", "--sparsity", 0.9999), "too small for sparsity 0.9999"),
        (("--model", "conv2", "--sparsity", 0.5, "--method", "iterant"), "did you mean 'iterand'?"),
        (("--model", "conv2", "--sparsity", 0.5, "--method", "dense"), "dense trains the weights"),
        (("--model", "conv2", "--sparsity", 0.5, "--distribution", "gauss"), "unknown 'gauss'"),
        (("--model", "conv2", "--sparsity", 0.5, "--redrawn", 1.5), "redrawn: expected a share from 0 to 1"),
        (
            ("--model", "conv2", "--sparsity", 0.5, "--method", "edge-popup", "--redrawn", 0.5),
            "redrawn: edge-popup redraws nothing",
        ),
        (("--model", "conv8", "--sparsity", 0.5, "--image-size", 8), "conv8 needs images of at least 16×16 pixels"),
        (("--model", "torchvision:resnet18", "--sparsity", 0.5, "--width", 2), "does not take width = 2.0"),
        (("--model", "nowhere.such:net", "--sparsity", 0.5), "no module 'nowhere'"),
        (("--model", "conv2"), "Missing option '--sparsity'"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    assert message in fail(2, "estimate", *arguments)
