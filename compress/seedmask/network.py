"""A network in memory: all that a file holds, as immutable values that are checked when they are built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ..errors import ConfigError, SeedMaskError, did_you_mean
from ..files.names import check_text
from ..inputs import AnyInput
from ..seed.codebooks import Codebook, get_codebook, random_codes
from ..seed.frozen import Frozen, check_frozen_weights
from ..seed.philox import CHUNK_WEIGHTS, check_seed, random_bytes
from .bits import Row
from .json_text import check_json, located
from .log import NO_LOG, choose_log, find_deltas
from .multiplicity import MAX_MULTIPLICITY, Multiplicity
from .parallel import thread_map
from .stored import StoredTensor, check_shape
from .tensor_recovery import TensorRecovery, combined_digest, digest_of_codes, map_checked
from .trained import Trained, rows_of

__all__ = [
    "FILE_FORMS",
    "PACKER_BUG",
    "JsonScalar",
    "MaskedTensor",
    "Network",
    "check_names",
    "check_scale",
    "check_settings",
]

JsonScalar = str | int | float | bool | None
#: How a file holds its manifest: as JSON that any program can read, or in a few bytes.
FILE_FORMS = ("json", "compact")
ResultT = TypeVar("ResultT")
PACKER_BUG = "this is a bug in the packer, please report it"


def check_scale(scale: np.float32, codebook: Codebook, what: str, *, multiplied: bool = False) -> None:
    """Refuse scales whose products with codes could be infinite, NaN, or subnormal (some devices flush it).

    Args:
        scale: float32 factor on the codes.
        codebook: of the codes.
        what: the start of the message.
        multiplied: whether codes have multiplicities.

    Raises:
        SeedMaskError: the scale is one of these.
    """
    largest = MAX_MULTIPLICITY if multiplied else int(np.abs(codebook.entries.astype(np.int64)).max())
    limits = np.finfo(np.float32)
    if not (math.isfinite(scale) and float(limits.tiny) <= float(scale) <= float(limits.max) / largest):
        raise SeedMaskError(f"{what}: expected a positive, finite, normal float32 as scale, got {float(scale)!r}")


@dataclass(frozen=True, eq=False)
class MaskedTensor:
    """A weight tensor to pack: random weights, a mask over them, and how the kept ones changed since draw 0.

    Of ``draws``, ``current`` and ``multiplicity`` only the entries of kept weights matter.

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
        multiplicity: uint8 ``[n]``, 1 to 127: what the code of each weight is multiplied by; two-valued codebooks
            only; ``None`` = all 1.
        trained: the values of kept weights, instead of those that draws, current and multiplicity would give; codebook
            and scale then only tell what they were at the start. ``None`` = kept weights were not trained.

    Raises:
        SeedMaskError: a field does not fit the others.
        ConfigError: the codebook is unknown.
    """

    name: str
    shape: tuple[int, ...]
    codebook: str
    scale: np.float32
    mask: NDArray[np.bool_]
    draws: NDArray[np.uint8] | None = None
    current: NDArray[np.uint8] | None = None
    frozen: Frozen | None = None
    multiplicity: NDArray[np.uint8] | None = None
    trained: Trained | None = None

    def __post_init__(self) -> None:
        check_text(self.name, "tensor name")
        what = f"tensor {self.name!r}"
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        check_shape(self.shape, what, least=1)
        if not isinstance(self.scale, np.float32):
            raise SeedMaskError(f"{what}: expected the scale as numpy.float32, got {type(self.scale).__name__}")
        book = get_codebook(self.codebook)
        check_scale(self.scale, book, what, multiplied=self.multiplicity is not None)
        arrays = {"mask": self.mask, "draws": self.draws, "current": self.current}
        arrays["multiplicity"] = self.multiplicity
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
        if self.multiplicity is not None:
            self._check_multiplicity(self.multiplicity, book, what)
        if self.trained is not None:
            self._check_trained(self.trained, what)

    def _check_multiplicity(self, multiplicity: NDArray[np.uint8], book: Codebook, what: str) -> None:
        if not book.two_valued:
            raise SeedMaskError(
                f"{what}: expected multiplicity with a two-valued codebook only, got {self.codebook!r}; "
                "its codes times their multiplicity would not fit a byte"
            )
        kept = multiplicity[self.mask]
        if len(kept) and not 1 <= kept.min() <= kept.max() <= MAX_MULTIPLICITY:
            raise SeedMaskError(
                f"{what}: expected multiplicity from 1 to {MAX_MULTIPLICITY} for kept weights, "
                f"got {kept.min()} to {kept.max()}; a code times its multiplicity must fit a signed byte"
            )

    def _check_trained(self, trained: Trained, what: str) -> None:
        for field_name in ("draws", "current", "multiplicity"):
            if getattr(self, field_name) is not None:
                raise SeedMaskError(f"{what}: expected no {field_name} beside trained values, got both")
        if len(trained.values) != self.kept:
            raise SeedMaskError(
                f"{what}: expected a value for each of {self.kept} kept weights, got {len(trained.values)}"
            )
        if trained.scales is not None and len(trained.scales) != rows_of(self.shape):
            raise SeedMaskError(
                f"{what}: expected {rows_of(self.shape)} scales, one for each index of the first dimension, "
                f"got {len(trained.scales)}"
            )

    @property
    def weights(self) -> int:
        """Number of weights, kept or pruned."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Number of weights that are not pruned."""
        return int(np.count_nonzero(self.mask))

    def recovery(self, seed: int, index: int) -> TensorRecovery:
        """Compute the log, and the digest of the weights from draws, current bytes and multiplicity, not from the log.

        Args:
            seed: seed of the network.
            index: index of the tensor in the network.
        """
        mask = Row.pack(self.mask.view(np.uint8), 1)
        common = TensorRecovery(self.name, self.shape, "", seed, index, self.codebook, self.scale, mask, NO_LOG)
        if self.trained is not None:
            trained = replace(common, trained=self.trained)
            return replace(trained, sha256=trained.digest())
        book = get_codebook(self.codebook)
        values, differs = np.zeros(self.kept, np.uint8), np.zeros(self.kept, np.bool_)
        digest = digest_of_codes(self._codes(seed, index, book, values, differs), self.scale)
        kind = "draws" if self.current is None else "deltas"
        log = choose_log(values, differs, two_valued=book.two_valued, kind=kind)
        multiplicity = None if self.multiplicity is None else Multiplicity.of(self.multiplicity[self.mask])
        return replace(common, sha256=digest, log=log, multiplicity=multiplicity)

    def _codes(
        self, seed: int, index: int, book: Codebook, values: NDArray[np.uint8], differs: NDArray[np.bool_]
    ) -> Iterator[NDArray[np.int8]]:
        """Yield chunks of codes, 0 = pruned, and fill two arrays on the way.

        Args:
            seed: seed of the network.
            index: index of the tensor in the network.
            book: the codebook.
            values: uint8 ``[kept]``; gets the draws of kept weights, or their deltas.
            differs: bool ``[kept]``; gets whether a kept weight has another code than at draw 0.
        """
        position = 0
        for start in range(0, self.weights, CHUNK_WEIGHTS):
            chunk = slice(start, min(start + CHUNK_WEIGHTS, self.weights))
            mask = self.mask[chunk]
            raw = random_bytes(seed, chunk.start, chunk.stop, draw=0, tensor=index)
            codes = book.codes(raw)
            own: NDArray[np.uint8] | None = None
            if self.draws is not None:
                own = self.draws[chunk] * mask
                now = random_codes(seed, index, book, chunk.start, chunk.stop, own)
            elif self.current is not None:
                now = book.codes(self.current[chunk])
                own = find_deltas(book, raw, now)
            if own is not None:
                where = np.flatnonzero(mask)
                here = slice(position, position + len(where))
                values[here], differs[here] = own.take(where), (now != codes).take(where)
                position, codes = here.stop, now
            if self.multiplicity is not None:
                codes = codes * self.multiplicity[chunk].view(np.int8)
            yield np.where(mask, codes, np.int8(0))


@dataclass(frozen=True, eq=False)
class Network:
    """All that a file holds. The index of a tensor is the tensor word of its random numbers.

    `tensors`, `map`, `weights_digest` and `sparsity` are those of an open file, `SeedMask`, too.

    Attributes:
        seed: 64-bit seed of the random weights.
        tensors: the masked tensors, at least one; a tuple, or for networks larger than the memory a sequence that
            makes a tensor when it is asked for one (its names are checked when it is packed).
        state: the other tensors of the model (normalisation statistics, biases), by parameter name.
        architecture: how a built-in model is constructed; ``None`` if the user supplies the model.
        input: the images or texts that it takes.
        classes: names of the classes.
        recipe: the settings of the training run.
        form: of the file that it is packed as, ``json`` or ``compact``; weights do not depend on it.
        constants: whether the file holds one item of a state tensor whose items are all the same.

    Raises:
        SeedMaskError: a name is used twice or cannot be stored, or a setting is not JSON.
        ConfigError: the seed does not fit 64 bits, or there is no such form.
    """

    seed: int
    tensors: Sequence[MaskedTensor]
    state: Mapping[str, StoredTensor] = field(default_factory=dict)
    architecture: dict[str, JsonScalar] | None = None
    input: AnyInput | None = None
    classes: list[str] | None = None
    recipe: dict[str, JsonValue] | None = None
    form: str = "json"
    constants: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.form not in FILE_FORMS:
            raise ConfigError(f"form: unknown {self.form!r}{did_you_mean(self.form, FILE_FORMS)}")
        if not self.tensors:
            raise SeedMaskError("network: expected at least one masked tensor, got none; train a subnetwork first")
        if isinstance(self.tensors, tuple):
            check_names([tensor.name for tensor in self.tensors], list(self.state))
        check_settings(self.architecture, self.classes, self.recipe)

    @cached_property
    def recoveries(self) -> list[TensorRecovery]:
        """What determines the weights of each tensor, computed once, on all cores."""
        return thread_map(
            lambda item: item[1].recovery(self.seed, item[0]), [*enumerate(self.tensors)], lambda item: item[1].weights
        )

    @property
    def weights_digest(self) -> str:
        """SHA-256 over the digests of all weights, as in the file."""
        return combined_digest(recovery.sha256 or "" for recovery in self.recoveries)

    @property
    def sparsity(self) -> float:
        """Fraction of the masked weights that is pruned."""
        return 1 - sum(tensor.kept for tensor in self.tensors) / sum(tensor.weights for tensor in self.tensors)

    def map(
        self, function: Callable[[TensorRecovery], tuple[ResultT, str]]
    ) -> Iterator[tuple[TensorRecovery, ResultT]]:
        """Apply a function to all masked tensors, on all cores; see `SeedMask.map`.

        Args:
            function: from a tensor to any result, and the SHA-256 of its weights, little-endian.

        Yields:
            Each tensor, and what the function returned.

        Raises:
            SeedMaskError: the weights are not those that masks and draws define.
        """
        return map_checked(function, self.recoveries, "", PACKER_BUG)


def check_names(tensors: list[str], state: list[str]) -> None:
    """Refuse names that cannot be stored or are used twice.

    Raises:
        SeedMaskError: there is one; the message names it.
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
