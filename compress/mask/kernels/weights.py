"""From cuts to masks, masked weights, gradients of scores, and redraws of pruned weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from ...seed.philox import DECISION_STEPS, check_seed
from .cuts import Cuts
from .layer_table import TILE, LayerTable, on_device, warps

__all__ = ["masked_weights", "masks", "resample", "score_gradient"]


def masks(layers: LayerTable, scores: Sequence[Tensor], cuts: Cuts) -> list[Tensor]:
    """The masks of all layers, bool ``[n]`` each: views of one tensor, by one launch."""
    from .weight_programs import write_masks

    pointers = layers.pointers(scores, torch.float32, "scores")
    out = torch.empty(layers.elements, dtype=torch.bool, device=layers.device)
    with on_device(layers.device):
        write_masks[layers.blocks,](
            pointers.table, layers.pruned.table, layers.kept.table, layers.rows, layers.layer_of,
            cuts.thresholds, cuts.table, out.view(torch.uint8), **layers.options(pointers),
        )  # fmt: skip
    return layers.views(out)


def masked_weights(
    layers: LayerTable,
    scores: Sequence[Tensor],
    cuts: Cuts,
    codes: Sequence[Tensor],
    units: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    out: Tensor | None = None,
) -> list[Tensor]:
    """The masked weights of all layers, flat ``[n]`` each: views of one tensor, by one launch.

    A launch of its own for each layer would cost more than its work: ResNet-50 has 54 layers, and all of them together
    are 0.05 ms.

    Args:
        layers: sizes and addresses.
        scores: float32 ``[n]`` for each layer.
        cuts: of these scores.
        codes: int8 ``[n]`` for each layer.
        units: float32 ``[layers]`` on the device, the value of one code unit.
        dtype: of the result, float32 or bfloat16; ``float32(code) * unit`` is rounded once to it.
        channels_last: write each weight as ``[outputs, positions, channels]`` (see ``layers.kernels``), as convolutions
            with channels last want it: they need not reorder it then.
        out: ``[layers.elements]`` of that dtype, to write to.

    Returns:
        ``code * unit`` where kept, +0 where pruned; with ``invert``, ``-code * unit`` where kept with a score below 0.
    """
    from .weight_programs import write_weights

    where = layers.pointers(scores, torch.float32, "scores")
    what = layers.pointers(codes, torch.int8, "codes")
    if out is None:
        out = torch.empty(layers.elements, dtype=dtype, device=layers.device)
    if out.dtype != dtype or out.numel() != layers.elements or out.data_ptr() % 16:
        raise ConfigError(f"out: expected {layers.elements} aligned {dtype}, got {out.numel()} {out.dtype}")
    with on_device(layers.device):
        write_weights[layers.blocks,](
            where.table, layers.pruned.table, layers.kept.table, layers.rows, layers.layer_of,
            cuts.thresholds, cuts.table, what.table, units, out, LAST_CHANNELS=channels_last,
            INVERT=layers.selection == "invert", **layers.options(where, what),
        )  # fmt: skip
    return layers.views(out)


def score_gradient(
    grad: Tensor,
    codes: Tensor,
    unit: float,
    scores: Tensor | None = None,
    *,
    kernel: tuple[int, int] | None = None,
    tile: int = TILE,
) -> Tensor:
    """The gradient of one layer's scores, float32 ``[n]``: ``grad * (code * unit)``, each product rounded once.

    Args:
        grad: of the masked weight, contiguous, float32 or bfloat16, n elements.
        codes: int8 ``[n]``.
        unit: a float32 number, the value of one code unit.
        scores: float32 ``[n]`` for ``magnitude``: the gradient is then multiplied with their signs.
        kernel: channels and positions, if ``grad`` is ``[outputs, positions, channels]``.
        tile: weights of a program.
    """
    from .weight_programs import write_score_gradient

    for name, tensor in {"grad": grad, "codes": codes, "scores": scores}.items():
        if tensor is not None and (not tensor.is_contiguous() or tensor.numel() != grad.numel()):
            raise ConfigError(
                f"{name}: expected {grad.numel()} contiguous elements, got shape {tuple(tensor.shape)}, "
                f"strides {tensor.stride()}"
            )
    channels, positions = kernel or (1, 1)
    out = torch.empty(grad.numel(), dtype=torch.float32, device=grad.device)
    with on_device(grad.device):
        write_score_gradient[-(-grad.numel() // tile),](
            grad, codes, unit, grad if scores is None else scores, out, grad.numel(), channels, positions,
            LAST_CHANNELS=positions > 1, SIGNED=scores is None, TILE=tile,
            num_warps=warps(tile), enable_fp_fusion=False,
        )  # fmt: skip
    return out


def resample(
    layers: LayerTable,
    scores: Sequence[Tensor],
    cuts: Cuts,
    codes: Sequence[Tensor],
    draws: Sequence[Tensor],
    *,
    book: Tensor,
    tensors: Tensor,
    seed: int,
    event: int,
    chance: int,
    cycle: int,
) -> None:
    """One event of IteRand in place, in one launch: redraw each pruned weight of all layers with a probability.

    The same bits as ``philox_torch.resampling_decisions`` and ``philox_torch.bytes_at``; no decision is stored.

    Args:
        layers: sizes and addresses.
        scores: float32 ``[n]`` for each layer.
        cuts: of these scores.
        codes: int8 ``[n]`` for each layer.
        draws: uint8 ``[n]`` for each layer, how often each weight was redrawn.
        book: int8 ``[256]`` on the device, the codebook.
        tensors: int64 ``[layers]`` on the device, the index of each layer's tensor.
        seed: 64-bit seed of the network.
        event: number of the event, from 1.
        chance: a pruned weight is redrawn with probability ``chance / 65536``.
        cycle: draws count modulo this, from 1 to 256.
    """
    from .weight_programs import redraw

    check_seed(seed)
    if not (0 <= chance <= DECISION_STEPS and 1 <= cycle <= 256 and 0 <= event < 2**31):
        raise ConfigError(f"resampling: impossible: chance {chance}, cycle {cycle}, event {event}")
    where = layers.pointers(scores, torch.float32, "scores")
    what = layers.pointers(codes, torch.int8, "codes")
    times = layers.pointers(draws, torch.uint8, "draws")
    words = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32).view(np.int32).tolist()
    with on_device(layers.device):
        redraw[layers.blocks,](
            where.table, layers.pruned.table, layers.kept.table, layers.rows, layers.layer_of,
            cuts.thresholds, cuts.table, what.table, times.table, book, tensors, *words, event, chance, cycle,
            **layers.options(where, what, times),
        )  # fmt: skip
