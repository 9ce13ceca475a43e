"""A question with its answer, in the metadata: inputs that any machine can make, and what PyTorch computed for them."""

from __future__ import annotations

import base64
import binascii
import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ..compress.data.tokens import TextSpec
from ..compress.errors import ExportError
from ..compress.philox import Purpose, random_bytes, random_words

__all__ = ["PROBE", "Probe", "probe_pixels", "probe_tokens"]

PROBE = "iterand.probe"
"""Metadata key: a `Probe` as JSON."""
_SAMPLES = 2


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
            reason = str(error).splitlines()[0]
            raise ExportError(f"damaged metadata: {PROBE}: {reason}; export it again") from None


def probe_pixels(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Images of noise, float32 ``[2, C, H, W]`` in [0, 1]: bytes of the generator with seed 0, divided by 255."""
    count = _SAMPLES * math.prod(shape)
    noise = random_bytes(0, 0, count, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
    pixels: NDArray[np.float32] = noise.astype(np.float32) / np.float32(255)
    return pixels.reshape(_SAMPLES, *shape)


def probe_tokens(text: TextSpec) -> NDArray[np.int64]:
    """Texts of any tokens, int64 ``[2, length]``, none of them padding: words of the generator with seed 0."""
    words = random_words(0, _SAMPLES * text.length, draw=0, tensor=0, purpose=Purpose.AUGMENTATION)
    return (1 + words.astype(np.int64) % (text.vocabulary - 1)).reshape(_SAMPLES, text.length)
