"""A training step that a GPU repeats by itself: recorded once as a CUDA graph, then started with one call.

A small network on a fast GPU waits for the host, which starts a thousand kernels a step; one by one, they would hide
what is to be gained on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["StepGraph", "record"]

#: Steps that run as usual before one is recorded: kernels are compiled, and the optimizer makes its buffers.
WARM_UP = 3

Step = Callable[[Tensor, Tensor], Tensor]


class StepGraph:
    """Runs a step as usual for a few times, then records and repeats it.

    All that the step changes it must change in place, and nothing in it may look at a value on the device. What it
    returns stands in the same place every time.

    Args:
        step: from inputs and labels, which have the same shapes every time, to the loss, a scalar on the device.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._seen = 0
        self._repeat: Callable[[], object] | None = None
        self._inputs: tuple[Tensor, Tensor]
        self._loss: Tensor

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a step, which is done."""
        if self._seen < WARM_UP:
            self._seen += 1
            return aside(lambda: self._step(inputs, labels), inputs.device)
        if self._repeat is None:
            self._inputs = (inputs.clone(), labels.clone())
            self._repeat, self._loss = record(lambda: self._step(*self._inputs))
        for place, value in zip(self._inputs, (inputs, labels), strict=True):
            place.copy_(value)
        self._repeat()
        return self._loss


def aside(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Work on a stream of its own, as what is to be recorded later must be done first."""
    if device.type != "cuda":
        return work()
    stream, present = torch.cuda.Stream(device), torch.cuda.current_stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(present)
    with torch.cuda.stream(stream):
        result = work()
    present.wait_stream(stream)
    return result


def record(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Record work on the GPU, without doing it: what repeats it, and where its result will stand."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result
