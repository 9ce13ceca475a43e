"""Record what the authors' code gives on the inputs of `authors.py`: writes `results/authors.json`.

    python benchmarks/authors_record.py FOLDER

FOLDER holds checkouts of the repositories below, at the commits in `REPOSITORIES`, each in a folder of its name. Needs
PyYAML. Their code runs as it is, except that

* `args`, which parses the command line when it is imported, is replaced by a namespace with the settings;
* functions that cannot be imported (training scripts, GPU kernels beside them) are compiled from their files alone;
* `torch._utils._accumulate`, which torch no longer has, is `itertools.accumulate`;
* `torch.bernoulli` and the initialisation of redrawn weights return our numbers, since no other generator is replayed;
* IteRand's loop over epochs calls a learner that only counts steps;
* it runs on a CPU, in float64 where the comparison says so.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from authors import RECORDED
from authors_inputs import (
    BOXES,
    CROPPED,
    EDGE_POPUP_SPARSITIES,
    ITERAND_SPARSITIES,
    NETWORKS,
    PRUNED,
    RECYCLING_EPOCHS,
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
    sample,
    search,
    shift,
    small_integers,
    state_of,
)
from torch import Tensor, nn
from torch.nn import functional as F

from common import environment
from iterand_compress import Biprop, EdgePopup, IteRand, Subnetwork, SubnetworkConfig
from iterand_compress.compress.config import Resample
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seed.philox_torch import resampling_decisions

REPOSITORIES = {
    "iterand": ("dchiji-ntt/iterand", "90e0862269ba12df2c824d3f3b694b2b1ae02838"),
    "hidden-networks": ("allenai/hidden-networks", "dddf2d093de568fc76d460a77fa2650e56e79c1a"),
    "biprop": ("chrundle/biprop", "f709fc530f77961c001a51e3d7e4bb5cb0fd41bc"),
    "parameter_tiling_and_recycling": (
        "mattgorb/parameter_tiling_and_recycling",
        "c55e976a8cb2b0c783f73a0310965bfe9d333053",
    ),
    "Synaptic-Flow": ("ganguli-lab/Synaptic-Flow", "9dfa57aa4012c34028ee646d367f18e32f0e3bc7"),
    "torchvision": ("pytorch/vision", "the installed release"),
}
#: The recordings: name -> (repository, file and function, function).
RECORDINGS: dict[str, tuple[str, str, Callable[[Path], Values]]] = {}
#: What the settings that their modules ask for are without a command line.
ARGUMENTS = {
    "conv_type": "SubnetConv",
    "bn_type": "NonAffineBatchNorm",
    "first_layer_type": None,
    "first_layer_dense": False,
    "last_layer_dense": False,
    "init": "signed_constant",
    "mode": "fan_in",
    "nonlinearity": "relu",
    "scale_fan": False,
    "prune_rate": 0.5,
    "width_mult": 1.0,
    "num_classes": 1000,
    "score_init_constant": None,
    "debug": False,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "nesterov": False,
    "no_bn_decay": False,
    "warmup_length": 0,
    "epochs": 100,
}


def records(repository: str, where: str) -> Callable[[Callable[[Path], Values]], Callable[[Path], Values]]:
    """Enter a function under its name, which is that of the comparison."""

    def enter(theirs: Callable[[Path], Values]) -> Callable[[Path], Values]:
        RECORDINGS[theirs.__name__] = (repository, where, theirs)
        return theirs

    return enter


@contextlib.contextmanager
def imports(folder: Path, **arguments: Any) -> Iterator[types.SimpleNamespace]:
    """Import from a checkout inside the block, with these settings instead of a command line."""
    before, path = set(sys.modules), list(sys.path)
    torch._utils._accumulate = itertools.accumulate
    settings = types.SimpleNamespace(**{**ARGUMENTS, **arguments})
    module = types.ModuleType("args")
    module.args = settings
    sys.modules["args"] = module
    sys.path.insert(0, str(folder))
    try:
        yield settings
    finally:
        sys.path[:] = path
        own = str(folder)
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or str(
                list(getattr(sys.modules[name], "__path__", [""]))[:1]
            )
            if own in origin or name == "args":
                del sys.modules[name]


def extract(path: Path, names: Sequence[str], **namespace: Any) -> types.SimpleNamespace:
    """Functions and classes of a file that cannot be imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if getattr(node, "name", None) in names]
    space = {"torch": torch, "nn": nn, "F": F, "math": math, "autograd": torch.autograd, "np": np, **namespace}
    exec(compile(ast.Module(nodes, []), str(path), "exec"), space)
    return types.SimpleNamespace(**{name: space[name] for name in names})


def block(path: Path, condition: str, body: str = "") -> Any:
    """The first `if` statement of a file whose condition and body contain these texts, compiled."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.If)]
    node = next(n for n in nodes if condition in ast.unparse(n.test) and body in ast.unparse(n))
    return compile(ast.Module([node], []), str(path), "exec")


def own_layers(
    config: SubnetworkConfig, model: nn.Module, start: Callable[..., Subnetwork] = Subnetwork
) -> list[tuple[Any, Tensor, Tensor]]:
    """Parametrization, random weights and first scores of our masked layers, in their shapes."""
    subnet = start(model, config)
    return [
        (masked, masked.random.view(masked.spec.shape), scores.detach().view(masked.spec.shape))
        for _, masked, scores in masked_layers(subnet.model)
    ]


def scored(model: nn.Module) -> list[nn.Module]:
    """Their layers with scores, in the order of their definition."""
    return [module for module in model.modules() if hasattr(module, "scores") or hasattr(module, "weight_score")]


def scores_of(module: nn.Module) -> nn.Parameter:
    found: Any = getattr(module, "weight_score", None)
    return found if found is not None else module.scores


def give(model: nn.Module, layers: Sequence[tuple[Any, Tensor, Tensor]]) -> list[nn.Module]:
    """Let their layers start from our weights and scores."""
    theirs = scored(model)
    assert len(theirs) == len(layers), (len(theirs), len(layers))
    for module, (_, weight, scores) in zip(theirs, layers, strict=True):
        own: Any = module.weight
        assert own.numel() == weight.numel(), (own.shape, weight.shape)
        own.data = weight.clone().view(own.shape).to(own.dtype)
        own.requires_grad = False
        scores_of(module).data = scores.clone().view(own.shape).to(own.dtype)
    return theirs


def quietly(function: Callable[[], Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return function()


# IteRand

IN_SPARSE = "models/networks/sparse_modules.py"
ITERAND_SETTINGS = {
    "conv_sparsity": 0.5,
    "linear_sparsity": None,
    "init_mode": "signed_constant",
    "init_mode_linear": None,
    "init_mode_mask": "kaiming_uniform",
    "init_scale": 1.0,
    "init_scale_score": 1.0,
    "rerand_rate": 1.0,
    "bn_momentum": 0.1,
    "bn_track_running_stats": True,
    "bn_affine": False,
}


def _sparse_conv(folder: Path, **settings: Any) -> tuple[Any, Any]:
    with imports(folder):
        from models.networks import sparse_modules

        return sparse_modules.SparseConv2d(
            16, 32, kernel_size=3, bias=False, cfg={**ITERAND_SETTINGS, **settings}
        ), sparse_modules


def _with_distinct(module: nn.Module, config: SubnetworkConfig) -> Tensor:
    """Our weights of one layer and distinct scores."""
    ((_, weight, _),) = own_layers(config, layer())
    module.weight.data = weight.clone()
    scores_of(module).data = distinct(0, weight.numel()).view_as(weight)
    return weight


@records("iterand", f"{IN_SPARSE}: percentile, GetSubnet, SparseConv2d")
def iterand_mask(folder: Path) -> Values:
    values: Values = {}
    for sparsity in ITERAND_SPARSITIES:
        conv, module = _sparse_conv(folder, conv_sparsity=sparsity)
        _with_distinct(conv, IteRand(seed=SEED))
        mask = conv.get_subnet().detach()
        values[str(sparsity)] = {
            "mask": bits(mask),
            "threshold": module.percentile(conv.weight_score, 100 * sparsity),
            "weight": digest(conv.weight * mask),
        }
    return values


@records("iterand", f"{IN_SPARSE}: percentile, GetSubnet")
def iterand_kept(folder: Path) -> Values:
    module = _sparse_conv(folder)[1]
    return {
        str(p): [
            int(module.GetSubnet.apply(torch.arange(n).float(), p, torch.zeros(n), torch.ones(n)).sum())
            for n in layer_sizes(*network)
        ]
        for p, network in SIZES.items()
    }


@records("iterand", f"{IN_SPARSE}: GetSubnet.backward, SparseConv2d")
def iterand_gradient(folder: Path) -> Values:
    conv, _ = _sparse_conv(folder)
    _with_distinct(conv, IteRand(seed=SEED))
    (conv.weight * conv.get_subnet() * small_integers(1, 32, 16, 3, 3)).sum().backward()
    return {"gradient": digest(conv.weight_score.grad)}


@records("iterand", f"{IN_SPARSE}: SparseModule.init_param_; the largest of 1.3 million")
def iterand_start(folder: Path) -> Values:
    torch.manual_seed(0)
    with imports(folder):
        from models.networks.sparse_modules import SparseConv2d

        constant, uniform = (
            SparseConv2d(16, 9000, kernel_size=3, bias=False, cfg={**ITERAND_SETTINGS, "init_mode": mode})
            for mode in ("signed_constant", "kaiming_uniform")
        )
    return {
        "signed constant": float(constant.weight.detach().abs().max()),
        "uniform": float(uniform.weight.detach().abs().max()),
        "scores": float(constant.weight_score.detach().abs().max()),
    }


@records("iterand", "commands/train.py: train, rerand_callback")
def iterand_events(folder: Path) -> Values:
    values: Values = {}
    with imports(folder), tempfile.TemporaryDirectory() as out:
        sys.modules["commands.parallel"] = types.ModuleType("commands.parallel")
        sys.modules["commands.parallel"].parallel = None
        import commands.train as theirs

        class Learner:
            """Counts steps, 250 an epoch."""

            def __init__(self, *_: Any) -> None:
                self.model = types.SimpleNamespace(
                    named_parameters=lambda: [("w", torch.zeros(1))],
                    rerandomize=lambda *_: self.seen.append(self.step),
                    state_dict=dict,
                )
                self.seen: list[int] = []
                self.optimizer = self.scheduler = types.SimpleNamespace(state_dict=dict)
                learners.append(self)

            def train(self, epoch: int, total: int, before_callback: Any) -> Values:
                for step in range(total, total + 250):
                    self.step = step
                    before_callback(self.model, epoch, step, 250)
                return {"moving_accuracy": 0.0, "per_iteration": [], "iterations": total + 250, "loss": 0.0}

            def evaluate(self) -> Values:
                return {"accuracy": 0.0}

        learners: list[Any] = []
        logger = types.SimpleNamespace(set_filename=lambda *_: None, add=lambda *_, **__: None, save=lambda: None)
        logger.filename = "none"
        theirs.SupervisedLearning, theirs.test = Learner, lambda *_, **__: None
        theirs.PDLogger = lambda: logger
        theirs.count_params = lambda _: {}
        for every in (300, 7):
            settings = {
                "seed": 1,
                "use_cuda": False,
                "output_dir": out,
                "force_restart": True,
                "learning_framework": "SupervisedLearning",
                "data_parallel": False,
                "load_checkpoint_path": None,
                "rerand_mode": "bernoulli",
                "rerand_freq": every,
                "rerand_freq_unit": "iteration",
                "rerand_lambda": 0.1,
                "rerand_mu": None,
                "epoch": 4,
                "print_train_loss": False,
                "save_best_model": False,
                "checkpoint_epochs": [],
            }
            quietly(lambda settings=settings: theirs.train("events", settings))
            values[str(every)] = learners[-1].seen
    return values


class Redraws:
    """Our random decisions and values in place of theirs, for their `rerandomize`."""

    def __init__(self, modules: Sequence[Any], specs: Sequence[Any], mask: Callable[[Any], Tensor]) -> None:
        self.modules, self.specs, self.mask = modules, specs, mask
        self.draws = [np.zeros(math.prod(spec.shape), np.uint8) for spec in specs]

    def event(self, number: int) -> None:
        """Redraw all layers, for the event of this number."""
        original = torch.bernoulli
        for module, spec, draws in zip(self.modules, self.specs, self.draws, strict=True):
            chosen = resampling_decisions(
                spec.seed, spec.tensor, number, Resample(rate=0.1).threshold, len(draws), torch.device("cpu")
            )
            codes = random_codes(
                spec.seed, spec.tensor, get_codebook(spec.codebook), 0, len(draws), draws + np.uint8(1)
            )
            fresh = torch.from_numpy(codes).float() * spec.scale
            draws += (chosen & ~self.mask(module)).numpy()

            def bernoulli(rates: Tensor, chosen: Tensor = chosen) -> Tensor:
                return chosen.view(rates.shape).to(rates.dtype)

            def init_param_(param: Tensor, fresh: Tensor = fresh, **_: Any) -> None:
                param.data = fresh.view(param.shape).to(param.dtype)

            module.init_param_, torch.bernoulli = init_param_, bernoulli
            try:
                module.rerandomize("bernoulli", 0.1, None)
            finally:
                torch.bernoulli = original


def _iterand_mask(module: Any) -> Tensor:
    """Their mask of a layer, bool, flat."""
    if hasattr(module, "get_subnet"):
        return module.get_subnet().detach().reshape(-1).bool()
    # SparseLinear has no such method: its output for the unit matrix is the pruned weight.
    with torch.no_grad():
        return module(torch.eye(module.weight.shape[1], dtype=module.weight.dtype)).T.reshape(-1) != 0


@records("iterand", f"{IN_SPARSE}: SparseConv2d.rerandomize, SparseModule.rerandomize_")
def iterand_redraw(folder: Path) -> Values:
    conv, _ = _sparse_conv(folder)
    ((masked, _, _),) = own_layers(IteRand(seed=SEED), layer())
    _with_distinct(conv, IteRand(seed=SEED))
    redraws, weights = Redraws([conv], [masked.spec], _iterand_mask), []
    for number in (1, 2, 3):
        redraws.event(number)
        weights.append(digest(conv.weight))
    return {"weights": weights}


@records("iterand", "utils/schedulers.py: CustomCosineLR; config.yaml: cifar10_sgd, imagenet_sgd")
def iterand_schedule(folder: Path) -> Values:
    with imports(folder):
        from utils.schedulers import CustomCosineLR

        def rates(lr: float, epochs: int, warmup: int, last: int, last_lr: float | None) -> list[float]:
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
            schedule, found = CustomCosineLR(optimizer, lr, epochs, warmup, last, last_lr), []
            for epoch in range(epochs):
                schedule.step(epoch=epoch)
                found.append(float(optimizer.param_groups[0]["lr"]))
            return found

        return {"cifar10": rates(0.3, 100, 0, 0, None), "imagenet": rates(0.1, 105, 5, 5, 1e-5)}


def _iterand_network(folder: Path, network: Network) -> nn.Module:
    with imports(folder):
        from models.networks import convs, resnet

        data = {"image_size": network.side, "num_channels": 3, "num_classes": network.classes}
        if network.theirs == "Conv6":
            return convs.Conv6(data, {"factor": network.width}, ITERAND_SETTINGS)
        blocks = {"ResNet18": [2, 2, 2, 2], "ResNet101": [3, 4, 23, 3]}.get(network.theirs, [3, 4, 6, 3])
        block_class = "BasicBlock" if network.theirs in ("ResNet18", "ResNet34") else "Bottleneck"
        model = {"block_class": block_class, "num_blocks": blocks, "factor": network.width}
        return resnet.ResNet(data, model, ITERAND_SETTINGS)


def _iterand_run(folder: Path, network: Network, lr: float, weight_decay: float) -> Values:
    model = _iterand_network(folder, network).double()
    layers = own_layers(IteRand(seed=SEED, rate=0.1), network.build())
    modules: list[Any] = give(model, layers)
    with imports(folder):
        from models.supervised_learning import SupervisedLearning
    for module in modules:
        for name in ("weight_zeros", "weight_ones", "weight_twin"):
            setattr(module, name, getattr(module, name).double())
    learner = object.__new__(SupervisedLearning)
    learner.model = model
    learner.cfg = {
        "optimizer": "SGD",
        "train_mode": "score_only",
        "lr": lr,
        "weight_decay": weight_decay,
        "sgd_momentum": 0.9,
    }
    optimizer = learner._get_optimizer()
    redraws = Redraws(modules, [masked.spec for masked, _, _ in layers], _iterand_mask)
    for step in range(STEPS):
        if (step + 1) % 5 == 0:  # see iterand_events
            redraws.event((step + 1) // 5)
        _train_step(model, optimizer, step)
    return state_of(
        [_iterand_mask(module) for module in modules],
        [module.weight_score for module in modules],
        [module.weight for module in modules],
    )


def _train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images, labels = batch(step)
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


@records("iterand", "models/networks/convs.py: Conv6; models/supervised_learning.py: _get_optimizer")
def iterand_run_conv6(folder: Path) -> Values:
    return _iterand_run(folder, RUNS["iterand_conv6"], 0.3, 1e-4)


@records("iterand", "models/networks/resnet.py: ResNet; models/supervised_learning.py: _get_optimizer")
def iterand_run_resnet18(folder: Path) -> Values:
    return _iterand_run(folder, RUNS["iterand_resnet18"], 0.1, 5e-4)


# hidden-networks


def _subnet_conv(folder: Path, kind: str = "SubnetConv", **arguments: Any) -> tuple[Any, Any]:
    with imports(folder, **arguments):
        from utils import conv_type

        return getattr(conv_type, kind)(16, 32, 3, bias=False), conv_type


@records("hidden-networks", "utils/conv_type.py: GetSubnet, SubnetConv")
def edge_popup_mask(folder: Path) -> Values:
    values: Values = {}
    for sparsity in EDGE_POPUP_SPARSITIES:
        conv, module = _subnet_conv(folder)
        _with_distinct(conv, EdgePopup(seed=SEED))
        mask = module.GetSubnet.apply(conv.clamped_scores, 1 - sparsity).detach()
        values[str(sparsity)] = {"mask": bits(mask), "weight": digest(conv.weight * mask)}
    return values


@records("hidden-networks", "utils/conv_type.py: GetSubnet")
def edge_popup_kept(folder: Path) -> Values:
    module = _subnet_conv(folder)[1]
    return {
        str(p): [int(module.GetSubnet.apply(torch.arange(n).float(), 1 - p).sum()) for n in layer_sizes(*network)]
        for p, network in SIZES.items()
    }


@records("hidden-networks", "utils/conv_type.py: GetSubnet.backward, SubnetConv.clamped_scores")
def edge_popup_gradient(folder: Path) -> Values:
    conv, module = _subnet_conv(folder)
    _with_distinct(conv, EdgePopup(seed=SEED))
    mask = module.GetSubnet.apply(conv.clamped_scores, 0.5)
    (conv.weight * mask * small_integers(1, 32, 16, 3, 3)).sum().backward()
    return {"gradient": digest(conv.scores.grad)}


def _constant(folder: Path, **arguments: Any) -> float:
    with imports(folder, **arguments):
        from utils.builder import get_builder

        return float(quietly(lambda: get_builder().conv3x3(16, 32)).weight.detach().abs().max())


@records(
    "hidden-networks",
    "utils/builder.py: Builder._init_conv; utils/conv_type.py: SubnetConv; the largest of 1.3 million",
)
def edge_popup_start(folder: Path) -> Values:
    torch.manual_seed(0)
    with imports(folder):
        from utils.conv_type import SubnetConv

        scores = SubnetConv(16, 9000, 3, bias=False).scores
    return {
        "plain": _constant(folder),
        "scale_fan": _constant(folder, scale_fan=True),
        "scores": float(scores.detach().abs().max()),
    }


@records("hidden-networks", "utils/builder.py: Builder._init_conv")
def edge_popup_scale_fan(folder: Path) -> Values:
    return {"scale": _constant(folder, scale_fan=True, prune_rate=0.2)}  # their prune_rate is the fraction kept


def _policy(folder: Path, name: str, **arguments: Any) -> list[float]:
    with imports(folder, **arguments) as settings:
        from utils.schedulers import get_policy

        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.lr)
        policy = get_policy(name)(optimizer, settings)
        return [float(policy(epoch, iteration=None)) for epoch in range(settings.epochs)]


@records("hidden-networks", "utils/schedulers.py: cosine_lr, multistep_lr")
def edge_popup_schedule(folder: Path) -> Values:
    return {
        "cifar10": _policy(folder, "cosine_lr"),
        "imagenet": _policy(folder, "cosine_lr", lr=0.256, warmup_length=5),
        "steps": _policy(folder, "multistep_lr", lr_gamma=0.1, lr_adjust=30),
    }


@records("hidden-networks", "main.py: get_optimizer")
def edge_popup_optimizers(folder: Path) -> Values:
    theirs = extract(folder / "main.py", ["get_optimizer"])
    values: Values = {}
    for name in ("sgd", "adam"):
        settings = types.SimpleNamespace(**{**ARGUMENTS, "optimizer": name})
        groups = quietly(lambda settings=settings: theirs.get_optimizer(settings, nn.Linear(2, 2))).param_groups
        values[name] = {
            key: sorted({float(group.get(key, 0)) for group in groups}) for key in ("lr", "momentum", "weight_decay")
        }
    return values


@records("hidden-networks", "utils/net_utils.py: LabelSmoothing")
def edge_popup_smoothing(folder: Path) -> Values:
    theirs = extract(folder / "utils" / "net_utils.py", ["LabelSmoothing"])
    return {"loss": float(theirs.LabelSmoothing(0.1)(small_integers(5, 8, 10), batch(0)[1]))}


def _built(folder: Path, network: Network, **arguments: Any) -> nn.Module:
    with imports(folder, width_mult=network.their_width or network.width, **arguments) as settings:
        import models

        model = quietly(lambda: getattr(models, network.theirs)())
        for module in scored(model):
            module.set_prune_rate(settings.prune_rate)
        return model


def _popup_run(folder: Path, network: Network, config: SubnetworkConfig, optimizer_name: str) -> Values:
    bn_type = "AffineBatchNorm" if network.affine else "NonAffineBatchNorm"
    model = _built(folder, network, bn_type=bn_type).double()
    modules: list[Any] = give(model, own_layers(config, network.build(), search))
    if network.affine:
        shift(model)
    names = type(modules[0]).forward.__globals__
    if config.binarise:
        # α in float32, as it would be where all is float32, and not only what follows is float64.
        exact = names["GetQuantnet_binary"].forward
        names["GetQuantnet_binary"].forward = staticmethod(lambda *arguments: exact(*arguments).float().double())
    settings = types.SimpleNamespace(**{**ARGUMENTS, "optimizer": optimizer_name})
    theirs = extract(folder / "main.py", ["get_optimizer"])
    optimizer = quietly(lambda: theirs.get_optimizer(settings, model))
    for step in range(STEPS):
        _train_step(model, optimizer, step)
    masks = []
    for module in modules:
        if config.binarise:
            mask = names["GetQuantnet_binary"].apply(module.clamped_scores, module.weight, 0.5) > 0
        else:
            mask = names["GetSubnet"].apply(module.clamped_scores, 0.5)
        masks.append(mask.detach())
    return state_of(masks, [module.scores for module in modules], [module.weight for module in modules])


@records("hidden-networks", "models/frankle.py: Conv6Wide; utils/conv_type.py: SubnetConv; main.py: get_optimizer")
def edge_popup_run(folder: Path) -> Values:
    return _popup_run(folder, RUNS["edge_popup_conv6"], EdgePopup(seed=SEED), "sgd")


# Biprop


@records("biprop", "utils/conv_type.py: GetQuantnet_binary, SubnetConv")
def biprop_weight(folder: Path) -> Values:
    values: Values = {}
    for sparsity in EDGE_POPUP_SPARSITIES:
        conv, module = _subnet_conv(folder)
        _with_distinct(conv, Biprop(sparsity, seed=SEED, distribution="normal"))
        quantised = module.GetQuantnet_binary.apply(conv.clamped_scores, conv.weight, 1 - sparsity).detach()
        weight = conv.weight.detach().sign() * quantised
        values[str(sparsity)] = {
            "mask": bits(quantised > 0),
            "signs": digest(weight.sign()),
            "alpha": float(weight.abs().max()),
        }
    return values


@records("biprop", "utils/conv_type.py: GetQuantnet_binary.backward, SubnetConv")
def biprop_gradient(folder: Path) -> Values:
    conv, module = _subnet_conv(folder)
    _with_distinct(conv, Biprop(seed=SEED, distribution="normal"))
    quantised = module.GetQuantnet_binary.apply(conv.clamped_scores, conv.weight, 0.5)
    (conv.weight.sign() * quantised * small_integers(1, 32, 16, 3, 3)).sum().backward()
    return {"gradient": digest(conv.scores.grad)}


def _activation(folder: Path) -> Any:
    with imports(folder):
        from models.frankle import BiRealAct

        return BiRealAct()


@records("biprop", "models/frankle.py: F_BinAct")
def biprop_sign(folder: Path) -> Values:
    inputs = (small_integers(6, 1000) + 1 / 128).requires_grad_()
    outputs = _activation(folder)(inputs)
    outputs.backward(small_integers(7, 1000))
    assert inputs.grad is not None
    return {"outputs": digest(outputs), "gradient": digest(inputs.grad)}


@records("biprop", "models/frankle.py: F_BinAct")
def biprop_sign_of_zero(folder: Path) -> Values:
    return {"sign(0)": float(_activation(folder)(torch.zeros(1)))}


@records("biprop", "trainers/default.py: global_prune_threshold; utils/conv_type.py: GetGlobalSubnet")
def biprop_global(folder: Path) -> Values:
    theirs = extract(folder / "trainers" / "default.py", ["global_prune_threshold"])
    with imports(folder):
        from utils.conv_type import GetGlobalSubnet, GlobalSubnetConv

        model = nn.Sequential(GlobalSubnetConv(16, 32, 3, bias=False), GlobalSubnetConv(16, 16, 3, bias=False))
    plain = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.Conv2d(16, 16, 3, bias=False))
    modules: list[Any] = give(model, own_layers(Biprop(0.75, seed=SEED, distribution="normal", scope="global"), plain))
    joint = distinct(8, 4608 + 2304)
    modules[0].scores.data = joint[:4608].view(modules[0].weight.shape)
    modules[1].scores.data = (joint[4608:] * 0.75).view(modules[1].weight.shape)
    theirs.global_prune_threshold(model, types.SimpleNamespace(prune_rate=0.25))
    quantised = [GetGlobalSubnet.apply(m.clamped_scores, m.weight, m.prune_threshold).detach() for m in modules]
    return {"masks": [bits(q > 0) for q in quantised], "alpha": [float(q.max()) for q in quantised]}


@records("biprop", "main.py: main_worker, if args.conv_type == 'GlobalSubnetConv' and epoch < args.prune_rate_epoch")
def biprop_ramp(folder: Path) -> Values:
    code = block(folder / "main.py", "args.prune_rate_epoch")
    settings = types.SimpleNamespace(conv_type="GlobalSubnetConv", prune_rate_epoch=10, prune_rate=0.1)
    found = []
    for epoch in range(12):
        space = {"args": settings, "epoch": epoch, "final_prune_rate": 0.1}
        quietly(lambda space=space: exec(code, space))
        found.append(1 - settings.prune_rate)
    return {"sparsity": found}


@records("biprop", "models/frankle.py: Conv6Wide; utils/conv_type.py: SubnetConv; main.py: get_optimizer")
def biprop_run_conv6(folder: Path) -> Values:
    config = Biprop(seed=SEED, distribution="normal", scale_fan=True)
    return _popup_run(folder, RUNS["biprop_conv6"], config, "sgd")


@records("biprop", "models/frankle.py: Conv4Wide_BinAct; utils/conv_type.py: SubnetConv; main.py: get_optimizer")
def biprop_run_binary(folder: Path) -> Values:
    config = Biprop(seed=SEED, distribution="normal", scale_fan=True)
    return _popup_run(folder, RUNS["biprop_binary"], config, "adam")


# Weight Recycling


def _recycled(folder: Path, kind: str, subnet: str, config: SubnetworkConfig, rate: float) -> Values:
    theirs = extract(folder / "utils" / "layer_type.py", [kind, subnet])
    conv = getattr(theirs, kind)(16, 32, 3, bias=False)
    _with_distinct(conv, config)
    conv.args = types.SimpleNamespace(rerand_type="recycle", rerand_rate=rate, ablation=False)
    quietly(conv.rerandomize)
    return {"weights": digest(conv.weight)}


@records("parameter_tiling_and_recycling", "utils/layer_type.py: SubnetConvEdgePopup.rerandomize")
def recycling_pairs(folder: Path) -> Values:
    config = EdgePopup(seed=SEED, distribution="normal")
    return _recycled(folder, "SubnetConvEdgePopup", "GetSubnetEdgePopup", config, 0.2)


@records("parameter_tiling_and_recycling", "utils/layer_type.py: SubnetConvBiprop.rerandomize")
def recycling_pairs_of_biprop(folder: Path) -> Values:
    config = Biprop(seed=SEED, distribution="normal")
    return _recycled(folder, "SubnetConvBiprop", "GetQuantnet_binary", config, 0.1)


@records(
    "parameter_tiling_and_recycling",
    "main.py: main_worker, and with a warm-up main_parallel_peregrine.py: if args.rerand_epoch_freq is not None",
)
def recycling_epochs(folder: Path) -> Values:
    values: Values = {}
    for every, epochs, after in RECYCLING_EPOCHS:
        path = folder / ("main_parallel_peregrine.py" if after else "main.py")
        code = block(path, "rerand_epoch_freq is not None", "rerandomize_model(")
        seen: list[int] = []
        for epoch in range(epochs):
            settings = types.SimpleNamespace(rerand_epoch_freq=every, rerand_warmup=after, epochs=epochs)
            exec(
                code,
                {
                    "args": settings,
                    "epoch": epoch,
                    "model": None,
                    "torch": types.SimpleNamespace(cuda=types.SimpleNamespace(synchronize=lambda: None)),
                    "rerandomize_model": lambda *_, seen=seen, epoch=epoch: seen.append(epoch),
                },
            )
        values[f"every {every} of {epochs} after {after}"] = seen
    return values


# Pruning at initialisation

PRUNERS = "Pruners/pruners.py"


def _their_prunable(folder: Path) -> tuple[nn.Module, Any, list[Any]]:
    """`prunable` of their layers, in float64."""
    with imports(folder):
        from Layers import layers
        from Pruners import pruners
        from Utils import generator
    model = nn.Sequential(
        layers.Conv2d(3, 16, 3, padding=1, bias=False),
        layers.BatchNorm2d(16),
        nn.ReLU(),
        layers.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        layers.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        layers.Linear(128, 10, bias=False),
    ).double()
    for stream, module in enumerate((model[0], model[3], model[8])):
        weight: Any = module.weight
        weight.data = distinct(20 + stream, weight.numel()).view_as(weight).double() / 4
    return model, pruners, list(generator.masked_parameters(model))


def _pruned(folder: Path, kind: str, *, train: bool, rounds: int, kept: float) -> tuple[Any, list[Any]]:
    model, pruners, masked = _their_prunable(folder)
    pruner = getattr(pruners, kind)(masked)
    pruner.kept = []
    mask = pruner.mask

    def count(*arguments: Any) -> None:
        mask(*arguments)
        pruner.kept.append(int(pruner.stats()[0]))

    pruner.mask = count
    images, labels = batch(0, 20, 16)
    with imports(folder):
        prune_loop = extract(folder / "prune.py", ["prune_loop"], tqdm=lambda x: x).prune_loop
    loss = nn.CrossEntropyLoss()
    device = torch.device("cpu")
    if kind == "SynFlow":  # the ones that it feeds are float32
        score = pruner.score

        def in_float64(*arguments: Any) -> None:
            torch.set_default_dtype(torch.float64)
            try:
                score(*arguments)
            finally:
                torch.set_default_dtype(torch.float32)

        pruner.score = in_float64
    quietly(
        lambda: prune_loop(
            model, loss, pruner, [(images, labels)], device, kept, "exponential", "global", rounds, train_mode=train
        )
    )
    return pruner, masked


@records("Synaptic-Flow", f"{PRUNERS}: Mag, Pruner._global_mask; prune.py: prune_loop")
def magnitude_masks(folder: Path) -> Values:
    _, masked = _pruned(folder, "Mag", train=False, rounds=1, kept=1 - PRUNED)
    return {"masks": [bits(mask) for mask, _ in masked]}


def _scores(folder: Path, kind: str, *, train: bool) -> Values:
    pruner, masked = _pruned(folder, kind, train=train, rounds=1, kept=1 - PRUNED)
    return {
        "masks": [bits(mask) for mask, _ in masked],
        "scores": normalised([pruner.scores[id(parameter)] for _, parameter in masked]),
    }


@records("Synaptic-Flow", f"{PRUNERS}: SNIP; prune.py: prune_loop with train_mode")
def snip_scores(folder: Path) -> Values:
    return _scores(folder, "SNIP", train=True)


@records("Synaptic-Flow", f"{PRUNERS}: GraSP; prune.py: prune_loop with train_mode")
def grasp_scores(folder: Path) -> Values:
    return _scores(folder, "GraSP", train=True)


@records("Synaptic-Flow", f"{PRUNERS}: SNIP; prune.py: prune_loop")
def snip_scores_in_evaluation(folder: Path) -> Values:
    return _scores(folder, "SNIP", train=False)


@records("Synaptic-Flow", f"{PRUNERS}: GraSP; prune.py: prune_loop")
def grasp_scores_in_evaluation(folder: Path) -> Values:
    return _scores(folder, "GraSP", train=False)


@records("Synaptic-Flow", f"{PRUNERS}: SynFlow; prune.py: prune_loop")
def synflow_scores(folder: Path) -> Values:
    pruner, masked = _pruned(folder, "SynFlow", train=False, rounds=1, kept=1.0)
    return {"scores": normalised([pruner.scores[id(parameter)] for _, parameter in masked])}


@records("Synaptic-Flow", f"{PRUNERS}: SynFlow, Pruner.stats; prune.py: prune_loop, 100 rounds")
def synflow_rounds(folder: Path) -> Values:
    pruner, _ = _pruned(folder, "SynFlow", train=False, rounds=100, kept=0.1)
    return {"kept": pruner.kept}


@records("Synaptic-Flow", f"{PRUNERS}: SynFlow, Pruner._global_mask; prune.py: prune_loop, 100 rounds")
def synflow_masks(folder: Path) -> Values:
    _, masked = _pruned(folder, "SynFlow", train=False, rounds=100, kept=0.1)
    return {"masks": [bits(mask) for mask, _ in masked]}


# Augmentation


@records("torchvision", "transforms.RandomResizedCrop.get_params, as the authors of IteRand and of edge-popup use it")
def resized_crop(_: Path) -> Values:
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    values: Values = {}
    for height, width, pad, _ in CROPPED:
        rows, columns = height + 2 * pad, width + 2 * pad
        image = torch.zeros(1, rows, columns)
        boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4 * BOXES)]
        values["statistics"] = list(STATISTICS)
        values[f"{height}x{width}"] = box_statistics(np.array(boxes, np.int64), rows, columns)
    return values


# Architectures


def _outputs(folder: Path, repository: str, network: Network) -> Values:
    model = _iterand_network(folder, network) if repository == "iterand" else _built(folder, network)
    modules: list[Any] = scored(model)
    for stream, module in enumerate(modules):
        module.weight.data = generic(100 + stream, *module.weight.shape)
        module.forward = _plainly(module)
    model.double().train()
    images, _ = batch(0, side=network.side)
    with torch.no_grad():
        logits = model(images)
    if logits.shape[1] == 4 * network.classes:  # of ResNet-20 and 32, at 2 × 2 places
        logits = logits.view(len(logits), network.classes, 4).mean(-1)
    sizes = [module.weight.numel() for module in modules]
    return {"weights": sum(sizes), "layers": sizes, "outputs": sample(logits)}


def _plainly(module: Any) -> Callable[[Tensor], Tensor]:
    """A layer of theirs that keeps all weights."""
    if module.weight.dim() == 2:
        return lambda x: F.linear(x, module.weight)
    return lambda x: F.conv2d(x, module.weight, None, module.stride, module.padding)


# Recipes: their settings under our names


def _show(folder: Path, path: str, commit: str = "HEAD") -> str:
    """A file of a commit."""
    command = ["git", "-C", str(folder), "show", f"{commit}:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _iterand_recipe(folder: Path, section: str) -> Values:
    values = yaml.safe_load(_show(folder, "config.yaml"))
    settings = values[section]
    settings.update({key: choices[0] for key, choices in settings["parallel_grid"].items()})
    if section.startswith("figure2"):
        settings["model.config_name"] = section.split("_")[1]
    data, cifar = values[settings["dataset.config_name"]], settings["padding_before_crop"]
    dense = settings["train_mode"] == "normal"
    found = {
        "data.name": settings["dataset.config_name"],
        "data.validation": data["train_val_split"],
        "data.pad": 4 if cifar else 0,  # models/supervised_learning.py: _create_transform
        "data.crop": "resized",
        "data.flip": True,
        "model.name": settings["model.config_name"],
        "model.affine": settings["bn_affine"],
        "model.bias": dense,  # models/networks/sparse_modules.py; with scores, they stay 0
        "subnetwork.distribution": DISTRIBUTIONS[settings["init_mode"]],
        "train.epochs": settings["epoch"],
        "train.batch_size": settings["batch_size"],
        "train.optimizer": settings["optimizer"].lower(),
        "train.lr": settings["lr"],
        "train.momentum": settings["sgd_momentum"],
        "train.weight_decay": settings["weight_decay"],
        "train.label_smoothing": 0.0,
        "train.warmup_epochs": settings["warmup_epochs"],
        "train.cooldown_epochs": settings["finetuning_epochs"],
        "train.precision": "float32",
    }
    if cifar:  # ImageNet's constants, which are ours for ImageNet
        found |= {"data.mean": [0.485, 0.456, 0.406], "data.std": [0.229, 0.224, 0.225]}
    if not dense:
        found |= {
            "subnetwork.scale_fan": False,
            "subnetwork.sparsity": settings["conv_sparsity"],
            "subnetwork.selection.rule": "signed",
            "subnetwork.resample.every": settings["rerand_freq"],
            "subnetwork.resample.rate": settings["rerand_lambda"],
        }
    if settings["finetuning_epochs"]:
        found["train.cooldown_lr"] = settings["finetuning_lr"]
    return found


DISTRIBUTIONS = {"signed_constant": "signed-constant", "kaiming_normal": "normal", "kaiming_uniform": "uniform"}
#: Their names of architectures, without what says that activations are binary.
MODELS = {"cResNet": "resnet", "ResNet": "resnet", "WideResNet50_2": "wideresnet50-2", "VGG_Small": "vgg-small"}


def _popup_recipe(text: str, *, biprop: bool = False, **changes: Any) -> Values:
    """Settings of a configuration of hidden-networks, or of one of its descendants."""
    settings = {**yaml.safe_load(text), **changes}
    arch = settings["arch"].strip().removesuffix("_BinAct")
    prefix = next((prefix for prefix in MODELS if arch.startswith(prefix)), "")
    imagenet = settings["set"] == "ImageNet"
    found = {
        "data.name": settings["set"].lower(),
        "data.validation": 0.0,  # data/cifar.py, data/imagenet.py
        "data.pad": 0 if imagenet else 4,
        "data.crop": "resized" if imagenet else "shift",
        "data.flip": True,
        "model.name": MODELS[prefix] + arch.removeprefix(prefix) if prefix else arch.lower(),
        "model.affine": settings["bn_type"] != "NonAffineBatchNorm",
        "model.activation": "binary" if "_BinAct" in settings["arch"] else "relu",
        "model.bias": False,  # utils/builder.py
        "subnetwork.distribution": DISTRIBUTIONS[
            settings.get("init") or settings.get("weight_init") or "kaiming_normal"  # args.py
        ],
        "train.epochs": settings["epochs"],
        "train.batch_size": settings["batch_size"],
        "train.optimizer": settings["optimizer"],
        "train.lr": settings["lr"],
        "train.momentum": settings["momentum"],
        "train.weight_decay": settings["weight_decay"],
        "train.label_smoothing": settings.get("label_smoothing", 0.0),
        "train.warmup_epochs": settings.get("warmup_length", 0),
        "train.precision": "float32",
    }
    if settings.get("conv_type") != "DenseConv":
        found |= {
            "subnetwork.scale_fan": settings.get("scale_fan", False),
            "subnetwork.binarise": biprop or "Biprop" in settings["conv_type"],
            "subnetwork.selection.rule": "magnitude",
        }
    if settings["optimizer"] == "adam":  # which takes neither, see main.py: get_optimizer
        del found["train.momentum"], found["train.weight_decay"]
    if settings.get("rerand_type") == "recycle":
        found["subnetwork.recycle.every"] = settings["rerand_epoch_freq"]
        found["subnetwork.recycle.rate"] = settings["rerand_rate"]
    return found


ITERAND_RECIPES = {
    "cifar10-conv6": "figure2_conv6_sc_iterand",
    "cifar10-resnet18": "figure2_resnet18_sc_iterand",
    "cifar10-resnet34": "figure2_resnet34_sc_iterand",
    "imagenet-resnet34": "figure3_resnet34_sc_iterand",
    "imagenet-resnet50": "figure3_resnet50_sc_iterand",
    "imagenet-resnet101": "figure3_resnet101_sc_iterand",
    "dense cifar10-conv6": "figure2_conv6_ku_sgd",
    "dense cifar10-resnet18": "figure2_resnet18_ku_sgd",
    "dense cifar10-resnet34": "figure2_resnet34_ku_sgd",
    "dense imagenet-resnet34": "figure3_resnet34_ku_sgd",
}
#: Repository, file, and the commit that has it, where it was deleted later.
POPUP_RECIPES: dict[str, tuple[str, str, str]] = {
    "cifar10-conv6-edge-popup": ("hidden-networks", "configs/smallscale/conv6/conv6_usc_unsigned.yml", "HEAD"),
    "cifar10-resnet18-edge-popup": (
        "hidden-networks",
        "configs/smallscale/resnet18/resnet18-usc-unsigned.yaml",
        "HEAD",
    ),
    "imagenet-resnet50-edge-popup": (
        "hidden-networks",
        "configs/largescale/subnetonly/resnet50-usc-unsigned.yaml",
        "HEAD",
    ),
    "cifar10-conv6-biprop": ("biprop", "configs/smallscale/conv6/conv6_kn_unsigned.yml", "HEAD"),
    "cifar10-conv6-recycling": (
        "parameter_tiling_and_recycling",
        "configs/cifar10/conv6/conv-sc-epu-recycle.yaml",
        "ae297d71801f1f6fd98fc63f402fa2a9f94cc0b9",
    ),
    "cifar10-resnet18-recycling": (
        "parameter_tiling_and_recycling",
        "configs/cifar10/resnet18/r18-kn-biprop-recycle.yaml",
        "05c05d628ae046378153f49c6f965b18cd52aada",
    ),
    "dense cifar10-conv6-edge-popup": (
        "hidden-networks",
        "configs/smallscale_baselines/dense/conv6/conv6_sgd_baseline.yml",
        "HEAD",
    ),
    "dense cifar10-resnet18-edge-popup": (
        "hidden-networks",
        "configs/smallscale/resnet18/resnet18-dense.yaml",
        "HEAD",
    ),
    "dense imagenet-resnet50-edge-popup": (
        "hidden-networks",
        "configs/largescale/baselines/resnet50-dense.yaml",
        "HEAD",
    ),
}


def recipes(folder: Path) -> dict[str, Any]:
    """Settings of the authors' files, by the names of our recipes."""
    found = {
        name: {
            "source": f"dchiji-ntt/iterand: config.yaml: {section}",
            "settings": _iterand_recipe(folder / "iterand", section),
        }
        for name, section in ITERAND_RECIPES.items()
    }
    for name, (repository, path, commit) in POPUP_RECIPES.items():
        changes: Values = {}
        source = f"{REPOSITORIES[repository][0]}: {path}" + (f" at {commit[:7]}" if commit != "HEAD" else "")
        if repository == "biprop" and "smallscale/conv" in path:
            changes["epochs"] = 250
            source += "; epochs from mpt_cifar_script.sh at f5a1a5d"
        text = _show(folder / repository, path, commit)
        found[name] = {"source": source, "settings": _popup_recipe(text, biprop=repository == "biprop", **changes)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    before = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    for name, (_, commit) in REPOSITORIES.items():
        if (args.folder / name).exists():
            head = subprocess.run(
                ["git", "-C", args.folder / name, "rev-parse", "HEAD"], capture_output=True, text=True
            )
            assert head.stdout.strip() == commit, (name, head)
    comparisons: dict[str, Any] = {}
    jobs = {name: (repo, where, theirs) for name, (repo, where, theirs) in RECORDINGS.items()}
    for repository, networks in NETWORKS.items():
        for network in networks:
            jobs[network_id(repository, network)] = (
                repository,
                f"models: {network.theirs}",
                lambda folder, r=repository, n=network: _outputs(folder, r, n),
            )
    for name, (repository, where, theirs) in jobs.items():
        if args.only not in name:
            if name in before.get("comparisons", {}):
                comparisons[name] = before["comparisons"][name]
            continue
        print(name, flush=True)
        values = theirs(args.folder / repository)
        comparisons[name] = {"source": f"{REPOSITORIES[repository][0]}: {where}", "values": values}
    recorded = {
        "about": "What the authors' code gives on the inputs of benchmarks/authors.py; made by authors_record.py.",
        "repositories": dict(REPOSITORIES.values()),
        "environment": environment(),
        "edits": [line.strip() for line in (__doc__ or "").split("except that")[1].split("* ")[1:]],
        "comparisons": comparisons,
        "recipes": recipes(args.folder),
    }
    text = json.dumps(recorded, indent=1)
    # Lists of numbers on one line.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: "[" + re.sub(r",\s+", ", ", match[1]) + "]", text)
    RECORDED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
