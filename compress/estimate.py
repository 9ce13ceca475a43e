"""How large a ``.seedmask`` file will be, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .codebooks import get_codebook
from .config import ModelConfig, Recipe, SubnetworkConfig
from .data.tokens import TextSpec
from .errors import ConfigError, IterandError
from .models import AnyArchitecture, TextArchitecture, build_model, resolve, resolve_text
from .storage import InputSpec, TextInput
from .storage.bits import Row
from .storage.codings import plan
from .storage.container import build_header
from .storage.manifest import FORMAT_VERSION, NO_DIGEST, build_manifest
from .subnetwork import make_subnetwork, masked_layers

__all__ = ["DEFAULT_REDRAWN", "Estimate", "LayerEstimate", "draw_distribution", "estimate"]

#: Share of the kept weights that were redrawn at least once, by method. IteRand: about half in runs of full length
#: (39,000 steps, 130 events, sparsity 0.6), fewer in shorter ones. Edge-popup redraws nothing.
DEFAULT_REDRAWN = {"iterand": 0.5, "edge-popup": 0.0}

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
        kept: how many are not pruned; exact.
        mask_bytes: about the size of the mask.
        log_bytes: about the size of the resampling log.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    mask_bytes: int
    log_bytes: int


@dataclass(frozen=True)
class Estimate:
    """The file to be.

    Attributes:
        architecture: of the network.
        layers: its masked tensors.
        redrawn: share of kept weights assumed to have been redrawn.
        state_bytes: size of the unmasked state; exact.
        header_bytes: about the size of header and manifest.
    """

    architecture: AnyArchitecture
    layers: tuple[LayerEstimate, ...]
    redrawn: float
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
    def file_bytes(self) -> int:
        """About the size of the file."""
        return self.mask_bytes + self.log_bytes + self.state_bytes + self.header_bytes

    @property
    def dense_bytes(self) -> int:
        """Size of the same tensors with weights as float32, without a header."""
        return 4 * self.weights + self.state_bytes


def estimate(
    model: ModelConfig,
    subnetwork: SubnetworkConfig,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int] | None = None,
    text: TextSpec | None = None,
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
        image_shape: channels, height, width of an image, for a network that takes images.
        text: the tokeniser, for a network that takes texts.
        redrawn: share of the kept weights that training redraws at least once; by default `DEFAULT_REDRAWN`.
        allow_import: whether the model's name may be ``package.module:factory``.

    Raises:
        ConfigError: the settings make no sense, or the method leaves weights that no seed determines.
    """
    if subnetwork.method not in DEFAULT_REDRAWN:
        raise ConfigError(f"method: {subnetwork.method} trains the weights, so there is no .seedmask file to estimate")
    share = DEFAULT_REDRAWN[subnetwork.method] if redrawn is None else redrawn
    if not 0 <= share <= 1:
        raise ConfigError(f"redrawn: expected a share from 0 to 1 of the kept weights, got {share}")
    if share and subnetwork.method == "edge-popup":
        raise ConfigError("redrawn: edge-popup redraws nothing; leave it out, or use --method iterand")
    architecture: AnyArchitecture
    if text is not None:
        architecture = resolve_text(model, num_classes=num_classes, text=text)
    elif image_shape is not None:
        architecture = resolve(model, num_classes=num_classes, image_shape=image_shape)
    else:
        raise ConfigError("estimate: expected image_shape or text, got neither")
    network = _skeleton(architecture, subnetwork, allow_import=allow_import)
    layers = []
    for name, part, _ in masked_layers(network):
        spec = part.spec
        weights = int(np.prod(spec.shape, dtype=np.int64))
        log = _log_bytes(spec.kept, share, subnetwork.distribution)
        layers.append(LayerEstimate(name, spec.shape, weights, spec.kept, _bit_bytes(weights, spec.kept), log))
    rest = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in f".{name}"}
    header = _header_bytes(architecture, Recipe(model=model, subnetwork=subnetwork), layers, rest)
    state_bytes = sum(value.numel() * value.element_size() for value in rest.values())
    return Estimate(architecture, tuple(layers), share, state_bytes, header)


def draw_distribution(redrawn: float) -> NDArray[np.float64]:
    """Probability of each draw of a kept weight, float64 ``[23]``, if the share ``redrawn`` is not at draw 0."""
    tail = _DECAY ** np.arange(_LARGEST_DRAW - len(_FIRST_DRAWS))
    tail *= (1 - sum(_FIRST_DRAWS)) / tail.sum()
    return np.concatenate([[1 - redrawn], redrawn * np.array(_FIRST_DRAWS), redrawn * tail])


def _skeleton(architecture: AnyArchitecture, subnetwork: SubnetworkConfig, *, allow_import: bool) -> nn.Module:
    """The subnetwork: on torch's meta device, where tensors have no content, if the model can be built there."""
    try:
        with torch.device("meta"):
            model = build_model(architecture, allow_import=allow_import)
    except (IterandError, RuntimeError):  # a constructor that looks at values; any other error comes again
        model = build_model(architecture, allow_import=allow_import)
    return make_subnetwork(model, subnetwork)


@cache
def _bit_bytes(count: int, ones: int) -> int:
    """About the size of a row of ``count`` independent bits of which ``ones`` are set."""
    size = min(count, _STAND_IN)
    bits = np.zeros(size, np.uint8)
    bits[np.random.Generator(np.random.PCG64(0)).permutation(size)[: round(size * ones / count)]] = 1
    return _scaled_bytes(Row.pack(bits, 1), count)


@cache
def _log_bytes(kept: int, redrawn: float, distribution: str) -> int:
    if get_codebook(distribution).two_valued:
        flips = round(kept * redrawn / 2)  # a redraw gives the other of two values half of the time
        return _bit_bytes(kept, flips) if flips else 0
    size = min(kept, _STAND_IN)
    edges = np.rint(np.cumsum(draw_distribution(redrawn)) * size).astype(np.int64)
    draws = np.searchsorted(edges, np.arange(size), side="right").astype(np.uint8)
    return _scaled_bytes(Row.pack(draws, int(draws.max()).bit_length()), kept) if draws.any() else 0


def _scaled_bytes(stand_in: Row, count: int) -> int:
    """About the size of a row of ``count`` values that is like a shorter one."""
    return -(-plan(stand_in).bytes * count // stand_in.count)


def _about_input(architecture: AnyArchitecture) -> InputSpec | TextInput:
    if isinstance(architecture, TextArchitecture):
        return TextInput(length=architecture.length, unit="words", vocabulary=architecture.vocabulary)
    channels, side = architecture.in_channels, architecture.image_size
    return InputSpec(shape=(channels, side, side), mean=(1 / 3,) * channels, std=(1 / 3,) * channels)


def _header_bytes(
    architecture: AnyArchitecture, recipe: Recipe, layers: list[LayerEstimate], rest: dict[str, torch.Tensor]
) -> int:
    """Size of the header, from a manifest whose numbers have about the right number of digits."""
    log = {"kind": "flips", "coding": "rans", "width": 1}
    if not get_codebook(recipe.subnetwork.distribution).two_valued:
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
                "codebook": recipe.subnetwork.distribution,
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
        "input": _about_input(architecture),
        "classes": [f"class {i}" for i in range(architecture.num_classes)],
        "recipe": recipe.model_dump(),
        "digests": {"payload": NO_DIGEST, "weights": NO_DIGEST, "manifest": NO_DIGEST},
    }
    manifest = build_manifest(fields)
    return len(build_header(manifest.slots(), {"seedmask": manifest.to_text()}))
