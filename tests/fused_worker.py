"""Runs in a process with Triton's interpreter: steps with all layers fused, beside steps layer by layer."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from networks import refresh
from networks import settings as make_settings
from torch import Tensor, nn
from torch.nn import functional as F

from iterand_compress import Subnetwork, to_dense
from iterand_compress.compress.mask.fused import FusedForward, FusedLayers
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model


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
    around = fused.cached_weights() if fused else contextlib.nullcontext()
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
    plain = mask_model(net, make_settings(sparsity=0.6, seed=4, **settings))
    twin = copy.deepcopy(plain)
    fused = FusedLayers.of(twin, masked_layers(twin), channels_last=channels_last)
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
            if other.cached_weight is not None or other.cached_mask is not None:
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


def two_passes() -> bool:
    """Whether a backward pass that comes after another forward pass gives the gradients of plain layers."""
    net, images = network("images")
    plain = mask_model(net, make_settings(method="edge-popup"))
    twin = copy.deepcopy(plain)
    FusedForward.register(twin)
    for model in (plain, twin):
        model.train()
        first, second = model(images).sum(), model(images.flip(0)).square().sum()
        (first + second).backward()
    return all(
        torch.equal(scores.grad, others.grad)
        for (_, _, scores), (_, _, others) in zip(masked_layers(plain), masked_layers(twin), strict=True)
    )


def hooks() -> list[str]:
    """What is wrong with the forward passes of a `Subnetwork`, its copy, and both after loading and freezing."""
    net, images = network("images")
    subnet = Subnetwork(net, make_settings(seed=4, every=1))
    problems, calls = [], []
    compute = FusedLayers.compute

    def counted(self: FusedLayers) -> None:
        calls.append(self)
        compute(self)

    FusedLayers.compute = counted
    twin = copy.deepcopy(net)
    plain = copy.deepcopy(net)
    FusedForward.unregister(plain)
    with torch.no_grad():
        for _, _, scores in masked_layers(twin):
            scores.copy_(scores.roll(3))
    other = copy.deepcopy(plain)
    other.load_state_dict(twin.state_dict())
    for name, model, expected, passes in (("model", net, plain, 1), ("copy", twin, other, 1)):
        for fused, layer_by_layer in ((model, expected), (copy.deepcopy(model), expected)):
            calls.clear()
            if not torch.equal(fused(images), layer_by_layer(images)):
                problems.append(f"{name}: outputs")
            if len(calls) != passes:
                problems.append(f"{name}: {len(calls)} computations")
    with subnet.cached_weights():
        calls.clear()
        if not torch.equal(net(images), plain(images)) or calls:
            problems.append("cached weights were computed again")
    calls.clear()
    plain.load_state_dict(net.state_dict())
    if not torch.equal(net.eval()(images), plain.eval()(images)) or calls:
        problems.append("evaluation is layer by layer")
    net.train(), plain.train()
    plain.load_state_dict(twin.state_dict())
    net.load_state_dict(twin.state_dict())
    if not torch.equal(net(images), plain(images)):
        problems.append("after load_state_dict")
    net.double(), plain.double()
    if not torch.equal(net(images.double()), plain.double()(images.double())):
        problems.append("after .double()")
    if any(isinstance(getattr(hook, "__self__", None), FusedForward) for hook in to_dense(net)._forward_hooks.values()):
        problems.append("hooks on a dense copy")
    FusedLayers.compute = compute
    return problems


def one_by_one() -> list[bool]:
    """Whether networks are fused that must not be: several nested masks, another dtype, nothing masked."""
    nested = mask_model(network("images")[0], make_settings(method="edge-popup", multiplicity=3))
    double = mask_model(network("images")[0].double(), make_settings())
    dense = mask_model(network("images")[0], make_settings(method="dense"))
    return [FusedLayers.of(model, masked_layers(model)) is not None for model in (nested, double, dense)]
