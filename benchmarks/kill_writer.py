"""SIGKILL at random moments of a writer: its path must always hold the file before or the file after, whole.

python benchmarks/kill_writer.py --kills 200

A process writes two networks of different sizes to one path, by turns and without pause. Most of their bytes are state,
so that writing and syncing take longer than packing. What a killed process leaves behind cannot be prevented: temporary
files are counted.
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
from collections import Counter
from pathlib import Path

import numpy as np

from common import environment, save
from iterand_compress.compress.seed.codebooks import CODEBOOKS
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, dumps, write_seedmask

SIZES = (3 << 20, 5 << 20)


def network(number: int) -> Network:
    index = np.arange(400)
    mask = MaskedTensor("w", (20, 20), "normal", CODEBOOKS["normal"].scale(20), index * index % 7 < 3 + number)
    state = {"big": StoredTensor.from_numpy(np.full(SIZES[number] // 4, number, np.float32))}
    return Network(seed=number, tensors=(mask,), state=state)


def write_for_ever(path: Path) -> None:
    networks = [network(number) for number in range(2)]
    print("ready", flush=True)
    while True:
        for each in networks:
            write_seedmask(each, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=0.15, help="seconds from the first write to the kill, at most")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write_for_ever(args.write)
    rng = random.Random(args.seed)
    whole = {hashlib.sha256(dumps(network(number))).hexdigest(): ("first", "second")[number] for number in range(2)}
    found: Counter[str] = Counter()
    moves = left = left_bytes = 0
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        path = Path(name) / "network.seedmask"
        write_seedmask(network(0), path)
        for trial in range(args.kills):
            before = path.stat().st_ino
            process = subprocess.Popen([sys.executable, __file__, "--write", str(path)], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, args.longest))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            state = whole.get(hashlib.sha256(path.read_bytes()).hexdigest(), "DAMAGED")
            found[state] += 1
            moves += path.stat().st_ino != before
            for other in Path(name).iterdir():
                if other != path:
                    left += 1
                    left_bytes += other.stat().st_size
                    found["unexpected name"] += not (other.name.startswith(f".{path.name}.") and other.suffix == ".tmp")
                    other.unlink()
            if trial % 20 == 19:
                print(f"{trial + 1} kills: {dict(found)}, {left} temporary files left", flush=True)
    broken = found["DAMAGED"] + found["unexpected name"]
    results = {
        "environment": environment(),
        "kills": args.kills,
        "file_bytes": [len(dumps(network(number))) for number in range(2)],
        "found_first": found["first"],
        "found_second": found["second"],
        "found_damaged": found["DAMAGED"],
        "trials_in_which_the_file_was_replaced": moves,
        "temporary_files_left": left,
        "temporary_bytes_left": left_bytes,
    }
    print(f"{args.kills - broken} of {args.kills} whole; {left} temporary files left behind, {left_bytes:,} bytes")
    save(results, args.json)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
