"""The networks that come with the package beside published ones: accuracy against bytes, on CIFAR-10 and MNIST.

    python benchmarks/beside_published.py --png OUT [--baselines baselines.json]

Ours are read from the table of compress/trained/README.md; `--baselines` adds rows that benchmarks/baselines.py wrote.
Published sizes are those of their authors, or computed from their bits for each weight; they were trained and tested on
the original images, while ours for CIFAR-10 saw JPEG copies.
"""

from __future__ import annotations

import argparse
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from frontier_plot import COLOURS, GREY, label_bytes

#: Data: (name, bytes, accuracy in %, source).
PUBLISHED = {
    "cifar10": [
        ("depthwise CNN, 4 bits, flips", 12_200, 81.68, "Rome-1/tiny-cifar"),
        ("depthwise CNN, 4 bits, flips", 38_900, 85.07, "Rome-1/tiny-cifar"),
        ("IR-Net ResNet-20, 1 bit, computed", 40_500, 90.8, "htqin/IR-Net"),
        ("LilNetX ResNet-20-4", 66_000, 91.5, "arXiv 2204.02965, second-hand"),
        ("LilNetX VGG-16", 129_000, 92.6, "arXiv 2204.02965, second-hand"),
        ("ResNet-20, mixed precision", 70_000, 92.47, "HeterogeneousQuantization"),
        ("tiled bits, ResNet-18, computed", 96_000, 91.2, "arXiv 2407.12075, second-hand"),
        ("tiled bits, ResNet-18, computed", 357_000, 93.1, "arXiv 2407.12075, second-hand"),
        ("ResNet-8, int8", 98_496, 86.5, "MLPerf Tiny"),
        ("MPT-1/32 VGG-Small, 95 % pruned, computed", 165_000, 91.48, "chrundle/biprop"),
        ("signed supermask ResNet-20, computed", 32_000, 81.68, "kosnil/signed_supermasks"),
        ("IteRand ResNet-18, 50 %, computed", 1_400_000, 92.61, "arXiv 2106.09269"),
    ],
    "mnist": [
        ("BitNetMCU CNN, program included", 16_000, 99.55, "cpldcpu/BitNetMCU"),
        ("kilobyte model", 2_000, 98.6, "second-hand"),
    ],
}
FOLDER = Path(str(resources.files("iterand_compress.compress.trained")))
ROW = re.compile(
    r"\| `(?P<name>[\w.-]+)` \| (?P<bytes>[\d,]+) \| (?P<weights>[\d,]+) \| (?P<percent>[\d.]+) % \((?P<right>[\d,]+) "
    r"of (?P<of>[\d,]+)\) \| (?P<data>\S+) \| (?P<seed>\d+) \| `(?P<digest>[0-9a-f]{64})` \|"
)


def trained() -> list[dict[str, str]]:
    """The rows of the table of the files that come with the package, as they are written."""
    return [found.groupdict() for found in ROW.finditer((FOLDER / "README.md").read_text(encoding="utf-8"))]


def number(text: str) -> int:
    """A number of the table."""
    return int(text.replace(",", ""))


def panel(axes: Any, data: str, baselines: list[dict[str, Any]]) -> None:
    published = PUBLISHED[data]
    mine = sorted(
        (
            (Path(row["name"]).stem, number(row["bytes"]), float(row["percent"]))
            for row in trained()
            if row["data"] == data
        ),
        key=lambda row: row[1],
    )
    axes.plot([row[1] for row in mine], [row[2] for row in mine], "o-", color=COLOURS[0], label="ours: seed and mask")
    axes.plot(
        [row[1] for row in published], [row[2] for row in published], "s", mfc="none", color=GREY, label="published"
    )
    for name, size, percent, *_ in (*mine, *published):
        axes.annotate(name, (size, percent), (5, -9), textcoords="offset points", fontsize=7, color=GREY)
    if data == "cifar10":
        for colour, method in zip(COLOURS[1:], sorted({row["method"] for row in baselines}), strict=False):
            rows = sorted((row for row in baselines if row["method"] == method), key=lambda row: row["bytes"])
            axes.plot([row["bytes"] for row in rows], [row["test"] for row in rows], "^:", color=colour, label=method)
    axes.set(xscale="log", title=data, xlabel="bytes", ylabel="accuracy on the test images, %")
    axes.margins(x=0.25)
    label_bytes(axes)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--baselines", type=Path, help="JSON that benchmarks/baselines.py wrote")
    args = parser.parse_args()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    baselines = json.loads(args.baselines.read_text(encoding="utf-8"))["rows"] if args.baselines else []
    figure = Figure(figsize=(15, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, data in zip(figure.subplots(1, len(PUBLISHED), width_ratios=(2, 1)), PUBLISHED, strict=True):
        panel(axes, data, baselines)
    figure.savefig(args.png, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
