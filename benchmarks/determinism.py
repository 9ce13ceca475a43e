"""The same network packed in many processes, each in other surroundings: the bytes must be the same every time.

python benchmarks/determinism.py --processes 50

Hash seed, locale, time zone, number of threads, number of cores, optimisation level, and memory allocator differ from
process to process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common import environment, save
from iterand_compress.compress.inputs import ImageInput
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, read_seedmask, write_seedmask

CHOICES = ("auto", "raw", "rans")


def network() -> Network:
    """All codebooks, dense, sparse, and full masks, flips and draws; large enough for several lanes and chunks."""
    rng = np.random.Generator(np.random.PCG64(7))

    def tensor(name: str, shape: tuple[int, ...], codebook: str, kept: float, redrawn: float) -> MaskedTensor:
        count = int(np.prod(shape))
        draws = np.where(rng.random(count) < redrawn, rng.integers(1, 30, count), 0).astype(np.uint8)
        scale = CODEBOOKS[codebook].scale(int(np.prod(shape[1:])))
        return MaskedTensor(name, shape, codebook, scale, rng.random(count) < kept, draws)

    return Network(
        seed=2**63 + 5,
        tensors=(
            tensor("conv.weight", (64, 32, 3, 3), "signed-constant", 0.3, 0.3),
            tensor("sparse.weight", (600, 800), "signed-constant", 0.001, 0.05),
            tensor("uniform.weight", (200, 300), "uniform", 0.4, 0.3),
            tensor("normal.weight", (100, 500), "normal", 0.1, 0.1),
            tensor("full.weight", (100, 100), "normal", 1, 0),
            tensor("flipped.weight", (100, 100), "signed-constant", 1, 0.03),
            tensor("small.weight", (3, 4), "uniform", 0.5, 0),
        ),
        state={
            name: StoredTensor.from_numpy(rng.random(size).astype(dtype))
            for name, size, dtype in (("ß.bias", 10, np.float32), ("bias", 64, np.float64), ("İ", 3, np.float16))
        },
        architecture={"name": "x", "width": 0.1, "ı": None},
        input=ImageInput(shape=(1, 8, 8), mean=(0.1,), std=(1 / 3,)),
        classes=["größer", "Ⅳ", "i"],
        recipe={"lr": 1e-5, "π": [3.14159, 2**53, True, {"z": 1, "a": ""}]},
    )


def pack(cores: int) -> None:
    """In a child: one line of digests, of the written file for each choice of coding."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.seedmask"
        digests, codings = [], set()
        for choice in CHOICES:
            write_seedmask(network(), path, coding=choice)
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
            codings |= {part.coding for entry in read_seedmask(path).tensors for part in (entry.mask, entry.log)}
    print(json.dumps({"digests": digests, "codings": sorted(codings)}))


def surroundings(number: int) -> tuple[int, list[str], dict[str, str]]:
    """Cores, options of Python, and environment of a child."""
    rng = random.Random(number)
    variables = {
        "PYTHONHASHSEED": str(rng.randrange(2**32)),
        "OMP_NUM_THREADS": str(rng.choice((1, 2, 3, 8))),
        "OPENBLAS_NUM_THREADS": str(rng.choice((1, 2, 8))),
        "LC_ALL": rng.choice(("C", "C.UTF-8", "POSIX", "tr_TR.UTF-8", "de_DE.UTF-8", "ja_JP.SJIS")),
        "TZ": rng.choice(("UTC", "Asia/Kathmandu", "America/St_Johns")),
        "PYTHONUTF8": rng.choice("01"),
        "PYTHONMALLOC": rng.choice(("pymalloc", "malloc")),
    }
    options = rng.choice(([], ["-O"], ["-OO"]))
    return rng.choice((1, os.cpu_count() or 1)), options, variables


def child(number: int) -> dict[str, list[str]]:
    cores, options, variables = surroundings(number)
    command = [sys.executable, *options, __file__, "--pack", str(cores)]
    output = subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True, text=True)
    found: dict[str, list[str]] = json.loads(output.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--at-a-time", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pack", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pack:
        pack(args.pack)
        return
    with ThreadPoolExecutor(args.at_a_time) as pool:
        found = list(pool.map(child, range(args.processes)))
    digests = {choice: Counter(each["digests"][i] for each in found) for i, choice in enumerate(CHOICES)}
    different = {choice: len(counter) for choice, counter in digests.items()}
    for choice, counter in digests.items():
        print(f"{choice}: {len(counter)} different files of {args.processes}: {', '.join(counter)}")
    results = {
        "environment": environment(),
        "processes": args.processes,
        "weights": sum(tensor.weights for tensor in network().tensors),
        "codings": found[0]["codings"],
        "different_files": different,
        "sha256": {choice: counter.most_common(1)[0][0] for choice, counter in digests.items()},
        "varied": sorted({name for i in range(args.processes) for name in surroundings(i)[2]} | {"cores", "python -O"}),
    }
    save(results, args.json)
    sys.exit(0 if set(different.values()) == {1} else 1)


if __name__ == "__main__":
    main()
