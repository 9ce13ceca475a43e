"""Cost of a training step with scores, as a ratio to a dense step of the same network in the same run.

    python benchmarks/train_step.py --model resnet18 --batch-size 128 --rounds 10

Steps of the methods alternate, so a drift of the machine meets all of them; the ratio is that of the medians, and
the median of the ratios of neighbouring steps is printed beside it. Peak memory is that of a fresh process per method.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from common import environment, save
from iterand_compress.compress.config import ModelConfig, Recipe, SubnetworkConfig
from iterand_compress.compress.models import resolve
from iterand_compress.compress.subnetwork import masked_layers, refresh
from iterand_compress.compress.training.run import build_network

METHODS = ("dense", "edge-popup", "iterand")


def stepper(
    method: str, args: argparse.Namespace, device: torch.device
) -> tuple[torch.nn.Module, Callable[[int], None]]:
    recipe = Recipe(
        model=ModelConfig(name=args.model),
        subnetwork=SubnetworkConfig(method=method, sparsity=args.sparsity, resample_every=args.resample_every),
    )
    shape = (3, args.image_size, args.image_size)
    model = build_network(recipe, resolve(recipe.model, num_classes=10, image_shape=shape), allow_import=False).to(
        device
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, *shape, generator=generator).to(device)
    if device.type == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (args.batch_size,), generator=generator).to(device)
    bf16 = args.precision == "bfloat16"
    model.train()

    def step(index: int) -> None:
        refresh(model, index)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return model, step


def timed(function: Callable[[int], None], index: int) -> float:
    began = time.perf_counter()
    function(index)
    return time.perf_counter() - began


def peak_memory(method: str, args: argparse.Namespace) -> int:
    """Peak bytes of a fresh process (CPU), or of the allocator (GPU), over three steps."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        method,
        "--model",
        args.model,
        "--batch-size",
        str(args.batch_size),
    ]
    command += ["--image-size", str(args.image_size), "--device", args.device, "--precision", args.precision]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def worker(args: argparse.Namespace, device: torch.device) -> None:
    args.resample_every = 2  # a resampling event among the three steps
    _, step = stepper(args.worker, args, device)
    for index in range(3):
        step(index)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated())
    else:
        # Not getrusage: its maximum starts with that of the process that forked this one.
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        print(int(line) * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--resample-every", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.worker:
        worker(args, device)
        return
    built = {method: stepper(method, args, device) for method in METHODS}
    weights = sum(p.numel() for p in built["dense"][0].parameters())
    for _, step in built.values():
        step(0)
        step(1)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for index in range(args.rounds):
        for method in METHODS if index % 2 else METHODS[::-1]:
            seconds[method].append(timed(built[method][1], index + 2))
    parts = list(masked_layers(built["iterand"][0]))

    def resample(number: int) -> None:
        for _, part, scores in parts:
            part.resample(scores, number)

    event = statistics.median(timed(resample, number) for number in range(1, 6))
    medians = {method: statistics.median(values) for method, values in seconds.items()}
    amortised = medians["iterand"] + event / args.resample_every
    results: dict[str, Any] = {
        "environment": environment(),
        "model": args.model,
        "weights": weights,
        "batch_size": args.batch_size,
        "device": args.device,
        "precision": args.precision,
        "rounds": args.rounds,
        "seconds_per_step": medians,
        "edge_popup_over_dense": medians["edge-popup"] / medians["dense"],
        "iterand_over_dense": amortised / medians["dense"],
        "iterand_over_dense_paired": statistics.median(
            (a + event / args.resample_every) / b for a, b in zip(seconds["iterand"], seconds["dense"], strict=True)
        ),
        "resampling_event_seconds": event,
    }
    built.clear()
    parts.clear()
    memory = {method: peak_memory(method, args) for method in METHODS}
    results["peak_bytes"] = memory
    results["iterand_bytes_per_weight_above_dense"] = (memory["iterand"] - memory["dense"]) / weights
    print(
        f"{args.model}, {weights:,} weights, batch {args.batch_size}, {args.device}, {args.precision}, n={args.rounds}"
    )
    print(f"{results['environment']}")
    for method in METHODS:
        print(f"  {method:<11} {medians[method] * 1e3:9.1f} ms/step  peak {memory[method] / 2**20:8.0f} MiB")
    print(f"  resampling event {event * 1e3:.1f} ms, every {args.resample_every} steps")
    print(
        f"  IteRand / dense    {results['iterand_over_dense']:.3f} (paired {results['iterand_over_dense_paired']:.3f})"
    )
    print(f"  edge-popup / dense {results['edge_popup_over_dense']:.3f}")
    print(f"  IteRand above dense: {results['iterand_bytes_per_weight_above_dense']:.2f} bytes per weight at the peak")
    save(results, args.json)


if __name__ == "__main__":
    main()
