"""What a network takes and returns: tensors by name, in the tuples, lists and dictionaries of its forward()."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..compress.errors import ConfigError, ExportError
from .session import first_line, shown

__all__ = ["BATCH", "LOGITS", "Dynamic", "Signature", "call", "signature_of"]

BATCH = "batch"
"""Name of the dimension of samples."""
LOGITS = "logits"
"""Name of the output of a network that takes images or texts and returns one tensor."""
OUTPUT = "output"
"""Name of the output of another network that returns one tensor, and the beginning of names that are numbers."""

Dynamic = Mapping[str, Mapping[int, str]]
"""The dimensions that vary, by input: ``{"x": {0: "batch", 2: "height"}}``."""

# NumPy and onnxruntime lack the others.
_OUTPUTS = (
    *(torch.float32, torch.float64, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Signature:
    """The inputs of a network.

    Attributes:
        names: of the tensors that it takes, in the order of forward().
        dynamic: the dimensions of each that vary, and their names; dimensions of one name have one size.
        leaves: what forward() gets, flattened; None where a tensor goes, other values stay as they are.
        places: of the tensors among the leaves.
        structure: of positional and keyword arguments.
        output: name of the output if the network returns one tensor.
    """

    names: tuple[str, ...]
    dynamic: tuple[Mapping[int, str], ...]
    leaves: tuple[Any, ...]
    places: tuple[int, ...]
    structure: pytree.TreeSpec
    output: str

    @classmethod
    def single(cls, name: str, dynamic: Mapping[int, str] | None = None) -> Signature:
        """Of a network that takes one tensor, by default of any number of samples, and gives logits."""
        structure = pytree.tree_structure(((None,), {}))
        return cls((name,), (dynamic or {0: BATCH},), (None,), (0,), structure, LOGITS)

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments of forward()."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs

    def shown(self, tensors: Sequence[torch.Tensor]) -> str:
        """The shapes of tensors, for messages."""
        if len(tensors) == 1:
            return f"an input of shape {list(tensors[0].shape)}"
        shapes = (f"{name} {list(tensor.shape)}" for name, tensor in zip(self.names, tensors, strict=True))
        return f"inputs of shapes {', '.join(shapes)}"

    def sizes(self, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
        """The sizes of the dimensions that vary, by name."""
        return {
            name: tensor.shape[dim]
            for tensor, names in zip(tensors, self.dynamic, strict=True)
            for dim, name in names.items()
        }


def signature_of(model: nn.Module, example: Any, dynamic: Dynamic | None) -> tuple[Signature, list[torch.Tensor]]:
    """Find out how a network takes an example.

    Args:
        model: whose forward() gets it.
        example: a tensor; a tuple of the positional arguments; or a dictionary of arguments by name. Arguments may be
            tuples, lists and dictionaries of tensors, and numbers, which become constants.
        dynamic: the dimensions that vary; by default the first of all inputs, ``batch``.

    Returns:
        The signature, and the tensors of the example, copied to the CPU; floating-point ones in float32.

    Raises:
        ConfigError: forward() does not take it, or it does not have these dimensions.
    """
    args, kwargs = (), {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example) if isinstance(example, tuple) else (example,)
    what = f"{type(model).__name__}.forward()"
    try:
        parameters = inspect.signature(model.forward)
        bound = parameters.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(str(parameter).split(":")[0].split("=")[0] for parameter in parameters.parameters.values())
        raise ConfigError(f"input: {what} takes ({takes}): {first_line(error)}") from None
    flat, structure = pytree.tree_flatten((bound.args, bound.kwargs))
    names = _input_names(parameters, bound)
    tensors, places = [], []
    for place, (name, leaf) in enumerate(zip(names, flat, strict=True)):
        if isinstance(leaf, torch.Tensor | np.ndarray):
            tensors.append(_on_host(name, leaf))
            places.append(place)
            flat[place] = None
        elif not isinstance(leaf, _CONSTANTS):
            raise ConfigError(
                f"input: {name}: expected tensors, or tuples, lists and dictionaries of them, got {shown(leaf)}"
            )
    if not tensors:
        raise ConfigError(f"input: expected at least one tensor, got {shown(example)}")
    names = _unique([names[place] for place in places], ())
    varying = _dynamic(dict(zip(names, tensors, strict=True)), dynamic)
    return Signature(tuple(names), varying, tuple(flat), tuple(places), structure, OUTPUT), tensors


def _input_names(parameters: inspect.Signature, bound: inspect.BoundArguments) -> list[str]:
    """Names of the flattened arguments: those of parameters, and what leads to a tensor inside, joined by ``_``."""
    named: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = parameters.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named += [(f"{name}_{index}", one) for index, one in enumerate(value)]
        elif name not in bound.kwargs and kind is not inspect.Parameter.VAR_KEYWORD:
            named.append((name, value))
    named += bound.kwargs.items()
    return [_joined(name, path) for name, value in named for path, _ in pytree.tree_flatten_with_path(value)[0]]


def _joined(start: str, path: Iterable[Any]) -> str:
    """A name: ``start``, and the keys and numbers that lead to a tensor."""
    keys = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", None))) for key in path)
    return "_".join([*([start] if start else []), *map(str, keys)])


def _unique(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """Put a number behind names that are taken."""
    used, found = set(taken), []
    for name in names:
        candidate, number = name, 1
        while candidate in used:
            candidate, number = f"{name}_{number}", number + 1
        used.add(candidate)
        found.append(candidate)
    return found


def _on_host(name: str, given: torch.Tensor | np.ndarray[Any, Any]) -> torch.Tensor:
    """Copy a tensor to the CPU, floating-point ones in float32, as the copy of the network that is exported.

    Raises:
        ConfigError: it has no numbers, no elements, or a type that files do not know.
    """
    try:
        tensor = torch.as_tensor(given).detach().to_dense().to("cpu", copy=True)
    except (TypeError, ValueError, RuntimeError) as error:  # the last: on the meta device, among others
        raise ConfigError(f"input: {name}: expected a tensor of numbers: {first_line(error)}") from None
    if tensor.is_floating_point():
        tensor = tensor.float()
    if tensor.dtype not in _OUTPUTS:
        raise ConfigError(f"input: {name}: expected floats, integers or booleans, got {tensor.dtype}")
    if not tensor.numel() or not tensor.isfinite().all():
        got = "values that are not finite" if tensor.numel() else f"the shape {list(tensor.shape)}, without elements"
        raise ConfigError(f"input: {name}: expected finite numbers, got {got}")
    return tensor.contiguous()


def _dynamic(tensors: Mapping[str, torch.Tensor], given: Dynamic | None) -> tuple[dict[int, str], ...]:
    """Check the dimensions that vary.

    Raises:
        ConfigError: an input or a dimension that does not exist, or one name for two sizes.
    """
    if given is None:
        first = {name: tensor.shape[0] for name, tensor in tensors.items() if tensor.ndim}
        if len(set(first.values())) > 1:
            listed = ", ".join(f"{name} has {size}" for name, size in first.items())
            raise ConfigError(
                f"dynamic: the first dimensions of the inputs are not one batch ({listed}): name the dimensions that "
                f'vary, such as dynamic={{"{next(iter(first))}": {{0: "batch"}}}}, or none with dynamic={{}}'
            )
        given = {name: {0: BATCH} for name in first}
    form = "expected names of dimensions by input and number, such as {'x': {0: 'batch'}}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"dynamic: {form}, got {shown(given)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, dims in given.items():
        if name not in tensors:
            raise ConfigError(f"dynamic: there is no input {shown(name)}; the network has {', '.join(tensors)}")
        shape = tensors[name].shape
        if not isinstance(dims, Mapping):
            raise ConfigError(f"dynamic: {name}: {form}, got {shown(dims)}")
        for dim, label in dims.items():
            if type(dim) is not int or not 0 <= dim < len(shape):
                raise ConfigError(f"dynamic: {name}: expected dimensions from 0 to {len(shape) - 1}, got {shown(dim)}")
            if not isinstance(label, str) or not label.isidentifier():
                raise ConfigError(f"dynamic: {name}: {dim}: expected a name such as height, got {shown(label)}")
            size, where = sizes.setdefault(label, (shape[dim], name))
            if size != shape[dim]:
                raise ConfigError(
                    f"dynamic: {label} is {size} in {where} and {shape[dim]} in {name}: give an example in which both "
                    "are the same, or two names"
                )
    return tuple(dict(given.get(name, {})) for name in tensors)


def call(model: nn.Module, signature: Signature, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run a network in PyTorch without gradients.

    Args:
        model: an evaluation copy.
        signature: how it takes tensors.
        tensors: what it takes.

    Returns:
        The tensors that it returns, by name, in their order; ``None`` among them is left out.

    Raises:
        ExportError: it fails, or returns something else than finite tensors.
    """
    name = type(model).__name__
    args, kwargs = signature.arguments([tensor.clone() for tensor in tensors])  # which it may change in place
    try:
        with torch.no_grad():
            returned = model(*args, **kwargs)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ExportError(f"{name} does not take {signature.shown(tensors)}: {reason}") from error
    paths, values = [], []
    for path, value in pytree.tree_flatten_with_path(returned)[0]:
        if value is not None:
            own = bool(path) and isinstance(getattr(path[0], "key", getattr(path[0], "name", None)), str)
            paths.append(_joined("" if own else OUTPUT if path else signature.output, path))
            values.append(_output(value, name))
    if not values:
        raise ExportError(f"{name} must return tensors, found {shown(returned)}")
    if len(values) == 1 and isinstance(returned, tuple | list):
        paths = [signature.output]
    return dict(zip(_unique(paths, signature.names), values, strict=True))


def _output(value: Any, name: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        hint = "; make it known with torch.export.register_dataclass" if hasattr(value, "__dataclass_fields__") else ""
        raise ExportError(f"{name} must return tensors, found {type(value).__name__}{hint}")
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested
    if not plain or value.dtype not in _OUTPUTS:
        got = f"{value.dtype} ({value.layout}, {value.device})"
        raise ExportError(f"{name} must return tensors of float16 to float64, integers or booleans, found {got}")
    if not value.numel():
        raise ExportError(f"{name} must return tensors with elements, found the shape {list(value.shape)}")
    if not value.isfinite().all():
        raise ExportError(f"{name} computes outputs that are not finite, so its export cannot be checked")
    return value.detach()  # forward() may have switched gradients on, or return a parameter
