"""Independent random masks: our codings beside general compressors and a reference entropy coder.

    pip install --editable '.[bench]'
    python benchmarks/entropy.py [--weights 11164352] [--repeat 5] [--json OUT]

One mask of exact sparsity at a time, as one tensor. The bound is that of independent bits, n * H(sparsity). zstd and
brotli get the packed bits; constriction codes each bit with its exact probability (its stream is no file format, and
it takes 4 bytes a bit as input). One thread, median of the repetitions, encoding and decoding timed in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brotli
import constriction
import numpy as np
import zstandard

from common import environment, save
from iterand_compress.compress.seedmask.bits import Row, binary_entropy
from iterand_compress.compress.seedmask.codings import Plan, decode_rows, encode_rows, plan

SPARSITIES = (0.5, 0.7, 0.9, 0.95, 0.98)


@dataclass
class Coder:
    """Encode returns any object and its size in bytes; decode returns packed bits."""

    name: str
    encode: Callable[[], tuple[Any, int]]
    decode: Callable[[Any], np.ndarray]


def ours(name: str, row: Row) -> Coder:
    def encode() -> tuple[Any, int]:
        choice = name if name in ("raw", "auto") else "rans"
        wanted: Plan = plan(row, choice, only=(name,) if name in ("rans", "gaps") else None)
        (coded,) = encode_rows([wanted], choice)
        return coded, len(coded.payload)

    return Coder(name, encode, lambda coded: decode_rows([("mask", coded)])[0].symbols)


def others(row: Row) -> list[Coder]:
    packed = row.packed()
    probability = row.ones() / row.count
    model = constriction.stream.model.Bernoulli(probability, perfect=False)
    bits = row.values().astype(np.int32)

    def with_zstd() -> tuple[Any, int]:
        data = zstandard.ZstdCompressor(level=19).compress(packed)
        return data, len(data)

    def with_brotli() -> tuple[Any, int]:
        data = brotli.compress(packed, quality=11, lgwin=24)
        return data, len(data)

    def with_constriction() -> tuple[Any, int]:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(bits, model)
        data = coder.get_compressed()
        return data, data.nbytes

    def from_constriction(data: Any) -> np.ndarray:
        found = constriction.stream.stack.AnsCoder(data).decode(model, row.count)
        return np.packbits(found.astype(np.uint8), bitorder="little")

    return [
        Coder(
            "zstd-19", with_zstd, lambda data: np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.uint8)
        ),
        Coder("brotli-11", with_brotli, lambda data: np.frombuffer(brotli.decompress(data), np.uint8)),
        Coder("constriction", with_constriction, from_constriction),
    ]


def measure(weights: int, sparsity: float, repeat: int) -> list[dict[str, Any]]:
    bits = np.zeros(weights, np.uint8)
    bits[np.random.default_rng(0).permutation(weights)[: weights - round(sparsity * weights)]] = 1
    row = Row.pack(bits, 1)
    bound = binary_entropy(row.ones(), weights) / 8
    names = ["auto", "raw", "rans"] + (["gaps"] if sparsity >= 0.875 else [])
    coders = [ours(name, row) for name in names] + others(row)
    times: dict[str, tuple[list[float], list[float]]] = {coder.name: ([], []) for coder in coders}
    sizes = {}
    for coder in coders * repeat:
        if coder.name == "brotli-11" and times[coder.name][0]:
            continue  # minutes for the same bytes
        start = time.perf_counter()
        data, sizes[coder.name] = coder.encode()
        middle = time.perf_counter()
        found = coder.decode(data)
        end = time.perf_counter()
        if not np.array_equal(found, row.symbols):
            raise SystemExit(f"{coder.name} does not give back what it was given")
        times[coder.name][0].append(middle - start)
        times[coder.name][1].append(end - middle)
    return [
        {
            "coder": coder.name,
            "sparsity": sparsity,
            "bytes": sizes[coder.name],
            "to_bound": sizes[coder.name] / bound,
            "encode_mbit_s": weights / statistics.median(times[coder.name][0]) / 1e6,
            "decode_mbit_s": weights / statistics.median(times[coder.name][1]) / 1e6,
        }
        for coder in coders
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=11_164_352)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packages = {name: module.__version__ for name, module in (("brotli", brotli), ("zstandard", zstandard))}
    rows = []
    print(f"{arguments.weights:,} independent bits, n = {arguments.repeat} (brotli 1)")
    print(f"{'sparsity':>8}  {'coder':<12} {'bytes':>10}  {'to bound':>8}  {'encode':>7}  {'decode':>7}  Mbit/s")
    for sparsity in SPARSITIES:
        for found in measure(arguments.weights, sparsity, arguments.repeat):
            rows.append(found)
            print(
                f"{sparsity:>8}  {found['coder']:<12} {found['bytes']:>10,}  {found['to_bound']:>8.4f}  "
                f"{found['encode_mbit_s']:>7.1f}  {found['decode_mbit_s']:>7.1f}",
                flush=True,
            )
    save(
        {"environment": environment(), "compared_with": packages, **vars(arguments), "json": None, "rows": rows},
        arguments.json,
    )


if __name__ == "__main__":
    main()
