"""Settings of the authors' files under our names; see `authors_record.py`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from authors_checkouts import REPOSITORIES
from authors_inputs import Values


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
        **({} if settings["model.config_name"] == "conv6" else {"model.affine": settings["bn_affine"]}),
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
#: Their architectures that are no Conv-2 to Conv-8 or ResNet, under our names.
MODELS = {"WideResNet50_2": {"name": "wideresnet50-2"}, "Wide_VGG_Small": {"name": "vgg-small", "width": 1.25}}


def _model(arch: str) -> Values:
    """Settings of an architecture of hidden-networks, or of one of its descendants."""
    plain = arch.removesuffix("_BinAct").removesuffix("Wide")
    found = MODELS.get(plain, {"name": plain.removeprefix("c").lower()})
    binary = (arch != plain and "_BinAct" in arch) or plain == "Wide_VGG_Small"
    return {f"model.{key}": value for key, value in found.items()} | {
        "model.activation": "binary" if binary else "relu"
    }


def _popup_recipe(text: str, *, biprop: bool = False, **changes: Any) -> Values:
    """Settings of a configuration of hidden-networks, or of one of its descendants."""
    settings = {**yaml.safe_load(text), **changes}
    model = _model(settings["arch"].strip())
    imagenet = settings["set"] == "ImageNet"
    found = {
        "data.name": settings["set"].lower(),
        "data.validation": 0.0,  # data/cifar.py, data/imagenet.py
        "data.pad": 0 if imagenet else 4,
        "data.crop": "resized" if imagenet else "shift",
        "data.flip": True,
        **model,
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
    if not model["model.name"].startswith("conv") or model["model.activation"] == "binary":
        found["model.affine"] = settings["bn_type"] != "NonAffineBatchNorm"
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
    "cifar10-conv6-biprop-binary": ("biprop", "configs/smallscale/conv6/conv6_BinAct_kn_unsigned.yml", "HEAD"),
    "cifar10-resnet18-biprop": ("biprop", "configs/smallscale/resnet18/resnet18-kn-unsigned.yaml", "HEAD"),
    "cifar10-vgg-small-biprop-binary": (
        "biprop",
        "configs/smallscale/vgg/wide10_vgg_small_BinAct_kn_unsigned.yml",
        "HEAD",
    ),
    "imagenet-wideresnet50-biprop": ("biprop", "configs/largescale/subnetonly/wideresnet50-usc-unsigned.yaml", "HEAD"),
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
    "dense cifar10-conv6-biprop": ("biprop", "configs/smallscale/conv6wide/conv6wide_sgd_baseline.yml", "HEAD"),
    "dense cifar10-resnet18-biprop": ("biprop", "configs/smallscale/resnet18/resnet18-dense.yaml", "HEAD"),
    "dense imagenet-wideresnet50-biprop": ("biprop", "configs/largescale/baselines/wideresnet50-dense.yaml", "HEAD"),
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
        if repository == "biprop" and "smallscale/conv" in path and not name.startswith("dense"):
            changes["epochs"] = 250
            source += "; epochs from mpt_cifar_script.sh at f5a1a5d"
        text = _show(folder / repository, path, commit)
        found[name] = {"source": source, "settings": _popup_recipe(text, biprop=repository == "biprop", **changes)}
    return found
