"""The network that a run starts from, and whether it fits the data."""

from __future__ import annotations

import torch
from torch import nn

from ..config import Recipe
from ..data import DataBundle
from ..errors import DataError
from ..models import AnyArchitecture, build_model, resolve, resolve_text
from ..subnetwork import make_subnetwork
from .checkpoint import DataInfo

__all__ = ["architecture_of", "build_network", "check_output", "describe", "step_seed"]


def build_network(recipe: Recipe, architecture: AnyArchitecture, *, allow_import: bool) -> nn.Module:
    """The network a recipe starts from, on the CPU, with the initial weights and scores of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.subnetwork.seed, -1))  # for biases and the like of foreign models
        model = build_model(architecture, allow_import=allow_import)
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
    expected = (2, len(data.classes))
    example, noun = data.example(2), "images" if data.text is None else "texts"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(model(example).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"the model cannot take {noun} of shape {tuple(example.shape[1:])}: {reason}") from None
    model.train(was_training)
    if shape != expected:
        raise DataError(
            f"the model's output for 2 {noun}: expected {expected} ({len(data.classes)} classes of {data.name}), "
            f"got {shape}"
        )


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed for torch's own generator, used by layers like dropout: a function of seed, step and process.

    Parts of a batch in different processes must not share their dropout.
    """
    return (seed + (step + 1) * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03) % 2**63
