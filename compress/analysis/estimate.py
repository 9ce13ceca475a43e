"""How large a ``.seedmask`` file will be, before anything is trained."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import ModelConfig, Recipe, SubnetworkConfig
from ..errors import ConfigError
from ..inputs import AnyInput
from ..mask.masking import mask_model
from ..mask.topk import kept_count
from ..models import AnyArchitecture, resolve
from ..models.copying import independent_copy
from ..models.from_shapes import skeleton
from ..pack import MaskedKeys, masked_keys, with_form, with_state_dtype
from ..seed.frozen import Frozen, frozen_masks
from ..seed.philox import random_bytes
from ..seedmask import MaskedTensor, Network, dumps, loads
from ..tensors import to_stored
from .flops import count_multiply_adds

__all__ = ["DEFAULT_REDRAWN", "Estimate", "LayerEstimate", "draw_distribution", "estimate"]

#: Share of the kept weights that no longer have their first value if nothing else is known. Redrawn by IteRand: about
#: half in runs of full length (39,000 steps, 130 events, sparsity 0.6), fewer in shorter ones. Recycled: a third, as in
#: a run of 12 epochs with five recyclings of a fifth (benchmarks/methods.py). Inverted: as in 30 epochs on the digits.
DEFAULT_REDRAWN = {"resample": 0.5, "recycle": 0.33, "invert": 0.2, "none": 0.0}

# Draw counts 1, 2, 3 of kept weights that were redrawn, measured in a full-length IteRand run (where 61 % had not been
# redrawn); what is left of the probability falls off geometrically up to 22, the largest count seen there.
_FIRST_DRAWS = (0.11 / 0.39, 0.07 / 0.39, 0.06 / 0.39)
_DECAY, _LARGEST_DRAW = 0.72, 22
#: Weights of a tensor that are packed; the sizes of larger tensors are extrapolated from so many.
SAMPLE = 1 << 18


@dataclass(frozen=True)
class LayerEstimate:
    """A masked tensor of the estimated file.

    Attributes:
        name: of the tensor.
        shape: its shape.
        weights: number of weights.
        kept: how many are not pruned; exact, unless one threshold holds for all layers.
        mask_bytes: size of the mask, estimated.
        log_bytes: size of the resampling log, estimated.
        coat_bytes: size of the multiplicities of multicoated masks, estimated.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    mask_bytes: int
    log_bytes: int
    coat_bytes: int


@dataclass(frozen=True)
class Estimate:
    """Size of the file that training and packing will make.

    Attributes:
        architecture: of the network.
        layers: its masked tensors.
        distribution: of the random weights.
        redrawn: share of kept weights assumed to have another value than at first.
        change: how they come by it: ``redrawn``, ``overwritten`` or ``inverted``.
        state_bytes: size of the unmasked state in the file; exact.
        expanded_state_bytes: its size when the file is open.
        header_bytes: size of header and manifest, estimated.
        multiply_adds: multiplications of the dense network for one example, each with its addition (MACs; FLOPs are
            twice as many); ``None`` if it does not run on one example.
        kept_multiply_adds: how many of them are with kept weights, or between activations.
    """

    architecture: AnyArchitecture
    layers: tuple[LayerEstimate, ...]
    distribution: str
    redrawn: float
    change: str
    state_bytes: int
    expanded_state_bytes: int
    header_bytes: int
    multiply_adds: int | None
    kept_multiply_adds: int | None

    @property
    def weights(self) -> int:
        """Number of masked weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        """How many of them are not pruned."""
        return sum(layer.kept for layer in self.layers)

    @property
    def mask_bytes(self) -> int:
        """Size of all masks, estimated."""
        return sum(layer.mask_bytes for layer in self.layers)

    @property
    def log_bytes(self) -> int:
        """Size of all resampling logs, estimated."""
        return sum(layer.log_bytes for layer in self.layers)

    @property
    def coat_bytes(self) -> int:
        """Size of all multiplicities, estimated."""
        return sum(layer.coat_bytes for layer in self.layers)

    @property
    def file_bytes(self) -> int:
        """Size of the file, estimated."""
        return self.mask_bytes + self.log_bytes + self.coat_bytes + self.state_bytes + self.header_bytes

    @property
    def dense_bytes(self) -> int:
        """Size of the same tensors with weights as float32, without a header."""
        return 4 * self.weights + self.expanded_state_bytes


def estimate(
    model: ModelConfig,
    subnetwork: SubnetworkConfig,
    *,
    num_classes: int,
    input: AnyInput,  # noqa: A002
    redrawn: float | None = None,
    bare: bool = False,
    state_dtype: str = "exact",
    allow_import: bool = False,
) -> Estimate:
    """Pack a synthetic network with independent random masks and redraws, and tell the sizes in its file.

    Trained masks are close to that: coders that model their structure gained 2 % at most. No memory is allocated for
    weights, unless the model cannot be built without; of large tensors a sample is packed.

    Args:
        model: the architecture.
        subnetwork: method, distribution and sparsity.
        num_classes: outputs.
        input: the images or texts that the network takes.
        redrawn: share of the kept weights that are redrawn, overwritten or inverted; by default `DEFAULT_REDRAWN`.
        bare: whether the file is packed in the compact form, without recipe and class names.
        state_dtype: what the unmasked state is stored as, see `round_state`.
        allow_import: whether the model's name may be ``package.module:factory``.

    Raises:
        ConfigError: the settings make no sense, or the method leaves weights that no seed determines.
    """
    if not subnetwork.has_masks:
        raise ConfigError(f"method: {subnetwork.method} trains the weights, so there is no .seedmask file to estimate")
    inverts = subnetwork.selection is not None and subnetwork.selection.rule == "invert"
    kind = "invert" if inverts else "resample" if subnetwork.resample else "recycle" if subnetwork.recycle else "none"
    change = "inverted" if inverts else "overwritten" if subnetwork.recycle else "redrawn"
    share = DEFAULT_REDRAWN[kind] if redrawn is None else redrawn
    if not 0 <= share <= 1:
        raise ConfigError(f"redrawn: expected a share from 0 to 1 of the kept weights, got {share}")
    if share and kind == "none":
        raise ConfigError(f"redrawn: {subnetwork.method} redraws nothing; leave it out, or use --method iterand")
    architecture = resolve(model, num_classes=num_classes, input=input)
    plain = skeleton(architecture, seed=subnetwork.seed, allow_import=allow_import)
    masked, rest = masked_keys(mask_model(independent_copy(plain), subnetwork).state_dict())
    kept = [
        kept_count(keys.spec.selectable, subnetwork.sparsity, keys.name)
        if keys.spec.selection in ("fixed", "unpruned")
        else keys.spec.kept
        for keys in masked
    ]
    network = Network(
        seed=subnetwork.seed,
        tensors=tuple(_tensor(i, keys, kept[i], share, change) for i, keys in enumerate(masked)),
        state={name: to_stored(_values_like(value), name) for name, value in rest.items()},
        architecture=architecture.to_dict(),
        input=input,
        classes=[f"class {i}" for i in range(num_classes)],
        recipe=Recipe(model=model, subnetwork=subnetwork).model_dump(exclude_none=True),
    )
    if bare:
        network = with_form(network, "compact", plain, bare=True)
    network, state = with_state_dtype(network, state_dtype, plain)
    content = dumps(network)
    entries = loads(content, verify=False).tensors
    payloads = sum(entry.mask.bytes + entry.log.bytes + entry.coat_bits // 8 for entry in entries)
    layers = []
    for keys, number, entry in zip(masked, kept, entries, strict=True):
        weights = math.prod(keys.spec.shape)
        sizes = entry.mask.bytes, entry.log.bytes, entry.coat_bits // 8
        scaled = (-(-size * weights // entry.weights) for size in sizes)
        layers.append(LayerEstimate(keys.name, keys.spec.shape, weights, number, *scaled))
    counts: tuple[int, int] | tuple[None, None] = None, None
    with suppress(Exception):  # a network of the user's may raise anything, and the sizes are known all the same
        counts = count_multiply_adds(plain, input, {layer.name: (layer.weights, layer.kept) for layer in layers})
    return Estimate(
        architecture,
        tuple(layers),
        subnetwork.distribution,
        share,
        change,
        state.bytes,
        sum(stored.data.nbytes for stored in network.state.values()),
        len(content) - payloads - state.bytes,
        *counts,
    )


def _values_like(tensor: torch.Tensor) -> torch.Tensor:
    """Values that float16 holds, any of them fit to be variances, and not all the same, as such a file has one."""
    return torch.linspace(0.5, 1, tensor.numel()).reshape(tensor.shape).to(tensor.dtype)


def _tensor(index: int, keys: MaskedKeys, kept: int, redrawn: float, change: str) -> MaskedTensor:
    """A tensor with a random mask and random redraws; of a large one, a flat sample of `SAMPLE` weights.

    Args:
        index: of the tensor in the network.
        keys: name and spec of the weight.
        kept: number of weights that the mask keeps of the whole tensor.
        redrawn: share of the kept weights that do not have their first value.
        change: how they come by another one, see `Estimate`.
    """
    spec, generator = keys.spec, np.random.default_rng(index)
    weights = math.prod(spec.shape)
    count = min(weights, SAMPLE)
    frozen = Frozen(*spec.frozen) if keys.first and spec.frozen != (0, 0) else None
    mask = _mask(spec.seed, index, count, kept / weights, frozen, generator)
    codebook = "signed-constant" if spec.binarised else spec.codebook
    draws = current = None
    if change != "redrawn" or not keys.first:  # the bytes of a second name of a layer have nothing to do with its own
        changed = generator.random(count) < (redrawn if keys.first else 1.0)
        own = random_bytes(spec.seed, 0, count, draw=0, tensor=index)
        other = ~own if change == "inverted" and keys.first else generator.integers(0, 256, count, np.uint8)
        current = np.where(changed, other, own)
    elif redrawn:
        shares = draw_distribution(redrawn)
        draws = generator.choice(len(shares), count, p=shares).astype(np.uint8)
    # Each nested mask keeps the same number of weights fewer than the one before it.
    multiplicity = generator.integers(1, spec.multiplicity + 1, count, np.uint8) if spec.multiplicity > 1 else None
    shape = spec.shape if count == weights else (count,)
    return MaskedTensor(keys.name, shape, codebook, np.float32(spec.scale), mask, draws, current, frozen, multiplicity)


def _mask(
    seed: int, index: int, count: int, density: float, frozen: Frozen | None, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """A random mask, bool ``[count]``, that keeps the share ``density`` and agrees with frozen weights."""
    mask = np.zeros(count, np.bool_)
    free = np.arange(count)
    if frozen is not None:
        pruned, mask = frozen_masks(seed, index, frozen, count)
        free = np.flatnonzero(~pruned & ~mask)
    missing = min(max(round(count * density) - int(mask.sum()), 0), len(free))
    mask[generator.choice(free, missing, replace=False)] = True
    return mask


def draw_distribution(redrawn: float) -> NDArray[np.float64]:
    """Probability of each draw of a kept weight, float64 ``[23]``, if the share ``redrawn`` is not at draw 0."""
    tail = _DECAY ** np.arange(_LARGEST_DRAW - len(_FIRST_DRAWS))
    tail *= (1 - sum(_FIRST_DRAWS)) / tail.sum()
    return np.concatenate([[1 - redrawn], redrawn * np.array(_FIRST_DRAWS), redrawn * tail])
