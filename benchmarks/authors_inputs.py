"""What both sides compute from in `authors.py`, and what is recorded of large results.

Inputs are whole numbers from Philox, scaled by powers of 2: they have the same bits on any machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iterand_compress import Subnetwork, SubnetworkConfig
from iterand_compress.compress.data.order import permutation
from iterand_compress.compress.mask.layers import MaskedLayer, masked_layers
from iterand_compress.compress.models.architecture import Architecture
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.seed.philox import Purpose, random_words

SEED = 2026
Values = dict[str, Any]

# What is computed for

ITERAND_SPARSITIES = (0.3, 0.5, 0.8)
EDGE_POPUP_SPARSITIES = (0.25, 0.5, 0.75)
#: Networks whose layers have the sizes at which numbers of kept weights are compared, by the sparsity of the recipes.
SIZES = {0.5: ("conv6", "none"), 0.6: ("resnet18", "cifar"), 0.7: ("resnet50", "imagenet")}
STEPS = 20
#: (every, epochs of the run, epochs of waiting).
RECYCLING_EPOCHS = ((10, 250, 0), (10, 41, 0), (3, 20, 0), (10, 200, 50), (10, 100, 45))
PRUNED = 0.75
ROUNDS = range(1, 101)
#: (height, width, pixels of padding, sides of the result).
CROPPED = ((32, 32, 4, 32), (375, 500, 0, 224))
BOXES = 100_000


# Numbers


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


def generic(stream: int, *shape: int) -> Tensor:
    """Weights float64, uniform on ±√6/√fan_in, of 24 random bits each: no sums of them coincide.

    (Those of quantised weights do, and where BatchNorm then gives 0, rounding decides the sign of a binary activation.)
    """
    units = (words(stream, math.prod(shape)) >> 8).astype(np.float64) / 2**23 - 1
    return torch.from_numpy(units * math.sqrt(6 / math.prod(shape[1:]))).view(shape)


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

    @property
    def small(self) -> bool:
        """Whether its outputs are computed in a moment."""
        return self.stem == "none" and (self.width < 1 or self.name.startswith("resnet"))

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
        Network("Conv4Wide", "conv4", width=0.3),
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


def network_id(repository: str, network: Network) -> str:
    """The name of a comparison of architectures."""
    return f"{repository}:{network.theirs}@{network.side}"


def search(network: nn.Module, config: SubnetworkConfig) -> Subnetwork:
    """A subnetwork whose forward pass is in float64.

    Where α is a mean of magnitudes, they are made multiples of a power of 2, so that their sum is exact on both sides:
    the last digit of α changes a mask sooner or later, and then everything.
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


def prunable(layers: Any = nn) -> nn.Module:
    """What the criteria at initialisation are compared on: BatchNorm with scales, no biases in its layers.

    Args:
        layers: the module that has the layers with weights.
    """
    return nn.Sequential(
        layers.Conv2d(3, 16, 3, padding=1, bias=False),
        layers.BatchNorm2d(16),
        nn.ReLU(),
        layers.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        layers.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        layers.Linear(128, 10, bias=False),
    )


def shift(model: nn.Module) -> None:
    """Give BatchNorm distinct shifts, so that no binary activation has the input 0."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    for stream, module in enumerate(norms):
        module.bias.data = distinct(60 + stream, module.num_features).to(module.bias.dtype) / 4


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


def layer_sizes(name: str, stem: str) -> list[int]:
    """Numbers of weights of the layers of a network of ours, each once."""
    classes, side = (1000, 224) if stem == "imagenet" else (10, 32)
    model = build_model(Architecture(name, classes, 3, side, stem=stem), seed=0, device="meta")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return sorted({module.weight.numel() for module in layers})


# What is recorded of large results


def bits(mask: Tensor) -> str:
    """A mask in hexadecimal, eight entries a byte; of large ones the SHA-256 of these bytes."""
    packed = np.packbits(mask.reshape(-1).bool().numpy(), bitorder="little").tobytes()
    return "0x" + packed.hex() if mask.numel() <= 1024 else hashlib.sha256(packed).hexdigest()


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


def normalised(scores: Sequence[Tensor]) -> list[Values]:
    """Samples of scores whose magnitudes sum to 1 over all layers: only their order counts."""
    total = torch.stack([score.abs().sum() for score in scores]).sum()
    return [sample(score / total) for score in scores]


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
