"""Check that a file computes the same function as its network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from ...compress.errors import ConfigError, ExportError
from ..passes.softmax import softmax
from ..samples import Call, ModelInput
from ..session import failing_as
from ..signature import call
from .structure import accepted_difference, accepted_share, largest_difference, rounding

__all__ = ["Agreement", "check_repeatable", "compare", "edge_calls", "outputs_of", "sized_calls"]

_LARGEST = 8  # times the size in the samples


@dataclass(frozen=True)
class Agreement:
    """How close two computations of the same outputs are.

    Attributes:
        max_abs_difference: largest absolute difference of two outputs.
        argmax_agreement: fraction of the samples with the same largest value of the main output.
    """

    max_abs_difference: float
    argmax_agreement: float


def outputs_of(model: nn.Module, given: ModelInput, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run ``model`` in PyTorch without gradients, see `call`.

    Raises:
        ExportError: see `call`; or the main output of images or texts does not have one row for each.
    """
    outputs = call(model, given.signature, inputs)
    main, count = next(iter(outputs.values())), len(inputs[0]) if inputs[0].ndim else 0
    if given.described is not None and (main.ndim < 1 or main.shape[0] != count):
        found = f"{list(main.shape)} for {count}"
        raise ExportError(f"{type(model).__name__} must return one row per input, found shape {found}")
    return outputs


def check_repeatable(model: nn.Module, given: ModelInput, calls: Iterable[Call]) -> None:
    """Run a model twice on each, and refuse one whose outputs differ.

    Raises:
        ExportError: they differ by more than rounding; or see `outputs_of`.
    """
    for one in calls:
        first, second = (outputs_of(model, given, one.network) for _ in range(2))
        for name, values in first.items():
            before, after = values.numpy(), second[name].numpy() if name in second else np.empty(0)
            if before.shape != after.shape or not largest_difference(before, after) <= rounding(before):
                raise ExportError(
                    f"{type(model).__name__} gives other outputs when the same inputs come again: it draws random "
                    "numbers (a dropout that is always on, for instance), or forward() changes a state; ONNX needs a "
                    "fixed function"
                )


def sized_calls(model: nn.Module, given: ModelInput) -> list[Call]:
    """Find, for each dimension that varies, other sizes that the network takes in PyTorch.

    Returns:
        Inputs with one dimension of another size: one more, one less, twice as many, and one where the dimension is the
        first, otherwise two.

    Raises:
        ConfigError: there is none for one of the dimensions.
    """
    calls = []
    first = {names.get(0) for names in given.signature.dynamic}
    for name, size in given.sizes().items():
        least = 1 if name in first else 2
        others = sorted({size + 1, size - 1, 2 * size, least} - {size, *range(least)})
        tried = [(one, _refusal(model, given, one)) for one in (given.sized(name, other) for other in others)]
        found = [one for one, refusal in tried if refusal is None]
        if not found:
            raise ConfigError(
                f"dynamic: {name}: the network takes {size}, and none of {', '.join(map(str, others))}: {tried[-1][1]}"
            )
        calls += found
    return calls


def edge_calls(model: nn.Module, given: ModelInput, edges: Mapping[str, Sequence[int]]) -> list[Call]:
    """Of the sizes where code may take another way, by dimension, those that the network takes in PyTorch."""
    known = given.sizes()
    calls = (
        given.sized(name, size)
        for name, sizes in edges.items()
        for size in sizes
        if name in known and size <= _LARGEST * known[name]
    )
    return [one for one in calls if _refusal(model, given, one) is None]


def _refusal(model: nn.Module, given: ModelInput, one: Call) -> str | None:
    """The reason why a network does not take inputs; ``None`` if it does."""
    try:
        outputs_of(model, given, one.network)
    except ExportError as error:
        return str(error)
    return None


def compare(
    session: onnxruntime.InferenceSession,
    model: nn.Module,
    given: ModelInput,
    calls: Iterable[Call],
    *,
    probabilities: str | None = None,
    half: bool = False,
) -> Agreement:
    """Compare the session with PyTorch.

    Args:
        session: the exported file.
        model: an evaluation copy of the network.
        given: its inputs.
        calls: what both get, at least one.
        probabilities: the output of which the file gives probabilities; the network gives logits.
        half: whether the file computes in float16.

    Raises:
        ExportError: an output differs by more than `accepted_difference`, or is not finite.
    """
    found: dict[str, _Differences] = {}
    same = rows = 0
    for one in calls:
        outputs = {name: value.numpy() for name, value in outputs_of(model, given, one.network).items()}
        computed = _run(session, one)
        if len(computed) != len(outputs):
            raise ExportError(f"onnxruntime computes {len(computed)} outputs, PyTorch {len(outputs)}")
        for (name, logits), values in zip(outputs.items(), computed, strict=True):
            expected = softmax(logits) if name == probabilities else logits
            if values.shape != expected.shape:
                shapes = f"{list(values.shape)}, PyTorch {list(expected.shape)}"
                of = f" of {name}" if len(outputs) > 1 else ""
                raise ExportError(f"for {one.label}, onnxruntime computes the shape{of} {shapes}")
            found.setdefault(name, _Differences(name)).add(one.label, values, expected, logits)
        winners = [_winners(side) for side in (computed[0], next(iter(outputs.values())))]
        same, rows = same + int((winners[0] == winners[1]).sum()), rows + len(winners[0])
    for differences in found.values():
        differences.check(alone=len(found) == 1, probabilities=differences.name == probabilities, half=half)
    return Agreement(max(max(one.differences) for one in found.values()), same / rows)


class _Differences:
    """How one output differs, over all calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.labels: list[str] = []
        self.differences: list[float] = []
        self.extremes: list[list[list[Any]]] = []
        self.unequal = self.count = 0

    def add(self, label: str, values: NDArray[Any], expected: NDArray[Any], logits: NDArray[Any]) -> None:
        self.labels.append(label)
        self.dtype = logits.dtype
        if logits.dtype.kind == "f":
            self.differences.append(largest_difference(values, expected))
            self.extremes.append([[side.min(), side.max()] for side in (expected, logits)])
        else:
            self.differences.append(0.0)
            self.unequal += int((values != expected).sum())
            self.count += values.size

    def check(self, *, alone: bool, probabilities: bool, half: bool) -> None:
        """Refuse what is more than rounding.

        Raises:
            ExportError: it is.
        """
        of = "the outputs" if alone else f"the output {self.name}"
        if self.dtype.kind != "f":
            if self.unequal > accepted_share(self.count, half=half):
                raise ExportError(
                    f"onnxruntime and PyTorch differ: {self.unequal} of {self.count} whole numbers of {of}; the file "
                    "was not written"
                )
            return
        outputs, scores = np.moveaxis(np.array(self.extremes), 1, 0).astype(self.dtype)
        accepted = accepted_difference(outputs, scores if probabilities else None, half=half)
        wrong = [not difference <= accepted for difference in self.differences]  # and not >, so that NaN is refused
        if any(wrong):
            labels = list(dict.fromkeys(label for label, differs in zip(self.labels, wrong, strict=True) if differs))
            where = ""
            if labels == ["a batch of 1"] and not all(wrong):
                where = "; only one sample alone differs, so its Python code treats a batch of 1 in another way"
            elif not all(wrong):
                where = f"; only with {', '.join(labels[:4])}: its Python code treats such sizes in another way"
            raise ExportError(
                f"onnxruntime and PyTorch differ: largest absolute difference of {of} "
                f"{float(np.max(self.differences)):.3g}, accepted {accepted:.3g}{where}; the file was not written"
            )


def _run(session: onnxruntime.InferenceSession, one: Call) -> list[NDArray[Any]]:
    names = [value.name for value in session.get_inputs()]
    with failing_as(f"onnxruntime cannot run the exported graph on {one.label}: "):
        return [np.asarray(value) for value in session.run(None, dict(zip(names, one.file, strict=True)))]


def _winners(values: NDArray[Any]) -> NDArray[np.intp]:
    """The largest value of each row."""
    rows = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    return np.asarray(rows.argmax(axis=1))
