"""Edge-popup: frozen random weights, trained scores, the top of each layer is kept.

Source: Ramanujan, Wortsman, Kembhavi, Farhadi, Rastegari, "What's hidden in a randomly weighted neural network?",
CVPR 2020, section 3.
"""

from __future__ import annotations

from .preset import MethodPreset

__all__ = ["PRESET"]

#: Scores start as torch's layers do (Kaiming uniform with a = √5): uniform on ±1/√fan_in.
PRESET = MethodPreset("Ramanujan et al., CVPR 2020, section 3")
