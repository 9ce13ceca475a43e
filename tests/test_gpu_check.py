"""benchmarks/gpu_check.py without a GPU: what fails, or takes too long, is recorded and stops nothing else."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import gpu_check

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('{\"value\": 3}'); "


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_results_come_from_the_file_or_from_what_is_printed():
    assert gpu_check.run(python(WRITE), 60)["value"] == 3
    assert gpu_check.run(python("print('{\"value\": 4}')"), None, prints=True)["value"] == 4


def test_a_part_that_fails_is_recorded_with_what_it_had_found():
    result = gpu_check.run(python(WRITE + "sys.exit('no such GPU')"), 60)
    assert (result["value"], result["error"], result["output"]) == (3, "exit status 1", "no such GPU\n")


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended():
    program = WRITE + "import time; print('so far', flush=True); time.sleep(600)"
    result = gpu_check.run(python(program), gpu_check.LEAST)
    assert (result["value"], result["error"], result["output"]) == (3, "longer than 5 s", "so far\n")
    assert result["seconds"] < 300


def test_a_part_without_time_does_not_begin():
    assert gpu_check.run(["/nowhere"], 1.0) == {"error": "not run: no time left", "seconds": 0.0}


@pytest.mark.parametrize(
    ("seconds", "startup", "epoch", "expected"),
    [(80, 12, 3, 20), (80, 12, 0.1, 100), (10, 12, 3, 1), (80, 12, 60.1, 1)],
)
def test_epochs_that_fit_into_the_time(seconds, startup, epoch, expected):
    assert gpu_check.epochs_within(seconds, startup, epoch) == expected


def test_every_model_is_measured_eagerly_before_any_is_compiled():
    args = Namespace(
        models=["resnet50", "resnet18"], batch_sizes=[128, 512], modes=["reduce-overhead", "default"], image_size=None
    )
    found = [
        (part["model"], part["image-size"], part["batch-size"], part.get("compile"))
        for part in gpu_check.configurations(args)
    ]
    assert found[:4] == [
        ("resnet18", 32, 128, None),
        ("resnet50", 224, 128, None),
        ("resnet18", 32, 512, None),
        ("resnet50", 224, 512, None),
    ]
    assert [part[3] for part in found[4:]] == ["reduce-overhead"] * 4 + ["default"] * 4


def test_a_stopped_run_goes_on(tmp_path):
    args = Namespace(data_dir=Path("images"), device="cuda", width=None)
    out = tmp_path / "iterand-1.ckpt"
    words = gpu_check.training("iterand", 1, 100, out, args)
    assert words[words.index("--seed") + 1] == "1"
    assert "--resume" not in words
    out.touch()
    words = gpu_check.training("iterand", 1, 100, out, args)
    assert "--resume" in words
    assert "--epochs" not in words


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    done = []

    def train(method, seed, *args):
        done.append((method, seed))
        if (method, seed) == ("dense", 1):
            return {"method": method, "error": "exit status 7"}
        return {"method": method, "test_accuracy": 0.5}

    monkeypatch.setattr(gpu_check, "train", train)
    args = Namespace(folder=tmp_path, seeds=[0, 1], epochs=100, json=tmp_path / "results.json")
    gpu_check.full_runs(args, {})
    assert len(done) == 6
    gpu_check.full_runs(args, {})
    assert done[6:] == [("dense", 1)]
    runs = json.loads(args.json.read_text())["runs"]
    assert [run.get("test_accuracy") for run in runs] == [0.5] * 5 + [None]


def test_the_table_has_a_line_for_each_part():
    about = {"model": "resnet18", "image-size": 32, "batch-size": 128}
    fine = {"iterand_over_dense": 1.04, "edge_popup_over_dense": 1.03, "resampling_event_seconds": 0.002}
    fine |= {"images_per_second": {"iterand": 20000.0}, "iterand_peak_over_dense": {"tensors": 1.01}}
    results = {
        "exact": {"seconds": 30.0, "checks": {"masks": True, "weights": False}},
        "search": {"seconds": 9.0, "find_ms, cold": 0.25},
        "steps": [
            {"configuration": about, **fine},
            {"configuration": {**about, "compile": "default"}, "error": "longer than 150 s"},
        ],
        "cifar10": {"runs": [{"method": "dense", "epochs": 9, "test_accuracy": 0.91}]},
    }
    lines = gpu_check.table(results).splitlines()
    assert "wrong: weights" in lines[0]
    assert lines[2].split() == ["find_ms,", "cold", "0.250"]
    assert lines[3] == (
        "resnet18 32 px, batch 128, eager: IteRand/dense 1.040, edge-popup/dense 1.030, 20,000 images/s, "
        "peak memory 1.010, event 2.00 ms"
    )
    assert lines[4] == "resnet18 32 px, batch 128, default: longer than 150 s"
    assert lines[5] == "CIFAR-10, ResNet-18, 9 epochs, dense: 91.00 %"
