"""The networks behind the golden files of this folder.

``python tests/golden/make.py`` writes files that do not exist yet and never touches one that does: a golden
file is a promise that it opens for ever. For a new format version, add networks and files; edit nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from iterand_compress.compress.inputs import ImageInput, TextInput
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seed.frozen import Frozen, frozen_masks
from iterand_compress.compress.seed.philox import Purpose, random_bytes
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, quantise, write_seedmask

FOLDER = Path(__file__).parent


def masked(
    name: str, shape: tuple[int, ...], codebook: str, fan_in: int, draws: int = 1, *, kept: int = 2
) -> MaskedTensor:
    """A tensor whose mask and draws follow a fixed rule: ``kept`` of 5 weights, draws below ``draws``."""
    index = np.arange(np.prod(shape))
    mask = (7 * index * index + 3 * index) % 5 < kept
    counts = (index * index // 3 % draws).astype(np.uint8) if draws > 1 else None
    return MaskedTensor(name, shape, codebook, CODEBOOKS[codebook].scale(fan_in), mask, counts)


def tiny() -> Network:
    """The worked example of docs/FORMAT.md."""
    return Network(seed=0x0123456789ABCDEF, tensors=(masked("fc.weight", (4, 5), "normal", 5),))


def flips() -> Network:
    """Two-valued, redrawn, two tensors, every optional field."""
    return Network(
        seed=2**64 - 1,
        tensors=(
            masked("conv.weight", (3, 2, 3, 3), "signed-constant", 18, draws=4),
            masked("fc.weight", (2, 3), "signed-constant", 3, draws=3, kept=3),
        ),
        state={
            "fc.bias": StoredTensor.from_numpy(np.array([0.5, -0.25], np.float32)),
            "bn.count": StoredTensor.from_numpy(np.array(39000, np.int64)),
            "bn.half": StoredTensor.from_numpy(np.array([0x3F80], np.uint16), dtype="BF16"),
            "flag": StoredTensor.from_numpy(np.array([[True, False]])),
        },
        architecture={"name": "tiny", "width": 0.25, "affine": False, "stem": None, "classes": 2},
        input=ImageInput(shape=(2, 3, 3), mean=(0.5, 0.25), std=(0.25, 1.0)),
        classes=["größer", "kleiner"],
        recipe={"train": {"lr": 1e-05, "epochs": 3}, "tags": ["a", ""]},
    )


def draws() -> Network:
    """Many values, redrawn: draws of 3 bits in one tensor, of 7 in another; a third was never redrawn."""
    return Network(
        seed=0,
        tensors=(
            masked("a", (5, 7), "uniform", 7, draws=6, kept=4),
            masked("b", (17,), "normal", 1, draws=251),
            masked("c", (3,), "uniform", 3, kept=5),
        ),
    )


def sown(
    name: str, shape: tuple[int, ...], codebook: str, fan_in: int, kept: float, redrawn: float, most: int
) -> MaskedTensor:
    """A tensor without a pattern: shares of weights that are kept and redrawn, up to ``most`` times, from Philox."""
    bits = random_bytes(2021, 0, 3 * int(np.prod(shape)), draw=0, tensor=len(name), purpose=Purpose.SHUFFLING)
    for_mask, for_redraw, for_draw = bits.reshape(3, -1)
    draws = np.where(for_redraw < 256 * redrawn, 1 + for_draw.astype(np.int64) ** 2 * most // 65536, 0)
    return MaskedTensor(
        name, shape, codebook, CODEBOOKS[codebook].scale(fan_in), for_mask < 256 * kept, draws.astype(np.uint8)
    )


def rans() -> Network:
    """Entropy coded: masks and flips as bytes, in two lanes and in one; draws of 3 bits; ones only; a small mask."""
    return Network(
        seed=0x5EED5EED5EED5EED,
        tensors=(
            sown("conv.weight", (30, 70, 3, 3), "signed-constant", 630, 0.25, 0.3, 9),
            sown("fc.weight", (20, 120), "uniform", 120, 0.3, 0.4, 5),
            MaskedTensor("full", (99, 40), "normal", CODEBOOKS["normal"].scale(40), np.ones(3960, np.bool_)),
            masked("small", (3, 4), "uniform", 4),
        ),
    )


def gaps() -> Network:
    """Sparse: a mask as gaps with escapes in three lanes, one of a single kept weight, and two too short for gaps."""
    only = np.zeros(2000, np.bool_)
    only[1234] = True
    return Network(
        seed=1,
        tensors=(
            sown("sparse", (60, 50), "normal", 50, 0.04, 0, 1),
            sown("sparser", (800, 800), "signed-constant", 800, 0.004, 0.05, 1),
            sown("flipped", (40, 30), "signed-constant", 30, 1, 0.04, 1),
            MaskedTensor("one", (2000,), "uniform", CODEBOOKS["uniform"].scale(1), only),
        ),
    )


def deltas() -> Network:
    """Recycled: bytes of other weights, as deltas of 8 bits and of 1, coded and raw; as flips; and back at draw 0."""

    def recycled(name: str, shape: tuple[int, ...], codebook: str, share: float, delta: int | None) -> MaskedTensor:
        tensor = sown(name, shape, codebook, shape[-1], 0.4, share, 1)
        assert tensor.draws is not None
        own = random_bytes(0xDE17A5, 0, tensor.weights, draw=0, tensor=len(names))
        names.append(name)
        other = np.roll(own, 1) if delta is None else own ^ np.uint8(delta)
        return replace(tensor, draws=None, current=np.where(tensor.draws > 0, other, own))

    names: list[str] = []
    return Network(
        seed=0xDE17A5,
        tensors=(
            recycled("conv.weight", (40, 20, 3, 3), "uniform", 0.2, None),
            recycled("fc.weight", (6, 20), "normal", 0.5, None),
            recycled("one-bit", (9, 11), "normal", 0.5, 1),
            recycled("signs", (12, 10), "signed-constant", 0.5, None),
            recycled("same", (3, 4), "uniform", 0, None),
        ),
    )


def frozen() -> Network:
    """A share of the mask fixed by the seed: to pruned and kept, to one alone, all of it; beside flips and deltas."""

    def fixed(tensor: MaskedTensor, pruned: int, kept: int) -> MaskedTensor:
        thresholds = Frozen(pruned, kept)
        masks = frozen_masks(0xF0F0, len(names), thresholds, tensor.weights)
        names.append(tensor.name)
        return replace(tensor, mask=(tensor.mask & ~masks[0]) | masks[1], frozen=thresholds)

    names: list[str] = []
    deltas = sown("deltas", (30, 20), "normal", 20, 0.5, 0.3, 1)
    assert deltas.draws is not None
    bytes_ = random_bytes(0xF0F0, 0, 600, draw=0, tensor=1)
    return Network(
        seed=0xF0F0,
        tensors=(
            fixed(sown("flips", (40, 50), "signed-constant", 50, 0.3, 0.2, 3), 20000, 10000),
            fixed(replace(deltas, draws=None, current=bytes_ ^ (deltas.draws * np.uint8(77))), 40000, 0),
            fixed(masked("kept", (7, 9), "uniform", 9), 0, 30000),
            fixed(sown("sparse", (60, 50), "uniform", 50, 0.02, 0, 1), 32768, 99),
            fixed(masked("all", (13, 3), "normal", 3), 65535, 1),
            fixed(masked("half", (13, 3), "normal", 3), 32768, 32768),
        ),
    )


def coats() -> Network:
    """Multicoated: of 3 bits and coded, of 1 bit, the most there can be, and beside flips and a frozen mask."""

    def coated(tensor: MaskedTensor, largest: int) -> MaskedTensor:
        bits = random_bytes(2022, 0, tensor.weights, draw=0, tensor=largest, purpose=Purpose.SHUFFLING)
        return replace(tensor, multiplicity=(1 + bits.astype(np.int64) ** 2 * largest // 65536).astype(np.uint8))

    thresholds = Frozen(16384, 6554)
    tensor = sown("both", (25, 40), "signed-constant", 40, 0.4, 0.3, 3)
    masks = frozen_masks(0xC0A7, 3, thresholds, tensor.weights)
    return Network(
        seed=0xC0A7,
        tensors=(
            coated(sown("conv.weight", (20, 16, 3, 3), "signed-constant", 144, 0.5, 0, 1), 6),
            coated(masked("two", (11, 5), "signed-constant", 5), 2),
            coated(masked("most", (300,), "signed-constant", 1, kept=3), 127),
            coated(replace(tensor, mask=(tensor.mask & ~masks[0]) | masks[1], frozen=thresholds), 3),
            coated(masked("once", (8,), "signed-constant", 8), 1),
        ),
    )


def values(dtype: str) -> Network:
    """Trained: values whose size varies from row to row, zeros of both signs, a scalar, one tensor without any kept."""

    def trained(tensor: MaskedTensor) -> MaskedTensor:
        bits = random_bytes(2023, 0, tensor.weights, draw=0, tensor=len(tensor.name), purpose=Purpose.SHUFFLING)
        rows = np.arange(tensor.weights) // max(tensor.weights // 5, 1)
        weights = (((bits.astype(np.float64) - 128) / 128) ** 11 * (1 + rows) / 9).astype(np.float32)
        weights[::7] *= 0
        return replace(tensor, draws=None, trained=quantise(weights, tensor.mask, tensor.shape, dtype))

    thresholds = Frozen(30000, 0)
    tensor = sown("frozen", (10, 30), "normal", 30, 0.5, 0, 1)
    masks = frozen_masks(0x5A1D, 3, thresholds, tensor.weights)
    return Network(
        seed=0x5A1D,
        tensors=(
            trained(sown("conv.weight", (16, 16, 3, 3), "normal", 144, 0.4, 0, 1)),
            trained(masked("fc.weight", (5, 7), "uniform", 7)),
            trained(masked("temperature", (), "signed-constant", 1, kept=5)),
            trained(replace(tensor, mask=tensor.mask & ~masks[0], frozen=thresholds)),
            trained(masked("empty", (4, 3), "normal", 3, kept=0)),
        ),
        state={"fc.bias": StoredTensor.from_numpy(np.array([0.5, -0.25], np.float32))},
    )


def text() -> Network:
    """Of a network that takes texts."""
    return Network(
        seed=0x7E87,
        tensors=(
            masked("tokens.weight", (9, 4), "signed-constant", 4, draws=3),
            masked("classifier.weight", (2, 4), "signed-constant", 4),
        ),
        architecture={"name": "tiny-text", "num_classes": 2, "length": 12, "vocabulary": 9},
        input=TextInput(length=12, unit="words", vocabulary=9),
        classes=["ja", "nein"],
    )


def constants() -> Network:
    """State tensors of one value, of items of every size, and those of others: values, bits, one item, none."""
    return Network(
        seed=0xC057,
        tensors=(masked("fc.weight", (4, 5), "normal", 5),),
        state={
            "bn.bias": StoredTensor.from_numpy(np.array([0.5, -0.25, 0.5], np.float16)),
            "bn.num_batches_tracked": StoredTensor.from_numpy(np.array(7)),
            "bn.running_mean": StoredTensor.from_numpy(np.zeros(3, np.float16)),
            "bn.running_var": StoredTensor.from_numpy(np.ones(3, np.float16)),
            "bn.weight": StoredTensor.from_numpy(np.array([0.0, -0.0, 0.0], np.float16)),
            "flag": StoredTensor.from_numpy(np.ones((2, 2), np.bool_)),
            "half": StoredTensor.from_numpy(np.array([0x3F80, 0x3F80], np.uint16), dtype="BF16"),
            "large": StoredTensor.from_numpy(np.full((5000, 1), -0.1)),
            "nan": StoredTensor.from_numpy(np.full((1, 3), 0x7FC12345, np.uint32).view(np.float32)),
            "nothing": StoredTensor.from_numpy(np.zeros((0, 3), np.float32)),
            "one": StoredTensor.from_numpy(np.ones((1, 1), np.float32)),
            "other": StoredTensor.from_numpy(np.array([258, 258, 513], np.uint16)),
        },
        constants=True,
    )


def compact() -> Network:
    """In compact form: every kind of tensor, names with words in common, every kind of value among the settings."""
    fixed = frozen().tensors
    others = (*deltas().tensors[1:4], *coats().tensors[1:3], *gaps().tensors[2:])
    others += tuple(tensor for dtype in ("float32", "float16", "int8") for tensor in values(dtype).tensors[1:3])
    names = [f"blocks.{i // 2}.{tensor.name}" for i, tensor in enumerate((*fixed, *others))]
    names[2], names[3] = "größe", "größe..0.größe"
    return Network(
        seed=0xF0F0,
        tensors=tuple(replace(tensor, name=name) for tensor, name in zip((*fixed, *others), names, strict=True)),
        state={
            "blocks.0.bn.num_batches_tracked": StoredTensor.from_numpy(np.array(39000, np.int64)),
            "blocks.0.bn.running_mean": StoredTensor.from_numpy(np.array([0.5, -0.25], np.float16)),
            "blocks.0.bn.running_var": StoredTensor.from_numpy(np.array([[0.5], [-0.25]], np.float32)),
            "flag": StoredTensor.from_numpy(np.array([[True, False]])),
            "half": StoredTensor.from_numpy(np.array([0x3F80], np.uint16), dtype="BF16"),
            "nothing": StoredTensor.from_numpy(np.zeros((0, 3))),
        },
        architecture={"name": "tiny", "width": 0.25, "affine": False, "stem": None, "num_classes": 2},
        input=ImageInput(shape=(2, 3, 3), mean=(0.5, 0.1307), std=(0.25, 1.0)),
        classes=["größer", "größe"],
        recipe={
            "integers": [0, 245, 246, 2**63, 2**64 - 1, -1, -(2**64) + 1],
            "floats": [1e-05, -0.0, 1e300, 5e-324, 16777216.0, 1e16, -2.5],
            "texts": ["", "weight", "a\u2011b", "\U0001f600", '"\\'],
            "empty": {"object": {}, "list": []},
            "words": {"true": True, "null": None},
        },
        form="compact",
    )


GOLDEN: dict[str, Callable[[], Network]] = {
    "v1-none": tiny,
    "v1-flips": flips,
    "v1-draws": draws,
    "v1-rans": rans,
    "v1-gaps": gaps,
    "v1-deltas": deltas,
    "v1-frozen": frozen,
    "v1-coats": coats,
    "v1-text": text,
    "v1-constants": constants,
    "v1-values-float32": partial(values, "float32"),
    "v1-values-float16": partial(values, "float16"),
    "v1-values-int8": partial(values, "int8"),
    "v1-compact": compact,
    "v1-compact-none": lambda: replace(tiny(), form="compact"),
    "v1-compact-text": lambda: replace(text(), form="compact"),
    "v1-compact-constants": lambda: replace(constants(), form="compact"),
}

if __name__ == "__main__":
    for stem, network in GOLDEN.items():
        path = FOLDER / f"{stem}.seedmask"
        if path.exists():
            print(f"{path}: exists, left alone")
        else:
            report = write_seedmask(network(), path)
            print(f"{path}: {report.file_bytes} bytes, sha256 {report.file_digest}")
