"""From PyTorch to a raw ONNX model, without the exporter's own optimisations, chatter or tracebacks."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx import ModelProto
from torch import nn
from torch.jit._trace import TracerWarning
from torch.nn.parameter import is_lazy

from ..compress.errors import ConfigError, ExportError
from ..compress.models.copying import independent_copy
from ..compress.models.state import unwrapped
from .opsets import BASE_OPSET
from .session import first_line, shown

__all__ = ["BATCH", "LOGITS", "capture", "evaluation_copy", "plain_module", "undisturbed"]

BATCH = "batch"
"""Name of the dynamic dimension."""
LOGITS = "logits"
"""Name of the output."""

# The newer exporter of torch 2.6 and today's onnxscript do not fit together (operators with several outputs fail).
_OLD_TORCH = tuple(int(piece) for piece in torch.__version__.split(".")[:2]) < (2, 7)
_LIMIT = 2**31 - 2**20  # one protobuf message; a MiB is room for the graph


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within, the caller's modes of torch play no part, and its random generator is left as it was.

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
        ConfigError: this is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: expected a torch.nn.Module, got {type(model).__name__} {shown(model)}")
    return unwrapped(model)


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


def capture(model: nn.Module, sample: torch.Tensor, input_name: str) -> ModelProto:
    """Export ``model`` (see `evaluation_copy`) as PyTorch describes it.

    Args:
        model: takes one tensor, returns one tensor.
        sample: an example input of two samples; the result takes any other batch size too.
        input_name: name of the graph's input.

    Raises:
        ExportError: naming the operator, or the line of the model, that cannot be expressed.
    """
    try:
        with _quiet(), torch.no_grad():
            proto = (_traced if _OLD_TORCH else _exported)(model, sample, input_name)
    except Exception as error:
        raise ExportError(f"{type(model).__name__} cannot be exported: {_reason(error)}") from error
    _refuse_sequences(proto, type(model).__name__)
    _name_batch(proto)
    return proto


def _refuse_sequences(proto: ModelProto, name: str) -> None:
    """Refuse loops that carry a sequence of tensors: they end the process inside onnxruntime 1.32.

    Raises:
        ExportError: naming the operator that became such a loop.
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


def _exported(model: nn.Module, sample: torch.Tensor, input_name: str) -> ModelProto:
    shapes = ({0: torch.export.Dim(BATCH)},)
    traced = torch.export.export(model, (sample,), dynamic_shapes=shapes, strict=False)
    program = torch.onnx.export(
        traced,
        dynamo=True,
        opset_version=BASE_OPSET,
        input_names=[input_name],
        output_names=[LOGITS],
        external_data=False,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _traced(model: nn.Module, sample: torch.Tensor, input_name: str) -> ModelProto:
    """Record one pass through the model; code that branches on values is refused, not baked in."""
    warnings.simplefilter("error", TracerWarning)
    file = io.BytesIO()
    torch.onnx.export(
        model,
        (sample,),
        file,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=BASE_OPSET,
        input_names=[input_name],
        output_names=[LOGITS],
        dynamic_axes={input_name: {0: BATCH}, LOGITS: {0: BATCH}},
        do_constant_folding=False,
    )
    return onnx.load_from_string(file.getvalue())


def _name_batch(model: ModelProto) -> None:
    """Call the dynamic dimension "batch" in every shape; torch numbers its symbols."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.HasField("dim_param"):
                dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", BATCH, dim.dim_param)


def _reason(error: BaseException) -> str:
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
        return (
            "its Python code fixes the batch size: with len(x) in the place of x.shape[0], an `if` on the batch size, "
            "a loop over its samples, or a reshape with a fixed first dimension"
        )
    if "Exporting a ScriptModule is not supported" in text:
        return "torch exports no TorchScript; give the module that it was made of"
    return f"{type(chain[-1]).__name__}: {first_line(chain[-1])}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, prints and log lines of the exporter."""
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        yield
