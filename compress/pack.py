"""From a trained subnetwork to a ``.seedmask`` file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import CheckpointError, ConfigError, SeedMaskError
from .files.atomic import check_output
from .inputs import AnyInput
from .mask.codes import codes_of
from .mask.layers import masked_layers, pruned_layers
from .mask.masked_weight import fixed_by_seed, multiples
from .mask.spec import WeightSpec, spec_from_state
from .mask.topk import select
from .methods.biprop import alpha
from .methods.signed_supermask import inverted_bytes
from .models import resolve
from .models.from_shapes import count_classes, first_difference
from .models.state import foldable_batch_norms, plain_state, require_module, unused_counters
from .seed.codebooks import get_codebook, random_bytes_at
from .seed.frozen import Frozen
from .seed.philox import random_bytes
from .seed.philox_torch import random_weights
from .seedmask import MaskedTensor, Network, PackReport, quantise, write_seedmask
from .seedmask.state_dtype import StateRounding, round_state
from .tensors import check_content, to_stored

__all__ = [
    "MaskedKeys",
    "exact_network",
    "masked_keys",
    "network_of",
    "network_of_checkpoint",
    "pack",
    "trained_error",
    "with_form",
    "with_state_dtype",
]

# Before "original", "0.mask" and the like, what torch calls the state of a parametrized tensor. Others than ours put
# such state there, too; ours is known by what its extra state holds.
_PREFIX = re.compile(r"((?:.+\.)?)parametrizations\.([^.]+)\.")
_EXTRA = "0._extra_state"


@dataclass(frozen=True)
class MaskedKeys:
    """Where the state dict of a subnetwork holds a masked weight.

    Attributes:
        name: of the weight in the plain model.
        prefix: of its keys.
        spec: of the weight.
        first: whether it is the first name of the layer, which may have several.
    """

    name: str
    prefix: str
    spec: WeightSpec
    first: bool

    @property
    def original(self) -> str:
        """The key of its scores, or of the weights that are trained."""
        return f"{self.prefix}original"


def masked_keys(state: Mapping[str, Any]) -> tuple[list[MaskedKeys], dict[str, Any]]:
    """Tell the masked weights of a state dict from the rest of it.

    Args:
        state: of a masked module.

    Returns:
        The masked weights by their index, second names behind all of them; and the entries of all others.

    Raises:
        SeedMaskError: layers of several subnetworks are mixed.
        CheckpointError: the state is damaged.
    """
    by_index: dict[int, MaskedKeys] = {}
    second: list[MaskedKeys] = []
    for key, value in state.items():
        match = _PREFIX.fullmatch(key.removesuffix(_EXTRA))
        if match is None or not key.endswith(_EXTRA) or not isinstance(value, dict) or "codebook" not in value:
            continue
        spec = spec_from_state(value)
        keys = MaskedKeys(match[1] + match[2], match[0], spec, first=spec.tensor not in by_index)
        other = by_index.setdefault(spec.tensor, keys)
        if other is not keys:
            if not _same_layer(state, keys, other):
                raise SeedMaskError(
                    f"layers {other.name} and {keys.name} have the same random weights (index {spec.tensor}); "
                    "Subnetwork() was created on parts of this model: create it once, on the whole"
                )
            second.append(keys)
    if len({keys.spec.seed for keys in by_index.values()}) > 1 or sorted(by_index) != list(range(len(by_index))):
        raise SeedMaskError(
            "expected the layers of one subnetwork, got a mixture; create Subnetwork() on the whole model"
        )
    masked = [*(by_index[index] for index in range(len(by_index))), *second]
    prefixes = {keys.prefix: keys.name for keys in masked}
    rest = {}
    for key, value in state.items():
        match = _PREFIX.match(key)
        if match is None or match[0] not in prefixes:
            rest[key] = value
        elif key.removeprefix(match[0]).startswith("1."):
            raise SeedMaskError(f"{prefixes[match[0]]}: has another parametrization on top of the mask; remove it")
    return masked, rest


def _same_layer(state: Mapping[str, Any], one: MaskedKeys, other: MaskedKeys) -> bool:
    """Whether two names are those of one layer: nothing that belongs to the weight differs."""
    parts = [
        {key.removeprefix(keys.prefix): value for key, value in state.items() if key.startswith(keys.prefix)}
        for keys in (one, other)
    ]
    return parts[0].keys() == parts[1].keys() and all(
        value.is_meta or torch.equal(value, parts[1][key]) if isinstance(value, Tensor) else value == parts[1][key]
        for key, value in parts[0].items()
    )


def network_of(
    state: Mapping[str, Any],
    *,
    architecture: dict[str, Any] | None = None,
    input: AnyInput | None = None,  # noqa: A002
    classes: list[str] | None = None,
    recipe: dict[str, Any] | None = None,
    with_weights: str | None = None,
) -> Network:
    """Read seed, masks, draws and unmasked state off the state dict of a subnetwork.

    Of a network that was pruned at initialisation this is the ticket, whose weights are those it started from, or, with
    ``with_weights``, the trained network.

    Args:
        state: ``model.state_dict()`` of a masked module; on any device.
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
    masked, rest = masked_keys(state)
    if not masked:
        raise SeedMaskError(
            "nothing to pack: the network has no masked weights (a densely trained one cannot be recovered from a "
            "seed; export it from its checkpoint instead)"
        )
    tensors: list[MaskedTensor] = []
    for keys in masked:
        name, spec = keys.name, keys.spec
        original: Tensor = check_content(state[keys.original], name).detach().cpu().reshape(-1)
        if original.numel() != math.prod(spec.shape):
            raise CheckpointError(f"{name}: expected {math.prod(spec.shape)} scores, got {original.numel()}")
        if not keys.first:
            tensors.append(_again(name, tensors[spec.tensor], spec))
        elif spec.selection == "unpruned":
            raise SeedMaskError(
                f"{name}: was never pruned, so there is no mask to pack: call prune_at_init(subnet, …) after "
                "Subnetwork(model, config), and train it then"
            )
        elif spec.selection == "fixed":
            tensors.append(_ticket(name, spec, original, state[f"{keys.prefix}0.mask"].cpu(), with_weights))
        elif with_weights is not None:
            raise SeedMaskError(
                f"{name}: the weights of a subnetwork are not trained, they follow from the seed; "
                "leave out --with-weights"
            )
        else:
            buffers = {key: state.get(f"{keys.prefix}0.{key}") for key in ("draws", "current")}
            tensors.append(_subnetwork_tensor(name, spec, original, **buffers))
    return Network(
        seed=masked[0].spec.seed,
        tensors=tuple(tensors),
        state={name: to_stored(value, name) for name, value in rest.items()},
        architecture=architecture,
        input=input,
        classes=classes,
        recipe=recipe,
    )


def _again(name: str, tensor: MaskedTensor, spec: WeightSpec) -> MaskedTensor:
    """The same weights under a second name: its index has other random numbers, so they are told by their bytes."""
    current = None if tensor.trained is not None else _bytes(tensor, spec)
    return replace(tensor, name=name, draws=None, current=current, frozen=None)


def _bytes(tensor: MaskedTensor, spec: WeightSpec) -> NDArray[np.uint8]:
    """The byte that each weight of a tensor stands for, uint8 ``[n]``."""
    if tensor.current is not None:
        return tensor.current
    if tensor.draws is None:
        return random_bytes(spec.seed, 0, tensor.weights, draw=0, tensor=spec.tensor)
    return random_bytes_at(spec.seed, spec.tensor, np.arange(tensor.weights), tensor.draws)


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
    fixed = fixed_by_seed(spec, scores.device)
    mask = select(scores, spec.kept, spec.selection, fixed)
    codebook, scale = spec.codebook, np.float32(spec.scale)
    if spec.binarised:
        # Of every codebook, bytes below 128 are the negative ones: sign(w) is the signed constant of the same byte.
        codes = codes_of(spec, draws, current)
        codebook, scale = "signed-constant", np.float32(alpha(codes, mask, spec.scale, spec.kept).item())
    tensor = MaskedTensor(
        name=name,
        shape=spec.shape,
        codebook=codebook,
        scale=scale,
        mask=mask.numpy(),
        draws=draws.cpu().numpy() if draws is not None and current is None else None,
        current=current.cpu().numpy() if current is not None else None,
        frozen=Frozen(*spec.frozen) if spec.frozen != (0, 0) else None,
        multiplicity=multiples(scores, spec, fixed).numpy() if spec.multiplicity > 1 else None,
    )
    if spec.selection == "invert":
        raw = torch.from_numpy(_bytes(tensor, spec))
        tensor = replace(tensor, draws=None, current=inverted_bytes(raw, scores).numpy())
    return tensor


def network_of_checkpoint(checkpoint: Checkpoint, *, with_weights: str | None = None) -> Network:
    """The network in a checkpoint, with everything its file tells about it. Local paths stay behind."""
    data = checkpoint.data
    return network_of(
        checkpoint.model,
        architecture=checkpoint.architecture.to_dict(),
        input=data.input,
        classes=data.classes,
        recipe=checkpoint.recipe.model_dump(mode="json", exclude_none=True),
        with_weights=with_weights,
    )


def exact_network(checkpoint: Checkpoint) -> Network | None:
    """The network in a checkpoint with all trained values as they are; ``None`` for one without masks."""
    config = checkpoint.recipe.subnetwork
    if not config.has_masks:
        return None
    return network_of_checkpoint(checkpoint, with_weights="float32" if config.selection is None else None)


def trained_error(network: Network, checkpoint: Checkpoint) -> tuple[float, str | None]:
    """What rounding trained weights cost: the largest absolute error, and the tensor that has it.

    Args:
        network: of the checkpoint.
        checkpoint: it holds the exact weights.

    Returns:
        0 and ``None`` if nothing was rounded, or there are no trained weights.
    """
    worst, where = 0.0, None
    masked, _ = masked_keys(checkpoint.model)
    for tensor, keys in zip(network.tensors, masked, strict=True):
        if tensor.trained is not None:
            exact: Tensor = checkpoint.model[keys.original].to(torch.float32).reshape(-1)
            error = tensor.trained.largest_error(exact.numpy(), tensor.mask)
            if error > worst:
                worst, where = error, tensor.name
    return worst, where


def with_state_dtype(network: Network, dtype: str, model: nn.Module | None = None) -> tuple[Network, StateRounding]:
    """The network with its state in another dtype (see ``round_state``), and what that costs. Masks do not change.

    Args:
        network: what is to be packed.
        dtype: one of ``STATE_DTYPES``.
        model: a module of its architecture, which tells ``folded`` where BatchNorm is.

    Raises:
        ConfigError: there is no such choice, or it is ``folded`` without a model.
        SeedMaskError: a value of the state does not fit the dtype.
    """
    folded = dtype == "folded"
    if folded and model is None:
        raise ConfigError("state dtype 'folded': only the model tells where BatchNorm is: give --model NAME")
    batch_norms = foldable_batch_norms(model) if folded and model is not None else None
    state, rounding = round_state(network.state, dtype, batch_norms)
    return replace(network, state=state, constants=folded), rounding


def with_form(network: Network, form: str, model: nn.Module | None, *, bare: bool = False) -> Network:
    """The network in the form of a file. Weights do not change.

    Args:
        network: what is to be packed.
        form: ``json``, or ``compact``, which leaves out how many batches BatchNorm has seen, where nothing reads that;
            a network that is loaded has 0 there.
        model: a module of its architecture, which tells what reads it; ``None`` keeps the counters.
        bare: leave out recipe and class names.

    Raises:
        ConfigError: there is no such form.
    """
    unused = unused_counters(model) if form == "compact" and model is not None else set()
    return replace(
        network,
        form=form,
        state={name: stored for name, stored in network.state.items() if name not in unused},
        classes=None if bare else network.classes,
        recipe=None if bare else network.recipe,
    )


def pack(
    model: nn.Module,
    path: str | Path,
    *,
    coding: str = "auto",
    state_dtype: str = "exact",
    with_weights: str | None = None,
    form: str = "json",
    input: AnyInput | None = None,  # noqa: A002
    classes: Sequence[str] | None = None,
    architecture: str | ModelConfig | Mapping[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
) -> PackReport:
    """Write a subnetwork to a ``.seedmask`` file.

    The weights alone need no more than ``model`` and ``path``. With ``input`` the command line evaluates and exports
    the file, with ``classes`` it names what it sees, and with ``architecture`` it builds the network by itself; without
    that, give it ``--model NAME``.

    Args:
        model: a masked module; what wraps it (``DataParallel``, ``torch.compile``) is left out.
            The file holds its state dict; see `recover` for what a constructor keeps beside that.
        path: the file; replaced atomically.
        coding: of masks and logs: ``auto`` (as small as it gets), ``raw`` or ``rans``.
        state_dtype: ``exact``, or ``float16`` to round the unmasked state, which changes outputs a little, or
            ``folded`` to put BatchNorm's statistics into its weight and bias before that: the smallest file, for
            inference alone, as training cannot go on sensibly from mean 0 and variance 1. Layers that lack one of these
            tensors, share one, or compute something of their own are rounded as they are.
        with_weights: of a network that was pruned at initialisation, as in ``network_of``; ``initial`` packs the ticket
            alone, whose weights are those it started from.
        form: of the file: ``json``, which any reader of safetensors can list, or ``compact``, which is smaller by some
            kilobytes and restores BatchNorm's ``num_batches_tracked`` as 0 where nothing reads it; see `with_form`.
        input: `ImageInput` or `TextInput`: what the network takes, and how images are normalised.
        classes: names of the classes, in the order of the outputs.
        architecture: the plain module's name, as ``--model`` takes it (``torchvision:resnet18``, ``resnet18``,
            ``package.module:factory``), or a `ModelConfig` with its width and the like; it is built for a moment and
            compared. It needs ``input``; the number of classes shows in the shapes, or is that of ``classes``.
        recipe: settings of the run, for information.

    Raises:
        SeedMaskError: there is nothing to pack, trained weights would be lost, a value of the state does not fit its
            dtype, or the file cannot be written.
        ConfigError: ``model`` is no module; there is no such coding, dtype or form; something else was put on top of a
            mask; the model is of another architecture, or ``input`` is missing for it.

    Example:
        >>> import tempfile, torchvision, iterand_compress as ic
        >>> subnet = ic.Subnetwork(torchvision.models.squeezenet1_1(num_classes=2), ic.IteRand(sparsity=0.5))
        >>> image = ic.ImageInput((3, 64, 64), mean=0.5, std=0.25)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/m.seedmask"
        ...     _ = subnet.pack(path, input=image, classes=["cat", "dog"], architecture="torchvision:squeezenet1_1")
        ...     plain = ic.load(path)
        >>> type(plain).__name__
        'SqueezeNet'
    """
    require_module(model)
    check_output(path, kind="seedmask")
    if not isinstance(input, AnyInput | None):
        raise ConfigError(
            f"input: expected an ImageInput or a TextInput, got {type(input).__name__}: leave it out for other "
            "networks, and give export_onnx() an example"
        )
    masked_layers(model), pruned_layers(model)  # which look for what a state dict does not show
    if with_weights is None:
        _require_untrained(model)
    values = None if with_weights == "initial" else with_weights
    network = network_of(
        plain_state(model),
        architecture=dict(architecture) if isinstance(architecture, Mapping) else None,
        input=input,
        classes=None if classes is None else list(classes),
        recipe=recipe,
        with_weights=values,
    )
    if isinstance(architecture, str | ModelConfig):
        network = _with_architecture(network, architecture)
    network, _ = with_state_dtype(with_form(network, form, model), state_dtype, model)
    return write_seedmask(network, Path(path), coding=coding)


def _with_architecture(network: Network, model: str | ModelConfig) -> Network:
    """The network with the architecture of a name, after a look at whether it is that."""
    config = ModelConfig(name=model) if isinstance(model, str) else model
    if network.input is None:
        raise ConfigError(
            f"architecture: {config.name} is built for what it takes: give input=ImageInput(shape, mean, std), or a "
            "TextInput, as well"
        )
    shapes = {tensor.name: tensor.shape for tensor in network.tensors}
    shapes |= {name: stored.shape for name, stored in network.state.items()}
    if network.classes is None:
        count = count_classes(config, shapes, input=network.input, allow_import=True)
    else:
        count = len(network.classes)
    architecture = resolve(config, num_classes=1 if count is None else count, input=network.input)
    difference = first_difference(architecture, shapes, allow_import=True)
    if difference is not None:
        what = config.name if count is None else f"{config.name} for {count} classes"
        raise ConfigError(
            f"architecture: the model is not {what}: {difference}; leave architecture= out, and give the module itself "
            "to load()"
        )
    if count is None:
        raise ConfigError(f"architecture: {config.name} does not show its number of classes: give classes= as well")
    return replace(network, architecture=architecture.to_dict())


def _require_untrained(model: nn.Module) -> None:
    """Refuse a ticket whose kept weights are no longer those that the seed gives."""
    for name, pruned, weight in pruned_layers(model):
        spec, kept = pruned.spec, pruned.mask
        book, scale = get_codebook(spec.codebook), np.float32(spec.scale)
        initial = random_weights(spec.seed, spec.tensor, book, scale, kept.numel(), kept.device).to(weight.dtype)
        if not torch.equal(weight.detach().reshape(-1)[kept], initial[kept]):
            raise SeedMaskError(
                f"{name}: its weights were trained, and would be lost: give with_weights='float32' (exact), 'float16' "
                "or 'int8' to keep them, or with_weights='initial' to pack the ticket with what it started from"
            )
