"""The seeded form: seed, mask and log, and a graph that computes the generator itself."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ...compress.seed.codebooks import get_codebook
from ...compress.seed.philox import KNOWN_ANSWERS
from ..coded import CodedWeight
from ..graph import Graph, rename_in
from .emitter import Emitter
from .layouts import write_numbers
from .packed import write_packed, write_scaled

__all__ = ["CHECK", "write_known_answers", "write_seeded"]

CHECK = "iterand.check"
"""The value that outputs are multiplied with: 1, or NaN where the generator is wrong."""
_PASSES_NAN = frozenset({"Softmax", "LogSoftmax", "Flatten", "Reshape", "Squeeze", "Identity"})
_BLOCK = 16  # bytes


def write_seeded(emitter: Emitter, weight: CodedWeight) -> None:
    """Write a weight as seed, mask and log; one whose values were trained, as packed values."""
    origin = weight.origin
    if origin is None or origin.trained is not None:
        write_packed(emitter, weight)
        return
    mask, log = origin.mask.values(), origin.log
    kept = mask.view(np.bool_)
    size, whole = emitter.shape("size", len(mask)), emitter.shape("whole", *origin.shape)
    stream = [
        emitter.tensor("seed.low", np.array([[origin.seed & 0xFFFFFFFF]], np.int64)),
        emitter.tensor("seed.high", np.array([[origin.seed >> 32]], np.int64)),
        emitter.tensor("stream", np.array(origin.index, np.int64)),
    ]
    blocks = emitter.tensor("blocks", np.array(-(-len(mask) // _BLOCK), np.int64))

    def random(draw: int) -> str:
        number = emitter.shared(f"iterand.draw{draw}", np.array(draw, np.int64))
        return emitter.call("RandomBytes", [*stream, number, blocks], f"random{draw}")

    if log.kind in ("none", "flips"):
        numbers = mask.astype(np.int8)
        if log.kind == "flips":
            numbers[np.flatnonzero(kept)[log.values == 1]] = -1
        if origin.multiplicity is not None:
            numbers[kept] *= origin.multiplicity.values().view(np.int8)
        factors, own = write_numbers(emitter, numbers, size), random(0)
    else:
        symbols = np.zeros(len(mask), np.int32)
        symbols[kept] = log.values.astype(np.int32) + 1
        written = write_numbers(emitter, symbols, size)
        factors, own = emitter.call("Kept", [written], "kept"), random(0)
        if log.kind == "deltas":
            own = emitter.call("Changed", [own, written, size], "changed")
        else:
            for draw in np.unique(log.values[log.values > 0]).tolist():
                wanted = emitter.shared(f"iterand.symbol{draw + 1}", np.array(draw + 1, np.int32))
                own = emitter.call("Redrawn", [own, random(draw), written, wanted, size], f"redrawn{draw}")
    book = emitter.shared(f"iterand.codebook.{origin.codebook}", get_codebook(origin.codebook).entries)
    codes = emitter.call("RandomCodes", [own, book, factors, size, whole], "random_codes")
    for axis, index in weight.taken.items():
        where = emitter.tensor(f"channels{axis}", index.astype(np.int64))
        codes = emitter.node("Gather", [codes, where], f"part{axis}", axis=axis)
    if weight.transposed:
        codes = emitter.node("Transpose", [codes], "transposed", perm=[1, 0])
    write_scaled(emitter, codes, weight)


def write_known_answers(graph: Graph, functions: set[str]) -> None:
    """Multiply bias or weight of the last layer with `CHECK`, so that NaN reaches every output.

    A product of constants costs nothing once it is folded. Where no layer is the last, outputs are multiplied.
    """
    emitter = Emitter(graph, CHECK, functions)
    words = [[counter[i] for counter, _, _ in KNOWN_ANSWERS] for i in range(4)]
    keys = [[seed >> shift & 0xFFFFFFFF for _, seed, _ in KNOWN_ANSWERS] for shift in (0, 32)]
    answers = np.array([[answer[i] for _, _, answer in KNOWN_ANSWERS] for i in range(4)], np.int64)
    inputs = [emitter.tensor(f"x{i}", np.array(values, np.int64)) for i, values in enumerate(words)]
    inputs += [emitter.tensor(f"key{i}", np.array([values], np.int64)) for i, values in enumerate(keys)]
    inputs.append(emitter.tensor("answers", np.concatenate([answers & 0xFFFF, answers >> 16])))
    emitter.call("KnownAnswers", inputs, "")
    checked: set[str] = set()
    for output in graph.outputs:
        node, index = _last_constant(graph, output.name)
        if index is None:
            _check_output(graph, output.name)
        elif node.input[index] not in checked:
            product = graph.fresh(f"{node.input[index]}.checked")
            graph.expansion.append(helper.make_node("Mul", [node.input[index], CHECK], [product], name=product))
            node.input[index] = product
            checked.add(product)


def _check_output(graph: Graph, output: str) -> None:
    """Multiply an output with `CHECK`; whole numbers become -1 where it is NaN, and booleans stay."""
    kind = graph.type_of(output)
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64):
        return
    unchecked = graph.fresh(f"{output}.unchecked")
    rename_in(graph.nodes, {output: unchecked})
    factor, name = CHECK, f"{output}.checked"
    if kind in (TensorProto.INT32, TensorProto.INT64):
        right, wrong = graph.fresh(f"{output}.right"), graph.fresh(f"{output}.wrong")
        graph.put(wrong, np.array(-1, helper.tensor_dtype_to_np_dtype(kind)))
        graph.nodes.append(helper.make_node("Equal", [CHECK, CHECK], [right], name=right))  # NaN is not
        graph.nodes.append(helper.make_node("Where", [right, unchecked, wrong], [output], name=name))
        return
    if kind != TensorProto.FLOAT:
        factor = graph.fresh(f"{output}.check")
        graph.nodes.append(helper.make_node("Cast", [CHECK], [factor], name=factor, to=kind))
    graph.nodes.append(helper.make_node("Mul", [unchecked, factor], [output], name=name))


def _last_constant(graph: Graph, output: str) -> tuple[NodeProto, int | None]:
    """The last layer on the way to an output, and which of its inputs is a constant that each of its values needs."""
    producers = graph.producers()
    computed = {name for node in graph.expansion for name in node.output}
    node = producers[output]
    while node.op_type in _PASSES_NAN and node.input[0] in producers:
        node = producers[node.input[0]]
    constants = [
        index
        for index, name in enumerate(node.input)
        if name in computed or (graph.type_of(name) == TensorProto.FLOAT and name in graph.initializers)
    ]
    layer = node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")
    return node, max(constants) if layer and constants else None
