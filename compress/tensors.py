"""Between torch tensors and the stored tensors of a file: same bytes, nothing converted."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import SeedMaskError
from .seedmask import SeedMask, StoredTensor

__all__ = ["check_content", "check_storable", "from_stored", "recovered_state", "to_stored"]

_TAGS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.float64: "F64",
}
_DTYPES = {tag: dtype for dtype, tag in _TAGS.items()}


def check_storable(value: object, name: str) -> Tensor:
    """Return an entry of a state dict that a file can hold.

    Raises:
        SeedMaskError: it is no tensor, a sparse one, or of a dtype that a file cannot hold.
    """
    if not isinstance(value, Tensor):
        raise SeedMaskError(
            f"state {name}: expected a tensor, got a {type(value).__name__}; a file holds tensors alone: register a "
            "buffer, or let get_extra_state() return a tensor"
        )
    if value.layout != torch.strided:
        raise SeedMaskError(f"state {name}: a {value.layout} tensor cannot be stored; register it as to_dense()")
    if value.is_complex():
        raise SeedMaskError(
            f"state {name}: {value.dtype} cannot be stored; register torch.view_as_real() of it, and use "
            "torch.view_as_complex() of that in forward()"
        )
    if value.dtype not in _TAGS:
        raise SeedMaskError(f"state {name}: {value.dtype} cannot be stored; expected one of {sorted(_DTYPES)}")
    return value


def check_content(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor that is more than a shape.

    Raises:
        SeedMaskError: it is on the device meta.
    """
    if tensor.is_meta:
        raise SeedMaskError(f"{name}: has no content (device meta); load or initialise the model first")
    return tensor


def to_stored(value: object, name: str) -> StoredTensor:
    """Copy a tensor's bytes.

    Raises:
        SeedMaskError: see `check_storable`; or the tensor has no content.
    """
    tensor = check_content(check_storable(value, name), f"state {name}").detach().cpu().contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy().copy()
    return StoredTensor(_TAGS[tensor.dtype], tuple(tensor.shape), data)


def from_stored(stored: StoredTensor, name: str) -> Tensor:
    """The torch tensor with the same bytes, on the CPU.

    Raises:
        SeedMaskError: a dtype that torch does not have.
    """
    if stored.dtype not in _DTYPES:
        raise SeedMaskError(f"state {name}: dtype {stored.dtype} has no counterpart in torch")
    dtype = _DTYPES[stored.dtype]
    if not stored.data.size:  # nothing to take another view of
        return torch.empty(stored.shape, dtype=dtype, device="cpu")
    return torch.from_numpy(stored.data.copy()).view(dtype).reshape(stored.shape)


def recovered_state(file: SeedMask) -> dict[str, Tensor]:
    """Recovered weights and unmasked state, for `load_state` into the plain module."""
    weights = {name: torch.from_numpy(array) for name, array in file.weights().items()}
    return weights | {name: from_stored(stored, name) for name, stored in file.state().items()}
