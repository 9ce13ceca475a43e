"""The documents say what the code does."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from iterand_compress import ImageInput, read_seedmask
from iterand_compress.compress.config import METHODS, DataConfig, SubnetworkConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.export import export_onnx

ROOT = Path(__file__).parent.parent


def test_the_command_line_page_is_current():
    """White space does not count: versions of click wrap differently."""
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["reference"]()
    page = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    assert made.split() == page.split(), "run: python docs/make_cli.py"


def run_example(page: str, scope: dict[str, object], containing: str = "") -> None:
    """Run the one example of a page that contains a text; names that it does not make come from ``scope``."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if containing in block]
    exec(compile(code, page, "exec"), scope)


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))] * 2
    scope = {"batches": batches}
    run_example("README.md", scope)
    trained, plain = scope["materialise"](scope["model"]), scope["plain"]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert (tmp_path / "model.onnx").exists()
    assert len(read_seedmask("model.seedmask").tensors) == 21


@pytest.mark.slow
def test_the_python_example_of_the_methods_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    scope = {"images": images, "labels": labels, "batches": [(images, labels)]}
    run_example("docs/METHODS.md", scope)
    kept = total = 0
    for name, layer in scope["model"].named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found = scope["plain"].get_submodule(name).weight
            assert torch.equal(found, layer.weight), name
            kept, total = kept + int(found.count_nonzero()), total + found.numel()
    assert kept == pytest.approx(0.1 * total, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_the_python_example_of_image_files_agrees_with_evaluation(normalize, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    for part in ("train", "test"):
        for label, name in enumerate(("a", "b")):
            folder = tmp_path / "photos" / part / name
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
    image = ImageInput((3, 24, 24), mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.25))
    export_onnx(model, "model.onnx", input=image, normalize=normalize)
    scope = {"paths": sorted((tmp_path / "photos" / "test").rglob("*.png"))}
    run_example("docs/EXPORT.md", scope, "def pixels")
    found = np.stack([scope["pixels"](path) for path in scope["paths"]])
    np.testing.assert_array_equal(found, wanted)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (image.mean, image.std))
    logits = model.eval()((torch.from_numpy(wanted) - mean) / std)
    assert scope["labels"] == [str(number) for number in logits.argmax(1).tolist()]


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
        *("docs/FORMAT.md", "docs/METHODS.md", "docs/EXPORT.md", "docs/TRAINING.md"),
    ],
)
def test_files_that_documents_name_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:compress|export|cli|docs|tests|examples|benchmarks)/[\w./-]+?)`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_method_has_a_row_and_its_links_lead_somewhere():
    text = (ROOT / "docs" / "METHODS.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| \[`([a-z-]+)`\]\(#([a-z-]+)\)", text, re.MULTILINE)
    assert {name for name, _ in table} == set(METHODS)
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([a-z0-9-]+)\)", text))
    assert links <= headings, links - headings


def test_every_option_of_a_method_is_described():
    text = (ROOT / "docs" / "METHODS.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z]+(?:-[a-z]+)*", text.replace("_", "-")))
    unknown = [
        name for name in SubnetworkConfig.model_fields if name.replace("_", "-") not in words | {"method", "seed"}
    ]
    assert not unknown
