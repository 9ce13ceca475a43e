"""Run an exported file: the same few lines on a workstation and at the edge."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...compress.data.tokens import tokenise_all
from ...compress.errors import ConfigError, ExportError
from ...compress.inputs import TextSpec
from ..passes.preprocessing import CLASSES, NORMALIZE, Preprocessing
from ..passes.softmax import OUTPUT, PROBABILITIES
from ..session import first_line, session_options
from ..tokeniser import TEXT, text_from_metadata
from .expansion import open_exported

__all__ = ["OnnxClassifier"]


class OnnxClassifier:
    """An ONNX classifier in onnxruntime, on the CPU.

    Files of `export_onnx` and `export_text_onnx` describe their own input. Any other ONNX file works when it has
    one image input ``[batch, C, H, W]`` with fixed C, H and W; then `normalize_baked` is None and the graph gets
    the pixels as they are.

    Attributes:
        path: the file.
        image_shape: channels, height, width; empty for a file that takes texts.
        text: the tokeniser of a file that takes texts; None otherwise.
        classes: names of the classes, in the order of the logits; empty when the file does not name them.
        metadata: all metadata entries of the file.
        normalize_baked: True when the graph normalises its input itself, False when `logits` does it, None
            when the file does not say (pixels are then not normalised).

    Args:
        path: the file.

    Raises:
        ExportError: it is missing, not ONNX, or its input is not an image of known shape.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"{self.path}: no such file")
        try:
            self._session = open_exported(self.path, session_options())
        except ExportError as error:
            raise ExportError(f"{self.path}: onnxruntime cannot load it as an ONNX model: {error}") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._preprocessing: Preprocessing | None = None
        self.normalize_baked: bool | None = None
        self.text: TextSpec | None = None
        self.image_shape: tuple[int, ...] = ()
        self._input, from_graph = self._graph_input()
        if NORMALIZE in self.metadata or TEXT in self.metadata:
            try:
                self.text = text_from_metadata(self.metadata)
                if self.text is None:
                    self._preprocessing, self.normalize_baked = Preprocessing.from_metadata(self.metadata)
                    self.image_shape = self._preprocessing.image_shape
                self.classes = tuple(str(name) for name in json.loads(self.metadata.get(CLASSES, "[]")))
            except KeyError as error:
                raise ExportError(f"{self.path}: its metadata lack {error}; export it again") from error
            except (ValueError, TypeError, ConfigError) as error:
                raise ExportError(f"{self.path}: damaged metadata: {error}; export it again") from error
        elif from_graph is not None:
            self.image_shape = from_graph
            self.classes = ()
        else:
            reason = "not exported by iterand-compress, and its input has no fixed image shape [batch, C, H, W]"
            raise ExportError(f"{self.path}: {reason}")

    def classify(self, inputs: NDArray[Any] | Sequence[str]) -> list[str]:
        """Name the class of each image or text, by its number where the file does not name classes.

        Args:
            inputs: as for `logits`.

        Raises:
            ExportError: see `logits`; the outputs are no classes, or others than those that the file names.

        Example:
            ``OnnxClassifier("model.onnx").classify(["The cat was chased by the dog."])`` gives ``["dog"]``.
        """
        logits = self.logits(inputs)
        if logits.ndim != 2 or (self.classes and len(self.classes) != logits.shape[1]):
            expected = f"an output [batch, {len(self.classes) or 'classes'}]"
            raise ExportError(f"{self.path}: expected {expected}, found {list(logits.shape)}")
        winners = logits.argmax(axis=1).tolist()
        return [self.classes[number] if self.classes else str(number) for number in winners]

    def logits(self, inputs: NDArray[Any] | Sequence[str]) -> NDArray[np.float32]:
        """Score images or texts.

        Args:
            inputs: float32 ``[N, C, H, W]`` in [0, 1], not normalised; for a file that takes texts, the texts, or
                their tokens int64 ``[N, length]``.

        Returns:
            The output of the graph, float32 ``[N, classes]``; of a file that gives probabilities, their logarithms,
            which are logits too.

        Raises:
            ExportError: inputs of another shape or type, or the graph fails.
        """
        output = self.outputs(inputs)
        if self.metadata.get(OUTPUT) == PROBABILITIES:
            return np.asarray(np.log(np.maximum(output, np.finfo(np.float32).tiny)))
        return output

    def outputs(self, inputs: NDArray[Any] | Sequence[str]) -> NDArray[np.float32]:
        """What the graph gives for images or texts: logits, or probabilities; see `logits`.

        Raises:
            ExportError: inputs of another shape or type, or the graph fails.
        """
        values = self._values(inputs)
        try:
            (output,) = self._session.run(None, {self._input: values})
        except Exception as error:
            raise ExportError(f"{self.path}: onnxruntime cannot run it: {first_line(error)}") from error
        return np.asarray(output)

    def _values(self, inputs: NDArray[Any] | Sequence[str]) -> NDArray[Any]:
        """Return what the graph takes."""
        if self.text is not None:
            return self._tokens(inputs, self.text)
        if not isinstance(inputs, np.ndarray):
            raise ExportError(f"{self.path}: takes images: expected an array of pixels, found {type(inputs).__name__}")
        pixels = inputs
        if pixels.ndim != 4 or pixels.shape[1:] != self.image_shape or pixels.dtype != np.float32:
            expected = f"float32 [N, {', '.join(map(str, self.image_shape))}]"
            raise ExportError(f"{self.path}: expected pixels {expected}, found {pixels.dtype} {list(pixels.shape)}")
        if self._preprocessing is not None and self.normalize_baked is False:
            pixels = self._preprocessing.apply(pixels)
        return pixels

    def _tokens(self, inputs: NDArray[Any] | Sequence[str], text: TextSpec) -> NDArray[np.int64]:
        if not isinstance(inputs, np.ndarray):
            if isinstance(inputs, str) or not all(isinstance(item, str) for item in inputs):
                raise ExportError(f"{self.path}: takes texts: expected a list of them, found {inputs!r:.60}")
            return tokenise_all(inputs, text)
        if inputs.shape[1:] != (text.length,) or inputs.dtype != np.int64:
            found = f"{inputs.dtype} {list(inputs.shape)}"
            raise ExportError(f"{self.path}: expected texts, or tokens int64 [N, {text.length}], found {found}")
        return inputs

    def _graph_input(self) -> tuple[str, tuple[int, int, int] | None]:
        """Return the name of the only input, and its image shape when that is fixed."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            found = f"{len(inputs)} and {len(outputs)}"
            raise ExportError(f"{self.path}: a classifier has one input and one output, found {found}")
        shape = inputs[0].shape
        if len(shape) == 4 and all(isinstance(size, int) for size in shape[1:]):
            return inputs[0].name, (shape[1], shape[2], shape[3])
        return inputs[0].name, None
