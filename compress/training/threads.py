"""Threads of a CPU for networks so small that more than one would mostly wait for each other."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["is_small", "keep_threads", "may_choose_threads", "step_work"]

#: Up to this much work a step goes to one thread: about twice that of the bundled digits.
SMALL_WORK = 2 * 10**9


def step_work(model: nn.Module, input_shape: Sequence[int], batch_size: int) -> int:
    """An upper bound on the multiplications of a forward pass: positions of an input × weights × batch size.

    Args:
        model: whose parameters are counted.
        input_shape: ``[channels, height, width]`` of an image, or ``[tokens]`` of a text.
        batch_size: inputs of a step.
    """
    positions = math.prod(input_shape[-2:])
    return positions * sum(parameter.numel() for parameter in model.parameters()) * batch_size


def is_small(model: nn.Module, input_shape: Sequence[int], batch_size: int) -> bool:
    """Whether a step should have one thread.

    Sums of floats depend on the number of threads, so this follows from recipe and model alone, and a resumed run goes
    on with the same number. On a machine that others use as well, two threads on two busy cores trained the digits at
    54 images per second, and one thread at 381.
    """
    return step_work(model, input_shape, batch_size) <= SMALL_WORK


def may_choose_threads() -> bool:
    """Whether the number of threads is ours to choose: the user has not set it (``OMP_NUM_THREADS``)."""
    return "OMP_NUM_THREADS" not in os.environ


@contextmanager
def keep_threads() -> Iterator[None]:
    """After the block, torch has as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
