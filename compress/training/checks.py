"""Before the first step: does the model take the data, can it train, and can it be packed and recovered?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from ..config import Recipe, TrainConfig
from ..data.bundle import DataBundle
from ..errors import ConfigError, DataError, SeedMaskError, first_line
from ..inputs import TextInput
from ..mask.layers import pruned_layers
from ..mask.prune_at_init import class_sample, find_masks, use_masks
from ..models import is_foreign
from ..models.build import build_model
from ..models.state import load_state
from ..pack import exact_network
from ..rebuild import probe_answers, require_same_answers
from ..seedmask import dumps, loads
from ..tensors import recovered_state
from .evaluate import EVAL_BATCH
from .run_options import RunOptions

__all__ = [
    "check_batch",
    "check_classes",
    "check_logits",
    "check_packing",
    "check_training",
    "clash_with_accumulation",
    "prune_before_training",
]

# Modes of torch.compile without CUDA graphs, in which gradients would be overwritten instead of added up.
_WITHOUT_GRAPHS = (None, "default", "max-autotune-no-cudagraphs")


def check_batch(batch_size: int, recipe: Recipe, options: RunOptions, processes: int) -> None:
    """Refuse a batch that cannot be divided among the processes, or computed by each in micro-batches.

    Raises:
        ConfigError: it cannot.
    """
    if batch_size < processes:
        raise ConfigError(
            f"batch of {batch_size}: {processes} processes cannot share it; start {batch_size} at most, or raise "
            "batch_size (a batch holds no more than there are training examples)"
        )
    if options.accumulate < 1:
        raise ConfigError(f"accumulate: expected at least 1, got {options.accumulate}")
    if options.accumulate == 1:
        return
    if batch_size < processes * options.accumulate:
        raise ConfigError(
            f"accumulate: a batch of {batch_size} cannot be computed in {options.accumulate} micro-batches by each of "
            f"{processes} processes; give {batch_size // processes} at most"
        )
    clash = clash_with_accumulation(recipe.train, options)
    if clash:
        raise ConfigError(f"accumulate: {clash}; leave out one of the two")


def clash_with_accumulation(settings: TrainConfig, options: RunOptions) -> str | None:
    """Why a batch cannot be computed in micro-batches, one after the other; ``None`` if it can."""
    if settings.sync_batchnorm:
        return "BatchNorm cannot be synchronised over micro-batches that are computed in turn (sync_batchnorm)"
    if options.compile not in _WITHOUT_GRAPHS:
        return f"CUDA graphs overwrite the gradients of the micro-batch before (--compile {options.compile})"
    return None


def check_classes(data: DataBundle) -> None:
    """Check that there are training examples of every class.

    Raises:
        DataError: all examples of a class are held out.
    """
    counts = torch.bincount(data.train.labels, minlength=len(data.classes))
    if not counts.all():
        raise DataError(
            f"{data.name}: all that there is of the class {data.classes[int(counts.argmin())]!r} is held out for "
            "validation: give more of it, a split val, or another --set data.validation=SHARE (0: none)"
        )


def check_logits(model: nn.Module, data: DataBundle) -> None:
    """Compute one batch, so that a model that does not fit the data fails before the first step.

    Raises:
        DataError: the model does not take it, or gives another number of classes.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise DataError(f"the model's {name} has no content (device meta); let its constructor make it on the CPU")
    expected = (2, len(data.classes))
    example, noun = torch.from_numpy(data.input.example(2)), f"{data.input.noun}s"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(example)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise DataError(f"the model cannot take {noun} of shape {tuple(example.shape[1:])}: {reason}") from None
    model.train(was_training)
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != expected:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise DataError(
            f"the model's output for 2 {noun}: expected logits {expected} ({len(data.classes)} classes of "
            f"{data.name}), got {got}"
        )


def prune_before_training(
    model: nn.Module,
    recipe: Recipe,
    data: DataBundle,
    device: torch.device,
    masks: Mapping[str, NDArray[np.bool_]] | None,
) -> None:
    """Prune, for methods that do so once, before weights are trained; for others, nothing.

    Args:
        model: on its device.
        recipe: of the run.
        data: looked at by some methods.
        device: of the model.
        masks: of a ticket, to be used instead of searching.

    Raises:
        ConfigError: a ticket for a method that finds its masks in training; SynFlow on texts.
    """
    config = recipe.subnetwork
    if not pruned_layers(model):
        if masks is not None:
            raise ConfigError(
                f"ticket: method {config.method} finds its masks in training; give one that prunes at initialisation"
            )
        return
    if masks is not None:
        use_masks(model, masks)
    elif config.prune is not None and config.prune.looks_at_data:
        count = config.prune.samples_per_class or 1
        if config.prune.random_sample:
            count = min(count * len(data.classes), len(data.train))
            pixels, labels = next(data.train.train_batches(0, count, device))
        else:
            pixels, labels = class_sample(data.train.batches(EVAL_BATCH, device), data.classes, count)
        find_masks(model, config, (data.input.normalize(pixels), labels))
    elif isinstance(data.input, TextInput):
        if config.prune is not None and config.prune.criterion == "synflow":
            raise ConfigError("synflow: it sends ones through the network, and token numbers are no amounts: take snip")
        find_masks(model, config)
    else:
        find_masks(model, config, data.input.shape)


def check_training(model: nn.Module, data: DataBundle, batch_size: int, recipe: Recipe, micro_batches: int) -> None:
    """One dry pass in training mode with the smallest micro-batch, before anything is written.

    Some models take fewer than they seem to (BatchNorm no single example), and some give something else than in
    evaluation. Buffers and the generator are left as they were.

    Args:
        model: on the CPU.
        data: to be trained on.
        batch_size: of all processes together.
        recipe: of the run.
        micro_batches: that a batch is computed in, by all processes together.

    Raises:
        ConfigError: the micro-batches are too small.
        DataError: the model does not take the data, gives no logits ``[batch, classes]``, or changes a buffer that no
            state dict holds.
    """
    size = batch_size if recipe.train.sync_batchnorm else batch_size // micro_batches
    noun, expected = data.input.noun, len(data.classes)
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    for module, own in buffers:
        module._buffers.update({name: None if value is None else value.clone() for name, value in own.items()})
    was_training = model.training
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            count = min(size, 2)
            output = model(torch.from_numpy(data.input.normalize(data.input.example(count))))
    except torch.OutOfMemoryError:
        return  # the first step has the better message
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = first_line(error)
        if size > 1:
            raise DataError(
                f"the model cannot train on {noun}s of shape {data.input.example(1).shape[1:]}: {reason}"
            ) from None
        raise ConfigError(
            f"the model cannot train on one {noun} at a time ({reason}), and a batch of {batch_size} in "
            f"{micro_batches} micro-batch{'' if micro_batches == 1 else 'es'} comes to that: raise batch_size, lower "
            f"accumulate, or take fewer processes (a batch holds no more than there are training {noun}s)"
        ) from None
    finally:
        model.train(was_training)
        lost = [name for module, own in buffers for name in _lost(module, own)]
        for module, own in buffers:
            module._buffers.update(own)
    if lost:
        raise DataError(
            f"the model changes its buffer {lost[0]!r} in training, and no state dict holds it, so a file would lose "
            "it: register it with persistent=True"
        )
    if not isinstance(output, Tensor) or output.shape != (count, expected):
        kind = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DataError(
            f"the model's output in training for {count} {noun}s: expected logits of shape {(count, expected)}, got "
            f"{kind}: give a factory whose model returns the logits alone (without auxiliary classifiers, for instance)"
        )


def _lost(module: nn.Module, before: Mapping[str, Tensor | None]) -> Iterator[str]:
    """Buffers outside the state dict that have changed."""
    for name in module._non_persistent_buffers_set:
        old, new = before.get(name), module._buffers.get(name)
        if old is not None and new is not None and not (old.shape == new.shape and _same_values(old, new)):
            yield name


def _same_values(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())


def check_packing(model: nn.Module, checkpoint: Checkpoint, where: object, *, allow_import: bool) -> None:
    """Pack, recover and rebuild a network before it is trained, so that a failure costs no training time.

    Args:
        model: the network.
        checkpoint: of it.
        where: the file that the checkpoint will be.
        allow_import: whether the model may be code of the user's.

    Raises:
        IterandError: it cannot be packed (names, types of buffers), or what is recovered is not the same network.
    """
    network, arch = exact_network(checkpoint), checkpoint.architecture
    if not is_foreign(arch) and network is None:
        return
    state = checkpoint.model if network is None else recovered_state(loads(dumps(network, coding="raw")))
    plain = build_model(arch, seed=checkpoint.recipe.subnetwork.seed, allow_import=allow_import)
    try:
        load_state(plain, state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise SeedMaskError(f"{arch.name}: the network could be packed, but not loaded again: {reason}") from None
    if is_foreign(arch):
        require_same_answers(plain, replace(checkpoint, probe=probe_answers(model, checkpoint.data.input)), where)
