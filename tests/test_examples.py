"""The examples run."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from conftest import succeed

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.processes
def test_plot_metrics(digits, tmp_path):
    log, out = tmp_path / "l\udce9 $\\x$.metrics.jsonl", tmp_path / "runs.png"
    log.write_bytes((digits.folder / "model.metrics.jsonl").read_bytes())
    subprocess.run([sys.executable, EXAMPLES / "plot_metrics.py", log, "--out", out], check=True)
    with Image.open(out) as image:
        assert image.size == (1200, 480)
        assert len(image.convert("RGB").getcolors(1_000_000)) > 10, "an empty plot has few colours"


@pytest.mark.processes
def test_demo(tmp_path):
    """The demo with one epoch; it fails by itself if the four accuracies differ."""
    command = [sys.executable, EXAMPLES / "demo.py", "--folder", tmp_path / "run", "--epochs", "1"]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    for word in ("(PyTorch)", "(recovered)", "(onnxruntime)", "model.seedmask", "ONNX, packed", "codes traced back"):
        assert word in done.stdout


def diversity(monkeypatch, folder: Path, *arguments: object) -> None:
    """Run the example in this process, where torch is loaded already."""
    script = str(EXAMPLES / "mask_diversity.py")
    command = [script, "--folder", folder, "--epochs", 1, "--device", "cpu", *arguments]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    runpy.run_path(script, run_name="__main__")


@pytest.mark.slow
def test_mask_diversity(tmp_path, monkeypatch, capsys):
    """Masks of different seeds are independent; the numbers are those of `diff`."""
    diversity(monkeypatch, tmp_path, "--seeds", 4, 9, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["recipe"], found["method"], found["epochs"]) == ("digits", "iterand", 1)
    assert set(found["test_accuracy"]) == {"4", "9"}
    (pair,) = found["pairs"]
    assert pair["seeds"] == [4, 9]
    totals = json.loads(succeed("diff", *(tmp_path / f"seed{seed}.seedmask" for seed in pair["seeds"]), "--json"))[
        "totals"
    ]
    assert pair["equal_bits"] == 1 - totals["hamming_fraction"]
    assert (pair["iou"], pair["iou_by_chance"]) == (totals["iou"], totals["iou_by_chance"])
    assert pair["equal_values"] == totals["equal_value_share"]
    assert pair["equal_bits_by_chance"] == pytest.approx(0.5, abs=1e-3), "half of the weights are kept"
    # For halves of n weights the number kept in both has variance n/16, and 2/n of it is the share of equal bits.
    n = totals["weights"]
    excess = (pair["equal_bits"] - pair["equal_bits_by_chance"]) * n / 2
    assert pair["deviations"] == pytest.approx(excess / (n / 16) ** 0.5, rel=0.01)
    assert abs(pair["deviations"]) < 5


@pytest.mark.slow
def test_mask_diversity_as_a_table(tmp_path, monkeypatch, capsys):
    diversity(monkeypatch, tmp_path, "--seeds", 4, 9, 2, "--method", "edge-popup")
    table = capsys.readouterr().out
    assert "digits, edge-popup, 1 epochs" in table
    rows = [line.split()[1:3] for line in table.splitlines() if line.startswith("│")]
    assert rows == [["4", "9"], ["4", "2"], ["9", "2"]]
    accuracy = json.loads(succeed("eval", tmp_path / "seed2.seedmask", "--json"))["accuracy"]
    assert f"seed 2 {100 * accuracy:.2f} %" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "digit"), "error: recipe: unknown 'digit'; did you mean 'digits'?"),
        (("--seeds", 3, 3), "error: --seeds: expected at least two different ones"),
    ],
)
def test_mask_diversity_refuses_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        diversity(monkeypatch, tmp_path / "run", *arguments)
    assert message in f"{stopped.value.code}\n{capsys.readouterr().err}"
    assert not (tmp_path / "run").exists()
