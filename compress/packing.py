"""From a trained subnetwork to a ``.seedmask`` file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .codebooks import get_codebook
from .codes import codes_of
from .errors import CheckpointError, SeedMaskError
from .generator import random_weights
from .masked_weight import coats_of, fixed_of
from .methods.biprop import alpha
from .selection import select
from .state import plain_state
from .storage import Frozen, InputSpec, MaskedTensor, Network, PackReport, TextInput, quantise, write_seedmask
from .storage.state_dtype import StateRounding, round_state
from .subnetwork import pruned_layers
from .tensors import to_stored
from .training.checkpoint import Checkpoint, DataInfo
from .weight_spec import WeightSpec, spec_from_state

__all__ = ["network_of", "network_of_checkpoint", "pack", "trained_error", "with_state_dtype"]

_MARK = ".parametrizations.weight."


def network_of(
    state: Mapping[str, Any],
    *,
    architecture: dict[str, Any] | None = None,
    input: InputSpec | TextInput | None = None,  # noqa: A002
    classes: list[str] | None = None,
    recipe: dict[str, Any] | None = None,
    with_weights: str | None = None,
) -> Network:
    """Read seed, masks, draws and unmasked state off the state dict of a subnetwork.

    Of a network that was pruned at initialisation this is the ticket, whose weights are those it started from, or, with
    ``with_weights``, the trained network.

    Args:
        state: ``model.state_dict()`` of a module made by ``make_subnetwork``; on any device.
        architecture: what ``build_model`` needs to build the plain module.
        input: shape and normalisation of an image, or the tokeniser of a text.
        classes: names of the classes.
        recipe: settings of the run, for information.
        with_weights: also take the trained values of kept weights: ``float32`` (exact), ``float16`` or ``int8``, one
            scale for each row (both round).

    Raises:
        SeedMaskError: nothing is masked, or layers of several subnetworks are mixed; there are no trained weights.
        CheckpointError: the state is damaged.
    """
    layers: dict[int, tuple[str, WeightSpec]] = {}
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, mark, part = ("." + key).partition(_MARK)
        layer = prefix.removeprefix(".")
        if not mark:
            rest[key] = value
        elif part == "0._extra_state":
            spec = spec_from_state(value)
            name = f"{layer}.weight" if layer else "weight"
            if layers.setdefault(spec.tensor, (name, spec)) != (name, spec):
                raise SeedMaskError(
                    f"layers {layers[spec.tensor][0]} and {name} have the same random weights (index {spec.tensor}); "
                    "make_subnetwork() was called on parts of this model: call it once, on the whole"
                )
    if not layers:
        raise SeedMaskError(
            "nothing to pack: the network has no masked weights (a densely trained one cannot be recovered from a "
            "seed; export it from its checkpoint instead)"
        )
    seeds = {spec.seed for _, spec in layers.values()}
    if len(seeds) != 1 or sorted(layers) != list(range(len(layers))):
        raise SeedMaskError(
            "expected the layers of one subnetwork, got a mixture; call make_subnetwork() on the whole model"
        )
    tensors = []
    for index in range(len(layers)):
        name, spec = layers[index]
        prefix = name.removesuffix("weight") + "parametrizations.weight."
        original: Tensor = state[prefix + "original"].detach().cpu().reshape(-1)
        if original.numel() != math.prod(spec.shape):
            raise CheckpointError(f"{name}: expected {math.prod(spec.shape)} scores, got {original.numel()}")
        if spec.selection == "unpruned":
            raise SeedMaskError(
                f"{name}: was never pruned, so there is no mask to pack: call find_ticket(model, config, inputs) after "
                "make_subnetwork(model, config), and train it then"
            )
        if spec.selection == "fixed":
            tensors.append(_ticket(name, spec, original, state[prefix + "0.mask"].cpu(), with_weights))
        elif with_weights is not None:
            raise SeedMaskError(
                f"{name}: the weights of a subnetwork are not trained, they follow from the seed; "
                "leave out --with-weights"
            )
        else:
            buffers = {part: state.get(f"{prefix}0.{part}") for part in ("draws", "current")}
            tensors.append(_subnetwork_tensor(name, spec, original, **buffers))
    return Network(
        seed=seeds.pop(),
        tensors=tuple(tensors),
        state={name: to_stored(value, name) for name, value in rest.items()},
        architecture=architecture,
        input=input,
        classes=classes,
        recipe=recipe,
    )


def _ticket(name: str, spec: WeightSpec, weights: Tensor, mask: Tensor, with_weights: str | None) -> MaskedTensor:
    """A tensor that was pruned at initialisation."""
    kept = mask.numpy()
    trained = None
    if with_weights is not None:
        trained = quantise(weights.to(torch.float32).numpy(), kept, spec.shape, with_weights)
    return MaskedTensor(name, spec.shape, spec.codebook, np.float32(spec.scale), kept, trained=trained)


def _subnetwork_tensor(
    name: str, spec: WeightSpec, scores: Tensor, draws: Tensor | None, current: Tensor | None
) -> MaskedTensor:
    """A tensor whose mask follows from scores."""
    fixed = fixed_of(spec, scores.device)
    mask = select(scores, spec.kept, spec.selection, fixed)
    codebook, scale = spec.codebook, np.float32(spec.scale)
    if spec.binarised:
        # Of every codebook, bytes below 128 are the negative ones: sign(w) is the signed constant of the same byte.
        codes = codes_of(spec, draws, current)
        codebook, scale = "signed-constant", np.float32(alpha(codes, mask, spec.scale, spec.kept).item())
    return MaskedTensor(
        name=name,
        shape=spec.shape,
        codebook=codebook,
        scale=scale,
        mask=mask.numpy(),
        draws=draws.cpu().numpy() if draws is not None and current is None else None,
        current=current.cpu().numpy() if current is not None else None,
        frozen=Frozen(*spec.frozen) if spec.frozen != (0, 0) else None,
        coats=coats_of(scores, spec, fixed).numpy() if spec.coats > 1 else None,
    )


def network_of_checkpoint(checkpoint: Checkpoint, *, with_weights: str | None = None) -> Network:
    """The network in a checkpoint, with everything its file tells about it. Local paths stay behind."""
    data = checkpoint.data
    return network_of(
        checkpoint.model,
        architecture=checkpoint.architecture.to_dict(),
        input=_input_of(data),
        classes=data.classes,
        recipe=checkpoint.recipe.model_dump(exclude_none=True),
        with_weights=with_weights,
    )


def trained_error(network: Network, checkpoint: Checkpoint) -> tuple[float, str | None]:
    """What rounding trained weights cost: the largest absolute error, and the tensor that has it.

    Args:
        network: of the checkpoint.
        checkpoint: it holds the exact weights.

    Returns:
        0 and ``None`` if nothing was rounded, or there are no trained weights.
    """
    worst, where = 0.0, None
    for tensor in network.tensors:
        if tensor.trained is not None:
            key = f"{tensor.name.removesuffix('weight')}parametrizations.weight.original"
            exact: Tensor = checkpoint.model[key].to(torch.float32).reshape(-1)
            error = tensor.trained.largest_error(exact.numpy(), tensor.mask)
            if error > worst:
                worst, where = error, tensor.name
    return worst, where


def _input_of(data: DataInfo) -> InputSpec | TextInput:
    if data.text is not None:
        return TextInput(**data.text.to_dict())
    return InputSpec(shape=data.image_shape, mean=data.mean, std=data.std)


def with_state_dtype(network: Network, dtype: str) -> tuple[Network, StateRounding]:
    """The network with its state in another dtype (see ``round_state``), and what that costs. Masks do not change.

    Raises:
        ConfigError: there is no such choice.
        SeedMaskError: a value of the state does not fit the dtype.
    """
    state, rounding = round_state(network.state, dtype)
    return replace(network, state=state), rounding


def pack(
    model: nn.Module,
    path: str | Path,
    *,
    coding: str = "auto",
    state_dtype: str = "exact",
    with_weights: str | None = None,
    **about: Any,
) -> PackReport:
    """Write a subnetwork to a ``.seedmask`` file.

    Args:
        model: a module made by ``make_subnetwork``; what wraps it (``DataParallel``, ``torch.compile``) is left out.
            The file holds its state dict; see `recover` for what a constructor keeps beside that.
        path: the file; replaced atomically.
        coding: of masks and logs: ``auto`` (as small as it gets), ``raw`` or ``rans``.
        state_dtype: ``exact``, or ``float16`` to round the unmasked state, which changes outputs a little.
        with_weights: of a network that was pruned at initialisation, as in ``network_of``; ``initial`` packs the ticket
            alone, whose weights are those it started from.
        about: ``architecture``, ``input``, ``classes``, ``recipe`` as in ``network_of``.

    Raises:
        SeedMaskError: there is nothing to pack, trained weights would be lost, a value of the state does not fit its
            dtype, or the file cannot be written.
        ConfigError: there is no such coding or dtype.
    """
    if with_weights is None:
        _require_untrained(model)
    values = None if with_weights == "initial" else with_weights
    network, _ = with_state_dtype(network_of(plain_state(model), with_weights=values, **about), state_dtype)
    return write_seedmask(network, Path(path), coding=coding)


def _require_untrained(model: nn.Module) -> None:
    """Refuse a ticket whose kept weights are no longer those that the seed gives."""
    for name, part, weight in pruned_layers(model):
        spec, kept = part.spec, part.mask
        book, scale = get_codebook(spec.codebook), np.float32(spec.scale)
        initial = random_weights(spec.seed, spec.tensor, book, scale, kept.numel(), kept.device).to(weight.dtype)
        if not torch.equal(weight.detach().reshape(-1)[kept], initial[kept]):
            raise SeedMaskError(
                f"{name}: its weights were trained, and would be lost: give with_weights='float32' (exact), 'float16' "
                "or 'int8' to keep them, or with_weights='initial' to pack the ticket with what it started from"
            )
