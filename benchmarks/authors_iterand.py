"""What IteRand's code gives; see `authors_record.py`."""

from __future__ import annotations

import math
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_checkouts import give, imports, own_layers, quietly, records, train_step, with_distinct
from authors_inputs import (
    ITERAND_SPARSITIES,
    RUNS,
    SEED,
    SIZES,
    STEPS,
    Network,
    Values,
    bits,
    digest,
    layer,
    layer_sizes,
    small_integers,
    state_of,
)
from torch import Tensor, nn

from iterand_compress import IteRand
from iterand_compress.compress.config import Resample
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seed.philox_torch import resampling_decisions

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


@records("iterand", f"{IN_SPARSE}: percentile, GetSubnet, SparseConv2d")
def iterand_mask(folder: Path) -> Values:
    values: Values = {}
    for sparsity in ITERAND_SPARSITIES:
        conv, module = _sparse_conv(folder, conv_sparsity=sparsity)
        with_distinct(conv, IteRand(seed=SEED))
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


@records("iterand", f"{IN_SPARSE}: percentile, GetSubnet")
def iterand_ties(folder: Path) -> Values:
    conv, _ = _sparse_conv(folder)
    conv.weight_score.data.zero_()
    return {"kept": int(conv.get_subnet().sum())}


@records("iterand", f"{IN_SPARSE}: GetSubnet.backward, SparseConv2d")
def iterand_gradient(folder: Path) -> Values:
    conv, _ = _sparse_conv(folder)
    with_distinct(conv, IteRand(seed=SEED))
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
    with_distinct(conv, IteRand(seed=SEED))
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


def iterand_network(folder: Path, network: Network) -> nn.Module:
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
    model = iterand_network(folder, network).double()
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
        train_step(model, optimizer, step)
    return state_of(
        [_iterand_mask(module) for module in modules],
        [module.weight_score for module in modules],
        [module.weight for module in modules],
    )


@records("iterand", "models/networks/convs.py: Conv6; models/supervised_learning.py: _get_optimizer")
def iterand_run_conv6(folder: Path) -> Values:
    return _iterand_run(folder, RUNS["iterand_conv6"], 0.3, 1e-4)


@records("iterand", "models/networks/resnet.py: ResNet; models/supervised_learning.py: _get_optimizer")
def iterand_run_resnet18(folder: Path) -> Values:
    return _iterand_run(folder, RUNS["iterand_resnet18"], 0.1, 5e-4)
