"""The outcome of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ExportReport", "LayerShrink", "ShrinkReport"]


@dataclass(frozen=True)
class LayerShrink:
    """One layer, before and after.

    Attributes:
        name: of its weight.
        inputs_before: channels it read; for a depthwise convolution, 1 (per group).
        inputs: channels it reads.
        outputs_before: channels it computed.
        outputs: channels it computes; 0 when the whole layer is gone.
        constant: channels gone because they did not vary.
        unread: channels gone because nobody read them.
        stuck: channels that do not vary, and stay.
        weights_before: elements of its weight.
        weights: elements of its weight.
    """

    name: str
    inputs_before: int
    inputs: int
    outputs_before: int
    outputs: int
    constant: int
    unread: int
    stuck: int
    weights_before: int
    weights: int


@dataclass(frozen=True)
class ShrinkReport:
    """The result of dead-unit elimination.

    Attributes:
        layers: with a constant weight of their own, in the order of the graph, changed or not.
        nodes_removed: operators whose result was constant or not needed.
    """

    layers: tuple[LayerShrink, ...]
    nodes_removed: int

    @property
    def channels_before(self) -> int:
        """Output channels of all layers."""
        return sum(layer.outputs_before for layer in self.layers)

    @property
    def channels_removed(self) -> int:
        """Output channels that are gone: the constant and the unread ones."""
        return sum(layer.outputs_before - layer.outputs for layer in self.layers)

    @property
    def constant(self) -> int:
        """Channels gone because they did not vary."""
        return sum(layer.constant for layer in self.layers)

    @property
    def unread(self) -> int:
        """Channels gone because nobody read them."""
        return sum(layer.unread for layer in self.layers)

    @property
    def stuck(self) -> int:
        """Channels that do not vary, and stay."""
        return sum(layer.stuck for layer in self.layers)

    @property
    def weights_before(self) -> int:
        """Elements of all layers' weights."""
        return sum(layer.weights_before for layer in self.layers)

    @property
    def weights(self) -> int:
        """Elements that are left of them."""
        return sum(layer.weights for layer in self.layers)


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it agrees with PyTorch.

    Attributes:
        path: the file.
        file_bytes: its size.
        opset: version of the ONNX operator set.
        ir_version: version of the ONNX file format.
        form: how it holds the masked weights.
        unmasked_bytes: size of the tensors that are not masked and so float32 in every form; vectors do not count.
        form_bytes: sizes of the forms that were tried, by name: of ``auto`` all, of small files all but ``seeded`` that
            hold the same values on the runtime.
        max_abs_difference: largest absolute difference of a logit, onnxruntime against PyTorch.
        samples: number of images compared.
        argmax_agreement: fraction of them with the same largest logit.
        shrink: the result of dead-unit elimination; None where it was not asked for.
        unshrunk_bytes: size that the file would have without dead-unit elimination; None where it was not asked for.
        unfinished: the progress of the run that the network comes from, if it is not complete.
    """

    path: Path
    file_bytes: int
    opset: int
    ir_version: int
    form: str
    unmasked_bytes: int
    form_bytes: Mapping[str, int]
    max_abs_difference: float
    samples: int
    argmax_agreement: float
    shrink: ShrinkReport | None = None
    unshrunk_bytes: int | None = None
    unfinished: str | None = None
