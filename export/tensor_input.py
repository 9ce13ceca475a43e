"""A tensor that a network takes, as a file records it: so that its checks can be repeated without the examples."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..compress.seed.philox import Purpose, random_words

__all__ = ["ELEMENT_TYPES", "LARGEST_TENSOR", "TensorInput"]

ElementType = Literal["float32", "bool", "int8", "int16", "int32", "int64", "uint8"]
ELEMENT_TYPES: tuple[str, ...] = get_args(ElementType)
LARGEST_TENSOR = 2**29
"""Elements: 2 GiB of float32."""


class TensorInput(BaseModel):
    """Name, type and sizes of one input, and the range of the numbers that checks feed it with.

    Attributes:
        name: of the graph's input.
        dtype: of its elements.
        shape: of the recorded check; dimensions that vary have one of their sizes.
        low: the smallest number that checks feed.
        high: the largest one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: ElementType
    shape: list[int] = Field(max_length=16)
    low: int | float = Field(allow_inf_nan=False)
    high: int | float = Field(allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> TensorInput:
        if min(self.shape, default=1) < 1 or math.prod(self.shape) > LARGEST_TENSOR:
            raise ValueError(f"shape: expected sizes from 1, and at most {LARGEST_TENSOR:,} elements, got {self.shape}")
        if self.dtype == "float32":
            least, most = (float(bound) for bound in (np.finfo(np.float32).min, np.finfo(np.float32).max))
        elif self.dtype == "bool":
            least, most = 0, 1
        else:
            least, most = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        if not least <= self.low <= self.high <= most:
            raise ValueError(f"expected a range inside [{least}, {most}], got [{self.low}, {self.high}]")
        return self

    def widened(self) -> TensorInput:
        """The same with a range of 1 where floating-point numbers had none: zeros find no mistakes."""
        if self.dtype != "float32" or self.low != self.high:
            return self
        return self.model_copy(update={"high": self.low + max(1.0, abs(self.low))})

    def noise(self, index: int, shape: list[int] | None = None, *, draw: int = 0) -> NDArray[Any]:
        """Make numbers from ``low`` to ``high`` that are the same on every machine.

        They follow from words of the generator with seed 0.

        Args:
            index: number of the input.
            shape: by default that of the recorded check.
            draw: another number gives other noise.
        """
        shape = self.shape if shape is None else shape
        words = random_words(0, math.prod(shape), draw=draw, tensor=index, purpose=Purpose.AUGMENTATION)
        values: NDArray[Any]
        if self.dtype == "float32":
            values = self.low + (float(self.high) - float(self.low)) * (words / 2**32)
        else:
            span = min(int(self.high) - int(self.low), 2**32 - 1) + 1
            values = int(self.low) + words.astype(np.int64) % span
        return np.asarray(values.astype(self.dtype)).reshape(shape)
