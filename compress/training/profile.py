"""Where the time of a training step goes: a trace of some steps, and the share of each of their stages."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ..data.bundle import Batch
from ..errors import IterandError
from ..files.atomic import atomic_path
from ..files.outputs import beside
from ..mask.fused import FusedLayers
from ..mask.layers import masked_layers
from ..mask.stages import PREFIX, named_stages, stage

__all__ = ["ProfileReport", "StepProfile", "event_seconds", "fetched", "trace_path"]

#: Steps that pass before the trace begins, and steps in it.
WARM_UP, TRACED = 3, 8
#: Stages of a step, in the order in which they are reported; ``network`` is all that is in no other stage.
STAGES = ("selection", "masking", "refresh", "data", "optimizer", "network")


def trace_path(checkpoint: Path) -> Path:
    """``model.ckpt`` is traced to ``model.trace.json``, beside it."""
    return beside(checkpoint, ".trace.json")


@dataclass(frozen=True)
class ProfileReport:
    """What a trace shows.

    Attributes:
        trace: the file; browsers show it under ``chrome://tracing`` or ui.perfetto.dev.
        steps: traced.
        seconds: of a step; on a GPU, of its work there.
        shares: of the stages of a step, in [0, 1]; they add up to 1. That of ``refresh`` is what a step bears of the
            events of IteRand, of which the traced steps need not have one.
        event: seconds of an event, 0 if there are none.
        every: steps between two events.
    """

    trace: Path
    steps: int
    seconds: float
    shares: dict[str, float]
    event: float
    every: int


class StepProfile:
    """Traces some of the steps that it is told of, once: up to ``TRACED``, after the first ``WARM_UP``.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile: profile | None = None
        self._stack = ExitStack()
        self._step = 0

    def close(self) -> None:
        """End a trace that nobody asks for any more."""
        self._stack.close()
        self._profile = None

    def begin_step(self) -> None:
        """A step is about to begin, its batch not yet fetched."""
        if self._step == WARM_UP:
            # Before torch first looks for it: the profiler tells of its own doings otherwise.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            self._wait()
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = self._stack.enter_context(profile(activities=activities, acc_events=True))
            self._stack.enter_context(named_stages())
        self._step += 1

    def complete(self, *, last: bool) -> bool:
        """Whether there is a trace, and no step to come in it; ``last``: of the epoch, after which it would mislead."""
        return self._profile is not None and (last or self._step == WARM_UP + TRACED)

    def report(self, out: Path, event: float, every: int) -> ProfileReport:
        """End the trace and write it beside the checkpoint ``out``.

        Raises:
            IterandError: the trace cannot be written.
        """
        assert self._profile is not None
        self._wait()
        self._stack.close()
        trace = trace_path(out)
        with atomic_path(trace) as temporary:
            self._profile.export_chrome_trace(str(temporary))
        events: Any = self._profile.events()  # type: ignore[no-untyped-call]
        seconds, shares = _shares(events, on_gpu=self._device.type == "cuda")
        steps = self._step - WARM_UP
        self._profile, seconds = None, seconds / steps
        # What was seen of events is replaced by what they cost on average.
        rest = {name: share * seconds for name, share in shares.items() if name != "refresh"}
        rest["refresh"] = event / every if every else shares["refresh"] * seconds
        total = sum(rest.values())
        return ProfileReport(trace, steps, total, {name: rest[name] / total for name in STAGES}, event, every)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def fetched(batches: Iterator[Batch], profile: StepProfile | None) -> Iterator[Batch]:
    """The batches; fetching one is a stage of the profile, if there is one."""
    while True:
        if profile is not None:
            profile.begin_step()
        with stage("data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _shares(events: Any, *, on_gpu: bool) -> tuple[float, dict[str, float]]:
    """Seconds of all traced steps, and the share of each stage, without the stages inside it."""

    def seconds(event: Any) -> float:
        return float(event.device_time_total if on_gpu else event.cpu_time_total) / 1e6

    spent = dict.fromkeys(STAGES, 0.0)
    total = 0.0
    for event in events:
        # The same names stand on the GPU's own time line.
        if event.device_type.name != "CPU":
            continue
        if on_gpu:
            total += float(event.self_device_time_total) / 1e6
        if not event.name.startswith(PREFIX):
            continue
        name, around = event.name.removeprefix(PREFIX), event.cpu_parent
        while around is not None and not around.name.startswith(PREFIX):
            around = around.cpu_parent
        spent[name] += seconds(event)
        if around is not None:
            spent[around.name.removeprefix(PREFIX)] -= seconds(event)
        elif not on_gpu:
            total += seconds(event)
    if not total:
        raise IterandError("the profiler saw no step; torch was built without it, or another profiler is running")
    spent["network"] = total - sum(value for name, value in spent.items() if name != "network")
    return total, {name: value / total for name, value in spent.items()}


@torch.no_grad()
def event_seconds(model: nn.Module, fused: FusedLayers | None, device: torch.device) -> tuple[float, int]:
    """Seconds of an event of IteRand and the steps between two; (0, 0) without. The network stays as it is."""
    layers = [(masked, scores) for _, masked, scores in masked_layers(model) if masked.resampling is not None]
    if not layers:
        return 0.0, 0
    state = [buffer for one, _ in layers for buffer in (one.codes, one.draws, one.current) if buffer is not None]
    before = [buffer.clone() for buffer in state]
    seconds = []
    for _ in range(2):  # the first one compiles what is compiled
        began = _now(device)
        if fused is not None:
            fused.resample(0)
        else:
            for masked, scores in layers:
                masked.resample(scores, 0)
        seconds.append(_now(device) - began)
    for buffer, value in zip(state, before, strict=True):
        buffer.copy_(value)
    rule = layers[0][0].resampling
    assert rule is not None
    return seconds[-1], rule.every


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
