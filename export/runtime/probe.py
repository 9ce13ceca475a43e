"""What PyTorch computed for the recorded inputs, in the metadata of a file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...compress.errors import ExportError, first_line

__all__ = ["PROBE", "Probe", "positions", "read_probes", "write_probes"]

PROBE = "iterand.probe"
"""Metadata key: a `Probe` as JSON, or of several outputs an object of them by name."""


_LARGEST = 1024  # numbers of an output; of larger ones, such as classes of pixels, a file keeps some positions


class Probe(BaseModel):
    """One output of the network.

    Attributes:
        shape: of the output.
        logits: float32, or of whole numbers int64, little-endian, in base64.
        step: of an output with positions behind dimensions 0 and 1, one in so many positions is kept.
        kind: ``f4`` or ``i8``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: list[int]
    logits: str
    step: int = Field(default=1, ge=1)
    kind: Literal["f4", "i8"] = "f4"

    @classmethod
    def of(cls, output: NDArray[Any]) -> Probe:
        """From an output of PyTorch for the probe's inputs."""
        kind: Literal["f4", "i8"] = "f4" if output.dtype.kind == "f" else "i8"
        step = -(-output.size // _LARGEST) if output.ndim > 2 else 1
        data = np.ascontiguousarray(positions(output, step), f"<{kind}").tobytes()
        return cls(shape=list(output.shape), logits=base64.b64encode(data).decode(), step=step, kind=kind)

    def values(self) -> NDArray[Any]:
        """The numbers that are kept, in the shape of `positions`.

        Raises:
            ValueError: they are not as many as the shape says.
        """
        data = np.frombuffer(base64.b64decode(self.logits, validate=True), f"<{self.kind}").astype(self.kind)
        return data.reshape(positions(np.broadcast_to(np.int8(0), self.shape), self.step).shape)


def positions(output: NDArray[Any], step: int) -> NDArray[Any]:
    """One in ``step`` positions of an output: ``[N, C, positions]`` of ``[N, C, …]``; with a step of 1 all of it."""
    return output if step == 1 else output.reshape(*output.shape[:2], -1)[:, :, ::step]


_PROBES = TypeAdapter(Probe | dict[str, Probe])


def write_probes(outputs: Mapping[str, NDArray[Any]]) -> str:
    """Return the metadata entry for the outputs of PyTorch: of a single one without its name."""
    probes = {name: Probe.of(values) for name, values in outputs.items()}
    only = next(iter(probes.values())) if len(probes) == 1 else probes
    return _PROBES.dump_json(only, exclude_defaults=True).decode()


def read_probes(text: str) -> list[tuple[Probe, NDArray[Any]]]:
    """Read what `write_probes` wrote: the outputs in their order, and the numbers of each.

    Raises:
        ExportError: the entry is damaged.
    """
    try:
        found = _PROBES.validate_json(text)
        probes = [found] if isinstance(found, Probe) else list(found.values())
        return [(probe, probe.values()) for probe in probes]
    except (ValidationError, binascii.Error, ValueError) as error:
        raise ExportError(f"damaged metadata: {PROBE}: {first_line(error)}; export it again") from None
