"""The hostile and damaged files of this folder, made from the golden files; `verdicts.toml` says what each must get.

``python tests/bad_files/make.py`` (with ``tests`` on PYTHONPATH) writes files that do not exist yet and never touches
one that does. Payloads of ``rans`` and ``gaps`` come from an encoder of its own, written from docs/FORMAT.md, section
1.4, so that what is wrong in a file is wrong by the specification and not by our packer.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
GOLDEN = FOLDER.parent / "golden"

Edit = Callable[[dict[str, Any]], object]


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def golden(stem: str) -> bytes:
    return (GOLDEN / f"{stem}.seedmask").read_bytes()


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header without metadata, manifest, data section."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header.pop("__metadata__")["seedmask"])
    return header, manifest, data[8 + length :]


def container(text: str | bytes, data: bytes = b"") -> bytes:
    """A file with this header text."""
    raw = text.encode() if isinstance(text, str) else text
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + data


def seal(manifest: dict[str, Any], data: bytes | None = None) -> str:
    """The text of a manifest whose digests of itself and, if given, of the data are right."""
    digests = manifest.get("digests")
    if isinstance(digests, dict):
        if data is not None:
            digests["payload"] = hashlib.sha256(data).hexdigest()
        digests["manifest"] = "0" * 64
        digests["manifest"] = hashlib.sha256(canonical(manifest).encode()).hexdigest()
    return canonical(manifest)


def join(header: dict[str, Any], manifest: dict[str, Any] | str, data: bytes) -> bytes:
    """Undo `split`, with right digests; a manifest that is given as text stays as it is."""
    text = manifest if isinstance(manifest, str) else seal(manifest, data)
    return container(canonical({**header, "__metadata__": {"seedmask": text}}), data)


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest, and the contents of the data tensors by name."""
    header, manifest, section = split(data)
    return manifest, {name: section[slice(*entry["data_offsets"])] for name, entry in header.items()}


def build(manifest: dict[str, Any], contents: dict[str, bytes], *, features: bool = True) -> bytes:
    """A file with these contents: sizes, offsets, features and digests are made right; weights' digests stay."""
    sizes = {"BOOL": 1, "U8": 1, "BF16": 2, "F16": 2, "U16": 2, "F32": 4, "I64": 8, "F64": 8}
    slots: dict[str, tuple[str, list[int]]] = {}
    for tensor in manifest["tensors"]:
        for part in ("mask", "log", "coats", "values", "scales"):
            name = f"{part}/{tensor['name']}"
            if name in contents:
                dtype = "F32" if part == "scales" else "U8"
                if part == "values" and tensor["values"]["dtype"] != "I8":
                    dtype = tensor["values"]["dtype"]
                if part != "scales":
                    tensor[part]["bytes"] = len(contents[name])
                slots[name] = (dtype, [len(contents[name]) // sizes[dtype]])
    for entry in (entry for entry in manifest["state"] if "value" not in entry):
        slots[f"state/{entry['name']}"] = (entry["dtype"], entry["shape"])
    if features:
        manifest["required_features"] = features_of(manifest)
    header, data = {}, b""
    for name in sorted(slots, key=lambda name: (-sizes[slots[name][0]], name)):
        dtype, shape = slots[name]
        header[name] = {"data_offsets": [len(data), len(data) + len(contents[name])], "dtype": dtype, "shape": shape}
        data += contents[name]
    return join(header, manifest, data)


def features_of(manifest: dict[str, Any]) -> list[str]:
    """What a reader must know."""
    used = set()
    for tensor in manifest["tensors"]:
        used |= {tensor[part]["coding"] for part in ("mask", "log", "coats", "values") if part in tensor}
        used |= {part for part in ("coats", "frozen", "values") if part in tensor} | {tensor["log"]["kind"]}
    used |= {"constants" for entry in manifest["state"] if "value" in entry}
    return sorted(used & {"coats", "constants", "deltas", "frozen", "gaps", "rans", "values"})


def edited(stem: str, edit: Edit) -> bytes:
    """A golden file with another manifest, whose digests are right, under the old header."""
    header, manifest, data = split(golden(stem))
    edit(manifest)
    return join(header, manifest, data)


def change(where: str, to: object) -> Edit:
    """An edit of the field with a path such as ``tensors.0.kept``."""

    def edit(manifest: Any) -> None:
        *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
        for key in path:
            manifest = manifest[key]
        manifest[last] = to

    return edit


def reheaded(edit: Edit) -> bytes:
    """`v1-none` with another header around the same manifest."""
    header, manifest, data = split(golden("v1-none"))
    edit(header)
    return container(canonical({**header, "__metadata__": {"seedmask": canonical(manifest)}}), data)


def texted(old: str, new: str) -> bytes:
    """`v1-none` with another text of the manifest; its own digest is of the old one."""
    header, manifest, data = split(golden("v1-none"))
    text = canonical(manifest)
    assert text.count(old) == 1
    return join(header, text.replace(old, new), data)


# The entropy codings, from the specification. The row is the mask of v1-none: 63 8c 01.

MASK = (0x63, 0x8C, 0x01)
GAPS = (0, 0, 3, 0, 3, 0, 3, 0)
EVEN = (256,) * 9  # all bytes alike
SHIFT, TABLE = 6, (1023, 0, 0, 0, 64)  # 64 * 1023 + 64 = 65536


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def slots_of_bits(frequencies: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Frequency and first slot of each byte, for rows of width 1."""
    return _place(sorted(range(256), key=lambda byte: (bin(byte).count("1"), byte)), frequencies, _ones)


def slots_of_gaps(frequencies: Sequence[int], shift: int) -> dict[int, tuple[int, int]]:
    """Frequency and first slot of each gap symbol."""
    return _place(range(256), frequencies, lambda s: s >> shift if s < 255 else (254 >> shift) + 1)


def slots_of_values(frequencies: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Frequency and first slot of each value, for rows of a width above 1."""
    return _place(range(len(frequencies)), frequencies, lambda value: value)


def _ones(byte: int) -> int:
    return bin(byte).count("1")


def _place(
    order: Sequence[int], frequencies: Sequence[int], class_of: Callable[[int], int]
) -> dict[int, tuple[int, int]]:
    found, first = {}, 0
    for symbol in order:
        frequency = frequencies[class_of(symbol)]
        found[symbol] = frequency, first
        first += frequency
    return found


def lanes_of(symbols: Sequence[int], table: dict[int, tuple[int, int]], lane: int) -> list[tuple[int, list[int]]]:
    """First state and words of each lane."""
    out = []
    for start in range(0, len(symbols), lane):
        x, words = 65536, []
        for symbol in reversed(symbols[start : start + lane]):
            frequency, first = table[symbol]
            if x >= 65536 * frequency:
                words.insert(0, x % 65536)
                x //= 65536
            x = 65536 * (x // frequency) + x % frequency + first
        out.append((x, words))
    return out


def coded(
    header: bytes, lane: int | bytes, frequencies: Sequence[int | bytes], lanes: Sequence[tuple[int, list[int]]]
) -> bytes:
    """A payload; numbers given as bytes stand there as they are."""
    numbers = [number if isinstance(number, bytes) else varint(number) for number in (lane, *frequencies)]
    return b"".join(
        (
            header,
            *numbers,
            *(struct.pack("<I", state) for state, _ in lanes),
            *(struct.pack("<H", len(words)) for _, words in lanes),
            *(struct.pack(f"<{len(words)}H", *words) for _, words in lanes),
        )
    )


def rans(
    symbols: Sequence[int] = MASK, lane: int = 2, frequencies: Sequence[int] = EVEN, *, edit: Edit | None = None
) -> bytes:
    """A ``rans`` payload of width 1; ``edit`` changes its fields before they are written."""
    return _edited(b"", lane, frequencies, lanes_of(symbols, slots_of_bits(frequencies), lane), edit)


def gaps(
    symbols: Sequence[int] = GAPS,
    *,
    number: int | None = None,
    shift: int = SHIFT,
    frequencies: Sequence[int] = TABLE,
    edit: Edit | None = None,
) -> bytes:
    """A ``gaps`` payload."""
    lanes = lanes_of(symbols, slots_of_gaps(frequencies, SHIFT), 8)
    return _edited(bytes([shift]) + varint(len(symbols) if number is None else number), 8, frequencies, lanes, edit)


def _edited(
    header: bytes,
    lane: int,
    frequencies: Sequence[int],
    lanes: list[tuple[int, list[int]]],
    edit: Edit | None,
) -> bytes:
    fields: dict[str, Any] = {"lane": lane, "frequencies": list(frequencies), "lanes": lanes}
    if edit is not None:
        edit(fields)
    return coded(header, **fields)


def masked(coding: str, payload: bytes, edit: Edit = lambda manifest: None) -> bytes:
    """`v1-none` with its mask coded in another way."""
    manifest, contents = parts(golden("v1-none"))
    manifest["tensors"][0]["mask"]["coding"] = coding
    contents["mask/fc.weight"] = payload
    edit(manifest)
    return build(manifest, contents)


def logged(stem: str, coding: str, payload: bytes, edit: Edit = lambda manifest: None) -> bytes:
    """A golden file with the log of its first tensor coded in another way."""
    manifest, contents = parts(golden(stem))
    tensor = manifest["tensors"][0]
    tensor["log"]["coding"] = coding
    contents[f"log/{tensor['name']}"] = payload
    edit(manifest)
    return build(manifest, contents)


def with_contents(stem: str, name: str, edit: Callable[[bytes], bytes], *, sealed: bool = True) -> bytes:
    """A golden file with other contents of a data tensor."""
    manifest, contents = parts(golden(stem))
    old = manifest["digests"]["payload"]
    contents[name] = edit(contents[name])
    whole = build(manifest, contents)
    if sealed:
        return whole
    header, manifest, data = split(whole)
    manifest["digests"]["payload"] = old
    return container(canonical({**header, "__metadata__": {"seedmask": seal(manifest)}}), data)


def renamed(name: str, state: str | None = None) -> bytes:
    """`v1-none`, or with ``state`` `v1-flips`, where the first tensor, and a state tensor, have another name."""
    manifest, contents = parts(golden("v1-flips" if state else "v1-none"))
    old = manifest["tensors"][0]["name"]
    manifest["tensors"][0]["name"] = name
    contents = {f"{key.split('/')[0]}/{name}" if key.endswith(f"/{old}") else key: v for key, v in contents.items()}
    if state:
        contents[f"state/{state}"] = contents.pop("state/bn.count")
        manifest["state"][0]["name"] = state
        manifest["state"].sort(key=lambda entry: entry["name"])
    return build(manifest, contents)


def valued(dtype: str, name: str, edit: Callable[[bytes], bytes]) -> bytes:
    """A golden file of trained values where a data tensor has other contents."""
    return with_contents(f"v1-values-{dtype}", name, edit)


def first(data: str) -> Callable[[bytes], bytes]:
    """Other bytes, given in hexadecimal, at the begin of a content."""
    return lambda content: bytes.fromhex(data) + content[len(bytes.fromhex(data)) :]


def control(kind: str) -> bytes:
    """Files that are right, from which those with wrong payloads differ in one thing."""
    if kind == "deltas as rans":
        return _deltas_as_rans(list)
    if kind == "coats as rans":
        return _coats_as_rans(list)
    if kind == "values as rans":
        return _values_as_rans(list)
    if kind == "rans":
        return masked("rans", rans())
    if kind == "gaps":
        return masked("gaps", gaps())
    if kind == "gaps in a log":  # the flips of conv.weight, of which 21 are kept, as gaps
        return logged("v1-flips", "gaps", gaps(_flip_gaps()))
    return logged("v1-draws", "rans", _draws_payload())


def _values(data: bytes, count: int, width: int) -> list[int]:
    number = int.from_bytes(data, "little")
    return [number >> width * i & (1 << width) - 1 for i in range(count)]


def _flip_gaps() -> list[int]:
    manifest, contents = parts(golden("v1-flips"))
    bits = _values(contents["log/conv.weight"], manifest["tensors"][0]["kept"], 1)
    ones = [i for i, bit in enumerate(bits) if bit]
    return [one - before - 1 for before, one in zip([-1, *ones], ones, strict=False)]


def _draws_payload(values: Callable[[list[int]], list[int]] = list) -> bytes:
    manifest, contents = parts(golden("v1-draws"))
    row = values(_values(contents["log/a"], manifest["tensors"][0]["kept"], 3))
    frequencies = (8192,) * 8
    return coded(b"", 64, frequencies, lanes_of(row, slots_of_values(frequencies), 64))


def _row_as_rans(stem: str, part: str, tensor: int, width: int, values: Callable[[list[int]], list[int]]) -> bytes:
    """A golden file where a raw row of one tensor is coded by the encoder above, its values changed."""
    manifest, contents = parts(golden(stem))
    entry = manifest["tensors"][tensor]
    assert entry[part]["coding"] == "raw"
    name = f"{part}/{entry['name']}"
    frequencies = (65536 >> width,) * (1 << width)
    row = values(_values(contents[name], entry["kept"], width))
    contents[name] = coded(b"", 64, frequencies, lanes_of(row, slots_of_values(frequencies), 64))
    entry[part]["coding"] = "rans"
    return build(manifest, contents)


def _coats_as_rans(values: Callable[[list[int]], list[int]]) -> bytes:
    return _row_as_rans("v1-coats", "coats", 2, 7, values)


def _values_as_rans(values: Callable[[list[int]], list[int]]) -> bytes:
    return _row_as_rans("v1-values-int8", "values", 1, 8, values)


def _deltas_as_rans(values: Callable[[list[int]], list[int]]) -> bytes:
    return _row_as_rans("v1-deltas", "log", 1, 8, values)


def _without_scales() -> bytes:
    """The manifest says that values are of I8; header and data lack the scales of one tensor."""
    manifest, contents = parts(golden("v1-values-int8"))
    del contents["scales/fc.weight"]
    return build(manifest, contents)


def _swapped(data: bytes) -> bytes:
    """Two bits of a mask changed places: 0 is pruned now, and 2 kept."""
    return bytes([data[0] ^ 0b101, *data[1:]])


def _lane(number: int, state: int | None = None, words: Callable[[list[int]], list[int]] = list) -> Edit:
    def edit(fields: dict[str, Any]) -> None:
        old, own = fields["lanes"][number]
        fields["lanes"][number] = (old if state is None else state, words(own))

    return edit


def _moved_word(fields: dict[str, Any]) -> None:
    """Give the word of lane 0 to lane 1: it is still the next one, and the sum of the lengths is right."""
    (first, words), (second, more) = fields["lanes"]
    fields["lanes"] = [(first, []), (second, [*words, *more])]


def _longer(fields: dict[str, Any]) -> None:
    """The lengths count a word that is not there."""
    states, lengths = b"", b""
    for state, words in fields["lanes"]:
        states += struct.pack("<I", state)
        lengths += struct.pack("<H", len(words) + 1)
    words = b"".join(struct.pack(f"<{len(own)}H", *own) for _, own in fields["lanes"])
    fields.update(frequencies=[*fields["frequencies"], states + lengths + words], lanes=[])


def _bomb() -> bytes:
    """512 million weights, of which one is kept: right but for the digest of its weights, and 1 kB."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest["tensors"][0] |= {"kept": 1, "shape": [2**15, 2**14]}

    # One gap of no zeros, in one lane, by a table in which it is certain.
    payload = bytes([0]) + varint(1) + varint(1) + varint(2**16) + varint(0) * 255 + struct.pack("<IH", 2**16, 0)
    return masked("gaps", payload, edit)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("data.pkl")
        info.create_system = 3
        archive.writestr(info, b"x")
    return stream.getvalue()


def _without_log() -> bytes:
    """The manifest says that there is a log; header and data lack it."""
    header, manifest, data = split(golden("v1-flips"))
    start, end = header.pop("log/conv.weight")["data_offsets"]
    for entry in header.values():
        if entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
    return join(header, manifest, data[:start] + data[end:])


def _padded() -> bytes:
    good = golden("v1-none")
    length = int.from_bytes(good[:8], "little")
    return (length + 8).to_bytes(8, "little") + good[8 : 8 + length] + b" " * 8 + good[8 + length :]


ESCAPE = "\x1b[2J\x1b]0;owned\x07"
BIDI = "weight\u202egnp"
SCALE = "tensors.0.scale"
SHAPE = "tensors.0.shape"

BAD: dict[str, Callable[[], bytes]] = {
    # Not a file of ours.
    "empty": lambda: b"",
    "one-byte": lambda: b"{",
    "text": lambda: b"Once upon a time there was a seed, and nobody knew which.\n",
    "pickle": lambda: pickle.dumps({"state_dict": [1.0, 2.0]}, protocol=4),
    "zip": _zip,
    "zeros": lambda: bytes(64),
    "safetensors": lambda: container('{"a":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}}', bytes(4)),
    "safetensors-metadata": lambda: container('{"__metadata__":{"format":"pt"}}'),
    "metadata-list": lambda: container('{"__metadata__":["seedmask"]}'),
    "manifest-not-text": lambda: container('{"__metadata__":{"seedmask":{"format_version":1}}}'),
    # The length, and what it leads to.
    "header-truncated": lambda: golden("v1-none")[:400],
    "header-length-alone": lambda: golden("v1-none")[:8],
    "header-length-beyond": lambda: (10**4).to_bytes(8, "little") + golden("v1-none")[8:],
    "header-length-above-cap": lambda: (2 * 10**8).to_bytes(8, "little") + golden("v1-none")[8:],
    "header-length-huge": lambda: b"\xff" * 8 + golden("v1-none")[8:],
    "header-length-short": lambda: (848).to_bytes(8, "little") + golden("v1-none")[8:],
    "header-padding": _padded,
    "header-not-utf8": lambda: container(b'{"\xff\xfe":1}'),
    "header-control-character": lambda: container(b'{"' + ESCAPE.encode() + b'":1}'),
    "header-array": lambda: container("{}]"),
    "header-unfinished": lambda: container('{"a":'),
    "header-deep": lambda: container('{"a":' + "[" * 900 + "]" * 900 + "}"),
    "header-duplicate-key": lambda: container('{"mask/a":1,"mask/a":2}'),
    "header-duplicate-escape": lambda: container(canonical({ESCAPE: 1})[:-1] + "," + canonical({ESCAPE: 2})[1:]),
    "header-long-number": lambda: container('{"a":' + "1" * 30 + "}"),
    "header-nan": lambda: container('{"a":NaN}'),
    "header-infinity": lambda: container('{"a":-Infinity}'),
    "header-overflow": lambda: container('{"a":1e999}'),
    # Header and manifest disagree.
    "header-overlap": lambda: reheaded(lambda h: h.update({"mask/z": {**h["mask/fc.weight"]}})),
    "header-undeclared": lambda: reheaded(
        lambda h: h.update({"mask/z": {"data_offsets": [3, 3], "dtype": "U8", "shape": [0]}})
    ),
    "header-undeclared-escape": lambda: reheaded(
        lambda h: h.update({ESCAPE: {"data_offsets": [3, 3], "dtype": "U8", "shape": [0]}})
    ),
    "header-hole": lambda: reheaded(lambda h: h["mask/fc.weight"].update(data_offsets=[1, 4])),
    "header-backwards": lambda: reheaded(lambda h: h["mask/fc.weight"].update(data_offsets=[3, 0])),
    "header-negative": lambda: reheaded(lambda h: h["mask/fc.weight"].update(data_offsets=[-3, 0])),
    "header-beyond": lambda: reheaded(lambda h: h["mask/fc.weight"].update(data_offsets=[0, 2**62])),
    "header-dtype": lambda: reheaded(lambda h: h["mask/fc.weight"].update(dtype="I8")),
    "header-dtype-escape": lambda: reheaded(lambda h: h["mask/fc.weight"].update(dtype=ESCAPE)),
    "header-field": lambda: reheaded(lambda h: h["mask/fc.weight"].update(codec="zip")),
    "header-other-metadata": lambda: container(
        canonical(
            {
                **split(golden("v1-none"))[0],
                "__metadata__": {"seedmask": canonical(split(golden("v1-none"))[1]), "format": "pt"},
            }
        ),
        split(golden("v1-none"))[2],
    ),
    "header-without-log": _without_log,
    "state-overlap": lambda: edited("v1-flips", change("state.0.shape", [2])),
    "trailing-bytes": lambda: golden("v1-none") + b"\0",
    "trailing-file": lambda: golden("v1-none") * 2,
    "truncated": lambda: golden("v1-draws")[:-1],
    # The manifest as text.
    "manifest-empty": lambda: join({}, "", b""),
    "manifest-list": lambda: join({}, "[]", b""),
    "manifest-deep": lambda: join({}, '{"a":' * 400 + "1" + "}" * 400, b""),
    "manifest-duplicate-key": lambda: texted('"input":', '"generator":"x","input":'),
    "manifest-duplicate-inner": lambda: texted('"kept":8', '"kept":9,"kept":8'),
    "manifest-spaces": lambda: texted('"input":null', '"input": null'),
    "manifest-unsorted": lambda: texted('"architecture":null,"classes":null,', '"classes":null,"architecture":null,'),
    "manifest-not-ascii": lambda: texted('"input":null', '"input":"ü"'),
    "manifest-long-number": lambda: texted('"kept":8', '"kept":' + "8" * 30),
    "manifest-nan": lambda: texted('"recipe":null', '"recipe":{"lr":NaN}'),
    "manifest-overflow": lambda: texted('"recipe":null', '"recipe":{"lr":1e999}'),
    "manifest-float-text": lambda: texted('"recipe":null', '"recipe":{"lr":0.10}'),
    "manifest-integer-float": lambda: edited("v1-flips", change("input.std", [1, 1])),
    "manifest-float-integer": lambda: texted('"kept":8', '"kept":8.0'),
    "manifest-digest": lambda: texted('"seed":"0123456789abcdef"', '"seed":"0123456789abcdee"'),
    # Versions and names that a reader must look at first.
    "version-newer": lambda: edited("v1-none", lambda m: m.update(format_version=2, shiny=1, digests="other")),
    "version-zero": lambda: edited("v1-none", change("format_version", 0)),
    "version-negative": lambda: edited("v1-none", change("format_version", -1)),
    "version-text": lambda: edited("v1-none", change("format_version", "1")),
    "version-true": lambda: edited("v1-none", change("format_version", True)),
    "version-absent": lambda: edited("v1-none", lambda m: m.pop("format_version")),
    "features-unknown": lambda: edited("v1-none", change("required_features", ["nested-masks"])),
    "features-escape": lambda: edited("v1-none", change("required_features", [ESCAPE])),
    "features-text": lambda: edited("v1-none", change("required_features", "rans")),
    "features-of-numbers": lambda: edited("v1-none", change("required_features", [1])),
    "features-unused": lambda: edited("v1-none", change("required_features", ["rans"])),
    "features-twice": lambda: masked_features(["rans", "rans"]),
    "features-undeclared": lambda: masked_features([]),
    "features-other": lambda: masked_features(["gaps"]),
    "features-unsorted": lambda: masked_features(["rans", "gaps"]),
    "generator-unknown": lambda: edited("v1-none", change("generator", "mt19937")),
    "generator-escape": lambda: edited("v1-none", change("generator", ESCAPE)),
    "codebook-unknown": lambda: edited("v1-none", change("tensors.0.codebook", "cauchy")),
    "codebook-escape": lambda: edited("v1-none", change("tensors.0.codebook", ESCAPE)),
    "coding-unknown": lambda: edited("v1-none", change("tensors.0.mask.coding", "zstd")),
    "coding-escape": lambda: edited("v1-none", change("tensors.0.mask.coding", ESCAPE)),
    "coding-of-log-unknown": lambda: edited("v1-flips", change("tensors.0.log.coding", "zstd")),
    "kind-unknown": lambda: edited("v1-flips", change("tensors.0.log.kind", "events")),
    "kind-escape": lambda: edited("v1-flips", change("tensors.0.log.kind", ESCAPE)),
    # Fields of the manifest.
    "field-unknown": lambda: edited("v1-none", change("extra", 1)),
    "field-unknown-escape": lambda: edited("v1-none", change(ESCAPE, 1)),
    "field-unknown-bidi": lambda: edited("v1-none", change(f"tensors.0.{BIDI}", 1)),
    "field-absent": lambda: edited("v1-none", lambda m: m.pop("classes")),
    "digests-absent": lambda: edited("v1-none", lambda m: m.pop("digests")),
    "seed-short": lambda: edited("v1-none", change("seed", "0123")),
    "seed-capitals": lambda: edited("v1-none", change("seed", "0123456789ABCDEF")),
    "seed-number": lambda: edited("v1-none", change("seed", 81985529216486895)),
    "seed-escape": lambda: edited("v1-none", change("seed", ESCAPE)),
    "tensors-empty": lambda: edited("v1-none", change("tensors", [])),
    "name-empty": lambda: renamed(""),
    "name-twice": lambda: edited("v1-draws", change("tensors.1.name", "a")),
    "name-of-state": lambda: edited("v1-flips", change("state.0.name", "fc.weight")),
    "name-escape": lambda: renamed(ESCAPE),
    "name-newline": lambda: renamed("a\nerror: all is well"),
    "name-bidi": lambda: renamed(BIDI),
    "name-line-separator": lambda: renamed("a\u2028b"),
    "name-surrogate": lambda: renamed("a\ud800"),
    "name-long": lambda: renamed("n" * 513),
    "name-of-state-escape": lambda: renamed("a", ESCAPE),
    "class-escape": lambda: edited("v1-flips", change("classes", ["a", ESCAPE])),
    "recipe-escape": lambda: edited("v1-none", change("recipe", {"note": ESCAPE})),
    "recipe-key-escape": lambda: edited("v1-none", change("recipe", {ESCAPE: 1})),
    "recipe-deep": lambda: edited("v1-none", change("recipe", {"a": json.loads("[" * 20 + "]" * 20)})),
    "recipe-large-integer": lambda: edited("v1-none", change("recipe", {"a": 2**64})),
    "architecture-key-escape": lambda: edited("v1-none", change("architecture", {ESCAPE: 1})),
    "architecture-list-escape": lambda: edited("v1-none", change("architecture", {ESCAPE: [1]})),
    "input-std-zero": lambda: edited("v1-flips", change("input.std", [0.0, 1.0])),
    "input-channels": lambda: edited("v1-flips", change("input.mean", [0.5])),
    "scale-zero": lambda: edited("v1-none", change(SCALE, "00000000")),
    "scale-negative-zero": lambda: edited("v1-none", change(SCALE, "80000000")),
    "scale-negative": lambda: edited("v1-none", change(SCALE, "bf800000")),
    "scale-nan": lambda: edited("v1-none", change(SCALE, "7fc00000")),
    "scale-signalling-nan": lambda: edited("v1-none", change(SCALE, "7f800001")),
    "scale-infinite": lambda: edited("v1-none", change(SCALE, "7f800000")),
    "scale-subnormal": lambda: edited("v1-none", change(SCALE, "007fffff")),
    "scale-overflows": lambda: edited("v1-none", change(SCALE, "7e800000")),
    "scale-text": lambda: edited("v1-none", change(SCALE, "0.015")),
    "shape-zero": lambda: edited("v1-none", change(SHAPE, [0, 5])),
    "shape-negative": lambda: edited("v1-none", change(SHAPE, [-4, -5])),
    "shape-rank": lambda: edited("v1-none", change(SHAPE, [1] * 17)),
    "shape-huge": lambda: edited("v1-none", change(SHAPE, [2**20, 2**20])),
    "shape-bomb": _bomb,
    "shape-overflow": lambda: edited("v1-none", change(SHAPE, [2**32, 2**32, 2**32])),
    "shape-wraps-to-20": lambda: edited("v1-none", change(SHAPE, [2**63 + 10, 2])),
    "shape-other-product": lambda: edited("v1-none", change(SHAPE, [5, 5])),
    "shape-text": lambda: edited("v1-none", change(SHAPE, ["4", "5"])),
    "shape-fraction": lambda: edited("v1-none", change(SHAPE, [4.5, 5])),
    "weights-above-cap": lambda: edited("v1-none", change(SHAPE, [2**17, 2**17])),
    "kept-negative": lambda: edited("v1-none", change("tensors.0.kept", -1)),
    "kept-above": lambda: edited("v1-none", change("tensors.0.kept", 21)),
    "kept-other": lambda: edited("v1-none", change("tensors.0.kept", 7)),
    "kept-null": lambda: edited("v1-none", change("tensors.0.kept", None)),
    "log-width-of-flips": lambda: edited("v1-flips", change("tensors.0.log.width", 2)),
    "log-width-zero": lambda: edited("v1-draws", change("tensors.0.log.width", 0)),
    "log-width-nine": lambda: edited("v1-draws", change("tensors.0.log.width", 9)),
    "log-none-with-bytes": lambda: edited("v1-none", change("tensors.0.log.bytes", 1)),
    "log-none-coded": lambda: edited("v1-none", change("tensors.0.log.coding", "rans")),
    "log-flips-of-many-values": lambda: edited("v1-flips", change("tensors.0.codebook", "normal")),
    "state-dtype": lambda: edited("v1-flips", change("state.0.dtype", "F8")),
    "state-dtype-escape": lambda: edited("v1-flips", change("state.0.dtype", ESCAPE)),
    "state-negative": lambda: edited("v1-flips", change("state.0.shape", [-1])),
    "state-unsorted": lambda: _state_unsorted(),
    "state-dimension": lambda: _state_dimension(),
    "state-bool": lambda: with_contents("v1-flips", "state/flag", lambda data: b"\2" + data[1:]),
    # Digests.
    "digest-weights": lambda: edited("v1-none", change("digests.weights", "1" * 64)),
    "digest-tensor-absent": lambda: edited("v1-none", lambda m: m["tensors"][0].pop("sha256")),
    "digest-tensor-null": lambda: edited("v1-none", lambda m: m["tensors"][0].update(sha256=None)),
    "digest-tensor": lambda: edited("v1-none", change("tensors.0.sha256", "1" * 64)),
    "digest-tensor-and-weights": lambda: edited(
        "v1-none",
        lambda m: (
            m["tensors"][0].update(sha256="1" * 64),
            m["digests"].update(weights=hashlib.sha256(bytes.fromhex("1" * 64)).hexdigest()),
        ),
    ),
    "digest-payload": lambda: with_contents(
        "v1-none", "mask/fc.weight", lambda data: bytes([data[0] ^ 1, *data[1:]]), sealed=False
    ),
    # Whole files with other weights than they promise: only recovery can tell.
    "mask-swapped": lambda: with_contents("v1-none", "mask/fc.weight", _swapped),
    "seed-other": lambda: edited("v1-none", change("seed", "0123456789abcdee")),
    "scale-other": lambda: edited("v1-none", change(SCALE, "3c6bd03b")),
    "codebook-other": lambda: edited("v1-none", change("tensors.0.codebook", "uniform")),
    "log-other": lambda: with_contents("v1-flips", "log/conv.weight", lambda data: bytes([data[0] ^ 3, *data[1:]])),
    # Payloads: raw.
    "raw-padding": lambda: with_contents("v1-none", "mask/fc.weight", lambda data: data[:2] + b"\x81"),
    "raw-long": lambda: with_contents("v1-none", "mask/fc.weight", lambda data: data + b"\0"),
    "raw-short": lambda: with_contents("v1-none", "mask/fc.weight", lambda data: data[:2]),
    "raw-empty": lambda: with_contents("v1-none", "mask/fc.weight", lambda data: b""),
    "raw-log-padding": lambda: with_contents(
        "v1-flips", "log/conv.weight", lambda data: data[:-1] + bytes([data[-1] | 0x80])
    ),
    "raw-log-long": lambda: with_contents("v1-flips", "log/conv.weight", lambda data: data + b"\0"),
    "log-no-flips": lambda: with_contents("v1-flips", "log/conv.weight", lambda data: bytes(len(data))),
    "log-draws-too-wide": lambda: logged(
        "v1-draws", "rans", _draws_payload(lambda values: [value & 3 for value in values])
    ),
    # Payloads: rans.
    "rans-empty": lambda: masked("rans", b""),
    "rans-truncated-table": lambda: masked("rans", rans()[:6]),
    "rans-truncated-states": lambda: masked("rans", rans()[:-9]),
    "rans-trailing": lambda: masked("rans", rans() + b"\0\0"),
    "rans-lane-0": lambda: masked("rans", rans(edit=lambda f: f.update(lane=0))),
    "rans-lane-32769": lambda: masked("rans", rans(edit=lambda f: f.update(lane=32769))),
    "rans-lane-overlong": lambda: masked("rans", rans(edit=lambda f: f.update(lane=b"\x82\x00"))),
    "rans-lanes-beyond": lambda: masked("rans", rans(), lambda m: m["tensors"][0].update(shape=[2**12, 2**12], kept=8)),
    "rans-frequency-sum-less": lambda: masked("rans", rans(edit=lambda f: f["frequencies"].__setitem__(8, 255))),
    "rans-frequency-sum-more": lambda: masked("rans", rans(edit=lambda f: f["frequencies"].__setitem__(0, 257))),
    "rans-frequency-zeros": lambda: masked("rans", rans(edit=lambda f: f.update(frequencies=[0] * 9))),
    "rans-frequency-huge": lambda: masked("rans", rans(edit=lambda f: f["frequencies"].__setitem__(8, 2**41))),
    "rans-frequency-overlong": lambda: masked(
        "rans", rans(edit=lambda f: f["frequencies"].__setitem__(8, b"\x80\x82\x00"))
    ),
    "rans-frequency-7-bytes": lambda: masked(
        "rans", rans(edit=lambda f: f["frequencies"].__setitem__(8, b"\x80\x82\x80\x80\x80\x80\x01"))
    ),
    "rans-state-low": lambda: masked("rans", rans(edit=_lane(1, 65535))),
    "rans-state-zero": lambda: masked("rans", rans(edit=_lane(0, 0))),
    "rans-state-changed": lambda: masked("rans", rans(edit=_lane(0, 0xFFFFFFFF))),
    "rans-word-changed": lambda: masked("rans", rans(edit=_lane(0, words=lambda words: [words[0] ^ 1]))),
    "rans-word-missing": lambda: masked("rans", rans(lane=3, edit=_lane(0, words=lambda words: []))),
    "rans-word-extra": lambda: masked("rans", rans(lane=3, edit=_lane(0, words=lambda words: [*words, 7]))),
    "rans-words-moved": lambda: masked("rans", rans(edit=_moved_word)),
    "rans-words-beyond": lambda: masked("rans", rans(edit=_longer)),
    "rans-padding": lambda: masked("rans", rans((0x63, 0x8C, 0x81))),
    "rans-other-count": lambda: masked("rans", rans((0x63, 0x8C, 0x00))),
    "rans-swapped": lambda: masked("rans", rans((0x66, 0x8C, 0x01))),
    "rans-log-state": lambda: logged("v1-draws", "rans", coded(b"", 64, (8192,) * 8, [(65536, [1, 2, 3])])),
    # Payloads: gaps.
    "gaps-empty": lambda: masked("gaps", b""),
    "gaps-shift-7": lambda: masked("gaps", gaps(shift=7)),
    "gaps-none": lambda: masked("gaps", gaps(())),
    "gaps-too-many": lambda: masked("gaps", gaps((0,) * 21)),
    "gaps-far-too-many": lambda: masked("gaps", gaps(number=2**41)),
    "gaps-past-the-end": lambda: masked("gaps", gaps((0, 0, 3, 0, 3, 0, 3, 4))),
    "gaps-escape-past-the-end": lambda: masked("gaps", gaps((0, 255, 0))),
    "gaps-ends-with-escape": lambda: masked("gaps", gaps((0, 0, 3, 255))),
    "gaps-other-count": lambda: masked("gaps", gaps((0, 0, 3, 0, 3, 0, 3))),
    "gaps-frequency-sum": lambda: masked("gaps", gaps(edit=lambda f: f["frequencies"].__setitem__(4, 63))),
    "gaps-state": lambda: masked("gaps", gaps(edit=_lane(0, 65535))),
    "gaps-word-extra": lambda: masked("gaps", gaps(edit=_lane(0, words=lambda words: [*words, 0]))),
    "gaps-count-overlong": lambda: masked("gaps", bytes([SHIFT]) + b"\x88\x00" + gaps()[2:]),
    "gaps-of-draws": lambda: logged("v1-draws", "gaps", gaps()),
    "gaps-log-past-the-end": lambda: logged("v1-flips", "gaps", gaps((*_flip_gaps(), 30))),
    # Deltas.
    "deltas-undeclared": lambda: edited("v1-deltas", change("required_features", ["rans"])),
    "deltas-unused": lambda: edited("v1-none", change("required_features", ["deltas"])),
    "deltas-of-two-values": lambda: edited("v1-deltas", change("tensors.0.codebook", "signed-constant")),
    "deltas-width-zero": lambda: edited("v1-deltas", change("tensors.0.log.width", 0)),
    "deltas-all-zero": lambda: with_contents("v1-deltas", "log/fc.weight", lambda data: bytes(len(data))),
    "deltas-too-wide": lambda: _deltas_as_rans(lambda values: [value & 127 for value in values]),
    "deltas-other": lambda: with_contents("v1-deltas", "log/fc.weight", first("4c")),
    "deltas-short": lambda: with_contents("v1-deltas", "log/fc.weight", lambda data: data[:-1]),
    # Frozen masks.
    "frozen-undeclared": lambda: edited("v1-frozen", change("required_features", ["deltas", "rans"])),
    "frozen-unused": lambda: edited("v1-none", change("required_features", ["frozen"])),
    "frozen-null": lambda: edited("v1-none", change("tensors.0.frozen", None)),
    "frozen-field": lambda: edited("v1-frozen", change("tensors.0.frozen.more", 1)),
    "frozen-nothing": lambda: edited("v1-frozen", lambda m: m["tensors"][0]["frozen"].update(pruned=0, kept=0)),
    "frozen-negative": lambda: edited("v1-frozen", change("tensors.0.frozen.pruned", -1)),
    "frozen-65536": lambda: edited("v1-frozen", lambda m: m["tensors"][0]["frozen"].update(pruned=65536, kept=0)),
    "frozen-sum": lambda: edited("v1-frozen", change("tensors.0.frozen.pruned", 55537)),
    "frozen-overflow": lambda: edited("v1-frozen", change("tensors.0.frozen.pruned", 2**32)),
    "frozen-free-negative": lambda: edited("v1-frozen", change("tensors.0.frozen.free", -1)),
    "frozen-free-above": lambda: edited("v1-frozen", change("tensors.0.frozen.free", 2001)),
    "frozen-free-huge": lambda: edited("v1-frozen", change("tensors.0.frozen.free", 2**64)),
    "frozen-shape-huge": lambda: edited("v1-frozen", change(SHAPE, [2**18, 2**18])),
    "frozen-free-other": lambda: edited("v1-frozen", change("tensors.0.frozen.free", 1081)),
    "frozen-fewer-free": lambda: edited("v1-frozen", change("tensors.0.frozen.pruned", 21000)),
    "frozen-more-free": lambda: edited("v1-frozen", change("tensors.0.frozen.pruned", 19000)),
    "frozen-none-free": lambda: edited("v1-frozen", change("tensors.0.frozen.pruned", 55536)),
    "frozen-other-share": lambda: edited(
        "v1-frozen", lambda m: m["tensors"][0]["frozen"].update(pruned=21000, kept=9000)
    ),
    "frozen-removed": lambda: edited("v1-frozen", lambda m: m["tensors"][0].pop("frozen")),
    "frozen-other": lambda: with_contents("v1-frozen", "mask/kept", lambda data: bytes([data[0] ^ 5, *data[1:]])),
    "frozen-padding": lambda: with_contents("v1-frozen", "mask/kept", lambda data: data[:-1] + b"\x81"),
    # Coats.
    "coats-undeclared": lambda: edited("v1-coats", change("required_features", ["frozen", "rans"])),
    "coats-unused": lambda: edited("v1-none", change("required_features", ["coats"])),
    "coats-null": lambda: edited("v1-none", change("tensors.0.coats", None)),
    "coats-of-many-values": lambda: edited("v1-coats", change("tensors.0.codebook", "uniform")),
    "coats-width-zero": lambda: edited("v1-coats", change("tensors.0.coats.width", 0)),
    "coats-width-eight": lambda: edited("v1-coats", change("tensors.0.coats.width", 8)),
    "coats-coding-unknown": lambda: edited("v1-coats", change("tensors.0.coats.coding", "zstd")),
    "coats-scale-overflows": lambda: edited("v1-coats", change(SCALE, "7e800000")),
    "coats-all-one": lambda: with_contents("v1-coats", "coats/two", lambda data: bytes(len(data))),
    "coats-too-wide": lambda: _coats_as_rans(lambda values: [value & 63 for value in values]),
    "coats-128": lambda: _coats_as_rans(lambda values: [127, *values[1:]]),
    "coats-padding": lambda: with_contents("v1-coats", "coats/two", lambda data: data[:2] + b"\x99"),
    "coats-long": lambda: with_contents("v1-coats", "coats/two", lambda data: data + b"\0"),
    "coats-gaps-past-the-end": lambda: _coats_as_gaps(),
    "coats-other": lambda: with_contents("v1-coats", "coats/two", lambda data: bytes([data[0] ^ 3, *data[1:]])),
    # Trained values.
    "values-undeclared": lambda: edited("v1-values-float32", change("required_features", ["frozen"])),
    "values-unused": lambda: edited("v1-none", change("required_features", ["values"])),
    "values-null": lambda: edited("v1-none", change("tensors.0.values", None)),
    "values-dtype": lambda: edited("v1-values-float32", change("tensors.0.values.dtype", "BF16")),
    "values-dtype-escape": lambda: edited("v1-values-float32", change("tensors.0.values.dtype", ESCAPE)),
    "values-dtype-other": lambda: edited("v1-values-float32", change("tensors.0.values.dtype", "F16")),
    "values-coded": lambda: edited("v1-values-float16", change("tensors.0.values.coding", "rans")),
    "values-gaps": lambda: edited(
        "v1-values-int8",
        lambda m: (m["tensors"][1]["values"].update(coding="gaps"), m.update(required_features=features_of(m))),
    ),
    "values-coding-unknown": lambda: edited("v1-values-int8", change("tensors.0.values.coding", "zstd")),
    "values-bytes": lambda: edited("v1-values-float32", change("tensors.0.values.bytes", 3720)),
    "values-kept-huge": lambda: edited(
        "v1-values-float32", lambda m: m["tensors"][0].update(shape=[2**16, 2**16], kept=2**32)
    ),
    "values-beside-log": lambda: edited(
        "v1-flips", change("tensors.0.values", {"bytes": 88, "coding": "raw", "dtype": "F32"})
    ),
    "values-beside-coats": lambda: edited(
        "v1-coats", change("tensors.0.values", {"bytes": 5848, "coding": "raw", "dtype": "F32"})
    ),
    "values-without-scales": _without_scales,
    "values-infinite": lambda: valued("float32", "values/fc.weight", first("0000807f")),
    "values-nan": lambda: valued("float32", "values/fc.weight", first("010080ff")),
    "values-half-infinite": lambda: valued("float16", "values/fc.weight", first("00fc")),
    "values-half-nan": lambda: valued("float16", "values/fc.weight", first("017e")),
    "values-minus-128": lambda: _values_as_rans(lambda values: [128, *values[1:]]),
    "values-scale-zero": lambda: valued("int8", "scales/fc.weight", first("00000000")),
    "values-scale-negative": lambda: valued("int8", "scales/fc.weight", first("000080bf")),
    "values-scale-nan": lambda: valued("int8", "scales/fc.weight", first("0000c07f")),
    "values-scale-subnormal": lambda: valued("int8", "scales/fc.weight", first("ffff7f00")),
    "values-scale-overflows": lambda: valued("int8", "scales/fc.weight", first("0000807e")),
    "values-scale-of-an-empty-row": lambda: valued("int8", "scales/empty", lambda data: data[:12] + bytes(4)),
    "values-short": lambda: valued("int8", "values/fc.weight", lambda data: data[:-1]),
    "values-other": lambda: valued("int8", "values/fc.weight", first("01")),
    "values-minus-zero": lambda: valued("float32", "values/fc.weight", first("00000000")),
    "values-scale-other": lambda: valued("int8", "scales/fc.weight", first("756a5938")),
}


def constant(name: str, **fields: object) -> bytes:
    """`v1-constants`, where the entry of a state tensor has other fields; ``None`` takes one away."""

    def edit(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["state"] if entry["name"] == name)
        entry.update(fields)
        for key in [key for key, value in fields.items() if value is None]:
            del entry[key]

    return edited("v1-constants", edit)


def repeated(name: str, item: bytes) -> bytes:
    """`v1-constants`, where a state tensor that is stored as it is repeats one item."""
    return with_contents("v1-constants", f"state/{name}", lambda data: item * (len(data) // len(item)))


BAD |= {
    "constants-undeclared": lambda: edited("v1-constants", change("required_features", [])),
    "constants-unused": lambda: edited("v1-none", change("required_features", ["constants"])),
    "constants-null": lambda: edited("v1-constants", change("state.0.value", None)),
    "constants-number": lambda: constant("bn.running_var", value=15360),
    "constants-escape": lambda: constant("bn.running_var", value=ESCAPE),
    "constants-short": lambda: constant("bn.running_var", value="3c0"),
    "constants-long": lambda: constant("bn.running_var", value="3c003c00"),
    "constants-upper-case": lambda: constant("bn.running_var", value="3C00"),
    "constants-newline": lambda: constant("bn.running_var", value="3c00\n"),
    "constants-bool": lambda: constant("flag", value="02"),
    "constants-one-item": lambda: constant("bn.running_var", shape=[1]),
    "constants-no-item": lambda: constant("bn.running_var", shape=[0, 2**36]),
    "constants-scalar": lambda: constant("bn.running_var", shape=[]),
    "constants-negative": lambda: constant("bn.running_var", shape=[-2, -2]),
    "constants-rank": lambda: constant("bn.running_var", shape=[1] * 16 + [2]),
    "constants-dtype": lambda: constant("bn.running_var", dtype="F8"),
    "constants-other-dtype": lambda: constant("bn.running_var", dtype="F32"),
    "constants-field": lambda: constant("bn.running_var", more=1),
    "constants-huge": lambda: constant("bn.running_var", shape=[2**25]),
    "constants-huge-f64": lambda: constant("large", shape=[2**23]),
    "constants-address": lambda: constant("bn.running_var", shape=[2**20, 2**20]),
    "constants-many": lambda: edited(
        "v1-constants",
        lambda m: [
            entry.update(shape=[2**24 + 2**23]) for entry in m["state"] if entry["name"] in ("bn.running_var", "half")
        ],
    ),
    "constants-in-the-data": lambda: constant("bn.bias", value="3800"),
    "constants-not-in-the-data": lambda: constant("bn.running_var", value=None),
    "constants-repeated": lambda: repeated("bn.bias", b"\0\x38"),
    "constants-repeated-bytes": lambda: repeated("other", b"\2\1"),
}


def _coats_as_gaps() -> bytes:
    """Gaps that go one value beyond the 22 kept weights of `two`."""
    manifest, contents = parts(golden("v1-coats"))
    manifest["tensors"][1]["coats"]["coding"] = "gaps"
    contents["coats/two"] = gaps((0, 21))
    return build(manifest, contents)


def masked_features(features: list[str]) -> bytes:
    """The control file of ``rans`` with another list of features."""
    manifest, contents = parts(control("rans"))
    manifest["required_features"] = features
    return build(manifest, contents, features=False)


def _state_unsorted() -> bytes:
    manifest, contents = parts(golden("v1-flips"))
    manifest["state"].reverse()
    return build(manifest, contents)


def _state_dimension() -> bytes:
    """An empty tensor with a dimension that no other reader can represent."""
    manifest, contents = parts(golden("v1-none"))
    manifest["state"] = [{"dtype": "F32", "name": "bias", "shape": [0, 10**19]}]
    return build(manifest, {**contents, "state/bias": b""})


# The compact form, from section 6. The directory is that of v1-compact-none, cut into its fields.

COMPACT = {
    "seed": bytes.fromhex("efcdab8967452301"),
    "weights": bytes.fromhex("89d26f8e69e8d351d0558e8c0f599e8d79ac7b96e3e448833dc84da7b52763a6"),
    "settings": bytes(4),  # architecture, input, classes, recipe: null
    "count": b"\1",
    "name": bytes([0, 2, 33, 0]),  # fc.weight
    "kind": b"\2",
    "shape": bytes([2, 4, 5]),
    "scale": bytes.fromhex("3ad06b3c"),
    "kept": b"\x08",
    "sizes": b"",
    "states": b"\0",
}


def compact(
    payload: bytes = bytes(MASK),
    *,
    features: Sequence[str] = ("compact",),
    stub: dict[str, Any] | None = None,
    size: bytes | None = None,
    digest: bytes | None = None,
    tail: bytes = b"",
    data: bytes | None = None,
    slots: dict[str, Any] | None = None,
    **fields: bytes,
) -> bytes:
    """`v1-compact-none` with other fields in its directory, or other bytes around it; digest and header are right."""
    directory = b"".join((COMPACT | fields).values()) + tail
    body = (varint(len(directory)) if size is None else size) + directory + payload
    if data is None:
        data = (hashlib.sha256(body).digest() if digest is None else digest) + body
    text = canonical({"format_version": 1, "required_features": list(features), **(stub or {})})
    entry = {"data_offsets": [0, len(data)], "dtype": "U8", "shape": [len(data)]}
    header = {"__metadata__": {"seedmask": text}, **({"data": entry} if slots is None else slots)}
    return container(canonical(header), data)


def setting(value: bytes) -> bytes:
    """The four settings, of which the recipe is an object with the one key ``a`` and this value."""
    return bytes([0, 0, 0, 9, 1, 84, 1]) + b"a" + value


def keys(first: int, second: bytes) -> bytes:
    """The four settings, of which the recipe is an object with two keys and nulls."""
    return bytes([0, 0, 0, 9, 2, 84, 1, first, 0]) + second + b"\0"


def state(*names: bytes) -> bytes:
    """State tensors of dtype BOOL that are scalars."""
    return varint(len(names)) + b"".join(name + b"\0" for name in names)


def slot(dtype: str, size: int) -> dict[str, Any]:
    """What the header says of the data of `v1-compact-none`, with another dtype or size."""
    return {"data_offsets": [0, 95], "dtype": dtype, "shape": [size]}


BAD |= {
    "compact-digest": lambda: compact(digest=bytes(32)),
    "compact-digest-weights": lambda: compact(weights=bytes(32)),
    "compact-mask": lambda: compact(bytes([0x66, 0x8C, 0x01])),
    "compact-stub-field": lambda: compact(stub={"seed": "0123456789abcdef"}),
    "compact-feature-undeclared": lambda: compact(kind=b"\6", sizes=b"\3"),
    "compact-feature-unused": lambda: compact(features=("compact", "rans")),
    "compact-without-data": lambda: compact(slots={"mask": slot("U8", 95)}),
    "compact-data-dtype": lambda: compact(slots={"data": slot("I8", 95)}),
    "compact-data-shape": lambda: compact(slots={"data": slot("U8", -95)}),
    "compact-data-text": lambda: compact(slots={"data": "data"}),
    "compact-data-twice": lambda: compact(slots={"data": slot("U8", 95), "more": slot("U8", 95)}),
    "compact-empty": lambda: compact(data=b""),
    "compact-digest-alone": lambda: compact(data=hashlib.sha256().digest()),
    "compact-trailing-file": lambda: compact() + b"\0",
    "compact-truncated-file": lambda: compact()[:-1],
    "compact-size-overlong": lambda: compact(size=b"\xbb\0"),
    "compact-size-beyond": lambda: compact(size=b"\x7f"),
    "compact-size-huge": lambda: compact(size=b"\xff\xff\xff\x7f"),
    "compact-size-endless": lambda: compact(b"\xff" * 9, size=b"\xff" * 9),
    "compact-payload-long": lambda: compact(bytes(MASK) + b"\0"),
    "compact-payload-short": lambda: compact(bytes(MASK[:2])),
    "compact-directory-long": lambda: compact(tail=b"\0"),
    "compact-directory-short": lambda: compact(states=b""),
    "compact-number-overlong": lambda: compact(kept=b"\x88\0"),
    "compact-number-huge": lambda: compact(kept=b"\xff" * 10 + b"\1"),
    "compact-number-above": lambda: compact(kept=b"\xff" * 9 + b"\2"),
    "compact-word-unknown": lambda: compact(name=bytes([0, 2, 33, 85])),
    "compact-word-twice": lambda: compact(name=bytes([0, 2, 84, 2]) + b"fc" + b"\0"),
    "compact-word-not-utf8": lambda: compact(name=bytes([0, 1, 84, 2]) + b"\xff\xfe"),
    "compact-word-surrogate": lambda: compact(name=bytes([0, 1, 84, 3]) + b"\xed\xa0\x80"),
    "compact-word-beyond": lambda: compact(name=bytes([0, 1, 84]) + varint(10**6)),
    "compact-name-empty": lambda: compact(name=bytes([0, 0])),
    "compact-name-shared": lambda: compact(name=bytes([1, 1, 0])),
    "compact-name-shares-more": lambda: compact(bytes(MASK) + b"\0", states=state(bytes([0, 2, 33, 1]))),
    "compact-name-twice": lambda: compact(bytes(MASK) + b"\0", states=state(bytes([2, 0]))),
    "compact-name-long": lambda: compact(name=bytes([0, 1, 84]) + varint(513) + b"x" * 513),
    "compact-name-of-words": lambda: compact(name=bytes([0]) + varint(600) + bytes(600)),
    "compact-name-escape": lambda: compact(name=bytes([0, 1, 84, 4]) + b"\x1b[2J"),
    "compact-kind-codebook": lambda: compact(kind=b"\3"),
    "compact-kind-coding": lambda: compact(kind=b"\x0e"),
    "compact-more-zero": lambda: compact(kind=b"\x82\0"),
    "compact-more-large": lambda: compact(kind=b"\x82\x08"),
    "compact-scale-nan": lambda: compact(scale=bytes.fromhex("0000c07f")),
    "compact-shape-rank": lambda: compact(shape=bytes([17]) + b"\1" * 17),
    "compact-shape-huge": lambda: compact(shape=bytes([2]) + varint(2**40) + b"\1"),
    "compact-shape-zero": lambda: compact(shape=bytes([2, 0, 5])),
    "compact-kept-above": lambda: compact(kept=bytes([21])),
    "compact-kept-other": lambda: compact(kept=bytes([7])),
    "compact-none": lambda: compact(b"", count=b"\0", name=b"", kind=b"", shape=b"", scale=b"", kept=b""),
    "compact-count-huge": lambda: compact(count=varint(2**40)),
    "compact-states-unsorted": lambda: compact(
        bytes(MASK) + bytes(2), states=state(bytes([1, 1, 2]), bytes([1, 1, 1]))
    ),
    "compact-value-deep": lambda: compact(settings=setting(b"\x08\1" * 20 + b"\0")),
    "compact-value-nan": lambda: compact(settings=setting(bytes.fromhex("050000c07f"))),
    "compact-value-wide": lambda: compact(settings=setting(b"\6" + struct.pack("<d", 0.5))),
    "compact-value-above": lambda: compact(settings=setting(b"\3" + b"\xff" * 9 + b"\1")),
    "compact-value-below": lambda: compact(settings=setting(b"\4" + b"\xff" * 9 + b"\1")),
    "compact-value-escape": lambda: compact(settings=setting(bytes([7, 85, 4]) + b"\x1b[2J")),
    "compact-list-huge": lambda: compact(settings=setting(b"\x08" + varint(2**40))),
    "compact-keys-unsorted": lambda: compact(settings=keys(ord("b"), bytes([85, 1]) + b"a")),
    "compact-key-twice": lambda: compact(settings=keys(ord("a"), bytes([84]))),
    "compact-architecture-list": lambda: compact(settings=bytes([8, 0, 0, 0, 0])),
    "compact-input-number": lambda: compact(settings=bytes([0, 10, 0, 0])),
}


def compact_constant(kind: int = 2 * 18 + 1, shape: bytes = b"\3", item: bytes = b"\0\x3c", tail: bytes = b"") -> bytes:
    """`v1-compact-none` with the state tensor ``fc.bias``, F16 of shape [3] and of ones: twice 13 * 1 + 5, plus 1."""
    states = b"\1" + bytes([1, 1, 1]) + varint(kind) + shape + item
    return compact(bytes(MASK) + tail, features=("compact", "constants"), states=states)


BAD |= {
    "compact-constants-undeclared": lambda: compact(states=b"\1" + bytes([1, 1, 1, 37, 3, 0, 0x3C])),
    "compact-constants-unused": lambda: compact(features=("compact", "constants")),
    "compact-constants-none": lambda: compact_constant(kind=36, item=b"", tail=b"\0\x3c" * 2 + b"\0\0"),
    "compact-constants-repeated": lambda: compact(
        b"\0\x3c" * 3 + bytes(MASK),
        features=("compact", "constants"),
        states=b"\2" + bytes([1, 1, 1, 37, 3, 0, 0x3C]) + bytes([1, 1, 2, 36, 3]),
    ),
    "compact-constants-truncated": lambda: compact_constant(item=b"\0"),
    "compact-constants-in-the-data": lambda: compact_constant(tail=b"\0\x3c" * 3),
    "compact-constants-bool": lambda: compact_constant(kind=2 * 13 + 1, item=b"\2"),
    "compact-constants-one-item": lambda: compact_constant(shape=b"\1"),
    "compact-constants-no-item": lambda: compact_constant(shape=b"\0"),
    "compact-constants-rank": lambda: compact_constant(kind=2 * (13 * 17 + 5) + 1, shape=b"\1" * 16 + b"\2"),
    "compact-constants-huge": lambda: compact_constant(shape=varint(2**25)),
    "compact-constants-address": lambda: compact_constant(shape=varint(2**63)),
    "compact-constants-above": lambda: compact_constant(shape=b"\xff" * 9 + b"\1"),
}

#: Files that look hostile and are right: such names are keys, and nothing else.
ODD: dict[str, Callable[[], bytes]] = {
    "odd-name-path": lambda: renamed("../../../../etc/passwd", "/etc/shadow"),
    "odd-name-windows": lambda: renamed("C:\\Windows\\System32\\config", "\\\\host\\share"),
    "odd-name-format": lambda: renamed("%s%n{0}$(id)`id`[red]", "__metadata__"),
    "odd-name-long": lambda: renamed("ü" * 256),
}

FILES = {**BAD, **ODD}

if __name__ == "__main__":
    for stem, make in FILES.items():
        path = FOLDER / f"{stem}.seedmask"
        if path.exists():
            print(f"{path.name}: exists, left alone")
        else:
            data = make()
            path.write_bytes(data)
            print(f"{path.name}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
