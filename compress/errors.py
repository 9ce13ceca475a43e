"""Every failure a user can cause is one of these; the command line prints it as one line.

A message says what is wrong, where, what was expected, what was found, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DiscardedWeightsWarning",
    "ExportError",
    "IterandError",
    "MissingExtraError",
    "SeedMaskError",
    "TrainingError",
    "did_you_mean",
    "first_line",
    "import_extra",
]

_PACKAGE = "iterand-compress"


class IterandError(Exception):
    """Base of all expected failures.

    Attributes:
        exit_code: what the command line exits with.
        silent: whether another process of a distributed run tells the user.
    """

    exit_code = 1
    silent = False


class ConfigError(IterandError):
    """An option, recipe key or combination of settings that cannot be carried out."""

    exit_code = 2


class MissingExtraError(ConfigError):
    """An optional dependency is not installed."""


class DiscardedWeightsWarning(UserWarning):
    """Weights that look trained are replaced by random ones."""


class DataError(IterandError):
    """A data set that is absent, unreadable or does not fit the model."""


class CheckpointError(IterandError):
    """A checkpoint that cannot be read, or belongs to something else."""


class SeedMaskError(IterandError):
    """A ``.seedmask`` file that is damaged, foreign, or too new; or a network that cannot be packed."""


class TrainingError(IterandError):
    """Training cannot go on (a non-finite loss, for instance)."""


class ExportError(IterandError):
    """A network that cannot be exported, or whose export does not compute the same function."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for near misses, else the list of what is known."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(repr(match) for match in near) + "?"
    return "; known: " + ", ".join(options)


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error of another library that says something, or the name of the error."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:limit]


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        MissingExtraError: it is not installed; the message holds the pip line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        wanted = " ".join(f"'{requirement}'" for requirement in _requirements(extra))
        raise MissingExtraError(
            f"{purpose} needs {error.name}, which is not installed: pip install {wanted} (the extra {extra!r})"
        ) from error


def _requirements(extra: str) -> list[str]:
    """What an extra installs, as pip takes it; of a package that is not installed, the extra itself."""
    from importlib import metadata  # slow, and needed for messages only

    try:
        found = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        found = []
    marked = (requirement.partition(";") for requirement in found)
    wanted = [name.strip() for name, _, marker in marked if re.search(rf"extra == ['\"]{extra}['\"]", marker)]
    return wanted or [f"{_PACKAGE}[{extra}]"]
