"""What determines the weight of a layer, together with its scores and draws; it travels with the state dict."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from ..errors import CheckpointError

__all__ = ["WeightSpec", "require_same", "spec_from_state", "state_of_spec"]

# Keys of state dicts that are not the names of fields.
_KEYS = {"multiplicity": "coats"}
_FIELDS = {key: field for field, key in _KEYS.items()}
SELECTIONS = frozenset({"signed", "magnitude", "invert", "fixed", "unpruned"})


@dataclass(frozen=True)
class WeightSpec:
    """What, together with scores and draws, determines the weight of a layer for ever.

    Attributes:
        seed: 64-bit seed of the network.
        tensor: index of the weight among the masked weights of its network.
        shape: of the weight.
        codebook: name of the distribution.
        scale: float32 value of one code unit.
        kept: number of weights kept; where it changes in training, the number there is now.
        selection: rule from scores to mask; ``fixed`` for masks that were found at initialisation, ``unpruned`` where
            they are yet to be found.
        binarised: whether kept weights are α·sign(w).
        multiplicity: number of nested masks.
        frozen: share of the mask that the seed fixes to pruned, and to kept, in 1/65536.
        padding: index of a row that is always pruned, as no gradient reaches it; -1 = there is none.
    """

    seed: int
    tensor: int
    shape: tuple[int, ...]
    codebook: str
    scale: float
    kept: int
    selection: str
    binarised: bool = False
    multiplicity: int = 1
    frozen: tuple[int, int] = (0, 0)
    padding: int = -1

    @property
    def selectable(self) -> int:
        """Number of weights that the mask chooses from: all but those of the row of padding."""
        count = math.prod(self.shape)
        return count if self.padding < 0 else count - count // self.shape[0]


def state_of_spec(spec: WeightSpec) -> dict[str, Any]:
    """The fields of a spec as plain values, by the names that state dicts have had from the first version on."""
    return {_KEYS.get(key, key): value for key, value in asdict(spec).items()}


def require_same(mine: WeightSpec, other: WeightSpec, *, varies: bool) -> None:
    """Refuse the state of another subnetwork; ``varies`` allows another number of kept weights.

    Raises:
        CheckpointError: with what differs.
    """
    here, there = state_of_spec(mine), state_of_spec(other)
    differing = [
        f"{key} {here[key]!r} here, {there[key]!r} there"
        for key in here
        if here[key] != there[key] and not (varies and key == "kept")
    ]
    if differing:
        raise CheckpointError("state dict of another subnetwork: " + "; ".join(differing))


def spec_from_state(state: dict[str, Any]) -> WeightSpec:
    """Rebuild a spec from the extra state of a state dict. What newer versions added may be absent.

    Raises:
        CheckpointError: a field is missing or has the wrong type.
    """
    kinds = {"int": int, "str": str, "float": float, "bool": bool, "tuple[int, ...]": tuple, "tuple[int, int]": tuple}
    known = {_KEYS.get(field.name, field.name): kinds[str(field.type)] for field in fields(WeightSpec)}
    needed = {field.name for field in fields(WeightSpec) if field.default is MISSING}
    if not needed <= set(state) <= set(known) or any(type(state[name]) is not known[name] for name in state):
        raise CheckpointError(f"subnetwork state: expected {sorted(known)}, got {str(state)[:200]}")
    spec = WeightSpec(**{_FIELDS.get(key, key): value for key, value in state.items()})
    least = 0 if spec.selection == "fixed" else 1  # a criterion may prune a whole layer
    if not least <= spec.kept <= spec.selectable or spec.selection not in SELECTIONS:
        raise CheckpointError(f"subnetwork state: impossible: {spec}")
    return spec
