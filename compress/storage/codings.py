"""How a row of small integers becomes payload bytes: one entry per coding that a file may name.

A new coding (an entropy coder, say) is a new entry here; the packer keeps the smallest result, and a reader
that lacks the entry refuses the file by the name of the coding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError
from .bits import pack_values, unpack_values

__all__ = ["CODINGS", "Coding", "encode_smallest", "get_coding"]


@dataclass(frozen=True)
class Coding:
    """A payload coding.

    Attributes:
        name: its name in files.
        encode: (values uint8 ``[n]``, width in bits) to bytes.
        decode: (payload, n, width) to values uint8 ``[n]``; raises `SeedMaskError` for any payload that
            ``encode`` cannot have produced.
    """

    name: str
    encode: Callable[[NDArray[np.uint8], int], bytes]
    decode: Callable[[bytes | memoryview, int, int], NDArray[np.uint8]]


#: The codings of format version 1, in the order in which ties are resolved.
CODINGS = {coding.name: coding for coding in (Coding("raw", pack_values, unpack_values),)}


def get_coding(name: str) -> Coding:
    """Look a coding up.

    Raises:
        SeedMaskError: this version does not know it.
    """
    try:
        return CODINGS[name]
    except KeyError:
        known = ", ".join(CODINGS)
        raise SeedMaskError(f"unknown coding {name!r}; known: {known}; update iterand-compress") from None


def encode_smallest(values: NDArray[np.uint8], width: int) -> tuple[str, bytes]:
    """Encode with every coding and return the name and bytes of the smallest result (the first of equals)."""
    results = [(coding.name, coding.encode(values, width)) for coding in CODINGS.values()]
    return min(results, key=lambda result: len(result[1]))
