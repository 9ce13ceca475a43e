"""Bits per weight of trained subnetworks, and what models of their masks and logs would gain.

    python benchmarks/trained_masks.py RUN.ckpt ... [--json OUT]

For each checkpoint: bits per weight of mask and log as packed (raw and entropy coded), beside the bound for
independent bits, and the ideal code length, with the cost of its parameters, of models that know more: a density for
each output channel, input channel, kernel position; classes of output and input channels together; what the kernel
holds so far. For flips also: whether draw 1 has the other value, and the distribution over all later draws; for draw
counts, how often the events decided to redraw the weight if pruned, which follows from the seed. Where a model loses on
a tensor it is not used there, so none can be worse than the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import environment, save
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.seed.codebooks import get_codebook, random_codes
from iterand_compress.compress.seed.philox_torch import resampling_decisions
from iterand_compress.compress.seedmask import MaskedTensor, Network, loads
from iterand_compress.compress.seedmask.writer import dumps


def code_length(bits: np.ndarray, context: np.ndarray) -> float:
    """Ideal bits for 0/1 values with one density for each context, and half a logarithm for each density."""
    total = np.bincount(context).astype(np.float64)
    ones = np.bincount(context, weights=bits)
    used = total > 0
    total, ones = total[used], ones[used]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = -ones * np.log2(ones / total) - (total - ones) * np.log2(1 - ones / total)
    return float(np.nan_to_num(each).sum() + 0.5 * np.log2(total + 1).sum())


def levels(density: np.ndarray, count: int) -> np.ndarray:
    """Channels in ``count`` classes of equal width of log-odds."""
    odds = np.log((density + 1e-3) / (1 - density + 1e-3))
    span = np.ptp(odds)
    return (
        np.minimum((odds - odds.min()) / span * count, count - 1).astype(int)
        if span and count > 1
        else odds.astype(int) * 0
    )


def places(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output channel, input channel and kernel position of each weight."""
    outputs = shape[0] if shape else 1
    inputs = shape[1] if len(shape) > 1 else 1
    positions = int(np.prod(shape[2:]))
    grid = np.indices((outputs, inputs, positions)).reshape(3, -1)
    return grid[0], grid[1], grid[2]


def mask_models(mask: np.ndarray, shape: tuple[int, ...]) -> dict[str, float]:
    bits = mask.astype(np.float64)
    output, into, position = places(shape)
    zero = np.zeros(len(bits), int)
    found = {"one density": code_length(bits, zero)}
    found["output channel"] = code_length(bits, output)
    found["input channel"] = code_length(bits, into)
    found["kernel position"] = code_length(bits, position)
    kernel = bits.reshape(-1, position.max() + 1)
    seen = (np.cumsum(kernel, axis=1) - kernel).reshape(-1).astype(int)
    found["kernel so far"] = code_length(bits, seen * (position.max() + 1) + position)
    rows = np.bincount(output, weights=bits) / np.bincount(output)
    columns = np.bincount(into, weights=bits) / np.bincount(into)
    best = found["one density"]
    for a in (1, 2, 4, 8):
        for b in (1, 2, 4, 8):
            side = len(rows) * np.log2(a) + len(columns) * np.log2(b)
            best = min(best, side + code_length(bits, levels(rows, a)[output] * b + levels(columns, b)[into]))
    found["channel classes"] = best
    return {name: min(length, found["one density"]) for name, length in found.items()}


def flip_models(network: Network, index: int, tensor: MaskedTensor) -> dict[str, float]:
    assert tensor.draws is not None
    book = get_codebook(tensor.codebook)
    kept = tensor.mask

    def signs(draw: np.ndarray | None) -> np.ndarray:
        return random_codes(network.seed, index, book, 0, tensor.weights, draw)[kept] > 0

    first, draws = signs(None), tensor.draws[kept]
    flips = (signs(tensor.draws) != first).astype(np.float64)
    output, into, position = (place[kept] for place in places(tensor.shape))
    found = {"one density": code_length(flips, np.zeros(len(flips), int))}
    found["output channel"] = code_length(flips, output)
    found["input channel"] = code_length(flips, into)
    found["kernel position"] = code_length(flips, position)
    # Weights that score low were pruned, and so redrawn, more often: the mask's density around a weight may tell.
    for name, place in (("mask's output density", output), ("mask's input density", into)):
        found[name] = code_length(flips, levels(np.bincount(place) / np.bincount(place).max(), 4)[place])
    share = np.bincount(draws, minlength=256) / len(draws)
    chance = np.zeros(len(flips))
    for draw in range(1, int(draws.max()) + 1):
        other = signs(np.full(tensor.weights, draw, np.uint8)) != first
        if draw == 1:
            found["draw 1"] = code_length(flips, other.astype(int))
        chance += share[draw] * other
    chance = np.clip(chance, 1e-6, 1 - 1e-6)
    found["all draws"] = float(-(flips * np.log2(chance) + (1 - flips) * np.log2(1 - chance)).sum())
    found["all draws"] += 0.5 * np.log2(len(flips)) * np.count_nonzero(share)
    return {name: min(length, found["one density"]) for name, length in found.items()}


def symbol_length(symbols: np.ndarray, context: np.ndarray) -> float:
    """Ideal bits for small integers with one distribution for each context, and half a logarithm for each share."""
    table = np.zeros((int(context.max()) + 1, int(symbols.max()) + 1))
    np.add.at(table, (context, symbols), 1)
    rows = table.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.nan_to_num(table * np.log2(rows / table)).sum()
    return float(bits + 0.5 * (np.log2(rows + 1) * (table > 0).sum(1, keepdims=True)).sum())


def draw_models(network: Network, index: int, tensor: MaskedTensor, events: int, threshold: int) -> dict[str, float]:
    """Draw counts of the kept weights. A weight cannot be redrawn more often than the events' decisions allow."""
    assert tensor.draws is not None
    chances = torch.zeros(tensor.weights, dtype=torch.int64)
    for event in range(1, events + 1):
        cpu = torch.device("cpu")
        chances += resampling_decisions(network.seed, index, event, threshold, tensor.weights, cpu)
    kept = tensor.mask
    draws = tensor.draws[kept].astype(int)
    output, into, position = (place[kept] for place in places(tensor.shape))
    contexts = {
        "one distribution": np.zeros(len(draws), int),
        "output channel": output,
        "input channel": into,
        "kernel position": position,
        "decisions to redraw": chances.numpy()[kept] // 3,
    }
    found = {name: symbol_length(draws, context) for name, context in contexts.items()}
    return {name: min(length, found["one distribution"]) for name, length in found.items()}


def total(parts: list[dict[str, float]], weights: int) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / weights for name in parts[0]} if parts else {}


def packed(network: Network, coding: str) -> tuple[float, float, float, int]:
    data = dumps(network, coding=coding)
    rows = loads(data).layer_report()
    weights = sum(row.weights for row in rows)

    def mean(what: str) -> float:
        return float(sum(getattr(row, what) * row.weights for row in rows) / weights)

    return mean("mask_bits_per_weight"), mean("log_bits_per_weight"), mean("log_bound"), len(data)


def measure(path: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(path)
    network = network_of_checkpoint(checkpoint)
    weights = sum(tensor.weights for tensor in network.tensors)
    kept = sum(int(tensor.mask.sum()) for tensor in network.tensors)
    recipe = checkpoint.recipe
    raw_mask, raw_log, _, raw_bytes = packed(network, "raw")
    mask, log, log_bound, file_bytes = packed(network, "auto")
    sparsity = 1 - kept / weights
    redrawn = [tensor for tensor in network.tensors if tensor.draws is not None and tensor.draws[tensor.mask].any()]
    numbered = [(i, t) for i, t in enumerate(network.tensors) if any(t is other for other in redrawn)]
    two_valued = [(i, t) for i, t in numbered if get_codebook(t.codebook).two_valued]
    many = [(i, t) for i, t in numbered if not get_codebook(t.codebook).two_valued]
    rule = recipe.subnetwork
    events = checkpoint.position.step // (rule.resample_every or 1) if redrawn else 0
    threshold = round(65536 * (rule.resample_rate or 0))
    return {
        "run": path.stem,
        "model": checkpoint.architecture.name,
        "width": checkpoint.architecture.width,
        "data": checkpoint.data.name,
        "method": recipe.subnetwork.method,
        "epochs": recipe.train.epochs,
        "weights": weights,
        "sparsity": sparsity,
        "redrawn_of_kept": sum(int((t.draws[t.mask] > 0).sum()) for t in redrawn if t.draws is not None) / max(kept, 1),
        "entropy_of_sparsity": float(-(sparsity * np.log2(sparsity) + (1 - sparsity) * np.log2(1 - sparsity))),
        "raw": {"mask": raw_mask, "log": raw_log, "file_bytes": raw_bytes},
        "coded": {"mask": mask, "log": log, "log_bound": log_bound, "file_bytes": file_bytes},
        "mask_models": total([mask_models(t.mask, t.shape) for t in network.tensors], weights),
        "flip_models": total([flip_models(network, i, t) for i, t in two_valued], weights),
        "draw_models": total([draw_models(network, i, t, events, threshold) for i, t in many], weights),
    }


def show(row: dict[str, Any]) -> None:
    raw, coded = row["raw"], row["coded"]
    print(
        f"\n{row['run']}: {row['method']} on {row['data']}, {row['model']} × {row['width']}, {row['epochs']} epochs, "
        f"{row['weights']:,} weights, sparsity {row['sparsity']:.4f}, {row['redrawn_of_kept']:.3f} of kept redrawn"
    )
    print(
        f"  raw {raw['mask'] + raw['log']:.4f} = mask {raw['mask']:.4f} + log {raw['log']:.4f} bits per weight; coded "
        f"{coded['mask'] + coded['log']:.4f} = mask {coded['mask']:.4f} (H {row['entropy_of_sparsity']:.4f}) + "
        f"log {coded['log']:.4f} (bound {coded['log_bound']:.4f}); file {raw['file_bytes']:,} → {coded['file_bytes']:,}"
    )
    for what in ("mask_models", "flip_models", "draw_models"):
        if row[what]:
            base = next(iter(row[what].values()))
            gains = ", ".join(f"{name} {100 * (1 - bits / base):.2f} %" for name, bits in row[what].items())
            print(f"  {what.replace('_', ' ')}, gain on {base:.4f}: {gains}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="checkpoints")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for path in arguments.runs:
        rows.append(measure(path))
        show(rows[-1])
    save({"environment": environment(), "runs": rows}, arguments.json)


if __name__ == "__main__":
    main()
