"""Prove an exported file right, from the file alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from ...compress.errors import ConfigError, ExportError
from ...compress.seedmask.tensor_recovery import combined_digest
from ..export_options import FLOAT16
from ..forms import DOMAIN
from ..graph import producers
from ..input_metadata import read_input_metadata, read_tensor_inputs
from ..passes.softmax import OUTPUT, PROBABILITIES, softmax
from ..session import failing_as, first_line, session_options
from .expansion import expand, load_model, open_exported
from .probe import PROBE, Probe, positions, read_probes
from .records import FORM, WEIGHTS_DIGEST, WeightRecord, digest_of, metadata_of, records_of
from .structure import accepted_difference, accepted_share, check_structure, largest_difference

__all__ = ["OnnxVerification", "verify_onnx", "verify_weights"]


@dataclass(frozen=True)
class OnnxVerification:
    """The result of a verification.

    Attributes:
        path: the file.
        form: how it holds its weights.
        weights: number of masked weight tensors whose values have their digests.
        recovered: number of those that were also traced back, by their codes, to the recovered weights.
        weights_digest: of all recovered weights, when all were traced back to it; the `.seedmask` file has the same.
        max_abs_difference: largest difference to what PyTorch computed for the probe when the file was made.
    """

    path: Path
    form: str
    weights: int
    recovered: int
    weights_digest: str | None
    max_abs_difference: float


def verify_onnx(path: str | os.PathLike[str]) -> OnnxVerification:
    """Check the structure of a file, its weights against their digests, and its answer to the recorded probe.

    Raises:
        ExportError: the file is missing or damaged, is no export of ours, or does not compute here what it computed
            where it was made.
    """
    path = Path(path)
    try:
        model = load_model(path)
        check_structure(path)
        metadata = metadata_of(model)
        weights, recovered, digest = verify_weights(model)
        difference = _compare(path, metadata)
    except ExportError as error:
        text = str(error)
        raise ExportError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return OnnxVerification(path, metadata.get(FORM, "dense"), weights, recovered, digest, difference)


def verify_weights(model: ModelProto) -> tuple[int, int, str | None]:
    """Expand all masked weights of a file and compare them with their digests.

    Returns:
        ``weights``, ``recovered`` and ``weights_digest`` as in `OnnxVerification`.

    Raises:
        ExportError: one of them has other values.
    """
    records = records_of(model)
    computing = producers(model.graph.node)
    traced = [record for record in records if record.recovered is not None and record.name in computing]
    codes = {record.name: _codes_of(computing[record.name], record.name) for record in traced}
    values = _values(model, [*(record.name for record in records), *codes.values()])
    for record in records:
        if digest_of(values.pop(record.name)) != record.sha256:
            raise ExportError(f"weight {record.name!r}: expected values with SHA-256 {record.sha256}, got others")
    for record in traced:
        scale = np.asarray(record.scale, np.float32)
        numbers = values.pop(codes[record.name]).astype(np.float32)
        numbers = numbers.T if record.transposed else numbers
        rows = (len(scale), *[1] * (numbers.ndim - 1)) if scale.ndim else ()
        fits = not scale.ndim or numbers.shape[:1] == scale.shape
        if not fits or digest_of(numbers * scale.reshape(rows)) != record.recovered:
            raise ExportError(f"weight {record.name!r}: its codes do not give the recovered weight")
    digest = _combined(model, records) if len(traced) == len(records) else None
    return len(records), len(traced), digest


def _combined(model: ModelProto, records: list[WeightRecord]) -> str | None:
    """The digest of all recovered weights, if the file names it.

    Raises:
        ExportError: it differs.
    """
    recorded = metadata_of(model).get(WEIGHTS_DIGEST)
    if recorded is None or not records:
        return None
    combined = combined_digest(record.recovered or "" for record in records)
    if combined != recorded:
        raise ExportError(f"expected recovered weights with SHA-256 {recorded}, got {combined}")
    return combined


def _values(model: ModelProto, names: list[str]) -> dict[str, NDArray[np.float32]]:
    """Initialisers and computed values by name."""
    wanted, computing = set(names), producers(model.graph.node)
    stored = {
        tensor.name: np.asarray(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in wanted
    }
    open_ = [name for name in names if name not in stored]
    missing = [name for name in open_ if name not in computing]
    if missing:
        raise ExportError(f"weight {missing[0]!r} is not in the graph")
    return {**stored, **(expand(model, open_) if open_ else {})}


def _codes_of(node: NodeProto, name: str) -> str:
    """The name of what is multiplied with a scale to give a weight."""
    if node.op_type not in ("Mul", "DequantizeLinear") or node.domain == DOMAIN:
        raise ExportError(f"weight {name!r}: expected a product of codes and scale, got {node.op_type}")
    return str(node.input[0])


def _compare(path: Path, metadata: dict[str, str]) -> float:
    """The largest difference to the recorded outputs."""
    if PROBE not in metadata:
        raise ExportError("not exported by this version of iterand-compress: its metadata hold no probe")
    probes = read_probes(metadata[PROBE])
    session = open_exported(path, session_options())
    inputs, outputs = ([value.name for value in side] for side in (session.get_inputs(), session.get_outputs()))
    fed = _recorded_inputs(metadata)
    for what, names, recorded in (("inputs", inputs, fed), ("outputs", outputs, probes)):
        if len(names) != len(recorded):
            raise ExportError(f"expected {len(recorded)} {what}, got {len(names)}: {', '.join(names)}")
    with failing_as("onnxruntime cannot run it: "):
        computed = session.run(None, dict(zip(inputs, fed, strict=True)))
    softened, half = metadata.get(OUTPUT) == PROBABILITIES, metadata.get(FORM) == FLOAT16
    return max(
        _difference(name, np.asarray(values), probe, kept, probabilities=softened and name == PROBABILITIES, half=half)
        for name, values, (probe, kept) in zip(outputs, computed, probes, strict=True)
    )


def _recorded_inputs(metadata: dict[str, str]) -> list[NDArray[Any]]:
    """What a file was fed with when it was made."""
    try:
        tensors = read_tensor_inputs(metadata)
        if tensors is not None:
            return [tensor.noise(index) for index, tensor in enumerate(tensors)]
        described = read_input_metadata(metadata)
    except KeyError as error:
        raise ExportError(f"its metadata lack {error}; export it again") from error
    except (ValueError, TypeError, ConfigError) as error:
        raise ExportError(f"damaged metadata: {first_line(error)}; export it again") from error
    if described is None:
        raise ExportError("its metadata do not say what it takes; export it again")
    input, baked = described  # noqa: A001
    return [input.normalize(input.probe()) if baked is False else input.probe()]


def _difference(
    name: str, output: NDArray[Any], probe: Probe, kept: NDArray[Any], *, probabilities: bool, half: bool
) -> float:
    """The largest difference of one output to what is recorded of it; 0 for whole numbers."""
    if list(output.shape) != probe.shape:
        raise ExportError(f"expected outputs of shape {probe.shape}, got {list(output.shape)} ({name})")
    if (output.dtype.kind == "f") != (kept.dtype.kind == "f"):
        raise ExportError(
            f"expected {'floating-point' if kept.dtype.kind == 'f' else 'whole'} outputs, got {output.dtype}"
        )
    computed = positions(output, probe.step)
    wrong = "computes something else here than PyTorch did when it was exported"
    if kept.dtype.kind != "f":
        unequal = int((computed.astype(np.int64) != kept).sum())
        if unequal > accepted_share(kept.size, half=half):
            raise ExportError(f"{wrong}: {unequal} of {kept.size} whole numbers of {name}")
        return 0.0
    logits: NDArray[Any] = kept.astype(output.dtype)
    expected: NDArray[Any] = softmax(logits) if probabilities else logits
    difference = largest_difference(computed, expected)
    accepted = accepted_difference(expected, logits if probabilities else None, half=half)
    if not difference <= accepted:  # and not >, so that NaN is refused
        raise ExportError(f"{wrong}: largest difference of the probe {difference:.3g}, accepted {accepted:.3g}")
    return difference
