"""The documents say what the code does."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import iterand_compress as ic
from conftest import succeed
from iterand_compress.compress.config import DataConfig, PruneAtInit, Recycle, Resample, Selection, SubnetworkConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.methods.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_command_line_page_is_current():
    """White space does not count: versions of click wrap differently."""
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["reference"]()
    assert made.split() == read("docs/CLI.md").split(), "run: python docs/make_cli.py"


def test_the_picture_of_the_pipeline_is_current():
    drawn = runpy.run_path(str(ROOT / "docs" / "make_pipeline.py"))["picture"]()
    assert drawn == read("docs/pipeline.svg"), "run: python docs/make_pipeline.py"
    words = " ".join(ET.fromstring(drawn).itertext())
    assert all(word in words for word in ("seed", "mask", ".seedmask", "ONNX", "C99"))


def test_the_readme_is_short_and_its_table_is_that_of_the_demo():
    text = read("README.md")
    assert len(text.splitlines()) <= 100
    table = re.findall(r"^\| ([^|]+) \| ([\w.]+) \| [\d,]+ \|", text, re.MULTILINE)
    demo = re.findall(r'^        \("([^"]+)", "([^"]+)", "\w+"\),$', read("examples/demo.py"), re.MULTILINE)
    assert len(table) == 5
    assert table == demo


def run_example(page: str, scope: dict[str, object], containing: str = "") -> None:
    """Run the one example of a page that contains a text; names that it does not make come from ``scope``."""
    blocks = re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)
    (code,) = [block for block in blocks if containing in block]
    exec(compile(code, page, "exec"), scope)


@pytest.fixture
def batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(batch):
    scope = {"batches": [batch] * 2}
    run_example("README.md", scope)
    recovered = scope["plain"].state_dict()
    for name, value in scope["subnet"].to_dense().state_dict().items():
        assert torch.equal(value, recovered[name]), name
    assert len(ic.read_seedmask("model.seedmask").tensors) == 21
    assert ic.verify_onnx("model.onnx").recovered == 21, "all weights are traced back to those of the file"


@pytest.mark.slow
def test_the_python_example_of_pruning_at_initialisation_runs(batch):
    images, labels = batch
    scope = {"images": images, "labels": labels, "batches": [batch]}
    run_example("docs/METHODS.md", scope, "prune_at_init")
    kept = total = 0
    for name, layer in scope["model"].named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = scope["plain"].get_submodule(name).weight
            assert torch.equal(weight, layer.weight), name
            kept, total = kept + int(weight.count_nonzero()), total + weight.numel()
    assert kept == pytest.approx(0.1 * total, abs=1)


def test_the_python_example_of_a_loop_of_your_own_runs(batch):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model(batch[0])
    scope = {"model": model, "batches": [batch] * 3}
    run_example("docs/TRAINING.md", scope, "cached_weights")
    assert scope["subnet"].steps == 3
    assert all(parameter.grad is not None for parameter in model.parameters())


def draw_shapes(folder: Path) -> None:
    """A folder of pictures of several sizes for the tutorial, whose classes differ in shape."""
    rng = np.random.default_rng(0)
    for label in ("circle", "square", "triangle"):
        (folder / label).mkdir(parents=True)
        for number in range(16):
            height, width = (int(size) for size in rng.integers(60, 120, 2))
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            inside = {
                "circle": x**2 + y**2 < 0.4,
                "square": np.maximum(abs(x), abs(y)) < 0.6,
                "triangle": (abs(x) < (y + 0.6) / 2) & (y < 0.6),
            }[label]
            pixels = np.where(inside[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.jpg")


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(tmp_path, monkeypatch, capsys):
    """As printed, but for the number of epochs, with the recipe that the page shows."""
    monkeypatch.chdir(tmp_path)
    page = read("docs/TUTORIAL.md")
    draw_shapes(tmp_path / "photos")
    shutil.copy(ROOT / "examples" / "edge" / "classify.py", tmp_path)
    recipe, nested = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    short, epochs = re.subn(r"^epochs = \d+", "epochs = 1", recipe, flags=re.MULTILINE)
    assert epochs == 1
    (tmp_path / "photos.toml").write_text(short, encoding="utf-8")
    commands = [
        re.sub(r"--epochs \d+", "--epochs 1", command)
        for command in re.findall(r"```console\n\$ (.*?)\n```", page, re.DOTALL)
    ]
    assert [shlex.split(command)[1] for command in commands[:5]] == ["train", "pack", "inspect", "verify", "export"]
    assert shlex.split(commands[5])[1] == "predict"
    outputs = []
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "iterand-compress":
            outputs.append(succeed(*arguments))
            continue
        script, model, pattern = arguments
        monkeypatch.setattr(sys, "argv", [script, model, *sorted(map(str, Path().glob(pattern)))])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        assert ended.value.code == 0
        assert capsys.readouterr().out.count("circle/") == 16
    assert "(35 training, 4 validation and 9 test images of 64×64 pixels; 3 classes: " in outputs[0]
    assert "resnet18" in outputs[2]
    assert outputs[5].count("circle/") == 16
    manifest = ic.read_seedmask("photos.seedmask").manifest
    assert tuple(manifest.classes) == ("circle", "square", "triangle")
    assert ic.verify_onnx("photos.onnx").weights_digest == manifest.digests.weights
    assert Path("longer.ckpt").exists()
    (tmp_path / "nested.toml").write_text(nested, encoding="utf-8")
    settings = ic.load_recipe("nested.toml").subnetwork
    assert (settings.method, settings.selection.scope, settings.selection.ramp_epochs) == ("edge-popup", "global", 5)
    assert (settings.recycle.every, settings.resample) == (10, None)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_the_python_example_of_image_files_agrees_with_evaluation(normalize, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    for split in ("train", "test"):
        for label, name in enumerate(("a", "b")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number, size in enumerate([(24, 24), (60, 41), (17, 90), (33, 19)]):
                noise = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
                exif = Image.Exif()
                exif[0x0112] = 6 if label else 1
                noise.save(folder / f"{number}.png", exif=exif)
            noise.quantize(20).save(folder / "clear.png", transparency=3)
    bundle = load_data(DataConfig(name="folder", image_size=24), data_dir=tmp_path / "photos")
    wanted = np.concatenate([images.numpy() for images, _ in bundle.test.batches(4, "cpu")])
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(1, 3, 24, 24))
    image = ic.ImageInput((3, 24, 24), mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.25))
    ic.export_onnx(model, "model.onnx", input=image, normalize=normalize)
    scope = {"paths": sorted((tmp_path / "photos" / "test").rglob("*.png"))}
    run_example("docs/EXPORT.md", scope, "classify(paths)")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (image.mean, image.std))
    logits = model.eval()((torch.from_numpy(wanted) - mean) / std)
    assert scope["labels"] == [str(number) for number in logits.argmax(1).tolist()]


@pytest.mark.slow
def test_the_example_of_two_sounds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    run_example("docs/EXPORT.md", scope, "class Detector")
    session = scope["session"]
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        ("left", ["batch", 1, "time"]),
        ("right", ["batch", 1, "time"]),
    ]
    left, right = torch.randn(2, 3, 1, 123)
    logits, distance = session.run(["logits", "distance"], {"left": left.numpy(), "right": right.numpy()})
    expected = scope["subnet"].to_dense()(left, right)
    np.testing.assert_allclose(logits, expected["logits"].detach(), atol=1e-5)
    np.testing.assert_allclose(distance, expected["distance"].detach(), atol=1e-5)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_documents_name_exist(page):
    named = re.findall(r"`((?:compress|export|cli|docs|tests|examples|benchmarks)/[\w./-]+?)`", read(page))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_map_of_the_code_names_files_that_exist():
    named = set(re.findall(r"\b[a-z_]+\.py\b", read("CONTRIBUTING.md")))
    packages = ("api", "cli", "compress", "export", "docs", "tests", "benchmarks")
    assert named <= {path.name for package in packages for path in (ROOT / package).rglob("*.py")}


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", [*PAGES, "examples/edge/README.md", "examples/web/README.md"])
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", read(page)):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in headings(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_every_method_has_a_row_with_its_function():
    rows = re.findall(r"^\| \[`([a-z-]+)`\]\(#[a-z-]+\) \| `(\w+)", read("docs/METHODS.md"), re.MULTILINE)
    assert {name for name, _ in rows} == set(PRESETS)
    assert all(hasattr(ic, function) for _, function in rows)


def test_every_setting_of_a_method_is_described():
    nested = {"selection": Selection, "resample": Resample, "recycle": Recycle, "prune": PruneAtInit}
    settings = {f"{name}.{key}" for name, section in nested.items() for key in section.model_fields}
    settings |= SubnetworkConfig.model_fields.keys() - nested.keys()
    text = read("docs/METHODS.md")
    table = text[text.index("## Settings") : text.index("## What is masked")]
    described = set(re.findall(r"^\| `([a-z_.]+)` \|", table, re.MULTILINE))
    assert described == settings - {"method", "seed", "sparsity", "prune.criterion"}
