"""Whether several processes find the network, bit for bit, that one finds in as many parts of each batch.

    python benchmarks/same_bits.py -- --epochs 3
    python benchmarks/same_bits.py -- --recipe cifar10-resnet18 --data folder --data-dir images --epochs 2

What comes after `--` are options of `train`. Runs are on the CPU, one thread for each process: by torchrun; in one
process, in parts; and in one process, the batch at once. Each is packed, and the bytes are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import environment, save
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.pack import network_of_checkpoint
from iterand_compress.compress.seedmask import write_seedmask

COMMAND = ["-m", "iterand_compress.cli", "train", "--quiet", "--device", "cpu"]


def digest(launcher: list[str], words: list[str], out: Path) -> str:
    """Train and pack; SHA-256 of the file."""
    command = [sys.executable, *launcher, *COMMAND, *words, "--out", str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:  # the tool has said why
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    file = out.with_suffix(".seedmask")
    write_seedmask(network_of_checkpoint(load_checkpoint(out)), file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of train")
    args = parser.parse_args()
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            "processes": digest(several, args.options, folder / "processes.ckpt"),
            "parts": digest([], [*args.options, "--accumulate", str(args.processes)], folder / "parts.ckpt"),
            "whole": digest([], args.options, folder / "whole.ckpt"),
        }
        run = load_checkpoint(folder / "parts.ckpt")
    for about, sha in found.items():
        print(f"{about:<10} {sha}")
    same = found["processes"] == found["parts"]
    print(
        f"train {' '.join(args.options)}: {args.processes} processes and {args.processes} parts: "
        f"{'the same bytes' if same else 'DIFFERENT BYTES'} after {run.position.step} steps"
    )
    results = {"steps": run.position.step, "sha256": found, "same": same}
    save({"environment": environment(), "processes": args.processes, **results}, args.json)
    sys.exit(not same)


if __name__ == "__main__":
    main()
