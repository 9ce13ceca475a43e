"""Find the cuts of many layers, that is which keys are kept, exactly, in parallel, without reading back to the host.

A mask that keeps the k largest keys, and of equal ones those with the lowest indices, is a *cut*: a threshold and an
index. It is found by counting. A pass counts the keys of each layer in 2048 bins of a window, and the bin that holds
the k-th largest key is the window of the next pass, until a window is one key. The first pass looks around the
threshold of the last call, as far as it has moved lately; if the k-th key is elsewhere, three passes of 11 bits find it
among all 2**32. So a call has four passes; those that a layer no longer needs end at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layer_table import LayerTable, on_device, warps

__all__ = ["CutSearch", "Cuts"]

_PASSES = 4
# Two programs of 16 warps per multiprocessor. Loads of 16 bytes would only make a thread's atomic additions go to
# other places than its neighbours', for which Triton first takes each tile through shared memory.
_LEAN = {"ALIGNED": False, "maxnreg": 64}
# As in search_programs, which cannot be imported where Triton is not.
_STATE_COLUMNS, _CUT_COLUMNS, _COUNTERS = 8, 4, 2064
_GUESS, _SPREAD = 4, 5


@dataclass(frozen=True)
class Cuts:
    """The masks of layers: kept is where ``key > threshold``, or ``key == threshold`` and ``index <= last``.

    Attributes:
        thresholds: float32 ``[layers]``; of a layer that keeps nothing, infinity.
        table: int64 ``[layers, 4]``, of which the other attributes are columns.
    """

    thresholds: Tensor
    table: Tensor

    @property
    def last(self) -> Tensor:
        """The last kept index of the keys at the threshold, int64 ``[layers]``; -1 if the layer keeps nothing."""
        return self.table[:, 0]

    @property
    def above(self) -> Tensor:
        """How many keys were counted above the threshold, int64 ``[layers]``."""
        return self.table[:, 1]

    @property
    def equal(self) -> Tensor:
        """How many keys were counted at the threshold, int64 ``[layers]``."""
        return self.table[:, 2]

    def proven(self, kept: Tensor) -> Tensor:
        """Whether the counts prove that the threshold is the k-th largest key, bool ``[layers]``."""
        return ((self.above < kept) & (kept <= self.above + self.equal)) | (kept == 0)


class CutSearch:
    """Finds the cuts of layers again and again while their scores change.

    It remembers the thresholds of the last call, which make the next one faster and change no result. All that it
    needs on the device is allocated once, except the results.

    Attributes:
        layers: sizes and addresses.
        chunk: for how many blocks at a time ties are summed up, a power of 2.
    """

    def __init__(self, layers: LayerTable, *, chunk: int = 1024) -> None:
        self.layers, self.chunk = layers, chunk
        count, device = len(layers.sizes), layers.device
        self._state = torch.zeros(count, _STATE_COLUMNS, dtype=torch.int64, device=device)
        self._counters = torch.zeros(count, _COUNTERS, dtype=torch.int32, device=device)
        self._ties = torch.zeros(layers.blocks, dtype=torch.int32, device=device)
        self.forget()

    def forget(self) -> None:
        """Forget the last thresholds: the next search begins with all keys."""
        self._state[:, _GUESS] = 2**31
        self._state[:, _SPREAD] = -1

    def find(self, scores: Sequence[Tensor], kept: Tensor) -> Cuts:
        """The cuts that keep the largest keys of each layer.

        Args:
            scores: float32 ``[n]`` for each layer, without NaN.
            kept: how many weights each layer keeps, from 0 to n; int64 ``[layers]`` on the device.
        """
        from .search_programs import break_ties, refine

        layers = self.layers
        pointers = layers.pointers(scores, torch.float32, "scores")
        cuts = Cuts(
            torch.empty(len(layers.sizes), dtype=torch.float32, device=layers.device),
            torch.empty(len(layers.sizes), _CUT_COLUMNS, dtype=torch.int64, device=layers.device),
        )
        inputs = (pointers.table, layers.pruned.table, layers.kept.table, layers.rows, layers.layer_of, kept)
        options = {**layers.options(pointers), **_LEAN, "num_warps": 2 * warps(layers.tile)}
        grid = (layers.blocks,)
        with on_device(layers.device):
            for number in range(_PASSES):
                refine[grid](
                    *inputs, self._state, self._counters, cuts.thresholds, cuts.table, FIRST=number == 0, **options
                )
            break_ties[grid](
                *inputs, self._counters, self._ties, cuts.thresholds, cuts.table, CHUNK=self.chunk, **options
            )  # fmt: skip
        return cuts
