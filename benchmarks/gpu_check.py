"""Everything that only a GPU can show, in one command and under ten minutes.

    python benchmarks/gpu_check.py --json benchmarks/results/gpu.json [--data-dir cifar10]

1. Weights, scores, decisions and single draws on the GPU equal the NumPy reference bit for bit, on tensors of 1,
   40,961 and 50 million weights. 2. The training step ratio. 3. If a folder with CIFAR-10 is given: one IteRand run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import environment, save
from iterand_compress.compress.codebooks import CODEBOOKS, random_codes
from iterand_compress.compress.generator import (
    random_scores,
    random_weights,
    resampling_decisions,
    weights_at,
)
from iterand_compress.compress.philox import Purpose, random_words

HERE = Path(__file__).parent


def equal_bits(got: torch.Tensor, expected: np.ndarray[Any, Any]) -> bool:
    return bool(np.array_equal(got.cpu().numpy().view(np.uint8), expected.view(np.uint8)))


def check_generator(device: torch.device, largest: int) -> dict[str, bool]:
    checks = {}
    for count in (1, 40_961, largest):
        for book in CODEBOOKS.values():
            scale = book.scale(27)
            initial = random_codes(2**63 + 5, 3, book, 0, count).astype(np.float32) * scale
            got = random_weights(2**63 + 5, 3, book, scale, count, device)
            checks[f"weights {book.name} {count}"] = equal_bits(got, initial)
            draws = (np.arange(count) % 23).astype(np.uint8)
            redrawn = random_codes(2**63 + 5, 3, book, 0, count, draws).astype(np.float32) * scale
            index = torch.arange(count, device=device)
            got = weights_at(2**63 + 5, 3, book, scale, index, torch.from_numpy(draws).to(device))
            checks[f"redrawn {book.name} {count}"] = equal_bits(got, redrawn)
        words = random_words(7, count, draw=0, tensor=1, purpose=Purpose.SCORES)
        unit = (words >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
        checks[f"scores {count}"] = equal_bits(random_scores(7, 1, 0.1, count, device), unit * np.float32(0.1))
        words = random_words(7, -(-count // 2), draw=4, tensor=1, purpose=Purpose.RESAMPLING)
        halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)[:count]
        checks[f"decisions {count}"] = equal_bits(resampling_decisions(7, 1, 4, 6554, count, device), halves < 6554)
    return checks


def step_ratio(batch: int, device: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "step.json"
        command = [sys.executable, str(HERE / "train_step.py"), "--device", device, "--precision", "bfloat16"]
        subprocess.run([*command, "--batch-size", str(batch), "--rounds", str(rounds), "--json", str(out)], check=True)
        result: dict[str, Any] = json.loads(out.read_text())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--largest", type=int, default=50_000_000, help="weights of the largest tensor")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    results: dict[str, Any] = {"environment": environment()}
    results["generator"] = check_generator(device, args.largest)
    wrong = [name for name, fine in results["generator"].items() if not fine]
    print(f"generator: {len(results['generator']) - len(wrong)} checks equal, wrong: {wrong or 'none'}")
    results["step"] = [step_ratio(batch, args.device, args.rounds) for batch in args.batch_sizes]
    if args.data_dir:
        with tempfile.TemporaryDirectory() as name:
            began = time.perf_counter()
            script = str(Path(sys.executable).with_name("iterand-compress"))
            command = [script, *["train", "--recipe", "cifar10-resnet18", "--data", "folder", "--json"]]
            command += ["--data-dir", str(args.data_dir), "--device", args.device]
            command += ["--epochs", str(args.epochs), "--out", f"{name}/r.ckpt"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results["cifar10_resnet18"] = {
                **json.loads(done.stdout),
                "epochs": args.epochs,
                "seconds": time.perf_counter() - began,
            }
            print(results["cifar10_resnet18"])
    save(results, args.json)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
