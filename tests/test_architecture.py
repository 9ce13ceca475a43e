"""The structure of the packages: imports point down, no circles, one name for one job, and who may import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "cli", "export", "compress")

#: Rooms from the ground up. A file imports from rooms below its own, and from its own room.
FLOORS = (
    ("errors",),
    ("files", "seed", "trained"),
    ("config", "inputs"),
    ("data", "methods", "models", "seedmask"),
    ("checkpoint", "tensors"),
    ("mask",),
    ("networks", "pack"),
    ("rebuild", "subnetwork"),
    ("recover",),
    ("training",),
    ("analysis",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def _files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def _imports() -> dict[str, set[str]]:
    """For each module the modules of the project that it imports, inside functions and for type checkers too."""
    known = {_module(path) for path in _files()}
    found: dict[str, set[str]] = {}
    for path in _files():
        package = path.relative_to(ROOT).parent.parts
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                targets.add(inner if inner in known else module)
        found[_module(path)] = (targets & known) - {_module(path)}
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_packages_import_one_way() -> None:
    order = {package: number for number, package in enumerate(PACKAGES)}
    wrong = [
        f"{module} -> {target}"
        for module, targets in _imports().items()
        for target in targets
        if order[target.split(".")[0]] < order[module.split(".")[0]]
    ]
    assert wrong == []


def test_rooms_import_from_rooms_below() -> None:
    rooms = {_room(module) for module in _imports() if module.startswith("compress.")}
    assert rooms == FLOOR.keys()
    wrong = [
        f"{module} -> {target}"
        for module, targets in _imports().items()
        if module.startswith("compress.")
        for target in targets
        if _room(module) != _room(target) and FLOOR[_room(module)] <= FLOOR[_room(target)]
    ]
    assert wrong == []


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other."""
    reach = {node: _reached(graph, node) for node in graph}
    return [sorted(other for other in reach[node] if node in reach[other]) for node in graph if node in reach[node]]


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph[waiting.pop()] - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def test_no_circles_between_files() -> None:
    assert _circles(_imports()) == []


def test_a_circle_is_seen() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"], ["b", "c"]]


def test_a_name_of_a_file_means_one_thing() -> None:
    stems: dict[str, list[str]] = {}
    for path in _files():
        if path.stem not in ("__init__", "__main__"):
            stems.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    assert {stem: paths for stem, paths in stems.items() if len(paths) > 1} == {}


@pytest.mark.processes
@pytest.mark.parametrize("room", ["config", "errors", "files", "inputs", "seedmask", "seed.philox", "seed.codebooks"])
def test_rooms_without_torch(room: str) -> None:
    code = f"import sys, iterand_compress.compress.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
