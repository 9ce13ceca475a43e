"""What runs on the device once the cuts are known, in Triton: masks, masked weights, gradients of scores, redraws."""

import triton
import triton.language as tl

from .search_programs import (
    CHANNELS,
    CUT_COLUMNS,
    LAST,
    OUTPUT,
    POSITIONS,
    TABLE_COLUMNS,
    address,
    as_key,
    load_keys,
    load_tile,
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
def channels_last(index, channels, positions):
    """Where an element of a row-major [outputs, channels, positions] is in [outputs, positions, channels], uint32."""
    inner = index % (channels * positions).to(tl.uint32)
    channel = inner // positions.to(tl.uint32)
    position = inner - channel * positions.to(tl.uint32)
    return index - inner + position * channels.to(tl.uint32) + channel


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
    LAST_CHANNELS: tl.constexpr, INVERT: tl.constexpr, MAGNITUDE: tl.constexpr, FIXED: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``code * unit`` where kept, of ``-code`` to ``INVERT``, else +0; as the scores, or with the channels last."""
    layer, start, rest = place(table, layer_of, BLOCK)
    threshold, last = load_cut(thresholds, cuts, layer, start, BLOCK)
    unit = tl.load(units + layer)
    row = table + layer * TABLE_COLUMNS
    out += tl.multiple_of(tl.load(row + OUTPUT), 16)
    channels, positions = tl.load(row + CHANNELS), tl.load(row + POSITIONS)
    for offset in range(0, rest, TILE):
        mask = load_kept(
            scores, pruned, kept, layer, start + offset, rest - offset, threshold, last - offset,
            MAGNITUDE, FIXED, ALIGNED, TILE,
        )  # fmt: skip
        code = load_tile(address(codes, layer, start + offset, tl.int8, ALIGNED), rest - offset, TILE)
        if INVERT:
            score = load_tile(address(scores, layer, start + offset, tl.float32, ALIGNED), rest - offset, TILE)
            code = tl.where(score < 0, -code, code)
        weights = as_type(tl.where(mask, code.to(tl.float32) * unit, 0.0), out.dtype.element_ty)
        if LAST_CHANNELS and positions > 1:
            offsets = tl.arange(0, TILE)
            index = channels_last((start + offset).to(tl.uint32) + offsets.to(tl.uint32), channels, positions)
            tl.store(out + index.to(tl.int64), weights, mask=offsets < rest - offset)
        else:
            store_tile(out + start + offset, weights, rest - offset, TILE)


# Not specialised: an argument that is 1 would become a constant, which is no tensor.
@triton.jit(do_not_specialize=["size", "channels", "positions"])
def write_score_gradient(
    grad, codes, unit, scores, out, size, channels, positions,
    LAST_CHANNELS: tl.constexpr, SIGNED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``grad * (code * unit)``, and times the sign of the score unless scores are ``SIGNED``."""
    start = tl.program_id(0).to(tl.int64) * TILE
    rest = tl.minimum(size - start, TILE).to(tl.int32)
    if LAST_CHANNELS:
        offsets = tl.arange(0, TILE)
        index = channels_last(start.to(tl.uint32) + offsets.to(tl.uint32), channels, positions)
        gradient = tl.load(grad + index.to(tl.int64), mask=offsets < rest, other=0)
    else:
        gradient = load_tile(grad + start, rest, TILE)
    weights = load_tile(codes + start, rest, TILE).to(tl.float32) * unit
    values = as_float(gradient, grad.dtype.element_ty) * weights
    if not SIGNED:
        score = load_tile(scores + start, rest, TILE)
        values = values * ((score > 0).to(tl.float32) - (score < 0).to(tl.float32))
    store_tile(out + start, values, rest, TILE)


@triton.jit
def philox(x0, x1, x2, x3, seed_low, seed_high):
    """Philox4x32-10 of uint32 counters; seeds are int64. See ``philox.py``."""
    for number in tl.static_range(10):
        key0 = ((seed_low + number * 0x9E3779B9) & 0xFFFFFFFF).to(tl.uint32)
        key1 = ((seed_high + number * 0xBB67AE85) & 0xFFFFFFFF).to(tl.uint32)
        product0, product1 = x0.to(tl.uint64) * 0xD2511F53, x2.to(tl.uint64) * 0xCD9E8D57
        x0 = (product1 >> 32).to(tl.uint32) ^ x1 ^ key0
        x2 = (product0 >> 32).to(tl.uint32) ^ x3 ^ key1
        x1, x3 = product1.to(tl.uint32), product0.to(tl.uint32)
    return x0, x1, x2, x3


@triton.jit
def bits_of_stream(
    index, BITS: tl.constexpr, draw, tensor, PURPOSE: tl.constexpr, seed_low, seed_high
):  # fmt: skip
    """Units of 8 or 16 bits of a stream, uint32; a block has 128 bits."""
    zero = index * 0
    word0, word1, word2, word3 = philox(
        index // (128 // BITS), draw + zero, tensor + zero, zero + PURPOSE, seed_low, seed_high
    )
    number = index // (32 // BITS) % 4
    word = tl.where(number < 2, tl.where(number == 0, word0, word1), tl.where(number == 2, word2, word3))
    return (word >> (index % (32 // BITS) * BITS)) & ((1 << BITS) - 1)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "event", "chance", "cycle"])
def redraw(
    scores, pruned, kept, table, layer_of, thresholds, cuts, codes, draws, book, tensors,
    seed_low, seed_high, event, chance, cycle,
    MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Redraw pruned weights, each with chance ``chance / 65536``: draws and codes in place."""
    layer, start, rest = place(table, layer_of, BLOCK)
    threshold, last = load_cut(thresholds, cuts, layer, start, BLOCK)
    tensor = tl.load(tensors + layer).to(tl.uint32)
    low, high = seed_low.to(tl.int64) & 0xFFFFFFFF, seed_high.to(tl.int64) & 0xFFFFFFFF
    for offset in range(0, rest, TILE):
        mask = load_kept(
            scores, pruned, kept, layer, start + offset, rest - offset, threshold, last - offset,
            MAGNITUDE, FIXED, ALIGNED, TILE,
        )  # fmt: skip
        offsets = tl.arange(0, TILE)
        index = (start + offset).to(tl.uint32) + offsets.to(tl.uint32)
        decisions = bits_of_stream(index, 16, event.to(tl.uint32), tensor, 2, low, high)
        chosen = (mask == 0) & (offsets < rest - offset) & (decisions.to(tl.int32) < chance)
        draw_pointer = address(draws, layer, start + offset, tl.uint8, ALIGNED) + offsets
        draw = (tl.load(draw_pointer, mask=chosen, other=0).to(tl.int32) + 1) % cycle
        byte = bits_of_stream(index, 8, draw.to(tl.uint32), tensor, 0, low, high)
        tl.store(draw_pointer, draw.to(tl.uint8), mask=chosen)
        code_pointer = address(codes, layer, start + offset, tl.int8, ALIGNED) + offsets
        tl.store(code_pointer, tl.load(book + byte.to(tl.int32), mask=chosen, other=0), mask=chosen)
