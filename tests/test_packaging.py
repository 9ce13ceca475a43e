"""What the distribution holds, and what is imported when."""

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"compress", "export", "cli"}


def test_every_package_is_listed():
    """A sub-package missing from the list is absent from the wheel, and an editable install hides it."""
    found = {
        "iterand_compress." + ".".join(path.parent.relative_to(ROOT).parts)
        for name in MAPPED
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert sorted({"iterand_compress", *found}) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_the_package_is_typed():
    assert (ROOT / "api" / "py.typed").exists()


def modules_after(*arguments: str) -> set[str]:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom iterand_compress.cli.app import cli\n"
        f"result = CliRunner().invoke(cli, {list(arguments)!r})\n"
        "assert result.exit_code == 0, result.output\nprint(*sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["search", "--help"],
        ["export", "--help"],
        ["eval", "--help"],
        ["recover", "--help"],
        ["theory", "--help"],
        ["models", "--help"],
    ],
)
def test_help_imports_neither_torch_nor_numpy(arguments):
    assert not {"torch", "numpy", "onnx", "onnxruntime", "torchvision"} & modules_after(*arguments)


@pytest.mark.processes
def test_recipes_are_listed_without_torch():
    assert not {"torch", "torchvision"} & modules_after("recipes")


@pytest.mark.processes
@pytest.mark.parametrize("command", ["inspect", "verify", "recover"])
def test_files_are_read_without_torch(command, digits, tmp_path):
    more = ["--out", str(tmp_path / "w.safetensors")] if command == "recover" else []
    assert not {"torch", "onnx", "onnxruntime", "torchvision"} & modules_after(command, str(digits.seedmask), *more)
