"""Seconds from typing `iterand-compress train` until its first batch goes into the network.

    python benchmarks/first_batch.py --rounds 5 -- --recipe cifar10-resnet18 --data folder --data-dir cifar10

What comes after `--` are options of `train`. Each round is a new process, with all files in the cache of the system
from a first round that does not count; it ends where the first step of training would begin.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import environment, save

STARTED = "ITERAND_COMPRESS_STARTED"


def worker(words: Sequence[str]) -> None:
    """The command, up to its first step."""
    from iterand_compress.cli import main as command_line

    # Imported by the command in any case, a moment later.
    from iterand_compress.compress.training import loop

    def first_step(*_: object) -> None:
        print(time.time() - float(os.environ[STARTED]), flush=True)
        os._exit(0)

    loop.training_step = first_step  # type: ignore[assignment]
    sys.argv = ["iterand-compress", "train", "--quiet", *words]
    command_line()


def seconds(words: Sequence[str], folder: Path) -> float:
    """Of one process.

    Raises:
        SystemExit: the command failed, and has said why.
    """
    command = [sys.executable, __file__, "--worker", "--", *words, "--out", str(folder / "model.ckpt"), "--force"]
    done = subprocess.run(command, env={**os.environ, STARTED: repr(time.time())}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"train {' '.join(words)}: exit code {done.returncode}")
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="of train")
    args = parser.parse_args()
    if args.worker:
        worker(args.options)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = [seconds(args.options, Path(folder)) for _ in range(args.rounds + 1)]
    counted = found[1:]
    print(f"train {' '.join(args.options)}: first batch after", end=" ")
    print(f"{statistics.median(counted):.2f} s ({min(counted):.2f} to {max(counted):.2f}, n={len(counted)})")
    save({"environment": environment(), "warm_up": found[0], "seconds": counted}, args.json)


if __name__ == "__main__":
    main()
