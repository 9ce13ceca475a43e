"""Prove an exported file right, from the file alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from ...compress.errors import ExportError
from ...compress.seedmask.tensor_recovery import combined_digest
from ..forms import DOMAIN
from ..graph import producers
from ..passes.softmax import OUTPUT, PROBABILITIES, softmax
from .classifier import OnnxClassifier
from .expansion import expand, load_model
from .probe import PROBE, Probe
from .records import FORM, WEIGHTS_DIGEST, WeightRecord, digest_of, metadata_of, records_of
from .structure import accepted_difference, check_structure

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
    """The largest difference to the recorded logits."""
    if PROBE not in metadata:
        raise ExportError("not exported by this version of iterand-compress: its metadata hold no probe")
    classifier = OnnxClassifier(path)
    computed = classifier.outputs(classifier.input.probe())
    if computed.dtype.kind != "f":
        raise ExportError(f"expected floating-point outputs, got {computed.dtype}")
    logits = Probe.parse(metadata[PROBE]).astype(computed.dtype)
    probabilities = metadata.get(OUTPUT) == PROBABILITIES
    expected: NDArray[Any] = softmax(logits) if probabilities else logits
    if computed.shape != expected.shape:
        raise ExportError(f"expected outputs of shape {list(expected.shape)}, got {list(computed.shape)}")
    difference = float(np.abs(computed.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    half = metadata.get(FORM) == "float16"
    accepted = accepted_difference(expected, logits if probabilities else None, half=half)
    if not difference <= accepted:  # and not >, so that NaN is refused
        raise ExportError(
            f"computes something else here than PyTorch did when it was exported: largest difference of the probe "
            f"{difference:.3g}, accepted {accepted:.3g}"
        )
    return difference
