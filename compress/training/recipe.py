"""Recipes: TOML files that name every setting of a run, shipped by name or given by path."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..config import Recipe, validated
from ..errors import ConfigError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["DEFAULT_RECIPE", "TEXT_RECIPE", "differences", "load_recipe", "override", "recipe_names"]

DEFAULT_RECIPE = "digits"
#: What texts begin with.
TEXT_RECIPE = "text"
_FOLDER = resources.files(__package__) / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))
    )


def load_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name, or a TOML file by path.

    Raises:
        ConfigError: there is no such recipe, it is not TOML, or it has an unknown key or a value out of range.
    """
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
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name_or_path}: not valid TOML: {error}") from None
    return validated(Recipe, values, f"recipe {name_or_path}")


def override(recipe: Recipe, changes: Mapping[str, Any], where: str = "options") -> Recipe:
    """A copy of a recipe with some settings changed.

    Args:
        recipe: the base.
        changes: ``{"section.key": value}``.
        where: what an error message calls the source of the changes.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    values = recipe.model_dump()
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        values.setdefault(section, {})[key] = value
    return validated(Recipe, values, where)


def differences(stored: Recipe, asked: Recipe) -> list[str]:
    """Settings that differ, each as ``section.key: stored → asked``."""
    old, new = stored.model_dump(), asked.model_dump()
    return [
        f"{section}.{key}: {old[section][key]!r} → {new[section][key]!r}"
        for section in old
        for key in old[section]
        if old[section][key] != new[section][key]
    ]
