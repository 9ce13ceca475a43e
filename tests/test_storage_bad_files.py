"""A folder of hostile and damaged files, with the verdict that each must get, and mutants of good ones."""

from __future__ import annotations

import copy
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_files import make
from bad_files.make import BAD, FILES, FOLDER, ODD
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from conftest import fail, invoke, succeed
from iterand_compress.compress.errors import SeedMaskError
from iterand_compress.compress.seedmask import loads, read_seedmask

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERDICTS: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "verdicts.toml").read_text(encoding="utf-8"))
TEXTS = {stem: text for stage in VERDICTS.values() for stem, text in stage.items()}
#: What a message must not hold: control characters, marks that reorder text, lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
CONTROLS = (
    *("rans", "gaps", "gaps in a log", "draws as rans"),
    *("deltas as rans", "coats as rans", "values as rans"),
)


def path_of(stem: str) -> Path:
    return FOLDER / f"{stem}.seedmask"


def one_printable_line(text: str) -> bool:
    return bool(text) and not UNPRINTABLE.search(text)


def test_every_file_has_a_verdict_and_every_verdict_a_file() -> None:
    found = {path.name.removesuffix(".seedmask") for path in FOLDER.iterdir()}
    assert found - {".gitignore", "__pycache__", "make.py", "verdicts.toml"} == set(TEXTS)
    assert sum(map(len, VERDICTS.values())) == len(TEXTS), "a file has two verdicts"
    assert set(BAD) == set(TEXTS) - set(VERDICTS["odd"])
    assert set(ODD) == set(VERDICTS["odd"])
    assert all(text for stem, text in TEXTS.items() if stem in BAD)


@pytest.mark.parametrize("stem", FILES)
def test_files_are_what_make_builds(stem: str) -> None:
    assert path_of(stem).read_bytes() == FILES[stem]()


@pytest.mark.parametrize("name", CONTROLS)
def test_what_the_bad_payloads_are_made_from_is_good(name: str) -> None:
    """Coded by the encoder of `make`, from the specification; the digests are those of the golden files."""
    seedmask = loads(make.control(name))
    seedmask.verify()
    parts = [getattr(tensor, part) for tensor in seedmask.tensors for part in ("mask", "log", "coats", "values")]
    coded = {part.coding for part in parts if part is not None}
    assert coded - {"raw"}, "the payload is not coded at all"


@pytest.mark.parametrize("stem", BAD)
def test_the_library_says_what_is_wrong(stem: str) -> None:
    path = path_of(stem)
    with pytest.raises(SeedMaskError, match=re.escape(TEXTS[stem])) as caught:
        read_seedmask(path).verify()
    assert str(caught.value).startswith(f"{path}: ")
    assert one_printable_line(str(caught.value))


@pytest.mark.parametrize("stem", BAD)
def test_nothing_gives_weights(stem: str) -> None:
    """Whatever the way to them: from memory, or from a file whose payload is not compared with its digest."""

    def unverified() -> None:
        seedmask = read_seedmask(path_of(stem), verify=False)
        seedmask.weights()
        seedmask.state()

    with pytest.raises(SeedMaskError):
        unverified()
    with pytest.raises(SeedMaskError):
        loads(path_of(stem).read_bytes()).verify()


@pytest.mark.parametrize("stem", VERDICTS["opening"])
def test_found_when_the_file_is_opened(stem: str) -> None:
    with pytest.raises(SeedMaskError):
        read_seedmask(path_of(stem))


@pytest.mark.parametrize("stem", BAD)
def test_commands_print_one_line_and_write_nothing(stem: str, tmp_path: Path) -> None:
    path, before = path_of(stem), sorted(FOLDER.iterdir())
    commands: list[tuple[object, ...]] = [("verify", path), ("verify", path, "--json")]
    commands.append(("recover", path, "--out", tmp_path / "out.safetensors"))
    if stem not in VERDICTS["recovering"]:
        commands += [("inspect", path), ("inspect", path, "--json")]
    for command in commands:
        line = fail(1, *command)
        assert TEXTS[stem] in line, command
        assert one_printable_line(line), command
        assert not invoke(*command).stdout, command
    assert not list(tmp_path.iterdir())
    assert sorted(FOLDER.iterdir()) == before


@pytest.mark.parametrize("stem", VERDICTS["recovering"])
def test_inspect_prints_nothing_that_a_terminal_obeys(stem: str) -> None:
    result = invoke("inspect", path_of(stem))
    assert result.exit_code in (0, 1)
    assert all(one_printable_line(line) for line in result.output.splitlines() if line)


@pytest.mark.parametrize("stem", ODD)
def test_odd_names_are_names_and_nothing_else(stem: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path = path_of(stem)
    for command in (("verify", path), ("inspect", path), ("inspect", path, "--json")):
        assert all(one_printable_line(line) for line in succeed(*command).splitlines() if line)
    out = folder / "out.safetensors"
    if stem == "odd-name-format":  # a state tensor of the name that safetensors reserves
        assert "cannot hold a tensor named '__metadata__'" in fail(1, "recover", path, "--out", out)
        names = [word for tensor in read_seedmask(path).tensors for word in ("--tensor", tensor.name)]
        succeed("recover", path, "--out", out, *names)
    else:
        succeed("recover", path, "--out", out)
    assert [found for found in tmp_path.rglob("*") if not found.is_dir()] == [out]
    seedmask = read_seedmask(path)
    with safe_open(out, "np") as file:
        for name, weights in seedmask.weights().items():
            assert file.get_tensor(name).tobytes() == weights.astype("<f4").tobytes()


# Mutants: good files in which something was changed, half of them with digests that are right again.

NEWER = ("v1-deltas", "v1-frozen", "v1-coats", "v1-values-float32", "v1-values-float16", "v1-values-int8")
SEEDS = {stem: make.golden(stem) for stem in ("v1-none", "v1-flips", "v1-draws", *NEWER)}
SEEDS |= {name: make.control(name) for name in CONTROLS}
NUMBERS = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 255, 256, 2**31, 2**32, 2**36, 2**63, 2**64, 10**20, -1, 0.5, -0.0])
TEXT = st.sampled_from(
    ["", "raw", "rans", "gaps", "none", "flips", "draws", "deltas", "uniform", "F16", "F64", "I8", "\x1b[2J", "\ud800"]
)
VALUES = NUMBERS | TEXT | st.sampled_from([None, True, [], {}, [1], {"a": 1}])


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def _mutate_manifest(manifest: dict[str, Any], data: st.DataObject) -> None:
    *path, last = data.draw(st.sampled_from(list(_places(manifest))))
    inner: Any = manifest
    for key in path:
        inner = inner[key]
    action = data.draw(st.sampled_from(["set", "set", "bump", "delete", "copy"]))
    if action == "set":
        inner[last] = copy.deepcopy(data.draw(VALUES))  # the next mutation may change it
    elif action == "bump" and isinstance(inner[last], int):
        inner[last] += data.draw(st.sampled_from([-1, 1, 8]))
    elif action == "delete":
        del inner[last]
    elif isinstance(inner, list):
        inner.append(copy.deepcopy(inner[last]))
    else:
        inner[data.draw(TEXT)] = inner[last]


def _mutate_bytes(content: bytes, data: st.DataObject) -> bytes:
    start = data.draw(st.integers(0, len(content)))
    stop = start + data.draw(st.sampled_from([0, 1, 1, 1, 2, 4]))
    return content[:start] + data.draw(st.binary(max_size=4)) + content[stop:]


def _mutant(seed: bytes, data: st.DataObject) -> bytes:
    kind = data.draw(st.sampled_from(["bytes", "payload", "payload", "manifest", "manifest"]))
    sealed = data.draw(st.booleans())
    if kind == "bytes":
        return _mutate_bytes(seed, data)
    if kind == "payload" and sealed:
        manifest, contents = make.parts(seed)
        name = data.draw(st.sampled_from([name for name in sorted(contents) if not name.startswith("state/")]))
        contents[name] = _mutate_bytes(contents[name], data)
        return make.build(manifest, contents)
    header, manifest, section = make.split(seed)
    if kind == "payload":
        return make.container(
            make.canonical({**header, "__metadata__": {"seedmask": make.canonical(manifest)}}),
            _mutate_bytes(section, data),
        )
    for _ in range(data.draw(st.integers(1, 2))):
        _mutate_manifest(manifest, data)
    return make.join(header, manifest if sealed else make.canonical(manifest), section)


@pytest.mark.slow
@settings(max_examples=900, deadline=None)
@given(st.data())
def test_a_mutant_is_refused_or_gives_the_weights_that_it_promises(data: st.DataObject) -> None:
    seed = SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))]
    mutant = _mutant(seed, data)
    message = ""
    try:
        seedmask = loads(mutant, max_weights=2**24)
        seedmask.verify()
    except SeedMaskError as error:
        message = str(error)
    if message:
        assert one_printable_line(message)
        return
    weights, good = seedmask.weights(), loads(seed)
    for entry in seedmask.tensors:
        assert hashlib.sha256(weights[entry.name].astype("<f4").tobytes()).hexdigest() == entry.sha256
    if seedmask.weights_digest == good.weights_digest:
        for found, expected in zip(weights.values(), good.weights().values(), strict=True):
            np.testing.assert_array_equal(found.reshape(-1), expected.reshape(-1))
