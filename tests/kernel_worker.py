"""What test_kernels.py runs in a process of its own, in Triton's interpreter. Arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from iterand_compress.compress.errors import ConfigError
from iterand_compress.compress.mask.kernels import (
    Cuts,
    CutSearch,
    LayerTable,
    available,
    masked_weights,
    masks,
    resample,
    score_gradient,
)
from iterand_compress.compress.mask.kernels.weight_programs import philox

CPU = torch.device("cpu")
SMALL = {"block": 256, "tile": 128}
Arrays = list[np.ndarray[Any, Any]]


def tensors(arrays: Arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(array.copy()) for array in arrays]


def is_available() -> bool:
    return available(CPU)


def search(
    calls: list[tuple[Arrays, list[int]]],
    selection: str,
    fixed: list[tuple[np.ndarray, np.ndarray] | None] | None = None,
    blocks: dict[str, int] = SMALL,
    chunk: int = 1024,
) -> list[dict[str, Any]]:
    """One search that is used again and again: cuts and masks of each call."""
    sizes = [len(array) for array in calls[0][0]]
    pairs = None if fixed is None else [pair if pair is None else tuple(tensors(list(pair))) for pair in fixed]
    layers = LayerTable(sizes, selection, CPU, fixed=pairs, **blocks)  # type: ignore[arg-type]
    finder = CutSearch(layers, chunk=chunk)
    scores = tensors(calls[0][0])
    results = []
    for arrays, kept in calls:
        for score, array in zip(scores, arrays, strict=True):
            score.copy_(torch.from_numpy(array))
        number = torch.tensor(kept)
        cuts = finder.find(scores, number)
        results.append(
            {
                "thresholds": cuts.thresholds.numpy(),
                "last": cuts.last.numpy(),
                "above": cuts.above.numpy(),
                "equal": cuts.equal.numpy(),
                "proven": cuts.proven(number).numpy(),
                "masks": [mask.numpy() for mask in masks(layers, scores, cuts)],
            }
        )
    return results


def weights(
    scores: Arrays, kept: list[int], codes: Arrays, units: np.ndarray, selection: str, kernels: list[tuple[int, int]]
) -> dict[tuple[str, bool], Arrays]:
    """Bits of the masked weights, by dtype and whether the channels are last."""
    layers = LayerTable([len(array) for array in scores], selection, CPU, kernels=kernels, **SMALL)
    here = tensors(scores)
    cuts = CutSearch(layers).find(here, torch.tensor(kept))
    found = {}
    for dtype, bits in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16)):
        for last in (False, True):
            out = torch.full((layers.elements,), torch.nan, dtype=dtype)
            parts = masked_weights(
                layers, here, cuts, tensors(codes), torch.from_numpy(units), dtype=dtype, channels_last=last, out=out
            )
            found[str(dtype), last] = [part.view(bits).numpy() for part in parts]
    return found


def gradient(
    grad: np.ndarray, bfloat16: bool, codes: np.ndarray, unit: float, scores: np.ndarray | None, kernel: Any
) -> np.ndarray:
    """``grad`` are the bits."""
    incoming = torch.from_numpy(grad).view(torch.bfloat16 if bfloat16 else torch.float32)
    signs = None if scores is None else torch.from_numpy(scores)
    return score_gradient(incoming, torch.from_numpy(codes), unit, signs, kernel=kernel, tile=32).numpy()


def redraw(
    scores: Arrays, kept: list[int], codes: Arrays, draws: Arrays, events: list[int], **settings: Any
) -> tuple[Arrays, Arrays]:
    """Codes and draws after the events."""
    layers = LayerTable([len(array) for array in scores], "signed", CPU, **SMALL)
    here, code, draw = tensors(scores), tensors(codes), tensors(draws)
    cuts = CutSearch(layers).find(here, torch.tensor(kept))
    book, numbers = torch.from_numpy(settings.pop("book").copy()), torch.tensor(settings.pop("tensors"))
    for event in events:
        resample(layers, here, cuts, code, draw, book=book, tensors=numbers, event=event, **settings)
    return [part.numpy() for part in code], [part.numpy() for part in draw]


@triton.jit
def philox_blocks(counters, out, low, high, count: tl.constexpr):
    index = tl.arange(0, count)
    x0, x1, x2, x3 = (
        tl.load(counters + index * 4).to(tl.uint32),
        tl.load(counters + index * 4 + 1).to(tl.uint32),
        tl.load(counters + index * 4 + 2).to(tl.uint32),
        tl.load(counters + index * 4 + 3).to(tl.uint32),
    )
    x0, x1, x2, x3 = philox(x0, x1, x2, x3, low.to(tl.int64) & 0xFFFFFFFF, high.to(tl.int64) & 0xFFFFFFFF)
    tl.store(out + index * 4, x0.to(tl.int64))
    tl.store(out + index * 4 + 1, x1.to(tl.int64))
    tl.store(out + index * 4 + 2, x2.to(tl.int64))
    tl.store(out + index * 4 + 3, x3.to(tl.int64))


def philox_of(counters: list[list[int]], low: int, high: int) -> list[list[int]]:
    """Blocks of four words at two or more counters."""
    given = torch.tensor(counters)
    out = torch.zeros_like(given)
    philox_blocks[1,](given, out, low, high, count=len(counters))
    return out.tolist()


def refused(what: str) -> str:
    """The message for a wrong input."""
    layers = LayerTable([4, 6], "signed", CPU, **SMALL)
    good, kept = [torch.zeros(4), torch.zeros(6)], torch.tensor([1, 1])
    try:
        if what == "count":
            CutSearch(layers).find(good[:1], kept)
        elif what == "dtype":
            CutSearch(layers).find([good[0], good[1].double()], kept)
        elif what == "strides":
            CutSearch(layers).find([good[0], torch.zeros(12)[::2]], kept)
        elif what == "gradient":
            score_gradient(torch.zeros(2, 3).t(), torch.zeros(6, dtype=torch.int8), 1.0)
        elif what == "out":
            cuts = Cuts(torch.zeros(2), torch.zeros(2, 4, dtype=torch.int64))
            codes = [part.to(torch.int8) for part in good]
            masked_weights(layers, good, cuts, codes, torch.ones(2), out=torch.zeros(3))
        elif what == "cycle":
            cuts = Cuts(torch.zeros(2), torch.zeros(2, 4, dtype=torch.int64))
            nothing = torch.zeros(256, dtype=torch.int8)
            resample(
                layers, good, cuts, [], [], book=nothing, tensors=kept, seed=0, event=1, chance=1, cycle=257
            )  # fmt: skip
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"{what}: not refused")
