"""SIGKILL at random moments, then --resume: the .seedmask must be the one of an undisturbed run, byte for byte.

python benchmarks/kill_resume.py --kills 20
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import environment, save

SCRIPT = str(Path(sys.executable).with_name("iterand-compress"))


def command(out: Path, args: argparse.Namespace, *more: str) -> list[str]:
    return [
        SCRIPT, "train", "--quiet", "--device", "cpu", "--epochs", str(args.epochs), "--set=run.checkpoint_every=7",
        "--set=subnetwork.resample.every=10", "--out", str(out), *more,
    ]  # fmt: skip


def digest(checkpoint: Path) -> str:
    target = checkpoint.with_suffix(".seedmask")
    subprocess.run([SCRIPT, "pack", str(checkpoint), "--out", str(target)], check=True, capture_output=True)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def killed_once(out: Path, args: argparse.Namespace, span: float, rng: random.Random) -> float:
    """Start a run, kill it at a random moment after its first checkpoint, and say when that was."""
    process = subprocess.Popen(command(out, args))
    while not out.exists() and process.poll() is None:
        time.sleep(0.01)
    delay = rng.uniform(0, span)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return delay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        undisturbed = folder / "undisturbed.ckpt"
        process = subprocess.Popen(command(undisturbed, args))
        while not undisturbed.exists():
            time.sleep(0.01)
        began = time.perf_counter()
        if process.wait():
            sys.exit("the undisturbed run failed")
        span = time.perf_counter() - began
        expected = digest(undisturbed)
        print(f"undisturbed: {span:.1f} s after its first checkpoint, sha256 {expected}")
        same, moments = 0, []
        for trial in range(args.kills):
            out = folder / f"trial{trial}.ckpt"
            delay = killed_once(out, args, span, rng)
            subprocess.run(command(out, args, "--resume"), check=True)
            got = digest(out)
            same += got == expected
            moments.append(round(delay, 2))
            verdict = "same" if got == expected else f"DIFFERS {got}"
            print(f"killed {delay:5.2f} s after the first checkpoint, resumed: {verdict}", flush=True)
    results: dict[str, Any] = {
        "environment": environment(), "sha256": expected, "kills": args.kills, "identical": same, "moments": moments,
    }  # fmt: skip
    print(f"{same} of {args.kills} identical")
    save(results, args.json)
    sys.exit(0 if same == args.kills else 1)


if __name__ == "__main__":
    main()
