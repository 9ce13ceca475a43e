"""The float16 form: weights and activations in half the bits, for tools and processors that compute in float16.

Inputs and outputs stay float32, so that the file is fed and read as the others are. The conversion is that of
onnxruntime; operators that it knows to have no float16, and inputs that ONNX fixes to float32, stay between casts.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from ...compress.errors import ExportError
from ..graph import Graph
from ..session import failing_as

__all__ = ["to_float16"]

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(graph: Graph) -> ModelProto:
    """Return a graph of dense weights as a model in float16: each weight is rounded to the nearest.

    Raises:
        ExportError: a weight has values that float16 cannot hold; or the graph cannot be converted.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    for name, weight in sorted(graph.coded.items()):
        values = weight.values()
        largest = float(np.abs(values).max(initial=0.0))
        if largest > _LARGEST:
            raise ExportError(
                f"form float16: {name} has values up to {largest:.3g}, and float16 holds none beyond {_LARGEST:.0f}; "
                "take form dense"
            )
        graph.put(name, values.astype(np.float16).astype(np.float32))  # to the nearest, also where that is 0
    wide = _crashing(graph)
    with failing_as("form float16: the graph cannot be converted: "):
        model: ModelProto = convert_float_to_float16(graph.model(), keep_io_types=True, node_block_list=wide)
        OnnxModel.graph_topological_sort(model.graph, is_deterministic=True)
    return model


def _crashing(graph: Graph) -> list[str]:
    """Names of the Transposes that a MatMul reads, which stay float32.

    onnxruntime 1.32 ends the process when it fuses one in float16 with a MatMul on the CPU (its MatmulTransposeFusion
    moves the cast that it has put between them).
    """
    producers, names = graph.producers(), []
    for node in graph.nodes:
        for source in node.input if node.op_type == "MatMul" else ():
            above = producers.get(source)
            if above is not None and above.op_type == "Transpose":
                above.name = above.name or above.output[0]
                names.append(above.name)
    return names
