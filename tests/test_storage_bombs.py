"""Small files that declare very many weights: refused before they cost memory, unless the user says otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_files.make import FOLDER

from conftest import fail, invoke, succeed
from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.recover import load, load_ticket
from iterand_compress.compress.seedmask import (
    MaskedTensor,
    Network,
    default_max_weights,
    dumps,
    loads,
    read_seedmask,
    write_seedmask,
)

BOMB = FOLDER / "shape-bomb.seedmask"
REFUSAL = "expected at most 16777216 weights, got 536870912; raise max_weights (--max-weights 536870912)"
SIDE = 2**13  # of the square below, which has four times as many weights as any small file may


def sparse(kept: int) -> Network:
    """67 million weights, of which few or all are kept."""
    mask = np.zeros(SIDE * SIDE, np.bool_)
    mask[np.random.default_rng(1).choice(mask.size, kept, replace=False) if kept < mask.size else slice(None)] = True
    return Network(seed=5, tensors=(MaskedTensor("w", (SIDE, SIDE), "signed-constant", np.float32(0.5), mask),))


@pytest.mark.parametrize(
    "command",
    [
        ("inspect",),
        ("verify",),
        ("recover",),
        ("diff", BOMB),
        ("eval", "--data", "digits"),
        ("export", "--onnx"),
        ("ablate",),
        ("train", "--out", "x.ckpt", "--ticket"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_refuses_it(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*command, BOMB) if command[0] == "train" else (command[0], BOMB, *command[1:])
    if command[0] == "export":
        words = (*words, tmp_path / "x.onnx")
    if command[0] == "recover":
        words = (*words, "--out", tmp_path / "w.safetensors")
    line = fail(1, *words)
    assert f"{BOMB}: {REFUSAL}" in line
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize("read", [read_seedmask, load, load_ticket], ids=lambda read: read.__name__)
def test_every_function_refuses_it_and_has_the_option(read) -> None:
    with pytest.raises(SeedMaskError, match="expected at most 16777216 weights, got 536870912"):
        read(BOMB)
    with pytest.raises(SeedMaskError, match="expected at most 7 weights"):
        read(BOMB, max_weights=7)


@pytest.mark.processes
def test_it_costs_no_memory() -> None:
    """2.1 GB of float32 were taken before; the numbers of the import alone are subtracted."""
    program = (
        "import resource, sys\n"
        "from iterand_compress.compress.seedmask import loads\n"
        "from iterand_compress.compress.errors import SeedMaskError\n"
        "data, peak = open(sys.argv[1], 'rb').read(), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try:\n"
        "    loads(data).weights()\n"
        "except SeedMaskError:\n"
        "    print((peak() - before) // 1024)\n"
    )
    found = subprocess.run([sys.executable, "-c", program, BOMB], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 32, "MB"


@pytest.mark.slow
def test_honest_files_pass_and_extreme_ones_are_named(tmp_path: Path) -> None:
    """99.9 % sparsity at any size; a mask that says next to nothing is for those who ask for it."""
    usual = dumps(sparse(SIDE * SIDE // 1000))
    assert len(usual) * 1024 > SIDE * SIDE
    assert loads(usual).tensors[0].kept == SIDE * SIDE // 1000
    extreme = tmp_path / "all.seedmask"
    report = write_seedmask(sparse(SIDE * SIDE), extreme)
    assert report.file_bytes < 6 * report.weights // 2**17 + 2000
    assert report.weights > default_max_weights(report.file_bytes)
    assert f"--max-weights {SIDE * SIDE})" in fail(1, "inspect", extreme)
    totals = json.loads(succeed("inspect", extreme, "--max-weights", SIDE * SIDE, "--json"))["totals"]
    assert totals["weights"] == SIDE * SIDE


def test_pack_says_that_readers_will_ask(digits, tmp_path, monkeypatch) -> None:
    from iterand_compress.compress import seedmask as storage

    assert "readers refuse" not in succeed("pack", digits.checkpoint, "--out", tmp_path / "a.seedmask")
    monkeypatch.setattr(storage, "default_max_weights", lambda size: 1000)
    text = invoke("pack", digits.checkpoint, "--out", tmp_path / "b.seedmask").stdout
    weights = sum(entry.weights for entry in read_seedmask(tmp_path / "b.seedmask").tensors)
    assert f"unless told --max-weights {weights}\n" in text
