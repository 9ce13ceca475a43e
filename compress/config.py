"""Settings: immutable, validated once, refused by name when unknown.

A recipe has four sections. ``[data]`` and ``[model]`` say what is learned, ``[subnetwork]`` how the weights
come to be, ``[train]`` how the search for them runs. Nothing here is a path of one machine, so the resolved
recipe can travel inside a ``.seedmask`` file.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError, did_you_mean

__all__ = [
    "DISTRIBUTIONS",
    "METHODS",
    "DataConfig",
    "ModelConfig",
    "Recipe",
    "SubnetworkConfig",
    "TrainConfig",
    "validated",
]

Method = Literal[
    "iterand",
    "edge-popup",
    "recycling",
    "biprop",
    "biprop-recycling",
    "magnitude",
    "random",
    "snip",
    "grasp",
    "synflow",
    "dense",
]
Distribution = Literal["signed-constant", "uniform", "normal"]
METHODS: tuple[str, ...] = get_args(Method)
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)


SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """A section of a recipe: frozen, and strict about unknown keys, types and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SubnetworkConfig(Section):
    """How the weights of a network come to be. ``None`` stands for what the method does, or for nothing.

    Attributes:
        method: a preset over distribution, selection and refresh (see ``methods/``).
        distribution: codebook of the random weights.
        selection: keep the largest scores (``signed``) or absolute scores (``magnitude``).
        scope: ``layerwise``, each layer keeps its share, or ``global``, all layers share one threshold.
        ramp_epochs: epochs over which the sparsity rises, by a cubic law.
        score_scale: factor on the width of the uniform distribution that the scores start from; smaller scores
            let the mask move faster at the same learning rate.
        sparsity: fraction of the weights (of each layer, unless the scope is global) that is pruned, in [0, 1).
        seed: 64-bit seed of everything random.
        resample_every: steps between two resampling events (IteRand's K_per).
        resample_rate: probability that an event redraws a pruned weight (IteRand's r).
        draws: number of values a weight cycles through: the n-th redraw gives draw n mod ``draws``.
        recycle_every: epochs between two recyclings (Weight Recycling's F); 0 = never.
        recycle_rate: share of a layer that is overwritten, up to a half.
        recycle_after: the first epoch, counted from 0, that may begin with a recycling.
        binarise: replace kept weights by α·sign(w) (Biprop).
        coats: number of nested masks; a weight is taken as many times as there are masks that keep it.
        frozen: share of the mask that follows from the seed, in (0, 1].
        frozen_kept: share of the weights that is fixed to kept; by default ``frozen * (1 - sparsity)``.
        scale_fan: whether the scale counts only the inputs that a unit keeps, so that a sparse layer passes on the
            variance of its inputs.
        samples_per_class: images that SNIP and GraSP look at.
        rounds: of SynFlow.
    """

    method: Method = "iterand"
    distribution: Distribution | None = None
    selection: Literal["signed", "magnitude"] | None = None
    scope: Literal["layerwise", "global"] | None = None
    ramp_epochs: int | None = Field(None, ge=1)
    score_scale: float = Field(1.0, gt=0)
    sparsity: float = Field(0.5, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**64)
    resample_every: int = Field(300, ge=1)
    resample_rate: float = Field(0.1, ge=0, le=1)
    draws: int = Field(256, ge=1, le=256)
    recycle_every: int | None = Field(None, ge=0)
    recycle_rate: float | None = Field(None, gt=0, le=0.5)
    recycle_after: int | None = Field(None, ge=0)
    binarise: bool | None = None
    coats: int | None = Field(None, ge=1, le=127)
    frozen: float | None = Field(None, gt=0, le=1)
    frozen_kept: float | None = Field(None, ge=0, le=1)
    scale_fan: bool | None = None
    samples_per_class: int | None = Field(None, ge=1)
    rounds: int | None = Field(None, ge=1)


class DataConfig(Section):
    """What is learned from.

    Attributes:
        name: a built-in data set, ``folder`` for an ImageFolder of the user's, or ``text`` for texts of the user's.
        validation: fraction of the training images or texts held out for validation, in [0, 1).
        image_size: side of the square that images are scaled to; ``None`` keeps the size of the data set.
        pad: pixels added around a training image before it is cropped.
        pad_value: ``black``, as the papers do, or ``mean``, the mean colour of the data: with few epochs, a network
            that saw mostly images with black rims is worse on those without.
        crop: ``none``, ``shift`` (a random window of the original size) or ``resized`` (random area and aspect).
        flip: mirror half of the training images.
        seed: of the validation split, the order of the images and their augmentation; ``None`` takes that of the
            network. With it, networks of different seeds see the same images in the same order.
        tokens: length of a text in tokens; ``None`` as the data set says.
        vocabulary: number of different tokens; ``None`` as the data set says.
        unit: ``words`` or ``bytes``: what a token of a text is; ``None`` as the data set says.
    """

    name: str = "digits"
    validation: float = Field(0.1, ge=0, lt=1)
    image_size: int | None = Field(None, ge=1, le=4096)
    pad: int = Field(0, ge=0, le=64)
    pad_value: Literal["black", "mean"] = "black"
    crop: Literal["none", "shift", "resized"] = "none"
    flip: bool = False
    seed: int | None = Field(None, ge=0, lt=2**64)
    tokens: int | None = Field(None, ge=1, le=65536)
    vocabulary: int | None = Field(None, ge=2, le=2**24)
    unit: Literal["words", "bytes"] | None = None


class ModelConfig(Section):
    """The architecture.

    Attributes:
        name: a built-in model, ``torchvision:NAME``, or ``package.module:factory``.
        width: factor on the number of channels (built-in models).
        stem: ``cifar`` (3×3, stride 1), ``imagenet`` (7×7, stride 2, max-pool) or ``auto`` by image size (ResNets).
        affine: whether BatchNorm (of the transformer: LayerNorm) has trained scales and shifts (built-in models).
        activation: ``relu``, the default, or ``binary``: ±1, with a gradient of its own (Biprop; built-in models).
    """

    name: str = "digits-cnn"
    width: float = Field(1.0, gt=0, le=64)
    stem: Literal["auto", "cifar", "imagenet"] = "auto"
    affine: bool = False
    activation: Literal["relu", "binary"] | None = None


class TrainConfig(Section):
    """How the search runs.

    Attributes:
        epochs: passes over the training images, warm-up and cool-down included.
        batch_size: images per step; where several processes train one network, of all of them together.
        optimizer: ``sgd``, the default, or ``adam``, with which Biprop trains binary activations.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: L2 factor on the scores (and on every other parameter).
        label_smoothing: of the cross entropy.
        warmup_epochs: epochs of linear warm-up.
        cooldown_epochs: last epochs, run at ``cooldown_lr`` after the cosine.
        cooldown_lr: learning rate of the last epochs.
        precision: ``float32``, ``bfloat16`` for autocast, or ``auto``: bfloat16 on a GPU, float32 elsewhere.
        lr_batch: batch size that ``lr`` and ``cooldown_lr`` are meant for: they are multiplied by
            ``batch_size / lr_batch``. ``None`` takes them as they are, whatever the batch.
        sync_batchnorm: whether BatchNorm normalises by the whole batch where several processes train one network.
            Without it, each normalises by its part, and the running statistics are those of the first process.
    """

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["sgd", "adam"] | None = None
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    warmup_epochs: int = Field(0, ge=0)
    cooldown_epochs: int = Field(0, ge=0)
    cooldown_lr: float = Field(1e-5, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    lr_batch: int | None = Field(None, ge=1)
    sync_batchnorm: bool | None = None


class Recipe(Section):
    """Everything that determines a training run, apart from the data on disk and the machine."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    subnetwork: SubnetworkConfig = SubnetworkConfig()
    train: TrainConfig = TrainConfig()


def validated(section: type[SectionT], values: dict[str, Any], where: str) -> SectionT:
    """Build a settings object.

    Raises:
        ConfigError: an unknown key (with the nearest names) or a value out of range, named with ``where``.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(section, error)}") from None


def _first_problem(section: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        owner: Any = section
        for part in path[:-1]:
            owner = owner.model_fields[part].annotation
        return f"unknown key {name!r}{did_you_mean(path[-1], owner.model_fields)}"
    found = problem["input"]
    if problem["type"] == "literal_error":
        expected = str(problem["ctx"]["expected"])
        hint = did_you_mean(str(found), [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")])
        return f"{name}: unknown {found!r}{hint}"
    return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {found!r}"
