"""From PyTorch to a raw ONNX model, without the exporter's own optimisations, chatter or tracebacks."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from onnx import ModelProto, helper
from torch import nn
from torch.jit._trace import TracerWarning
from torch.nn.parameter import is_lazy

from ..compress.errors import ExportError
from ..compress.models.copying import independent_copy
from ..compress.models.state import require_module, unwrapped
from .graph import rename
from .opsets import BASE_OPSET
from .session import first_line
from .signature import BATCH, Signature

__all__ = ["capture", "edges_of", "evaluation_copy", "plain_module", "undisturbed"]

_EDGES = "edges"  # metadata key of what is captured

# The newer exporter of torch 2.6 and the current onnxscript do not fit together (operators with several outputs fail).
_OLD_TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2]) < (2, 7)
_LIMIT = 2**31 - 2**20  # one protobuf message, less a MiB for the graph


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Neutralise the caller's modes of torch inside the block, and restore its random generator afterwards.

    These are the default device and dtype, autocast and inference mode: the network is checked on the CPU in float32.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            torch.inference_mode(False),
            torch.random.fork_rng(devices=[]),
            torch.compiler.set_stance("force_eager"),  # of compiled modules inside
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


def plain_module(model: object) -> nn.Module:
    """The module without what wraps it.

    Raises:
        ConfigError: it is not a module.
    """
    return unwrapped(require_module(model))


def evaluation_copy(model: nn.Module) -> nn.Module:
    """Return a float32 copy of ``model`` on the CPU in evaluation mode; the model itself is left alone.

    Raises:
        ExportError: it cannot be copied, or its tensors do not fit one ONNX file (2 GB).
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise ExportError(
            "the model has lazy layers that have not seen an input yet; run it once before the export, with a batch "
            "of what it takes"
        )
    size = sum(4 * tensor.numel() for tensor in tensors)
    if size > _LIMIT:
        raise ExportError(
            f"the model holds {size / 1e9:.2f} GB of float32 tensors; one ONNX file holds at most 2 GB, more "
            "would need external data beside it, which export does not write"
        )
    if any(tensor.is_meta for tensor in tensors):
        raise ExportError("the model has weights on the meta device, where they hold no numbers; load them first")
    try:
        return independent_copy(model).cpu().float().eval()  # not .to(float32), which makes complex numbers real
    except Exception as error:
        reason = first_line(error)
        if "graph leaves" in reason:
            reason = "it keeps a tensor that was computed and has gradients; delete it, or keep it detached (.detach())"
        raise ExportError(f"the model cannot be copied for the export: {reason}") from error


def capture(
    model: nn.Module, signature: Signature, inputs: Sequence[torch.Tensor], outputs: Sequence[str]
) -> ModelProto:
    """Export ``model`` (see `evaluation_copy`) as PyTorch describes it.

    Args:
        model: takes and returns tensors.
        signature: how it takes them; names of inputs, and the dimensions that vary.
        inputs: an example, in which these have at least two entries; values do not matter.
        outputs: names of the outputs.

    Returns:
        The model, whose metadata hold what `edges_of` reads.

    Raises:
        ExportError: naming the operator, or the line of the model, that cannot be expressed.
    """
    inputs = [tensor.clone() for tensor in inputs]  # dimensions are found by identity
    try:
        with _quiet(), torch.no_grad():
            proto = (_traced if _OLD_TORCH else _exported)(model, signature, inputs)
    except Exception as error:
        raise ExportError(f"{type(model).__name__} cannot be exported: {_reason(error, signature)}") from error
    _refuse_sequences(proto, type(model).__name__)
    for side, names in (("inputs", signature.names), ("outputs", outputs)):
        found = proto.graph.input if side == "inputs" else proto.graph.output
        if len(found) != len(names):
            expected = ", ".join(names)
            raise ExportError(
                f"{type(model).__name__} cannot be exported: torch finds {len(found)} {side}, expected {expected}"
            )
    _name_values(proto, signature.names, outputs)
    _name_dimensions(proto, signature)
    return proto


def _refuse_sequences(proto: ModelProto, name: str) -> None:
    """Refuse loops that carry a sequence of tensors: they end the process inside onnxruntime 1.32.

    Raises:
        ExportError: the model has one; the message names its operator.
    """
    sequences = {output for node in proto.graph.node if "Sequence" in node.op_type for output in node.output}
    for node in proto.graph.node:
        if node.op_type == "Loop" and sequences.intersection(node.input):
            notes = {entry.key: entry.value for entry in node.metadata_props}
            operator = re.search(r"aten\.\w+", notes.get("pkg.torch.onnx.class_hierarchy", ""))
            raise ExportError(
                f"{name} cannot be exported: {operator[0] if operator else 'an operator'} becomes a loop over a "
                "sequence of tensors, on which onnxruntime crashes; write it in other terms (nn.EmbeddingBag as "
                "nn.Embedding and a mean or sum over its tokens)"
            )


def _exported(model: nn.Module, signature: Signature, inputs: Sequence[torch.Tensor]) -> ModelProto:
    # The first dimension is the batch, of which every size must do. Of others torch derives which sizes do (a height
    # may have to be a multiple of 4); `sized_calls` tries some.
    batches = {name: torch.export.Dim(name) for names in signature.dynamic for dim, name in names.items() if dim == 0}
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor, names in zip(inputs, signature.dynamic, strict=True):
        if names:
            shapes[tensor] = {dim: batches.get(name, torch.export.Dim.DYNAMIC) for dim, name in names.items()}
    args, kwargs = signature.arguments(inputs)
    dynamic = shapes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]
    traced = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
    program = torch.onnx.export(
        traced, dynamo=True, opset_version=BASE_OPSET, external_data=False, optimize=False, verbose=False
    )
    assert program is not None
    proto = program.model_proto
    helper.set_model_props(proto, {_EDGES: json.dumps(_edges(traced, signature))})
    return proto


def _edges(traced: torch.export.ExportedProgram, signature: Signature) -> dict[str, list[int]]:
    """By dimension, the first sizes below and above those that code takes the same way for."""
    edges: dict[str, list[int]] = {}
    values = {node.name: node.meta.get("val") for node in traced.graph.nodes}
    tensors = [
        values[name] for name in traced.graph_signature.user_inputs if isinstance(values.get(name), torch.Tensor)
    ]
    for tensor, names in zip(tensors, signature.dynamic, strict=True):
        for dim, name in names.items():
            size = tensor.shape[dim]
            sizes = traced.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
            if sizes is not None:
                bounds = (sizes.lower - 1, sizes.upper + 1)
                edges[name] = [int(bound) for bound in bounds if bound.is_Integer and bound > 1]
    return edges


def edges_of(captured: ModelProto) -> dict[str, list[int]]:
    """The sizes, by dimension that varies, at which the code of a captured network may take another way.

    torch.export follows the code for one example, and derives the sizes that would have gone the same way.
    """
    return next((json.loads(entry.value) for entry in captured.metadata_props if entry.key == _EDGES), {})


def _traced(model: nn.Module, signature: Signature, inputs: Sequence[torch.Tensor]) -> ModelProto:
    """Record one pass through the model; code that branches on values is refused, not baked in."""
    warnings.simplefilter("error", TracerWarning)
    file = io.BytesIO()
    args, kwargs = signature.arguments(inputs)
    torch.onnx.export(
        model,
        (*args, kwargs) if kwargs else args,
        file,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=BASE_OPSET,
        input_names=list(signature.names),
        dynamic_axes=dict(zip(signature.names, map(dict, signature.dynamic), strict=True)),
        do_constant_folding=False,
    )
    return onnx.load_from_string(file.getvalue())


def _name_values(model: ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names; an output that is an input, a weight or another output becomes a copy."""
    graph = model.graph
    fixed = {*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    new = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    for value, name in zip(graph.output, outputs, strict=True):
        if value.name in fixed:
            copied = f"{name}.copied"
            graph.node.add(op_type="Identity", input=[value.name], output=[copied])
            value.name = copied
        fixed.add(value.name)
        new[value.name] = name
    taken = {*inputs, *outputs}
    for node in graph.node:
        for name in node.output:
            if name in taken and name not in new:
                new[name] = f"{name}.inner"
    rename(graph, new)


def _name_dimensions(model: ModelProto, signature: Signature) -> None:
    """Call dynamic dimensions by their names in every shape; torch numbers its symbols."""
    graph = model.graph
    symbols: dict[str, str] = {}
    for value, names in zip(graph.input, signature.dynamic, strict=True):
        for dim, name in names.items():
            symbol = value.type.tensor_type.shape.dim[dim].dim_param
            if symbol:
                symbols.setdefault(symbol, name)
    if not symbols:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = pattern.sub(lambda match: symbols[match[0]], dim.dim_param)


def _reason(error: BaseException, signature: Signature) -> str:
    """Return one line for what is nested in the exporter's long reports."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    text = "\n".join(str(link) for link in chain)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if operator:
        return f"ONNX has no counterpart of the operator {operator[1]}"
    if any(isinstance(link, TracerWarning) for link in chain):
        return f"its Python code branches on computed values: {first_line(chain[0])}"
    if "data-dependent" in text:
        place = re.search(
            r'raised this error:\s+File "[^"]*?([^"/\\]+)", line (\d+), in (\w+)\n(?:[ \t]+(\S.*))?', text
        )
        where = f" in {place[3]} ({place[1]}:{place[2]})" if place else ""
        where += f": {place[4].strip()}" if place and place[4] else ""
        return f"its Python code branches on computed values{where}"
    if "Constraints violated" in text or "specialized" in text:
        return _fixed(text, signature)
    if "Exporting a ScriptModule is not supported" in text:
        return "torch exports no TorchScript; give the module that it was made of"
    return f"{type(chain[-1]).__name__}: {first_line(chain[-1])}"


def _fixed(text: str, signature: Signature) -> str:
    """Return one line for a dimension that torch finds fixed."""
    named = {name for names in signature.dynamic for name in names.values()}
    found = re.search(r"Constraints violated \(([^)]*)\)", text)
    names = sorted(named.intersection(found[1].split(", ") if found else ())) or sorted(named)
    if names == [BATCH]:
        return (
            "its Python code fixes the batch size: with len(x) in the place of x.shape[0], an `if` on the batch size, "
            "a loop over its samples, or a reshape with a fixed first dimension"
        )
    advice = [
        line.strip() for line in text.partition("Suggested fixes:")[2].splitlines() if " = " in line and "-" not in line
    ]
    guard = re.search(r"code specialized it to be a constant \((\d+)\)", text)
    fixed = f"{' or '.join(names)} at {guard[1]}" if guard else " or ".join(names)
    says = f"; torch.export says: {', '.join(dict.fromkeys(advice))}" if advice else ""
    return (
        f"its Python code fixes {fixed}, which is said to vary (dynamic): an `if` on the size, len(x) in the place of "
        f"x.shape[0], a loop over it, or a reshape with a fixed size{says}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, prints and log lines of the exporter."""
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        yield
