"""The documents say what the code does."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from iterand_compress.compress import read_seedmask
from iterand_compress.compress.config import METHODS, SubnetworkConfig

ROOT = Path(__file__).parent.parent


def test_the_command_line_page_is_current():
    """White space does not count: versions of click wrap differently."""
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["reference"]()
    page = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    assert made.split() == page.split(), "run: python docs/make_cli.py"


def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))] * 2
    scope = {"batches": batches}
    exec(compile(code, "README.md", "exec"), scope)
    trained, plain = scope["materialise"](scope["model"]), scope["plain"]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert (tmp_path / "model.onnx").exists()
    assert len(read_seedmask("model.seedmask").tensors) == 21


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
