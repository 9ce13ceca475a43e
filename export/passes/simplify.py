"""Make an exporter's graph plainer: what depends on types, shapes and constants alone is worked out."""

from __future__ import annotations

import contextlib

from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnxscript import ir, optimizer

__all__ = ["simplified"]

_LIMIT = 1 << 16
"""Elements of the largest value that replaces an expression."""


def simplified(model: ModelProto) -> ModelProto:
    """Return a model without CastLike, sequences of a fixed length, and shapes that are computed though they are known.

    onnxscript, which torch's exporter builds its graphs with, folds what depends on constants and known sizes: a
    CastLike becomes a Cast, a SplitToSequence a Split, a Shape a constant. tract and onnx2torch know neither of the
    former. Parameters are hidden from it, so they stay what they are, under their own names. A model that
    onnxscript cannot handle stays as it is.

    Args:
        model: as torch exported it; it is not changed.
    """
    hidden = _without_tensors(model)
    inputs = {value.name for value in model.graph.input}
    parameters = [tensor for tensor in model.graph.initializer if tensor.name not in inputs]
    hidden.graph.input.extend(_declared(tensor) for tensor in parameters)
    result: object = None
    with contextlib.suppress(Exception):  # of a library; what it was given is right, only longer
        folded = ir.from_proto(hidden)
        optimizer.inline(folded)
        optimizer.fold_constants(folded, onnx_shape_inference=True, output_size_limit=_LIMIT)
        optimizer.remove_unused_nodes(folded)
        result = ir.to_proto(folded)
    if not isinstance(result, ModelProto):
        return model
    del result.graph.input[len(model.graph.input) :]
    result.graph.initializer.extend(parameters)
    return result


def _without_tensors(model: ModelProto) -> ModelProto:
    """The model but for its initialisers, whose bytes are not copied."""
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    bare.graph.name = model.graph.name
    return bare


def _declared(tensor: TensorProto) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
