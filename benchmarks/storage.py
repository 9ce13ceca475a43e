"""Size, speed and memory of ``.seedmask`` files: of a network of the field, or of a large synthetic one.

    python benchmarks/storage.py [--model resnet18|resnet50] [--coding auto|raw|rans] [--repeat 9] [--json OUT]
    python benchmarks/storage.py --weights 1e7 1e8 1e9 [--folder DIR] [--json OUT]

The first form takes ResNet-18 (CIFAR form, 11.2 M weights) or ResNet-50 (ImageNet form, 25.5 M). Random masks at
exact sparsity per layer stand for trained ones, whose masks are as random (benchmarks/trained_masks.py).
Two cases, both with the signed constant: edge-popup (never redrawn) and IteRand (half of the
kept weights redrawn, as in real runs of full length). Recovery (open, check digests, rebuild all weights,
compare them with their digests) alternates with ``safetensors.torch.load_file`` of the dense float32 file,
from a warm cache. ``load_file`` maps the file and reads nothing until a weight is used, so two more ways that end with
the weights in memory are timed as well: to clone what ``load_file`` gave, and ``load`` of the bytes of the file. Peak
memory is that of a fresh process for each operation.

The second form makes the tensors of a transformer (embedding and blocks) one at a time while it packs them, so that
no network is ever in memory, and then verifies the file and recovers it to a safetensors file. Times are seconds per
million weights, without those of making the masks; each operation runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import environment, save
from iterand_compress.compress.seed.codebooks import get_codebook
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    StoredTensor,
    read_seedmask,
    write_seedmask,
    write_tensors,
)

RESNET18 = [
    (64, 3, 3, 3),
    (64, 64, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3),
    (128, 64, 3, 3), (128, 128, 3, 3), (128, 64, 1, 1), (128, 128, 3, 3), (128, 128, 3, 3),
    (256, 128, 3, 3), (256, 256, 3, 3), (256, 128, 1, 1), (256, 256, 3, 3), (256, 256, 3, 3),
    (512, 256, 3, 3), (512, 512, 3, 3), (512, 256, 1, 1), (512, 512, 3, 3), (512, 512, 3, 3),
    (10, 512, 1, 1),
]  # fmt: skip
#: Blocks, width and vocabulary of the synthetic transformers, by number of weights.
TRANSFORMERS = {1e6: (4, 128, 1024), 1e7: (12, 256, 4096), 1e8: (24, 576, 16384), 1e9: (48, 1280, 50257)}
#: Share of the kept weights that were redrawn: .50 in a full-length run of a convolutional network.
CASES = {"edge-popup": 0.0, "iterand": 0.5}


def shapes_of(model: str) -> list[tuple[int, ...]]:
    """Shapes of the masked tensors."""
    if model == "resnet18":
        return RESNET18
    import torch
    import torchvision

    with torch.device("meta"):
        network = getattr(torchvision.models, model)()
    return [
        tuple(part.weight.shape) for part in network.modules() if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear))
    ]


def build(case: str, sparsity: float, model: str = "resnet18") -> Network:
    """A network with random masks that keep the same share of every layer."""
    rng = np.random.default_rng(0)
    book = get_codebook("signed-constant")
    tensors = []
    state = {}
    shapes = shapes_of(model)
    for index, shape in enumerate(shapes):
        count = int(np.prod(shape))
        mask = np.zeros(count, np.bool_)
        mask[rng.permutation(count)[: count - round(sparsity * count)]] = True
        draws = None
        if CASES[case]:
            redrawn = rng.random(count) < CASES[case]
            draws = np.where(redrawn, np.minimum(rng.geometric(0.4, count), 255), 0).astype(np.uint8)
        scale = book.scale(int(np.prod(shape[1:])))
        tensors.append(MaskedTensor(f"layer{index}.weight", shape, book.name, scale, mask, draws))
        if index < len(shapes) - 1:
            for statistic in ("running_mean", "running_var"):
                values = rng.random(shape[0], np.float32)
                state[f"norm{index}.{statistic}"] = StoredTensor.from_numpy(values)
    return Network(seed=20210607, tensors=tuple(tensors), state=state)


class Transformer(Sequence[MaskedTensor]):
    """Tensors of a transformer, made when they are asked for, with masks and draws from a fixed generator."""

    def __init__(self, weights: float, sparsity: float) -> None:
        blocks, width, words = TRANSFORMERS[weights]
        self.shapes = {"embedding": (words, width)}
        for block in range(blocks):
            for name, rows, columns in (("qkv", 3, 1), ("out", 1, 1), ("up", 4, 1), ("down", 1, 4)):
                self.shapes[f"blocks.{block}.{name}"] = (rows * width, columns * width)
        self.names = list(self.shapes)
        self.limit = round(65536 * (1 - sparsity))
        self.seconds = 0.0  # that making the tensors took

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> MaskedTensor:  # type: ignore[override]
        start = time.perf_counter()
        name = self.names[index]
        shape = self.shapes[name]
        count = shape[0] * shape[1]
        rng = np.random.default_rng(index)
        mask, draws = np.empty(count, np.bool_), np.empty(count, np.uint8)
        table = np.minimum(np.maximum(np.arange(256) - 127, 0).astype(np.float64) ** 3 / 9000**1.5 * 22, 22)
        for begin in range(0, count, 1 << 20):
            part = slice(begin, min(begin + (1 << 20), count))
            size = part.stop - part.start
            mask[part] = rng.integers(0, 65536, size, np.uint16) < self.limit
            draws[part] = table.astype(np.uint8)[rng.integers(0, 256, size, np.uint8)]
        book = get_codebook("signed-constant")
        self.seconds += time.perf_counter() - start
        return MaskedTensor(name, shape, book.name, book.scale(shape[1]), mask, draws)


def memory(field: str) -> float:
    """A memory counter of this process in MB; Linux only (``ru_maxrss`` may be the parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def work(operation: str, case: str, sparsity: float, path: Path, options: argparse.Namespace) -> None:
    """One operation in a process of its own; prints memory before it and its peak, in MB."""
    network = build(case, sparsity, options.model) if operation == "pack" else None
    if operation == "load_file":
        from safetensors.torch import load_file
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    if network:
        write_seedmask(network, path, coding=options.coding)
    elif operation == "recover":
        read_seedmask(path).weights()
    else:
        for tensor in load_file(path).values():
            tensor.clone()
    print(json.dumps({"before_mb": before, "peak_mb": memory("VmHWM")}))


def scale_work(operation: str, weights: float, sparsity: float, path: Path) -> None:
    """One operation on a large network in a process of its own; prints seconds and memory."""
    tensors = Transformer(weights, sparsity)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    made = 0.0
    if operation == "pack":
        write_seedmask(Network(seed=1, tensors=tensors), path)
        made = tensors.seconds
    elif operation == "verify":
        read_seedmask(path).verify()
    else:
        write_tensors(read_seedmask(path), path.with_suffix(".safetensors"))
    taken = time.perf_counter() - start
    print(json.dumps({"seconds": taken - made, "made_s": made, "before_mb": before, "peak_mb": memory("VmHWM")}))


def in_process(operation: str, case: str, sparsity: float, path: Path, *more: str) -> dict[str, float]:
    arguments = ["--work", operation, "--case", case, "--sparsity", str(sparsity), "--path", str(path), *more]
    result = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(case: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from safetensors.numpy import save_file
    from safetensors.torch import load, load_file

    sparsity, repeat, coding = options.sparsity, options.repeat, options.coding
    network = build(case, sparsity, options.model)
    packed, dense = folder / f"{case}.seedmask", folder / f"{case}.safetensors"
    report = write_seedmask(network, packed, coding=coding)
    seedmask = read_seedmask(packed)
    save_file({**seedmask.weights(), **{name: stored.numpy() for name, stored in seedmask.state().items()}}, dense)
    dense_bytes = dense.stat().st_size

    def read_dense() -> None:
        for tensor in load_file(dense).values():
            tensor.clone()

    def copy_dense() -> None:
        load(dense.read_bytes())

    runs: dict[str, Callable[[], object]] = {
        "recover_s": lambda: read_seedmask(packed).weights(),
        "load_file_s": lambda: load_file(dense),
        "load_file_and_read_s": read_dense,
        "read_and_load_s": copy_dense,
        "open_and_verify_s": lambda: read_seedmask(packed),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for function in runs.values():
        function()
    for _ in range(repeat):
        for name, function in runs.items():
            times[name].append(seconds(function))
    times["pack_s"] = [seconds(lambda: write_seedmask(network, folder / "again", coding=coding)) for _ in range(repeat)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = seedmask.layer_report()
    more = ("--model", options.model, "--coding", coding)
    return {
        "weights": report.weights,
        "kept": report.kept,
        "file_bytes": report.file_bytes,
        "dense_file_bytes": dense_bytes,
        "ratio": dense_bytes / report.file_bytes,
        "mask_bits_per_weight": report.mask_bits / report.weights,
        "mask_bound": sum(row.mask_bound * row.weights for row in rows) / report.weights,
        "log_bits_per_weight": report.log_bits / report.weights,
        "log_bound": sum(row.log_bound * row.weights for row in rows) / report.weights,
        **medians,
        "recover_s_range": [min(times["recover_s"]), max(times["recover_s"])],
        "recover_to_load_file": medians["recover_s"] / medians["load_file_s"],
        "recover_to_load_file_and_read": medians["recover_s"] / medians["load_file_and_read_s"],
        "recover_to_read_and_load": medians["recover_s"] / medians["read_and_load_s"],
        "memory": {
            "pack": in_process("pack", case, sparsity, folder / "again", *more),
            "recover": in_process("recover", case, sparsity, packed, *more),
            "load_file": in_process("load_file", case, sparsity, dense, *more),
        },
    }


def show(case: str, row: dict[str, Any]) -> None:
    low, high = row["recover_s_range"]
    mapped, read = row["recover_to_load_file"], row["recover_to_load_file_and_read"]
    copied = row["recover_to_read_and_load"]
    lines = {
        "file": f"{row['file_bytes']:,} bytes, 1/{row['ratio']:.1f} of the dense {row['dense_file_bytes']:,}",
        "mask": f"{row['mask_bits_per_weight']:.5f} bits per weight (bound {row['mask_bound']:.4f})",
        "log": f"{row['log_bits_per_weight']:.5f} bits per weight (bound {row['log_bound']:.4f})",
        "pack": f"{row['pack_s']:.3f} s",
        "open and verify": f"{row['open_and_verify_s']:.3f} s",
        "recover": f"{row['recover_s']:.3f} s ({low:.3f} to {high:.3f})",
        "load_file": f"{row['load_file_s']:.3f} s; recover takes {mapped:.1f} times as long",
        "… and read once": f"{row['load_file_and_read_s']:.3f} s; recover takes {read:.1f} times as long",
        "read, then load": f"{row['read_and_load_s']:.3f} s; recover takes {copied:.1f} times as long",
    }
    for operation, peak in row["memory"].items():
        lines[f"memory, {operation}"] = f"{peak['peak_mb']:.0f} MB at most, {peak['before_mb']:.0f} MB before"
    print(f"\n{case}: {row['weights']:,} weights, {row['kept']:,} kept")
    for name, text in lines.items():
        print(f"  {name:<18}{text}")


def scale(weights: list[float], sparsity: float, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for number in weights:
        path = folder / f"{number:.0e}.seedmask"
        row: dict[str, Any] = {"weights": sum(a * b for a, b in Transformer(number, sparsity).shapes.values())}
        row["largest_tensor"] = max(a * b for a, b in Transformer(number, sparsity).shapes.values())
        for operation in ("pack", "verify", "recover"):
            found = in_process(operation, "scale", sparsity, path, "--scale", str(number))
            row[operation] = {**found, "s_per_million": found["seconds"] / row["weights"] * 1e6}
        row["file_bytes"] = path.stat().st_size
        path.unlink()
        path.with_suffix(".safetensors").unlink()
        rows.append(row)
        print(f"\n{row['weights']:,} weights, largest tensor {row['largest_tensor']:,}: {row['file_bytes']:,} bytes")
        for operation in ("pack", "verify", "recover"):
            found = row[operation]
            print(
                f"  {operation:<8}{found['seconds']:8.1f} s, {found['s_per_million']:.4f} s per million weights; "
                f"{found['peak_mb']:.0f} MB at most, {found['before_mb']:.0f} MB before",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeat", type=int, default=9, help="runs of each operation; the median is shown")
    parser.add_argument("--sparsity", type=float, default=0.6, help="fraction of the weights that is pruned")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--model", choices=("resnet18", "resnet50"), default="resnet18")
    parser.add_argument("--coding", choices=("auto", "raw", "rans"), default="auto")
    parser.add_argument("--weights", type=float, nargs="+", choices=TRANSFORMERS, help="of a synthetic transformer")
    parser.add_argument("--folder", type=Path, help="for the large files; by default the temporary folder")
    for hidden in ("--work", "--case", "--path"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        path = Path(arguments.path)
        if arguments.scale:
            scale_work(arguments.work, arguments.scale, arguments.sparsity, path)
        else:
            work(arguments.work, arguments.case, arguments.sparsity, path, arguments)
        return
    results: dict[str, Any] = {
        "environment": environment(),
        "load_average": os.getloadavg()[0],
        "sparsity": arguments.sparsity,
    }
    print("\n".join(f"{name}: {value}" for name, value in results["environment"].items()))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.weights:
            print(f"sparsity {arguments.sparsity}; load {results['load_average']:.1f}")
            results["scale"] = scale(arguments.weights, arguments.sparsity, Path(folder))
        else:
            results |= {"repeat": arguments.repeat, "model": arguments.model, "coding": arguments.coding, "cases": {}}
            print(
                f"{arguments.model}, coding {arguments.coding}, n = {arguments.repeat}, median; "
                f"sparsity {arguments.sparsity}; load {results['load_average']:.1f}"
            )
            for case in CASES:
                results["cases"][case] = measure(case, Path(folder), arguments)
                show(case, results["cases"][case])
    save(results, arguments.json)


if __name__ == "__main__":
    main()
