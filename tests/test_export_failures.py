"""What cannot be exported is one clear line, and leaves no file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from iterand_compress import ImageInput, export_onnx
from iterand_compress.compress.errors import ExportError, IterandError
from iterand_compress.export import pipeline
from iterand_compress.export.graph import Graph
from iterand_compress.export.runtime import agreement as check
from iterand_compress.export.samples import model_input

IMAGE = {"input": ImageInput((3, 8, 8), [0.5] * 3, [0.2] * 3)}
OLD = b"\x08\x08\x12old"  # of ONNX, as far as can be seen


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.mean((2, 3)))


class Branches(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if y.sum() > 0:
            return y * 2
        return y


class Unsupported(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y * torch.kthvalue(y, 1, dim=1, keepdim=True).values


class OneBatchSize(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.reshape(1, 3, -1).mean(2)) if len(x) == 1 else self.last(x.reshape(2, 3, -1).mean(2))


class Text(Pooled):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:  # type: ignore[override]
        return super().forward(x), "logits"


class MeanOverBatch(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean(0)


class NotANumber(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


class NoCopy(Pooled):
    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        raise TypeError("holds a lock")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Branches(),
            r"Branches cannot be exported: its Python code branches on computed values in forward \(test_\w+",
        ),
        (
            Unsupported(),
            r"Unsupported cannot be exported: ONNX has no counterpart of the operator aten\.kthvalue",
        ),
        (OneBatchSize(), r"must return one row per input, found shape \[2, 5\] for 8"),
        (nn.Linear(7, 5), r"Linear does not take an input of shape \[1, 3, 8, 8\]: RuntimeError: .*mat1"),
        (Text(), "must return tensors, found str"),
        (MeanOverBatch(), r"must return one row per input, found shape \[5\] for 1"),
        (NotANumber(), "outputs that are not finite"),
        (NoCopy(), "cannot be copied for the export: holds a lock"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_one_line(model: nn.Module, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(model, tmp_path / "net.onnx", **IMAGE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(30_000, 30_000)
    with pytest.raises(ExportError, match=r"3\.60 GB of float32 .* at most 2 GB.*external data"):
        export_onnx(model, tmp_path / "net.onnx", **IMAGE)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_wrong_graph_leaves_the_old_file(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(graph: Graph, *_: object) -> None:
        weight = graph.array("last.weight")
        weight[0, 0] += value
        graph.put("last.weight", weight)

    monkeypatch.setattr(pipeline, "write_dense", corrupt)
    path = tmp_path / "net.onnx"
    path.write_bytes(OLD)
    message = (
        r"PyTorch differ: largest absolute difference of the outputs (\d\.\d+|nan), accepted \d[^;]*; the file was"
    )
    with pytest.raises(ExportError, match=message):
        export_onnx(Pooled(), path, **IMAGE)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_an_invalid_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(graph: Graph, *_: object) -> None:
        del graph.initializers["last.weight"]

    monkeypatch.setattr(pipeline, "write_dense", corrupt)
    with pytest.raises(ExportError, match="not valid ONNX"):
        export_onnx(Pooled(), tmp_path / "net.onnx", **IMAGE)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_graph_for_one_batch_size_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fix(graph: Graph, *_: object) -> None:
        graph.put("two", np.array([2, 5]))
        graph.nodes[-1].output[0] = "free"
        graph.nodes.append(pipeline.helper.make_node("Reshape", ["free", "two"], ["logits"]))

    monkeypatch.setattr(pipeline, "write_dense", fix)
    with pytest.raises(ExportError, match="on a batch of 1"):
        export_onnx(Pooled(), tmp_path / "net.onnx", **IMAGE)
    assert not list(tmp_path.iterdir())


def test_another_shape_is_a_difference() -> None:
    class Session:
        def get_inputs(self) -> list[nn.Module]:
            return [type("Input", (), {"name": "pixels"})()]

        def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.zeros((len(feed["pixels"]), 1), np.float32)]  # would broadcast

    given = model_input(Pooled(), IMAGE["input"], None, normalize=True)
    with pytest.raises(
        ExportError, match=r"for a batch of 1, onnxruntime computes the shape \[1, 1\], PyTorch \[1, 5\]"
    ):
        check.compare(Session(), Pooled(), given, given.calls())


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(IterandError, match=r"net\.onnx: cannot be written.*create the folder"):
        export_onnx(Pooled(), tmp_path / "absent" / "net.onnx", **IMAGE)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the answer of the operating system is imitated."""
    real = os.open

    def refuse(path: str, flags: int, *args: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(IterandError, match=r"net\.onnx: cannot be written: Permission denied.*you may write to"):
        export_onnx(Pooled(), tmp_path / "net.onnx", **IMAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(IterandError, match="cannot be written"):
        export_onnx(Pooled(), tmp_path, **IMAGE)
