"""Steps with all layers fused, as on a GPU, give the bits of steps layer by layer. In Triton's interpreter.

A torch without GPUs brings no Triton, and with it nothing is fused.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fused_worker
import pytest
import torch
from networks import settings as make_settings
from torch import nn

from iterand_compress.compress.mask.fused import FusedLayers
from iterand_compress.compress.mask.layers import masked_layers
from iterand_compress.compress.mask.masking import mask_model

SCRIPT = Path(sys.executable).with_name("iterand-compress")
HERE = importlib.util.find_spec("triton") is not None

CASES = {
    "iterand": ("images", {"method": "iterand", "every": 1}, {}),
    "iterand, two draws, uniform": (
        "images",
        {"method": "iterand", "every": 1, "draws": 2, "distribution": "uniform"},
        {},
    ),
    "iterand, channels last": ("images", {"method": "iterand", "every": 1}, {"channels_last": True}),
    "iterand, bfloat16": ("images", {"method": "iterand", "every": 1}, {"rounded": True}),
    "iterand, global": ("images", {"method": "iterand", "every": 1, "scope": "global"}, {}),
    "edge-popup": ("images", {"method": "edge-popup"}, {}),
    "edge-popup, channels last, bfloat16": (
        "images",
        {"method": "edge-popup", "distribution": "normal"},
        {"channels_last": True, "rounded": True},
    ),
    "half of the mask frozen": ("images", {"method": "edge-popup", "frozen": 0.5}, {}),
    "biprop": ("images", {"method": "biprop", "distribution": "normal"}, {}),
    "signed supermask": ("images", {"method": "signed-supermask"}, {}),
    "signed supermask, normal, channels last, bfloat16": (
        "images",
        {"method": "signed-supermask", "distribution": "normal"},
        {"channels_last": True, "rounded": True},
    ),
    "signed supermask, binarised": (
        "images",
        {"method": "signed-supermask", "distribution": "normal", "binarise": True},
        {},
    ),
    "signed supermask on iterand": ("images", {"method": "iterand", "every": 1, "selection": "invert"}, {}),
    "signed supermask, padding, attention, recurrence": ("sentences", {"method": "signed-supermask"}, {}),
    "signed supermask, compiled": ("images", {"method": "signed-supermask"}, {"compiled": True}),
    "an embedding": ("words", {"method": "iterand", "every": 1}, {}),
    "an embedding, bfloat16": ("words", {"method": "iterand", "every": 1}, {"rounded": True}),
    "padding, attention, recurrence": ("sentences", {"method": "iterand", "every": 1}, {}),
    "the same in bfloat16": ("sentences", {"method": "edge-popup"}, {"rounded": True}),
    "compiled": ("images", {"method": "iterand", "every": 1}, {"compiled": True}),
    "compiled, channels last, bfloat16": (
        "images",
        {"method": "edge-popup"},
        {"compiled": True, "channels_last": True, "rounded": True},
    ),
}


def interpreted():
    os.environ["TRITON_INTERPRET"] = "1"
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*should not be instantiated. Methods on autograd", DeprecationWarning)
    # Interpreters of Triton before 3.3, with today's NumPy.
    warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0", DeprecationWarning)


@pytest.fixture(scope="module")
def worker():
    if not HERE:
        yield None
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), interpreted) as pool:
        yield pool


def test_a_cpu_goes_layer_by_layer():
    model = mask_model(nn.Sequential(nn.Linear(3, 4)), make_settings())
    assert FusedLayers.of(model, masked_layers(model)) is None


@pytest.mark.parametrize("case", CASES)
def test_fused_steps_give_the_same_bits(worker, case):
    if worker is None:
        model = mask_model(nn.Linear(3, 4), make_settings())
        assert FusedLayers.of(model, masked_layers(model)) is None
        return
    kind, settings, options = CASES[case]
    options = {"channels_last": False, "rounded": False, "compiled": False, **options}
    assert worker.submit(fused_worker.compare, kind, settings, **options).result() == []


def test_two_forward_passes_before_one_backward_pass(worker):
    if worker is not None:
        assert worker.submit(fused_worker.two_passes).result()


def test_forward_passes_of_a_subnetwork_and_its_copies_are_fused(worker):
    if worker is not None:
        assert worker.submit(fused_worker.hooks).result() == []


def test_what_cannot_be_fused_goes_layer_by_layer(worker):
    if worker is not None:
        assert worker.submit(fused_worker.one_by_one).result() == [False, False, False]


@pytest.mark.parametrize("parts", ["1", "2"])
def test_a_run_with_fused_layers_packs_to_the_same_bytes(tmp_path, parts):
    if not HERE:
        return
    files = []
    for interpret in ("0", "1"):
        out = tmp_path / f"{interpret}.ckpt"
        command = [SCRIPT, "train", "--width", "0.1", "--epochs", "1", "--set=data.validation=0.7"]
        # With channels last, the sums of a convolution depend on the layout of its weight.
        command += ["--set=subnetwork.resample.every=2", "--set=run.channels_last=false"]
        command += ["--device", "cpu", "--set=train.precision=bfloat16", "--quiet", "--accumulate", parts, "--out", out]
        environment = {**os.environ, "TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True)
        files.append(torch.load(out, weights_only=True)["model"])
    tensors = [key for key, value in files[0].items() if isinstance(value, torch.Tensor)]
    assert any(key.endswith("draws") and files[0][key].any() for key in tensors)
    assert all(torch.equal(files[0][key], files[1][key]) for key in tensors)
