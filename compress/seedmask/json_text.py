"""JSON in a file: one canonical form, and a strict parser."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import SeedMaskError
from ..files.names import check_text

__all__ = [
    "DAMAGED",
    "canonical_json",
    "check_json",
    "located",
    "parse_json",
]

#: The end of messages on damaged files.
DAMAGED = "the file is damaged, get it again"
MAX_DEPTH = 16
MAX_PARSED_DEPTH = 32
MAX_INT_DIGITS = 20


def check_json(value: object, what: str, depth: int = 0) -> None:
    """Check that a value survives JSON unchanged: plain types, finite numbers, shallow, printable text.

    Raises:
        SeedMaskError: it would not.
    """
    if depth > MAX_DEPTH:
        raise SeedMaskError(f"{what}: nested deeper than {MAX_DEPTH} levels; flatten it")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SeedMaskError(f"{what}: expected text as key, got {key!r}")
            check_text(key, what)
            check_json(item, f"{what}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_json(item, what, depth + 1)
    elif isinstance(value, str):
        if value:
            check_text(value, what, limit=65536)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise SeedMaskError(f"{what}: expected a finite number, got {value}")
    elif isinstance(value, int):
        if abs(value) >= 2**64:
            raise SeedMaskError(f"{what}: expected an integer below 2**64 in magnitude, got {value:.3e}")
    elif value is not None:
        raise SeedMaskError(f"{what}: expected text, number, boolean, list or dict, got {type(value).__name__}")


def canonical_json(value: object) -> str:
    """The one JSON text of a value: keys sorted by code point, no spaces, ASCII only, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly.

    Raises:
        SeedMaskError: not JSON, not an object, duplicate keys, NaN or infinity, huge numbers, deep nesting.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise SeedMaskError(f"{what}: duplicate key {twice[:80]!a}; the file is damaged or was tampered with")
        return result

    def integer(digits: str) -> int:
        if len(digits.removeprefix("-")) > MAX_INT_DIGITS:
            raise SeedMaskError(f"{what}: a number of {len(digits)} digits; expected {MAX_INT_DIGITS} at most")
        return int(digits)

    def real(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise SeedMaskError(f"{what}: expected a finite number, got {digits[:40]}")
        return number

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=real)
    except RecursionError:
        raise SeedMaskError(f"{what}: nested too deeply; not a file of ours") from None
    except ValueError as error:
        raise SeedMaskError(f"{what}: not valid JSON ({error}); {DAMAGED}") from None
    if not isinstance(value, dict):
        raise SeedMaskError(f"{what}: expected a JSON object, got {type(value).__name__}")
    if _depth(value) > MAX_PARSED_DEPTH:  # the limit of the parser itself depends on the stack
        raise SeedMaskError(f"{what}: nested too deeply; not a file of ours")
    return value


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level:
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return depth


@contextmanager
def located(where: object) -> Iterator[None]:
    """Put a place in front of the message of a `SeedMaskError` that the block raises."""
    try:
        yield
    except SeedMaskError as error:
        raise SeedMaskError(f"{where}: {error}") from None
