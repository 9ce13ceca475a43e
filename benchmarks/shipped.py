"""What people ship when they do not ship a seed and a mask: float16, int8, pruned and fine-tuned, compressed files.

Also how any of these files is judged: by the right answers that onnxruntime gives with it.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import zstandard
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from iterand_compress.compress.config import TrainConfig
from iterand_compress.compress.data.bundle import DataBundle, Split
from iterand_compress.compress.training.schedule import learning_rate
from iterand_compress.export.from_file import export_network

__all__ = [
    "calibration_images",
    "compress",
    "plain",
    "prune_and_fine_tune",
    "quantise",
    "right_answers",
    "to_float16",
]

BATCH = 500
#: zstd is asked for the smallest file that it makes without --ultra.
ZSTD_LEVEL = 19


def right_answers(path: Path, test: Split) -> int:
    """Right answers of a file on all images of a split, in onnxruntime on the CPU.

    Args:
        path: ``.onnx``; ``.zst``, which is decompressed first; or ``.seedmask``, which is exported as dense ONNX first.
            The graph takes pixels float32 ``[N, C, H, W]`` in [0, 1].
        test: the images.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_onnx_bytes(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    correct = 0
    for pixels, labels in test.batches(BATCH, "cpu"):
        (logits,) = session.run(None, {given.name: pixels.numpy()})
        correct += int((np.asarray(logits).argmax(axis=1) == labels.numpy()).sum())
    return correct


def _onnx_bytes(path: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix == ".zst":
            inner = Path(folder) / path.stem
            inner.write_bytes(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
            return _onnx_bytes(inner)
        if path.suffix == ".seedmask":
            dense = Path(folder) / "dense.onnx"
            export_network(path, dense)
            return dense.read_bytes()
    return path.read_bytes()


def plain(source: Path, target: Path) -> None:
    """Copy an ONNX file without what no runtime needs: metadata, and shapes of intermediate values."""
    _write(onnx.load(source), target)


def to_float16(source: Path, target: Path) -> None:
    """Convert weights and computation to float16; input and output stay float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights too small for float16, which become its smallest number
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    _write(model, target)


def _write(model: onnx.ModelProto, target: Path) -> None:
    del model.metadata_props[:]
    del model.graph.value_info[:]
    target.write_bytes(model.SerializeToString(deterministic=True))


def calibration_images(train: Split, count: int) -> NDArray[np.float32]:
    """Training images, evenly spaced (a folder has them by class) and not augmented: float32 ``[count, C, H, W]``."""
    wanted = np.unique(np.linspace(0, len(train) - 1, min(count, len(train)), dtype=np.int64))
    found, first = [], 0
    for pixels, labels in train.batches(BATCH, "cpu"):
        inside = wanted[(wanted >= first) & (wanted < first + len(labels))] - first
        found.append(pixels.numpy()[inside])
        first += len(labels)
    return np.concatenate(found)


class _Reader(CalibrationDataReader):
    """Hands out images in batches under the name of the input."""

    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(np.array_split(images, max(1, len(images) // 64)))
        self._name = name

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch, ``None`` after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def quantise(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """Post-training quantisation by onnxruntime: weights int8 per channel, activations int8, ranges from images."""
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _Reader(onnx.load(source).graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        plain(quantised, target)


def compress(source: Path, target: Path) -> None:
    """Zstd on the whole file."""
    target.write_bytes(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(source.read_bytes()))


def prune_and_fine_tune(
    trained: nn.Module, data: DataBundle, sparsity: float, settings: TrainConfig, *, device: torch.device, first: int
) -> nn.Module:
    """Prune the smallest weights of a trained network, of all layers together, and train on what is left.

    Args:
        trained: a plain network; it is not changed.
        data: what it was trained on; augmentation is the same.
        sparsity: share of weights pruned.
        settings: of the fine-tuning; one cosine.
        device: where.
        first: number of the first epoch, for the order of the images.

    Returns:
        The network in evaluation mode on the CPU, pruned weights 0.
    """
    torch.manual_seed(0)  # for dropout and the like
    model = copy.deepcopy(trained).to(device).requires_grad_(requires_grad=True).train()
    layers = [(module, "weight") for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=sparsity)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    bf16 = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    for epoch in range(settings.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, epoch)
        for pixels, labels in data.train.train_batches(first + epoch, settings.batch_size, device):
            images = data.input.normalize(pixels).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for module, name in layers:
        prune.remove(module, name)
    return model.eval().cpu()
