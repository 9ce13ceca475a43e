"""A network that several processes train, each on its share of every batch: gradients travel, weights do not.

Random weights, draws and masks follow from the seed in each process and are never sent; nor are scores, which begin
equal and get equal gradients. That they stay equal is checked from time to time (`require_same_network`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import TrainingError
from ..mask.attachment import without_cudnn
from ..mask.layers import masked_layers, pruned_layers
from ..mask.masked_weight import MaskedWeight
from .distributed import Group
from .sync_batchnorm import SyncBatchNorm

__all__ = [
    "COMPARE_EVERY",
    "equalise_buffers",
    "equalise_start",
    "foreign_buffers",
    "replicate",
    "require_same_network",
    "unused_parameters",
]

#: Steps between two comparisons of the processes' networks, which take as long as some hundredths of a step.
COMPARE_EVERY = 100


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
    """Make equal what need not follow from the seed: masks of pruning at initialisation, biases, statistics."""
    if group.size == 1:
        return
    layers = list(pruned_layers(model))
    masks = group.from_main([pruned.mask.cpu() for _, pruned, _ in layers] if group.main else [])
    for (_, pruned, _), mask in zip(layers, masks, strict=True):
        pruned.set_mask(mask)
    scores = {id(scores) for _, _, scores in masked_layers(model)}
    group.equalise([parameter.detach() for parameter in model.parameters() if id(parameter) not in scores])
    equalise_buffers(model, group)


def equalise_buffers(model: nn.Module, group: Group) -> None:
    """Give buffers that do not follow from the seed the values of the main process, which a checkpoint keeps."""
    group.equalise(foreign_buffers(model))


def foreign_buffers(model: nn.Module, *, synchronised: bool = False) -> list[Tensor]:
    """Buffers of no mask; ``synchronised``: nor of BatchNorm whose statistics are equal in all processes."""
    kinds = (MaskedWeight, SyncBatchNorm, nn.SyncBatchNorm) if synchronised else (MaskedWeight,)
    own = {id(buffer) for module in model.modules() if isinstance(module, kinds) for buffer in module.buffers()}
    own |= {id(buffer) for _, pruned, _ in pruned_layers(model) for buffer in pruned.buffers()}
    return [buffer for buffer in model.buffers() if id(buffer) not in own]


def require_same_network(model: nn.Module, group: Group, step: int, out: Path) -> None:
    """Compare one number of each process: an exact sum of all bits of parameters and masked weights.

    Args:
        model: what is trained.
        group: the processes.
        step: steps that are done; 0 before the first one.
        out: the checkpoint of the run.

    Raises:
        TrainingError: they differ; every process raises it.
    """
    if group.size == 1:
        return
    numbers = group.gathered(_fingerprint(model))
    other = next((rank for rank, number in enumerate(numbers) if number != numbers[0]), None)
    if other is None:
        return
    if not step:
        raise group.joint(
            TrainingError(
                f"rank {other} starts from another network than rank 0, though seed and settings are the same; "
                "use machines of one kind with the same versions"
            )
        )
    raise group.joint(
        TrainingError(
            f"rank {other} has another network than rank 0 after step {step}, though gradients are the same; {out} "
            "still holds the last good state; use machines of one kind, and check the memory of that one"
        )
    )


@torch.no_grad()
def _fingerprint(model: nn.Module) -> int:
    """Exact, modulo 2⁶⁴: the sum of all bit patterns, each tensor with an odd factor of its own."""
    buffers = (buffer for _, masked, _ in masked_layers(model) for buffer in masked.buffers())
    sums = torch.stack([_bits(tensor).sum(dtype=torch.int64) for tensor in (*model.parameters(), *buffers)])
    return int((sums * torch.arange(1, 2 * len(sums), 2, device=sums.device)).sum())


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.view(_INTEGERS[tensor.element_size()]) if tensor.is_floating_point() else tensor
