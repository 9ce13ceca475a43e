"""How large a ``.seedmask`` file will be, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..config import ModelConfig, Recipe, SubnetworkConfig
from ..errors import ConfigError, IterandError
from ..inputs import AnyInput
from ..mask.layers import masked_layers, pruned_layers
from ..mask.masking import make_subnetwork
from ..mask.topk import kept_count
from ..methods import resolve as resolve_method
from ..models import AnyArchitecture, build_model, resolve
from ..pack import masked_keys
from ..seed.codebooks import get_codebook
from ..seedmask.bits import Row
from ..seedmask.codings import plan
from ..seedmask.container import build_header
from ..seedmask.manifest import FORMAT_VERSION, NO_DIGEST, build_manifest

__all__ = ["DEFAULT_REDRAWN", "Estimate", "LayerEstimate", "draw_distribution", "estimate"]

#: Share of the kept weights that no longer have their first value if nothing else is known. Redrawn by IteRand: about
#: half in runs of full length (39,000 steps, 130 events, sparsity 0.6), fewer in shorter ones. Recycled: a third, as in
#: a run of 12 epochs with five recyclings of a fifth (benchmarks/methods.py).
DEFAULT_REDRAWN = {"resample": 0.5, "recycle": 0.33, "none": 0.0}

# Draw counts 1, 2, 3 of kept weights that were redrawn, measured in a full-length IteRand run (where 61 % had not been
# redrawn); what is left of the probability falls off geometrically up to 22, the largest count seen there.
_FIRST_DRAWS = (0.11 / 0.39, 0.07 / 0.39, 0.06 / 0.39)
_DECAY, _LARGEST_DRAW = 0.72, 22
_STAND_IN = 1 << 20  # values of a row that stands for a longer one
_ABOUT_DTYPE = {1: "U8", 2: "F16", 4: "F32", 8: "I64"}


@dataclass(frozen=True)
class LayerEstimate:
    """A masked tensor of the file to be.

    Attributes:
        name: of the tensor.
        shape: its shape.
        weights: number of weights.
        kept: how many are not pruned; exact, unless one threshold holds for all layers.
        mask_bytes: about the size of the mask.
        log_bytes: about the size of the resampling log.
        coat_bytes: about the size of the multiples of multicoated masks.
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
    """The file to be.

    Attributes:
        architecture: of the network.
        layers: its masked tensors.
        distribution: of the random weights.
        redrawn: share of kept weights assumed to have been redrawn or overwritten.
        recycled: whether overwritten.
        state_bytes: size of the unmasked state; exact.
        header_bytes: about the size of header and manifest.
    """

    architecture: AnyArchitecture
    layers: tuple[LayerEstimate, ...]
    distribution: str
    redrawn: float
    recycled: bool
    state_bytes: int
    header_bytes: int

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
        """About the size of all masks."""
        return sum(layer.mask_bytes for layer in self.layers)

    @property
    def log_bytes(self) -> int:
        """About the size of all resampling logs."""
        return sum(layer.log_bytes for layer in self.layers)

    @property
    def coat_bytes(self) -> int:
        """About the size of the multiples of multicoated masks."""
        return sum(layer.coat_bytes for layer in self.layers)

    @property
    def file_bytes(self) -> int:
        """About the size of the file."""
        return self.mask_bytes + self.log_bytes + self.coat_bytes + self.state_bytes + self.header_bytes

    @property
    def dense_bytes(self) -> int:
        """Size of the same tensors with weights as float32, without a header."""
        return 4 * self.weights + self.state_bytes


def estimate(
    model: ModelConfig,
    subnetwork: SubnetworkConfig,
    *,
    num_classes: int,
    input: AnyInput,  # noqa: A002
    redrawn: float | None = None,
    allow_import: bool = False,
) -> Estimate:
    """Estimate the file of a trained subnetwork whose masks and redraws are independent random bits.

    Trained masks are close to that: coders that model their structure gained 2 % at most. No memory is taken for
    weights, unless the model cannot be built without.

    Args:
        model: the architecture.
        subnetwork: method, distribution and sparsity.
        num_classes: outputs.
        input: the images or texts that the network takes.
        redrawn: share of the kept weights that are redrawn or overwritten; by default `DEFAULT_REDRAWN`.
        allow_import: whether the model's name may be ``package.module:factory``.

    Raises:
        ConfigError: the settings make no sense, or the method leaves weights that no seed determines.
    """
    method = resolve_method(subnetwork)
    if method.trains == "weights" and method.criterion is None:
        raise ConfigError(f"method: {subnetwork.method} trains the weights, so there is no .seedmask file to estimate")
    kind = "resample" if method.resampling else "recycle" if method.recycling else "none"
    share = DEFAULT_REDRAWN[kind] if redrawn is None else redrawn
    if not 0 <= share <= 1:
        raise ConfigError(f"redrawn: expected a share from 0 to 1 of the kept weights, got {share}")
    if share and kind == "none":
        raise ConfigError(f"redrawn: {subnetwork.method} redraws nothing; leave it out, or use --method iterand")
    architecture = resolve(model, num_classes=num_classes, input=input)
    network = _skeleton(architecture, subnetwork, allow_import=allow_import)
    frozen = (method.freezing.pruned / 65536, method.freezing.kept / 65536) if method.freezing else (0.0, 0.0)
    book = get_codebook("signed-constant") if method.binarised else method.codebook
    layers = []
    searched = [(name, part.spec, part.spec.kept) for name, part, _ in masked_layers(network)]
    pruned = [(name, part.spec, None) for name, part, _ in pruned_layers(network)]
    for name, spec, number in (*searched, *pruned):
        weights = math.prod(spec.shape)
        kept = kept_count(spec.selectable, subnetwork.sparsity, name) if number is None else number
        free, chosen = round(weights * (1 - sum(frozen))), round(kept - weights * frozen[1])
        mask = _bit_bytes(free, max(0, min(chosen, free))) if free else 0
        log = _log_bytes(kept, share, book.name, recycled=method.recycling is not None)
        coats = _coat_bytes(kept, method.coats) if method.coats > 1 else 0
        layers.append(LayerEstimate(name, spec.shape, weights, kept, mask, log, coats))
    masked, rest = masked_keys(network.state_dict())
    by_name = {layer.name: layer for layer in layers}
    for keys in masked:
        if not keys.first:  # a second name of a layer, whose weights are told by their bytes
            first = by_name[masked[keys.spec.tensor].name]
            log = _log_bytes(first.kept, 1.0, book.name, recycled=True)
            layers.append(replace(first, name=keys.name, log_bytes=log))
    header = _header_bytes(architecture, input, Recipe(model=model, subnetwork=subnetwork), book.name, layers, rest)
    state_bytes = sum(value.numel() * value.element_size() for value in rest.values())
    return Estimate(
        architecture, tuple(layers), method.codebook.name, share, method.recycling is not None, state_bytes, header
    )


def draw_distribution(redrawn: float) -> NDArray[np.float64]:
    """Probability of each draw of a kept weight, float64 ``[23]``, if the share ``redrawn`` is not at draw 0."""
    tail = _DECAY ** np.arange(_LARGEST_DRAW - len(_FIRST_DRAWS))
    tail *= (1 - sum(_FIRST_DRAWS)) / tail.sum()
    return np.concatenate([[1 - redrawn], redrawn * np.array(_FIRST_DRAWS), redrawn * tail])


def _skeleton(architecture: AnyArchitecture, subnetwork: SubnetworkConfig, *, allow_import: bool) -> nn.Module:
    """The subnetwork: on torch's meta device, where tensors have no content, if the model can be built there."""
    seed = subnetwork.seed
    try:
        model = build_model(architecture, seed=seed, allow_import=allow_import, device="meta")
    except (IterandError, RuntimeError):  # a constructor that looks at values; any other error comes again
        model = build_model(architecture, seed=seed, allow_import=allow_import)
    return make_subnetwork(model, subnetwork)


@cache
def _bit_bytes(count: int, ones: int) -> int:
    """About the size of a row of ``count`` independent bits of which ``ones`` are set."""
    size = min(count, _STAND_IN)
    bits = np.zeros(size, np.uint8)
    bits[np.random.Generator(np.random.PCG64(0)).permutation(size)[: round(size * ones / count)]] = 1
    return _scaled_bytes(Row.pack(bits, 1), count)


@cache
def _log_bytes(kept: int, redrawn: float, distribution: str, *, recycled: bool) -> int:
    book = get_codebook(distribution)
    if book.two_valued:
        flips = round(kept * redrawn / 2)  # a redraw gives the other of two values half of the time
        return _bit_bytes(kept, flips) if flips else 0
    size = min(kept, _STAND_IN)
    if recycled:  # any byte that stands for another value
        bytes_ = np.flatnonzero(np.r_[True, np.diff(book.entries) != 0]).astype(np.uint8)
        values = np.resize(bytes_[1:], round(size * redrawn))
        draws = np.concatenate([np.zeros(size - len(values), np.uint8), values])
    else:
        edges = np.rint(np.cumsum(draw_distribution(redrawn)) * size).astype(np.int64)
        draws = np.searchsorted(edges, np.arange(size), side="right").astype(np.uint8)
    return _row_bytes(draws, kept) if draws.any() else 0


@cache
def _coat_bytes(kept: int, coats: int) -> int:
    """The multiples of kept weights less 1: each coat keeps the same number fewer than the one before it."""
    return _row_bytes((np.arange(min(kept, _STAND_IN)) % coats).astype(np.uint8), kept)


def _row_bytes(values: NDArray[np.uint8], count: int) -> int:
    return _scaled_bytes(Row.pack(values, int(values.max(initial=1)).bit_length()), count)


def _scaled_bytes(stand_in: Row, count: int) -> int:
    """About the size of a row of ``count`` values that is like a shorter one."""
    return -(-plan(stand_in).bytes * count // stand_in.count)


def _header_bytes(
    architecture: AnyArchitecture,
    input: AnyInput,  # noqa: A002
    recipe: Recipe,
    codebook: str,
    layers: list[LayerEstimate],
    rest: dict[str, torch.Tensor],
) -> int:
    """Size of the header, from a manifest whose numbers have about the right number of digits."""
    log = {"kind": "flips", "coding": "rans", "width": 1}
    if not get_codebook(codebook).two_valued:
        log |= {"kind": "draws", "width": 5}
    no_log = {"kind": "none", "coding": "raw", "width": 0}
    fields = {
        "format_version": FORMAT_VERSION,
        "required_features": ["rans"],
        "generator": "philox4x32-10",
        "seed": f"{recipe.subnetwork.seed:016x}",
        "tensors": [
            {
                "name": layer.name,
                "shape": layer.shape,
                "codebook": codebook,
                "scale": "0" * 8,
                "kept": layer.kept,
                "mask": {"coding": "rans", "bytes": layer.mask_bytes},
                "log": {**(log if layer.log_bytes else no_log), "bytes": layer.log_bytes},
                "sha256": NO_DIGEST,
            }
            for layer in layers
        ],
        "state": [
            {
                "name": name,
                "dtype": _ABOUT_DTYPE[value.element_size()],
                "shape": value.shape,
            }
            for name, value in rest.items()
        ],
        "architecture": architecture.to_dict(),
        "input": input,
        "classes": [f"class {i}" for i in range(architecture.num_classes)],
        "recipe": recipe.model_dump(exclude_none=True),
        "digests": {"payload": NO_DIGEST, "weights": NO_DIGEST, "manifest": NO_DIGEST},
    }
    manifest = build_manifest(fields)
    return len(build_header(manifest.slots(), {"seedmask": manifest.to_text()}))
