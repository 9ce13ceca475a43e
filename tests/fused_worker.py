"""Runs in a process with Triton's interpreter: steps with all layers fused, beside steps layer by layer."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iterand_compress.compress.config import SubnetworkConfig
from iterand_compress.compress.mask.fused import FusedLayers
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import make_subnetwork, refresh


class Words(nn.Module):
    """An embedding, of which several layers make use."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embedding(x).mean(dim=1))


class Sentences(nn.Module):
    """An embedding with padding, attention, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(self.recurrent(self.attention(x, x, x)[0])[0].mean(dim=1))


def network(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if kind == "sentences":
        return Sentences(), torch.randint(0, 11, (6, 4))
    if kind == "words":
        return Words(), torch.randint(0, 11, (6, 4))
    norm = nn.BatchNorm2d(8, affine=False)
    layers = (nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    return nn.Sequential(*layers), torch.randn(6, 3, 10, 10)


def step(model: nn.Module, forward: Any, images: Tensor, fused: FusedLayers | None, rounded: bool) -> Tensor:
    labels = torch.arange(len(images)) % 5
    around = fused.held() if fused else contextlib.nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded), around:
        logits = forward(images)
        loss = F.cross_entropy(logits.float(), labels)
    loss.backward()
    return logits.detach()


def compare(kind: str, settings: dict[str, Any], *, channels_last: bool, rounded: bool, compiled: bool) -> list[str]:
    """What differs after three steps of SGD with an event of resampling before each."""
    net, images = network(kind)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    plain = make_subnetwork(net, SubnetworkConfig(sparsity=0.6, seed=4, resample_every=1, **settings))
    twin = copy.deepcopy(plain)
    fused = FusedLayers.of(twin, channels_last=channels_last)
    if fused is None:
        return ["nothing was fused"]
    forward = torch.compile(twin, backend="aot_eager", fullgraph=True) if compiled else twin
    found = []
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9) for model in (plain, twin)]
    for index in range(3):
        refresh(plain, index)
        refresh(twin, index, fused=fused)
        logits = [step(plain, plain, images, None, rounded), step(twin, forward, images, fused, rounded)]
        if not torch.equal(*logits):
            found.append(f"outputs of step {index}")
        for (name, one, scores), (_, other, others) in zip(masked_layers(plain), masked_layers(twin), strict=True):
            if other.held_weight is not None or other.held_mask is not None:
                found.append(f"{name}: still held")
            if not torch.equal(one.codes, other.codes) or not equal(one.draws, other.draws):
                found.append(f"{name}: weights of step {index}")
            if not torch.equal(scores.grad, others.grad):
                found.append(f"{name}: gradients of step {index}")
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return found


def equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def late_backward() -> str:
    """What becomes of a backward pass that comes after the weights were overwritten."""
    net, images = network("images")
    model = make_subnetwork(net, SubnetworkConfig(method="edge-popup"))
    fused = FusedLayers.of(model)
    assert fused is not None
    with fused.held():
        loss = model(images).sum()
    with fused.held():
        model(images)
    try:
        loss.backward()
    except RuntimeError as error:
        return str(error)
    return "went through"


def one_by_one() -> list[bool]:
    """Whether networks are fused that must not be: several coats, another dtype, nothing masked."""
    coats = make_subnetwork(network("images")[0], SubnetworkConfig(method="edge-popup", coats=3))
    double = make_subnetwork(network("images")[0].double(), SubnetworkConfig())
    dense = make_subnetwork(network("images")[0], SubnetworkConfig(method="dense"))
    return [FusedLayers.of(model) is not None for model in (coats, double, dense)]
