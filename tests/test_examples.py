"""The examples run."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_plot_metrics(digits, tmp_path):
    log, out = digits.folder / "model.metrics.jsonl", tmp_path / "runs.png"
    subprocess.run([sys.executable, EXAMPLES / "plot_metrics.py", log, "--out", out], check=True)
    with Image.open(out) as image:
        assert image.size == (1200, 480)
        assert len(image.convert("RGB").getcolors(1_000_000)) > 10, "an empty plot has few colours"


def test_demo(tmp_path):
    """The demo with one epoch; it fails by itself if the three accuracies differ."""
    command = [sys.executable, EXAMPLES / "demo.py", "--folder", tmp_path / "run", "--epochs", "1"]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    for word in ("(PyTorch)", "(recovered)", "(onnxruntime)", "model.seedmask"):
        assert word in done.stdout
