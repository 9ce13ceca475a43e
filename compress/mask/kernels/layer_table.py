"""The addresses of the tensors of many layers, so that one launch works on all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ConfigError
from ..topk import Fixed

__all__ = ["BLOCK", "TILE", "LayerTable", "Pointers", "available", "on_device", "warps"]

#: Weights of a program, and of one of its tiles: 16 for each of its threads.
BLOCK, TILE = 16384, 4096
_ALIGNMENT = 64  # elements between the starts of two layers in one output
_REMEMBERED = 16


def available(device: torch.device) -> bool:
    """Whether the kernels can run there: with Triton, on a GPU of compute capability 7.0 or in Triton's interpreter."""
    if device.type != "cuda" and (device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1"):
        return False
    if find_spec("triton") is None or device.type == "cpu":
        return find_spec("triton") is not None
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (7, 0)


def warps(tile: int) -> int:
    """How many warps a program has: one for every 512 elements of a tile."""
    return max(1, tile // 512)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make ``device`` the current GPU, to which Triton launches, inside the block."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Pointers(NamedTuple):
    """The addresses of a tensor of each layer.

    Attributes:
        table: int64 ``[layers]`` on the device.
        aligned: whether all are multiples of 16 bytes, so that 16 can be loaded at a time.
    """

    table: Tensor
    aligned: bool


class LayerTable:
    """Sizes and places of the layers that one launch works on.

    Attributes:
        sizes: numbers of weights of the layers, from 1 to 2**31 - 1.
        selection: ``signed``, ``magnitude`` or ``invert``; see `selection_keys`.
        device: of all tensors.
        fixed: the weights of each layer that are pruned, or kept, whatever their scores, bool ``[n]`` each.
        kernels: channels and positions of the weight of each layer, which is a row-major
            ``[outputs, channels, positions]``; only for weights with the channels last.
        block: weights of a program, a multiple of ``tile``.
        tile: weights that a program loads at a time, a power of 2.
        blocks: number of programs of a launch.
        rows: int64 ``[layers, 8]``: size, first block, number of blocks, start in an output, channels, positions.
        layer_of: int32 ``[blocks]``, the layer of each program.
        starts: where each layer starts in an output of all layers.
        elements: size of an output of all layers.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        selection: str,
        device: torch.device,
        *,
        fixed: Sequence[Fixed | None] | None = None,
        kernels: Sequence[tuple[int, int]] | None = None,
        block: int = BLOCK,
        tile: int = TILE,
    ) -> None:
        if not sizes or min(sizes) < 1 or max(sizes) >= 2**31:
            raise ConfigError(f"layer sizes: expected numbers from 1 to 2**31 - 1, got {list(sizes)}")
        if selection not in {"signed", "magnitude", "invert"}:
            raise ConfigError(f"selection: expected signed, magnitude or invert, got {selection!r}")
        if tile < 16 or tile & (tile - 1) or block % tile or not tile <= block < 2**15:
            raise ConfigError(
                "tile and block: expected a power of 2 from 16, and a multiple of it below 2**15, "
                f"got {tile} and {block}"
            )
        self.sizes, self.selection, self.device = tuple(sizes), selection, device
        self.block, self.tile = block, tile
        per_layer = [-(-size // block) for size in sizes]
        self.blocks = sum(per_layer)
        self.kernels = tuple(kernels or [(1, 1)] * len(sizes))
        rows, self.starts, first, self.elements = [], [], 0, 0
        for size, count, kernel in zip(sizes, per_layer, self.kernels, strict=True):
            if size % (kernel[0] * kernel[1]):
                raise ConfigError(f"kernels: expected channels × positions to divide {size}, got {kernel}")
            rows.append([size, first, count, self.elements, *kernel, 0, 0])
            self.starts.append(self.elements)
            first, self.elements = first + count, self.elements + -(-size // _ALIGNMENT) * _ALIGNMENT
        self.rows = torch.tensor(rows, dtype=torch.int64, device=device)
        layers = torch.arange(len(sizes), dtype=torch.int32, device="cpu")
        self.layer_of = layers.repeat_interleave(torch.tensor(per_layer, device="cpu")).to(device)
        self._pointers: dict[tuple[int, ...], Pointers] = {}
        self.fixed = self._complete(fixed)
        unused = Pointers(self.rows, True)  # the kernels never read it
        self.pruned = self.pointers([pair[0] for pair in self.fixed], torch.bool, "pruned") if self.fixed else unused
        self.kept = self.pointers([pair[1] for pair in self.fixed], torch.bool, "kept") if self.fixed else unused

    def options(self, *inputs: Pointers) -> dict[str, bool | int]:
        """What a launch that reads these, and the fixed weights, is compiled for."""
        return {
            "MAGNITUDE": self.selection != "signed",
            "FIXED": bool(self.fixed),
            "ALIGNED": all(pointers.aligned for pointers in (self.pruned, self.kept, *inputs)),
            "BLOCK": self.block,
            "TILE": self.tile,
            "num_warps": warps(self.tile),
            "enable_fp_fusion": False,
        }

    def pointers(self, tensors: Sequence[Tensor], dtype: torch.dtype, what: str) -> Pointers:
        """The addresses of a tensor of each layer.

        Addresses met before are not sent again. A CUDA graph can be captured once they are there: call the kernels
        with the same tensors before.

        Raises:
            ConfigError: a tensor that is not flat, contiguous, of this dtype, size and device.
        """
        if len(tensors) != len(self.sizes):
            raise ConfigError(f"{what}: expected {len(self.sizes)} tensors, got {len(tensors)}")
        for index, (tensor, size) in enumerate(zip(tensors, self.sizes, strict=True)):
            if tensor.dtype != dtype or tensor.numel() != size or not tensor.is_contiguous():
                raise ConfigError(
                    f"{what} of layer {index}: expected a contiguous {dtype} of {size} elements, got {tensor.dtype}, "
                    f"shape {tuple(tensor.shape)}, strides {tensor.stride()}"
                )
            if tensor.device.type != self.device.type:
                raise ConfigError(f"{what} of layer {index}: expected it on {self.device}, got {tensor.device}")
        key = tuple(tensor.data_ptr() for tensor in tensors)
        pointers = self._pointers.get(key)
        if pointers is None:
            table = torch.tensor(key, dtype=torch.int64, device=self.device)
            pointers = Pointers(table, all(address % 16 == 0 for address in key))
            if len(self._pointers) < _REMEMBERED:  # never evicted: a captured graph may use the table
                self._pointers[key] = pointers
        return pointers

    def views(self, flat: Tensor) -> list[Tensor]:
        """The layers of an output of all layers."""
        return [flat[start : start + size] for start, size in zip(self.starts, self.sizes, strict=True)]

    def _complete(self, fixed: Sequence[Fixed | None] | None) -> list[Fixed]:
        if fixed is None or all(pair is None for pair in fixed):
            return []
        complete = []
        for pair, size in zip(fixed, self.sizes, strict=True):
            none = torch.zeros(size if pair is None else 0, dtype=torch.bool, device=self.device)
            complete.append(pair or (none, none))
        return complete
