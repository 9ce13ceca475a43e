"""Draw the pipeline from a seed to a file and back, for README.md.

    python docs/make_pipeline.py        # writes docs/pipeline.svg

The picture is plain text on a ground of its own, so it can be read on light and dark pages alike.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["picture"]

_TITLE = "A seed gives random weights, training finds a mask; the file stores seed, mask and log."
_STYLE = """
  text { font: 15px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .small { font-size: 12.5px; fill: #59636e; }
  .bold { font-weight: 600; }
  .ground { fill: #ffffff; stroke: #d1d9e0; }
  .box { fill: #f6f8fa; stroke: #818b98; }
  .stored { fill: #ddf4ff; stroke: #0969da; }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.5; marker-end: url(#head); }
  .dashed { stroke-dasharray: 5 4; }
  #head path { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .ground { fill: #0d1117; stroke: #3d444d; }
    .box { fill: #151b23; stroke: #9198a1; }
    .stored { fill: #121d2f; stroke: #4493f8; }
    .arrow { stroke: #9198a1; }
    #head path { fill: #9198a1; }
  }
"""


def _text(x: int, y: int, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def _box(x: int, y: int, width: int, title: str, below: str, kind: str = "box") -> str:
    """A box of height 56 with its left upper corner at (x, y)."""
    middle = x + width // 2
    return "\n".join(
        (
            f'<rect x="{x}" y="{y}" width="{width}" height="56" rx="8" class="{kind}"/>',
            _text(middle, y + 25, title, "bold"),
            _text(middle, y + 44, below, "small"),
        )
    )


def _arrow(path: str, kind: str = "") -> str:
    return f'<path d="{path}" class="{f"arrow {kind}".strip()}"/>'


def picture() -> str:
    """The text of the SVG file."""
    shapes = (
        '<rect x="0.5" y="0.5" width="959" height="419" rx="12" class="ground"/>',
        # Training: random weights above, scores below; where they meet, masked weights.
        _text(24, 34, "Training", "bold", "start"),
        _box(24, 50, 150, "seed", "64 bits", "stored"),
        _arrow("M 174 78 H 228"),
        _box(234, 50, 190, "random weights", "Philox, never trained"),
        _arrow("M 424 78 H 500 V 110"),
        _box(24, 170, 150, "scores", "what is trained"),
        _arrow("M 174 198 H 228"),
        _box(234, 170, 190, "mask", "the k largest scores", "stored"),
        _arrow("M 424 198 H 500 V 178"),
        _box(450, 116, 190, "masked weights", "kept, or zero"),
        _arrow("M 640 144 H 694"),
        _box(700, 116, 110, "network", "any model"),
        _arrow("M 810 144 H 854"),
        _text(884, 149, "loss"),
        # What training changes.
        _arrow("M 884 160 V 244 H 99 V 232", "dashed"),
        _text(560, 238, "gradient", "small"),
        _arrow("M 329 170 V 112", "dashed"),
        _text(321, 136, "IteRand redraws", "small", "end"),
        _text(321, 152, "pruned weights", "small", "end"),
        # The file.
        _text(24, 296, "File", "bold", "start"),
        _box(24, 312, 400, ".seedmask", "seed + mask + log of the redraws + BatchNorm", "stored"),
        _text(24, 396, "recovered bit for bit on any machine", "small", "start"),
        _arrow("M 424 340 H 478"),
        _box(484, 312, 140, "PyTorch", "stock layers"),
        _box(648, 312, 140, "ONNX", "stock onnxruntime"),
        _box(800, 312, 140, "C99", "no Python"),
        _arrow("M 454 340 V 290 H 718 V 306"),
        _arrow("M 718 290 H 870 V 306"),
    )
    return "\n".join(
        (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 420" role="img" aria-labelledby="title">',
            f'<title id="title">{_TITLE}</title>',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"',
            ' orient="auto"><path d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>',
            *shapes,
            "</svg>\n",
        )
    )


if __name__ == "__main__":
    Path(__file__).with_name("pipeline.svg").write_text(picture(), encoding="utf-8")
