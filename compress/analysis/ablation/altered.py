"""Networks with one thing changed: other random weights under the same mask, or the same weights under a shuffled mask.

The sanity checks for pruning of Frankle, Dziugaite, Roy, Carbin, "Pruning neural networks at initialization: why are we
missing the mark?", ICLR 2021, and Singh and Liu, "Why is pruning at initialization immune to reinitializing
and shuffling?", 2021.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...data.order import permutation
from ...seed.codebooks import get_codebook, random_codes
from ...seed.philox import MAX_SEED, Purpose, random_bytes
from ...seedmask import MaskedTensor, Network

__all__ = ["other_seed", "reinitialised", "shuffled", "start_weights"]


def other_seed(seed: int, repetition: int) -> int:
    """The seed of repetition 1, 2, … of an experiment that asks for other random weights."""
    return (seed + repetition) & MAX_SEED


def start_weights(network: Network, index: int) -> NDArray[np.float32]:
    """The masked weights of a tensor before any training of weights, float32 ``[n]``; +0 where pruned.

    For a subnetwork these are its weights, bit for bit. Trained values of a ticket do not count.

    Args:
        network: where the tensor is.
        index: of the tensor.
    """
    tensor = network.tensors[index]
    book = get_codebook(tensor.codebook)
    if tensor.current is not None:
        codes = book.codes(tensor.current)
    else:
        draws = None if tensor.draws is None else tensor.draws * tensor.mask
        codes = random_codes(network.seed, index, book, 0, tensor.weights, draws)
    if tensor.multiplicity is not None:
        codes = codes * tensor.multiplicity.view(np.int8)
    return np.where(tensor.mask, codes.astype(np.float32) * tensor.scale, np.float32(0))


def reinitialised(network: Network, seed: int) -> Network:
    """The network with the initial weights (draw 0) of another seed; masks, coats, codebooks and scales stay.

    Args:
        network: the original.
        seed: another one.
    """
    tensors = tuple(_stripped(tensor) for tensor in network.tensors)
    return replace(network, seed=seed, tensors=tensors)


def shuffled(network: Network, repetition: int) -> Network:
    """The network with the mask and the coats of each tensor permuted inside the tensor; weights stay.

    The permutation follows from the seed, the index of the tensor and the repetition (``Purpose.SHUFFLING``). A weight
    that was kept has the value it has now; a weight that was pruned has its initial value (draw 0), also where training
    redrew it, because a file does not hold what was pruned.

    Args:
        network: the original.
        repetition: 1, 2, …; each has its own permutations.
    """
    return replace(
        network,
        tensors=tuple(
            _shuffled(network.seed, index, tensor, repetition) for index, tensor in enumerate(network.tensors)
        ),
    )


def _shuffled(seed: int, index: int, tensor: MaskedTensor, repetition: int) -> MaskedTensor:
    order = permutation(seed, tensor.weights, draw=repetition, tensor=index, purpose=Purpose.SHUFFLING)
    current = tensor.current
    if current is not None:
        current = np.where(tensor.mask, current, random_bytes(seed, 0, tensor.weights, draw=0, tensor=index))
    return replace(
        _stripped(tensor),
        mask=tensor.mask[order],
        multiplicity=None if tensor.multiplicity is None else tensor.multiplicity[order],
        draws=None if tensor.draws is None else tensor.draws * tensor.mask,
        current=current,
    )


def _stripped(tensor: MaskedTensor) -> MaskedTensor:
    """Without what belongs to the original: its history, its trained values, and what its seed fixed of the mask."""
    return replace(tensor, draws=None, current=None, trained=None, frozen=None)
