"""The seeded form: seed, mask and log, and a graph that computes the generator itself."""

from __future__ import annotations

import numpy as np
from onnx import helper

from ...compress.codebooks import get_codebook
from ..coded import CodedWeight
from ..graph import Graph
from .emitter import Emitter
from .layouts import write_numbers
from .packed import write_packed, write_scaled

__all__ = ["CHECK", "write_known_answers", "write_seeded"]

CHECK = "iterand.check"
"""The value that outputs are multiplied with: 1, or NaN where the generator is wrong."""
_BLOCK = 16  # bytes
# Known answers of Random123 for Philox4x32-10: counter, key, output.
_KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def write_seeded(emitter: Emitter, weight: CodedWeight) -> None:
    """Write a weight as seed, mask and log; one whose values were trained, as packed values."""
    origin = weight.origin
    if origin is None:
        write_packed(emitter, weight)
        return
    mask, log = origin.mask.values(), origin.log
    kept = mask.view(np.bool_)
    count = len(mask)
    logged = np.zeros(count, np.int32)
    if log.kind != "none":
        logged[kept] = log.values
    factors = mask.astype(np.int8)
    if log.kind == "flips":
        factors[logged == 1] = -1
    if origin.coats is not None:
        factors[kept] *= origin.coats.numbers.view(np.int8)
    blocks = -(-count // _BLOCK)
    last_draw = int(logged.max()) if log.kind == "draws" else 0
    random = emitter.call(
        "RandomBytes",
        [
            emitter.tensor("seed.low", np.array(origin.seed & 0xFFFFFFFF, np.int64)),
            emitter.tensor("seed.high", np.array(origin.seed >> 32, np.int64)),
            emitter.tensor("stream", np.array(origin.index, np.int64)),
            emitter.tensor("draws", np.arange(last_draw + 1, dtype=np.int64)),
            emitter.tensor("blocks", np.array(blocks, np.int64)),
        ],
        "random",
    )
    book = emitter.shared(f"iterand.codebook.{origin.codebook}", get_codebook(origin.codebook).entries)
    full = emitter.shape("full_shape", *weight.shape)
    size = emitter.shape("full_size", count)
    if log.kind in ("none", "flips"):
        numbers = write_numbers(emitter, factors, full)
        codes = emitter.call("RandomTimes", [random, book, numbers, size, full], "random_codes")
    else:
        numbers = write_numbers(emitter, (logged + 1) * mask, full)
        if log.kind == "draws":
            stride = emitter.tensor("stride", np.array(_BLOCK * blocks, np.int32))
            number = emitter.tensor("count", np.array(count, np.int32))
            codes = emitter.call("RandomDrawn", [random, book, numbers, stride, number, full], "random_codes")
        else:
            codes = emitter.call("RandomChanged", [random, book, numbers, size, full], "random_codes")
    for axis, index in weight.taken.items():
        where = emitter.tensor(f"channels{axis}", index.astype(np.int64))
        codes = emitter.node("Gather", [codes, where], f"part{axis}", axis=axis)
    write_scaled(emitter, codes, weight)


def write_known_answers(graph: Graph, functions: set[str]) -> None:
    """Multiply the outputs with `CHECK`. Once folded, that is a product with 1, which runtimes leave out."""
    emitter = Emitter(graph, CHECK, functions)
    words = [[counter[i] for counter, _, _ in _KNOWN] for i in range(4)]
    keys = [[key[i] for _, key, _ in _KNOWN] for i in range(2)]
    answers = np.array([[answer[i] for _, _, answer in _KNOWN] for i in range(4)], np.int64).reshape(-1)
    inputs = [emitter.tensor(f"x{i}", np.array(values, np.int64)) for i, values in enumerate(words)]
    inputs += [emitter.tensor(f"key{i}", np.array(values, np.int64)) for i, values in enumerate(keys)]
    inputs.append(emitter.tensor("answers", np.concatenate([answers & 0xFFFF, answers >> 16])))
    emitter.call("KnownAnswers", inputs, "")
    producers = graph.producers()
    for output in graph.outputs:
        unchecked = graph.fresh(f"{output.name}.unchecked")
        producer = producers[output.name]
        producer.output[list(producer.output).index(output.name)] = unchecked
        graph.nodes.append(helper.make_node("Mul", [unchecked, CHECK], [output.name], name=f"{output.name}.checked"))
