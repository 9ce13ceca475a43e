"""The networks behind the golden files of this folder.

``python tests/golden/make.py`` writes files that do not exist yet and never touches one that does: a golden
file is a promise that it opens for ever. For a new format version, add networks and files; edit nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iterand_compress.compress.codebooks import CODEBOOKS
from iterand_compress.compress.philox import Purpose, random_bytes
from iterand_compress.compress.storage import InputSpec, MaskedTensor, Network, StoredTensor, write_seedmask

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
        input=InputSpec(shape=(2, 3, 3), mean=(0.5, 0.25), std=(0.25, 1.0)),
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


GOLDEN = {"v1-none": tiny, "v1-flips": flips, "v1-draws": draws, "v1-rans": rans, "v1-gaps": gaps}

if __name__ == "__main__":
    for stem, network in GOLDEN.items():
        path = FOLDER / f"{stem}.seedmask"
        if path.exists():
            print(f"{path}: exists, left alone")
        else:
            report = write_seedmask(network(), path)
            print(f"{path}: {report.file_bytes} bytes, sha256 {report.file_digest}")
