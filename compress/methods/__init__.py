"""The methods of the literature, one file each, as presets over independent choices (docs/METHODS.md).

`resolve` turns a configuration into the choices it amounts to, and refuses those that contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import SubnetworkConfig
from ..errors import ConfigError
from ..seed.codebooks import Codebook, get_codebook
from ..seed.frozen import Frozen
from . import biprop, edge_popup, grasp, iterand, magnitude, recycling, snip, synflow
from . import dense_training as dense
from .iterand import Resampling, resampling_of
from .preset import Criterion, MethodPreset, Scope, Selection
from .recycling import RATE, Recycling

__all__ = ["PRESETS", "Method", "MethodPreset", "resolve"]

PRESETS: dict[str, MethodPreset] = {
    "iterand": iterand.PRESET,
    "edge-popup": edge_popup.PRESET,
    "recycling": recycling.PRESET,
    "biprop": biprop.PRESET,
    "biprop-recycling": recycling.ON_BIPROP,
    "magnitude": magnitude.MAGNITUDE,
    "random": magnitude.RANDOM,
    "snip": snip.PRESET,
    "grasp": grasp.PRESET,
    "synflow": synflow.PRESET,
    "dense": dense.PRESET,
}

_STEPS = 1 << 16
# Options that shape a search by scores.
_OF_SCORES = (
    "selection", "scope", "binarise", "recycle_every", "recycle_rate", "recycle_after", "ramp_epochs", "frozen",
    "frozen_kept", "coats",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """What a configuration amounts to: all choices made.

    Attributes:
        trains: what gradient descent moves.
        codebook: distribution of the random weights.
        selection: rule from scores to mask; ``None`` if weights are trained.
        scope: whether each layer keeps its share, or all layers share one threshold.
        score_bound: scores start uniform on ±``score_bound / sqrt(fan_in)``.
        binarised: whether kept weights become α·sign(w), with an α that is not the scale anyway.
        ramp_epochs: epochs over which the sparsity rises; 0 = it is there from the start.
        coats: number of nested masks.
        freezing: what the seed fixes of the mask.
        scale_fan: whether the scale counts only the kept inputs of a unit.
        resampling: IteRand's refresh.
        recycling: Weight Recycling's refresh.
        criterion: of a mask that is found at initialisation.
    """

    trains: Literal["scores", "weights"]
    codebook: Codebook
    selection: Selection | None
    scope: Scope
    score_bound: float
    binarised: bool
    ramp_epochs: int
    coats: int
    freezing: Frozen | None
    scale_fan: bool
    resampling: Resampling | None
    recycling: Recycling | None
    criterion: Criterion | None

    def fan_factor(self, sparsity: float) -> float:
        """Mean square of the multiples (0 = pruned) that weights are taken at: what ``scale_fan`` divides out."""
        return (1 - sparsity) * (self.coats + 1) * (2 * self.coats + 1) / 6


def resolve(config: SubnetworkConfig) -> Method:
    """Settle what a configuration leaves to its method.

    Raises:
        ConfigError: options that contradict each other or the method, with the reason.
    """
    preset = PRESETS[config.method]
    if preset.trains == "weights":
        _refuse(config, _OF_SCORES, f"{config.method} trains weights, and has no scores")
        if preset.criterion is None:
            _refuse(config, ("scale_fan",), f"{config.method} prunes nothing")
    codebook = get_codebook(config.distribution or preset.distribution)
    if preset.criterion == "magnitude" and codebook.two_valued:
        raise ConfigError(
            f"method magnitude: the weights of {codebook.name} differ in sign only; "
            "give --distribution normal or uniform"
        )
    if preset.criterion not in ("snip", "grasp"):
        _refuse(config, ("samples_per_class",), f"{config.method} looks at no data")
    if preset.criterion != "synflow":
        _refuse(config, ("rounds",), f"{config.method} has no rounds")
    binarised = preset.binarised if config.binarise is None else config.binarise
    coats = config.coats or 1
    if coats > 1 and not (codebook.two_valued or binarised):
        raise ConfigError(
            f"coats: multiples of {codebook.name} weights do not fit the int8 codes of a file; "
            "give --distribution signed-constant, or --binarise"
        )
    every = preset.recycle_every if config.recycle_every is None else config.recycle_every
    if not every:
        _refuse(config, ("recycle_rate", "recycle_after"), "nothing is recycled; give --recycle-every")
    return Method(
        trains=preset.trains,
        codebook=codebook,
        selection=config.selection or preset.selection,
        scope=config.scope or "layerwise",
        score_bound=config.score_scale * preset.score_gain,
        binarised=binarised and not codebook.two_valued,  # for two values α is the scale
        ramp_epochs=config.ramp_epochs or 0,
        coats=coats,
        freezing=_freezing(config),
        scale_fan=bool(config.scale_fan),
        resampling=resampling_of(config) if preset.resamples else None,
        recycling=Recycling(every, config.recycle_rate or RATE, config.recycle_after or 0) if every else None,
        criterion=preset.criterion,
    )


def _refuse(config: SubnetworkConfig, keys: tuple[str, ...], reason: str) -> None:
    for key in keys:
        if getattr(config, key) is not None:
            raise ConfigError(f"{key} = {getattr(config, key)!r}: {reason}; leave it out")


def _freezing(config: SubnetworkConfig) -> Frozen | None:
    if config.frozen is None:
        _refuse(config, ("frozen_kept",), "nothing is frozen; give --frozen")
        return None
    kept = config.frozen * (1 - config.sparsity) if config.frozen_kept is None else config.frozen_kept
    pruned = config.frozen - kept
    if kept > config.frozen:
        raise ConfigError(f"frozen_kept: expected at most frozen = {config.frozen}, got {kept}")
    if kept > 1 - config.sparsity or pruned > config.sparsity + 1e-9:
        raise ConfigError(
            f"frozen: a share of {pruned:g} fixed to pruned and {kept:g} to kept leaves no mask of sparsity "
            f"{config.sparsity:g}; lower frozen, or change frozen_kept"
        )
    thresholds = [min(round(share * _STEPS), _STEPS - 1) for share in (pruned, kept)]
    if not any(thresholds):
        raise ConfigError(f"frozen: expected at least {1 / _STEPS:.1e} (1/{_STEPS}), got {config.frozen}")
    return Frozen(*thresholds)
