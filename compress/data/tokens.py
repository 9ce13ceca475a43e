"""Tokenise texts without a stored vocabulary: a word's number is a hash of the word.

Source of the idea: Weinberger, Dasgupta, Langford, Smola, Attenberg, "Feature hashing for large scale multitask
learning" (ICML 2009). Different words may share a number. This module needs NumPy and Python's Unicode tables only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..inputs import PADDING, TextInput

__all__ = ["pieces", "token_hash", "tokenise", "tokenise_all"]


FNV_OFFSET, FNV_PRIME = 0x811C9DC5, 0x01000193
MIX_1, MIX_2 = 0x85EBCA6B, 0xC2B2AE35


def token_hash(piece: str) -> int:
    """Compute the 32-bit hash of a piece: FNV-1a over its UTF-8 bytes, then the finaliser of MurmurHash3.

    The low bits of FNV-1a alone are weak, and the remainder by a vocabulary depends on them most.

    Example:
        >>> hex(token_hash("foobar"))
        '0xc0da6dc'
    """
    state = FNV_OFFSET
    for byte in piece.encode("utf-8"):
        state = (state ^ byte) * FNV_PRIME & 0xFFFFFFFF
    state = (state ^ state >> 16) * MIX_1 & 0xFFFFFFFF
    state = (state ^ state >> 13) * MIX_2 & 0xFFFFFFFF
    return state ^ state >> 16


def pieces(text: str) -> list[str]:
    """Cut a text into words, numbers and marks.

    The text is brought into Unicode's form NFKC and lower-cased (independent of the locale), and ’ becomes '. Then
    each character belongs to a kind by its general category: letters and combining marks (L, M) make words,
    digits and the like (N) numbers, and a run of either is one piece; each punctuation mark or symbol (P, S) is a
    piece of its own; format characters (Cf, such as soft hyphens) are dropped; all else (Z, other C) separates
    pieces. An apostrophe between two characters of a word belongs to the word.

    Example:
        >>> pieces("Don't pay ５００€ – no!")
        ["don't", 'pay', '500', '€', '–', 'no', '!']
    """
    characters = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    marked = [(character, _kind(character)) for character in characters]
    marked = [pair for pair in marked if pair[1] != "dropped"]
    result: list[str] = []
    before = "separator"
    for place, (character, kind) in enumerate(marked):
        after = marked[place + 1][1] if place + 1 < len(marked) else "separator"
        if character == "'" and before == after == "word":
            kind = "word"
        if kind != "separator":
            if kind == before and kind != "mark":
                result[-1] += character
            else:
                result.append(character)
        before = kind
    return result


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return "dropped"
    return {"L": "word", "M": "word", "N": "number", "P": "mark", "S": "mark"}.get(category[0], "separator")


@lru_cache(maxsize=1 << 16)
def _token(piece: str, vocabulary: int) -> int:
    return 1 + token_hash(piece) % (vocabulary - 1)


def tokenise(text: str, spec: TextInput) -> NDArray[np.int64]:
    """Turn a text into the token numbers that a network takes.

    Of ``words``, token = 1 + hash mod (vocabulary - 1) of each of the `pieces`; of ``bytes``, token = 1 + byte of
    the text's UTF-8 form as it is.

    Returns:
        int64 ``[length]``: the tokens, then `PADDING`. A text without pieces is all `PADDING`.

    Example:
        >>> tokenise("The cat.", TextInput(5, 1000)).tolist()
        [139, 794, 968, 0, 0]
    """
    tokens = np.full(spec.length, PADDING, np.int64)
    if spec.unit == "bytes":
        # A character takes at least one byte; "replace" is for lone surrogates, which have no UTF-8 form.
        data = text[: spec.length].encode("utf-8", "replace")[: spec.length]
        tokens[: len(data)] = np.frombuffer(data, np.uint8).astype(np.int64) + 1
    else:
        numbers = [_token(piece, spec.vocabulary) for piece in pieces(text)[: spec.length]]
        tokens[: len(numbers)] = numbers
    return tokens


def tokenise_all(texts: Iterable[str], spec: TextInput) -> NDArray[np.int64]:
    """Tokenise several texts with `tokenise`, int64 ``[n, length]``."""
    rows = [tokenise(text, spec) for text in texts]
    return np.stack(rows) if rows else np.empty((0, spec.length), np.int64)
