"""How code of the authors is run in `authors_record.py`: imports from checkouts, and layers that start as ours do."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_inputs import Values, batch, distinct, layer
from torch import Tensor, nn
from torch.nn import functional as F

from iterand_compress import Subnetwork, SubnetworkConfig
from iterand_compress.compress.mask.layers import masked_layers

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


def with_distinct(module: nn.Module, config: SubnetworkConfig) -> Tensor:
    """Our weights of one layer and distinct scores."""
    ((_, weight, _),) = own_layers(config, layer())
    module.weight.data = weight.clone()
    scores_of(module).data = distinct(0, weight.numel()).view_as(weight)
    return weight


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images, labels = batch(step)
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
