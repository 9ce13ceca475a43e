"""Each method and recipe against its authors' code, on the same inputs.

    python benchmarks/authors.py [--quick] [--only NAME] [--json OUT]

What the authors' code gives was recorded once, by `authors_record.py`, in `results/authors.json`, with repository,
commit, file and function. Neither that code nor a network connection is needed here: the inputs are made again, from
Philox and in whole numbers, so that they have the same bits on any machine; ours is computed from them and compared.
Networks run in float64 where sums over many terms are compared, so that rounding cannot hide a difference.

Exit code 1 if something that agreed no longer does. `--quick` leaves out the largest networks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from authors_methods import COMPARISONS
from rich.console import Console
from rich.table import Table

from common import environment, save
from iterand_compress import load_recipe
from iterand_compress.compress.errors import IterandError
from iterand_compress.compress.training.recipe import flattened

RECORDED = Path(__file__).parent / "results" / "authors.json"


# Recipes

_RECYCLED = "their files differ from network to network; ours are those for Biprop on the same network"
_SCALED = "theirs counts the fraction that is pruned; BatchNorm divides by either"
#: Settings that are meant to differ from the authors' files, with the reason.
MEANT: dict[tuple[str, str], str] = {
    ("cifar10-conv6-recycling", "subnetwork.recycle.every"): _RECYCLED,
    ("cifar10-conv6-recycling", "subnetwork.recycle.rate"): _RECYCLED,
    ("cifar10-resnet18-biprop", "subnetwork.scale_fan"): _SCALED,
    ("cifar10-vgg-small-biprop-binary", "subnetwork.scale_fan"): _SCALED,
    ("cifar10-resnet18-recycling", "train.epochs"): "250 are those of their later files for this network",
}


#: What the absence of a setting stands for.
DEFAULTS = {"model.activation": "relu", "model.bias": False, "train.optimizer": "sgd"}


# Comparing


NO_LONGER = "DIFFERS NO LONGER: say so here and in docs/METHODS.md"


@dataclass
class Difference:
    """What two structures of values differ in."""

    floats: float = 0.0
    integers: int = 0
    other: str = ""


def difference(ours: Any, theirs: Any, where: str = "") -> Difference:
    """Compare two structures; floats of a list are taken relative to the largest of it."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping) and set(ours) == set(theirs):
        return _joined([difference(ours[key], theirs[key], f"{where} {key}".strip()) for key in theirs])
    if isinstance(theirs, list) and isinstance(ours, list) and len(ours) == len(theirs):
        if any(isinstance(value, float) for value in theirs):
            largest = max(abs(value) for value in theirs) or 1.0
            return Difference(floats=max(abs(a - b) / largest for a, b in zip(ours, theirs, strict=True)))
        return _joined([difference(a, b, where) for a, b in zip(ours, theirs, strict=True)])
    if isinstance(theirs, float) and isinstance(ours, float):
        return Difference(floats=abs(ours - theirs) / (abs(theirs) or 1.0))
    if str(theirs).startswith("0x") and str(ours).startswith("0x") and len(ours) == len(theirs):
        return Difference(integers=(int(ours, 16) ^ int(theirs, 16)).bit_count())
    if isinstance(theirs, int) and isinstance(ours, int):
        return Difference(integers=abs(ours - theirs))
    return Difference() if ours == theirs else Difference(other=where or "structure")


def _joined(differences: Sequence[Difference]) -> Difference:
    names = list(dict.fromkeys(one.other for one in differences if one.other))
    return Difference(
        floats=max((one.floats for one in differences), default=0.0),
        integers=max((one.integers for one in differences), default=0),
        other=", ".join(names),
    )


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    method: str
    what: str
    agreement: str
    source: str
    agrees: bool


def compare(name: str, recorded: Mapping[str, Any]) -> Row:
    """Compute our values of a comparison, and say how far they agree with those that were recorded."""
    comparison, entry = COMPARISONS[name], recorded[name]
    try:
        found = difference(comparison.ours(), entry["values"])
    except IterandError as error:
        found = Difference(other=str(error))
    exact = found == Difference()
    agrees = not found.other and found.floats <= comparison.tolerance and found.integers <= comparison.within
    if comparison.by_design:
        agrees, text = not exact, "" if exact else f"differs by design: {comparison.by_design}"
        text = text or NO_LONGER
    elif not agrees:
        text = "DIFFERS: " + (found.other or (f"by {found.integers}" if found.integers else f"by {found.floats:.1e}"))
    elif exact:
        text = "exactly" if comparison.tolerance or comparison.within else "bit for bit"
    else:
        text = f"to {found.floats:.1e}" if found.floats else f"to {found.integers} weight"
    return Row(name, comparison.method, comparison.what, text, entry["source"], agrees)


def read_recorded() -> Any:
    """What `authors_record.py` wrote."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def compare_recipe(name: str, recorded: Mapping[str, Any]) -> list[Row]:
    """A row for each setting of a recipe, or with ``dense`` in front, of its settings for dense training."""
    entry, recipe = recorded[name], name.removeprefix("dense ")
    method = {"subnetwork": {"method": "dense"}} if recipe != name else {}
    settings, found = flattened(load_recipe(recipe, **method).model_dump()), []
    for key, theirs in entry["settings"].items():
        ours, reason = settings.get(key), MEANT.get((name, key))
        ours = DEFAULTS.get(key) if ours is None else list(ours) if isinstance(ours, tuple) else ours
        same = ours == theirs
        if reason:
            text = NO_LONGER if same else f"theirs {theirs}; {reason}"
        else:
            text = "the same" if same else f"DIFFERS: theirs {theirs}"
        found.append(Row(name, f"recipe {name}", f"{key} = {ours}", text, entry["source"], same != bool(reason)))
    return found


def rows(*, quick: bool = False, only: str = "") -> list[Row]:
    """All comparisons, and all settings of recipes."""
    recorded = read_recorded()
    found = [
        compare(name, recorded["comparisons"])
        for name, comparison in COMPARISONS.items()
        if only in name and not (quick and comparison.slow)
    ]
    for name in recorded["recipes"]:
        found += compare_recipe(name, recorded["recipes"]) if only in name else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the largest networks")
    parser.add_argument("--only", default="", help="comparisons and recipes with this in their name")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = rows(quick=args.quick, only=args.only)
    table = Table("method", "compared", "agreement", "source")
    for row in found:
        table.add_row(row.method, row.what, row.agreement, row.source, style="" if row.agrees else "bold red")
    Console(width=200).print(table)
    failed = [row for row in found if not row.agrees]
    print(f"{len(found) - len(failed)} of {len(found)} agree or differ by design")
    save({"environment": environment(), "rows": [asdict(row) for row in found]}, args.json)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
