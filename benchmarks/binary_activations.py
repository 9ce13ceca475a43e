"""Binary activations: Conv nets in the authors' layout, with BatchNorm in front of the signs, against those without.

    python benchmarks/binary_activations.py digits --folder runs [--json OUT]
    python benchmarks/binary_activations.py cifar10 --data-dir cifar10 --folder runs [--json OUT]

`digits`: the bundled digits at 16×16 pixels, Conv-2/4/6/8 at width 0.25, 12 epochs. `cifar10`: Conv-6 at width 0.25 on
CIFAR-10 as a folder of images (`train/CLASS/*` and `test/CLASS/*`). Both are Biprop (half of the weights pruned) with
Adam as the authors run it: learning rate 0.1, no weight decay. Each run has one thread. Runs go on where they stopped,
a finished run is only read. The accuracy is that of the last epoch on the test images.

Versions before there was a choice of layout had no BatchNorm, and pooling behind the signs: run this script there with
`--layouts default`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from common import environment, save
from runs import TrainingRun, stored_score, train

ADAM = ("--set=train.optimizer=adam", "--set=train.weight_decay=0", "--lr", "0.1")
BINARY = ("--method", "biprop", "--sparsity", "0.5", "--set=model.activation=binary", *ADAM)
DIGITS = ("--recipe", "digits", *BINARY, "--set=data.image_size=16")
CIFAR10 = (
    *("--recipe", "cifar10-conv6-biprop", *BINARY, "--data", "folder", "--device", "cpu"),
    *("--set=train.precision=float32", "--set=data.pad_value=mean"),
)
LAYOUTS = {"default": (), "no BatchNorm": ("--set=model.batch_norm=false",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("digits", "cifar10"))
    parser.add_argument("--data-dir", type=Path, help="of CIFAR-10")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--models", nargs="+", help="by default conv2 to conv8 for digits, conv6 for CIFAR-10")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    setting = (
        *(DIGITS if args.data == "digits" else CIFAR10),
        "--width",
        str(args.width),
        "--epochs",
        str(args.epochs),
    )
    models = args.models or (["conv2", "conv4", "conv6", "conv8"] if args.data == "digits" else ["conv6"])
    results: list[dict[str, Any]] = []
    for model in models:
        for layout in args.layouts:
            scores = []
            for seed in args.seeds:
                name = f"{args.data}-{model}-{layout.replace(' ', '-')}"
                run = TrainingRun(name, (*setting, "--model", model, *LAYOUTS[layout]), seed)
                out = train(run, args.folder, data_dir=args.data_dir, threads=1)
                scores.append(stored_score(out).accuracy)
                results.append({"model": model, "layout": layout, "seed": seed, "accuracy": scores[-1]})
                save({"environment": environment(), "setting": " ".join(setting), "runs": results}, args.json)
            listed = ", ".join(f"{100 * score:.1f}" for score in scores)
            print(f"{model}, {layout}: {100 * mean(scores):.1f} % ({listed})", flush=True)


if __name__ == "__main__":
    main()
