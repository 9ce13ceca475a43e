"""What runs on the device to find cuts, in Triton. Imported only where Triton is; see ``cuts.py`` for the algorithm.

Keys are uint32: the bits of a float32, so changed that their order is the order of the numbers and both zeros are one.
A program works on one block of one layer, tile by tile: all loads of a tile are issued before any is used, and a block
is long enough to pay for what a program does once. Numbers of a layer that programs share are rows of int64 tables,
whose columns are named here.
"""

import triton
import triton.language as tl

# A table made by the host: number of weights, number of the first block, number of blocks, where its output starts, and
# the last two lengths of a row-major [outputs, channels, positions].
SIZE = tl.constexpr(0)
FIRST_BLOCK = tl.constexpr(1)
BLOCKS = tl.constexpr(2)
OUTPUT = tl.constexpr(3)
CHANNELS = tl.constexpr(4)
POSITIONS = tl.constexpr(5)
TABLE_COLUMNS = tl.constexpr(8)
# What the search knows: the keys that the threshold may be (first, last), the exponent of a bin's width, whether it is
# known; the last threshold, and the exponent for the first pass around it (-1: nothing is known).
LOW = tl.constexpr(0)
HIGH = tl.constexpr(1)
SHIFT = tl.constexpr(2)
FOUND = tl.constexpr(3)
GUESS = tl.constexpr(4)
SPREAD = tl.constexpr(5)
STATE_COLUMNS = tl.constexpr(8)
# The result, beside the threshold: the last kept index of those at the threshold, and how many keys are above, at it.
LAST = tl.constexpr(0)
ABOVE = tl.constexpr(1)
EQUAL = tl.constexpr(2)
CUT_COLUMNS = tl.constexpr(4)
# Counters of a layer, int32: the bins, keys above the window, programs that are through.
BIN_BITS = tl.constexpr(11)
BINS = tl.constexpr(2048)
COUNTERS = tl.constexpr(2064)

# Each refinement takes 11 bits off: with 21, three passes remain.
WIDEST = tl.constexpr(21)
FIRST_SPREAD = tl.constexpr(11)
MAX_KEY = tl.constexpr(0xFFFFFFFF)
KEY_OF_INFINITY = tl.constexpr(0xFF800000)
KEY_OF_MINUS_INFINITY = tl.constexpr(0x007FFFFF)


@triton.jit
def as_key(values, MAGNITUDE: tl.constexpr):
    """uint32 keys of float32 numbers, or of their magnitudes."""
    bits = values.to(tl.int32, bitcast=True)
    if MAGNITUDE:
        keys = bits | -2147483648
    else:
        bits = tl.where(bits == -2147483648, 0, bits)  # -0 is +0
        keys = bits ^ ((bits >> 31) | -2147483648)
    return keys.to(tl.uint32, bitcast=True)


@triton.jit
def as_number(key):
    """The float32 number of a key, which comes as int64."""
    bits = tl.where(key >= 2147483648, key - 2147483648, -1 - key)
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def address(table, layer, start, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """A pointer to element ``start`` of a layer; ``start`` is a multiple of the block."""
    pointer = tl.load(table + layer).to(tl.pointer_type(dtype))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + start


@triton.jit
def load_tile(pointer, rest, TILE: tl.constexpr):
    """One tile; beyond the end of the layer, 0. Whole tiles go without a mask, so that loads are 16 bytes wide."""
    offsets = tl.arange(0, TILE)
    if rest >= TILE:
        values = tl.load(pointer + offsets)
    else:
        values = tl.load(pointer + offsets, mask=offsets < rest, other=0)
    return values


@triton.jit
def load_keys(
    scores, pruned, kept, layer, start, rest,
    MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Keys of one tile, with those of fixed weights at the two ends."""
    values = load_tile(address(scores, layer, start, tl.float32, ALIGNED), rest, TILE)
    keys = as_key(values, MAGNITUDE)
    if FIXED:
        never = load_tile(address(pruned, layer, start, tl.uint8, ALIGNED), rest, TILE)
        always = load_tile(address(kept, layer, start, tl.uint8, ALIGNED), rest, TILE)
        keys = tl.where(never != 0, KEY_OF_MINUS_INFINITY, keys)
        keys = tl.where(always != 0, KEY_OF_INFINITY, keys)
    return keys.to(tl.uint32)


@triton.jit
def place(table, layer_of, BLOCK: tl.constexpr):
    """Layer, first element, and number of elements from there on (at most a block) of this program."""
    block = tl.program_id(0)
    layer = tl.load(layer_of + block)
    row = table + layer * TABLE_COLUMNS
    start = (block - tl.load(row + FIRST_BLOCK)) * BLOCK  # int64
    rest = tl.minimum(tl.load(row + SIZE) - start, BLOCK).to(tl.int32)
    return layer, start, rest


@triton.jit
def bits_above(number, below: tl.constexpr):
    """How many bits an int64 below 2**44 has beyond the lowest ``below``."""
    return tl.sum(((number >> (below + tl.arange(0, 32))) > 0).to(tl.int64))


@triton.jit
def last_to_arrive(counter, programs):
    """Whether this program is the last of a layer; what the others have counted is then seen."""
    # All threads have counted before one of them says so.
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel") == programs - 1


@triton.jit
def refine(
    scores, pruned, kept, table, layer_of, wanted, state, counters, thresholds, cuts,
    FIRST: tl.constexpr, MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One pass: count the keys in each bin of the layer's window; the last program chooses the next window."""
    layer, start, rest = place(table, layer_of, BLOCK)
    row = state + layer * STATE_COLUMNS
    guess = tl.load(row + GUESS)
    if FIRST:
        spread = tl.load(row + SPREAD)
        shift = tl.where(spread < 0, WIDEST, spread)
        half = tl.full((), 1, tl.int64) << (shift + (BIN_BITS - 1))
        low = tl.maximum(guess - half, 0)
        high = tl.minimum(low + 2 * half - 1, MAX_KEY)
        search = shift >= 0
    else:
        low, high, shift = tl.load(row + LOW), tl.load(row + HIGH), tl.load(row + SHIFT)
        search = tl.load(row + FOUND) == 0
    if search:
        layer_counters = counters + layer * COUNTERS
        first, span = low.to(tl.uint32), (high - low).to(tl.uint32)
        both = tl.zeros((TILE,), tl.int32)
        for offset in range(0, rest, TILE):
            keys = load_keys(
                scores, pruned, kept, layer, start + offset, rest - offset, MAGNITUDE, FIXED, ALIGNED, TILE
            )  # fmt: skip
            valid = tl.arange(0, TILE) < rest - offset
            distance = keys - first  # below the window it wraps round to a large number
            inside = valid & (distance <= span)
            beyond = valid & (keys > high.to(tl.uint32))
            # Keys that equal the guess, which may be very many, are counted here: else all wait for one counter.
            usual = keys == guess.to(tl.uint32)
            bins = (distance >> shift.to(tl.uint32)).to(tl.int32)
            tl.atomic_add(layer_counters + bins, 1, mask=inside & (usual == 0), sem="relaxed")
            both += beyond.to(tl.int32) + ((inside & usual).to(tl.int32) << 16)  # a block has less than 2**15 keys
        numbers = tl.sum(both)
        tl.atomic_add(layer_counters + BINS, numbers & 0xFFFF, sem="relaxed")
        if numbers >> 16 > 0:
            tl.atomic_add(layer_counters + ((guess - low) >> shift), numbers >> 16, sem="relaxed")
        if last_to_arrive(layer_counters + BINS + 1, tl.load(table + layer * TABLE_COLUMNS + BLOCKS)):
            choose(table, layer, wanted, row, layer_counters, thresholds, cuts, low, high, shift)


@triton.jit
def choose(table, layer, wanted, row, counters, thresholds, cuts, low, high, shift):
    """From the counts of a window to the next window, or to the threshold. Leaves all counters at 0."""
    index = tl.arange(0, BINS)
    # Exchanged, not loaded: the counts are in the second-level cache, where the others have added.
    counts = tl.atomic_xchg(counters + index, tl.zeros((BINS,), tl.int32), sem="relaxed")
    beyond = tl.atomic_xchg(counters + BINS, 0, sem="relaxed")
    tl.atomic_xchg(counters + BINS + 1, 0, sem="relaxed")
    size = tl.load(table + layer * TABLE_COLUMNS + SIZE)
    k = tl.minimum(tl.load(wanted + layer), size).to(tl.int32)
    reached = beyond + tl.sum(counts) - tl.cumsum(counts) + counts  # keys in this bin or above it
    chosen = tl.max(tl.where(reached >= k, index, -1))
    here = tl.sum(tl.where(index == chosen, counts, 0))
    above = tl.sum(tl.where(index == chosen, reached, 0)) - here
    inside = (beyond < k) & (chosen >= 0)
    next_low = low + (chosen.to(tl.int64) << shift)
    next_high = tl.minimum(next_low + (tl.full((), 1, tl.int64) << shift) - 1, high)
    next_low = tl.where(inside, next_low, tl.where(beyond >= k, high + 1, 0))
    next_high = tl.where(inside, next_high, tl.where(beyond >= k, MAX_KEY, low - 1))
    cut = cuts + layer * CUT_COLUMNS
    if k <= 0:
        tl.store(thresholds + layer, as_number(tl.full((), KEY_OF_INFINITY, tl.int64)))
        tl.store(cut + LAST, -1)
        tl.store(cut + ABOVE, 0)
        tl.store(cut + EQUAL, 0)
        tl.store(row + FOUND, 1)
    elif inside & (next_low == next_high):
        tl.store(thresholds + layer, as_number(next_low))
        tl.store(cut + LAST, size - 1)  # unless ties are broken
        tl.store(cut + ABOVE, above)
        tl.store(cut + EQUAL, here)
        tl.store(row + FOUND, 1)
        # Next time the window reaches four times as far as the threshold has moved; it shrinks by half a call.
        guess, spread = tl.load(row + GUESS), tl.load(row + SPREAD)
        moved = bits_above(4 * tl.abs(next_low - guess), 10)
        tl.store(row + SPREAD, tl.where(spread < 0, FIRST_SPREAD, tl.minimum(tl.maximum(moved, spread - 1), WIDEST)))
        tl.store(row + GUESS, next_low)
    else:
        tl.store(row + LOW, next_low)
        tl.store(row + HIGH, next_high)
        tl.store(row + SHIFT, bits_above(next_high - next_low, 11))
        tl.store(row + FOUND, 0)


@triton.jit
def break_ties(
    scores, pruned, kept, table, layer_of, wanted, counters, ties, thresholds, cuts,
    MAGNITUDE: tl.constexpr, FIXED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """If more keys equal the threshold than may be kept, find the index of the last one that is kept.

    Each program counts the ties of its block; the last program of a layer finds the block with that key, and the index.
    """
    layer, start, rest = place(table, layer_of, BLOCK)
    row, cut = table + layer * TABLE_COLUMNS, cuts + layer * CUT_COLUMNS
    remaining = (tl.load(wanted + layer) - tl.load(cut + ABOVE)).to(tl.int32)
    if (remaining > 0) & (tl.load(cut + EQUAL) > remaining):
        threshold = as_key(tl.load(thresholds + layer), False)
        number = tl.zeros((TILE,), tl.int32)
        for offset in range(0, rest, TILE):
            keys = load_keys(
                scores, pruned, kept, layer, start + offset, rest - offset, MAGNITUDE, FIXED, ALIGNED, TILE
            )  # fmt: skip
            number += ((keys == threshold) & (tl.arange(0, TILE) < rest - offset)).to(tl.int32)
        first = tl.load(row + FIRST_BLOCK)
        blocks = tl.load(row + BLOCKS).to(tl.int32)
        tl.store(ties + tl.program_id(0), tl.sum(number))
        arrivals = counters + layer * COUNTERS + BINS + 1
        if last_to_arrive(arrivals, blocks):
            tl.atomic_xchg(arrivals, 0, sem="relaxed")
            seen, passed, full = remaining * 0, remaining * 0, remaining * 0
            for begin in range(0, blocks, CHUNK):
                index = begin + tl.arange(0, CHUNK)
                # From the second-level cache: others have written since this multiprocessor may have looked.
                counts = tl.load(ties + first + index, mask=index < blocks, other=0, cache_modifier=".cg")
                before = (seen + tl.cumsum(counts) < remaining) & (index < blocks)
                full += tl.sum(before.to(tl.int32))
                passed += tl.sum(tl.where(before, counts, 0))
                seen += tl.sum(counts)
            full = tl.minimum(full, blocks - 1)
            start = full.to(tl.int64) * BLOCK
            rest = tl.minimum(tl.load(row + SIZE) - start, BLOCK).to(tl.int32)
            last = tl.full((), -1, tl.int32)
            for offset in range(0, rest, TILE):
                keys = load_keys(
                    scores, pruned, kept, layer, start + offset, rest - offset, MAGNITUDE, FIXED, ALIGNED, TILE
                )  # fmt: skip
                offsets = offset + tl.arange(0, TILE)
                tied = (keys == threshold) & (offsets < rest)
                order = passed + tl.cumsum(tied.to(tl.int32))
                last = tl.maximum(last, tl.max(tl.where(tied & (order <= remaining), offsets, -1)))
                passed += tl.sum(tied.to(tl.int32))
            tl.store(cut + LAST, start + last)
