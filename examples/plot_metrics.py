"""Loss and accuracy of one or more runs as a PNG.

    python examples/plot_metrics.py model.metrics.jsonl other.metrics.jsonl --out runs.png

Needs the extra ``plots``. ``train`` writes a ``.metrics.jsonl`` beside every checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from iterand_compress.compress.errors import import_extra
from iterand_compress.compress.files.names import printable


def epochs_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that describe an epoch."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "epoch" in line]


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("metrics.png"))
    args = parser.parse_args()
    import_extra("matplotlib", "plots", "plot_metrics.py").use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for path in args.logs:
        epochs = epochs_of(path)
        name = printable(path.name.removesuffix(".metrics.jsonl")).replace("$", r"\$")  # which would begin a formula
        numbers = [line["epoch"] for line in epochs]
        left.plot(numbers, [line["loss"] for line in epochs], label=name)
        (line,) = right.plot(numbers, [100 * line["accuracy"] for line in epochs], linestyle="--")
        validated = [(line["epoch"], 100 * line["val_accuracy"]) for line in epochs if line["val_accuracy"] is not None]
        if validated:
            right.plot(*zip(*validated, strict=True), color=line.get_color())
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="accuracy in %, training dashed, validation solid")
    left.legend()
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
