"""Networks that are not ours: torchvision's by name, and the user's own by import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError, did_you_mean
from .architecture import TORCHVISION, AnyArchitecture, Architecture, TextArchitecture
from .state import unwrapped

__all__ = ["from_factory", "from_torchvision", "import_factory"]


def from_torchvision(arch: Architecture) -> nn.Module:
    """Build an untrained classifier of torchvision.

    Raises:
        ConfigError: the classifier is unknown, or cannot take these images.
    """
    from torchvision import models

    name = arch.name.removeprefix(TORCHVISION)
    known = models.list_models(module=models)  # its classifiers, without detection, segmentation and video
    if name not in known:
        raise ConfigError(f"model: torchvision has no classifier {name!r}{did_you_mean(name, known)}")
    if arch.in_channels != 3:
        raise ConfigError(
            f"model: {arch.name} takes images of 3 channels, the data has {arch.in_channels}; "
            "choose a built-in model, or other data"
        )
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = arch.image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (arch.image_size, arch.image_size)
    elif name in ("googlenet", "inception_v3"):
        # Auxiliary heads return a tuple while training; their slow initialisation is replaced anyway.
        options.update(aux_logits=False, init_weights=False)
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=arch.num_classes, **options)
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"model: {arch.name} cannot take images of {arch.image_size} pixels: {_one_line(error)}"
        ) from error
    return model


def import_factory(arch: AnyArchitecture) -> Callable[..., Any]:
    """Import ``package.module:factory``; the working directory is searched before the installed packages.

    Raises:
        ConfigError: the import or the look-up fails.
    """
    module_name, _, attribute = arch.name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"model: expected package.module:factory, got {arch.name!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"model: importing {module_name} failed: {_one_line(error)}") from error
        raise ConfigError(
            f"model: no module {error.name!r} in {here} or among the installed packages (from --model {arch.name})"
        ) from error
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"model: importing {module_name} failed: {_one_line(error)}") from error
    factory: Any = getattr(module, attribute, None)
    if factory is None:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"model: {module_name} has no {attribute!r}{did_you_mean(attribute, public)}")
    if not callable(factory):
        raise ConfigError(f"model: {arch.name} is a {type(factory).__name__}, not a function that returns a module")
    return factory  # type: ignore[no-any-return]


def from_factory(arch: AnyArchitecture, factory: Callable[..., Any]) -> nn.Module:
    """Call ``factory(num_classes=N)``, for texts also with their sizes; wrappers of the module are removed.

    Raises:
        ConfigError: the call fails, or the result is not a module.
    """
    sizes = {"num_classes": arch.num_classes}
    if isinstance(arch, TextArchitecture):
        sizes |= {"length": arch.length, "vocabulary": arch.vocabulary}
    try:
        model = factory(**sizes)
    except Exception as error:
        call = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise ConfigError(f"model: {arch.name}({call}) failed: {_one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: {arch.name} returned a {type(model).__name__}, not a torch.nn.Module")
    return unwrapped(model)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
