"""Between torch tensors and the stored tensors of a file: same bytes, nothing converted."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import SeedMaskError
from .storage import StoredTensor

__all__ = ["from_stored", "to_stored"]

_TAGS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.float64: "F64",
}
_DTYPES = {tag: dtype for dtype, tag in _TAGS.items()}


def to_stored(tensor: Tensor, name: str) -> StoredTensor:
    """Copy a tensor's bytes.

    Raises:
        SeedMaskError: a dtype that a file cannot hold.
    """
    if tensor.dtype not in _TAGS:
        raise SeedMaskError(f"state {name}: {tensor.dtype} cannot be stored; expected one of {sorted(_DTYPES)}")
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().copy()
    return StoredTensor(_TAGS[tensor.dtype], tuple(tensor.shape), data)


def from_stored(stored: StoredTensor, name: str) -> Tensor:
    """The torch tensor with the same bytes, on the CPU.

    Raises:
        SeedMaskError: a dtype that torch does not have.
    """
    if stored.dtype not in _DTYPES:
        raise SeedMaskError(f"state {name}: dtype {stored.dtype} has no counterpart in torch")
    return torch.from_numpy(stored.data.copy()).view(_DTYPES[stored.dtype]).reshape(stored.shape)
