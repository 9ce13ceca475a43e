"""Architectures against the papers' and torchvision's weight counts, and every way to name one wrongly."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from iterand_compress import ImageInput, export_onnx
from iterand_compress.compress.config import ModelConfig
from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.models import Architecture, model_names, read_architecture, resolve
from iterand_compress.compress.models.architecture import FAMILIES, TEXT_MODELS
from iterand_compress.compress.models.build import BUILDERS, TEXT_BUILDERS, build_model


def weights(model: nn.Module) -> int:
    """Number of weights of convolutions and linear layers."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def built(
    name: str, *, classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32), device="cpu", **config
) -> nn.Module:
    architecture = resolve(ModelConfig(name=name, **config), num_classes=classes, input=ImageInput(shape, 0, 1))
    return build_model(architecture, seed=0, device=device)


# Conv-2/4/6/8 at width 1, by hand from the layer lists of the papers.
CONV_WEIGHTS = {
    "conv2": 9 * (3 * 64 + 64 * 64) + 64 * 16 * 16 * 256 + 256 * 256 + 2560,
    "conv4": 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 128 * 8 * 8 * 256 + 256 * 256 + 2560,
    "conv6": 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256)
    + 256 * 4 * 4 * 256
    + 256 * 256
    + 2560,
    "conv8": 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
    + 512 * 2 * 2 * 256
    + 256 * 256
    + 2560,
}


@pytest.mark.parametrize(("name", "count"), CONV_WEIGHTS.items())
def test_conv_nets_have_the_papers_weights_and_nothing_else(name, count):
    model = built(name)
    assert weights(model) == count
    assert sum(p.numel() for p in model.parameters()) == count
    assert not list(model.buffers())


def test_conv6_at_quarter_width_is_the_prototype():
    model = built("conv6", width=0.25)
    assert weights(model) == 142_128
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [16, 16, 32, 32, 64, 64]


def test_resnet18_for_cifar_has_the_known_count():
    # The widely used CIFAR ResNet-18 has 11,173,962 parameters: 9,600 of BatchNorm and 10 biases more.
    model = built("resnet18")
    assert weights(model) == 11_173_962 - 9_600 - 10
    assert sum(p.numel() for p in model.parameters()) == weights(model)
    assert sum(p.numel() for p in built("resnet18", affine=True).parameters()) == 11_173_962 - 10


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("resnet50", "resnet50"),
        ("resnet101", "resnet101"),
        ("wideresnet50-2", "wide_resnet50_2"),
    ],
)
def test_imagenet_form_equals_torchvision_layer_by_layer(name, theirs):
    from torchvision import models

    def shapes(model):
        found = [
            (key, tuple(m.weight.shape), getattr(m, "stride", None))
            for key, m in model.named_modules()
            if isinstance(m, (nn.Conv2d, nn.Linear))
        ]
        return sorted(found)

    with torch.device("meta"):
        ours = built(name, classes=1000, shape=(3, 224, 224), device="meta")
        reference = models.get_model(theirs, weights=None)
    assert shapes(ours) == shapes(reference)
    assert not [key for key, _ in ours.named_parameters() if key.endswith("bias")]


def test_resnet_computes_what_torchvision_computes():
    from torchvision import models

    reference = models.resnet50(weights=None, num_classes=7).eval()
    ours = built("resnet50", classes=7, shape=(3, 96, 96), affine=True).eval()
    state = {key: value for key, value in reference.state_dict().items() if key != "fc.bias"}
    ours.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x) - reference.fc.bias)


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_width_scales_the_stages_but_not_the_stem(width):
    model = built("resnet18", width=width)
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    assert model.layer1[0].conv1.in_channels == 64
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert [s[-1].conv2.out_channels for s in stages] == [int(c * width) for c in (64, 128, 256, 512)]


def test_stem_follows_the_image_size_and_the_settings():
    small = resolve(ModelConfig(name="resnet18"), num_classes=10, input=ImageInput((3, 95, 95), 0, 1))
    large = resolve(ModelConfig(name="resnet18"), num_classes=10, input=ImageInput((3, 96, 96), 0, 1))
    told = resolve(ModelConfig(name="resnet18", stem="cifar"), num_classes=10, input=ImageInput((3, 224, 224), 0, 1))
    assert (small.stem, large.stem, told.stem) == ("cifar", "imagenet", "cifar")
    model = build_model(large, seed=0, device="meta")
    assert (model.conv1.kernel_size, model.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(model.maxpool, nn.MaxPool2d)


SMALLEST = {
    "digits-cnn": (1, 8, 8),
    "airbench": (1, 9, 9),
    "conv2": (1, 8, 8),
    "conv4": (1, 28, 28),
    "conv6": (3, 8, 8),
    "conv8": (3, 16, 16),
    "vgg-small": (3, 8, 8),
    "resnet20": (1, 8, 8),
    "resnet32": (1, 8, 8),
    "resnet18": (1, 8, 8),
    "resnet34": (3, 16, 16),
    "resnet50": (3, 16, 16),
    "resnet101": (3, 16, 16),
    "wideresnet50-2": (3, 16, 16),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_model_maps_images_to_class_scores_and_learns(name):
    shape = SMALLEST[name]
    model = built(name, classes=5, shape=shape, width=0.125)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    out = model(x)
    assert out.shape == (3, 5)
    assert out.std() > 0
    out.sum().backward()
    trained = [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert not [key for key, _ in model.named_parameters() if "bn" in key]


def test_names_builders_and_families_agree():
    assert set(FAMILIES) == set(BUILDERS)
    assert set(TEXT_MODELS) == set(TEXT_BUILDERS)
    assert model_names() == (*FAMILIES, *TEXT_MODELS)
    assert model_names()[0] == ModelConfig().name


def test_vgg_small_has_the_authors_weights():
    """Their best networks keep 5 % of them, "0.23M", and at 1.25 times the width."""
    stages = [(3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    count = 9 * sum(inputs * outputs for inputs, outputs in stages) + 512 * 4 * 4 * 10
    assert weights(built("vgg-small", device="meta")) == count == 4_656_512
    assert round(0.05 * count, -4) == 230_000
    wide = built("vgg-small", width=1.25, device="meta")
    assert [m.out_channels for m in wide.modules() if isinstance(m, nn.Conv2d)] == [160, 160, 320, 320, 640, 640]


@pytest.mark.parametrize(("name", "blocks", "published"), [("resnet20", 3, 269_722), ("resnet32", 5, 464_154)])
def test_small_resnets_have_the_known_counts(name, blocks, published):
    """Those of He et al.: 0.27 and 0.46 million, all told, without the 1×1 convolutions of the shortcuts."""
    model = built(name, affine=True)
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert sum(p.numel() for p in model.parameters()) == published - 10 + shortcuts
    assert len([m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]) == 6 * blocks + 2 + 2
    assert [layer[-1].conv2.out_channels for layer in (model.layer1, model.layer2, model.layer3)] == [16, 32, 64]
    assert model.conv1.weight.shape == (16, 3, 3, 3)
    features = model.layer3(model.layer2(model.layer1(torch.zeros(1, 16, 32, 32))))
    assert features.shape == (1, 64, 8, 8)
    assert built(name, width=2.0).fc.in_features == 128


def test_digits_cnn_weights():
    model = built("digits-cnn", shape=(1, 8, 8))
    assert weights(model) == sum(p.numel() for p in model.parameters()) == 226_880


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "config"),
    [
        ("digits-cnn", (1, 8, 8), {}),
        ("resnet18", (3, 16, 16), {}),
        ("resnet20", (3, 8, 8), {}),
        ("conv2", (3, 8, 8), {}),
        ("conv4", (3, 8, 8), {"activation": "binary", "affine": True}),
        ("vgg-small", (3, 8, 8), {}),
        ("vgg-small", (3, 8, 8), {"activation": "binary"}),
    ],
    ids=str,
)
def test_models_export_to_onnx(name, shape, config, tmp_path):
    """Which compares logits in onnxruntime for several batch sizes."""
    model = built(name, shape=shape, width=0.25, **config).eval()
    channels = shape[0]
    mean, std = [0.5] * channels, [0.25] * channels
    report = export_onnx(model, tmp_path / "model.onnx", input=ImageInput(shape, mean, std))
    assert report.max_abs_difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [("conv2", (3, 8, 8)), ("digits-cnn", (1, 8, 8)), ("vgg-small", (3, 8, 8)), ("resnet18", (3, 8, 8))],
)
def test_models_compile_without_a_graph_break(name, shape):
    model = built(name, shape=shape, width=0.125).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


# --- Architecture ------------------------------------------------------------------------------------------

ARCH = Architecture("resnet18", 10, 3, 32, 0.5, "cifar", True)


def test_architecture_goes_through_json_scalars():
    assert ARCH.to_dict() == {
        "name": "resnet18",
        "num_classes": 10,
        "in_channels": 3,
        "image_size": 32,
        "width": 0.5,
        "stem": "cifar",
        "affine": True,
    }
    binary = Architecture("conv2", 10, 3, 32, activation="binary", batch_norm=True)
    assert {"activation": "binary", "batch_norm": True}.items() <= binary.to_dict().items()
    assert Architecture.from_dict(binary.to_dict()) == binary
    assert Architecture.from_dict(ARCH.to_dict()) == ARCH
    assert type(Architecture.from_dict({**ARCH.to_dict(), "width": 1}).width) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": True}, r"num_classes: expected an integer in \[1, 1048576\], got True"),
        ({"num_classes": 0}, "num_classes: expected an integer"),
        ({"image_size": 10**9}, "image_size: expected an integer"),
        ({"in_channels": 3.0}, "in_channels: expected an integer"),
        ({"width": 65}, r"width: expected a number in \(0, 64\], got 65"),
        ({"width": float("nan")}, "width: expected a number"),
        ({"stem": "nature"}, "stem: expected one of cifar, imagenet, none, got 'nature'"),
        ({"affine": 1}, "affine: expected true or false, got 1"),
        ({"batch_norm": 1}, "batch_norm: expected true or false, got 1"),
        ({"bias": 1}, "bias: expected true or false, got 1"),
        ({"name": ""}, "name: expected a name, got ''"),
        ({"widht": 1.0}, "unknown key 'widht'; did you mean 'width'?"),
    ],
)
def test_from_dict_is_strict(change, message):
    with pytest.raises(ConfigError, match=message):
        Architecture.from_dict({**ARCH.to_dict(), **change})


def test_from_dict_names_missing_keys():
    with pytest.raises(ConfigError, match=r"architecture: missing stem, affine$"):
        Architecture.from_dict({k: v for k, v in ARCH.to_dict().items() if k not in ("stem", "affine")})


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        ({"name": "resnet19"}, (3, 32, 32), r"unknown 'resnet19'; did you mean .*'resnet18'"),
        (
            {"name": "conv6"},
            (3, 32, 48),
            r"48×32 pixels, but a model takes square ones: give --set data.image_size=SIDE",
        ),
        ({"name": "conv8"}, (1, 8, 8), r"conv8 needs images of at least 16×16 pixels, got 8×8"),
        (
            {"name": "conv6", "affine": True},
            (3, 32, 32),
            "conv6 does not take affine = True: it has no BatchNorm unless --set model.batch_norm=true",
        ),
        (
            {"name": "conv6", "affine": True, "activation": "binary", "batch_norm": False},
            (3, 32, 32),
            "conv6 does not take affine = True: it has no BatchNorm unless",
        ),
        (
            {"name": "resnet18", "batch_norm": False},
            (3, 32, 32),
            "resnet18 does not take batch_norm = False: BatchNorm belongs to it in every layout; conv2 to conv8 and",
        ),
        ({"name": "resnet20", "stem": "imagenet"}, (3, 32, 32), "resnet20 does not take stem = 'imagenet'"),
        ({"name": "vgg-small"}, (3, 7, 7), r"vgg-small needs images of at least 8×8 pixels, got 7×7"),
        ({"name": "torchvision:resnet18", "batch_norm": True}, (3, 32, 32), "does not take batch_norm = True"),
        (
            {"name": "conv6", "stem": "cifar"},
            (3, 32, 32),
            "conv6 does not take stem = 'cifar': only the built-in",
        ),
        ({"name": "torchvision:resnet18", "width": 0.5}, (3, 32, 32), "does not take width = 0.5"),
    ],
)
def test_resolve_refuses(config, shape, message):
    with pytest.raises(ConfigError, match=message):
        resolve(ModelConfig(**config), num_classes=10, input=ImageInput(shape, 0, 1))


def test_build_refuses_what_resolve_would_not_give():
    with pytest.raises(ConfigError, match="unknown 'resnet19'"):
        build_model(Architecture("resnet19", 10, 3, 32), seed=0)
    with pytest.raises(ConfigError, match="resnet18: expected stem cifar or imagenet, got none"):
        build_model(Architecture("resnet18", 10, 3, 32), seed=0)
    with pytest.raises(ConfigError, match="conv8 needs images of at least 16 pixels, got 8"):
        build_model(Architecture("conv8", 10, 3, 8), seed=0)
    with pytest.raises(ConfigError, match="digits-cnn: expected batch_norm false, for it has no such choice, got true"):
        build_model(Architecture("digits-cnn", 10, 3, 8, batch_norm=True), seed=0)


# --- Models of others --------------------------------------------------------------------------------------


def test_torchvision_model_with_our_classes():
    model = built("torchvision:squeezenet1_1", classes=7, shape=(3, 64, 64)).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_torchvision_models_get_the_image_size_and_one_output():
    with torch.device("meta"):
        vit = built("torchvision:vit_b_32", classes=3, shape=(3, 64, 64), device="meta")
        google = built("torchvision:googlenet", classes=3, shape=(3, 96, 96), device="meta").train()
        assert vit(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
        assert google(torch.zeros(2, 3, 96, 96)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet1", (3, 32, 32), "torchvision has no classifier 'resnet1'; did you mean .*'resnet18'"),
        ("fcn_resnet50", (3, 32, 32), "torchvision has no classifier 'fcn_resnet50'"),
        ("resnet18", (1, 28, 28), "takes images of 3 channels, the data has 1; choose a built-in model"),
        ("vit_b_16", (3, 30, 30), "cannot take images of 30 pixels: AssertionError"),
    ],
)
def test_torchvision_refusals(name, shape, message):
    with pytest.raises(ConfigError, match=message):
        built(f"torchvision:{name}", shape=shape)


MODULE = """
import torch

def good(num_classes):
    return torch.nn.Linear(4, num_classes)

def number(num_classes):
    return num_classes

def failing(num_classes):
    raise KeyError("no\\nsuch layer")

def no_arguments():
    return torch.nn.Linear(4, 4)

constant = 3
"""


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    (tmp_path / "my_nets_for_test.py").write_text(MODULE)
    (tmp_path / "broken_nets_for_test.py").write_text("raise ValueError('two\\nlines')")
    (tmp_path / "needy_nets_for_test.py").write_text("import no_such_package_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def own(name: str) -> Architecture:
    return resolve(ModelConfig(name=name), num_classes=6, input=ImageInput((3, 8, 8), 0, 1))


def test_own_factory_is_called_with_the_number_of_classes(workdir):
    model = build_model(own("my_nets_for_test:good"), allow_import=True, seed=0)
    assert model.out_features == 6


def test_a_file_never_makes_us_import(workdir):
    with pytest.raises(ConfigError, match=r"give it yourself with --model broken_nets_for_test:good$"):
        build_model(own("broken_nets_for_test:good"), seed=0)
    assert "broken_nets_for_test" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_nets_for_test:good", r"no module 'no_nets_for_test' in .* or among the installed packages"),
        ("no_nets_for_test.sub:good", "no module 'no_nets_for_test' in"),
        ("my_nets_for_test:goodd", "my_nets_for_test has no 'goodd'; did you mean 'good'?"),
        ("my_nets_for_test:constant", "is a int, not a function that returns a module"),
        ("my_nets_for_test:number", "my_nets_for_test:number returned a int, not a torch.nn.Module"),
        ("my_nets_for_test:failing", r"failing\(num_classes=6\) failed: KeyError: 'no\\nsuch layer'"),
        ("my_nets_for_test:no_arguments", r"no_arguments\(num_classes=6\) failed: TypeError: "),
        ("broken_nets_for_test:good", "importing broken_nets_for_test failed: ValueError: two lines$"),
        (
            "needy_nets_for_test:good",
            "importing needy_nets_for_test failed: ModuleNotFoundError: .*no_such_package",
        ),
        (":good", "expected package.module:factory, got ':good'"),
    ],
)
def test_own_factory_refusals_are_one_line(workdir, name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_model(own(name), allow_import=True, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.processes
def test_names_do_not_import_torch():
    code = (
        "import sys; from iterand_compress.compress.models import model_names, Architecture;"
        "from iterand_compress.compress.data.catalogue import DATASETS; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        (
            Architecture("conv2", 10, 3, 32, width=0.25, bias=True),
            {"features.0", "features.2", "classifier.0", "classifier.2", "classifier.4"},
        ),
        (Architecture("conv2", 10, 3, 32, width=0.25, bias=True, batch_norm=True), {"classifier.6"}),
        (Architecture("digits-cnn", 10, 1, 8, width=0.25, bias=True), {"classifier"}),
        (Architecture("resnet18", 10, 3, 32, width=0.125, stem="cifar", bias=True), {"fc"}),
    ],
)
def test_biases_start_at_zero_where_no_batchnorm_follows(arch, expected):
    """As in Chijiwa et al.'s code: in every layer of Conv-6, and in the last of ResNets."""
    model = build_model(arch, seed=0)
    biases = {name for name, module in model.named_modules() if getattr(module, "bias", None) is not None}
    assert biases == {*expected}
    assert not any(value.any() for key, value in model.named_parameters() if key.endswith("bias"))
    assert arch.to_dict()["bias"] is True
    assert read_architecture(arch.to_dict()) == arch
    assert "bias" not in replace(arch, bias=False).to_dict(), "as files have always had it"
