"""Settings: immutable, validated once, refused by name when unknown.

A recipe has four sections. ``[data]`` and ``[model]`` say what is learned, ``[subnetwork]`` how the weights
come to be, ``[train]`` how the search for them runs. Nothing here is a path of one machine, so the resolved
recipe can travel inside a ``.seedmask`` file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from .errors import ConfigError, did_you_mean
from .seed.codebooks import Codebook, get_codebook
from .seed.frozen import Frozen
from .seed.philox import DECISION_STEPS

__all__ = [
    "DISTRIBUTIONS",
    "DataConfig",
    "ModelConfig",
    "PruneAtInit",
    "Recipe",
    "Recycle",
    "Resample",
    "Section",
    "Selection",
    "SubnetworkConfig",
    "TrainConfig",
    "validated",
]


Distribution = Literal["signed-constant", "uniform", "normal"]
Criterion = Literal["magnitude", "random", "snip", "grasp", "synflow"]
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)

SectionT = TypeVar("SectionT", bound="Section")
ValueT = TypeVar("ValueT")


def _as_tuple(given: Any) -> Any:
    """TOML and JSON write as a list what a recipe holds as a tuple; a number is a list of one."""
    if isinstance(given, list):
        return tuple(given)
    return (given,) if type(given) in (int, float) else given


#: Numbers in a recipe, which is immutable: those for the channels of images (one is for all of them), or epochs.
Numbers = Annotated[tuple[ValueT, ...], BeforeValidator(_as_tuple), PlainSerializer(list)]


class Section(BaseModel):
    """A section of a recipe: frozen, and strict about unknown keys, types and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Selection(Section):
    """How scores become a mask.

    Attributes:
        rule: keep the largest scores (``signed``), the largest absolute scores (``magnitude``), or these, with the
            weights of negative scores inverted (``invert``, signed supermasks).
        scope: ``layerwise``, each layer keeps its share, or ``global``, all layers share one threshold.
        ramp_epochs: epochs over which the sparsity rises, by a cubic law; 0 = it holds from the start.
        score_bound: scores start uniform on ±``score_bound / sqrt(fan_in)``, with ``invert`` on its positive half;
            smaller scores let the mask move faster at the same learning rate.
        softness: width of a sigmoid around the threshold that stands for the mask in training, in standard deviations
            of the scores (or of their magnitudes); it falls to 0 along a line. 0 = masks are hard from the start.
        soft_until: share of the steps after which masks are hard.
        frozen: share of the mask that follows from the seed, in [0, 1].
        frozen_kept: share of the weights that is fixed to kept; by default ``frozen * (1 - sparsity)``.
        multiplicity: number of nested masks; a weight is taken as many times as there are masks that keep it.
        first_sparsity: sparsity of the first masked layer, in the order in which the model holds its layers; 0 keeps
            all of its random weights, ``None`` treats it as the others.
        last_sparsity: of the last masked layer, likewise.
    """

    rule: Literal["signed", "magnitude", "invert"] = "magnitude"
    scope: Literal["layerwise", "global"] = "layerwise"
    ramp_epochs: int = Field(0, ge=0)
    score_bound: float = Field(1.0, gt=0)
    softness: float = Field(0.0, ge=0, le=100)
    soft_until: float = Field(0.67, gt=0, le=1)
    frozen: float = Field(0.0, ge=0, le=1)
    frozen_kept: float | None = Field(None, ge=0, le=1)
    multiplicity: int = Field(1, ge=1, le=127)
    first_sparsity: float | None = Field(None, ge=0, lt=1)
    last_sparsity: float | None = Field(None, ge=0, lt=1)


class Resample(Section):
    """IteRand's refresh of pruned weights.

    Attributes:
        every: steps between two resampling events (K_per).
        rate: probability that an event redraws a pruned weight (r).
        draws: number of values that a weight cycles through: the n-th redraw gives draw n mod ``draws``.
    """

    every: int = Field(300, ge=1)
    rate: float = Field(0.1, ge=0, le=1)
    draws: int = Field(256, ge=1, le=256)

    @property
    def threshold(self) -> int:
        """``rate`` in units of 1 / 65536: a pruned weight whose 16 random bits are below it is redrawn."""
        return round(self.rate * DECISION_STEPS)

    @model_validator(mode="after")
    def _check(self) -> Resample:
        if self.rate > 0 and not self.threshold:
            raise ValueError(
                f"rate: expected 0 or at least {1 / DECISION_STEPS:.1e} (1/{DECISION_STEPS}), got {self.rate}"
            )
        return self


class Recycle(Section):
    """Weight Recycling's refresh: after epochs F, 2F, …, counted from 0, but not after the last.

    Attributes:
        every: epochs between two recyclings (F).
        rate: share of a layer that is overwritten, up to a half.
        warmup: an epoch, counted from 0: nothing is recycled after it or an earlier one.
        after: as earlier versions counted, whose runs go on as they began: recycle before epochs F, 2F, …, from epoch
            ``after`` on, but not before the last; ``None`` counts from ``warmup``.
    """

    every: int = Field(10, ge=1)
    rate: float = Field(0.2, gt=0, le=0.5)
    warmup: int = Field(0, ge=0)
    after: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Recycle:
        if self.warmup and self.after is not None:
            raise ValueError("after: it counts as earlier versions did, which had no warmup; give one of them")
        return self


class PruneAtInit(Section):
    """Pruning once, before training, by one threshold for all layers.

    Attributes:
        criterion: what the mask keeps the most of.
        samples_per_class: images that SNIP and GraSP look at; ``None`` for the others.
        random_sample: whether they look at so many times as many augmented training images as there are classes,
            whatever their classes, instead of so many of each class, not augmented.
        eval_mode: whether they compute with the network in evaluation mode, in which BatchNorm takes its running
            statistics (of a new network, 0 and 1) instead of those of the sample.
        rounds: of SynFlow; ``None`` for the others.
    """

    criterion: Criterion
    samples_per_class: int | None = Field(None, ge=1)
    rounds: int | None = Field(None, ge=1)
    random_sample: bool | None = None
    eval_mode: bool | None = None

    @property
    def looks_at_data(self) -> bool:
        """Whether the criterion needs a sample of the training data."""
        return self.criterion in ("snip", "grasp")

    @model_validator(mode="after")
    def _check(self) -> PruneAtInit:
        for key in ("samples_per_class", "random_sample", "eval_mode"):
            if getattr(self, key) is not None and not self.looks_at_data:
                raise ValueError(f"{key}: {self.criterion} looks at no data; leave it out")
        if self.rounds is not None and self.criterion != "synflow":
            raise ValueError(f"rounds: {self.criterion} has no rounds; leave it out")
        return self


class SubnetworkConfig(Section):
    """How the weights of a network come to be: independent choices, which the methods of the literature combine.

    Exactly one of three things is trained: scores, by which ``selection`` keeps some of the random weights; the
    weights that ``prune`` keeps; or, with neither, all weights (dense training).

    Attributes:
        method: name of the method that made the choices, for reports (see ``methods/presets.py``).
        seed: 64-bit seed of everything random.
        sparsity: fraction of the weights (of each layer, unless one threshold holds for all) that is pruned, in [0, 1).
        distribution: codebook of the random weights.
        scale_fan: whether the scale counts only the inputs that a unit keeps, so that a sparse layer passes on the
            variance of its inputs.
        binarise: replace kept weights by α·sign(w) (Biprop).
        selection: how trained scores become a mask; ``None`` if weights are trained.
        resample: IteRand's refresh of pruned weights; ``None`` = never.
        recycle: Weight Recycling's refresh; ``None`` = never.
        prune: how the mask is found before training; ``None`` if it is found in training, or nothing is pruned.
    """

    method: str
    seed: int = Field(0, ge=0, lt=2**64)
    sparsity: float = Field(0.5, ge=0, lt=1)
    distribution: Distribution = "signed-constant"
    scale_fan: bool = False
    binarise: bool = False
    selection: Selection | None = None
    resample: Resample | None = None
    recycle: Recycle | None = None
    prune: PruneAtInit | None = None

    @property
    def has_masks(self) -> bool:
        """Whether weights are pruned, by scores or before training; dense training has no masks to pack."""
        return self.selection is not None or self.prune is not None

    @property
    def codebook(self) -> Codebook:
        """The distribution of the random weights."""
        return get_codebook(self.distribution)

    @property
    def binarised(self) -> bool:
        """Whether kept weights become α·sign(w) with an α that is not the scale anyway, as it is for two values."""
        return self.binarise and not self.codebook.two_valued

    def sparsity_of(self, layer: int, layers: int) -> float:
        """The sparsity of the masked layer with a number (0, 1, …), of so many."""
        own = [self.selection.first_sparsity, self.selection.last_sparsity] if self.selection else [None, None]
        if layer == 0 and own[0] is not None:
            return own[0]
        return self.sparsity if layer < layers - 1 or own[1] is None else own[1]

    def fan_factor(self, sparsity: float) -> float:
        """Mean square of the multiples (0 = pruned) that weights are taken at: what ``scale_fan`` divides out."""
        multiplicity = self.selection.multiplicity if self.selection else 1
        return (1 - sparsity) * (multiplicity + 1) * (2 * multiplicity + 1) / 6

    @property
    def frozen(self) -> Frozen | None:
        """What the seed fixes of the mask."""
        selection = self.selection
        if selection is None or not selection.frozen:
            return None
        kept = self._frozen_kept(selection)
        thresholds = [
            min(round(share * DECISION_STEPS), DECISION_STEPS - 1) for share in (selection.frozen - kept, kept)
        ]
        if not any(thresholds):
            raise ValueError(
                f"selection.frozen: expected at least {1 / DECISION_STEPS:.1e} (1/{DECISION_STEPS}), "
                f"got {selection.frozen}"
            )
        return Frozen(*thresholds)

    @model_validator(mode="after")
    def _check(self) -> SubnetworkConfig:
        if self.selection is None:
            for key in ("binarise", "resample", "recycle"):
                if getattr(self, key):
                    raise ValueError(f"{key}: {self.method} trains weights, and has no scores; leave it out")
            if self.prune is None and (self.scale_fan or self.sparsity):
                key = "scale_fan" if self.scale_fan else "sparsity"
                raise ValueError(f"{key}: {self.method} prunes nothing; leave it out")
        elif self.prune is not None:
            raise ValueError("prune: a mask is found in training (selection) or before it (prune); give one of them")
        if self.prune is not None and self.prune.criterion == "magnitude" and self.codebook.two_valued:
            raise ValueError(
                f"distribution: the weights of {self.distribution} differ in sign only, and magnitude pruning compares "
                "magnitudes; give normal or uniform"
            )
        if self.selection is not None:
            self._check_selection(self.selection)
        return self

    def _frozen_kept(self, selection: Selection) -> float:
        return selection.frozen * (1 - self.sparsity) if selection.frozen_kept is None else selection.frozen_kept

    def _check_selection(self, selection: Selection) -> None:
        if selection.multiplicity > 1 and not (self.codebook.two_valued or self.binarise):
            raise ValueError(
                f"selection.multiplicity: multiples of {self.distribution} weights do not fit the int8 codes of a "
                "file; give distribution signed-constant, or binarise"
            )
        if selection.softness and (selection.multiplicity > 1 or self.binarised):
            reason = "several masks have no one threshold" if selection.multiplicity > 1 else "α is that of a hard mask"
            raise ValueError(f"selection.softness: {reason}; leave it out")
        for key in ("first_sparsity", "last_sparsity"):
            if getattr(selection, key) is not None and (selection.scope == "global" or selection.frozen):
                reason = "one threshold holds for all layers" if selection.scope == "global" else "the mask is frozen"
                raise ValueError(f"selection.{key}: {reason}, by one sparsity; leave it out")
        if not selection.frozen:
            if selection.frozen_kept is not None:
                raise ValueError("selection.frozen_kept: nothing is frozen; give selection.frozen, or leave it out")
            return
        kept = self._frozen_kept(selection)
        pruned = selection.frozen - kept
        if kept > selection.frozen:
            raise ValueError(f"selection.frozen_kept: expected at most frozen = {selection.frozen}, got {kept}")
        if kept > 1 - self.sparsity or pruned > self.sparsity + 1e-9:
            raise ValueError(
                f"selection.frozen: a share of {pruned:g} fixed to pruned and {kept:g} to kept leaves no mask of "
                f"sparsity {self.sparsity:g}; lower frozen, or change frozen_kept"
            )
        assert self.frozen is not None  # which refuses a share that is rounded to nothing


class DataConfig(Section):
    """What is learned from.

    Attributes:
        name: a built-in data set, ``folder`` for an ImageFolder of the user's, or ``text`` for texts of the user's.
        validation: fraction of the training images or texts held out for validation, in [0, 1).
        image_size: side of the square that images are scaled to; ``None`` keeps the size of the data set.
        pad: pixels added around a training image before it is cropped.
        pad_value: ``black``, as the papers do; ``mean``, the mean colour of the data: with few epochs, a network that
            saw mostly images with black rims is worse on those without; or ``reflect``, the mirrored image.
        crop: ``none``, ``shift`` (a random window of the original size) or ``resized`` (random area and aspect).
        flip: mirror half of the training images: each time another random half (true), or, ``alternating``, in every
            second epoch the other half, so that two epochs show each image both ways.
        mean: what is subtracted from pixels in [0, 1], one number for each channel, or one for all; ``None`` is the
            mean colour of the data set.
        std: what pixels are divided by after that, like ``mean``; ``None`` is the standard deviation of the data set.
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
    pad_value: Literal["black", "mean", "reflect"] = "black"
    crop: Literal["none", "shift", "resized"] = "none"
    flip: bool | Literal["alternating"] = False
    mean: Numbers[float] | None = Field(None, min_length=1)
    std: Numbers[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
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
        activation: ``relu``, ``gelu`` or ``binary``: ±1, with a gradient of its own (Biprop; built-in models). By
            default ``relu``, but ``gelu`` for airbench.
        batch_norm: whether each hidden layer of conv2 to conv8 and of vgg-small has BatchNorm behind it; by default
            if the activation is binary. (vgg-small has it behind its poolings in any case.)
        bias: whether layers have trained biases, which start at 0: all layers of networks without BatchNorm, else the
            last (built-in models of images).
    """

    name: str = "digits-cnn"
    width: float = Field(1.0, gt=0, le=64)
    stem: Literal["auto", "cifar", "imagenet"] = "auto"
    affine: bool = False
    activation: Literal["relu", "gelu", "binary"] | None = None
    batch_norm: bool | None = None
    bias: bool | None = None


class TrainConfig(Section):
    """How the search runs.

    Attributes:
        epochs: passes over the training images, warm-up and cool-down included.
        batch_size: images per step; where several processes train one network, of all of them together.
        optimizer: ``sgd``, the default, or ``adam``, with which Biprop trains binary activations.
        lr: peak learning rate.
        scale_free: whether learning rate and weight decay of scores are in units of the weights, for each layer by its
            own factor (see `Subnetwork.param_groups`). By default, if the network has normalisation layers.
        schedule: ``cosine``, constant within an epoch, or ``linear``, from step to step: up in the warm-up, then down
            to 0. By default ``cosine``, or steps, if there are milestones.
        milestones: epochs, counted from 0, before which the learning rate is multiplied by ``gamma`` (MultiStepLR);
            none of them, ``[]``, is a constant learning rate. ``None`` lets it fall by a cosine.
        gamma: factor on the learning rate at a milestone, by default 0.1.
        momentum: of SGD.
        nesterov: whether that is Nesterov's momentum.
        weight_decay: L2 factor on the scores (and on every other parameter); where it is not given, 5e-4 with SGD and
            none with Adam, as Biprop's code has it.
        label_smoothing: of the cross entropy.
        warmup_epochs: epochs of linear warm-up; with the schedule ``linear`` from a fifth of the peak on.
        cooldown_epochs: last epochs, run at ``cooldown_lr`` after the schedule.
        cooldown_lr: learning rate of the last epochs.
        precision: ``float32``, ``bfloat16`` for autocast, or ``auto``: bfloat16 on a GPU, float32 elsewhere.
        lr_batch: batch size that ``lr`` and ``cooldown_lr`` are meant for: they are multiplied by
            ``batch_size / lr_batch``. ``None`` takes them as they are, whatever the batch.
        sync_batchnorm: whether BatchNorm normalises by the whole batch where several processes train one network.
            Without it, each normalises by its own share, and the running statistics are those of the first process.
    """

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["sgd", "adam"] | None = None
    lr: float = Field(0.1, gt=0)
    scale_free: bool | None = None
    schedule: Literal["cosine", "linear"] | None = None
    milestones: Numbers[int] | None = None
    gamma: float | None = Field(None, gt=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool | None = None
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    warmup_epochs: int = Field(0, ge=0)
    cooldown_epochs: int = Field(0, ge=0)
    cooldown_lr: float = Field(1e-5, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    lr_batch: int | None = Field(None, ge=1)
    sync_batchnorm: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_decay(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("optimizer") == "adam":
            return {"weight_decay": 0.0, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        milestones = self.milestones or ()
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones: expected ascending epochs, got {list(milestones)}")
        if self.schedule is not None and self.milestones is not None:
            raise ValueError(f"schedule: milestones are a schedule, too; leave out {self.schedule}, or the milestones")
        if self.gamma is not None and not milestones:
            raise ValueError(
                "gamma: there are no milestones to multiply the learning rate at; give them, or leave it out"
            )
        if self.nesterov and (self.optimizer == "adam" or not self.momentum):
            raise ValueError("nesterov: it is a momentum of SGD; give optimizer sgd and momentum, or leave it out")
        return self


class Recipe(Section):
    """Everything that determines a training run, apart from the data on disk and the machine."""

    subnetwork: SubnetworkConfig
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
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
    path = [str(key) for key in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        owner = section
        for key in path[:-1]:
            owner = _section_of(owner.model_fields[key].annotation)
        return f"unknown key {name!r}{did_you_mean(path[-1], owner.model_fields)}"
    if problem["type"] == "value_error":  # of a validator above, which names the key
        return f"{name}.{problem['ctx']['error']}".lstrip(".")
    given = problem["input"]
    if problem["type"] == "literal_error":
        expected = str(problem["ctx"]["expected"])
        hint = did_you_mean(str(given), [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")])
        return f"{name}: unknown {given!r}{hint}"
    if problem["type"] == "tuple_type":
        return f"{name}: expected a number, or a list of numbers, got {given!r}"
    return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {given!r}"


def _section_of(annotation: Any) -> type[BaseModel]:
    """The section that a field holds, which may be optional."""
    return next(
        kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)
    )
