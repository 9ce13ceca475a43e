"""Store weights the way the operator that reads them takes them, not behind a Transpose."""

from __future__ import annotations

from onnx import NodeProto

from ..graph import Graph, settings

__all__ = ["transpose_weights"]


def transpose_weights(graph: Graph) -> None:
    """Transpose matrices that are read through a Transpose only, and remove that.

    PyTorch keeps the weight of a Linear as ``[outputs, inputs]``; behind an input of more than two dimensions ONNX
    multiplies with ``[inputs, outputs]``. Tools that look for a constant weight (quantisers, tract) do not see it
    behind a Transpose. A matrix that something else reads as well, such as an embedding whose table is also the last
    layer, stays as it is.
    """
    outputs, captured = graph.output_names(), graph.captured()
    users = graph.users()
    for name, tensor in list(graph.initializers.items()):
        readers = users.get(name, [])
        turned = [node.output[0] for node in readers]
        if (
            len(tensor.dims) == 2
            and readers
            and all(_swaps(node) for node in readers)
            and name not in captured
            and not (outputs | captured) & set(turned)
        ):
            graph.transpose(name)
            for value in turned:
                for node in users.get(value, []):
                    for index, source in enumerate(node.input):
                        if source == value:
                            node.input[index] = name
            graph.remove(set(turned))


def _swaps(node: NodeProto) -> bool:
    return node.op_type == "Transpose" and node.domain == "" and settings(node).get("perm", [1, 0]) == [1, 0]
