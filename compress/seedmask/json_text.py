"""Text that enters a file: names without control characters, and one canonical form of JSON."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import SeedMaskError

__all__ = [
    "DAMAGED",
    "MAX_NAME_BYTES",
    "canonical_json",
    "check_json",
    "check_text",
    "located",
    "parse_json",
    "printable",
    "shell_word",
]

#: How messages about a file that cannot be right end.
DAMAGED = "the file is damaged, get it again"
MAX_NAME_BYTES = 512
MAX_DEPTH = 16
MAX_PARSED_DEPTH = 32
MAX_INT_DIGITS = 20
# Control characters, line and paragraph separators, marks that reorder text on a terminal, lone surrogates.
# Written as ranges: `str.isprintable` depends on the Unicode version of the Python that runs.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def check_text(text: str, what: str, limit: int = MAX_NAME_BYTES) -> str:
    """Return ``text`` if it may stand in a file and be printed on a terminal.

    Raises:
        SeedMaskError: it is empty, longer than ``limit`` UTF-8 bytes, or holds control characters.
    """
    bad = _FORBIDDEN.search(text)
    if bad:
        raise SeedMaskError(f"{what}: {text[:80]!a} contains the control character {bad.group()!a}; remove it")
    size = len(text.encode())
    if not 0 < size <= limit:
        raise SeedMaskError(f"{what}: expected 1 to {limit} bytes of text, got {size}: {text[:80]!r}")
    return text


def printable(text: object) -> str:
    """``text`` as a message may hold it: as it is, or quoted and escaped if it holds what `check_text` refuses."""
    shown = str(text)
    return ascii(shown) if _FORBIDDEN.search(shown) else shown


def shell_word(path: str | os.PathLike[str]) -> str:
    """The name of a file, or of a model, as a word of a command that a message prints, to be pasted into a shell.

    What standard output or error cannot print as it is, or a message of one line changes, is written in bash's
    ``$'...'``, byte by byte. A name that begins with - gets ./ before it, as it would be an option.
    """
    text = os.fspath(path)
    if text.startswith("-"):
        text = f"./{text}"
    if not _FORBIDDEN.search(text) and text == " ".join(text.split()) and _can_be_printed(text):
        return shlex.quote(text)
    try:
        content = os.fsencode(text)
    except UnicodeEncodeError:  # no name of a file here, but one that a file holds
        content = text.encode(errors="surrogateescape")
    return "$'" + "".join(_escaped(byte) for byte in content) + "'"


def _can_be_printed(text: str) -> bool:
    try:
        for stream in (sys.stdout, sys.stderr):
            text.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _escaped(byte: int) -> str:
    plain = 0x20 < byte < 0x7F and byte not in b"\\'"
    return chr(byte) if plain else f"\\x{byte:02x}"


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
    """Parse a JSON object, refusing what parsers tolerate and what breaks them.

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
        if len(digits) > MAX_INT_DIGITS:
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
