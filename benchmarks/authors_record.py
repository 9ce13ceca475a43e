"""Record what the authors' code gives on the inputs of `authors.py`: writes `results/authors.json`.

    python benchmarks/authors_record.py FOLDER

FOLDER holds checkouts of the repositories below, at the commits in `REPOSITORIES`, each in a folder of its name. Needs
PyYAML. Their code runs as it is, except that

* `args`, which parses the command line when it is imported, is replaced by a namespace with the settings;
* functions that cannot be imported (training scripts, GPU kernels beside them) are compiled from their files alone;
* `torch._utils._accumulate`, which torch no longer has, is `itertools.accumulate`;
* `torch.bernoulli` and the initialisation of redrawn weights return our numbers, since no other generator is replayed;
* IteRand's loop over epochs calls a learner that only counts steps;
* it runs on a CPU, in float64 where the comparison says so.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import authors_pruners  # noqa: F401  (enters its recordings, as the others do)
import torch
from authors import RECORDED
from authors_checkouts import RECORDINGS, REPOSITORIES, scored
from authors_inputs import NETWORKS, Network, Values, batch, generic, network_id, sample
from authors_iterand import iterand_network
from authors_methods import COMPARISONS
from authors_popup import built_network
from authors_recipes import recipes
from torch import Tensor
from torch.nn import functional as F

from common import environment


def outputs_of(folder: Path, repository: str, network: Network) -> tuple[str, Values]:
    """Where a network of theirs is defined, and what is recorded of it."""
    model = iterand_network(folder, network) if repository == "iterand" else built_network(folder, network)
    where = f"{type(model).__module__.replace('.', '/')}.py: {network.theirs}"
    modules: list[Any] = scored(model)
    for stream, module in enumerate(modules):
        module.weight.data = generic(100 + stream, *module.weight.shape)
        module.forward = _plainly(module)
    model.double().train()
    images, _ = batch(0, side=network.side)
    with torch.no_grad():
        logits = model(images)
    if logits.shape[1] == 4 * network.classes:
        where += ", its outputs at 2 × 2 places averaged"
        logits = logits.view(len(logits), network.classes, 4).mean(-1)
    sizes = [module.weight.numel() for module in modules]
    return where, {"weights": sum(sizes), "layers": sizes, "outputs": sample(logits)}


def _plainly(module: Any) -> Callable[[Tensor], Tensor]:
    """A layer of theirs that keeps all weights."""
    if module.weight.dim() == 2:
        return lambda x: F.linear(x, module.weight)
    return lambda x: F.conv2d(x, module.weight, None, module.stride, module.padding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], help="keep recordings without these in their names")
    args = parser.parse_args()
    before = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    for name, (_, commit) in REPOSITORIES.items():
        if (args.folder / name).exists():
            head = subprocess.run(
                ["git", "-C", args.folder / name, "rev-parse", "HEAD"], capture_output=True, text=True
            )
            assert head.stdout.strip() == commit, (name, head)
    jobs: dict[str, tuple[str, Callable[[Path], tuple[str, Values]]]] = {
        name: (repository, lambda folder, where=where, theirs=theirs: (where, theirs(folder)))
        for name, (repository, where, theirs) in RECORDINGS.items()
    }
    for repository, networks in NETWORKS.items():
        for network in networks:
            job = partial(outputs_of, repository=repository, network=network)
            jobs[network_id(repository, network)] = (repository, job)
    comparisons = {name: entry for name, entry in before.get("comparisons", {}).items() if name in jobs}
    for name, (repository, job) in jobs.items():
        if any(part in name for part in args.only):
            print(name, flush=True)
            where, values = job(args.folder / repository)
            comparisons[name] = {"source": f"{REPOSITORIES[repository][0]}: {where}", "values": values}
    recorded = {
        "about": "What the authors' code gives on the inputs of benchmarks/authors.py; made by authors_record.py.",
        "repositories": dict(REPOSITORIES.values()),
        "environment": environment(),
        "edits": [line.strip() for line in (__doc__ or "").split("except that")[1].split("* ")[1:]],
        "comparisons": {name: comparisons[name] for name in COMPARISONS},
        "recipes": recipes(args.folder),
    }
    text = json.dumps(recorded, indent=1, ensure_ascii=False)
    # Lists of numbers on one line.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: "[" + re.sub(r",\s+", ", ", match[1]) + "]", text)
    RECORDED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
