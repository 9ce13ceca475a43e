"""Subnetworks with logs as training leaves them, for benchmarks of their exported files.

Nothing is trained: scores are random, and between two events a random number is added to each, so that weights which
were redrawn while they were pruned are kept later. That gives logs of the size that training gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torchvision
from torch import nn

from iterand_compress import ImageInput, SubnetworkConfig, export_onnx
from iterand_compress.compress.config import ModelConfig
from iterand_compress.compress.mask.layers import masked_layers, pruned_layers
from iterand_compress.compress.mask.masking import mask_model, refresh
from iterand_compress.compress.mask.prune_at_init import find_masks
from iterand_compress.compress.models import resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.pack import network_of
from iterand_compress.export.forms import CHECK

__all__ = ["VARIANTS", "Case", "export", "plain_network", "redrawn_share", "searched", "unchecked"]

STEP = 0.7  # of the standard deviation of the scores, between two events
MEAN, STD = [0.5] * 3, [0.2] * 3
#: Options of `export_onnx` by the name of a variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "packed": {"form": "packed"},
    "packed, inlined": {"form": "packed", "inline": True},
    "int8": {"form": "int8"},
    "int8, kept quantised": {"form": "int8", "keep_quantized": True},
    "packed, for OpenVINO": {"form": "packed", "runtime": "openvino"},
    "int8, for OpenVINO": {"form": "int8", "runtime": "openvino"},
    "seeded": {"form": "seeded"},
    "seeded, inlined": {"form": "seeded", "inline": True},
    "float16": {"form": "float16"},
}


@dataclass(frozen=True)
class Case:
    """A network to export.

    Attributes:
        network: ``small``, ``rows``, ``conv6``, ``resnet18`` or ``resnet50``.
        config: how its weights come to be.
        events: refresh events, or epochs, that it went through.
    """

    network: str
    config: SubnetworkConfig
    events: int = 5

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = {"small": 12, "rows": 12, "conv6": 32}.get(self.network, 224)
        return 3, size, size


def plain_network(name: str) -> nn.Module:
    """Stock layers, with BatchNorm as after some training: means and variances of any size."""
    torch.manual_seed(0)
    if name == "small":
        model: nn.Module = small()
    elif name == "rows":
        model = Rows()
    elif name == "conv6":
        config = ModelConfig(name="conv6")
        model = build_model(resolve(config, num_classes=10, input=ImageInput((3, 32, 32), 0, 1)), seed=0)
    else:
        model = getattr(torchvision.models, name)(num_classes=1000)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr,operator]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    return model


def small() -> nn.Module:
    """One of each kind of layer that holds weights."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.ReLU(),
        nn.ConvTranspose2d(48, 32, 2, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32 * 25, 96), nn.ReLU(), nn.Linear(96, 10),
    )  # fmt: skip


class Rows(nn.Module):
    """Linear layers over inputs of two, three and four dimensions, one of them twice, and a part of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 3, stride=3)
        self.table = nn.Embedding(32, 48)
        self.mix = nn.Linear(48, 48)
        self.up = nn.Linear(48, 96, bias=False)
        self.wide = nn.Linear(96, 96)
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # [batch, 16, 48]
        x = x + self.table((x[..., 0].abs() * 8).long().clamp(max=31))
        x = torch.relu(self.mix(torch.relu(self.mix(x)))).unsqueeze(1)
        first, second = (nn.functional.linear(x, part) for part in (self.up.weight[:48], self.up.weight[48:]))
        x = torch.relu(self.wide(torch.cat([first, second], -1)).mean(1))  # [batch, 16, 96]
        return self.head(x.mean(1))


def searched(case: Case) -> nn.Module:
    """The subnetwork of a case, in evaluation mode."""
    model = mask_model(plain_network(case.network), case.config)
    if pruned_layers(model):
        find_masks(model, case.config)
    generator = torch.Generator().manual_seed(1)
    for event in range(1, case.events + 1):
        refresh(masked_layers(model), event, steps_per_epoch=1, epochs=case.events + 2)
        for _, _, scores in [*masked_layers(model), *pruned_layers(model)]:
            noise = torch.empty_like(scores).normal_(generator=generator)
            scores.data.add_(noise * scores.detach().std() * STEP)
    return model.eval()


def redrawn_share(model: nn.Module) -> float:
    """Share of the kept weights whose value is not that of draw 0."""
    changed = kept = 0
    for tensor in network_of(model.state_dict()).tensors:
        kept += int(tensor.mask.sum())
        if tensor.draws is not None:
            changed += int(np.count_nonzero(tensor.draws[tensor.mask]))
    return changed / kept


def export(model: nn.Module, case: Case, path: Path, variant: str) -> int:
    """Write a variant; return the bytes of the file."""
    options = VARIANTS[variant]
    return export_onnx(model, path, input=ImageInput(case.image_shape, MEAN, STD), **options).file_bytes


def unchecked(path: Path, out: Path) -> None:
    """Write a seeded file without its known answers, to show what a runtime would compute without them."""
    model = onnx.load(path)
    for node in model.graph.node:
        if CHECK in node.input:
            node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], node.output))
    needed = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    out.write_bytes(model.SerializeToString())
