"""When a device runs out of memory: which batch would fit, and evaluation in batches that do."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.bundle import Split
from ..errors import TrainingError
from .checks import clash_with_accumulation
from .evaluate import EVAL_BATCH, Score, evaluate, network_logits
from .replica import equalise_buffers
from .run import Run

__all__ = ["advice", "largest_fitting", "score"]


def advice(run: Run, pixels: Tensor, labels: Tensor) -> str:
    """Advise how to train with the available memory, after a step that ran out of it.

    Args:
        run: its network cannot be used any more.
        pixels: the examples of the step.
        labels: int64 ``[b]``.
    """
    run.optimizer.zero_grad(set_to_none=True)
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    accumulates = clash_with_accumulation(run.recipe.train, run.options) is None

    def attempt(count: int) -> None:
        momentum = [] if run.optimizer.state else [torch.empty_like(parameter) for parameter in parameters]
        before = [torch.empty_like(parameter) for parameter in parameters if accumulates]  # of another micro-batch
        with run.autocast(), run.masked_once():
            loss = F.cross_entropy(run.model(run.inputs(pixels[:count])).float(), labels[:count])
        # Not backward(), which would wait for the other processes.
        torch.autograd.grad(loss, parameters, allow_unused=True)
        del momentum, before

    count, size = len(run.micro_batches), max(each.stop - each.start for each in run.micro_batches)
    fitting = largest_fitting(attempt, size)
    fits = "not even one fits"
    if fitting:
        ways = [f"--batch-size {fitting * count * run.group.size}"]
        if accumulates:
            ways.insert(0, f"--accumulate {count * -(-size // fitting)}")
        fits = f"{fitting} fit: give {' or '.join(ways)}"
    return (
        f"{run.device} ran out of memory at step {run.position.step} with {size} examples at a time; {fits}, "
        "or start more processes on more devices, which share each batch (torchrun)"
    )


def score(run: Run, split: Split) -> Score:
    """Evaluate the network of a run, in batches that the device has memory for.

    Raises:
        TrainingError: there is no memory for a single example.
    """
    equalise_buffers(run.model, run.group)
    batch_size = EVAL_BATCH
    with network_logits(run.model, run.data.input.normalize) as classifier:
        while True:
            try:
                return evaluate(classifier, split, batch_size=batch_size, device=run.device, group=run.group)
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise TrainingError(f"{run.device} has no memory to evaluate a single example") from None
            batch_size //= 2
            _release()


def largest_fitting(attempt: Callable[[int], object], size: int) -> int:
    """The first of ``size / 2``, ``size / 4``, … images that an attempt with so many has memory for; 0 = none.

    Args:
        attempt: a training step with so many images, on a device whose memory is not needed for anything else now.
        size: images that were too many.
    """
    while size > 1:
        size //= 2
        _release()
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            continue
        return size
    return 0


def _release() -> None:
    """Release unused memory, for example what the traceback of an error referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
