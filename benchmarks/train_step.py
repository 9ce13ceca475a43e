"""Cost of a training step with scores, as a ratio to a dense step of the same network in the same run.

    python benchmarks/train_step.py --model resnet18 --batch-size 128 --rounds 10
    python benchmarks/train_step.py --recipe cifar10-fast --sparsity 0.8 --batch-size 256 --precision bfloat16
    python benchmarks/train_step.py --device cuda --precision bfloat16 --compile reduce-overhead

Steps of the methods alternate, so a drift of the machine meets all of them; the ratio is that of the medians, and
the median of the ratios of neighbouring steps is printed beside it. Peak memory is that of a fresh process per method.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from common import environment, save
from iterand_compress import ImageInput, load_recipe
from iterand_compress.compress.config import ModelConfig, Recipe, TrainConfig
from iterand_compress.compress.mask.fused import FusedLayers
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import refresh
from iterand_compress.compress.methods.presets import PRESETS
from iterand_compress.compress.models import resolve
from iterand_compress.compress.networks import build_network
from iterand_compress.compress.training.allocator import keep_freed_memory
from iterand_compress.compress.training.optimizer import make_optimizer
from iterand_compress.compress.training.profile import event_seconds

# The last is edge-popup with one threshold for all layers.
METHODS = ("dense", "edge-popup", "iterand", "global")
LEAST = 5  # steps before the clock runs: compilation, and CUDA graphs


def stepper(
    method: str, args: argparse.Namespace, device: torch.device
) -> tuple[torch.nn.Module, torch.optim.Optimizer, Callable[[int], None]]:
    """The step of `training/loop.py` without what is the same for all methods: data, and counting of right answers."""
    options = {} if method == "dense" else {"sparsity": args.sparsity}
    if method == "iterand":
        options["every"] = args.resample_every
    elif method == "global":
        method, options["scope"] = "edge-popup", "global"
    if method != "dense" and args.recipe:
        options["scale_fan"] = load_recipe(args.recipe).subnetwork.scale_fan
    subnetwork = PRESETS[method](**options)
    if args.recipe:
        recipe = load_recipe(args.recipe).model_copy(update={"subnetwork": subnetwork})
    else:
        settings = TrainConfig(lr=0.1, momentum=0.9, weight_decay=5e-4)
        recipe = Recipe(model=ModelConfig(name=args.model), subnetwork=subnetwork, train=settings)
    shape = (3, args.image_size, args.image_size)
    architecture = resolve(recipe.model, num_classes=args.classes, input=ImageInput(shape, 0, 1))
    model = build_network(recipe, architecture, allow_import=False).to(device)
    channels_last = device.type == "cuda" or args.precision == "bfloat16"
    if channels_last:  # what is best for dense weights; scores are flat
        model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe.train)
    layers = masked_layers(model)
    fused = FusedLayers.of(model, layers, channels_last=channels_last)
    forward = torch.compile(model, mode=args.compile) if args.compile else model
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, *shape, generator=generator).to(device)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, args.classes, (args.batch_size,), generator=generator).to(device)
    bf16 = args.precision == "bfloat16"
    model.train()

    def step(index: int) -> None:
        refresh(layers, index, fused=fused)
        optimizer.zero_grad(set_to_none=True)
        if args.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=bf16),
            fused.cached_weights() if fused else nullcontext(),
        ):
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return model, optimizer, step


def timed(function: Callable[[int], None], index: int) -> float:
    began = time.perf_counter()
    function(index)
    return time.perf_counter() - began


def peak_memory(method: str, args: argparse.Namespace) -> dict[str, int]:
    """Peak bytes of a fresh process: of the process, and of its tensors alone."""
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
    command += ["--recipe", args.recipe] if args.recipe else []
    command += ["--image-size", str(args.image_size), "--device", args.device, "--precision", args.precision]
    command += ["--classes", str(args.classes), *(["--compile", args.compile] if args.compile else [])]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, int] = json.loads(output.splitlines()[-1])
    return result


def worker(args: argparse.Namespace, device: torch.device) -> None:
    args.resample_every = 3  # the measured step has a resampling event
    model, optimizer, step = stepper(args.worker, args, device)
    step(0)
    step(1)
    if device.type == "cuda":
        step(2)
        peak = torch.cuda.max_memory_allocated()
        print(json.dumps({"process": peak, "tensors": peak}))
        return
    optimizer.zero_grad(set_to_none=True)
    state = [*model.parameters(), *model.buffers(), *(v["momentum_buffer"] for v in optimizer.state.values())]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(2)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = sum(tensor.numel() * tensor.element_size() for tensor in state)
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    # Not getrusage: its maximum starts with that of the process that forked this one.
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    print(json.dumps({"process": int(line) * 1024, "tensors": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--recipe", help="network and optimizer of a recipe, instead of --model")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--resample-every", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--compile", metavar="MODE", help="of torch.compile: default, reduce-overhead, max-autotune …")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        args.model = load_recipe(args.recipe).model.name
    device = torch.device(args.device)
    keep_freed_memory()  # as the command line does
    if args.worker:
        worker(args, device)
        return
    built = {method: stepper(method, args, device) for method in METHODS}
    weights = sum(p.numel() for p in built["dense"][0].parameters())
    for _, _, step in built.values():
        for index in range(LEAST):
            step(index)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for index in range(args.rounds):
        for method in METHODS if index % 2 else METHODS[::-1]:
            seconds[method].append(timed(built[method][2], index + LEAST))
    searched = built["iterand"][0]
    layers = FusedLayers.of(searched, masked_layers(searched))
    event = statistics.median(event_seconds(searched, layers, device)[0] for _ in range(5))
    medians = {method: statistics.median(values) for method, values in seconds.items()}
    amortised = medians["iterand"] + event / args.resample_every
    results: dict[str, Any] = {
        "environment": environment(),
        "model": args.model,
        "recipe": args.recipe,
        "sparsity": args.sparsity,
        "weights": weights,
        "batch_size": args.batch_size,
        "device": args.device,
        "precision": args.precision,
        "compile": args.compile,
        "rounds": args.rounds,
        "seconds_per_step": medians,
        "images_per_second": {method: args.batch_size / median for method, median in medians.items()},
        "edge_popup_over_dense": medians["edge-popup"] / medians["dense"],
        "global_over_layerwise": medians["global"] / medians["edge-popup"],
        "global_over_layerwise_paired": statistics.median(
            a / b for a, b in zip(seconds["global"], seconds["edge-popup"], strict=True)
        ),
        "iterand_over_dense": amortised / medians["dense"],
        "iterand_over_dense_paired": statistics.median(
            (a + event / args.resample_every) / b for a, b in zip(seconds["iterand"], seconds["dense"], strict=True)
        ),
        "resampling_event_seconds": event,
    }
    built.clear()
    del searched, layers
    memory = {method: peak_memory(method, args) for method in METHODS}
    results["peak_bytes"] = memory
    results["iterand_peak_over_dense"] = {
        kind: memory["iterand"][kind] / memory["dense"][kind] for kind in ("tensors", "process")
    }
    # At the end of the forward pass, where activations peak, dense training holds weights and momentum: 8 bytes.
    tensors = {method: values["tensors"] for method, values in memory.items()}
    results["iterand_weight_bytes"] = (tensors["iterand"] - tensors["dense"]) / weights + 8
    print(
        f"{args.model}, {weights:,} weights, batch {args.batch_size}, {args.device}, {args.precision}, n={args.rounds}"
    )
    print(f"{results['environment']}")
    for method in METHODS:
        peak = {kind: f"{size / 2**20:.0f} MiB" for kind, size in memory[method].items()}
        print(
            f"  {method:<11} {medians[method] * 1e3:9.1f} ms/step  "
            f"peak of tensors {peak['tensors']}, of the process {peak['process']}"
        )
    print(f"  resampling event {event * 1e3:.1f} ms, every {args.resample_every} steps")
    print(
        f"  IteRand / dense    {results['iterand_over_dense']:.3f} (paired {results['iterand_over_dense_paired']:.3f})"
    )
    print(f"  edge-popup / dense {results['edge_popup_over_dense']:.3f}")
    print(
        f"  global / layerwise {results['global_over_layerwise']:.3f} "
        f"(paired {results['global_over_layerwise_paired']:.3f}; both edge-popup)"
    )
    print(
        f"  IteRand holds {results['iterand_weight_bytes']:.2f} bytes per weight at its peak (14 = scores, momentum, "
        "gradient or masked weight, int8 code, draw count); peak of IteRand / dense: "
        + ", ".join(f"{kind} {ratio:.3f}" for kind, ratio in results["iterand_peak_over_dense"].items())
    )
    save(results, args.json)


if __name__ == "__main__":
    main()
