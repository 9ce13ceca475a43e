"""Recipes: TOML files that name every setting of a run, shipped by name or given by path.

A network whose weights are trained needs other settings than the search for a subnetwork. A recipe may have them in a
table ``[dense]`` with the same four sections; they replace those of the recipe where the method is ``dense``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..config import Recipe
from ..data.fitting import LARGE_SIDE
from ..data.folder import sample_sizes
from ..errors import ConfigError, did_you_mean
from ..methods.presets import read_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_RECIPE",
    "PHOTOS_RECIPE",
    "TEXT_RECIPE",
    "dense_settings",
    "differences",
    "flattened",
    "load_recipe",
    "override",
    "recipe_for_folder",
    "recipe_names",
    "to_toml",
]

DEFAULT_RECIPE = "digits"
#: The default recipe of text data sets.
TEXT_RECIPE = "text"
#: The default recipe of a folder of images, unless these are smaller than `SMALLEST_PHOTO` pixels.
PHOTOS_RECIPE = "photos"
SMALLEST_PHOTO = 32
_FOLDER = resources.files(__package__) / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))
    )


def load_recipe(name_or_path: str, **overrides: Mapping[str, Any]) -> Recipe:
    """Read a shipped recipe by name, or a TOML file by path.

    Example:
        >>> recipe = load_recipe("digits", train={"epochs": 2}, subnetwork={"sparsity": 0.7, "resample": {"every": 20}})
        >>> recipe.train.epochs, recipe.subnetwork.resample.every, recipe.subnetwork.resample.rate
        (2, 20, 0.1)
        >>> load_recipe("cifar10-conv6").train.lr, load_recipe("cifar10-conv6", subnetwork={"method": "dense"}).train.lr
        (0.3, 0.01)

    Args:
        name_or_path: of the recipe.
        overrides: settings to change, by section. With the method ``dense``, they change the recipe's settings for it.

    Raises:
        ConfigError: the recipe is unknown, is not TOML, or has an unknown key or a value out of range.
    """
    values, where = _tables(name_or_path), f"recipe {name_or_path}"
    dense = _dense_of(values, where)
    recipe = read_recipe(values, where)
    changes = flattened(overrides)
    if dense and changes.get("subnetwork.method", recipe.subnetwork.method) == "dense":
        recipe = override(recipe, {"subnetwork.method": "dense", **dense}, f"{where}: dense")
    return override(recipe, changes, where) if changes else recipe


def dense_settings(name_or_path: str) -> dict[str, Any]:
    """What a recipe changes where the method is ``dense``, as ``{"section.key": value}``.

    Raises:
        ConfigError: as `load_recipe`.
    """
    return _dense_of(_tables(name_or_path), f"recipe {name_or_path}")


def _dense_of(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the table ``[dense]`` out of a recipe."""
    dense = values.pop("dense", {})
    if not isinstance(dense, Mapping):
        raise ConfigError(f"{where}: dense: expected a table of settings, got {dense!r:.100}")
    return flattened(dense)


def _tables(name_or_path: str) -> dict[str, Any]:
    """What a recipe says, not yet validated."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        try:
            if not path.is_file() and path.exists():  # a device may have no end
                raise ConfigError(f"recipe {path}: cannot be read: not a regular file")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"recipe {path}: cannot be read: {reason}") from None
    elif name_or_path in recipe_names():
        text = (_FOLDER / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        hint = did_you_mean(name_or_path, recipe_names())
        raise ConfigError(f"recipe: unknown {name_or_path!r}{hint} (a file needs the ending .toml)")
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name_or_path}: not valid TOML: {error}") from None
    return values


def recipe_for_folder(data_dir: Path | None, method: str | None = None) -> Recipe:
    """Choose settings for a user's folder of images by their size, from 512 of them at most.

    Square images of one size, up to 96 pixels, keep it; others are scaled to 64 pixels, or to 32 if half of them are
    smaller than 48. Below 32 pixels, the network is that of the bundled digits, else a small ResNet-18.

    Args:
        data_dir: the folder.
        method: the recipe's own if ``None``.

    Raises:
        DataError: the folder holds no data set.
    """
    sizes = sample_sizes(data_dir)
    width, height = sizes[0]
    keep = width == height <= LARGE_SIDE and set(sizes) == {sizes[0]}
    shorter = statistics.median(min(size) for size in sizes)
    side = width if keep else SMALLEST_PHOTO if shorter < 48 else 2 * SMALLEST_PHOTO
    name = PHOTOS_RECIPE if side >= SMALLEST_PHOTO else DEFAULT_RECIPE
    recipe = load_recipe(name, **({"subnetwork": {"method": method}} if method is not None else {}))
    return override(recipe, {"data.name": "folder", "data.image_size": None if keep else side})


def override(recipe: Recipe, changes: Mapping[str, Any], where: str = "options") -> Recipe:
    """A copy of a recipe with some settings changed.

    Another method starts from its own settings: only seed and sparsity stay. Another optimizer starts with its own
    weight decay. A model that is not built in takes none of the settings of the recipe's model.

    Args:
        recipe: the base.
        changes: ``{"section.key": value}``, nested sections as ``"subnetwork.resample.every"``.
        where: what an error message calls the source of the changes.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    values = recipe.model_dump()
    method = changes.get("subnetwork.method", recipe.subnetwork.method)
    if method != recipe.subnetwork.method:
        kept = ("seed", "sparsity") if recipe.subnetwork.sparsity and method != "dense" else ("seed",)
        values["subnetwork"] = {key: values["subnetwork"][key] for key in kept}
    model = changes.get("model.name", recipe.model.name)
    if model != recipe.model.name and ":" in str(model):
        values["model"] = {}
    default = "sgd"
    if (changes.get("train.optimizer", recipe.train.optimizer) or default) != (recipe.train.optimizer or default):
        del values["train"]["weight_decay"]
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = values
        for name in sections:
            inner = section.get(name)
            section[name] = dict(inner) if isinstance(inner, Mapping) else {}
            section = section[name]
        section[key] = value
    return read_recipe(values, where)


def to_toml(recipe: Recipe, dense: Mapping[str, Any] | None = None) -> str:
    """All settings of a recipe as TOML, from which `load_recipe` reads an equal one.

    What the section ``[subnetwork]`` leaves out is ``"none"``; elsewhere, settings without a value are comments.

    Args:
        recipe: the settings.
        dense: what `dense_settings` gave for it.
    """
    values = recipe.model_dump()
    tables = [_table(section, values[section]) for section in ("data", "model", "subnetwork", "train")]
    for section in dict.fromkeys(key.partition(".")[0] for key in dense or {}):
        own = {key.partition(".")[2]: value for key, value in (dense or {}).items() if key.startswith(f"{section}.")}
        tables.append(_table(f"dense.{section}", own))
    return "\n".join(tables)


def _table(name: str, values: Mapping[str, Any]) -> str:
    own, nested = [f"[{name}]"], []
    for key, value in values.items():
        if isinstance(value, Mapping):
            nested.append(_table(f"{name}.{key}", value))
        elif value is None:
            own.append(f'{key} = "none"' if name.startswith("subnetwork") else f"# {key} is not set")
        else:
            own.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join([*own, "", *nested])


def differences(stored: Recipe, asked: Recipe) -> list[str]:
    """Settings that differ, each as ``section.key: stored → asked``; of another method no further choices."""
    old, new = flattened(stored.model_dump()), flattened(asked.model_dump())
    if stored.subnetwork.method != asked.subnetwork.method:
        kept = ("subnetwork.method", "subnetwork.seed", "subnetwork.sparsity")
        old, new = (
            {key: value for key, value in values.items() if key in kept or not key.startswith("subnetwork.")}
            for values in (old, new)
        )
    return [
        f"{key}: {old.get(key)!r} → {new.get(key)!r}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"section.key": value}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
