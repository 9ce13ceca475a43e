"""The training step of masked networks on a GPU, in Triton."""

from .cuts import Cuts, CutSearch
from .table import LayerTable, available
from .weights import masked_weights, masks, resample, score_gradient

__all__ = ["CutSearch", "Cuts", "LayerTable", "available", "masked_weights", "masks", "resample", "score_gradient"]
