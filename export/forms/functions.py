"""The model-local functions that expand stored weights, in standard operators of opset 18.

Runtimes fold them into constants when they load a file. They use no operator and no type that onnxruntime 1.16 lacks:
BitShift knows unsigned types only, and 32- and 64-bit unsigned numbers can neither be added nor multiplied there.
"""

from __future__ import annotations

from functools import cache

import onnx.parser
from onnx import FunctionProto

from ...compress.seed.philox import MULTIPLIER_0, MULTIPLIER_1, ROUNDS, WEYL_0, WEYL_1

__all__ = ["DOMAIN", "FUNCTIONS", "OPSET", "functions_for", "nested"]

DOMAIN = "iterand"
OPSET = 18
_LOW = 0xFFFFFFFF


def _philox() -> str:
    """Philox4x32-10 on int64 in [0, 2**32). Products keep their low 64 bits, whatever the sign these have as int64.

    Counters are ``[n]`` or scalars, keys ``[1, 1]`` or ``[1, n]``; outputs are ``[1, n]``.
    """
    weyl = {"low": WEYL_0, "high": WEYL_1}
    lines = [
        f"m0 = Constant <value: tensor = int64 {{{MULTIPLIER_0}}}> ()",
        f"m1 = Constant <value: tensor = int64 {{{MULTIPLIER_1}}}> ()",
        f"low = Constant <value: tensor = int64 {{{_LOW}}}> ()",
        f"two32 = Constant <value: tensor = int64 {{{2**32}}}> ()",
    ]
    for half, step in weyl.items():
        steps = ", ".join(str(i * step & _LOW) for i in range(ROUNDS))
        keys = ", ".join(f"{half}{i}" for i in range(ROUNDS))
        lines += [
            f"{half}_steps = Constant <value: tensor = int64[{ROUNDS}, 1] {{{steps}}}> ()",
            f"{half}_sums = Add (key_{half}, {half}_steps)",
            f"{half}_keys = BitwiseAnd ({half}_sums, low)",
            f"{keys} = Split <axis: int = 0, num_outputs: int = {ROUNDS}> ({half}_keys)",
        ]
    x = ["x0", "x1", "x2", "x3"]
    for i in range(ROUNDS):
        y = [f"y{word}" if i == ROUNDS - 1 else f"r{i}x{word}" for word in range(4)]
        for word, (factor, multiplier, remainder) in enumerate(((x[0], "m0", y[3]), (x[2], "m1", y[1]))):
            lines += [
                f"r{i}p{word} = Mul ({factor}, {multiplier})",
                f"{remainder} = BitwiseAnd (r{i}p{word}, low)",
                f"r{i}d{word} = Sub (r{i}p{word}, {remainder})",
                f"r{i}q{word} = Div (r{i}d{word}, two32)",  # exact, so the sign does not matter
                f"r{i}h{word} = BitwiseAnd (r{i}q{word}, low)",
            ]
        lines += [
            f"r{i}a0 = BitwiseXor (r{i}h1, {x[1]})",
            f"{y[0]} = BitwiseXor (r{i}a0, low{i})",
            f"r{i}a1 = BitwiseXor (r{i}h0, {x[3]})",
            f"{y[2]} = BitwiseXor (r{i}a1, high{i})",
        ]
        x = y
    body = "\n    ".join(lines)
    return f"\nPhilox (x0, x1, x2, x3, key_low, key_high) => (y0, y1, y2, y3) {{\n    {body}\n}}"


def _place(name: str, *places: str) -> str:
    """Values of kept weights at distances from each other, uint8 ``[entries]``.

    An entry below the limit is a distance less 1; the limit itself skips that many weights and keeps none. Only the
    last three nodes are as long as the weight.
    """
    body = "\n    ".join(places)
    return f"""
{name} (entries, limit, values, first, size, shape, axis, one) => (spread) {{
    entry = Cast <to: int = 6> (entries)
    real = Less (entry, limit)
    flag = Cast <to: int = 6> (real)
    {body}
    found = GatherElements <axis: int = 0> (values, place)
    step = Add (entry, flag)
    after = CumSum (step, axis)
    position = Sub (after, one)
    none = Expand (first, size)
    placed = ScatterElements <axis: int = 0> (none, position, found)
    spread = Reshape (placed, shape)
}}"""


_TEXTS = {
    # The digits of each byte, in order: uint8 [bytes] and a table [256, n] to [size], in the type of the table.
    "Digits": """
Digits (packed, table, size) => (digits) {
    flat = Constant <value: tensor = int64[1] {-1}> ()
    start = Constant <value: tensor = int64[1] {0}> ()
    index = Cast <to: int = 6> (packed)
    found = Gather (table, index)
    all = Reshape (found, flat)
    digits = Slice (all, start, size)
}""",
    # Fields of 1, 2 or 4 bits: uint8 [bytes], masks and shifts [n, 1] to [n * bytes], first those of the lowest bits of
    # all bytes. Nothing is lost in a shift, as OpenVINO 2026.4 divides by powers of two instead, and rounds to nearest.
    "Fields": """
Fields (packed, masks, shifts, flat) => (fields) {
    masked = BitwiseAnd (packed, masks)
    parts = BitShift <direction: string = "RIGHT"> (masked, shifts)
    fields = Reshape (parts, flat)
}""",
    # The same, moved up by some bits and joined to lower bits of the same fields.
    "HigherBits": """
HigherBits (packed, masks, shifts, flat, up, lower) => (fields) {
    masked = BitwiseAnd (packed, masks)
    parts = BitShift <direction: string = "RIGHT"> (masked, shifts)
    moved = BitShift <direction: string = "LEFT"> (parts, up)
    higher = Reshape (moved, flat)
    fields = BitwiseOr (lower, higher)
}""",
    # Numbers of table entries, uint8 [kept], to the entries, behind one more.
    "Lookup": """
Lookup (numbers, table, first) => (values) {
    index = Cast <to: int = 6> (numbers)
    found = GatherElements <axis: int = 0> (table, index)
    values = Concat <axis: int = 0> (first, found)
}""",
    # The n-th kept weight gets value n, pruned ones value 0. GatherElements, as Gather is slow for single bytes.
    "Spread": """
Spread (kept, values, shape, axis) => (spread) {
    flag = Cast <to: int = 6> (kept)
    rank = CumSum (flag, axis)
    place = Mul (rank, flag)
    found = GatherElements <axis: int = 0> (values, place)
    spread = Reshape (found, shape)
}""",
    # The same where all kept weights have one value.
    "Fill": """
Fill (kept, values, shape) => (filled) {
    place = Cast <to: int = 6> (kept)
    found = GatherElements <axis: int = 0> (values, place)
    filled = Reshape (found, shape)
}""",
    # The n-th entry that keeps a weight gives it value n, all other weights get value 0; and where there is one value.
    "Place": _place("Place", "rank = CumSum (flag, axis)", "place = Mul (rank, flag)"),
    "PlaceOne": _place("PlaceOne", "place = Identity (flag)"),
    "Philox": _philox(),
    # The bytes of a stream: uint8 [16 * blocks].
    "RandomBytes": """
RandomBytes (key_low, key_high, tensor, draw, blocks) => (bytes) {
    zero = Constant <value: tensor = int64 {0}> ()
    one = Constant <value: tensor = int64 {1}> ()
    last = Constant <value: tensor = int64[1] {-1}> ()
    shifts = Constant <value: tensor = uint32[4] {0, 8, 16, 24}> ()
    ones = Constant <value: tensor = uint32[1] {255}> ()
    numbers = Range (zero, blocks, one)
    y0, y1, y2, y3 = iterand.Philox (numbers, draw, tensor, zero, key_low, key_high)
    c0 = Unsqueeze (y0, last)
    c1 = Unsqueeze (y1, last)
    c2 = Unsqueeze (y2, last)
    c3 = Unsqueeze (y3, last)
    block = Concat <axis: int = -1> (c0, c1, c2, c3)
    words = Cast <to: int = 12> (block)
    column = Unsqueeze (words, last)
    shifted = BitShift <direction: string = "RIGHT"> (column, shifts)
    masked = BitwiseAnd (shifted, ones)
    narrow = Cast <to: int = 2> (masked)
    bytes = Reshape (narrow, last)
}""",
    # Bytes of a later draw where a symbol has the wanted value, the ones before it elsewhere.
    "Redrawn": """
Redrawn (before, bytes, symbols, wanted, size) => (after) {
    start = Constant <value: tensor = int64[1] {0}> ()
    own = Slice (bytes, start, size)
    here = Equal (symbols, wanted)
    old = Slice (before, start, size)
    after = Where (here, own, old)
}""",
    # Bytes changed by XOR with d where a symbol is d + 1.
    "Changed": """
Changed (bytes, symbols, size) => (after) {
    zero = Constant <value: tensor = int32 {0}> ()
    one = Constant <value: tensor = int32 {1}> ()
    start = Constant <value: tensor = int64[1] {0}> ()
    less = Sub (symbols, one)
    delta = Max (less, zero)
    own = Slice (bytes, start, size)
    narrow = Cast <to: int = 2> (delta)
    after = BitwiseXor (own, narrow)
}""",
    # 1 where a symbol is not 0.
    "Kept": """
Kept (symbols) => (flags) {
    one = Constant <value: tensor = int32 {1}> ()
    flags = Min (symbols, one)
}""",
    # Random codes, each times a factor (0 = pruned): int32 in the given shape. In float32, 0 times -1 would be -0.
    "RandomCodes": """
RandomCodes (bytes, book, factors, size, shape) => (codes) {
    start = Constant <value: tensor = int64[1] {0}> ()
    own = Slice (bytes, start, size)
    index = Cast <to: int = 6> (own)
    random = Gather (book, index)
    wide = Cast <to: int = 6> (random)
    factor = Cast <to: int = 6> (factors)
    masked = Mul (wide, factor)
    codes = Reshape (masked, shape)
}""",
    # 1 if the generator gives the published answers, NaN if not. Halves of words are compared: a runtime that computes
    # with fewer bits cannot get these right by the same mistake on both sides.
    "KnownAnswers": """
KnownAnswers (x0, x1, x2, x3, key_low, key_high, answers) => (factor) {
    ones = Constant <value: tensor = int64 {65535}> ()
    two16 = Constant <value: tensor = int64 {65536}> ()
    right = Constant <value: tensor = float {1}> ()
    y0, y1, y2, y3 = iterand.Philox (x0, x1, x2, x3, key_low, key_high)
    words = Concat <axis: int = 0> (y0, y1, y2, y3)
    low = BitwiseAnd (words, ones)
    high = Div (words, two16)
    halves = Concat <axis: int = 0> (low, high)
    equal = Equal (halves, answers)
    flags = Cast <to: int = 1> (equal)
    fine = ReduceMin <keepdims: int = 0> (flags)
    all = Equal (fine, right)
    wrong = Constant <value_float: float = nan> ()
    factor = Where (all, right, wrong)
}""",
}
FUNCTIONS = frozenset(_TEXTS)
"""The names of all of them."""


def nested(name: str) -> list[str]:
    """The functions that a function calls, and itself, in the order in which a file must list them."""
    inner = {"RandomBytes": ["Philox"], "KnownAnswers": ["Philox"]}
    return [*inner.get(name, []), name]


@cache
def _function(name: str) -> FunctionProto:
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "{DOMAIN}": 1]>'
    return onnx.parser.parse_function(header + _TEXTS[name])


def functions_for(names: set[str], opset: int) -> list[FunctionProto]:
    """The functions of these names and those that they call, for a model of the given operator set."""
    wanted = list(dict.fromkeys(inner for name in sorted(names) for inner in nested(name)))
    functions = []
    for name in wanted:
        function = FunctionProto()
        function.CopyFrom(_function(name))
        for entry in function.opset_import:
            if entry.domain == "":
                entry.version = opset
        functions.append(function)
    return functions
