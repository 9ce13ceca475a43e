"""Architectures that are not ours in every form: bytes, and whether outputs are those of the dense form, bit for bit.

    python benchmarks/architectures.py [--networks own mobilenet_v3_large vit_b_16] [--json OUT]

Nothing is trained: random masks at 50 % sparsity over signed constants, without a log; 1000 classes and 224 pixels for
those of torchvision. Outputs come from `load_session` with all optimisations.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

from common import environment, save
from iterand_compress import EdgePopup, ImageInput, export_onnx, load_session
from iterand_compress.compress.mask.masking import mask_model

FORMS = ("dense", "int8", "packed", "seeded")


class Own(nn.Module):
    """What a user may write: layers of several kinds, and a table that is read whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 5, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.up = nn.ConvTranspose2d(32, 16, 4, stride=2, groups=4)
        self.bn2 = nn.BatchNorm2d(16)
        self.line = nn.Conv1d(16, 24, 3)
        self.table = nn.Embedding(24, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.bn(self.conv(x)))
        x = nn.functional.silu(self.bn2(self.up(x)))
        return self.head(self.line(x.mean(2)).mean(2) + self.table.weight.mean(0))


def network(name: str) -> tuple[nn.Module, int]:
    """A subnetwork, and the side of its images."""
    torch.manual_seed(0)
    model: nn.Module = Own() if name == "own" else getattr(torchvision.models, name)(num_classes=1000)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    config = EdgePopup(seed=3)
    return mask_model(model, config), 64 if name == "own" else 224


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Bytes of each form, and whether its outputs are those of the first."""
    model, side = network(name)
    pixels = np.random.default_rng(0).random((2, 3, side, side), np.float32)
    sizes, same, wanted = {}, {}, b""
    for form in FORMS:
        path = folder / f"{form}.onnx"
        image = {"input": ImageInput((3, side, side), [0.5] * 3, [0.2] * 3)}
        sizes[form] = export_onnx(model, path, form=form, **image).file_bytes
        found = load_session(path, onnxruntime.SessionOptions()).run(None, {"pixels": pixels})[0].tobytes()
        wanted = wanted or found
        same[form] = found == wanted
        path.unlink()
    return {"name": name, "file_bytes": sizes, "identical": same}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v3_large", "vit_b_16", "own"], metavar="NAME")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    table = Table("network", *FORMS, "outputs")
    rows = []
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder)))
        identical = all(rows[-1]["identical"].values())
        sizes = (f"{size:,}" for size in rows[-1]["file_bytes"].values())
        table.add_row(name, *sizes, "identical" if identical else "different")
    Console(width=110).print(table)
    save({"environment": environment(), "networks": rows}, args.json)


if __name__ == "__main__":
    main()
