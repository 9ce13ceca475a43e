"""A transformer of two blocks (332,032 weights) on `sentences`: IteRand, edge-popup and dense training, and baselines.

    python benchmarks/text.py --folder runs [--json OUT]

Each network is trained by the recipe `text` (the dense one with a smaller learning rate), packed, exported to ONNX
and evaluated in all its forms; accuracies are those of the last epoch on the 1,500 test sentences. The baselines are
logistic regressions that see which tokens a sentence has, or which pairs of neighbours, and not where. Runs go on
where they stopped, a finished run is only read.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common import environment, save
from iterand_compress import OnnxClassifier
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.loading import load_data
from runs import TrainingRun, command, stored_score, train

METHODS = {
    "IteRand": ("--method", "iterand"),
    "edge-popup": ("--method", "edge-popup"),
    "dense": ("--method", "dense", "--lr", "0.05"),
}


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train (or go on, or read) one network, and carry it through to ONNX."""
    settings = ("--recipe", "text", "--epochs", str(args.epochs), *METHODS[name], "--device", "cpu")
    out = train(TrainingRun(f"text-{name}", settings, seed), args.folder)
    source, result = out, {"name": name, "seed": seed, "accuracy": stored_score(out).accuracy}
    if name != "dense":
        source = out.with_suffix(".seedmask")
        result["file_bytes"] = command("pack", out, "--out", source)["file_bytes"]
    onnx = out.with_suffix(".onnx")
    exported = command("export", source, "--onnx", onnx)
    result |= {
        "onnx_bytes": exported["file_bytes"],
        "largest_difference": largest_difference(exported, onnx),
        "correct": [command("eval", file)["correct"] for file in dict.fromkeys((out, source, onnx))],
    }
    sizes = f"{result['file_bytes']:,} bytes, " if name != "dense" else ""
    print(
        f"{name}, seed {seed}: {100 * result['accuracy']:.2f} %, {sizes}ONNX {result['onnx_bytes']:,} bytes, "
        f"largest difference {result['largest_difference']:.1e}",
        flush=True,
    )
    return result


def largest_difference(exported: dict[str, Any], onnx: Path) -> float:
    """Of a logit, onnxruntime against PyTorch, as the export found it; the file must also take plain sentences."""
    assert OnnxClassifier(onnx).classify(["The cat chased the dog.", "The cat was chased by the dog."])
    difference: float = exported["max_abs_difference"]
    return difference


def bag(tokens: NDArray[np.int64], *, pairs: bool) -> list[list[int]]:
    """The tokens of each text, or its pairs of neighbours, without their places."""
    rows = []
    for row in tokens.tolist():
        present = [token for token in row if token]
        following = [first * 2**20 + second for first, second in itertools.pairwise(present)]
        rows.append(following if pairs else present)
    return rows


def counts(rows: list[list[int]], known: dict[int, int]) -> torch.Tensor:
    """How often each known token or pair occurs, float32 ``[n, known]``."""
    table = torch.zeros(len(rows), len(known))
    for place, row in enumerate(rows):
        for item in row:
            if item in known:
                table[place, known[item]] += 1
    return table


def baseline(*, pairs: bool) -> float:
    """Test accuracy of a logistic regression on counts."""
    data = load_data(DataConfig(name="sentences", validation=0))
    parts = [next(split.batches(len(split), "cpu")) for split in (data.train, data.test)]
    rows = [bag(tokens.numpy(), pairs=pairs) for tokens, _ in parts]
    known = {item: place for place, item in enumerate(sorted({item for row in rows[0] for item in row}))}
    train, test = (counts(part, known) for part in rows)
    weight = torch.zeros(len(known), len(data.classes), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(train @ weight, parts[0][1]) + 1e-4 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    return float(((test @ weight).argmax(dim=1) == parts[1][1]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    baselines = {"bag of words": baseline(pairs=False), "bag of neighbouring pairs": baseline(pairs=True)}
    for name, accuracy in baselines.items():
        print(f"{name}: {100 * accuracy:.2f} %", flush=True)
    runs = [run(name, seed, args) for seed in args.seeds for name in METHODS]
    means = {}
    for name in METHODS:
        of_method = [100 * result["accuracy"] for result in runs if result["name"] == name]
        means[name] = statistics.mean(of_method)
        print(f"{name}: {means[name]:.2f} % (n = {len(of_method)}, {min(of_method):.2f} to {max(of_method):.2f})")
    save({"environment": environment(), "baselines": baselines, "means": means, "runs": runs}, args.json)


if __name__ == "__main__":
    main()
