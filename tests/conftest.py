"""A trained digits network, made once through the command line, for all tests that need a file."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from iterand_compress.cli.app import cli

#: Files of which `make check` leaves every test out.
MARKS = {
    "browser": ("test_web_page",),
    "processes": (
        "test_distributed",
        "test_edge_c",
        "test_example_classify",
        "test_fused",
        "test_kernels",
        "test_kernels_compile",
    ),
    "slow": (
        "test_ablation",
        "test_accumulation",
        "test_cli_listings",
        "test_decode_numpy",
        "test_export_quantized",
        "test_export_shrink",
        "test_export_tensors",
        "test_inspect_files",
        "test_packed_in_python",
        "test_profile_and_memory",
        "test_search",
        "test_storage_bad_files",
        "test_storage_bombs",
        "test_text",
        "test_threads",
        "test_training",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in (mark for mark, files in MARKS.items() if item.path.stem in files):
            item.add_marker(mark)


def invoke(*arguments: object) -> Result:
    """Run a command in this process; standard output and error are kept apart."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def fail(code: int, *arguments: object) -> str:
    """The one line that a failing command prints."""
    result = invoke(*arguments)
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="session")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Checkpoint and .seedmask of a small network that SNIP pruned and two epochs trained."""
    folder: Path = tmp_path_factory.mktemp("ticket")
    files = SimpleNamespace(folder=folder, checkpoint=folder / "snip.ckpt", seedmask=folder / "snip.seedmask")
    options = ("--method", "snip", "--sparsity", 0.7, "--width", 0.25, "--epochs", 2, "--batch-size", 32, "--lr", 0.05)
    succeed("train", *options, "--seed", 4, "--device", "cpu", "-q", "--out", files.checkpoint)
    succeed("pack", files.checkpoint, "--out", files.seedmask)
    return files


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Checkpoint, .seedmask and ONNX of a small IteRand network with resampled weights."""
    folder: Path = tmp_path_factory.mktemp("digits")
    files = SimpleNamespace(
        folder=folder,
        checkpoint=folder / "model.ckpt",
        seedmask=folder / "model.seedmask",
        onnx=folder / "model.onnx",
    )
    succeed(
        "train",
        "--epochs",
        3,
        "--width",
        0.5,
        "--set=subnetwork.resample.every=10",
        "--device",
        "cpu",
        "--out",
        files.checkpoint,
    )
    succeed("pack", files.checkpoint, "--out", files.seedmask)
    succeed("export", files.seedmask, "--onnx", files.onnx)
    return files


@pytest.fixture(scope="session")
def captured_once() -> Iterator[None]:
    """Each network goes through torch's exporter once, which takes seconds, however many files are made of it."""
    import onnx  # here, and so is torch: tests of the storage shall start without them

    from iterand_compress.export import pipeline

    real, found = pipeline.capture, {}

    def capture(model, signature, inputs, outputs):
        shapes = [tensor.shape for tensor in inputs]
        digest = hashlib.sha256(f"{model} {signature} {shapes} {outputs}".encode())
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        key = digest.hexdigest()
        if key not in found:
            found[key] = real(model, signature, inputs, outputs).SerializeToString()
        return onnx.load_from_string(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "capture", capture)
        yield
