"""Trained weights in few bits beside our subnetworks: the same network, data, schedule and budget, in as few bytes.

    python benchmarks/baselines.py --data-dir cifar10 --folder runs --bytes 30k 60k 120k [--seeds 0 1] [--json OUT]
    python benchmarks/baselines.py --data-dir cifar10 --folder runs --bytes 60k --held-out --lr 0.2   # to choose a rate

`--data-dir` holds `train/CLASS/*` and `test/CLASS/*`. The setting is the recipe `cifar10-fast` for dense weights. All
layers but the whitening are quantised. The width is the largest whose file, of the untrained network, is within the
limit; if the trained one's is not, the next width down is trained. What is evaluated is the network that was read back
from the file. Finished runs are only read.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import numpy as np
import torch
import zstandard
from quantisers import QUANTISERS, SYMBOL_BITS, Pruned, attach, quantised
from torch import Tensor, nn

from common import environment, save
from iterand_compress import load_recipe
from iterand_compress.cli.search_command import number_of_bytes
from iterand_compress.compress.analysis.candidates import largest
from iterand_compress.compress.checkpoint import load_checkpoint
from iterand_compress.compress.config import Recipe
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.models.architecture import Architecture, resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.seedmask.bits import Row
from iterand_compress.compress.seedmask.codings import CODINGS, Coded, decode_rows, encode_rows, plan
from iterand_compress.compress.training import loop, prepare
from iterand_compress.compress.training.evaluate import evaluate, network_logits
from iterand_compress.compress.training.recipe import override
from iterand_compress.compress.training.run import Run
from iterand_compress.compress.training.run_options import RunOptions

try:
    import brotli
except ImportError:  # one coder less
    brotli = None

METHODS = ("binary", "ternary", "int4", "int8", "pruned-80", "pruned-90", "pruned-95")
_ZSTD, _BROTLI = len(CODINGS), len(CODINGS) + 1


def stored_as(method: str) -> str:
    """The quantiser of the file."""
    return "int8" if method.startswith("pruned") else method


def layers(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The weights that are quantised: of all convolutions and linear layers but the whitening."""
    kinds = (nn.Conv2d, nn.Linear)
    return [(f"{name}.weight", module.weight) for name, module in model.named_modules() if isinstance(module, kinds)]


def final_weights(method: str, weight: Tensor) -> Tensor:
    """What a trained tensor is before it is stored: pruned, if the method prunes."""
    return Pruned(int(method[-2:]) / 100)(weight) if method.startswith("pruned") else weight


# Files


def coded(symbols: np.ndarray, bits: int) -> bytes:
    """Symbols, uint8 ``[n]`` below ``2**bits``, by the coder that makes them smallest: number, length, payload."""
    row = Row.pack(symbols, bits)
    ours = encode_rows([plan(row)])[0]
    options = [(CODINGS.index(ours.coding), bytes(ours.payload))]
    options.append((_ZSTD, zstandard.ZstdCompressor(level=19).compress(row.packed())))
    if brotli is not None:
        options.append((_BROTLI, brotli.compress(row.packed(), quality=11)))
    number, payload = min(options, key=lambda option: len(option[1]))
    return struct.pack("<BI", number, len(payload)) + payload


def decoded(number: int, payload: bytes, count: int, bits: int) -> np.ndarray:
    """Undo `coded`."""
    if number < len(CODINGS):
        return decode_rows([("baseline", Coded(CODINGS[number], payload, count, bits))])[0].values()
    packed = zstandard.ZstdDecompressor().decompress(payload) if number == _ZSTD else brotli.decompress(payload)
    return Row.unpack(packed, count, bits).values()


def to_bytes(model: nn.Module, architecture: Architecture, method: str, state: str = "float32") -> bytes:
    """The file of a network: header, symbols of each layer, then scales and all other state as ``state`` numbers.

    Args:
        model: with latent weights.
        architecture: of the model.
        method: one of `METHODS`.
        state: ``float32`` or ``float16``.
    """
    kind, numbers = stored_as(method), []
    header = zlib.compress(json.dumps({"kind": kind, "state": state, **asdict(architecture)}).encode(), 9)
    parts = [struct.pack("<H", len(header)), header]
    quantised_names = set()
    for name, weight in layers(model):
        symbols, scales = QUANTISERS[kind](final_weights(method, weight.detach().cpu().float()))
        values = symbols.flatten().numpy().astype(np.int16)
        values = (values + 1) // 2 if kind == "binary" else values + 2 ** (SYMBOL_BITS[kind] - 1) - 1
        parts.append(coded(values.astype(np.uint8), SYMBOL_BITS[kind]))
        numbers.append(scales)
        quantised_names.add(name)
    for name, value in model.state_dict().items():
        if name not in quantised_names and value.is_floating_point():
            numbers.append(value.detach().cpu().flatten())
    parts.append(torch.cat(numbers).numpy().astype("<f4" if state == "float32" else "<f2").tobytes())
    return b"".join(parts)


def from_bytes(data: bytes) -> nn.Module:
    """The network of a file, in float32."""
    (length,) = struct.unpack_from("<H", data)
    header = json.loads(zlib.decompress(data[2 : 2 + length]))
    kind, state = header.pop("kind"), header.pop("state")
    model = build_model(Architecture(**header), seed=0)
    position, found, names = 2 + length, [], set()
    for name, weight in layers(model):
        number, size = struct.unpack_from("<BI", data, position)
        position += 5
        values = decoded(number, data[position : position + size], weight.numel(), SYMBOL_BITS[kind]).astype(np.float32)
        values = 2 * values - 1 if kind == "binary" else values - (2 ** (SYMBOL_BITS[kind] - 1) - 1)
        found.append((weight, torch.from_numpy(values).view(len(weight), -1)))
        position += size
        names.add(name)
    numbers = np.frombuffer(data, "<f4" if state == "float32" else "<f2", offset=position).astype(np.float32)
    rest = torch.from_numpy(numbers)
    with torch.no_grad():
        for weight, symbols in found:
            scales, rest = rest[: len(weight)], rest[len(weight) :]
            weight.copy_((symbols * scales[:, None]).view_as(weight))
        for name, value in model.state_dict().items():
            if name not in names and value.is_floating_point():
                value.copy_(rest[: value.numel()].view_as(value))
                rest = rest[value.numel() :]
    if len(rest):
        raise ValueError(f"expected no numbers behind the network, got {len(rest)}")
    return model


def width_within(limit: int, architecture: Architecture, method: str, state: str = "float32") -> float:
    """The largest width, in steps of 1/256, whose file has at most ``limit`` bytes before training.

    Raises:
        SystemExit: none has.
    """

    def fits(steps: int) -> bool:
        narrower = replace(architecture, width=steps / 256)
        return len(to_bytes(build_model(narrower, seed=0), narrower, method, state)) <= limit

    steps = largest(fits, 64 * 256)
    if not steps:
        raise SystemExit(f"--bytes {limit}: no width of {method} is that small; give more bytes")
    return steps / 256


# Training


@contextmanager
def trained_as(method: str) -> Iterator[None]:
    """Inside the block, networks are trained with the weights of a method."""
    if method == "int8":  # after training
        yield
        return
    pruned = Pruned(int(method[-2:]) / 100) if method.startswith("pruned") else None
    build, step = prepare.build_network, loop.training_step

    def through(weight: Tensor) -> Tensor:
        return pruned(weight) if pruned is not None else quantised(QUANTISERS[method], weight)

    def counted(run: Run, pixels: Tensor, labels: Tensor) -> Tensor:
        if pruned is not None:
            pruned.done = run.position.step / (run.recipe.train.epochs * run.steps_per_epoch)
        return step(run, pixels, labels)

    def built(*args: Any, **kwargs: Any) -> nn.Module:
        return attach(build(*args, **kwargs), through)

    with mock.patch.object(prepare, "build_network", built), mock.patch.object(loop, "training_step", counted):
        yield


def recipe_of(seed: int, width: float, args: argparse.Namespace) -> Recipe:
    changes = {
        "subnetwork.seed": seed,
        "data.name": args.data,
        "data.validation": 0.1 if args.held_out else 0.0,
        "data.seed": 0,
        "model.width": width,
        "train.epochs": args.epochs,
        "train.warmup_epochs": min(2, max(1, args.epochs // 5)),
    }
    if args.data == "digits":
        changes["data.image_size"] = 12
    if args.lr is not None:
        changes["train.lr"] = args.lr
    return override(load_recipe("cifar10-fast", subnetwork={"method": "dense"}), changes)


def options_of(out: Path, args: argparse.Namespace) -> RunOptions:
    return RunOptions(out, data_dir=args.data_dir, device=args.device, resume=out.exists())


def run_one(method: str, limit: int, seed: int, args: argparse.Namespace) -> None:
    """Train until a file is within the limit, and write its row."""
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    allowed = limit
    recipe = recipe_of(seed, 1.0, args)
    data = load_data(recipe.data, data_dir=args.data_dir)
    start = resolve(recipe.model, num_classes=len(data.classes), input=data.input)
    while True:
        width = width_within(allowed, start, method, args.state)
        stem = row_file(method, limit, seed, args).with_suffix("")
        out = stem.with_name(f"{stem.name}-w{width:g}.ckpt")
        with trained_as(method):
            loop.train(recipe_of(seed, width, args), options_of(out, args))
        stored = load_checkpoint(out)
        model = build_model(replace(start, width=width), seed=0)
        model.load_state_dict(stored.model)
        file = out.with_suffix(".bin")
        file.write_bytes(to_bytes(model, replace(start, width=width), method, args.state))
        if file.stat().st_size <= limit:
            break
        allowed = min(allowed - 1, allowed * limit // file.stat().st_size)
    network = from_bytes(file.read_bytes())
    row: dict[str, Any] = {"method": method, "limit": limit, "seed": seed, "width": width}
    row |= {"lr": stored.recipe.train.lr, "weights": sum(weight.numel() for _, weight in layers(network))}
    row["bytes"] = file.stat().st_size
    with network_logits(network, data.input.normalize) as logits:
        for name, split in (("val", data.val), ("test", data.test)):
            if split is not None:
                score = evaluate(logits, split, batch_size=500, device=torch.device("cpu"))
                row[name] = 100 * score.accuracy
    assert stored.test is not None
    row["latent_test"] = 100 * stored.test["correct"] / stored.test["images"]
    save(row, row_file(method, limit, seed, args))


def row_file(method: str, limit: int, seed: int, args: argparse.Namespace) -> Path:
    rate = "" if args.lr is None else f"-lr{args.lr:g}"
    held_out = "-held-out" if args.held_out else ""
    return args.folder / f"{method}-{limit}-e{args.epochs}{rate}{held_out}-{args.state}-s{seed}.json"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="folder", help="folder, or a built-in data set such as digits (12×12)")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and files go")
    parser.add_argument("--bytes", type=number_of_bytes, nargs="+", default=[30000, 60000, 120000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, help="instead of the recipe's")
    parser.add_argument("--held-out", action="store_true", help="judge by a tenth of the training images")
    parser.add_argument(
        "--state", choices=("float32", "float16"), default="float32", help="BatchNorm, whitening, scales"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each run on a CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "BYTES", "SEED"), help="train one row, and end")
    args = parser.parse_args(words)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.one:
        run_one(args.one[0], int(args.one[1]), int(args.one[2]), args)
        return
    given = list(sys.argv[1:] if words is None else words)
    jobs = [(method, limit, seed) for limit in args.bytes for seed in args.seeds for method in args.only]

    def run(job: tuple[str, int, int]) -> None:
        if not row_file(*job, args).exists():
            subprocess.run([sys.executable, __file__, *given, "--one", *map(str, job)], check=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, jobs))
    rows = [json.loads(row_file(*job, args).read_text(encoding="utf-8")) for job in jobs]
    save({"environment": environment(), "epochs": args.epochs, "state": args.state, "rows": rows}, args.json)
    judged = "val" if args.held_out else "test"
    print(f"| limit | method | width | weights | bytes | {judged}, % | seeds |")
    print("|---:|---|---:|---:|---:|---:|---|")
    for limit in args.bytes:
        for method in args.only:
            some = [row for row in rows if (row["method"], row["limit"]) == (method, limit)]
            first, each = some[0], ", ".join(f"{row[judged]:.2f}" for row in some)
            accuracy, size = mean(row[judged] for row in some), max(row["bytes"] for row in some)
            cells = (limit, method, f"{first['width']:g}", first["weights"], size, f"{accuracy:.2f}", each)
            print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
