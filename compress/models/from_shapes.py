"""What the shapes of a state dict say about its architecture: for networks that were trained and packed in Python."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.parameter import is_lazy

from ..config import ModelConfig
from ..errors import IterandError
from ..inputs import AnyInput
from .architecture import AnyArchitecture, resolve
from .build import build_model

__all__ = ["Shapes", "count_classes", "first_difference", "skeleton"]

#: Shapes of the entries of a state dict by their names.
Shapes = Mapping[str, tuple[int, ...]]

# Two numbers of classes that differ in every shape that depends on them.
_PROBES = 7, 11


def skeleton(architecture: AnyArchitecture, *, seed: int, allow_import: bool) -> nn.Module:
    """Build a network on torch's meta device, where tensors have no content, if it can be built there.

    Args:
        architecture: what `resolve` gives.
        seed: see `build_model`.
        allow_import: see `build_model`.
    """
    try:
        return build_model(architecture, seed=seed, allow_import=allow_import, device="meta")
    except (IterandError, RuntimeError):  # a constructor that looks at values; any other error comes again
        return build_model(architecture, seed=seed, allow_import=allow_import)


def count_classes(
    model: ModelConfig,
    shapes: Shapes,
    *,
    input: AnyInput,  # noqa: A002
    allow_import: bool,
) -> int | None:
    """Read the number of classes off the shapes of a state dict.

    Args:
        model: the model that the state dict is of; the name alone will do.
        shapes: of the state dict of the plain network.
        input: the images or texts that it takes.
        allow_import: set it only for a name that the user gave.

    Returns:
        ``None`` if the shapes are the same for any number.

    Raises:
        ConfigError: the model is unknown, does not take these inputs, or cannot be built.
    """
    architectures = [resolve(model, num_classes=count, input=input) for count in _PROBES]
    one, other = (_shapes(skeleton(arch, seed=0, allow_import=allow_import)) for arch in architectures)
    for name, shape in one.items():
        sizes = zip(shape, other.get(name, ()), shapes.get(name, ()), strict=False)
        for size, grown, found in sizes:
            if grown != size:  # in proportion to the classes, beside what does not depend on them
                count = _PROBES[0] + (found - size) * (_PROBES[1] - _PROBES[0]) / (grown - size)
                if count >= 1 and count == int(count):
                    return int(count)
    return None


def first_difference(architecture: AnyArchitecture, shapes: Shapes, *, allow_import: bool) -> str | None:
    """How a state dict differs from that of an architecture; ``None`` if it has the same names and shapes.

    Args:
        architecture: what the state dict may be of.
        shapes: of the state dict.
        allow_import: see `build_model`.
    """
    expected = _shapes(skeleton(architecture, seed=0, allow_import=allow_import))
    for name in (*expected, *shapes):
        if name not in shapes:
            return f"{name} is missing"
        if name not in expected:
            return f"it has no {name}"
        if expected[name] != shapes[name]:
            return f"{name}: expected the shape {list(expected[name])}, got {list(shapes[name])}"
    return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if not is_lazy(value)}
