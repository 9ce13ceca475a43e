"""Forms: how a file holds the masked weights. All of them hold the same values, bit for bit.

* ``dense``: float32.
* ``packed``: a mask and the codes of kept weights in bits, expanded by standard operators.
* ``int8``: a byte for each weight, times a scale.
* ``seeded``: seed, mask and log; the graph computes the random numbers itself.
"""

from __future__ import annotations

from ..graph import Graph
from .emitter import Emitter
from .functions import DOMAIN, OPSET, functions_for
from .int8 import write_int8, write_quantized
from .packed import write_packed
from .seeded import CHECK, write_known_answers, write_seeded

__all__ = ["CHECK", "DOMAIN", "write_form"]

_WRITERS = {"packed": write_packed, "int8": write_int8, "seeded": write_seeded}


def write_form(graph: Graph, form: str, *, keep_quantized: bool = False, guarded: bool = False) -> None:
    """Hold the coded weights of a graph, which are float32 initialisers, in another form.

    Args:
        graph: nothing else of it changes, but for outputs of ``seeded``, which are NaN if the generator is wrong.
        form: one of `FORMS` in `..options`.
        keep_quantized: of ``int8``: use an operator that onnxruntime does not fold.
        guarded: keep OpenVINO from computing with activations rounded to int8.
    """
    if form == "dense":
        return
    write = write_quantized if keep_quantized else _WRITERS[form]
    functions: set[str] = set()
    for name, weight in sorted(graph.coded.items()):
        del graph.initializers[name]  # from now on a node computes it
        write(Emitter(graph, name, functions, guarded=guarded), weight)
    if form == "seeded":
        write_known_answers(graph, functions)
    graph.nodes[:0], graph.expansion = graph.expansion, []
    graph.coded = {}
    if functions:
        graph.functions = functions_for(functions, graph.opsets.get("", OPSET))
        graph.opsets[DOMAIN] = 1
