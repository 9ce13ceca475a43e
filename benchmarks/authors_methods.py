"""Our side of the comparisons of `authors.py`: one function for each, under the name that its recorded values have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from authors_inputs import (
    BOXES,
    CROPPED,
    EDGE_POPUP_SPARSITIES,
    ITERAND_SPARSITIES,
    NETWORKS,
    PRUNED,
    RECYCLING_EPOCHS,
    ROUNDS,
    RUNS,
    SEED,
    SIZES,
    STATISTICS,
    STEPS,
    Network,
    Values,
    batch,
    bits,
    box_statistics,
    digest,
    distinct,
    generic,
    layer,
    layer_sizes,
    network_id,
    normalised,
    prunable,
    sample,
    search,
    shift,
    small_integers,
    state_of,
    with_scores,
    words,
)
from torch import Tensor, nn
from torch.nn import functional as F

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
    prune_at_init,
)
from iterand_compress.compress.config import Recycle, Resample
from iterand_compress.compress.data.augment import Augmentation
from iterand_compress.compress.mask.layers import masked_layers, pruned_layers
from iterand_compress.compress.mask.sparsity import Allocation
from iterand_compress.compress.mask.topk import kept_count
from iterand_compress.compress.methods import grasp, snip, synflow
from iterand_compress.compress.methods.iterand import resampling_event
from iterand_compress.compress.methods.recycling import recycling_is_due
from iterand_compress.compress.models.activation import BinaryActivation
from iterand_compress.compress.training.optimizer import make_optimizer
from iterand_compress.compress.training.schedule import learning_rate


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
    return {str(p): [kept_count(n, p, "") for n in layer_sizes(*network)] for p, network in SIZES.items()}


@compares(
    "iterand",
    "number of kept weights where all scores are equal",
    by_design="theirs keeps every weight at the threshold; ours the first ones, so that each mask has its number",
)
def iterand_ties() -> Values:
    subnet = Subnetwork(layer(), IteRand())
    ((_, masked, scores),) = masked_layers(subnet.model)
    return {"kept": int(masked.mask(torch.zeros_like(scores)).sum())}


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


#: Between processors, of the runs of Conv-6: at most 1e-9 on an AMD EPYC, 5.2e-5 on an Intel Xeon, with the same masks.
#: Sums of small integers and weights of one magnitude tie there, and rounding decides: in IteRand's run, 140 pooled
#: windows have two largest positive sums within 1e-10 of each other, 81 of these unequal, and 66 inputs of ReLU are
#: roundings of 0.
PROCESSORS = 2e-4
RUN = f"masks, scores and random weights after {STEPS} steps of SGD"


@compares("iterand", RUN + ": Conv-6 × 0.125, K_per 5", tolerance=PROCESSORS)
def iterand_run_conv6() -> Values:
    subnet = search(RUNS["iterand_conv6"].build(), IteRand(seed=SEED, every=5, rate=0.1))
    return trained(subnet, TrainConfig(lr=0.3, momentum=0.9, weight_decay=1e-4))


@compares("iterand", RUN + ": ResNet-18 × 0.125, K_per 5", tolerance=1e-9, slow=True)
def iterand_run_resnet18() -> Values:
    subnet = search(RUNS["iterand_resnet18"].build(), IteRand(seed=SEED, every=5, rate=0.1))
    return trained(subnet, TrainConfig(lr=0.1, momentum=0.9, weight_decay=5e-4))


# Edge-popup


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


@compares("edge-popup", RUN + ": Conv-6 × 0.125", tolerance=PROCESSORS)
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
    return _from_sample(Snip(PRUNED, seed=SEED, eval_mode=True), snip.scores)


@compares("grasp", "scores and masks, BatchNorm in evaluation mode, as is their default", tolerance=1e-8)
def grasp_scores_in_evaluation() -> Values:
    return _from_sample(Grasp(PRUNED, seed=SEED, eval_mode=True), grasp.scores)


def _from_sample(config: SubnetworkConfig, criterion: Callable[..., list[Tensor | None]]) -> Values:
    images, labels = batch(0, 20, 16)
    pruned, _ = _pruned(config)
    prune_at_init(pruned, (images, labels))
    subnet, weights = _pruned(config)
    for _, weight, _ in pruned_layers(subnet.model):
        weight.set_mask(torch.ones_like(weight.mask))
    assert config.prune is not None
    subnet.model.train(not config.prune.eval_mode)
    scores = criterion(subnet.model(images), labels, weights)
    return {"masks": _masks(pruned), "scores": normalised([score for score in scores if score is not None])}


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


@compares("augmentation", f"boxes of the resized crop, statistics of {BOXES:,}", tolerance=0.005)
def resized_crop() -> Values:
    values: Values = {"statistics": list(STATISTICS)}
    for number, (height, width, pad, side) in enumerate(CROPPED):
        rows = words(40 + number, BOXES * 8).reshape(BOXES, 8)
        boxes = Augmentation(pad=pad, crop="resized").boxes(rows, (height, width), (side, side))
        values[f"{height}x{width}"] = box_statistics(boxes[:, :4], height + 2 * pad, width + 2 * pad)
    return values


# Architectures


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


for _repository, _networks in NETWORKS.items():
    for _network in _networks:
        COMPARISONS[network_id(_repository, _network)] = Comparison(
            f"model {_network.name}",
            f"weights and outputs of {_network.theirs}"
            + (f" × {_network.width}" if _network.width != 1 else "")
            + f", {_network.side} pixels",
            partial(outputs_of, _network),
            tolerance=1e-9,
            slow=not _network.small,
        )
