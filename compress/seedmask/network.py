"""What a file holds, as immutable values that cannot be built wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ..errors import SeedMaskError
from ..files.names import check_text
from ..inputs import AnyInput
from ..seed.codebooks import Codebook, get_codebook
from ..seed.frozen import Frozen, check_frozen_weights
from ..seed.philox import check_seed
from .coats import MAX_COAT
from .json_text import check_json, located
from .stored import StoredTensor, check_shape
from .trained import Trained, rows_of

__all__ = ["JsonScalar", "MaskedTensor", "Network"]

JsonScalar = str | int | float | bool | None


def check_scale(scale: np.float32, codebook: Codebook, what: str, *, coated: bool = False) -> None:
    """Refuse scales whose products with codes could be infinite, NaN, or subnormal (some devices flush it).

    Raises:
        SeedMaskError: the scale is one of these.
    """
    largest = MAX_COAT if coated else int(np.abs(codebook.entries.astype(np.int64)).max())
    limits = np.finfo(np.float32)
    if not (math.isfinite(scale) and float(limits.tiny) <= float(scale) <= float(limits.max) / largest):
        raise SeedMaskError(f"{what}: expected a positive, finite, normal float32 as scale, got {float(scale)!r}")


@dataclass(frozen=True, eq=False)
class MaskedTensor:
    """A weight tensor as the file knows it: random weights, a mask over them, and what became of those that are kept.

    Of ``draws``, ``current`` and ``coats`` only the numbers of kept weights matter.

    Attributes:
        name: parameter name in the plain model, such as ``layer1.0.conv1.weight``.
        shape: its shape; all sizes at least 1.
        codebook: name of the distribution.
        scale: float32 factor on the codes.
        mask: bool ``[n]``, row-major; True = kept.
        draws: uint8 ``[n]``, the draw of each weight; ``None`` = all 0.
        current: uint8 ``[n]``, instead of draws: the byte that the value of each weight stands for now (weight
            recycling); ``None`` = that of its draw.
        frozen: thresholds of the weights whose mask bit the generator fixes; ``None`` = there are none.
        coats: uint8 ``[n]``, 1 to 127: what the code of each weight is multiplied by; two-valued codebooks only;
            ``None`` = all 1.
        trained: the values of kept weights, instead of those that draws, current and coats would give; codebook and
            scale then only tell what they were at the start. ``None`` = kept weights were not trained.

    Raises:
        SeedMaskError: a field does not fit the others.
        ConfigError: there is no such codebook.
    """

    name: str
    shape: tuple[int, ...]
    codebook: str
    scale: np.float32
    mask: NDArray[np.bool_]
    draws: NDArray[np.uint8] | None = None
    current: NDArray[np.uint8] | None = None
    frozen: Frozen | None = None
    coats: NDArray[np.uint8] | None = None
    trained: Trained | None = None

    def __post_init__(self) -> None:
        check_text(self.name, "tensor name")
        what = f"tensor {self.name!r}"
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        check_shape(self.shape, what, least=1)
        if not isinstance(self.scale, np.float32):
            raise SeedMaskError(f"{what}: expected the scale as numpy.float32, got {type(self.scale).__name__}")
        book = get_codebook(self.codebook)
        check_scale(self.scale, book, what, coated=self.coats is not None)
        arrays = {"mask": self.mask, "draws": self.draws, "current": self.current, "coats": self.coats}
        for field_name, values in arrays.items():
            dtype = np.bool_ if field_name == "mask" else np.uint8
            if values is not None and (values.dtype != dtype or values.shape != (self.weights,)):
                raise SeedMaskError(
                    f"{what}: expected {field_name} as {np.dtype(dtype)} of shape [{self.weights}], "
                    f"got {values.dtype} of shape {list(values.shape)}"
                )
        if self.draws is not None and self.current is not None:
            raise SeedMaskError(f"{what}: expected draws or current, got both; a weight has one value")
        if self.frozen is not None:
            with located(what):
                check_frozen_weights(self.weights)
        if self.coats is not None:
            self._check_coats(self.coats, book, what)
        if self.trained is not None:
            self._check_trained(self.trained, what)

    def _check_coats(self, coats: NDArray[np.uint8], book: Codebook, what: str) -> None:
        if not book.two_valued:
            raise SeedMaskError(
                f"{what}: expected coats with a two-valued codebook only, got {self.codebook!r}; "
                "its codes times coats would not fit a byte"
            )
        kept = coats[self.mask]
        if len(kept) and not 1 <= kept.min() <= kept.max() <= MAX_COAT:
            raise SeedMaskError(
                f"{what}: expected coats from 1 to {MAX_COAT} for kept weights, got {kept.min()} to {kept.max()}; "
                "a code times its coats must fit a signed byte"
            )

    def _check_trained(self, trained: Trained, what: str) -> None:
        for field_name in ("draws", "current", "coats"):
            if getattr(self, field_name) is not None:
                raise SeedMaskError(f"{what}: expected no {field_name} beside trained values, got both")
        kept = int(np.count_nonzero(self.mask))
        if len(trained.values) != kept:
            raise SeedMaskError(f"{what}: expected a value for each of {kept} kept weights, got {len(trained.values)}")
        if trained.scales is not None and len(trained.scales) != rows_of(self.shape):
            raise SeedMaskError(
                f"{what}: expected {rows_of(self.shape)} scales, one for each index of the first dimension, "
                f"got {len(trained.scales)}"
            )

    @property
    def weights(self) -> int:
        """Number of weights, kept or pruned."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Network:
    """Everything that a file says. The index of a tensor is the tensor word of its random numbers.

    Attributes:
        seed: 64-bit seed of the random weights.
        tensors: the masked tensors, at least one; a tuple, or for networks larger than the memory a sequence that
            makes a tensor when it is asked for one (its names are checked when it is packed).
        state: the other tensors of the model (normalisation statistics, biases), by parameter name.
        architecture: how a built-in model is constructed; ``None`` if the user supplies the model.
        input: the images or texts that it takes.
        classes: names of the classes.
        recipe: the settings of the training run.

    Raises:
        SeedMaskError: a name is used twice or cannot be stored, or a setting is not JSON.
        ConfigError: the seed does not fit 64 bits.
    """

    seed: int
    tensors: Sequence[MaskedTensor]
    state: Mapping[str, StoredTensor] = field(default_factory=dict)
    architecture: dict[str, JsonScalar] | None = None
    input: AnyInput | None = None
    classes: list[str] | None = None
    recipe: dict[str, JsonValue] | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.tensors:
            raise SeedMaskError("network: expected at least one masked tensor, got none; train a subnetwork first")
        if isinstance(self.tensors, tuple):
            check_names([tensor.name for tensor in self.tensors], list(self.state))
        check_settings(self.architecture, self.classes, self.recipe)


def check_names(tensors: list[str], state: list[str]) -> None:
    """Refuse names that cannot be stored or are used twice.

    Raises:
        SeedMaskError: there is one, and it is named.
    """
    seen: set[str] = set()
    for name in [*tensors, *state]:
        check_text(name, "tensor name")
        if name in seen:
            raise SeedMaskError(f"tensor {name!r}: expected unique names, got it twice; rename one")
        seen.add(name)


def check_settings(architecture: object, classes: Sequence[str] | None, recipe: object) -> None:
    """Refuse settings that JSON would not give back unchanged, or that a terminal should not print.

    Raises:
        SeedMaskError: there is one.
    """
    check_json(architecture, "architecture")
    check_json(recipe, "recipe")
    for name in classes or ():
        check_text(name, "class name")
