"""A data set as its provider has it, before it is split, decoded and tokenised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .order import held_out

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RawData"]


class Examples(Protocol):
    """Images or texts with their labels, int64 ``[n]``."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels."""

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """Take the examples at ``indices``, in that order."""


ExamplesT = TypeVar("ExamplesT", bound=Examples)


@dataclass(frozen=True)
class RawData(Generic[ExamplesT]):
    """A data set of images (`LabelledImages`) or texts (`LabelledTexts`).

    Attributes:
        classes: names of the classes; the index is the label.
        train: training examples.
        test: test examples.
        val: validation examples, if the provider separates them.
        statistics: published (mean, std) per channel of images; ``None`` to compute them.
        image_size: side in pixels to scale to if the settings do not say; ``None`` keeps the images' own.
        left_out: number of files and folders that were not read, by their kind.
        split_note: how training and test examples were told apart, if the provider does not do that.
    """

    classes: tuple[str, ...]
    train: ExamplesT
    test: ExamplesT
    val: ExamplesT | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_size: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    split_note: str = ""

    @classmethod
    def of(
        cls,
        classes: tuple[str, ...],
        splits: Mapping[str, ExamplesT],
        left_out: Mapping[str, int],
        split_note: str = "",
    ) -> Self:
        """Take the split ``val`` for testing where there is no ``test``, else for validation."""
        if "test" not in splits:
            return cls(classes, splits["train"], splits["val"], left_out=left_out, split_note=split_note)
        val = splits.get("val")
        return cls(classes, splits["train"], splits["test"], val, left_out=left_out, split_note=split_note)

    def split(self, validation: float, seed: int) -> dict[str, ExamplesT]:
        """Return the examples of ``train``, ``test`` and, if there are any, ``val``.

        Args:
            validation: fraction of the training examples to hold out, where the provider separates none.
            seed: decides which ones.

        Raises:
            DataError: there are fewer than two training examples to split.
        """
        if self.val is not None:
            return {"train": self.train, "test": self.test, "val": self.val}
        if validation <= 0:
            return {"train": self.train, "test": self.test}
        kept, out = held_out(seed, len(self.train.labels), validation)
        return {"train": self.train.subset(kept), "test": self.test, "val": self.train.subset(out)}
