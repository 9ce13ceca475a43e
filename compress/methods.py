"""The methods of the literature, as presets over independent choices.

A method is one line of the table below: how weights are kept (``selection``), what becomes of those that
are not (``refresh``), where the scores start, and whether scores or weights are trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["PRESETS", "MethodPreset"]


@dataclass(frozen=True)
class MethodPreset:
    """A method of the literature.

    Attributes:
        selection: rule that turns scores into a mask, or ``None`` if every weight is kept.
        refresh: what happens to pruned weights: ``none``, or ``resample`` (redrawn now and then).
        score_gain: scores start uniform on ±``score_gain / sqrt(fan_in)``.
        source: where it is defined.
    """

    selection: Literal["signed", "magnitude"] | None
    refresh: Literal["none", "resample"]
    score_gain: float
    source: str


#: Kaiming uniform for ReLU has bound √6/√fan_in; with a = √5, torch's default for layers, 1/√fan_in.
PRESETS: dict[str, MethodPreset] = {
    "iterand": MethodPreset("signed", "resample", math.sqrt(6), "Chijiwa et al., NeurIPS 2021, Algorithm 1"),
    "edge-popup": MethodPreset("magnitude", "none", 1.0, "Ramanujan et al., CVPR 2020, section 3"),
    "dense": MethodPreset(None, "none", 0.0, "ordinary training of all weights"),
}
