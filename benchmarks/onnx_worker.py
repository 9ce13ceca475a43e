"""One exported file in one fresh process of one runtime; needs NumPy and the runtime only.

    python benchmarks/onnx_worker.py load FILE [--how stock|load_session|load_session_full] [--threads 1]
    python benchmarks/onnx_worker.py compare DENSE FILE --shape 3 224 224 --batches 1 32 [--runtime openvino]

Run by `export.py` and `runtimes.py`, with the Python of any environment. The last line of the output is JSON. Memory is
resident memory in bytes, beyond that just before loading.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], Any]
_CLEAR_PEAK = "5"


def memory() -> tuple[int, int]:
    """Resident memory now and at its peak, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    now, peak = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def onnxruntime_options(args: argparse.Namespace) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = args.threads
    if args.level:
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, args.level)
    return options


def opener(args: argparse.Namespace, how: str) -> Callable[[str], Any]:
    """What loads a file; all imports are done before it is called."""
    if args.runtime == "openvino":
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": args.threads}
        if args.exact:
            settings["EXECUTION_MODE_HINT"] = "ACCURACY"
        return lambda path: core.compile_model(path, "CPU", settings)
    if args.runtime == "tract":
        return open_tract
    import onnxruntime

    if how == "stock":
        options = onnxruntime_options(args)
        return lambda path: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    from iterand_compress.export.runtime.expansion import load_session, small_memory_options

    chosen = small_memory_options() if how == "load_session" else onnxruntime_options(args)
    chosen.intra_op_num_threads = args.threads
    return lambda path: load_session(path, chosen)


def open_tract(path: str) -> Run:
    """A file in tract, whose errors end with a backtrace: only what stands before it is told."""
    import tract

    try:
        runnable = tract.onnx().load(path).into_model().into_runnable()
    except tract.TractError as error:
        raise SystemExit(" ".join(str(error).split("Stack backtrace")[0].split())) from None
    return lambda batch: runnable.run([batch])[0].to_numpy()


def runner(session: Any, args: argparse.Namespace) -> Run:
    if args.runtime == "openvino":
        return lambda batch: session([batch])[0]
    if args.runtime == "tract":
        run: Run = session
        return run
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def images(args: argparse.Namespace, number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).random((number, *args.shape), np.float32)


def load(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, and memory at most and after."""
    open_file = opener(args, args.how)
    Path(args.files[0]).read_bytes()  # into the cache of the system
    before, _ = memory()
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="utf-8")
    began = time.perf_counter()
    session = open_file(args.files[0])
    seconds = time.perf_counter() - began
    after, peak = memory()
    runner(session, args)(images(args, 1))
    ran, _ = memory()
    return {"load_s": seconds, "peak": peak - before, "after": after - before, "after_run": ran - before}


def rounds_of(args: argparse.Namespace) -> list[int]:
    """For each batch; one number is for all."""
    return list(args.rounds) * (len(args.batches) if len(args.rounds) == 1 else 1)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Outputs of the last file beside those of the first, and seconds per run, taken in turns."""
    first = runner(opener(args, "stock")(args.files[0]), args)
    loaded = time.perf_counter()
    session = opener(args, args.how)(args.files[-1])
    result: dict[str, Any] = {"load_s": time.perf_counter() - loaded, "batches": {}}
    runs = {"dense": first, "form": runner(session, args)}
    for number, rounds in zip(args.batches, rounds_of(args), strict=True):
        batch = images(args, number)
        outputs = {name: run(batch) for name, run in runs.items()}
        wide = {name: output.astype(np.float64) for name, output in outputs.items()}
        with np.errstate(invalid="ignore"):
            difference = float(np.abs(wide["dense"] - wide["form"]).max())
        nan = bool(np.isnan(wide["form"]).all())
        seconds = timed(runs, batch, rounds)
        result["batches"][str(number)] = {
            "sha256": {name: hashlib.sha256(output.tobytes()).hexdigest() for name, output in outputs.items()},
            "identical": outputs["dense"].tobytes() == outputs["form"].tobytes(),
            "nan": nan,
            "largest_difference": None if nan else difference,
            "largest_output": float(np.abs(wide["dense"]).max()),
            "median_s": {name: float(np.median(values)) for name, values in seconds.items()},
            "min_s": {name: min(values) for name, values in seconds.items()},
            "ratio_median": float(np.median(seconds["form"]) / np.median(seconds["dense"])),
            "ratio_paired": float(np.median(np.array(seconds["form"]) / np.array(seconds["dense"]))),
            "ratio_min": min(seconds["form"]) / min(seconds["dense"]),
        }
    if args.runtime == "openvino":
        result["operators"] = sorted({kind(node) for node in session.get_runtime_model().get_ops()})
    return result


def kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].value)


def timed(runs: dict[str, Run], batch: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of each run; which one goes first alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            runs[name](batch)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def optimise(args: argparse.Namespace) -> dict[str, Any]:
    """Write what onnxruntime makes of the first file, with the optimisations that any processor gets, to the second."""
    import onnxruntime

    options = onnxruntime_options(args)
    options.optimized_model_filepath = args.files[1]
    onnxruntime.InferenceSession(args.files[0], options, providers=["CPUExecutionProvider"])
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "compare", "optimise"))
    parser.add_argument("files", nargs="+")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino", "tract"), default="onnxruntime")
    parser.add_argument("--how", choices=("stock", "load_session", "load_session_full"), default="stock")
    parser.add_argument("--shape", type=int, nargs=3, default=(3, 224, 224))
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, nargs="+", default=[9], help="for each of the batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="OpenVINO: no int8 activations")
    parser.add_argument("--level", help="of onnxruntime's graph optimisations, such as ORT_ENABLE_EXTENDED")
    args = parser.parse_args()
    print(json.dumps({"load": load, "compare": compare, "optimise": optimise}[args.what](args)))


if __name__ == "__main__":
    main()
