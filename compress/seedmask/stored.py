"""Tensors that are stored as they are, with the dtypes of safetensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import SeedMaskError

__all__ = ["ITEM_SIZE", "StoredTensor", "check_shape", "data_bytes"]

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
    """Refuse shapes with too many dimensions, one below ``least``, or more items than can be addressed.

    Raises:
        SeedMaskError: one of these.
    """
    if len(shape) > MAX_RANK:
        raise SeedMaskError(f"{what}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
    if any(size < least for size in shape):
        raise SeedMaskError(f"{what}: expected a shape of integers >= {least}, got {list(shape)}")
    if max(math.prod(shape), *shape, 0) > MAX_TENSOR_WEIGHTS:  # also where another size is 0
        raise SeedMaskError(f"{what}: expected at most 2**36 items, got the shape {list(shape)}")


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
        """Store an array; ``dtype="BF16"`` says that uint16 holds bfloat16 bits.

        Raises:
            SeedMaskError: the array's type cannot be stored.
        """
        little = array.dtype.newbyteorder("<")
        tag = dtype or _TAG.get(little)
        if tag not in ITEM_SIZE or np.dtype(_NUMPY[tag]) != little:
            raise SeedMaskError(f"state: cannot store {array.dtype} as {tag}; known: {', '.join(ITEM_SIZE)}")
        flat = np.ascontiguousarray(array, dtype=little).reshape(-1)
        return cls(tag, array.shape, flat.view(np.uint8))

    @property
    def one_value(self) -> bytes | None:
        """The bytes of an item, if there are several and all are the same; else ``None``."""
        items = self.data.reshape(-1, ITEM_SIZE[self.dtype])
        return items[0].tobytes() if len(items) > 1 and bool((items == items[0]).all()) else None

    def numpy(self) -> NDArray[np.generic]:
        """A fresh, writable array; BF16 comes as uint16 that holds its bits."""
        array: NDArray[np.generic] = self.data.copy().view(_NUMPY[self.dtype]).reshape(self.shape)
        return array
