"""The training step of masked networks on a GPU: kernels in Triton that work on all layers in one launch.

    layers = LayerTable(sizes, selection, device, fixed=None, kernels=None)    # once for a network
    search = CutSearch(layers)
    cuts = search.find(scores, kept)                                           # after each change of the scores
    weights = masked_weights(layers, scores, cuts, codes, units, dtype=torch.bfloat16, channels_last=False, out=None)
    gradient = score_gradient(grad, codes, unit, scores=None, kernel=None)     # of one layer, in a backward pass
    resample(layers, scores, cuts, codes, draws, book=…, tensors=…, seed=…, event=…, chance=…, cycle=…)
    bools = masks(layers, scores, cuts)

Lists have a flat tensor for each layer. Everything equals plain torch and NumPy bit for bit (``tests/test_kernels.py``,
and on a GPU ``benchmarks/gpu_check.py``). Nothing reads from the device and nothing waits for it, so all of it can go
into a CUDA graph, once it has run with the same tensors. One `CutSearch` belongs to one stream at a time.

Triton comes with a torch for GPUs; it is imported by the first launch, not by this package. Ask `available` first.
"""

from .cuts import Cuts, CutSearch
from .layer_table import LayerTable, available
from .weights import masked_weights, masks, resample, score_gradient

__all__ = ["CutSearch", "Cuts", "LayerTable", "available", "masked_weights", "masks", "resample", "score_gradient"]
