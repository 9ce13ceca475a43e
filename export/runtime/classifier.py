"""Run an exported file: the same few lines on a workstation and at the edge."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...compress.data.fitting import network_pixels, were_scaled
from ...compress.data.tokens import tokenise_all
from ...compress.errors import ConfigError, ExportError
from ...compress.inputs import AnyInput, ImageInput, TextInput
from ..input_metadata import CLASSES, INPUTS, RECIPE, read_input_metadata
from ..passes.softmax import OUTPUT, PROBABILITIES
from ..session import failing_as, session_options, shown
from .expansion import open_exported

__all__ = ["OnnxClassifier"]

#: An array of pixels or tokens; paths and images of Pillow; texts.
Inputs = NDArray[Any] | Sequence[str | os.PathLike[str] | Image.Image]


class OnnxClassifier:
    """An ONNX classifier in onnxruntime, on the CPU.

    Files of `export_onnx` describe their own input. Any other ONNX file works when it has one image input
    ``[batch, C, H, W]`` with fixed C, H and W; its pixels are not normalised.

    Attributes:
        path: the file.
        input: the images or texts that the file takes; of a file that does not say, its shape, with mean 0 and std 1.
        classes: names of the classes, in the order of the logits; empty when the file does not name them.
        metadata: all metadata entries of the file.
        scaled: whether the network learned from images that were scaled to its size, which decides how images of other
            sizes are cut; False for texts.
        normalize_baked: True when the graph normalises its input itself, False when `logits` does it, None
            when the file does not say, or takes texts.

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
        self.classes: tuple[str, ...] = ()
        self._name, shape = self._graph_input()
        if INPUTS in self.metadata:
            got = f"{self._name} {shape}"
            raise ExportError(f"{self.path}: takes neither images nor texts ({got}); open it with load_session()")
        try:
            described = read_input_metadata(self.metadata)
            learned = dict(json.loads(self.metadata[RECIPE])["data"]) if RECIPE in self.metadata else None
            if described is not None:
                self.classes = tuple(str(name) for name in json.loads(self.metadata.get(CLASSES, "[]")))
        except KeyError as error:
            raise ExportError(f"{self.path}: its metadata lack {error}; export it again") from error
        except (ValueError, TypeError, ConfigError) as error:
            raise ExportError(f"{self.path}: damaged metadata: {error}; export it again") from error
        if described is None:
            if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
                reason = "not exported by iterand-compress, and its input has no fixed image shape [batch, C, H, W]"
                raise ExportError(f"{self.path}: {reason}")
            described = ImageInput(shape[1:], mean=0, std=1), None
        self.input: AnyInput = described[0]
        self.scaled = isinstance(self.input, ImageInput) and were_scaled(learned, *self.input.shape[1:])
        # Sizes behind the batch; names stand for those that vary.
        self._shape: list[Any] = shape[1:]
        self.normalize_baked: bool | None = described[1]

    def classify(self, inputs: Inputs) -> list[str]:
        """Name the class of each image or text, by its number where the file does not name classes.

        Args:
            inputs: as for `logits`.

        Raises:
            ExportError: inputs of another shape or type, or the outputs are not the classes that the file names.
            DataError: an image file cannot be read or decoded.

        Example:
            ``OnnxClassifier("photos.onnx").classify(["a.jpg", "b.png"])`` gives ``["circle", "square"]``, and
            ``OnnxClassifier("text.onnx").classify(["The cat was chased by the dog."])`` gives ``["dog"]``.
        """
        logits = self.logits(inputs)
        if logits.ndim != 2 or (self.classes and len(self.classes) != logits.shape[1]):
            expected = f"an output [batch, {len(self.classes) or 'classes'}]"
            raise ExportError(f"{self.path}: expected {expected}, got {list(logits.shape)}")
        winners = logits.argmax(axis=1).tolist()
        return [self.classes[number] if self.classes else str(number) for number in winners]

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """Score images or texts.

        Args:
            inputs: paths of image files, and images of Pillow, which are turned, scaled, cut and normalised as in
                training and evaluation; or float32 ``[N, C, H, W]`` in [0, 1], not normalised. For a file that takes
                texts, the texts, or their tokens int64 ``[N, length]``.

        Returns:
            The output of the graph, float32 ``[N, classes]``; of a file that gives probabilities, their logarithms,
            which are logits too.

        Raises:
            ExportError: inputs of another shape or type, or the graph fails.
            DataError: an image file cannot be read or decoded.
        """
        output = self.outputs(inputs)
        if self.metadata.get(OUTPUT) == PROBABILITIES:
            return np.asarray(np.log(np.maximum(output, np.finfo(np.float32).tiny)))
        return output

    def outputs(self, inputs: Inputs) -> NDArray[np.float32]:
        """Run the graph on images or texts, given as for `logits`; it gives logits or probabilities.

        Raises:
            ExportError: inputs of another shape or type, or the graph fails.
            DataError: an image file cannot be read or decoded.
        """
        values = self._values(inputs)
        with failing_as(f"{self.path}: onnxruntime cannot run it: "):
            (output,) = self._session.run(None, {self._name: values})
        return np.asarray(output)

    def _values(self, inputs: Inputs) -> NDArray[Any]:
        """Turn images or texts into what the graph takes."""
        if isinstance(self.input, TextInput):
            return self._tokens(inputs, self.input)
        if not isinstance(inputs, np.ndarray):
            images = [] if isinstance(inputs, str | os.PathLike | Image.Image) else list(inputs)
            if not images or not all(isinstance(image, str | os.PathLike | Image.Image) for image in images):
                raise ExportError(
                    f"{self.path}: takes images: expected an array of pixels, or a list of paths or Pillow images, "
                    f"got {shown(inputs)}"
                )
            inputs = network_pixels(images, self.input.shape, scaled=self.scaled)
        if not self._fits(inputs) or inputs.dtype != np.float32:
            expected = f"float32 [N, {', '.join(map(str, self._shape))}] in [0, 1]"
            raise ExportError(f"{self.path}: expected pixels {expected}, got {inputs.dtype} {list(inputs.shape)}")
        return self.input.normalize(inputs) if self.normalize_baked is False else inputs

    def _tokens(self, inputs: Inputs, text: TextInput) -> NDArray[np.int64]:
        if not isinstance(inputs, np.ndarray):
            if isinstance(inputs, str) or not all(isinstance(item, str) for item in inputs):
                raise ExportError(f"{self.path}: takes texts: expected a list of them, got {inputs!r:.60}")
            return tokenise_all(map(str, inputs), text)
        if not self._fits(inputs) or inputs.dtype != np.int64:
            got = f"{inputs.dtype} {list(inputs.shape)}"
            raise ExportError(f"{self.path}: expected texts, or tokens int64 [N, {self._shape[0]}], got {got}")
        return inputs

    def _fits(self, inputs: NDArray[Any]) -> bool:
        """Whether an array has the shape that the graph takes."""
        sizes = inputs.shape[1:]
        return len(sizes) == len(self._shape) and all(
            isinstance(expected, str) or size == expected for size, expected in zip(sizes, self._shape, strict=True)
        )

    def _graph_input(self) -> tuple[str, list[Any]]:
        """Return name and shape of the only input."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            got = f"{len(inputs)} and {len(outputs)}"
            raise ExportError(
                f"{self.path}: a classifier has one input and one output, got {got}; open it with load_session()"
            )
        return inputs[0].name, inputs[0].shape
