"""What to tell a user whose device ran out of memory: how large a batch would fit, found by trying."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

__all__ = ["largest_fitting", "release"]


def largest_fitting(attempt: Callable[[int], object], size: int) -> int:
    """The first of ``size / 2``, ``size / 4``, … images that an attempt with so many has memory for; 0 = none.

    Args:
        attempt: a training step with so many images, on a device whose memory is not needed for anything else now.
        size: images that were too many.
    """
    while size > 1:
        size //= 2
        release()
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            continue
        return size
    return 0


def release() -> None:
    """Give back what is not in use; the traceback of an error may have held it until now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
