"""The methods of the literature as settings: each fills the independent choices of `SubnetworkConfig`.

A new method is a function here and a line in `PRESETS`; what it computes stands in a file of its own beside this one.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from ..config import Recipe, Selection, SubnetworkConfig, validated
from ..errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..config import Distribution, Recycle, Resample

__all__ = [
    "PRESETS",
    "Biprop",
    "Dense",
    "EdgePopup",
    "Grasp",
    "IteRand",
    "MagnitudePruning",
    "RandomPruning",
    "SignedSupermask",
    "Snip",
    "SynFlow",
    "WeightRecycling",
    "read_recipe",
    "stored_recipe",
]


class SearchOptions(TypedDict, total=False):
    """What can be chosen beside a method that trains scores; see `SubnetworkConfig` and `Selection`."""

    seed: int
    distribution: Distribution
    scale_fan: bool
    binarise: bool
    resample: Resample | None
    recycle: Recycle | None
    selection: str
    scope: str
    ramp_epochs: int
    score_bound: float
    softness: float
    soft_until: float
    frozen: float
    frozen_kept: float | None
    multiplicity: int
    first_sparsity: float | None
    last_sparsity: float | None


class PruningOptions(TypedDict, total=False):
    """What can be chosen beside a method that prunes at initialisation; see `SubnetworkConfig`."""

    seed: int
    distribution: Distribution
    scale_fan: bool


_OF_SELECTION = tuple(key for key in Selection.model_fields if key != "rule")


def _searched(
    name: str, label: str, sparsity: float, defaults: dict[str, Any], options: Mapping[str, Any]
) -> SubnetworkConfig:
    _refuse_unknown(name, options, SearchOptions)
    for key in options:
        if isinstance(defaults.get(key), dict):
            own = ", ".join(f"{keyword}=" for keyword in defaults[key])
            raise ConfigError(f"{name}: {key} is given twice, by {own} and by {key}=; leave out {key}=")
    values = {"method": label, "sparsity": sparsity, **defaults, **options}
    selection = {key: values.pop(key) for key in _OF_SELECTION if key in values}
    if "selection" in values:
        selection["rule"] = values.pop("selection")
    return validated(SubnetworkConfig, {**values, "selection": selection}, name)


def _refuse_unknown(name: str, options: Mapping[str, Any], known: Any) -> None:
    own = [keyword for keyword in inspect.signature(globals()[name]).parameters if keyword != "options"]
    for key in options:
        if key not in known.__annotations__:
            raise ConfigError(f"{name}: unknown key {key!r}{did_you_mean(key, [*own, *known.__annotations__])}")


def EdgePopup(sparsity: float = 0.5, **options: Unpack[SearchOptions]) -> SubnetworkConfig:
    """Edge-popup: random weights stay, scores are trained, and each layer keeps those with the largest magnitudes.

    Scores start as torch's layers do (Kaiming uniform with a = √5): uniform on ±1/√fan_in.

    Source: Ramanujan et al., "What's hidden in a randomly weighted neural network?", CVPR 2020, section 3.

    Args:
        sparsity: fraction of the weights that is pruned, in [0, 1).
        options: see `SearchOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    return _searched("EdgePopup", "edge-popup", sparsity, {}, options)


def IteRand(
    sparsity: float = 0.5, *, every: int = 300, rate: float = 0.1, draws: int = 256, **options: Unpack[SearchOptions]
) -> SubnetworkConfig:
    """IteRand: edge-popup by signed scores whose pruned weights are redrawn now and then.

    Scores start as the authors' code has it (Kaiming uniform for ReLU): uniform on ±√6/√fan_in.

    Source: Chijiwa et al., "Pruning randomly initialized neural networks with iterative randomization", NeurIPS 2021,
    Algorithm 1 and section 4.2.

    Args:
        sparsity: fraction of the weights that is pruned, in [0, 1).
        every: steps between two resampling events (K_per).
        rate: probability that an event redraws a pruned weight (r).
        draws: number of values that a weight cycles through.
        options: see `SearchOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    resample = {"every": every, "rate": rate, "draws": draws}
    defaults = {"selection": "signed", "score_bound": math.sqrt(6), "resample": resample}
    return _searched("IteRand", "iterand", sparsity, defaults, options)


def Biprop(sparsity: float = 0.5, **options: Unpack[SearchOptions]) -> SubnetworkConfig:
    """Biprop: edge-popup whose kept weights are binarised, α·sign(w).

    Source: Diffenderfer and Kailkhura, "Multi-prize lottery ticket hypothesis", ICLR 2021, Algorithm 1.

    Args:
        sparsity: fraction of the weights that is pruned, in [0, 1).
        options: see `SearchOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    return _searched("Biprop", "biprop", sparsity, {"binarise": True}, options)


def SignedSupermask(sparsity: float = 0.5, **options: Unpack[SearchOptions]) -> SubnetworkConfig:
    """Signed supermask: edge-popup whose scores also say, by their signs, which of the kept weights are inverted.

    Scores start as those of edge-popup, but positive: at first no weight is inverted.

    Source: Koster, Grothe, Rettinger, "Signing the supermask: keep, hide, invert", ICLR 2022.

    Args:
        sparsity: fraction of the weights that is pruned, in [0, 1).
        options: see `SearchOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    return _searched("SignedSupermask", "signed-supermask", sparsity, {"selection": "invert"}, options)


def WeightRecycling(
    sparsity: float = 0.5, *, every: int = 10, rate: float = 0.2, warmup: int = 0, **options: Unpack[SearchOptions]
) -> SubnetworkConfig:
    """Iterative Weight Recycling: edge-popup (with ``binarise``, Biprop) whose least wanted weights are overwritten.

    Source: Gorbett and Whitley, "Randomly initialized subnetworks with iterative weight recycling", 2023, Algorithm 1.

    Args:
        sparsity: fraction of the weights that is pruned, in [0, 1).
        every: epochs between two recyclings (F).
        rate: share of a layer that is overwritten, up to a half.
        warmup: an epoch, counted from 0: nothing is recycled after it or an earlier one.
        options: see `SearchOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    label = "biprop-recycling" if options.get("binarise") else "recycling"
    recycle = {"every": every, "rate": rate, "warmup": warmup}
    return _searched("WeightRecycling", label, sparsity, {"recycle": recycle}, options)


def _pruned(
    name: str, sparsity: float, options: Mapping[str, Any], criterion: str, **settings: int | None
) -> SubnetworkConfig:
    """Kept weights, which start Kaiming normal, are trained."""
    _refuse_unknown(name, options, PruningOptions)
    prune = {"criterion": criterion, **settings}
    values = {"method": criterion, "sparsity": sparsity, "distribution": "normal", **options, "prune": prune}
    return validated(SubnetworkConfig, values, name)


def Snip(
    sparsity: float = 0.5,
    *,
    samples_per_class: int = 10,
    random_sample: bool | None = None,
    eval_mode: bool | None = None,
    **options: Unpack[PruningOptions],
) -> SubnetworkConfig:
    """SNIP: prune before training the weights that change the loss least, |w·g|.

    Source: Lee, Ajanthan, Torr, "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019.

    Args:
        sparsity: fraction of all weights that is pruned, in [0, 1).
        samples_per_class: training images of each class that are looked at.
        random_sample: `train` looks at as many random, augmented images instead, as the code of Tanaka et al. does.
        eval_mode: compute with the network in evaluation mode, as the code of Tanaka et al. does.
        options: see `PruningOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    looks = {"samples_per_class": samples_per_class, "random_sample": random_sample, "eval_mode": eval_mode}
    return _pruned("Snip", sparsity, options, "snip", **looks)


def Grasp(
    sparsity: float = 0.5,
    *,
    samples_per_class: int = 10,
    random_sample: bool | None = None,
    eval_mode: bool | None = None,
    **options: Unpack[PruningOptions],
) -> SubnetworkConfig:
    """GraSP: prune before training what hinders the flow of gradients.

    Source: Wang, Zhang, Grosse, "Picking winning tickets before training by preserving gradient flow", ICLR 2020.

    Args:
        sparsity: fraction of all weights that is pruned, in [0, 1).
        samples_per_class: training images of each class that are looked at.
        random_sample: `train` looks at as many random, augmented images instead, as the code of Tanaka et al. does.
        eval_mode: compute with the network in evaluation mode, as the code of Tanaka et al. does.
        options: see `PruningOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    looks = {"samples_per_class": samples_per_class, "random_sample": random_sample, "eval_mode": eval_mode}
    return _pruned("Grasp", sparsity, options, "grasp", **looks)


def SynFlow(sparsity: float = 0.5, *, rounds: int = 100, **options: Unpack[PruningOptions]) -> SubnetworkConfig:
    """SynFlow: prune before training, in rounds, what carries the least synaptic flow; looks at no data.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
    NeurIPS 2020.

    Args:
        sparsity: fraction of all weights that is pruned, in [0, 1).
        rounds: number of rounds.
        options: see `PruningOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    return _pruned("SynFlow", sparsity, options, "synflow", rounds=rounds)


def MagnitudePruning(sparsity: float = 0.5, **options: Unpack[PruningOptions]) -> SubnetworkConfig:
    """Prune before training the initial weights with the smallest magnitudes.

    Source: Frankle et al., "Pruning neural networks at initialization: why are we missing the mark?", ICLR 2021.

    Args:
        sparsity: fraction of all weights that is pruned, in [0, 1).
        options: see `PruningOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    return _pruned("MagnitudePruning", sparsity, options, "magnitude")


def RandomPruning(sparsity: float = 0.5, **options: Unpack[PruningOptions]) -> SubnetworkConfig:
    """Prune weights at random before training: the baseline of the others.

    Source: Tanaka et al., NeurIPS 2020 (see `SynFlow`), baselines.

    Args:
        sparsity: fraction of all weights that is pruned, in [0, 1).
        options: see `PruningOptions`.

    Raises:
        ConfigError: a choice that does not exist, or contradicts another.
    """
    return _pruned("RandomPruning", sparsity, options, "random")


def Dense(*, seed: int = 0, distribution: Distribution = "normal") -> SubnetworkConfig:
    """The baseline: ordinary training of all weights, which start from the seed's random numbers.

    They start Kaiming normal, as in the dense configurations of Ramanujan et al. and of Diffenderfer and Kailkhura.

    Args:
        seed: 64-bit seed of everything random.
        distribution: of the initial weights.

    Raises:
        ConfigError: a choice that does not exist.
    """
    values = {"method": "dense", "seed": seed, "sparsity": 0.0, "distribution": distribution}
    return validated(SubnetworkConfig, values, "Dense")


#: The methods by the names that recipes and the command line use.
PRESETS: dict[str, Callable[[], SubnetworkConfig]] = {
    "iterand": IteRand,
    "edge-popup": EdgePopup,
    "recycling": WeightRecycling,
    "biprop": Biprop,
    "biprop-recycling": lambda: WeightRecycling(binarise=True),
    "signed-supermask": SignedSupermask,
    "magnitude": MagnitudePruning,
    "random": RandomPruning,
    "snip": Snip,
    "grasp": Grasp,
    "synflow": SynFlow,
    "dense": Dense,
}


def read_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe whose section ``[subnetwork]`` names a method, which fills what the section leaves out.

    Args:
        values: sections of settings; ``subnetwork.resample`` and the like may be ``"none"``.
        where: what an error message calls their source.

    Raises:
        ConfigError: an unknown method or key, a value out of range, or choices that contradict each other.
    """
    given = values.get("subnetwork", {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: subnetwork: expected a table of settings, got {given!r:.100}")
    name = given.get("method", "iterand")
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"{where}: subnetwork.method: unknown {name!r}{did_you_mean(str(name), PRESETS)}")
    return validated(Recipe, {**values, "subnetwork": _merged(PRESETS[name]().model_dump(), given)}, where)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with changes in nested sections; ``"none"`` takes a section away."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            merged[key] = _merged(merged.get(key) or {}, value)
        else:
            merged[key] = None if value == "none" and isinstance(base.get(key, {}), dict | None) else value
    return merged


def stored_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe in a checkpoint or in a file, also of earlier versions; what they left out means what it did.

    Args:
        values: what the file holds.
        where: what an error message calls it.

    Raises:
        ConfigError: settings that this version does not know.
    """
    subnetwork = values.get("subnetwork")
    if isinstance(subnetwork, Mapping) and "resample_every" in subnetwork:
        values = {**values, "subnetwork": _of_one_level(subnetwork)}
    model = values.get("model")
    if isinstance(model, Mapping) and model.get("activation") == "binary" and "batch_norm" not in model:
        # From before there was a choice: the plain networks had no BatchNorm, and the other models take no setting.
        plain = re.fullmatch(r"conv\d", str(model.get("name")))
        values = {**values, "model": {**model, "batch_norm": False}} if plain else values
    train = values.get("train", {})
    if isinstance(train, Mapping) and "scale_free" not in train:  # from before there was a choice
        values = {**values, "train": {**train, "scale_free": False}}
    return read_recipe(values, where)


def _of_one_level(old: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the first versions, in which ``None`` was what the method does."""
    given = {key: value for key, value in old.items() if value is not None}
    name = str(given.get("method", "iterand"))
    if name not in PRESETS:
        return given
    base = PRESETS[name]()
    new: dict[str, Any] = {
        key: given[key] for key in ("method", "seed", "distribution", "scale_fan", "binarise") if key in given
    }
    if not base.has_masks:
        return new
    new["sparsity"] = given.get("sparsity", 0.5)
    if base.selection is not None:
        names = {"rule": "selection", "multiplicity": "coats"}
        selection = {
            key: given[names.get(key, key)] for key in type(base.selection).model_fields if names.get(key, key) in given
        }
        new["selection"] = {**selection, "score_bound": given.get("score_scale", 1.0) * base.selection.score_bound}
    if base.resample is not None:
        names = {"every": "resample_every", "rate": "resample_rate", "draws": "draws"}
        new["resample"] = {key: given[old_key] for key, old_key in names.items() if old_key in given}
    recycle = {key: given[f"recycle_{key}"] for key in ("every", "rate", "after") if f"recycle_{key}" in given}
    if recycle or base.recycle is not None:
        new["recycle"] = {"after": 0, **recycle} if recycle.get("every") != 0 else "none"
    if base.prune is not None:
        new["prune"] = {key: given[key] for key in ("samples_per_class", "rounds") if key in given}
    return new
