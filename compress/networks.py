"""The network that a run starts from, and whether it fits the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .checkpoint import DataInfo
from .config import Recipe
from .data import DataBundle
from .errors import ConfigError, DataError
from .mask.prune_at_init import SAMPLES_PER_CLASS, class_sample, find_ticket, looks_at_data, use_masks
from .models import AnyArchitecture, build_model, resolve, resolve_text
from .subnetwork import make_subnetwork, pruned_layers

__all__ = ["EVAL_BATCH", "architecture_of", "build_network", "check_output", "describe", "find_masks", "step_seed"]

#: Images at a time when a network is evaluated.
EVAL_BATCH = 500


def build_network(recipe: Recipe, architecture: AnyArchitecture, *, allow_import: bool) -> nn.Module:
    """The network a recipe starts from, on the CPU, with the initial weights and scores of its seed."""
    model = build_model(architecture, seed=recipe.subnetwork.seed, allow_import=allow_import)
    return make_subnetwork(model, recipe.subnetwork)


def architecture_of(recipe: Recipe, data: DataBundle) -> AnyArchitecture:
    """What a recipe and its data make of a model name."""
    classes = len(data.classes)
    if data.text is not None:
        return resolve_text(recipe.model, num_classes=classes, text=data.text)
    channels, height, width = data.image_shape
    return resolve(recipe.model, num_classes=classes, image_shape=(channels, height, width))


def describe(data: DataBundle) -> DataInfo:
    """What a network must know about its data."""
    return DataInfo(data.name, list(data.classes), list(data.image_shape), list(data.mean), list(data.std), data.text)


def check_output(model: nn.Module, data: DataBundle) -> None:
    """One dry batch, so that a model that does not fit the data fails before the first step.

    Raises:
        DataError: the model does not take it, or gives another number of classes.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise DataError(f"the model's {name} has no content (device meta); let its constructor make it on the CPU")
    expected = (2, len(data.classes))
    example, noun = data.example(2), "images" if data.text is None else "texts"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(example)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"the model cannot take {noun} of shape {tuple(example.shape[1:])}: {reason}") from None
    model.train(was_training)
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != expected:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise DataError(
            f"the model's output for 2 {noun}: expected logits {expected} ({len(data.classes)} classes of "
            f"{data.name}), got {got}"
        )


def find_masks(
    model: nn.Module,
    recipe: Recipe,
    data: DataBundle,
    device: torch.device,
    masks: Mapping[str, NDArray[np.bool_]] | None,
) -> None:
    """Prune, for methods that do so once, before weights are trained; for others, nothing.

    Args:
        model: on its device.
        recipe: of the run.
        data: looked at by some methods.
        device: of the model.
        masks: of a ticket, to be taken instead of found.

    Raises:
        ConfigError: a ticket for a method that finds its masks in training; SynFlow on texts.
    """
    config = recipe.subnetwork
    if not any(True for _ in pruned_layers(model)):
        if masks is not None:
            raise ConfigError(
                f"ticket: method {config.method} finds its masks in training; give one that prunes at initialisation"
            )
        return
    if masks is not None:
        use_masks(model, masks)
    elif looks_at_data(config):
        batches = data.train.batches(EVAL_BATCH, device)
        pixels, labels = class_sample(batches, data.classes, config.samples_per_class or SAMPLES_PER_CLASS)
        find_ticket(model, config, (data.normalize(pixels), labels))
    elif data.text is not None and config.method == "synflow":
        raise ConfigError("synflow: it sends ones through the network, and token numbers are no amounts: take snip")
    else:
        find_ticket(model, config, data.image_shape)


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """A seed for torch's own generator, used by layers like dropout: a function of seed, step and part of the batch.

    The parts of a batch, each computed by a process of its own or all by one, must not share their dropout.
    """
    return (seed + (step + 1) * 0x9E3779B97F4A7C15 + part * 0xD1B54A32D192ED03) % 2**63
