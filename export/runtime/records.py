"""The weights of a file as its metadata record them, so that the file can be verified by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ...compress.errors import ExportError
from ..coded import CodedWeight

__all__ = [
    "FORM",
    "WEIGHTS",
    "WEIGHTS_DIGEST",
    "WeightRecord",
    "digest_of",
    "metadata_of",
    "record_metadata",
    "records_of",
]

WEIGHTS = "iterand.weights"
"""Metadata key: a JSON list of `WeightRecord`."""
FORM = "iterand.form"
"""Metadata key: how the file holds the masked weights."""
WEIGHTS_DIGEST = "iterand.weights_sha256"
"""Metadata key: the digest of all recovered weights, as in the ``.seedmask`` file."""


class WeightRecord(BaseModel):
    """One weight, in the order of the network's tensors.

    Attributes:
        name: of the parameter, and of the value in the graph.
        shape: of the value.
        sha256: of its values in the graph as float32, little-endian, row-major.
        scale: what its codes are multiplied with to give the recovered weight: one number, or one for each row; a JSON
            number that a float32 holds exactly.
        recovered: SHA-256 of the recovered weight; ``None`` if the graph holds only some of its values.
        transposed: whether the value is the transpose of the parameter, a matrix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: list[int]
    sha256: str
    scale: float | list[float]
    recovered: str | None = None
    transposed: bool = False


_RECORDS = TypeAdapter(list[WeightRecord])


def digest_of(values: NDArray[np.floating[Any]]) -> str:
    """SHA-256 of little-endian float32 values, hexadecimal; of float16 values, as float32."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()


def record_metadata(
    names: Iterable[str],
    before: Mapping[str, CodedWeight],
    after: Mapping[str, CodedWeight],
    rounded: type[np.float16 | np.float32] = np.float32,
) -> str:
    """Return the metadata entry for weights.

    Args:
        names: in the order of the network's tensors.
        before: as they were recovered, by name.
        after: as they are in the graph.
        rounded: the type that the file holds their values in.
    """
    records = []
    for name in names:
        weight, recovered = after[name], before[name]
        shape = weight.codes.shape[::-1] if weight.transposed else weight.codes.shape
        records.append(
            WeightRecord(
                name=name,
                shape=list(weight.codes.shape),
                sha256=digest_of(weight.values().astype(rounded)),
                scale=np.asarray(recovered.scale, np.float64).reshape(-1).tolist()
                if recovered.scale.ndim
                else float(recovered.scale),
                recovered=digest_of(recovered.values()) if shape == recovered.codes.shape else None,
                transposed=weight.transposed,
            ).model_dump(exclude_none=True, exclude=None if weight.transposed else {"transposed"})
        )
    return json.dumps(records)


def metadata_of(model: ModelProto) -> dict[str, str]:
    """All metadata entries of a file."""
    return {entry.key: entry.value for entry in model.metadata_props}


def records_of(model: ModelProto) -> list[WeightRecord]:
    """Read what `record_metadata` wrote; an empty list if the file has no entry.

    Raises:
        ExportError: the entry is damaged.
    """
    text: Any = metadata_of(model).get(WEIGHTS, "[]")
    try:
        records = _RECORDS.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ExportError(f"damaged metadata: {WEIGHTS}: {first['msg']}; export it again") from None
    if len({record.name for record in records}) != len(records):
        raise ExportError(f"damaged metadata: {WEIGHTS}: names one weight twice; export it again")
    return records
