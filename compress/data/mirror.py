"""Answers that do not depend on whether an image is mirrored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..inputs import AnyInput

__all__ = ["with_flips"]

ArrayT = TypeVar("ArrayT")


def with_flips(logits: Callable[[ArrayT], ArrayT], taken: AnyInput, where: object) -> Callable[[ArrayT], ArrayT]:
    """A classifier that computes each image twice, as it is and mirrored, and gives the mean of the logits.

    Args:
        logits: from pixels ``[B, C, H, W]``, a tensor or an array, to logits ``[B, classes]``.
        taken: what it takes.
        where: what an error message calls it.

    Raises:
        ConfigError: it takes texts.
    """
    if taken.noun != "image":
        raise ConfigError(f"{where}: takes {taken.noun}s, which have no mirror images: leave out --flips")

    def mirrored(pixels: ArrayT) -> ArrayT:
        if isinstance(pixels, np.ndarray):
            return np.ascontiguousarray(pixels[..., ::-1])  # type: ignore[return-value]
        return pixels.flip(-1)  # type: ignore[attr-defined,no-any-return]

    return lambda pixels: (logits(pixels) + logits(mirrored(pixels))) / 2  # type: ignore[operator]
