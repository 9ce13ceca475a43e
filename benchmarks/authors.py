"""Each method and recipe against its authors' code, on the same inputs.

    python benchmarks/authors.py [--quick] [--only NAME] [--json OUT]

What the authors' code gives was recorded once, by `authors_record.py`, in `results/authors.json`, with repository,
commit, file and function. Neither that code nor a network connection is needed here: the inputs are made again, from
Philox and in whole numbers, so that they have the same bits on any machine; ours is computed from them and compared.
Networks run in float64 where sums over many terms are compared, so that rounding cannot hide a difference.

Exit code 1 if something that agreed no longer does. `--quick` leaves out the largest networks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from common import environment, save
from iterand_compress import (
    Biprop,
    EdgePopup,
    Grasp,
    IteRand,
    MagnitudePruning,
    Snip,
    Subnetwork,
    SubnetworkConfig,
    SynFlow,
    TrainConfig,
    WeightRecycling,
    load_recipe,
    prune_at_init,
)
from iterand_compress.compress.config import Recycle, Resample
from iterand_compress.compress.data.augment import Augmentation
from iterand_compress.compress.data.order import permutation
from iterand_compress.compress.errors import IterandError
from iterand_compress.compress.mask.layers import MaskedLayer, masked_layers, pruned_layers
from iterand_compress.compress.mask.sparsity import Allocation
from iterand_compress.compress.mask.topk import kept_count, topk_mask
from iterand_compress.compress.methods import grasp, snip, synflow
from iterand_compress.compress.methods.iterand import resampling_event
from iterand_compress.compress.methods.recycling import recycling_is_due
from iterand_compress.compress.models.activation import BinaryActivation
from iterand_compress.compress.models.architecture import Architecture
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.seed.philox import Purpose, random_words
from iterand_compress.compress.training.optimizer import make_optimizer
from iterand_compress.compress.training.recipe import flattened
from iterand_compress.compress.training.schedule import learning_rate

RECORDED = Path(__file__).parent / "results" / "authors.json"
SEED = 2026
Values = dict[str, Any]


# Inputs: whole numbers from Philox, scaled by powers of two


def words(stream: int, count: int) -> NDArray[np.uint32]:
    """Random words that only this file draws."""
    return random_words(SEED, count, draw=1, tensor=stream, purpose=Purpose.SHUFFLING)


def distinct(stream: int, count: int) -> Tensor:
    """float32 ``[count]`` in (-1, 1), no two of one magnitude, so that no comparison depends on ties."""
    order = permutation(SEED, count, draw=0, tensor=stream, purpose=Purpose.SHUFFLING)
    signs = 1.0 - 2.0 * (words(stream, count) >> 31)
    magnitudes = np.empty(count)
    magnitudes[order] = np.arange(1, count + 1) / 2.0 ** math.ceil(math.log2(count + 1))
    return torch.from_numpy(magnitudes * signs).float()


def small_integers(stream: int, *shape: int) -> Tensor:
    """float32, whole numbers from -128 to 127 over 64."""
    values = (words(stream, math.prod(shape)) >> 24).astype(np.int64) - 128
    return torch.from_numpy(values / 64).float().view(shape)


def batch(step: int, count: int = 8, side: int = 32, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Images float64 ``[count, 3, side, side]`` and labels int64 ``[count]`` of a step."""
    labels = torch.from_numpy((words(1000 + step, count) % classes).astype(np.int64))
    return small_integers(2000 + step, count, 3, side, side).double(), labels


# The networks that both sides compute


@dataclass(frozen=True)
class Network:
    """A built-in architecture beside the class of the authors that it is compared with.

    Attributes:
        theirs: their class.
        name: ours.
        width: ours; theirs too, but for `their_width`.
        stem, activation, batch_norm, affine: of `Architecture`.
        side: of the images, in pixels.
        classes: number of outputs.
        their_width: factor that they call by this name, where it counts from other channels.
    """

    theirs: str
    name: str
    width: float = 1.0
    stem: str = "none"
    activation: str = "relu"
    batch_norm: bool = False
    affine: bool = False
    side: int = 32
    classes: int = 10
    their_width: float = 0.0

    def build(self) -> nn.Module:
        """Ours."""
        arch = Architecture(
            name=self.name,
            num_classes=self.classes,
            in_channels=3,
            image_size=self.side,
            width=self.width,
            stem=self.stem,
            affine=self.affine,
            batch_norm=self.batch_norm,
            activation=self.activation,
        )
        return build_model(arch, seed=0)


def _cifar(theirs: str, name: str, **options: Any) -> Network:
    return Network(theirs, name, stem="cifar", **options)


def _imagenet(theirs: str, name: str, **options: Any) -> Network:
    return Network(theirs, name, stem="imagenet", **{"classes": 1000, "side": 64, **options})


#: By repository.
NETWORKS: dict[str, tuple[Network, ...]] = {
    "iterand": (
        Network("Conv6", "conv6", width=0.25),
        _cifar("ResNet18", "resnet18", width=0.25),
        _cifar("ResNet34", "resnet34", width=0.25),
        _imagenet("ResNet34", "resnet34", width=0.25, side=224),
        _imagenet("ResNet50", "resnet50", side=224),
        _imagenet("ResNet101", "resnet101", side=224),
    ),
    "hidden-networks": (
        Network("Conv2", "conv2"),
        Network("Conv4", "conv4"),
        Network("Conv6", "conv6"),
        Network("Conv8", "conv8"),
        Network("Conv4Wide", "conv4", width=0.25),
        Network("Conv6Wide", "conv6", width=0.25),
        _cifar("cResNet18", "resnet18"),
        _imagenet("ResNet50", "resnet50"),
        _imagenet("ResNet101", "resnet101"),
        _imagenet("WideResNet50_2", "wideresnet50-2"),
    ),
    "biprop": (
        Network("Conv2_BinAct", "conv2", activation="binary", batch_norm=True),
        Network("Conv4_BinAct", "conv4", activation="binary", batch_norm=True),
        Network("Conv6_BinAct", "conv6", activation="binary", batch_norm=True),
        Network("Conv8_BinAct", "conv8", activation="binary", batch_norm=True),
        Network("Conv6Wide_BinAct", "conv6", width=0.25, activation="binary", batch_norm=True),
        _cifar("cResNet18_BinAct", "resnet18", activation="binary"),
        _imagenet("ResNet18_BinAct", "resnet18", activation="binary"),
        _imagenet("ResNet34", "resnet34"),
        Network("VGG_Small", "vgg-small"),
        Network("VGG_Small_BinAct", "vgg-small", activation="binary"),
        Network("Wide_VGG_Small_132", "vgg-small", width=0.25, batch_norm=True, their_width=2.0),
        Network("Wide_VGG_Small", "vgg-small", width=0.25, activation="binary", batch_norm=True, their_width=2.0),
        Network("cResNet20", "resnet20"),
        Network("cResNet32", "resnet32"),
        Network("cResNet20_BinAct", "resnet20", activation="binary"),
    ),
}
#: Networks with more weights than this are left out of `--quick`.
QUICK_WEIGHTS = 700_000


def network_id(repository: str, network: Network) -> str:
    """The name of a comparison of architectures."""
    return f"{repository}:{network.theirs}@{network.side}"


def search(network: nn.Module, config: SubnetworkConfig) -> Subnetwork:
    """A subnetwork whose forward pass is in float64.

    Where α is a mean of magnitudes, they are multiples of a power of 2, so that their sum is exact on both sides: a last
    digit of α decides about equal scores, and twenty steps later about much.
    """
    subnet = Subnetwork(network, config)
    if config.binarised:
        for _, masked, _ in masked_layers(network):
            masked.spec = replace(masked.spec, scale=2.0 ** round(math.log2(masked.spec.scale)))
    network.double()
    return subnet


def layer(count: int = 4608) -> nn.Module:
    """One convolution with 16 input and 32 output channels (fan-in 144)."""
    return nn.Sequential(nn.Conv2d(16, count // 144, 3, bias=False))


def with_scores(model: nn.Module, *streams: int) -> list[MaskedLayer]:
    """The masked layers of a model, whose scores become `distinct` numbers."""
    layers = masked_layers(model)
    for (_, _, scores), stream in zip(layers, streams, strict=True):
        scores.data.copy_(distinct(stream, scores.numel()))
    return layers


def prunable() -> nn.Module:
    """What the criteria at initialisation are compared on: BatchNorm with scales, no biases in its layers."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),
    )


def shift(model: nn.Module) -> None:
    """Give BatchNorm distinct shifts, so that no binary activation has the input 0."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    for stream, module in enumerate(norms):
        module.bias.data = distinct(60 + stream, module.num_features).to(module.bias.dtype) / 4


# What is recorded of large results


def bits(mask: Tensor) -> str:
    """A mask in hexadecimal, eight entries a byte; of large ones the SHA-256 of these bytes."""
    packed = np.packbits(mask.reshape(-1).bool().numpy(), bitorder="little").tobytes()
    return "0x" + packed.hex() if mask.numel() <= 8192 else hashlib.sha256(packed).hexdigest()


def digest(values: Tensor) -> str:
    """SHA-256 of float32 values, -0 taken as +0."""
    plain = (values.detach().reshape(-1).float() + 0.0).numpy()
    return hashlib.sha256(plain.astype("<f4").tobytes()).hexdigest()


def sample(values: Tensor, count: int = 16) -> Values:
    """Some of the values, evenly spaced, and the Euclidean norm of all."""
    flat = values.detach().reshape(-1).double()
    index = torch.linspace(0, len(flat) - 1, min(count, len(flat))).long()
    return {"norm": float(flat.norm()), "values": flat[index].tolist()}


def state_of(masks: Sequence[Tensor], scores: Sequence[Tensor], weights: Sequence[Tensor]) -> Values:
    """Where a whole run ended."""
    return {
        "masks": [bits(mask) for mask in masks],
        "scores": [sample(score, 8) for score in scores],
        "random weights": [digest(weight) for weight in weights],
    }


# Comparisons


@dataclass(frozen=True)
class Comparison:
    """One thing that both sides compute.

    Attributes:
        method: method, or what else it belongs to.
        what: is compared.
        ours: computes our values, in the structure of those that were recorded.
        tolerance: largest allowed difference of floats, relative to the largest of a list; 0 = bit for bit.
        within: largest allowed difference of whole numbers.
        by_design: reason of a difference that is meant, shown and never a failure; see docs/METHODS.md.
        slow: left out of `--quick`.
    """

    method: str
    what: str
    ours: Callable[[], Values]
    tolerance: float = 0.0
    within: int = 0
    by_design: str = ""
    slow: bool = False


COMPARISONS: dict[str, Comparison] = {}


def compares(method: str, what: str, **options: Any) -> Callable[[Callable[[], Values]], Callable[[], Values]]:
    """Enter a function into the table, under its name."""

    def enter(ours: Callable[[], Values]) -> Callable[[], Values]:
        COMPARISONS[ours.__name__] = Comparison(method, what, ours, **options)
        return ours

    return enter


# IteRand

ITERAND_SPARSITIES = (0.3, 0.5, 0.8)
#: Sizes of the layers of Conv-6, ResNet-18 and ResNet-50, and the sparsity of the recipes.
LAYER_SIZES = {
    0.5: (1728, 36864, 73728, 147456, 294912, 589824, 1048576, 65536, 2560),
    0.6: (1728, 36864, 73728, 147456, 8192, 294912, 589824, 32768, 1179648, 2359296, 131072, 5120),
    0.7: (9408, 4096, 36864, 16384, 32768, 147456, 65536, 131072, 524288, 589824, 262144, 2048000),
}


@compares("iterand", "mask, threshold and effective weight of a layer, scores signed")
def iterand_mask() -> Values:
    values: Values = {}
    for sparsity in ITERAND_SPARSITIES:
        subnet = Subnetwork(layer(), IteRand(sparsity, seed=SEED))
        ((_, masked, scores),) = with_scores(subnet.model, 0)
        mask = masked.mask(scores)
        values[str(sparsity)] = {
            "mask": bits(mask),
            "threshold": float(scores.detach()[mask].min()),
            "weight": digest(subnet.model[0].weight),
        }
    return values


@compares("iterand", "number of kept weights in the layers of Conv-6, ResNet-18 and ResNet-50", within=1)
def iterand_kept() -> Values:
    return _kept_counts()


def _kept_counts() -> Values:
    return {str(p): [kept_count(n, p, "") for n in sizes] for p, sizes in LAYER_SIZES.items()}


@compares("iterand", "gradient of the scores for a given gradient of the weight")
def iterand_gradient() -> Values:
    return {"gradient": digest(_score_gradient(IteRand(seed=SEED)))}


def _score_gradient(config: SubnetworkConfig) -> Tensor:
    subnet = Subnetwork(layer(), config)
    ((_, _, scores),) = with_scores(subnet.model, 0)
    (subnet.model[0].weight * small_integers(1, 32, 16, 3, 3)).sum().backward()
    assert scores.grad is not None
    return scores.grad


@compares("iterand", "±weight of a signed constant; bounds of uniform weights and of first scores", tolerance=1e-3)
def iterand_start() -> Values:
    uniform = masked_layers(Subnetwork(layer(), IteRand(distribution="uniform")).model)[0][1]
    constant = masked_layers(Subnetwork(layer(), IteRand()).model)[0][1]
    return {
        "signed constant": constant.spec.scale,
        "uniform": 128 * uniform.spec.scale,
        "scores": constant.score_bound,
    }


@compares("iterand", "steps before which weights are redrawn (K_per 300 and 7)")
def iterand_events() -> Values:
    return {
        str(every): [step for step in range(1000) if resampling_event(Resample(every=every), step)]
        for every in (300, 7)
    }


@compares("iterand", "weights after three events, for given random decisions and values")
def iterand_redraw() -> Values:
    subnet = Subnetwork(layer(), IteRand(seed=SEED, rate=0.1))
    ((_, masked, scores),) = with_scores(subnet.model, 0)
    weights = []
    for event in (1, 2, 3):
        masked.resample(scores, event)
        weights.append(digest(masked.random))
    return {"weights": weights}


@compares(
    "iterand", "learning rate of each epoch: CIFAR-10, and ImageNet with warm-up and last epochs", tolerance=1e-14
)
def iterand_schedule() -> Values:
    return {
        "cifar10": _rates(TrainConfig(epochs=100, lr=0.3)),
        "imagenet": _rates(TrainConfig(epochs=105, lr=0.1, warmup_epochs=5, cooldown_epochs=5, cooldown_lr=1e-5)),
    }


def _rates(config: TrainConfig) -> list[float]:
    return [learning_rate(config, epoch) for epoch in range(config.epochs)]


STEPS = 20


def trained(subnet: Subnetwork, train: TrainConfig, steps: int = STEPS) -> Values:
    """A whole run of a few steps, through the public API; see `state_of`."""
    optimizer = make_optimizer(subnet.model, train)
    for step in range(steps):
        images, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(subnet.model(images), labels).backward()
        optimizer.step()
        subnet.step()
    layers = masked_layers(subnet.model)
    return state_of(
        [masked.mask(scores) for _, masked, scores in layers],
        [scores for _, _, scores in layers],
        [masked.random for _, masked, _ in layers],
    )


#: Networks of whole runs.
RUNS = {
    "iterand_conv6": Network("Conv6", "conv6", width=0.125),
    "iterand_resnet18": _cifar("ResNet18", "resnet18", width=0.125),
    "edge_popup_conv6": Network("Conv6Wide", "conv6", width=0.125),
    "biprop_conv6": Network("Conv6Wide", "conv6", width=0.125),
    "biprop_binary": Network(
        "Conv4Wide_BinAct", "conv4", width=0.125, activation="binary", batch_norm=True, affine=True
    ),
}
RUN = f"masks, scores and random weights after {STEPS} steps of SGD"


@compares("iterand", RUN + ": Conv-6 × 0.125, K_per 5", tolerance=1e-9)
def iterand_run_conv6() -> Values:
    subnet = search(RUNS["iterand_conv6"].build(), IteRand(seed=SEED, every=5, rate=0.1))
    return trained(subnet, TrainConfig(lr=0.3, momentum=0.9, weight_decay=1e-4))


@compares("iterand", RUN + ": ResNet-18 × 0.125, K_per 5", tolerance=1e-9, slow=True)
def iterand_run_resnet18() -> Values:
    subnet = search(RUNS["iterand_resnet18"].build(), IteRand(seed=SEED, every=5, rate=0.1))
    return trained(subnet, TrainConfig(lr=0.1, momentum=0.9, weight_decay=5e-4))


# Edge-popup

EDGE_POPUP_SPARSITIES = (0.25, 0.5, 0.75)


@compares("edge-popup", "mask and effective weight of a layer, magnitudes of scores")
def edge_popup_mask() -> Values:
    values: Values = {}
    for sparsity in EDGE_POPUP_SPARSITIES:
        subnet = Subnetwork(layer(), EdgePopup(sparsity, seed=SEED))
        ((_, masked, scores),) = with_scores(subnet.model, 0)
        values[str(sparsity)] = {"mask": bits(masked.mask(scores)), "weight": digest(subnet.model[0].weight)}
    return values


@compares("edge-popup", "number of kept weights in the layers of Conv-6, ResNet-18 and ResNet-50", within=1)
def edge_popup_kept() -> Values:
    return _kept_counts()


@compares("edge-popup", "gradient of the scores for a given gradient of the weight")
def edge_popup_gradient() -> Values:
    return {"gradient": digest(_score_gradient(EdgePopup(seed=SEED)))}


@compares(
    "edge-popup", "±weight of a signed constant, plain and with scale_fan at 0.5; bound of first scores", tolerance=1e-3
)
def edge_popup_start() -> Values:
    plain = masked_layers(Subnetwork(layer(), EdgePopup()).model)[0][1]
    scaled = masked_layers(Subnetwork(layer(), EdgePopup(scale_fan=True)).model)[0][1]
    return {"plain": plain.spec.scale, "scale_fan": scaled.spec.scale, "scores": plain.score_bound}


@compares(
    "edge-popup",
    "±weight with scale_fan at sparsity 0.8",
    tolerance=1e-6,
    by_design="theirs divides by the fraction that is pruned, the paper and ours by the fraction that is kept",
)
def edge_popup_scale_fan() -> Values:
    return {"scale": masked_layers(Subnetwork(layer(), EdgePopup(0.8, scale_fan=True)).model)[0][1].spec.scale}


@compares("edge-popup", "learning rate of each epoch: CIFAR-10, ImageNet with warm-up, and by steps", tolerance=1e-14)
def edge_popup_schedule() -> Values:
    return {
        "cifar10": _rates(TrainConfig(epochs=100, lr=0.1)),
        "imagenet": _rates(TrainConfig(epochs=100, lr=0.256, warmup_epochs=5)),
        "steps": _rates(TrainConfig(epochs=100, lr=0.1, milestones=(30, 60, 90))),
    }


@compares("edge-popup", "settings of the optimizers: SGD, and Adam, which has no weight decay")
def edge_popup_optimizers() -> Values:
    return {name: _optimizer(name) for name in ("sgd", "adam")}


def _optimizer(name: str) -> Values:
    decay = {"weight_decay": 1e-4} if name == "sgd" else {}
    settings = TrainConfig(optimizer=name, lr=0.1, momentum=0.9, **decay)
    groups = make_optimizer(nn.Linear(2, 2), settings).param_groups
    return {key: sorted({float(group.get(key, 0)) for group in groups}) for key in ("lr", "momentum", "weight_decay")}


@compares("edge-popup", "loss with label smoothing 0.1", tolerance=1e-6)
def edge_popup_smoothing() -> Values:
    logits, labels = small_integers(5, 8, 10), batch(0)[1]
    return {"loss": float(F.cross_entropy(logits, labels, label_smoothing=0.1))}


@compares("edge-popup", RUN + ": Conv-6 × 0.125", tolerance=1e-9)
def edge_popup_run() -> Values:
    subnet = search(RUNS["edge_popup_conv6"].build(), EdgePopup(seed=SEED))
    return trained(subnet, TrainConfig(lr=0.1, momentum=0.9, weight_decay=1e-4))


# Biprop


@compares("biprop", "α and effective weight of a layer", tolerance=2e-6)
def biprop_weight() -> Values:
    values: Values = {}
    for sparsity in EDGE_POPUP_SPARSITIES:
        subnet = Subnetwork(layer(), Biprop(sparsity, seed=SEED, distribution="normal"))
        ((_, masked, scores),) = with_scores(subnet.model, 0)
        weight = subnet.model[0].weight
        values[str(sparsity)] = {
            "mask": bits(masked.mask(scores)),
            "signs": digest(weight.sign()),
            "alpha": float(weight.detach().abs().max()),
        }
    return values


@compares("biprop", "gradient of the scores for a given gradient of the weight")
def biprop_gradient() -> Values:
    return {"gradient": digest(_score_gradient(Biprop(seed=SEED, distribution="normal")))}


@compares("biprop", "binary activation and its gradient, inputs from -2 to 2 but not 0")
def biprop_sign() -> Values:
    inputs = (small_integers(6, 1000) + 1 / 128).requires_grad_()
    outputs = BinaryActivation()(inputs)
    outputs.backward(small_integers(7, 1000))
    assert inputs.grad is not None
    return {"outputs": digest(outputs), "gradient": digest(inputs.grad)}


@compares(
    "biprop",
    "binary activation of 0",
    by_design="their sign gives 0, a third value; ours is 1, so that an activation is one bit",
)
def biprop_sign_of_zero() -> Values:
    return {"sign(0)": float(BinaryActivation()(torch.zeros(1)))}


@compares("biprop", "masks and weights by one threshold for two layers of one fan-in", tolerance=2e-6)
def biprop_global() -> Values:
    model = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.Conv2d(16, 16, 3, bias=False))
    subnet = Subnetwork(model, Biprop(0.75, seed=SEED, distribution="normal", scope="global"))
    layers = masked_layers(model)
    joint = distinct(8, 4608 + 2304)  # of different ranges, so that the layers keep different shares
    layers[0][2].data.copy_(joint[:4608])
    layers[1][2].data.copy_(joint[4608:] * 0.75)
    subnet.step()
    weights = [convolution.weight for convolution in model]
    return {
        "masks": [bits(masked.mask(scores)) for _, masked, scores in layers],
        "alpha": [float(weight.detach().abs().max()) for weight in weights],
    }


@compares(
    "biprop",
    "sparsity in the epochs of a ramp to 0.9",
    by_design="theirs rises from 0.5 and reaches the end in epoch 10; ours rises from 0, after Zhu and Gupta",
)
def biprop_ramp() -> Values:
    rule = Allocation("global", 0.9, 10)
    return {"sparsity": [rule.sparsity_at(epoch) for epoch in range(12)]}


@compares("biprop", "masks, scores and random weights after 20 steps of SGD: Conv-6 × 0.125", tolerance=1e-9)
def biprop_run_conv6() -> Values:
    subnet = search(RUNS["biprop_conv6"].build(), Biprop(seed=SEED, distribution="normal", scale_fan=True))
    return trained(subnet, TrainConfig(lr=0.1, momentum=0.9, weight_decay=1e-4))


@compares("biprop", "the same of Adam: Conv-4 × 0.125 with binary activations and trained BatchNorm", tolerance=1e-9)
def biprop_run_binary() -> Values:
    subnet = search(RUNS["biprop_binary"].build(), Biprop(seed=SEED, distribution="normal", scale_fan=True))
    shift(subnet.model)
    return trained(subnet, TrainConfig(optimizer="adam", lr=0.1))


# Weight Recycling


@compares("recycling", "which weights take whose values: weights after recycling a fifth")
def recycling_pairs() -> Values:
    return {"weights": digest(_recycled(WeightRecycling(seed=SEED, every=1, distribution="normal")))}


@compares("biprop-recycling", "which weights take whose values: weights after recycling a tenth")
def recycling_pairs_of_biprop() -> Values:
    method = WeightRecycling(seed=SEED, every=1, rate=0.1, distribution="normal", binarise=True)
    return {"weights": digest(_recycled(method))}


def _recycled(config: SubnetworkConfig) -> Tensor:
    subnet = Subnetwork(layer(), config, steps_per_epoch=1, epochs=9)
    ((_, masked, scores),) = with_scores(subnet.model, 0)
    masked.recycle(scores)
    return masked.random


#: (every, epochs of the run, epochs of waiting).
RECYCLING_EPOCHS = ((10, 250, 0), (10, 41, 0), (3, 20, 0), (10, 200, 50), (10, 100, 45))


@compares("recycling", "epochs after which weights are recycled")
def recycling_epochs() -> Values:
    # Ours is due before an epoch, theirs comes behind one.
    return {
        f"every {every} of {epochs} after {after}": [
            epoch - 1
            for epoch in range(1, epochs + 1)
            if recycling_is_due(Recycle(every=every, warmup=after), epoch, epochs)
        ]
        for every, epochs, after in RECYCLING_EPOCHS
    }


# Pruning at initialisation

PRUNED = 0.75


def _pruned(config: SubnetworkConfig) -> tuple[Subnetwork, list[Tensor]]:
    """A network in float64 with weights of distinct magnitudes: those of a codebook tie, and so do their scores."""
    subnet = Subnetwork(prunable(), config)
    weights = [weight for _, _, weight in pruned_layers(subnet.model)]
    for stream, weight in enumerate(weights):
        weight.data.copy_(distinct(20 + stream, weight.numel()).view_as(weight) / 4)
    subnet.model.double()
    return subnet, [weight for _, _, weight in pruned_layers(subnet.model)]


def _masks(subnet: Subnetwork) -> list[str]:
    return [bits(pruned.mask) for _, pruned, _ in pruned_layers(subnet.model)]


@compares("magnitude", "masks of three layers by one threshold")
def magnitude_masks() -> Values:
    subnet, _ = _pruned(MagnitudePruning(PRUNED, seed=SEED))
    prune_at_init(subnet)
    return {"masks": _masks(subnet)}


@compares("snip", "scores and masks, BatchNorm in training mode", tolerance=1e-10)
def snip_scores() -> Values:
    return _from_sample(Snip(PRUNED, seed=SEED), snip.scores)


@compares("grasp", "scores and masks, BatchNorm in training mode", tolerance=1e-8)
def grasp_scores() -> Values:
    return _from_sample(Grasp(PRUNED, seed=SEED), grasp.scores)


@compares("snip", "scores and masks, BatchNorm in evaluation mode, as is their default", tolerance=1e-10)
def snip_scores_in_evaluation() -> Values:
    return _from_sample(Snip(PRUNED, seed=SEED), snip.scores, training=False)


@compares("grasp", "scores and masks, BatchNorm in evaluation mode, as is their default", tolerance=1e-8)
def grasp_scores_in_evaluation() -> Values:
    return _from_sample(Grasp(PRUNED, seed=SEED), grasp.scores, training=False)


def _from_sample(
    config: SubnetworkConfig, criterion: Callable[..., list[Tensor | None]], *, training: bool = True
) -> Values:
    images, labels = batch(0, 20, 16)
    subnet, weights = _pruned(config)
    for _, pruned, _ in pruned_layers(subnet.model):
        pruned.set_mask(torch.ones_like(pruned.mask))
    subnet.model.train(training)
    scores = [score for score in criterion(subnet.model(images), labels, weights) if score is not None]
    if training:
        fresh, _ = _pruned(config)
        prune_at_init(fresh, (images, labels))
        masks = _masks(fresh)
    else:
        joint = torch.cat([score.reshape(-1) for score in scores])
        chosen = topk_mask(joint, kept_count(len(joint), PRUNED, ""))
        masks = [bits(mask) for mask in chosen.split([score.numel() for score in scores])]
    return {"masks": masks, "scores": normalised(scores)}


def normalised(scores: Sequence[Tensor]) -> list[Values]:
    """Samples of scores whose magnitudes sum to 1 over all layers: only their order counts."""
    total = torch.stack([score.abs().sum() for score in scores]).sum()
    return [sample(score / total) for score in scores]


@compares("synflow", "scores of the first round", tolerance=1e-10)
def synflow_scores() -> Values:
    subnet, weights = _pruned(SynFlow(PRUNED, seed=SEED))
    subnet.model.eval()
    with torch.no_grad():
        for parameter in subnet.model.parameters():
            parameter.abs_()
    for _, pruned, _ in pruned_layers(subnet.model):
        pruned.set_mask(torch.ones_like(pruned.mask))
    scores = synflow.scores(subnet.model(torch.ones(1, 3, 16, 16, dtype=torch.float64)), weights)
    return {"scores": normalised([score for score in scores if score is not None])}


ROUNDS = range(1, 101)


@compares("synflow", "number of kept weights after each of 100 rounds", within=1)
def synflow_rounds() -> Values:
    return {"kept": [synflow.kept_in_round(6320, 632, round_, len(ROUNDS)) for round_ in ROUNDS]}


@compares("synflow", "masks after 100 rounds that keep as many weights as theirs")
def synflow_masks() -> Values:
    subnet, _ = _pruned(SynFlow(0.9, seed=SEED))
    with mock.patch.object(synflow, "kept_in_round", lambda n, _, i, rounds: n - int((1 - 0.1 ** (i / rounds)) * n)):
        prune_at_init(subnet, (3, 16, 16))
    return {"masks": _masks(subnet)}


# Augmentation

#: (height, width, pixels of padding, sides of the result).
CROPPED = ((32, 32, 4, 32), (375, 500, 0, 224))
BOXES = 100_000


@compares("augmentation", f"boxes of the resized crop, statistics of {BOXES:,}", tolerance=0.005)
def resized_crop() -> Values:
    values: Values = {"statistics": list(STATISTICS)}
    for number, (height, width, pad, side) in enumerate(CROPPED):
        rows = words(40 + number, BOXES * 8).reshape(BOXES, 8)
        boxes = Augmentation(pad=pad, crop="resized").boxes(rows, (height, width), (side, side))
        values[f"{height}x{width}"] = box_statistics(boxes[:, :4], height + 2 * pad, width + 2 * pad)
    return values


STATISTICS = (
    "mean area",
    "share of areas below 0.2",
    "share of areas above 0.9",
    "share that spans a side",
    "mean log of width / height",
    "mean magnitude of that",
    "mean height",
    "mean width",
    "mean vertical centre",
    "mean horizontal centre",
)


def box_statistics(boxes: NDArray[np.int64], height: int, width: int) -> list[float]:
    """`STATISTICS` of boxes (top, left, height, width) in images of a size, in units of the image."""
    top, left, rows, columns = boxes.T.astype(np.float64)
    area, aspect = rows * columns / (height * width), np.log(columns / rows)
    full = (rows == height) | (columns == width)
    means = (area, area < 0.2, area > 0.9, full, aspect, np.abs(aspect), rows / height, columns / width)
    return [float(values.mean()) for values in (*means, (top + rows / 2) / height, (left + columns / 2) / width)]


# Architectures


def generic(stream: int, *shape: int) -> Tensor:
    """Weights float64, uniform on ±√6/√fan_in, of 24 random bits each: no sums of them coincide.

    (Sums of quantised weights do, and where BatchNorm then gives 0, the sign of a binary activation is one of rounding.)
    """
    units = (words(stream, math.prod(shape)) >> 8).astype(np.float64) / 2**23 - 1
    return torch.from_numpy(units * math.sqrt(6 / math.prod(shape[1:]))).view(shape)


def outputs_of(network: Network) -> Values:
    """Numbers of weights of the convolutions and linear layers, and outputs for a batch, with `generic` weights."""
    model = network.build().double().train()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for stream, module in enumerate(layers):
        module.weight.data = generic(100 + stream, *module.weight.shape)
    images, _ = batch(0, side=network.side)
    with torch.no_grad():
        logits = model(images)
    sizes = [module.weight.numel() for module in layers]
    return {"weights": sum(sizes), "layers": sizes, "outputs": sample(logits)}


def _enter_networks(recorded: Mapping[str, Any]) -> None:
    for repository, networks in NETWORKS.items():
        for network in networks:
            name = network_id(repository, network)
            weights = recorded.get(name, {}).get("values", {}).get("weights", 0)
            what = f"weights and outputs of {network.theirs}"
            if network.width != 1:
                what += f" × {network.width}"
            COMPARISONS[name] = Comparison(
                f"model {network.name}",
                f"{what}, {network.side} pixels",
                lambda network=network: outputs_of(network),  # type: ignore[misc]
                tolerance=1e-9,
                slow=weights > QUICK_WEIGHTS,
            )


# Recipes

_RECYCLED = "their files differ from network to network; ours are those for Biprop on the same network"
#: Settings that are meant to differ from the authors' files, with the reason.
MEANT: dict[tuple[str, str], str] = {
    ("cifar10-conv6-recycling", "subnetwork.recycle.every"): _RECYCLED,
    ("cifar10-conv6-recycling", "subnetwork.recycle.rate"): _RECYCLED,
    ("cifar10-resnet18-recycling", "train.epochs"): "250 are those of their later files for this network",
}


#: What the absence of a setting stands for.
DEFAULTS = {"model.activation": "relu", "model.bias": False, "train.optimizer": "sgd"}


# Comparing


@dataclass
class Difference:
    """What two structures of values differ in."""

    floats: float = 0.0
    integers: int = 0
    other: str = ""


def difference(ours: Any, theirs: Any, where: str = "") -> Difference:
    """Compare two structures; floats of a list are taken relative to the largest of it."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping) and set(ours) == set(theirs):
        return _joined([difference(ours[key], theirs[key], f"{where} {key}".strip()) for key in theirs])
    if isinstance(theirs, list) and isinstance(ours, list) and len(ours) == len(theirs):
        if any(isinstance(value, float) for value in theirs):
            largest = max(abs(value) for value in theirs) or 1.0
            return Difference(floats=max(abs(a - b) / largest for a, b in zip(ours, theirs, strict=True)))
        return _joined([difference(a, b, where) for a, b in zip(ours, theirs, strict=True)])
    if isinstance(theirs, float) and isinstance(ours, float):
        return Difference(floats=abs(ours - theirs) / (abs(theirs) or 1.0))
    if str(theirs).startswith("0x") and str(ours).startswith("0x") and len(ours) == len(theirs):
        return Difference(integers=(int(ours, 16) ^ int(theirs, 16)).bit_count())
    if isinstance(theirs, int) and isinstance(ours, int):
        return Difference(integers=abs(ours - theirs))
    return Difference() if ours == theirs else Difference(other=where or "structure")


def _joined(differences: Sequence[Difference]) -> Difference:
    names = list(dict.fromkeys(one.other for one in differences if one.other))
    return Difference(
        floats=max((one.floats for one in differences), default=0.0),
        integers=max((one.integers for one in differences), default=0),
        other=", ".join(names),
    )


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    method: str
    what: str
    agreement: str
    source: str
    agrees: bool


def compare(name: str, recorded: Mapping[str, Any]) -> Row:
    """Compute our values of a comparison, and say how far they agree with those that were recorded."""
    comparison, entry = COMPARISONS[name], recorded[name]
    try:
        found = difference(comparison.ours(), entry["values"])
    except IterandError as error:
        found = Difference(other=str(error))
    exact = found == Difference()
    agrees = not found.other and found.floats <= comparison.tolerance and found.integers <= comparison.within
    if comparison.by_design:
        agrees, text = not exact, "" if exact else f"differs by design: {comparison.by_design}"
        text = text or "DIFFERS NO LONGER: say so here and in docs/METHODS.md"
    elif not agrees:
        text = "DIFFERS: " + (found.other or f"by {found.integers or found.floats:.1e}")
    elif exact:
        text = "exactly" if comparison.tolerance or comparison.within else "bit for bit"
    else:
        text = f"to {found.floats:.1e}" if found.floats else f"to {found.integers} weight"
    return Row(name, comparison.method, comparison.what, text, entry["source"], agrees)


def read_recorded() -> Any:
    """What `authors_record.py` wrote; enters the comparisons of architectures."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    _enter_networks(recorded["comparisons"])
    return recorded


def compare_recipe(name: str, recorded: Mapping[str, Any]) -> list[Row]:
    """A row for each setting of a recipe, or with ``dense`` in front, of its settings for dense training."""
    entry, recipe = recorded[name], name.removeprefix("dense ")
    method = {"subnetwork": {"method": "dense"}} if recipe != name else {}
    settings, found = flattened(load_recipe(recipe, **method).model_dump()), []
    for key, theirs in entry["settings"].items():
        ours, reason = settings.get(key), MEANT.get((name, key))
        ours = DEFAULTS.get(key) if ours is None else list(ours) if isinstance(ours, tuple) else ours
        text = "the same" if ours == theirs else f"theirs {theirs}" + (f": {reason}" if reason else "")
        found.append(
            Row(name, f"recipe {name}", f"{key} = {ours}", text, entry["source"], ours == theirs or bool(reason))
        )
    return found


def rows(*, quick: bool = False, only: str = "") -> list[Row]:
    """All comparisons, and all settings of recipes."""
    recorded = read_recorded()
    found = [
        compare(name, recorded["comparisons"])
        for name, comparison in COMPARISONS.items()
        if only in name and not (quick and comparison.slow)
    ]
    for name in recorded["recipes"]:
        found += compare_recipe(name, recorded["recipes"]) if only in name else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the largest networks")
    parser.add_argument("--only", default="", help="comparisons and recipes with this in their name")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = rows(quick=args.quick, only=args.only)
    table = Table("method", "compared", "agreement", "source")
    for row in found:
        table.add_row(row.method, row.what, row.agreement, row.source, style="" if row.agrees else "bold red")
    Console(width=200).print(table)
    failed = [row for row in found if not row.agrees]
    print(f"{len(found) - len(failed)} of {len(found)} agree or differ by design")
    save({"environment": environment(), "rows": [row.__dict__ for row in found]}, args.json)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
