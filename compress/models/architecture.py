"""Architectures: a name and the few numbers that, with the name, determine every shape of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from ..inputs import LARGEST_LENGTH, LARGEST_VOCABULARY, AnyInput, ImageInput, TextInput

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..config import ModelConfig

__all__ = [
    "AnyArchitecture",
    "Architecture",
    "TextArchitecture",
    "has_batch_norm",
    "is_factory",
    "is_foreign",
    "model_names",
    "read_architecture",
    "resolve",
]

#: Images of at least this side get the ImageNet stem when the stem is ``auto``.
IMAGENET_STEM_SIZE = 96
TORCHVISION = "torchvision:"
STEMS = ("cifar", "imagenet", "none")
ACTIVATIONS = ("relu", "gelu", "binary")
#: Fields that came after the first version, with the values that their absence stands for.
LATER = {"activation": "relu", "batch_norm": False, "bias": False}


@dataclass(frozen=True)
class _Family:
    """The choices that a built-in model has.

    Attributes:
        smallest_image: the smallest side of its images in pixels.
        has_stem: whether its stem can be chosen.
        always_batch_norm: whether it has BatchNorm in every layout.
        chooses_batch_norm: whether ``batch_norm`` chooses between two layouts.
        activation: where nothing else is asked for.
    """

    smallest_image: int
    has_stem: bool = False
    always_batch_norm: bool = True
    chooses_batch_norm: bool = False
    activation: str = "relu"


_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "wideresnet50-2")
FAMILIES: dict[str, _Family] = {
    "digits-cnn": _Family(4),
    "airbench": _Family(9, activation="gelu"),
    **{
        f"conv{depth}": _Family(2 ** (depth // 2), always_batch_norm=False, chooses_batch_norm=True)
        for depth in (2, 4, 6, 8)
    },
    "vgg-small": _Family(8, chooses_batch_norm=True),
    **dict.fromkeys(("resnet20", "resnet32"), _Family(1)),
    **dict.fromkeys(_RESNETS, _Family(1, has_stem=True)),
}
#: Built-in models that take texts.
TEXT_MODELS = ("text-transformer",)


def model_names() -> tuple[str, ...]:
    """Return the names of the built-in models."""
    return (*FAMILIES, *TEXT_MODELS)


@dataclass(frozen=True)
class _Stored:
    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON scalars; those that came after the first version only where they are set."""
        values = asdict(self)
        return {key: value for key, value in values.items() if LATER.get(key) != value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` gave.

        Raises:
            ConfigError: a key is missing or unknown, or a value is not what the class allows.
        """
        return cls(**_exactly([field.name for field in fields(cls)], values))


@dataclass(frozen=True)
class Architecture(_Stored):
    """Everything that determines the shapes of a network of images, as a ``.seedmask`` file stores it.

    Attributes:
        name: a built-in model, ``torchvision:NAME``, or ``package.module:factory``.
        num_classes: number of outputs.
        in_channels: channels of an input image.
        image_size: side of a (square) input image in pixels.
        width: factor on the number of channels (built-in models).
        stem: ``cifar``, ``imagenet``, or ``none`` for networks that have no choice of stem.
        affine: whether BatchNorm has trained scales and shifts (built-in models).
        activation: ``relu``, ``gelu`` or ``binary`` (built-in models).
        batch_norm: whether a network that has the choice (conv2 to conv8, vgg-small) has BatchNorm behind each of its
            hidden layers. Files from before there was a choice hold networks without.
        bias: whether layers have biases: all of a network without BatchNorm, else the last (built-in models).

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    width: float = 1.0
    stem: str = "none"
    affine: bool = False
    activation: str = "relu"
    batch_norm: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        _check_common(self, in_channels=4096, image_size=4096)
        _expect(self, "stem", self.stem in STEMS, "one of " + ", ".join(STEMS))
        _expect(self, "activation", self.activation in ACTIVATIONS, "one of " + ", ".join(ACTIVATIONS))
        for field in ("batch_norm", "bias"):
            _expect(self, field, type(getattr(self, field)) is bool, "true or false")


@dataclass(frozen=True)
class TextArchitecture(_Stored):
    """Everything that determines the shapes of a network of texts, as a ``.seedmask`` file stores it.

    Attributes:
        name: a built-in model, or ``package.module:factory``.
        num_classes: number of outputs.
        length: tokens of an input.
        vocabulary: number of different tokens.
        width: factor on the number of channels (built-in models).
        affine: whether LayerNorm has trained scales and shifts (built-in models).

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """

    name: str
    num_classes: int
    length: int
    vocabulary: int
    width: float = 1.0
    affine: bool = False

    def __post_init__(self) -> None:
        _check_common(self, length=LARGEST_LENGTH, vocabulary=LARGEST_VOCABULARY)


AnyArchitecture = Architecture | TextArchitecture


def is_foreign(arch: AnyArchitecture) -> bool:
    """Whether the model is not built in: torchvision's, or the user's own code."""
    return ":" in arch.name


def is_factory(arch: AnyArchitecture) -> bool:
    """Whether the model is the user's own code, ``package.module:factory``."""
    return is_foreign(arch) and not (isinstance(arch, Architecture) and arch.name.startswith(TORCHVISION))


def read_architecture(values: Mapping[str, Any]) -> AnyArchitecture:
    """Read what ``to_dict`` of either kind gave; that of a network of texts has a vocabulary.

    Raises:
        ConfigError: a key is missing or unknown, or a value is not what the class allows.
    """
    return (TextArchitecture if "vocabulary" in values else Architecture).from_dict(values)


def _exactly(known: Sequence[str], values: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in values:
        if key not in known:
            raise ConfigError(f"architecture: unknown key {key!r}{did_you_mean(str(key), known)}")
    missing = [key for key in known if key not in values and key not in LATER]
    if missing:
        raise ConfigError(f"architecture: missing {', '.join(missing)}")
    return values


def _check_common(arch: AnyArchitecture, **largest: int) -> None:
    """Check the common fields, and sizes with the limits given for them; the width becomes a float."""
    _expect(arch, "name", isinstance(arch.name, str) and bool(arch.name), "a name")
    for field, limit in {"num_classes": 2**20, **largest}.items():
        value = getattr(arch, field)
        _expect(arch, field, type(value) is int and 1 <= value <= limit, f"an integer in [1, {limit}]")
    _expect(arch, "width", type(arch.width) in (int, float) and 0 < arch.width <= 64, "a number in (0, 64]")
    _expect(arch, "affine", type(arch.affine) is bool, "true or false")
    object.__setattr__(arch, "width", float(arch.width))


def _expect(arch: AnyArchitecture, field: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"architecture: {field}: expected {expected}, got {getattr(arch, field)!r:.100}")


def has_batch_norm(config: ModelConfig) -> bool:
    """Whether a model that has the choice gets BatchNorm behind each hidden layer; false for models without the choice.

    By default those with binary activations do, as in the code of Diffenderfer and Kailkhura (ICLR 2021): what a sign
    is taken from must be centred, or most signs are equal.
    """
    family = FAMILIES.get(config.name)
    if family is None or not family.chooses_batch_norm:
        return False
    return config.activation == "binary" if config.batch_norm is None else config.batch_norm


def resolve(config: ModelConfig, *, num_classes: int, input: AnyInput) -> AnyArchitecture:  # noqa: A002
    """Complete the settings to an architecture, from the input and the classes of the data.

    Args:
        config: the model section of a recipe.
        num_classes: number of classes of the data.
        input: the images or texts of the data.

    Raises:
        ConfigError: an unknown model, an input it does not take, or a setting it does not have.
    """
    if ":" in config.name:
        for key, unset in (
            ("width", 1.0),
            ("affine", False),
            ("activation", None),
            ("batch_norm", None),
            ("bias", None),
        ):
            _refuse_set(config, key, getattr(config, key) != unset, "it belongs to the built-in models")
    if isinstance(input, TextInput):
        return _resolve_text(config, num_classes, input)
    return _resolve_image(config, num_classes, input)


def _resolve_image(config: ModelConfig, num_classes: int, image: ImageInput) -> Architecture:
    channels, height, width = image.shape
    if config.name in TEXT_MODELS:
        raise ConfigError(
            f"model: {config.name} takes texts, not images: give --data text (to estimate: --tokens and --vocabulary)"
        )
    if height != width:
        raise ConfigError(
            f"model: images are {width}×{height} pixels, but a model takes square ones: give --set data.image_size=SIDE"
        )
    family = FAMILIES.get(config.name)
    if family is None and ":" not in config.name:
        raise ConfigError(
            f"model: unknown {config.name!r}{did_you_mean(config.name, model_names())} "
            "(or torchvision:NAME, or package.module:factory)"
        )
    batch_norm = has_batch_norm(config)
    if family is not None and not family.chooses_batch_norm:
        reason = "BatchNorm belongs to it in every layout; conv2 to conv8 and vgg-small have the choice"
        _refuse_set(config, "batch_norm", config.batch_norm is not None, reason)
    elif family is not None and not family.always_batch_norm:
        reason = "it has no BatchNorm unless --set model.batch_norm=true"
        _refuse_set(config, "affine", config.affine and not batch_norm, reason)
    if family is not None and height < family.smallest_image:
        side = family.smallest_image
        raise ConfigError(f"model: {config.name} needs images of at least {side}×{side} pixels, got {width}×{height}")
    stem = "none"
    if family is not None and family.has_stem:
        stem = config.stem
        if stem == "auto":
            stem = "imagenet" if height >= IMAGENET_STEM_SIZE else "cifar"
    else:
        _refuse_set(config, "stem", config.stem != "auto", "only the built-in ResNets have a choice of stem")
    return Architecture(
        config.name,
        num_classes,
        channels,
        height,
        width=config.width,
        stem=stem,
        affine=config.affine,
        activation=config.activation or (family.activation if family else "relu"),
        batch_norm=batch_norm,
        bias=bool(config.bias),
    )


def _resolve_text(config: ModelConfig, num_classes: int, text: TextInput) -> TextArchitecture:
    if config.name in FAMILIES or config.name.startswith(TORCHVISION):
        known = ", ".join(TEXT_MODELS)
        raise ConfigError(f"model: {config.name} takes images, and the data are texts: give --model {known}")
    if ":" not in config.name and config.name not in TEXT_MODELS:
        raise ConfigError(
            f"model: unknown {config.name!r}{did_you_mean(config.name, TEXT_MODELS)} (or package.module:factory)"
        )
    for key in ("activation", "batch_norm", "bias"):
        _refuse_set(config, key, getattr(config, key) is not None, "it belongs to the networks of images")
    _refuse_set(config, "stem", config.stem != "auto", "only the built-in ResNets have a choice of stem")
    return TextArchitecture(config.name, num_classes, text.length, text.vocabulary, config.width, config.affine)


def _refuse_set(config: ModelConfig, key: str, is_set: bool, reason: str) -> None:
    if is_set:
        raise ConfigError(f"model: {config.name} does not take {key} = {getattr(config, key)!r}: {reason}")
