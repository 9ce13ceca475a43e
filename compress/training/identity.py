"""What must be the same in all processes of a run, compared before any of them computes something."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..config import Recipe
from ..data import DataBundle
from ..errors import ConfigError, DataError, IterandError
from .group import Group

__all__ = ["require_same_code", "require_same_data", "require_same_settings"]

_PACKAGE = Path(__file__).resolve().parent.parent
# Options of a run that every process must have; where files lie may differ from machine to machine.
_OPTIONS = ("resume", "force", "compile", "accumulate", "channels_last", "checkpoint_every", "tensorboard")


def require_same_code(group: Group) -> None:
    """Compare versions and source files: other code may compute other numbers, or wait for other messages.

    Raises:
        ConfigError: they differ; it names the first thing that does.
    """
    if group.size > 1:
        _compare(group, _code(), ConfigError, "install the same versions on all machines")


def require_same_settings(group: Group, recipe: Recipe, options: Any, device: torch.device) -> None:
    """Compare the recipe, the options that matter, and the kind of device.

    Raises:
        ConfigError: they differ; it names the first that does.
    """
    if group.size == 1:
        return
    settings = {
        f"{section}.{key}": value for section, values in recipe.model_dump().items() for key, value in values.items()
    }
    settings |= {name: getattr(options, name) for name in _OPTIONS}
    settings |= {"device": device.type, "ticket": options.masks is not None}
    _compare(group, settings, ConfigError, "give all processes the same settings")


def require_same_data(group: Group, data: DataBundle) -> None:
    """Compare the data sets.

    Raises:
        DataError: they differ; it names the first difference.
    """
    if group.size == 1:
        return
    facts: dict[str, Any] = {"classes": list(data.classes), **data.input.to_dict()}
    for name, split in (("training", data.train), ("validation", data.val), ("test", data.test)):
        facts[f"number of {name} examples"] = len(split) if split is not None else 0
        labels = split.labels.numpy().tobytes() if split is not None else b""
        facts[f"labels of {name} examples (sha256)"] = hashlib.sha256(labels).hexdigest()[:16]
    _compare(group, facts, DataError, "give all processes the same data")


def _code() -> dict[str, Any]:
    try:
        own = version("iterand-compress")
    except PackageNotFoundError:
        own = "not installed"
    files = {
        f"source file {path.relative_to(_PACKAGE).as_posix()} (sha256)": hashlib.sha256(path.read_bytes()).hexdigest()[
            :16
        ]
        for path in sorted(_PACKAGE.rglob("*.py"))
    }
    return {"version of iterand-compress": own, "version of torch": str(torch.__version__), **files}


def _compare(group: Group, facts: Mapping[str, Any], kind: type[IterandError], advice: str) -> None:
    """Every process sees all facts, and so comes to the same verdict."""
    found: list[dict[str, Any]] = [json.loads(text) for text in group.texts(json.dumps(facts, default=str))]
    for rank, other in enumerate(found):
        for key in [*found[0], *(key for key in other if key not in found[0])]:
            here, there = found[0].get(key), other.get(key)
            if here != there:
                raise kind(f"{key}: {_shown(here)} on rank 0, {_shown(there)} on rank {rank}; {advice}")


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)[:100]
