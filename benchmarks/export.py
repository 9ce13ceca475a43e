"""Exported files: size, load time, memory and latency of each form, beside the dense form in the same run.

    python benchmarks/export.py [--quick] [--networks conv6 resnet18 resnet50] [--json OUT] [--png OUT]

Conv-6 takes images of 32 pixels and has 10 classes; ResNet-18 and -50 are those of torchvision for 224 pixels and 1000
classes. IteRand, sparsity 0.5 unless said otherwise, signed constants and uniform weights. Nothing is trained: scores
are random, 5 resampling events redraw each pruned weight with probability 0.2, and after each of them a normal number
(0.7 of the standard deviation of the scores) is added to every score, so that redrawn weights come to be kept.

Each load is that of a fresh process which has imported onnxruntime and NumPy (for `load_session` also onnx and this
package, never PyTorch); the forms take turns. Memory is resident memory beyond that before loading, at most while
loading and afterwards. For the latency, dense form and other form alternate in one process, on one thread unless said
otherwise; the ratio is the median over neighbouring runs. `load_session` is that with its default options (extended
optimisations, bounded memory); `load_session, all` is given options with all optimisations, as a stock session has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import environment, save
from exported import Case, export, redrawn_share, searched
from iterand_compress import IteRand
from iterand_compress.compress.pack import network_of, pack

WORKER = Path(__file__).with_name("onnx_worker.py")
NETWORKS = {"conv6": "Conv-6", "resnet18": "ResNet-18", "resnet50": "ResNet-50"}
FORMS = ("dense", "packed", "int8", "int8, kept quantised", "seeded")
#: What is measured: a form, and how it is loaded.
ROWS = {
    **{form: (form, "stock") for form in FORMS},
    "packed, load_session": ("packed", "load_session"),
    "packed, load_session, all": ("packed", "load_session_full"),
    "seeded, load_session": ("seeded", "load_session"),
    "seeded, load_session, all": ("seeded", "load_session_full"),
}
BATCHES = (1, 32)
MEASURES = ("load_s", "peak", "after", "after_run")
LOG = "iterand, every 1, rate 0.2, 5 events; random scores, 0.7 standard deviations of noise per event"


def cases(networks: list[str]) -> dict[str, Case]:
    found = {}
    for network in networks:
        for distribution in ("signed-constant", "uniform"):
            found[f"{NETWORKS[network]}, {distribution}"] = case(network, distribution, 0.5)
    if "resnet18" in networks:
        for sparsity in (0.9, 0.98):
            label = f"{NETWORKS['resnet18']}, signed-constant, {sparsity:.0%} sparse"
            found[label] = case("resnet18", "signed-constant", sparsity)
    return found


def case(network: str, distribution: Any, sparsity: float) -> Case:
    config = IteRand(sparsity, every=1, rate=0.2, distribution=distribution, seed=7)
    return Case(network, config)


def work(*words: object) -> dict[str, Any]:
    """What a fresh process says."""
    # One thread for NumPy as well; onnxruntime gets its own number.
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), *map(str, words)]
    done = subprocess.run(command, env=alone, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def loads(files: dict[str, Path], shape: tuple[int, ...], repeat: int, threads: int) -> dict[str, dict[str, Any]]:
    """Load times and memory by row: all values, medians, and ratios of medians to the dense form."""
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for i in range(repeat):
        for row in list(ROWS)[:: -1 if i % 2 else 1]:
            form, how = ROWS[row]
            words = ["load", files[form], "--how", how, "--shape", *shape, "--threads", threads]
            found[row].append(work(*words))
    medians = {
        row: {measure: statistics.median(run[measure] for run in runs) for measure in MEASURES}
        for row, runs in found.items()
    }
    return {
        row: {
            "runs": found[row],
            **medians[row],
            "to_dense": {name: value / medians["dense"][name] for name, value in medians[row].items()},
        }
        for row in ROWS
    }


def measure(case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about a network."""
    model = searched(case)
    files = {form: folder / f"{number}.onnx" for number, form in enumerate(FORMS)}
    for form, path in files.items():
        export(model, case, path, form)
    tensors = network_of(model.state_dict()).tensors
    report = pack(model, folder / "packed.seedmask")
    weights, kept = sum(tensor.weights for tensor in tensors), sum(int(tensor.mask.sum()) for tensor in tensors)
    sizes = {form: path.stat().st_size for form, path in files.items()}
    result: dict[str, Any] = {
        "sparsity": case.config.sparsity,
        "weights": weights,
        "kept": kept,
        "redrawn_share_of_kept": redrawn_share(model),
        "seedmask": {name: getattr(report, name) for name in ("file_bytes", "mask_bits", "log_bits")},
        "file_bytes": sizes,
        "bits_per_weight": {form: 8 * size / weights for form, size in sizes.items()},
        "file_to_dense": {form: size / sizes["dense"] for form, size in sizes.items()},
    }
    del model, tensors
    result["load"] = loads(files, case.image_shape, args.repeat, args.threads)
    result["latency"] = {}
    for row, (form, how) in ROWS.items():
        words = ["compare", files["dense"], files[form], "--how", how, "--shape", *case.image_shape]
        words += ["--threads", args.threads, "--batches", *BATCHES, "--rounds", *args.rounds]
        result["latency"][row] = work(*words)["batches"]
    return result


def bounds(label: str, found: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """What a network must show: bound, unit, value, limit."""
    sizes, latency, load = found["file_bytes"], found["latency"], found["load"]
    limits = []
    part = 8 * found["kept"] / found["weights"]
    log = (found["seedmask"]["mask_bits"] + found["seedmask"]["log_bits"]) / 8
    if found["sparsity"] == 0.5:
        limits.append(("seeded: 1.05 × mask and log + 100 kB", "bytes", sizes["seeded"], 1.05 * log + 100_000))
    if "uniform" in label:
        whole = found["bits_per_weight"]["packed"]
        limits.append(("packed: 1 + 8 · kept, of the whole file", "bits per weight", whole, 1 + part))
        # What the dense file holds beside its weights (graph, biases, metadata) is no part of these bits.
        net = whole - 8 * (sizes["dense"] - 4 * found["weights"]) / found["weights"]
        limits.append(("packed: 1 + 8 · kept, without what the dense file has too", "bits per weight", net, 1 + part))
    if label == "ResNet-18, signed-constant":
        limits.append(("packed", "bytes", sizes["packed"], 3e6))
    limits.append(("packed: load", "of dense", load["packed"]["to_dense"]["load_s"], 2))
    limits += [
        (f"packed: latency, batch {batch}", "of dense", latency["packed"][str(batch)]["ratio_paired"], 1.03)
        for batch in BATCHES
    ]
    peak = load["seeded, load_session"]["peak"] / sizes["dense"]
    limits.append(("seeded, load_session: peak", "of dense file", peak, 2.5))
    for row in ("packed", "seeded", "int8"):
        same = all(latency[row][str(batch)]["identical"] for batch in BATCHES)
        limits.append((f"{row}: outputs not those of dense", "", float(not same), 0))
    return limits


def table(label: str, found: dict[str, Any]) -> Table:
    about = f"{found['weights']:,} weights, {found['redrawn_share_of_kept']:.0%} of those kept were redrawn"
    rows = Table(title=f"{label}: {about}")
    for heading in ("form", "file MB", "bits/weight", "load s", "peak MB", "after MB", "latency 1, 32", "outputs"):
        rows.add_column(heading)
    for row, (form, _) in ROWS.items():
        load, latency = found["load"][row], found["latency"][row]
        ratios = ", ".join(f"{latency[str(batch)]['ratio_paired']:.3f}" for batch in BATCHES)
        same = all(latency[str(batch)]["identical"] for batch in BATCHES)
        largest = max(latency[str(b)]["largest_difference"] / latency[str(b)]["largest_output"] for b in BATCHES)
        rows.add_row(
            row,
            f"{found['file_bytes'][form] / 1e6:.2f} ({found['file_to_dense'][form]:.3f})",
            f"{found['bits_per_weight'][form]:.2f}",
            *(
                f"{load[name] / unit:.{digits}f} ({load['to_dense'][name]:.2f})"
                for name, unit, digits in (("load_s", 1, 2), ("peak", 1e6, 0), ("after", 1e6, 0))
            ),
            ratios,
            "identical" if same else f"differ by {largest:.0e}",
        )
    seedmask = found["seedmask"]
    rows.caption = (
        f".seedmask {seedmask['file_bytes']:,} bytes: mask {seedmask['mask_bits'] / found['weights']:.4f} bits per "
        f"weight, log {seedmask['log_bits'] / found['weights']:.4f}; in brackets: as a ratio to the dense form"
    )
    return rows


def draw(results: dict[str, Any], path: Path) -> None:
    """Ratios to the dense form, a panel for each measure and a bar for each row and network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = {label: found for label, found in results["cases"].items() if found["sparsity"] == 0.5}
    panels = {
        "size of the file": lambda found, row: found["file_to_dense"][ROWS[row][0]],
        "load time": lambda found, row: found["load"][row]["to_dense"]["load_s"],
        "peak memory while loading": lambda found, row: found["load"][row]["to_dense"]["peak"],
        "memory after loading": lambda found, row: found["load"][row]["to_dense"]["after"],
        "latency, one image": lambda found, row: found["latency"][row]["1"]["ratio_paired"],
        "latency, 32 images": lambda found, row: found["latency"][row]["32"]["ratio_paired"],
    }
    rows = [row for row in ROWS if row != "dense"]
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, value) in zip(figure.subplots(2, 3, sharey=True).flat, panels.items(), strict=True):
        height = 0.8 / len(cases)
        for number, (label, found) in enumerate(cases.items()):
            places = [place + number * height for place in range(len(rows))]
            axes.barh(places, [value(found, row) for row in rows], height, label=label)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))], rows)
        axes.set_title(f"{title}, dense = 1")
        if max(patch.get_width() for patch in axes.patches) > 4:
            axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(cases))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--repeat", type=int, default=3, help="fresh processes that load each form; the median counts")
    parser.add_argument("--rounds", type=int, nargs=2, default=[41, 7], help="runs for the latency of 1 and 32 images")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime")
    parser.add_argument("--quick", action="store_true", help="Conv-6 only, once")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--png", type=Path, help="also draw them (extra: plots)")
    args = parser.parse_args()
    if args.quick:
        args.networks, args.repeat, args.rounds = ["conv6"], 1, [5, 1]
    console = Console(width=150)
    results: dict[str, Any] = {"environment": environment(), "log": LOG, "load_average": os.getloadavg()[0]}
    results |= {"repeat": args.repeat, "rounds": args.rounds, "threads": args.threads, "cases": {}}
    for label, chosen in cases(args.networks).items():
        with tempfile.TemporaryDirectory() as folder:
            found = results["cases"][label] = measure(chosen, Path(folder), args)
        found["bounds"] = [
            {"bound": name, "unit": unit, "value": value, "limit": limit, "held": value <= limit}
            for name, unit, value, limit in bounds(label, found)
        ]
        console.print(table(label, found))
        for bound in found["bounds"]:
            mark = "held  " if bound["held"] else "MISSED"
            print(f"  {mark} {bound['bound']}: {bound['value']:,.4g} {bound['unit']}, at most {bound['limit']:,.4g}")
        save(results, args.json)
    if args.png is not None:
        draw(results, args.png)


if __name__ == "__main__":
    main()
