"""The baseline: ordinary training of all weights, which start from the seed's random numbers."""

from __future__ import annotations

from .preset import MethodPreset

__all__ = ["PRESET"]

PRESET = MethodPreset("ordinary training of all weights", trains="weights", selection=None)
