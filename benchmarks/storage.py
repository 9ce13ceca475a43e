"""Size, speed and memory of a ``.seedmask`` file of ResNet-18 (CIFAR form, 11.2 M weights).

    python benchmarks/storage.py [--repeat 9] [--json OUT]

Random masks at exact sparsity per layer stand for trained ones: in raw coding the size depends on counts
only. Two cases, both with the signed constant: edge-popup (never redrawn) and IteRand (half of the
kept weights redrawn, as in real runs of full length). Recovery (open, check digests, rebuild all weights,
compare them with their digests) alternates with ``safetensors.torch.load_file`` of the dense float32 file,
from a warm cache. ``load_file`` maps the file and reads nothing until a weight is used, so reading it once is
timed as well. Peak memory is that of a fresh process for each operation.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import environment, save
from iterand_compress.compress.codebooks import get_codebook
from iterand_compress.compress.storage import (
    MaskedTensor,
    Network,
    StoredTensor,
    read_seedmask,
    write_safetensors,
    write_seedmask,
)

RESNET18 = [
    (64, 3, 3, 3),
    (64, 64, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3),
    (128, 64, 3, 3), (128, 128, 3, 3), (128, 64, 1, 1), (128, 128, 3, 3), (128, 128, 3, 3),
    (256, 128, 3, 3), (256, 256, 3, 3), (256, 128, 1, 1), (256, 256, 3, 3), (256, 256, 3, 3),
    (512, 256, 3, 3), (512, 512, 3, 3), (512, 256, 1, 1), (512, 512, 3, 3), (512, 512, 3, 3),
    (10, 512, 1, 1),
]  # fmt: skip
#: Share of the kept weights that were redrawn: .50 in a full-length run of a convolutional network.
CASES = {"edge-popup": 0.0, "iterand": 0.5}


def build(case: str, sparsity: float) -> Network:
    """A network with random masks that keep the same share of every layer."""
    rng = np.random.default_rng(0)
    book = get_codebook("signed-constant")
    tensors = []
    state = {}
    for index, shape in enumerate(RESNET18):
        count = int(np.prod(shape))
        mask = np.zeros(count, np.bool_)
        mask[rng.permutation(count)[: count - round(sparsity * count)]] = True
        draws = None
        if CASES[case]:
            redrawn = rng.random(count) < CASES[case]
            draws = np.where(redrawn, np.minimum(rng.geometric(0.4, count), 255), 0).astype(np.uint8)
        scale = book.scale(int(np.prod(shape[1:])))
        tensors.append(MaskedTensor(f"layer{index}.weight", shape, book.name, scale, mask, draws))
        if index < len(RESNET18) - 1:
            for statistic in ("running_mean", "running_var"):
                values = rng.random(shape[0], np.float32)
                state[f"norm{index}.{statistic}"] = StoredTensor.from_numpy(values)
    return Network(seed=20210607, tensors=tuple(tensors), state=state)


def memory(field: str) -> float:
    """A memory counter of this process in MB; Linux only (``ru_maxrss`` may be the parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def work(operation: str, case: str, sparsity: float, path: Path) -> None:
    """One operation in a process of its own; prints memory before it and its peak, in MB."""
    network = build(case, sparsity) if operation == "pack" else None
    if operation == "load_file":
        from safetensors.torch import load_file
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    if network:
        write_seedmask(network, path)
    elif operation == "recover":
        read_seedmask(path).weights()
    else:
        for tensor in load_file(path).values():
            tensor.clone()
    print(json.dumps({"before_mb": before, "peak_mb": memory("VmHWM")}))


def in_process(operation: str, case: str, sparsity: float, path: Path) -> dict[str, float]:
    arguments = ["--work", operation, "--case", case, "--sparsity", str(sparsity), "--path", str(path)]
    result = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(case: str, sparsity: float, repeat: int, folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    network = build(case, sparsity)
    packed, dense = folder / f"{case}.seedmask", folder / f"{case}.safetensors"
    report = write_seedmask(network, packed)
    seedmask = read_seedmask(packed)
    weights = {name: StoredTensor.from_numpy(values) for name, values in seedmask.weights().items()}
    dense_bytes = write_safetensors(dense, {**weights, **seedmask.state()})

    def read_dense() -> None:
        for tensor in load_file(dense).values():
            tensor.clone()

    runs: dict[str, Callable[[], object]] = {
        "recover_s": lambda: read_seedmask(packed).weights(),
        "load_file_s": lambda: load_file(dense),
        "load_file_and_read_s": read_dense,
        "open_and_verify_s": lambda: read_seedmask(packed),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for function in runs.values():
        function()
    for _ in range(repeat):
        for name, function in runs.items():
            times[name].append(seconds(function))
    times["pack_s"] = [seconds(lambda: write_seedmask(network, folder / "again")) for _ in range(repeat)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = seedmask.layer_report()
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
        "memory": {
            "pack": in_process("pack", case, sparsity, folder / "again"),
            "recover": in_process("recover", case, sparsity, packed),
            "load_file": in_process("load_file", case, sparsity, dense),
        },
    }


def show(case: str, row: dict[str, Any]) -> None:
    low, high = row["recover_s_range"]
    mapped, read = row["recover_to_load_file"], row["recover_to_load_file_and_read"]
    lines = {
        "file": f"{row['file_bytes']:,} bytes, 1/{row['ratio']:.1f} of the dense {row['dense_file_bytes']:,}",
        "mask": f"{row['mask_bits_per_weight']:.5f} bits per weight (bound {row['mask_bound']:.4f})",
        "log": f"{row['log_bits_per_weight']:.5f} bits per weight (bound {row['log_bound']:.4f})",
        "pack": f"{row['pack_s']:.3f} s",
        "open and verify": f"{row['open_and_verify_s']:.3f} s",
        "recover": f"{row['recover_s']:.3f} s ({low:.3f} to {high:.3f})",
        "load_file": f"{row['load_file_s']:.3f} s; recover takes {mapped:.1f} times as long",
        "… and read once": f"{row['load_file_and_read_s']:.3f} s; recover takes {read:.1f} times as long",
    }
    for operation, peak in row["memory"].items():
        lines[f"memory, {operation}"] = f"{peak['peak_mb']:.0f} MB at most, {peak['before_mb']:.0f} MB before"
    print(f"\n{case}: {row['weights']:,} weights, {row['kept']:,} kept")
    for name, text in lines.items():
        print(f"  {name:<18}{text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeat", type=int, default=9, help="runs of each operation; the median is shown")
    parser.add_argument("--sparsity", type=float, default=0.6, help="fraction of the weights that is pruned")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    for hidden in ("--work", "--case", "--path"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.case, arguments.sparsity, Path(arguments.path))
        return
    results: dict[str, Any] = {
        "environment": environment(),
        "load_average": os.getloadavg()[0],
        "repeat": arguments.repeat,
        "sparsity": arguments.sparsity,
        "cases": {},
    }
    print("\n".join(f"{name}: {value}" for name, value in results["environment"].items()))
    print(f"n = {arguments.repeat}, median; sparsity {arguments.sparsity}; load {results['load_average']:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            results["cases"][case] = measure(case, arguments.sparsity, arguments.repeat, Path(folder))
            show(case, results["cases"][case])
    save(results, arguments.json)


if __name__ == "__main__":
    main()
