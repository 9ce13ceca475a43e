"""Sanity checks of a pruned network: does it matter which weights a mask keeps, or only how many of each layer?

*Reinit* gives a network other random weights under the same mask; *shuffle* permutes the mask inside each tensor. A
subnetwork of untrained weights is evaluated with the change, and nothing is trained. A ticket, that is a network pruned
at initialisation, is trained with it, by the recipe of the original, on the same images in the same order.
"""

from .altered import reinitialised, shuffled, start_weights
from .experiment import Ablation, Repetition, Variant, ablate
from .layer_statistics import LayerStatistics, layer_statistics
from .runs import CHANGES, AblationOptions
from .statistics import Moments, ks_statistic, moments, wasserstein

__all__ = [
    "CHANGES",
    "Ablation",
    "AblationOptions",
    "LayerStatistics",
    "Moments",
    "Repetition",
    "Variant",
    "ablate",
    "ks_statistic",
    "layer_statistics",
    "moments",
    "reinitialised",
    "shuffled",
    "start_weights",
    "wasserstein",
]
