"""What test_kernels_compile.py runs in a process of its own: every kernel, compiled for a GPU that is not there.

    python compile_worker.py CAPABILITY

Launches go through the functions that users call, with tensors of the CPU, as far as the machine code. It prints JSON:
for each kernel its name, its constants, PTX, and the registers and bytes of stack of the machine code.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from iterand_compress.compress.mask.kernels import (
    CutSearch,
    LayerTable,
    masked_weights,
    masks,
    resample,
    score_gradient,
)

CPU = torch.device("cpu")
SIZES = [3 * 64 * 49, 64 * 64 * 9, 512 * 1000]
KERNELS = [(3, 49), (64, 9), (512, 1)]
found: list[dict[str, Any]] = []


class Absent:
    """The driver of a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack, where registers that there are too few of would go."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([program, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return {name.lower(): int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", printed)}


def compiling(original: Any) -> Any:
    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = original(self, *args, grid=grid, warmup=True, **options)
        constants = {name: value for name, value in options.items() if name.isupper()}
        dtypes = sorted({str(value.dtype) for value in args if isinstance(value, torch.Tensor)})
        about = {"kernel": kernel.metadata.name, "constants": constants, "dtypes": dtypes}
        found.append({**about, "ptx": kernel.asm["ptx"], **resources(kernel.asm["cubin"])})
        return kernel

    return run


def launch_all(selection: str, *, fixed: bool) -> None:
    pairs = [(torch.zeros(size, dtype=torch.bool),) * 2 for size in SIZES] if fixed else None
    layers = LayerTable(SIZES, selection, CPU, fixed=pairs, kernels=KERNELS)
    scores, codes = [torch.zeros(n) for n in SIZES], [torch.zeros(n, dtype=torch.int8) for n in SIZES]
    draws = [torch.zeros(n, dtype=torch.uint8) for n in SIZES]
    cuts = CutSearch(layers).find(scores, torch.tensor([n // 2 for n in SIZES]))
    masks(layers, scores, cuts)
    for dtype in (torch.float32, torch.bfloat16):
        for last in (False, True):
            masked_weights(layers, scores, cuts, codes, torch.ones(3), dtype=dtype, channels_last=last)
            for signs in (None, scores[1]):
                grad = torch.zeros(SIZES[1], dtype=dtype)
                score_gradient(grad, codes[1], 0.5, signs, kernel=KERNELS[1] if last else None)
    resample(
        layers, scores, cuts, codes, draws, book=codes[0][:256], tensors=torch.arange(3), seed=2**63, event=1,
        chance=6554, cycle=256,
    )  # fmt: skip


if __name__ == "__main__":
    driver.set_active(Absent(int(sys.argv[1])))
    JITFunction.run = compiling(JITFunction.run)
    launch_all("signed", fixed=False)
    launch_all("magnitude", fixed=True)
    launch_all("invert", fixed=False)
    print(json.dumps(found))
