"""The kernels as machine code for GPUs that are not there: what can be told of it without running it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("compile_worker.py")
TOOL = "nvidia/bin/cuobjdump"
KERNELS = {"refine", "break_ties", "write_masks", "write_weights", "write_score_gradient", "redraw"}


def can_compile():
    """Whether there is a Triton, with the tools for these GPUs."""
    triton = importlib.util.find_spec("triton")
    return triton is not None and Path(triton.origin).with_name("backends").joinpath(TOOL).exists()


@pytest.fixture(scope="module", params=["80", "90"])
def compiled(request, tmp_path_factory):
    """All kernels for a compute capability; none where they cannot be compiled."""
    if not can_compile():
        return []
    cache = str(tmp_path_factory.mktemp("triton"))  # nothing that was compiled before
    done = subprocess.run(
        [sys.executable, WORKER, request.param],
        env={**os.environ, "TRITON_CACHE_DIR": cache, "TRITON_INTERPRET": "0"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    assert {kernel["kernel"] for kernel in found} == KERNELS
    assert all(f".target sm_{request.param}" in kernel["ptx"] for kernel in found)
    return found


def test_no_product_is_contracted_with_a_sum(compiled):
    """Each product of a weight and each of a gradient is rounded once, as torch and NumPy do it."""
    for kernel in compiled:
        assert not re.search(r"\bfma\.\w+\.f32", kernel["ptx"]), kernel["kernel"]
        assert not re.search(r"\.ftz\.", kernel["ptx"]), kernel["kernel"]  # small gradients stay what they are
    assert all("mul.f32" in k["ptx"] or "mul.rn.f32" in k["ptx"] for k in compiled if k["kernel"] == "write_weights")


def test_memory_is_read_sixteen_bytes_at_a_time(compiled):
    for kernel in compiled:
        wide = re.search(r"ld\.global[.\w]*\.v4\.", kernel["ptx"])
        assert bool(wide) == (kernel["kernel"] not in {"refine", "break_ties"}), kernel["kernel"]


def test_two_programs_of_the_search_fit_on_a_multiprocessor(compiled):
    """Of 65,536 registers: 64 for each of 2 × 512 threads; what does not fit goes to the stack, and is little."""
    for kernel in compiled:
        assert kernel["stack"] <= 32, kernel["kernel"]
        if kernel["kernel"] in {"refine", "break_ties"}:
            assert kernel["reg"] <= 64
            assert ".reqntid 512" in kernel["ptx"] or ".maxntid 512" in kernel["ptx"]
