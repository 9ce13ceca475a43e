"""A network that several processes train, each on its part of every batch: gradients travel, weights do not.

Random weights, draws and masks follow from the seed in each process and are never sent; nor are scores, which begin
equal and get equal gradients. That they stay equal is checked after every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..errors import TrainingError
from ..mask.attachment import without_cudnn
from ..mask.layers import masked_layers, pruned_layers
from ..mask.masked_weight import MaskedWeight
from .group import Group
from .sync_batchnorm import SyncBatchNorm

__all__ = [
    "Fingerprints",
    "equalise_buffers",
    "equalise_start",
    "foreign_buffers",
    "replicate",
    "unused_parameters",
]


def replicate(model: nn.Module, group: Group, *, device: torch.device, partly_unused: bool) -> nn.Module:
    """The network as it is trained: its backward pass averages the gradients of all processes.

    Before each forward pass, buffers that neither follow from the seed nor are equal anyway (running statistics of
    BatchNorm that is not synchronised) take the values of the main process.

    Args:
        model: on its device; with one process, it is returned as it is.
        group: the processes.
        device: of the model.
        partly_unused: whether some parameters may get no gradient.
    """
    if group.size == 1:
        return model
    sent = {id(buffer) for buffer in foreign_buffers(model, synchronised=True)}
    names = [name for name, buffer in model.named_buffers() if id(buffer) not in sent]
    # torch has no public way to say it yet (pytorch issue 43690); the method is what its own libraries use.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]
    # torch before 2.7 always begins by sending the parameters, which are equal already.
    silent = "init_sync" in inspect.signature(DistributedDataParallel.__init__).parameters
    options: dict[str, Any] = {"init_sync": False} if silent else {}
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=group.channel(device),
        **options,
        gradient_as_bucket_view=True,
        find_unused_parameters=partly_unused,
    )


def unused_parameters(model: nn.Module, example: Tensor) -> bool:
    """Whether some parameters get no gradient (in evaluation mode, which uses no more of them than training does)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()
    with torch.enable_grad(), without_cudnn(model):
        gradients = torch.autograd.grad(model(example).sum(), parameters, allow_unused=True)
    model.train(was_training)
    return any(gradient is None for gradient in gradients)


def equalise_start(model: nn.Module, group: Group) -> None:
    """Make equal what need not follow from the seed: masks found at initialisation, biases, statistics."""
    if group.size == 1:
        return
    masks = [part.mask.clone() for _, part, _ in pruned_layers(model)]
    group.equalise(masks)
    for (_, part, _), mask in zip(pruned_layers(model), masks, strict=True):
        part.set_mask(mask)
    scores = {id(scores) for _, _, scores in masked_layers(model)}
    group.equalise([parameter.detach() for parameter in model.parameters() if id(parameter) not in scores])
    equalise_buffers(model, group)


def equalise_buffers(model: nn.Module, group: Group) -> None:
    """Give buffers that do not follow from the seed the values of the main process, which a checkpoint keeps."""
    group.equalise(foreign_buffers(model))


def foreign_buffers(model: nn.Module, *, synchronised: bool = False) -> list[Tensor]:
    """Buffers of no mask; ``synchronised``: nor of BatchNorm whose statistics are equal in all processes."""
    kinds = (MaskedWeight, SyncBatchNorm, nn.SyncBatchNorm) if synchronised else (MaskedWeight,)
    own = {id(buffer) for part in model.modules() if isinstance(part, kinds) for buffer in part.buffers()}
    own |= {id(buffer) for _, part, _ in pruned_layers(model) for buffer in part.buffers()}
    return [buffer for buffer in model.buffers() if id(buffer) not in own]


class Fingerprints:
    """Whether all processes still have the same network, told by one number of each after every step.

    The number is an exact sum of the bit patterns of all parameters and of the state of the masked weights. Nothing
    waits for the device: the first step with a difference stays there until ``check`` looks.

    Args:
        model: what is trained.
        group: the processes.
        device: of the model.
    """

    def __init__(self, model: nn.Module, group: Group, device: torch.device) -> None:
        self._model, self._group, self._device = model, group, device
        self._first = torch.full((2,), -1, dtype=torch.int64, device=device)  # step and rank
        self._of_weights: Tensor | None = None

    @torch.no_grad()
    def compare(self, step: int, *, redrawn: bool) -> None:
        """Compare after step ``step``; ``redrawn`` if random weights have changed since the last time."""
        if self._group.size == 1:
            return
        if redrawn or self._of_weights is None:
            parts = [part for _, part, _ in masked_layers(self._model)]
            self._of_weights = _fingerprint((buffer for part in parts for buffer in part.buffers()), self._device)
        table = torch.zeros(self._group.size, dtype=torch.int64, device=self._device)
        table[self._group.rank] = _fingerprint(self._model.parameters(), self._device) + self._of_weights
        dist.all_reduce(table, group=self._group.channel(self._device))
        other = table != table[0]
        found = torch.stack((torch.full_like(table[0], step), other.int().argmax()))
        self._first = torch.where(other.any() & (self._first[1] < 0), found, self._first)

    def check(self, out: Path) -> None:
        """End the run if there was a difference.

        Raises:
            TrainingError: there was; all processes see it.
        """
        if self._group.size == 1:
            return
        step, rank = self._first.tolist()
        if rank < 0:
            return
        if step < 0:
            raise TrainingError(
                f"rank {rank} starts from another network than rank 0, though seed and settings are the same; "
                "use machines of one kind with the same versions"
            )
        raise TrainingError(
            f"rank {rank} has another network than rank 0 after step {step}, though gradients are the same; {out} "
            "still holds the last good state; use machines of one kind, and check the memory of that one"
        )


def _fingerprint(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """Exact, modulo 2⁶⁴: the sum of all bit patterns, each tensor with an odd factor of its own."""
    start = torch.zeros((), dtype=torch.int64, device=device)
    sums = torch.stack([start, *(_bits(tensor).sum(dtype=torch.int64) for tensor in tensors)])
    return (sums * torch.arange(1, 2 * len(sums), 2, device=device)).sum()


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.view(_INTEGERS[tensor.element_size()]) if tensor.is_floating_point() else tensor
