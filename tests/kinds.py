"""Networks of every kind of tensor that a file can hold, and their weights from the definition."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from iterand_compress.compress.seed.codebooks import CODEBOOKS, get_codebook, random_codes
from iterand_compress.compress.seed.frozen import Frozen
from iterand_compress.compress.seed.philox import philox4x32
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, Trained


def frozen_numbers(seed: int, tensor: int, count: int) -> np.ndarray:
    """The 16-bit number of each weight, one block after the other, as docs/FORMAT.md says it."""
    numbers = []
    for block in range(-(-count // 8)):
        words = philox4x32(seed, np.array([block], np.uint64), 0, tensor, 7)[0]
        numbers += [int(words[i % 8 // 2]) >> 16 * (i % 2) & 0xFFFF for i in range(8)]
    return np.array(numbers[:count], np.int64)


def expected_weights(network: Network) -> dict[str, np.ndarray]:
    """What must come back, weight by weight where it is not too slow."""
    result = {}
    for index, tensor in enumerate(network.tensors):
        book = get_codebook(tensor.codebook)
        weights = np.zeros(tensor.weights, np.float32)
        if tensor.trained is not None:
            kept = [i for i in range(tensor.weights) if tensor.mask[i]]
            for i, value in zip(kept, tensor.trained.values, strict=True):
                weights[i] = np.float32(value)
                if tensor.trained.scales is not None:
                    row = np.unravel_index(i, tensor.shape)[0] if tensor.shape else 0
                    weights[i] *= tensor.trained.scales[row]
        else:
            codes = random_codes(network.seed, index, book, 0, tensor.weights, tensor.draws).astype(np.int64)
            if tensor.current is not None:
                codes = np.array([book.entries[byte] for byte in tensor.current], np.int64)
            if tensor.multiplicity is not None:
                codes = codes * tensor.multiplicity
            weights[tensor.mask] = codes[tensor.mask].astype(np.float32) * tensor.scale
        result[tensor.name] = weights.reshape(tensor.shape)
    return result


@st.composite
def networks_of_every_kind(draw: st.DrawFn) -> Network:
    """One to four tensors, each of a kind and perhaps with a frozen mask; state tensors of one value and of more."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    seed = draw(st.integers(0, 2**64 - 1))
    tensors = []
    for index in range(draw(st.integers(1, 4))):
        shape = tuple(draw(st.lists(st.integers(1, 17), max_size=3)))
        count = math.prod(shape)
        mask = rng.random(count) < draw(st.sampled_from([0, 0.05, 0.5, 1]))
        thresholds = None
        if draw(st.booleans()):
            pruned = draw(st.sampled_from([0, 1, 9999, 32768, 65535]))
            kept = draw(st.sampled_from([1, 777, 20000, 65535]))
            thresholds = Frozen(pruned, min(kept, 65536 - pruned))
            numbers = frozen_numbers(seed, index, count)
            mask = np.where(numbers < thresholds.pruned + thresholds.kept, numbers >= thresholds.pruned, mask)
        book = CODEBOOKS[draw(st.sampled_from(sorted(CODEBOOKS)))]
        fields: dict[str, object] = {}
        changed = rng.random(count) < draw(st.sampled_from([0, 0.2, 1]))
        kind = draw(st.sampled_from(["plain", "draws", "current", "current", "trained"]))
        if kind == "draws":
            fields["draws"] = (changed * rng.integers(0, draw(st.sampled_from([2, 7, 256])), count)).astype(np.uint8)
        elif kind == "current":
            others = rng.integers(0, 256, count).astype(np.uint8)
            fields["current"] = np.where(changed, others, draw(st.integers(0, 255))).astype(np.uint8)
        elif kind == "trained":
            fields["trained"] = values(rng, draw(st.sampled_from(["F32", "F16", "I8"])), int(mask.sum()), shape)
        if kind != "trained" and book.two_valued and draw(st.booleans()):
            fields["multiplicity"] = rng.integers(1, draw(st.sampled_from([2, 3, 6, 128])), count).astype(np.uint8)
        scale = book.scale(draw(st.integers(1, 9999)))
        tensors.append(MaskedTensor(f"layer{index}", shape, book.name, scale, mask, frozen=thresholds, **fields))
    state = {
        f"state{i}": StoredTensor.from_numpy(
            rng.integers(0, draw(st.sampled_from([1, 2])), draw(st.lists(st.integers(0, 3), max_size=3))).astype(dtype)
        )
        for i, dtype in enumerate(
            draw(st.lists(st.sampled_from([np.bool_, np.float16, np.float32, np.int64]), max_size=4))
        )
    }
    return Network(seed=seed, tensors=tuple(tensors), state=state, constants=draw(st.booleans()))


def values(rng: np.random.Generator, dtype: str, kept: int, shape: tuple[int, ...]) -> Trained:
    """Any bits that are allowed: subnormal and huge numbers, zeros of both signs."""
    if dtype == "I8":
        scales = np.exp2(rng.integers(-126, 120, shape[0] if shape else 1)) * (1 + rng.random(shape[0] if shape else 1))
        most = rng.choice([1, 5, 127])
        return Trained("I8", rng.integers(-most, most + 1, kept).astype(np.int8), scales.astype(np.float32))
    words = rng.integers(0, 2**32, kept).astype(np.uint32)
    found = words.view(np.float32) if dtype == "F32" else words.astype(np.uint16).view(np.float16)
    found = np.where(np.isfinite(found), found, found.dtype.type(-0.0)).astype(found.dtype)
    return Trained(dtype, found)
