"""What runs on the device once the cuts are known, in Triton: masks, masked weights, gradients of scores, redraws."""

import triton
import triton.language as tl

from .search_programs import (
    CUT_COLUMNS,
    LAST,
    OUTPUT,
    TABLE_COLUMNS,
    address,
    as_key,
    load_tile,
    load_keys,
    place,
)


@triton.jit
def load_kept(
    scores, pruned, kept, layer, start, rest, threshold, last,
    MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Which weights of a tile are kept; ``threshold`` is a key, ``last`` counts from ``start``."""
    keys = load_keys(scores, pruned, kept, layer, start, rest, MAGNITUDE, FIXED, ALIGNED, TILE)
    return (keys > threshold) | ((keys == threshold) & (tl.arange(0, TILE) <= last))


@triton.jit
def load_cut(thresholds, cuts, layer, start, BLOCK: tl.constexpr):
    """The threshold as a key, and the last index from the start of a block, so near to it that 32 bits do."""
    last = tl.load(cuts + layer * CUT_COLUMNS + LAST) - start
    return as_key(tl.load(thresholds + layer), False), tl.minimum(tl.maximum(last, -1), BLOCK).to(tl.int32)


@triton.jit
def as_type(values, dtype: tl.constexpr):
    """float32 to float32 or bfloat16, rounded to nearest even. By integers: Triton's interpreter cuts bits off."""
    if dtype == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        values = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return values


@triton.jit
def as_float(values, dtype: tl.constexpr):
    """float32 or bfloat16 to float32; by integers, as above."""
    if dtype == tl.bfloat16:
        values = (values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return values


@triton.jit
def store_tile(pointer, values, rest, TILE: tl.constexpr):
    """One tile, up to the end of the layer."""
    offsets = tl.arange(0, TILE)
    if rest >= TILE:
        tl.store(pointer + offsets, values)
    else:
        tl.store(pointer + offsets, values, mask=offsets < rest)


@triton.jit
def write_masks(
    scores, pruned, kept, table, layer_of, thresholds, cuts, out,
    MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """1 where kept, else 0, as uint8."""
    layer, start, rest = place(table, layer_of, BLOCK)
    threshold, last = load_cut(thresholds, cuts, layer, start, BLOCK)
    out += tl.multiple_of(tl.load(table + layer * TABLE_COLUMNS + OUTPUT), 16) + start
    for offset in range(0, rest, TILE):
        mask = load_kept(
            scores, pruned, kept, layer, start + offset, rest - offset, threshold, last - offset,
            MAGNITUDE, FIXED, ALIGNED, TILE,
        )  # fmt: skip
        store_tile(out + offset, mask.to(tl.uint8), rest - offset, TILE)


@triton.jit
def write_weights(
    scores, pruned, kept, table, layer_of, thresholds, cuts, codes, units, out,
    MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``code * unit`` where kept, else +0."""
    layer, start, rest = place(table, layer_of, BLOCK)
    threshold, last = load_cut(thresholds, cuts, layer, start, BLOCK)
    unit = tl.load(units + layer)
    out += tl.multiple_of(tl.load(table + layer * TABLE_COLUMNS + OUTPUT), 16) + start
    for offset in range(0, rest, TILE):
        mask = load_kept(
            scores, pruned, kept, layer, start + offset, rest - offset, threshold, last - offset,
            MAGNITUDE, FIXED, ALIGNED, TILE,
        )  # fmt: skip
        code = load_tile(address(codes, layer, start + offset, tl.int8, ALIGNED), rest - offset, TILE)
        weights = tl.where(mask, code.to(tl.float32) * unit, 0.0)
        store_tile(out + offset, as_type(weights, out.dtype.element_ty), rest - offset, TILE)


@triton.jit
def write_score_gradient(grad, codes, unit, scores, out, size, SIGNED: tl.constexpr, TILE: tl.constexpr):
    """``grad * (code * unit)``, and times the sign of the score unless scores are ``SIGNED``."""
    start = tl.program_id(0).to(tl.int64) * TILE
    rest = tl.minimum(size - start, TILE).to(tl.int32)
    weights = load_tile(codes + start, rest, TILE).to(tl.float32) * unit
    values = as_float(load_tile(grad + start, rest, TILE), grad.dtype.element_ty) * weights
    if not SIGNED:
        score = load_tile(scores + start, rest, TILE)
        values = values * ((score > 0).to(tl.float32) - (score < 0).to(tl.float32))
    store_tile(out + start, values, rest, TILE)
