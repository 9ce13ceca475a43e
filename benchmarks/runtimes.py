"""Every form of exported file on several runtimes, each from its wheels in an environment of its own.

    python benchmarks/runtimes.py --environments DIR [--runtimes onnxruntime==1.16.3 openvino …] [--network small …]
                                  [--json OUT]

Small networks have every layout of weights and every kind of log that a file can hold; together their files call every
function of ours. Each file is compared with the dense form in the same process on the same images (batches of 1 and
5): equal bit for bit, or the largest difference beside the largest output, or NaN in all outputs, which is what the
known-answer check of a seeded file gives where the runtime computes its generator wrong. `seeded, unchecked` is that
file without the check.
Latency (one image, one thread) is taken in turns with the dense form. `left` are the operators that the runtime still
runs at each inference, and does not run for the dense form: none where it folds the weights when it loads the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.table import Table

from common import environment, save
from exported import VARIANTS, Case, export, redrawn_share, searched, unchecked
from iterand_compress import SubnetworkConfig
from iterand_compress.compress.methods.presets import PRESETS
from iterand_compress.export.forms.functions import FUNCTIONS

RUNTIMES = (
    "onnxruntime==1.16.3",
    "onnxruntime==1.17.3",
    "onnxruntime==1.18.1",
    "onnxruntime==1.20.1",
    "onnxruntime==1.22.1",
    "onnxruntime==1.23.2",
    "onnxruntime==1.24.4",
    "onnxruntime==1.25.1",
    "onnxruntime==1.26.0",
    "onnxruntime==1.27.0",
    "onnxruntime==1.28.0",
    "onnxruntime",
    "openvino",
    "tract",
)
NETWORKS = ("small", "rows", "resnet18")
WORKER = Path(__file__).with_name("onnx_worker.py")
UNCHECKED = "seeded, unchecked"
#: Of OpenVINO, which may then compute with fewer bits than float32; elsewhere nothing is set.
DEFAULT = " (default options)"
_TIMEOUT = 600


def settings(method: str = "iterand", **changes: Any) -> SubnetworkConfig:
    often = {"every": 1, "rate": 0.2} if method == "iterand" else {}
    return PRESETS[method](**{"seed": 7, **often, **changes})


SIGNED, UNIFORM = {"distribution": "signed-constant"}, {"distribution": "uniform"}
CASES: dict[str, Case] = {
    "signed constant, 50 %": Case("small", settings(**SIGNED)),
    "signed constant, 90 %": Case("small", settings(**SIGNED, sparsity=0.9)),
    "signed constant, 98 %": Case("small", settings(**SIGNED, sparsity=0.98)),
    "uniform, 50 %": Case("small", settings(**UNIFORM)),
    "uniform, 4 draws, 90 %": Case("small", settings(**UNIFORM, sparsity=0.9, draws=4)),
    "uniform, no log": Case("small", settings(**UNIFORM, method="edge-popup")),
    "normal, recycled": Case("small", settings(distribution="normal", method="recycling", every=1, rate=0.3)),
    "3 coats": Case("small", settings(**SIGNED, method="edge-popup", multiplicity=3)),
    "12 coats": Case("small", settings(**SIGNED, method="edge-popup", multiplicity=12, sparsity=0.3)),
    "binarised": Case("small", settings(distribution="normal", method="biprop")),
    "trained in float32": Case("small", settings(**SIGNED, method="random", sparsity=0.8)),
    "rows, signed constant": Case("rows", settings(**SIGNED)),
    "rows, uniform": Case("rows", settings(**UNIFORM)),
    "ResNet-18, signed constant": Case("resnet18", settings(**SIGNED)),
    "ResNet-18, uniform": Case("resnet18", settings(**UNIFORM)),
}


def python_of(requirement: str, folder: Path) -> Path:
    """The Python of an environment with a runtime; made unless it is there."""
    home = folder / requirement.replace("==", "-")
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        number = requirement.partition("==")[2]
        # Wheels before 1.19 were built against NumPy 1 and fail with NumPy 2.
        old = requirement.startswith("onnxruntime==") and tuple(map(int, number.split(".")[:2])) < (1, 19)
        subprocess.run([python, "-m", "pip", "install", "-q", requirement, "numpy<2" if old else "numpy"], check=True)
    return python


def version_in(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version('{package}'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def work(python: Path, *words: object) -> dict[str, Any]:
    """What a worker says; ``refused`` where it fails, with its reason."""
    command = [str(python), str(WORKER), *map(str, words)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"refused": f"not done after {_TIMEOUT} s"}
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {"refused": lines[-1][:300] if lines else f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@cache
def optimised(python: Path, path: Path, *words: object) -> set[str]:
    """The operators of what onnxruntime makes of a file when it loads it, those inside functions as well."""
    out = path.with_suffix(".optimised")
    # Not ORT_ENABLE_ALL: its layouts for one kind of processor would only rename operators.
    failed = work(python, "optimise", path, out, "--level", "ORT_ENABLE_EXTENDED", *words)
    if "refused" in failed:
        raise SystemExit(f"{path}: {failed['refused']}")
    model = onnx.load(out)
    out.unlink()
    bodies: list[Any] = [model.graph, *model.functions]
    return {node.op_type for body in bodies for node in body.node}


def compare(python: Path, runtime: str, files: dict[str, Path], name: str, case: Case, rounds: int) -> dict[str, Any]:
    """One form beside the dense one."""
    words: list[object] = ["--runtime", runtime, "--shape", *case.image_shape]
    if runtime == "openvino" and not name.endswith(DEFAULT):
        words.append("--exact")
    name = name.removesuffix(DEFAULT)
    batches = ["--batches", 1, 5, "--rounds", rounds]
    result = work(python, "compare", files["dense"], files[name], *words, *batches)
    if "refused" in result:
        return result
    if runtime == "tract":
        result["left"] = []  # it does not tell
    elif runtime == "openvino":
        dense = work(python, "compare", files["dense"], files["dense"], *words, "--rounds", 1)
        result["left"] = sorted(set(result.pop("operators")) - set(dense["operators"]))
    else:
        result["left"] = sorted(optimised(python, files[name], *words) - optimised(python, files["dense"], *words))
    return result


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """What of a comparison goes to the file: batches together, the latency of one image."""
    if "refused" in result:
        return result
    batches = result["batches"].values()
    nan = any(batch["nan"] for batch in batches)
    return {
        "identical": all(batch["identical"] for batch in batches),
        "nan": all(batch["nan"] for batch in batches),
        "largest_difference": None if nan else max(batch["largest_difference"] for batch in batches),
        "largest_output": max(batch["largest_output"] for batch in batches),
        "latency_to_dense": result["batches"]["1"]["ratio_paired"],
        "left": result["left"],
    }


def verdict(result: dict[str, Any]) -> str:
    """A cell of the matrix."""
    if "refused" in result:
        return f"refused: {result['refused'][:60]}"
    ratio, left = result["latency_to_dense"], f", {len(result['left'])} left" if result["left"] else ""
    if result["nan"] or result["largest_difference"] is None:
        return f"NaN ({ratio:.2f}×)" if result["nan"] else "NaN for some batches"
    largest = result["largest_difference"] / max(1e-30, result["largest_output"])
    same = "identical" if result["identical"] else f"differs by {largest:.1e}"
    return f"{same} ({ratio:.2f}×){left}"


def variants(runtime: str) -> Iterator[str]:
    yield from (name for name in VARIANTS if name != "dense" and not name.endswith("OpenVINO"))
    if runtime == "openvino":
        yield UNCHECKED
        own = ("packed, for OpenVINO", "int8, for OpenVINO")
        yield from own
        default = ("dense", "packed, inlined", "int8", "int8, kept quantised", *own)
        yield from (f"{name}{DEFAULT}" for name in default)


def write(case: Case, folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """All variants of a case that there are, and what they are."""
    model = searched(case)
    folder.mkdir()
    files: dict[str, Path] = {}
    for name in VARIANTS:
        if name.startswith("int8") and case.config.method == "random":
            continue  # the values are no bytes
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
        export(model, case, path, name)
        files[name] = path
    files[UNCHECKED] = folder / "unchecked.onnx"
    unchecked(files["seeded, inlined"], files[UNCHECKED])
    about = {"redrawn_share_of_kept": redrawn_share(model) if case.config.method == "iterand" else None}
    return files, {**about, "file_bytes": {name: path.stat().st_size for name, path in files.items()}}


def called(path: Path) -> set[str]:
    return {function.name for function in onnx.load(path).functions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="where environments are, or are made")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), metavar="REQUIREMENT")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), metavar="CASE", help="some of the networks")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each form for the latency")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    args.environments.mkdir(parents=True, exist_ok=True)
    pythons = {name: python_of(name, args.environments) for name in args.runtimes}
    versions = {name: version_in(python, name.partition("==")[0]) for name, python in pythons.items()}
    results: dict[str, Any] = {"environment": environment(), "rounds": args.rounds, "cases": {}}
    results["runtimes"] = {
        name: {"version": versions[name], "numpy": version_in(python, "numpy")} for name, python in pythons.items()
    }
    functions: set[str] = set()
    console = Console(width=200)
    for label, case in CASES.items():
        if case.network not in args.network or label not in (args.cases or CASES):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            files, about = write(case, Path(temporary) / "files")
            functions |= called(files["packed"]) | called(files["seeded"])
            rows: dict[str, dict[str, Any]] = {}
            for name, python in pythons.items():
                runtime = name.partition("==")[0]
                wanted = [form for form in variants(runtime) if form.removesuffix(DEFAULT) in files]
                rows[name] = {form: brief(compare(python, runtime, files, form, case, args.rounds)) for form in wanted}
        results["cases"][label] = {**about, "runtimes": rows}
        console.print(matrix(label, rows, versions))
    missing = FUNCTIONS - functions
    if "small" in args.network and missing and not args.cases:
        raise SystemExit(f"no file calls {', '.join(sorted(missing))}")
    save(results, args.json)


def matrix(label: str, rows: dict[str, dict[str, Any]], versions: dict[str, str]) -> Table:
    table = Table(title=f"{label}: outputs beside the dense form's (latency beside the dense form's)")
    table.add_column("form")
    for name in rows:
        table.add_column(f"{name.partition('==')[0]} {versions[name]}")
    for form in dict.fromkeys(form for row in rows.values() for form in row):
        table.add_row(form, *(verdict(row[form]) if form in row else "" for row in rows.values()))
    return table


if __name__ == "__main__":
    main()
