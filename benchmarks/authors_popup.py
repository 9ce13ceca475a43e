"""What the code of edge-popup, Biprop and Weight Recycling gives; see `authors_record.py`."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import torch
from authors_checkouts import (
    ARGUMENTS,
    block,
    extract,
    give,
    imports,
    own_layers,
    quietly,
    records,
    scored,
    train_step,
    with_distinct,
)
from authors_inputs import (
    EDGE_POPUP_SPARSITIES,
    RECYCLING_EPOCHS,
    RUNS,
    SEED,
    SIZES,
    STEPS,
    Network,
    Values,
    batch,
    bits,
    digest,
    distinct,
    layer_sizes,
    search,
    shift,
    small_integers,
    state_of,
)
from torch import nn

from iterand_compress import Biprop, EdgePopup, SubnetworkConfig

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
        with_distinct(conv, EdgePopup(seed=SEED))
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
    with_distinct(conv, EdgePopup(seed=SEED))
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


def built_network(folder: Path, network: Network, **arguments: Any) -> nn.Module:
    with imports(folder, width_mult=network.their_width or network.width, **arguments) as settings:
        import models

        model = quietly(lambda: getattr(models, network.theirs)())
        for module in scored(model):
            module.set_prune_rate(settings.prune_rate)
        return model


def _popup_run(folder: Path, network: Network, config: SubnetworkConfig, optimizer_name: str) -> Values:
    bn_type = "AffineBatchNorm" if network.affine else "NonAffineBatchNorm"
    model = built_network(folder, network, bn_type=bn_type).double()
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
        train_step(model, optimizer, step)
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
        with_distinct(conv, Biprop(sparsity, seed=SEED, distribution="normal"))
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
    with_distinct(conv, Biprop(seed=SEED, distribution="normal"))
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
    with_distinct(conv, config)
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
