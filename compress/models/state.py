"""State dicts: tensors by name, and beside them the versions of modules by which PyTorch converts older ones.

A module with a ``_version`` of its own converts entries of earlier versions when it loads them. PyTorch keeps the
versions in an attribute of the dictionary, which every copy into a plain dictionary loses.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, SeedMaskError

__all__ = [
    "foldable_batch_norms",
    "load_state",
    "mismatch",
    "module_versions",
    "plain_state",
    "require_module",
    "unused_counters",
    "unwrapped",
    "with_versions",
]

_BATCH_NORM_FORWARDS = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)


def module_versions(state: Mapping[str, Any]) -> dict[str, int]:
    """The versions of the modules that a state dict comes from, by their names; empty if it does not know them."""
    metadata: Mapping[str, Mapping[str, Any]] = getattr(state, "_metadata", {})
    versions = {name: entry.get("version") for name, entry in metadata.items()}
    return {name: version for name, version in versions.items() if type(version) is int}


def with_versions(state: Mapping[str, Any], versions: Mapping[str, int]) -> OrderedDict[str, Any]:
    """A shallow copy of a state dict that knows the versions of its modules, as PyTorch's own do."""
    copied = OrderedDict(state)
    copied._metadata = {name: {"version": version} for name, version in versions.items()}  # type: ignore[attr-defined]
    return copied


def load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """``model.load_state_dict(state, strict=True)``; a module without a version in the state counts as current.

    Raises:
        RuntimeError: PyTorch's, if names or shapes are others.
        SeedMaskError: the module is on the device meta.
    """
    own = model.state_dict()
    for name, value in own.items():
        if isinstance(value, Tensor) and value.is_meta:  # PyTorch would load nothing into it
            raise SeedMaskError(f"{name}: the module has no content (device meta); make it on the CPU, or to_empty()")
    model.load_state_dict(with_versions(state, module_versions(own) | module_versions(state)))


def mismatch(error: Exception) -> str:
    """The mismatch that an error of `load_state` reports, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[1:3] if len(lines) > 1 else lines)[:300]


def unused_counters(model: nn.Module) -> set[str]:
    """Names of the buffers ``num_batches_tracked`` that no computation reads.

    BatchNorm counts its batches always, and takes the count only where its momentum is ``None``, as the weight of a
    cumulative average.
    """
    return {
        f"{name}.num_batches_tracked".removeprefix(".")
        for name, module in unwrapped(model).named_modules(remove_duplicate=False)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None
    }


def foldable_batch_norms(model: nn.Module) -> dict[str, float]:
    """``eps`` of each BatchNorm layer by its name, if weight, bias, mean and variance are tensors of this layer alone.

    Left out are layers that lack one of them, share one with another layer, or compute something of their own.
    """
    model = unwrapped(model)
    owners = Counter(
        id(tensor)
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    )
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module).forward in _BATCH_NORM_FORWARDS:
            parameters, buffers = module._parameters, module._buffers
            tensors = (
                *(parameters.get("weight"), parameters.get("bias")),
                *(buffers.get("running_mean"), buffers.get("running_var")),
            )
            if all(tensor is not None and owners[id(tensor)] == 1 for tensor in tensors):
                found[name] = module.eps
    return found


def require_module(model: object) -> nn.Module:
    """The model itself.

    Raises:
        ConfigError: it is not a module.
    """
    if isinstance(model, nn.Module):
        return model
    got, hint = type(model).__name__, ""
    if isinstance(model, str):
        got, hint = f"str {model[:60]!r}", "; load_network() takes the names of models and files"
    elif isinstance(getattr(model, "model", None), nn.Module):
        hint = "; give its attribute model"
    elif callable(model):
        got = getattr(model, "__name__", got)
        hint = f"; call it: {got}()"
    raise ConfigError(f"model: expected a torch.nn.Module, got {got}{hint}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``, or the module itself."""
    while inner := _inner(model):
        model = getattr(model, inner)
    return model


def _inner(module: nn.Module) -> str | None:
    """What a wrapper of PyTorch calls the module inside; ``None`` for all other modules."""
    if isinstance(getattr(module, "_orig_mod", None), nn.Module):  # torch.compile
        return "_orig_mod"
    return "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def plain_state(model: nn.Module) -> dict[str, Any]:
    """The state dict of a model by the names that its tensors have where nothing is wrapped, inside it neither."""
    wrappers = [
        (f"{name}.".removeprefix("."), f"{inner}.")
        for name, module in model.named_modules(remove_duplicate=False)
        if (inner := _inner(module))
    ]
    state = dict(model.state_dict())
    for outer, inner in reversed(wrappers):  # the innermost first
        prefix = outer + inner
        state = {outer + key.removeprefix(prefix) if key.startswith(prefix) else key: state[key] for key in state}
    return state
