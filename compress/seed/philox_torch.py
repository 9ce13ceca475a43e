"""Philox4x32-10 in torch, on any device: equal to ``philox.py`` bit for bit.

Words are int64 in [0, 2**32). Products are formed from 16-bit halves of the multipliers, so no
signed integer overflows, which devices might handle differently.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .codebooks import Codebook
from .philox import MULTIPLIER_0, MULTIPLIER_1, Purpose, check_seed, round_keys
from .philox import philox4x32 as reference

__all__ = [
    "bytes_at",
    "philox4x32",
    "random_bytes",
    "random_scores",
    "random_weights",
    "resampling_decisions",
    "weight_table",
    "weights_at",
]

_LOW = 0xFFFFFFFF
# Temporaries of a chunk stay in the CPU's cache, and within bounds on an accelerator.
_CHUNK_CPU, _CHUNK_DEVICE = 1 << 14, 1 << 20


def philox4x32(
    seed: int, block: Tensor, draw: Tensor | int, tensor: int, purpose: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate Philox4x32-10 at many counters (see ``philox.philox4x32``).

    Args:
        seed: 64-bit key.
        block: int64 ``[n]`` in [0, 2**32), first counter word.
        draw: second counter word, one for all or int64 ``[n]``.
        tensor: third counter word.
        purpose: fourth counter word.

    Returns:
        The four output words of each block, int64 ``[n]`` each, in [0, 2**32).
    """
    x0 = block
    x1 = draw if isinstance(draw, Tensor) else torch.full_like(block, draw)
    x2, x3 = torch.full_like(block, tensor), torch.full_like(block, purpose)
    for key0, key1 in round_keys(check_seed(seed)):
        high0, low0 = _multiply(x0, MULTIPLIER_0)
        high1, low1 = _multiply(x2, MULTIPLIER_1)
        x0, x1, x2, x3 = high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
    return x0, x1, x2, x3


def _multiply(x: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 × 32 bit product; no intermediate exceeds 2**49."""
    low_part = x * (multiplier & 0xFFFF)
    rest = x * (multiplier >> 16) + (low_part >> 16)
    return rest >> 16, ((rest & 0xFFFF) << 16) | (low_part & 0xFFFF)


def _units(
    seed: int, count: int, bits: int, *, draw: int, tensor: int, purpose: int, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """The first ``count`` units of ``bits`` bits of a stream, as (where, int64 values) in chunks."""
    per_word = 32 // bits
    chunk = _CHUNK_CPU if device.type == "cpu" else _CHUNK_DEVICE
    shifts = torch.arange(0, 32, bits, device=device)
    for start in range(0, -(-count // (4 * per_word)), chunk):
        stop = min(start + chunk, -(-count // (4 * per_word)))
        values = _blocks(seed, start, stop, draw=draw, tensor=tensor, purpose=purpose, device=device)
        if per_word > 1:
            values = (values.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
        where = slice(start * 4 * per_word, min(stop * 4 * per_word, count))
        yield where, values.reshape(-1)[: where.stop - where.start]


def _blocks(seed: int, start: int, stop: int, *, draw: int, tensor: int, purpose: int, device: torch.device) -> Tensor:
    """Blocks ``start`` to ``stop`` of a stream, int64 ``[blocks, 4]``."""
    if device.type == "cpu":  # NumPy takes half the time
        counters = np.arange(start, stop, dtype=np.uint64)
        return torch.from_numpy(reference(seed, counters, draw, tensor, purpose).astype(np.int64))
    if device.type == "meta":  # the shape alone, without a hundred operators that compute nothing
        return torch.empty(stop - start, 4, dtype=torch.int64, device=device)
    return torch.stack(philox4x32(seed, torch.arange(start, stop, device=device), draw, tensor, purpose), dim=1)


def weight_table(codebook: Codebook, scale: np.float32, device: torch.device) -> Tensor:
    """float32 ``[256]``: the weight of each random byte, ``float32(code) * scale`` rounded once."""
    return torch.from_numpy(codebook.entries.astype(np.float32) * scale).to(device)


def random_bytes(seed: int, tensor: int, count: int, device: torch.device) -> Tensor:
    """The random bytes that the initial weights (draw 0) of a tensor stand for, uint8 ``[count]``, row-major."""
    out = torch.empty(count, dtype=torch.uint8, device=device)
    for where, values in _units(seed, count, 8, draw=0, tensor=tensor, purpose=Purpose.WEIGHTS, device=device):
        out[where] = values
    return out


def random_weights(
    seed: int, tensor: int, codebook: Codebook, scale: np.float32, count: int, device: torch.device
) -> Tensor:
    """The initial weights (draw 0) of a tensor, float32 ``[count]`` in row-major order."""
    table = weight_table(codebook, scale, device)
    out = torch.empty(count, dtype=torch.float32, device=device)
    for where, values in _units(seed, count, 8, draw=0, tensor=tensor, purpose=Purpose.WEIGHTS, device=device):
        out[where] = table[values]
    return out


def bytes_at(seed: int, tensor: int, index: Tensor, draws: Tensor) -> Tensor:
    """The bytes of single weights, int64 ``[n]``.

    Args:
        seed: 64-bit seed of the network.
        tensor: index of the tensor in its network.
        index: int64 ``[n]``, row-major positions.
        draws: ``[n]`` of any integer type: the draw of each.
    """
    out = torch.empty(len(index), dtype=torch.int64, device=index.device)
    chunk = _CHUNK_CPU if index.device.type == "cpu" else _CHUNK_DEVICE
    for start in range(0, len(index), chunk):
        span = slice(start, start + chunk)
        where = index[span]
        words = philox4x32(seed, where >> 4, draws[span].long(), tensor, Purpose.WEIGHTS)
        byte = where & 15
        word = torch.stack(words).gather(0, (byte >> 2).unsqueeze(0)).squeeze(0)
        out[span] = (word >> ((byte & 3) << 3)) & 0xFF
    return out


def weights_at(seed: int, tensor: int, codebook: Codebook, scale: np.float32, index: Tensor, draws: Tensor) -> Tensor:
    """The weights of the bytes that `bytes_at` returns, float32 ``[n]``."""
    return weight_table(codebook, scale, index.device)[bytes_at(seed, tensor, index, draws)]


def random_scores(seed: int, tensor: int, bound: float, count: int, device: torch.device) -> Tensor:
    """Initial scores, float32 ``[count]``, uniform on [-bound, bound): 24 random bits each, rounded once."""
    out = torch.empty(count, dtype=torch.float32, device=device)
    limit = float(np.float32(bound))
    if device.type == "cpu":  # in float32 throughout: a quarter of the time
        for start in range(0, count, 4 * _CHUNK_CPU):
            stop = min(start + 4 * _CHUNK_CPU, count)
            blocks = np.arange(start // 4, -(-stop // 4), dtype=np.uint64)
            words = reference(seed, blocks, 0, tensor, Purpose.SCORES).reshape(-1)[: stop - start]
            units = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
            out[start:stop] = torch.from_numpy(units * np.float32(limit))
        return out
    for where, values in _units(seed, count, 32, draw=0, tensor=tensor, purpose=Purpose.SCORES, device=device):
        # k * 2**-23 - 1 for a 24-bit k is exact in float32; only the product with the bound rounds.
        out[where] = ((values >> 8).to(torch.float32) * 2.0**-23 - 1.0) * limit
    return out


def resampling_decisions(
    seed: int, tensor: int, event: int, threshold: int, count: int, device: torch.device
) -> Tensor:
    """Whether an event redraws each weight if it is pruned, bool ``[count]``.

    Each weight has 16 bits of the event's stream; it is redrawn if they are below ``threshold``, so the
    probability is ``threshold / 65536``.
    """
    out = torch.empty(count, dtype=torch.bool, device=device)
    for where, values in _units(seed, count, 16, draw=event, tensor=tensor, purpose=Purpose.RESAMPLING, device=device):
        out[where] = values < threshold
    return out
