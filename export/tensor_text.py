"""Tensors that a network takes as text, for the command line: ``wave=float32[batch,1,time=16000]``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from pydantic import ValidationError

from ..compress.errors import ConfigError
from .session import shown
from .signature import Dynamic
from .tensor_input import ELEMENT_TYPES, TensorInput

__all__ = ["read_tensors"]

_SPEC = re.compile(r"(\w+)=(\w+)\[([^\[\]]*)\](?:<(\d+))?")
_DIMENSION = re.compile(r"(\d+)|([A-Za-z_]\w*)(?:=(\d+))?")
_BATCH = 2  # samples, where none are said


def read_tensors(specs: Sequence[str]) -> tuple[dict[str, torch.Tensor], Dynamic]:
    """Make an example of what specifications describe.

    Each is ``NAME=TYPE[SIZES]``, with the name of an argument of forward(). A size is a number; or the name of a
    dimension that varies and a number to try, ``height=64``, which may be left out where the dimension is the first one
    or has its number elsewhere. ``<N`` behind whole numbers: they are below N, by default 2.

    Returns:
        Example and dimensions that vary, as `signature_of` takes them. Floats are from -1 to 1.

    Raises:
        ConfigError: a specification of another form.
    """
    read = [_read(spec) for spec in specs]
    sizes: dict[str, int] = {}
    for spec, _, _, dims, _ in read:
        for position, (_, name, size) in enumerate(dims):
            if name and size and sizes.setdefault(name, int(size)) != int(size):
                raise ConfigError(f"--tensor {spec}: {name} is {sizes[name]} elsewhere")
            if name and not size and position == 0:
                sizes.setdefault(name, _BATCH)
    example, dynamic = {}, {}
    for index, (spec, argument, dtype, dims, below) in enumerate(read):
        missing = [name for _, name, _ in dims if name and name not in sizes]
        if missing:
            raise ConfigError(f"--tensor {spec}: {missing[0]}: expected a size to try as well, such as {missing[0]}=64")
        if argument in example:
            raise ConfigError(f"--tensor {spec}: {argument} is given twice")
        try:
            tensor = TensorInput(
                name=argument,
                dtype=dtype,  # type: ignore[arg-type]
                shape=[int(number) if number else sizes[name] for number, name, _ in dims],
                low=-1 if dtype == "float32" else 0,
                high=int(below) - 1 if below else 1,
            )
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"--tensor {spec}: {reason}") from None
        example[argument] = torch.from_numpy(tensor.noise(index))
        dynamic[argument] = {position: name for position, (_, name, _) in enumerate(dims) if name}
    return example, dynamic


def _read(spec: str) -> tuple[str, str, str, list[tuple[str, str, str]], str]:
    """A specification, its argument, type and dimensions (number, name, size of the name), and the bound."""
    match = _SPEC.fullmatch("".join(spec.split()))
    if match is None:
        raise ConfigError(
            f"--tensor: expected NAME=TYPE[SIZES] such as 'wave=float32[batch,1,time=16000]', got {shown(spec)}"
        )
    argument, dtype, inside, below = match.groups()
    if dtype not in ELEMENT_TYPES:
        raise ConfigError(f"--tensor {spec}: expected one of the types {', '.join(ELEMENT_TYPES)}, got {dtype}")
    if below and dtype in ("float32", "bool"):
        raise ConfigError(f"--tensor {spec}: <{below} is for whole numbers, got {dtype}")
    dims = []
    for text in inside.split(",") if inside else []:
        found = _DIMENSION.fullmatch(text)
        if found is None:
            raise ConfigError(f"--tensor {spec}: expected sizes and names of dimensions, got {shown(text)}")
        dims.append((found[1] or "", found[2] or "", found[3] or ""))
    return spec, argument, dtype, dims, below or ""
