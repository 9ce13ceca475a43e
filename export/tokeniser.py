"""How a file records the tokeniser of a network that takes texts."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..compress.inputs import TextSpec

__all__ = ["TEXT", "TOKENS", "text_from_metadata", "text_metadata"]

TEXT = "iterand.text"
"""Metadata key: length, unit and vocabulary as a JSON object."""
TOKENS = "tokens"
"""Name of the graph's input."""


def text_metadata(spec: TextSpec) -> dict[str, str]:
    """Return the metadata entry that describes the tokeniser."""
    return {TEXT: json.dumps(spec.to_dict(), sort_keys=True)}


def text_from_metadata(metadata: Mapping[str, str]) -> TextSpec | None:
    """Read what `text_metadata` wrote; None when there is no such entry.

    Raises:
        ValueError: the entry is not JSON.
        TypeError: it is no object.
        ConfigError: it does not describe a tokeniser.
    """
    if TEXT not in metadata:
        return None
    values = json.loads(metadata[TEXT])
    if not isinstance(values, dict):
        raise TypeError(f"{TEXT} is {metadata[TEXT]!r:.100}, expected a JSON object")
    return TextSpec.from_dict(values)
