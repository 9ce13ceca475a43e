"""What PyTorch computed for the probe inputs, in the metadata of a file."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ...compress.errors import ExportError, first_line

__all__ = ["PROBE", "Probe"]

PROBE = "iterand.probe"
"""Metadata key: a `Probe` as JSON."""


class Probe(BaseModel):
    """What the network answered.

    Attributes:
        shape: of the logits.
        logits: float32, little-endian, in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: list[int]
    logits: str

    @classmethod
    def of(cls, logits: NDArray[np.float32]) -> Probe:
        """From the logits of PyTorch for the probe's inputs."""
        data = np.ascontiguousarray(logits, "<f4").tobytes()
        return cls(shape=list(logits.shape), logits=base64.b64encode(data).decode())

    @classmethod
    def parse(cls, text: str) -> NDArray[np.float32]:
        """Return the logits that a metadata entry holds.

        Raises:
            ExportError: the entry is damaged.
        """
        try:
            probe = cls.model_validate_json(text)
            data = base64.b64decode(probe.logits, validate=True)
            return np.frombuffer(data, "<f4").astype(np.float32).reshape(probe.shape)
        except (ValidationError, binascii.Error, ValueError) as error:  # the last of them: they do not fill the shape
            raise ExportError(f"damaged metadata: {PROBE}: {first_line(error)}; export it again") from None
