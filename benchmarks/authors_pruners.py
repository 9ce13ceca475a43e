"""What SynFlow's code gives for the criteria at initialisation, and torchvision for crops; see `authors_record.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_checkouts import extract, imports, quietly, records
from authors_inputs import (
    BOXES,
    CROPPED,
    PRUNED,
    STATISTICS,
    Values,
    batch,
    bits,
    box_statistics,
    distinct,
    normalised,
    prunable,
)
from torch import nn

PRUNERS = "Pruners/pruners.py"


def _their_prunable(folder: Path) -> tuple[nn.Module, Any, list[Any]]:
    """`prunable` of their layers, in float64."""
    with imports(folder):
        from Layers import layers
        from Pruners import pruners
        from Utils import generator
    model: Any = prunable(layers).double()
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
