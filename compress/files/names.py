"""Names and texts that files hold and messages print: checked, escaped, quoted for a shell."""

from __future__ import annotations

import os
import re
import shlex
import sys

from ..errors import SeedMaskError

__all__ = ["MAX_NAME_BYTES", "check_text", "printable", "shell_word"]


MAX_NAME_BYTES = 512


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
