"""What a file holds, as immutable values that cannot be built wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from ..codebooks import Codebook, get_codebook
from ..errors import SeedMaskError
from ..philox import check_seed
from .text import check_json, check_text

__all__ = ["InputSpec", "JsonScalar", "MaskedTensor", "Network", "StoredTensor"]

JsonScalar = str | int | float | bool | None

#: Bytes per item of each safetensors dtype that a file may hold.
ITEM_SIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_NUMPY = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_TAG = {np.dtype(code): tag for tag, code in _NUMPY.items() if tag != "BF16"}

MAX_RANK = 16
#: A block number has 32 bits and a block holds 16 weights.
MAX_TENSOR_WEIGHTS = 2**36


def data_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of a tensor in bytes."""
    return ITEM_SIZE[dtype] * math.prod(shape)


def check_shape(shape: tuple[int, ...], what: str, *, least: int) -> None:
    """Refuse shapes with too many dimensions, or with one below ``least``, or more items than can be addressed.

    Raises:
        SeedMaskError: one of these.
    """
    if len(shape) > MAX_RANK:
        raise SeedMaskError(f"{what}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
    if any(size < least for size in shape):
        raise SeedMaskError(f"{what}: expected a shape of integers >= {least}, got {list(shape)}")
    if math.prod(shape) > MAX_TENSOR_WEIGHTS:
        raise SeedMaskError(f"{what}: expected at most 2**36 items, got the shape {list(shape)}")


def check_scale(scale: np.float32, codebook: Codebook, what: str) -> None:
    """Refuse scales whose products with codes could be infinite, NaN, or subnormal (which some devices flush to 0).

    Raises:
        SeedMaskError: the scale is one of these.
    """
    largest = int(np.abs(codebook.entries.astype(np.int64)).max())
    limits = np.finfo(np.float32)
    if not (math.isfinite(scale) and float(limits.tiny) <= float(scale) <= float(limits.max) / largest):
        raise SeedMaskError(f"{what}: expected a positive, finite, normal float32 as scale, got {float(scale)!r}")


@dataclass(frozen=True, eq=False)
class MaskedTensor:
    """A weight tensor as the file knows it: random weights, a mask over them, and how often each was redrawn.

    Attributes:
        name: parameter name in the plain model, such as ``layer1.0.conv1.weight``.
        shape: its shape; all sizes at least 1.
        codebook: name of the distribution.
        scale: float32 factor on the codes.
        mask: bool ``[n]``, row-major; True = kept.
        draws: uint8 ``[n]``, the draw of each weight (only those of kept weights matter); ``None`` = all 0.

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

    def __post_init__(self) -> None:
        check_text(self.name, "tensor name")
        what = f"tensor {self.name!r}"
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        check_shape(self.shape, what, least=1)
        if not isinstance(self.scale, np.float32):
            raise SeedMaskError(f"{what}: expected the scale as numpy.float32, got {type(self.scale).__name__}")
        check_scale(self.scale, get_codebook(self.codebook), what)
        for field_name, values, dtype in (("mask", self.mask, np.bool_), ("draws", self.draws, np.uint8)):
            if values is not None and (values.dtype != dtype or values.shape != (self.weights,)):
                raise SeedMaskError(
                    f"{what}: expected {field_name} as {np.dtype(dtype)} of shape [{self.weights}], "
                    f"got {values.dtype} of shape {list(values.shape)}"
                )

    @property
    def weights(self) -> int:
        """Number of weights, kept or pruned."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor stored as it is: raw little-endian bytes with a safetensors dtype.

    Attributes:
        dtype: one of BOOL, U8, I8, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64.
        shape: its shape; empty for a scalar.
        data: uint8 ``[bytes]``; taken over without a copy, so do not change it afterwards.

    Raises:
        SeedMaskError: unknown dtype, or the data do not fit the shape.

    Example:
        >>> StoredTensor.from_numpy(np.float32([1, 2])).data.tobytes().hex()
        '0000803f00000040'
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZE:
            raise SeedMaskError(f"state: unknown dtype {self.dtype!r}; known: {', '.join(ITEM_SIZE)}")
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        check_shape(self.shape, "state", least=0)
        expected = data_bytes(self.dtype, self.shape)
        if self.data.dtype != np.uint8 or self.data.shape != (expected,):
            raise SeedMaskError(
                f"state: expected {expected} bytes as uint8 for {self.dtype} of shape {list(self.shape)}, "
                f"got {self.data.dtype} of shape {list(self.data.shape)}"
            )
        if self.dtype == "BOOL" and self.data.max(initial=0) > 1:
            raise SeedMaskError("state: expected bytes 0 and 1 in a BOOL tensor, got others")

    @classmethod
    def from_numpy(cls, array: NDArray[np.generic], dtype: str | None = None) -> StoredTensor:
        """Take an array over; ``dtype="BF16"`` says that uint16 holds bfloat16 bits.

        Raises:
            SeedMaskError: the array's type cannot be stored.
        """
        little = array.dtype.newbyteorder("<")
        tag = dtype or _TAG.get(little)
        if tag not in ITEM_SIZE or np.dtype(_NUMPY[tag]) != little:
            raise SeedMaskError(f"state: cannot store {array.dtype} as {tag}; known: {', '.join(ITEM_SIZE)}")
        flat = np.ascontiguousarray(array, dtype=little).reshape(-1)
        return cls(tag, array.shape, flat.view(np.uint8))

    def numpy(self) -> NDArray[np.generic]:
        """A fresh, writable array; BF16 comes as uint16 that holds its bits."""
        return self.data.copy().view(_NUMPY[self.dtype]).reshape(self.shape)


class InputSpec(BaseModel):
    """The images that the network takes.

    Attributes:
        shape: channels, height, width.
        mean: subtracted from each channel of pixels in [0, 1].
        std: divides each channel afterwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    shape: tuple[int, int, int] = Field(strict=False)
    mean: tuple[float, ...] = Field(strict=False)
    std: tuple[float, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if min(self.shape) < 1 or max(self.shape) > 2**20:
            raise ValueError(f"expected sizes from 1 to 2**20, got {self.shape}")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"expected one mean and one std for each of {self.shape[0]} channels")
        if min(self.std) <= 0:
            raise ValueError(f"expected every std above 0, got {self.std}")
        return self


@dataclass(frozen=True, eq=False)
class Network:
    """Everything that a ``.seedmask`` file says. The index of a tensor is the tensor word of its random numbers.

    Attributes:
        seed: 64-bit seed of the random weights.
        tensors: the masked tensors, at least one.
        state: the other tensors of the model (normalisation statistics, biases), by parameter name.
        architecture: how a built-in model is constructed; ``None`` if the user supplies the model.
        input: the images that it takes.
        classes: names of the classes.
        recipe: the settings of the training run.

    Raises:
        SeedMaskError: a name is used twice or cannot be stored, or a setting is not JSON.
        ConfigError: the seed does not fit 64 bits.
    """

    seed: int
    tensors: tuple[MaskedTensor, ...]
    state: Mapping[str, StoredTensor] = field(default_factory=dict)
    architecture: dict[str, JsonScalar] | None = None
    input: InputSpec | None = None
    classes: list[str] | None = None
    recipe: dict[str, JsonValue] | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.tensors:
            raise SeedMaskError("network: expected at least one masked tensor, got none; train a subnetwork first")
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


def check_settings(architecture: object, classes: list[str] | None, recipe: object) -> None:
    """Refuse settings that JSON would not give back unchanged, or that a terminal should not print.

    Raises:
        SeedMaskError: there is one.
    """
    check_json(architecture, "architecture")
    check_json(recipe, "recipe")
    for name in classes or ():
        check_text(name, "class name")
