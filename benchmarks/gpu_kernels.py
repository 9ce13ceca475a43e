"""Whether a GPU computes the bits that NumPy and torch compute, and how long it takes to find the masks.

    python benchmarks/gpu_kernels.py exact --json exact.json
    python benchmarks/gpu_kernels.py search --json search.json

``exact``: weights, scores, decisions and single draws against the NumPy reference; recovery of a packed network; the
Triton kernels against plain torch. ``search``: time of the masks of ResNet-50. Both on scores of its layers.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import environment, save
from iterand_compress import ImageInput, IteRand, pack, read_seedmask
from iterand_compress.compress.config import ModelConfig
from iterand_compress.compress.mask.fused import FusedLayers
from iterand_compress.compress.mask.kernels import (
    CutSearch,
    LayerTable,
    masked_weights,
    masks,
    resample,
    score_gradient,
)
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model, refresh
from iterand_compress.compress.mask.topk import select
from iterand_compress.compress.models import resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.recover import recover_on_device
from iterand_compress.compress.seed.codebooks import CODEBOOKS, random_codes
from iterand_compress.compress.seed.philox import Purpose, random_words
from iterand_compress.compress.seed.philox_torch import (
    bytes_at,
    random_bytes,
    random_scores,
    random_weights,
    resampling_decisions,
    weights_at,
)

TARGET_MS = 0.3
SPARSITY = 0.6
SEED = 2**63 + 5
BOUND = 0.1


def equal_bits(got: Tensor, expected: np.ndarray[Any, Any]) -> bool:
    return bool(np.array_equal(got.cpu().numpy().view(np.uint8), expected.view(np.uint8)))


def same(got: Tensor, expected: Tensor) -> bool:
    """Bit for bit: -0 is not +0."""
    return torch.equal(got.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))


def check_generator(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, bool]]:
    for count in (1, min(40_961, args.largest), args.largest):
        for book in CODEBOOKS.values():
            scale = book.scale(27)
            initial = random_codes(SEED, 3, book, 0, count).astype(np.float32) * scale
            got = random_weights(SEED, 3, book, scale, count, device)
            yield f"weights {book.name} {count}", equal_bits(got, initial)
            draws = (np.arange(count) % 23).astype(np.uint8)
            redrawn = random_codes(SEED, 3, book, 0, count, draws).astype(np.float32) * scale
            index = torch.arange(count, device=device)
            got = weights_at(SEED, 3, book, scale, index, torch.from_numpy(draws).to(device))
            yield f"redrawn {book.name} {count}", equal_bits(got, redrawn)
        words = random_words(7, count, draw=0, tensor=1, purpose=Purpose.SCORES)
        unit = (words >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
        yield f"scores {count}", equal_bits(random_scores(7, 1, BOUND, count, device), unit * np.float32(BOUND))
        words = random_words(7, -(-count // 2), draw=4, tensor=1, purpose=Purpose.RESAMPLING)
        halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)[:count]
        yield f"decisions {count}", equal_bits(resampling_decisions(7, 1, 4, 6554, count, device), halves < 6554)


def check_recovery(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, bool]]:
    """A network that was redrawn on the device is packed, and recovered there and by NumPy."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Linear(args.largest // 4096 + 1, 512)).to(device)
    mask_model(model, IteRand(SPARSITY, seed=SEED, every=1))
    layers = FusedLayers.of(model, masked_layers(model))
    for step in range(3):
        refresh(masked_layers(model), step, fused=layers)
        with torch.no_grad():
            for _, _, scores in masked_layers(model):
                scores.add_(torch.randn_like(scores), alpha=1e-2)
    weights = {}
    for name, _, _ in masked_layers(model):
        layer, _, tensor = name.rpartition(".")
        weights[name] = getattr(model.get_submodule(layer), tensor)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.seedmask"
        pack(model, path)
        file = read_seedmask(path)
        host, there = file.weights(), recover_on_device(file, device)
    for name, weight in weights.items():
        yield f"recovered by NumPy {name}", equal_bits(weight.detach(), host[name])
        yield f"recovered on the device {name}", same(weight.detach(), there[name])


class Layers:
    """Random scores and codes of the layers of ResNet-50, of at most ``limit`` weights each."""

    def __init__(self, device: torch.device, limit: int | None, selection: str = "signed") -> None:
        architecture = resolve(ModelConfig(name="resnet50"), num_classes=1000, input=ImageInput((3, 224, 224), 0, 1))
        network = build_model(architecture, seed=0)
        shapes = [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        kernels = [(shape[1], math.prod(shape[2:])) for shape in shapes]
        sizes = [math.prod(shape) for shape in shapes]
        if limit is not None:
            inner = [math.prod(kernel) for kernel in kernels]
            sizes = [part * max(1, min(size, limit) // part) for size, part in zip(sizes, inner, strict=True)]
        self.kernels, self.sizes, self.selection = kernels, sizes, selection
        self.scores = [random_scores(7, index, BOUND, size, device) for index, size in enumerate(sizes)]
        self.kept = [size - math.floor(SPARSITY * size + 0.5) for size in sizes]
        self.table = LayerTable(sizes, selection, device, kernels=kernels)
        self.counts = torch.tensor(self.kept, device=device)
        self.generator = torch.Generator(device).manual_seed(1)

    def drift(self, by: float) -> None:
        """A step of a training: every score moves by a random number."""
        for scores in self.scores:
            scores.add_(torch.randn(scores.shape, device=scores.device, generator=self.generator), alpha=by * BOUND)

    def by_torch(self) -> list[Tensor]:
        return [select(s, kept, self.selection) for s, kept in zip(self.scores, self.kept, strict=True)]


def check_masks(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, bool]]:
    for selection in ("signed", "magnitude"):
        layers = Layers(device, args.limit, selection)
        search = CutSearch(layers.table)

        def compare(layers: Layers = layers, search: CutSearch = search) -> bool:
            cuts = search.find(layers.scores, layers.counts)
            found = masks(layers.table, layers.scores, cuts)
            equal = all(torch.equal(a, b) for a, b in zip(found, layers.by_torch(), strict=True))
            return equal and bool(cuts.proven(layers.counts).all())

        yield f"masks {selection}, 24-bit scores, cold", compare()
        for by in (1e-3, 1e-6, 0.3):
            layers.drift(by)
            yield f"masks {selection}, warm, after a move by {by}", compare()
        for scores in layers.scores:
            scores.mul_(1000).round_().div_(1000)  # a hundred thousand at the threshold of a large layer
        yield f"masks {selection}, many ties, warm", compare()
        search.forget()
        yield f"masks {selection}, many ties, cold", compare()
        for scores in layers.scores:
            scores.fill_(-0.0)
            scores[::2] = 0.0
        yield f"masks {selection}, zeros of both signs", compare()


def check_weights(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, bool]]:
    layers, book = Layers(device, args.limit), CODEBOOKS["normal"]
    entries = torch.tensor(book.entries, device=device)
    codes = [entries[random_bytes(SEED, index, size, device).long()] for index, size in enumerate(layers.sizes)]
    units = torch.tensor([float(book.scale(math.prod(kernel))) for kernel in layers.kernels], device=device)
    numbers = units.tolist()
    cuts = CutSearch(layers.table).find(layers.scores, layers.counts)
    expected = layers.by_torch()
    full = [torch.where(m, c.float() * u, 0.0) for m, c, u in zip(expected, codes, numbers, strict=True)]

    def last(flat: Tensor, kernel: tuple[int, int]) -> Tensor:
        return flat.view(-1, *kernel).transpose(1, 2).reshape(-1)

    for dtype in (torch.float32, torch.bfloat16):
        plain = masked_weights(layers.table, layers.scores, cuts, codes, units, dtype=dtype)
        yield f"weights {dtype}", all(same(a, b.to(dtype)) for a, b in zip(plain, full, strict=True))
        turned = masked_weights(layers.table, layers.scores, cuts, codes, units, dtype=dtype, channels_last=True)
        want = [last(weight.to(dtype), kernel) for weight, kernel in zip(full, layers.kernels, strict=True)]
        yield f"weights {dtype}, channels last", all(same(a, b) for a, b in zip(turned, want, strict=True))
        for name, signs in (("signed", [None] * len(codes)), ("magnitude", layers.scores)):
            equal = True
            for code, unit, sign, kernel in zip(codes, numbers, signs, layers.kernels, strict=True):
                grad = torch.randn(len(code), device=device, generator=layers.generator).to(dtype)
                plain_gradient = grad.float() * (code.float() * unit)
                if sign is not None:
                    plain_gradient = plain_gradient * sign.sign()
                equal &= same(score_gradient(grad, code, unit, sign), plain_gradient)
                equal &= same(score_gradient(last(grad, kernel), code, unit, sign, kernel=kernel), plain_gradient)
            yield f"gradients {dtype}, {name}", equal
    inverting = Layers(device, args.limit, "invert")
    own_cuts = CutSearch(inverting.table).find(inverting.scores, inverting.counts)
    found = masked_weights(inverting.table, inverting.scores, own_cuts, codes, units)
    signed = [torch.where(scores < 0, -code, code) for scores, code in zip(inverting.scores, codes, strict=True)]
    want = [torch.where(m, c.float() * u, 0.0) for m, c, u in zip(inverting.by_torch(), signed, numbers, strict=True)]
    yield "weights torch.float32, inverted", all(same(a, b) for a, b in zip(found, want, strict=True))
    for chance, cycle in ((6554, 256), (65536, 3)):
        draws = [torch.full_like(code, cycle - 1, dtype=torch.uint8) for code in codes]
        want = []
        for index, (code, draw, mask) in enumerate(zip(codes, draws, expected, strict=True)):
            chosen = resampling_decisions(SEED, index, 5, chance, len(code), device) & ~mask
            where = chosen.nonzero().squeeze(1)
            drawn = (draw[where].int() + 1) % cycle
            want.append((code.clone(), draw.clone()))
            want[-1][0][where] = entries[bytes_at(SEED, index, where, drawn)]
            want[-1][1][where] = drawn.to(torch.uint8)
        resample(
            layers.table, layers.scores, cuts, codes, draws, book=entries, seed=SEED, event=5, chance=chance,
            tensors=torch.arange(len(codes), device=device), cycle=cycle,
        )  # fmt: skip
        equal = all(
            torch.equal(code, a) and torch.equal(draw, b) for code, draw, (a, b) in zip(codes, draws, want, strict=True)
        )
        yield f"redraws {chance}/65536 of {cycle} values", equal


def milliseconds(
    device: torch.device, function: Callable[[], Any], rounds: int, before: Callable[[], Any] = lambda: None
) -> float:
    """Median; what comes before each is not counted."""
    found: list[Any] = []
    for _ in range(rounds + 3):
        before()
        if device.type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            function()
            events[1].record()
            found.append(events)
        else:
            began = time.perf_counter()
            function()
            found.append(1e3 * (time.perf_counter() - began))
    if device.type == "cuda":
        torch.cuda.synchronize()
        found = [begin.elapsed_time(end) for begin, end in found]
    return statistics.median(found[3:])


def time_search(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Any]]:
    """What is measured, one after the other."""
    layers = Layers(device, args.limit)
    search = CutSearch(layers.table)
    yield "weights", sum(layers.sizes)
    yield "layers", len(layers.sizes)
    yield "target_ms", TARGET_MS

    def find() -> Any:
        return search.find(layers.scores, layers.counts)

    def cold() -> None:
        layers.drift(1e-3)
        search.forget()

    for by in (1e-2, 1e-3, 1e-4):
        yield f"find_ms, scores moved by {by}", milliseconds(device, find, args.rounds, lambda by=by: layers.drift(by))
    yield "find_ms, cold", milliseconds(device, find, args.rounds, cold)
    if device.type == "cuda":
        find()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            cuts = find()
        yield "find_ms, CUDA graph", milliseconds(device, graph.replay, args.rounds, lambda: layers.drift(1e-3))
        found = masks(layers.table, layers.scores, cuts)
        yield "graph_is_right", all(torch.equal(a, b) for a, b in zip(found, layers.by_torch(), strict=True))
    cuts = find()
    codes = [torch.ones(size, dtype=torch.int8, device=device) for size in layers.sizes]
    units = torch.ones(len(codes), device=device)
    for channels_last in (False, True):
        name = "weights_ms, bfloat16" + (", channels last" if channels_last else "")
        took = milliseconds(
            device,
            lambda last=channels_last: masked_weights(
                layers.table, layers.scores, cuts, codes, units, dtype=torch.bfloat16, channels_last=last
            ),
            args.rounds,
        )
        yield name, took
    grads = [torch.ones(size, dtype=torch.bfloat16, device=device) for size in layers.sizes]
    for channels_last in (False, True):
        name = "gradients_ms, bfloat16" + (", channels last" if channels_last else "")
        took = milliseconds(
            device,
            lambda last=channels_last: [
                score_gradient(grad, code, 0.5, kernel=kernel if last else None)
                for grad, code, kernel in zip(grads, codes, layers.kernels, strict=True)
            ],
            args.rounds,
        )
        yield name, took
    draws = [torch.zeros_like(code, dtype=torch.uint8) for code in codes]
    book, tensors = torch.ones(256, dtype=torch.int8, device=device), torch.arange(len(codes), device=device)
    took = milliseconds(
        device,
        lambda: resample(
            layers.table,
            layers.scores,
            cuts,
            codes,
            draws,
            book=book,
            tensors=tensors,
            seed=1,
            event=1,
            chance=6554,
            cycle=256,
        ),
        args.rounds,
    )
    yield "resample_ms", took
    yield "plain_torch_masks_ms", milliseconds(device, layers.by_torch, min(args.rounds, 5))


def gather(part: Callable[..., Any], args: argparse.Namespace, device: torch.device, checks: dict[str, bool]) -> str:
    """Add the checks of a part; what went wrong, if it did not come to its end: the other parts are worth having."""
    try:
        checks.update(part(args, device))
    except Exception:  # noqa: BLE001
        error = traceback.format_exc()
        print(error)
        return error
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["exact", "search"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--largest", type=int, default=10_000_000, help="weights of the largest generated tensor")
    parser.add_argument("--limit", type=int, help="weights of a layer of ResNet-50, at most")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    results: dict[str, Any] = {"environment": environment()}
    if args.part == "search":
        for name, value in time_search(args, device):
            results[name] = value
            print(f"  {name:<40} {value:,}" if "_ms" not in name else f"  {name:<40} {value:9.3f}", flush=True)
            save(results, args.json)
        return
    checks: dict[str, bool] = {}
    errors: dict[str, str] = {}
    for part in (check_generator, check_recovery, check_masks, check_weights):
        error = gather(part, args, device, checks)
        if error:
            errors[part.__name__] = error
        save({**results, "checks": checks, "errors": errors}, args.json)
    wrong = [name for name, fine in checks.items() if not fine]
    print(f"{len(checks) - len(wrong)} checks equal; wrong: {', '.join(wrong) or 'none'}")
    sys.exit(1 if wrong or errors else 0)


if __name__ == "__main__":
    main()
