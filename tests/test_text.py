"""Texts: the tokeniser, the data, the transformer, and the whole way from sentences to ONNX."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import refresh
from networks import settings as make_settings
from onnx import helper, numpy_helper
from safetensors.numpy import load_file
from torch import nn

from conftest import fail, succeed
from iterand_compress import (
    ImageInput,
    OnnxClassifier,
    export_onnx,
    load,
    load_network,
    load_session,
    read_seedmask,
    to_dense,
)
from iterand_compress.compress.analysis.estimate import estimate
from iterand_compress.compress.config import DataConfig, ModelConfig
from iterand_compress.compress.data import texts as texts_module
from iterand_compress.compress.data.catalogue import DATASETS
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.data.sentences import ANIMALS, load_sentences
from iterand_compress.compress.data.tokens import pieces, token_hash, tokenise, tokenise_all
from iterand_compress.compress.errors import ConfigError, DataError, ExportError, SeedMaskError
from iterand_compress.compress.inputs import TextInput
from iterand_compress.compress.mask.masking import mask_model
from iterand_compress.compress.methods.presets import read_recipe
from iterand_compress.compress.models import Architecture, TextArchitecture, read_architecture, resolve
from iterand_compress.compress.models.build import build_model
from iterand_compress.compress.models.transformer import Attention
from iterand_compress.compress.seedmask import Network, dumps, loads
from iterand_compress.compress.seedmask import manifest as manifest_module
from iterand_compress.compress.seedmask.json_text import canonical_json

WORDS = TextInput(6, 1000)
BYTES = TextInput(6, 257, "bytes")

# --- Tokeniser ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("piece", "value"),
    [  # FNV-1a as published for "", "a" and "foobar" (811c9dc5, e40c292c, bf9cf968), then MurmurHash3's fmix32
        ("", 0xAB3E7C0B),
        ("a", 0x1A80B1B3),
        ("foobar", 0x0C0DA6DC),
        ("größer", 0x1469908D),
    ],
)
def test_hash_of_a_piece(piece: str, value: int) -> None:
    assert token_hash(piece) == value


def test_hash_is_the_published_one_with_the_published_finaliser() -> None:
    def unmixed(value: int) -> int:
        """fmix32 backwards: x ^= x >> s is undone by repeating it, a product by the inverse factor."""
        value ^= value >> 16
        value = value * pow(0xC2B2AE35, -1, 2**32) % 2**32
        value ^= value >> 13 ^ value >> 26
        value = value * pow(0x85EBCA6B, -1, 2**32) % 2**32
        return value ^ value >> 16

    assert [unmixed(token_hash(text)) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sat.", ["the", "cat", "sat", "."]),
        ("Don’t 'quote' o'clock'", ["don't", "'", "quote", "'", "o'clock", "'"]),
        ("3.14e5 ５００€", ["3", ".", "14", "e", "5", "500", "€"]),
        ("ﬁn\u00adal GROẞ E\u0301", ["final", "groß", "é"]),
        ("a--b ...", ["a", "-", "-", "b", ".", ".", "."]),
        ("tab\tnew\nline\u00a0x\x00y", ["tab", "new", "line", "x", "y"]),
        ("ЁЖ 你好,世界", ["ёж", "你好", ",", "世界"]),
        (" \u200b\n", []),
        ("", []),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_tokens_of_words() -> None:
    assert tokenise("The CAT.", WORDS).tolist() == [*(1 + token_hash(w) % 999 for w in ("the", "cat", ".")), 0, 0, 0]
    assert tokenise("the cat.", WORDS).tolist() == [139, 794, 968, 0, 0, 0]
    assert tokenise("a b c d e f g h", WORDS).tolist() == [1 + token_hash(w) % 999 for w in "abcdef"]
    assert tokenise("any words at all", TextInput(4, 2)).tolist() == [1, 1, 1, 1]


def test_tokens_of_bytes() -> None:
    assert tokenise("Aé\x00", BYTES).tolist() == [66, 0xC3 + 1, 0xA9 + 1, 1, 0, 0]
    assert tokenise("éééé", BYTES).tolist() == [196, 170] * 3
    assert tokenise("\ud800", BYTES).tolist() == [ord("?") + 1, 0, 0, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.text(), st.integers(1, 20), st.integers(2, 2**24))
def test_any_text_becomes_tokens(text: str, length: int, vocabulary: int) -> None:
    spec = TextInput(length, vocabulary)
    tokens = tokenise(text, spec)
    assert tokens.shape == (length,)
    assert tokens.dtype == np.int64
    used = min(length, len(pieces(text)))
    assert (tokens[:used] >= 1).all()
    assert (tokens < vocabulary).all()
    assert not tokens[used:].any()
    assert np.array_equal(tokens, tokenise(f" {text}\n", spec))
    assert np.array_equal(tokenise(text, TextInput(length + 3, vocabulary))[:length], tokens)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_are_kept(text: str) -> None:
    tokens = tokenise(text, TextInput(200, 257, "bytes"))
    data = text.encode()[:200]
    assert bytes((tokens[: len(data)] - 1).tolist()) == data
    assert not tokens[len(data) :].any()


@pytest.mark.processes
def test_the_tokeniser_needs_no_torch() -> None:
    code = (
        "import sys; from iterand_compress.compress.data.tokens import TextInput, tokenise;"
        "tokenise('a b', TextInput(3, 9)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Sentences ---------------------------------------------------------------------------------------------


def test_sentences_are_always_the_same_ones() -> None:
    raw = load_sentences()
    every = raw.train.texts + raw.test.texts
    assert (len(raw.train.texts), len(raw.test.texts), len(set(every))) == (6000, 1500, 7500)
    assert (
        raw.train.texts[0]
        == "While the brown cat slept after dark, the hungry fox and not the bear caught the old dog."
    )
    assert raw.classes[raw.train.labels[0]] == "fox"
    listing = "\n".join(every) + "".join(map(str, [*raw.train.labels, *raw.test.labels]))
    assert hashlib.sha256(listing.encode()).hexdigest() == SENTENCES


SENTENCES = "ccdeca1ffc761895f789b6802a28dfd74fef4b82972232775e4a5758fc84df25"


def test_the_class_of_a_sentence_is_the_animal_that_did_it() -> None:
    """Found by a reader of its own: what stands where, seen from the verb."""
    raw = load_sentences()
    verbs = {"chased", "followed", "caught", "carried", "watched", "helped"}
    for text, label in zip(raw.train.texts, raw.train.labels, strict=True):
        words = pieces(text)
        verb = max(place for place, word in enumerate(words) if word in verbs)
        named = [(place, word) for place, word in enumerate(words) if word in ANIMALS]
        before, after = [w for p, w in named if p < verb], [w for p, w in named if p > verb]
        clause = words[: verb + 1]
        if clause[-2] == "was":  # passive: the first animal behind "by"
            doer = after[0]
        elif clause[-2] == "that" or "it" in clause:  # "it was A (but B) that chased": the last one before "that"
            doer = before[-1]
        elif "not" in clause:  # "A and not C chased"
            doer = before[-2]
        else:
            doer = before[-1]
        assert doer == ANIMALS[label], text


def test_sentences_fit_their_settings() -> None:
    """No sentence is cut off, and no two words share a number."""
    raw = load_sentences()
    every = [pieces(text) for text in raw.train.texts + raw.test.texts]
    words = {word for row in every for word in row}
    assert max(map(len, every)) == 25
    assert len({1 + token_hash(word) % 511 for word in words}) == len(words) == 46
    counts = np.bincount(np.concatenate([raw.train.labels, raw.test.labels]))
    assert counts.min() > 1150
    assert counts.max() < 1350


def test_sentences_as_a_data_set() -> None:
    data = load_data(DataConfig(name="sentences", validation=0.25), seed=3)
    assert (len(data.train), len(data.val), len(data.test)) == (4500, 1500, 1500)
    assert (data.classes, data.input) == (ANIMALS, TextInput(28, 512))
    raw = load_sentences()
    tokens, labels = next(data.test.batches(40, "cpu"))
    assert tokens.dtype == torch.int64
    assert np.array_equal(tokens.numpy(), tokenise_all(raw.test.texts[:40], data.input))
    assert labels.tolist() == raw.test.labels[:40].tolist()
    batches = [list(data.train.train_batches(1, 64, "cpu", start=start)) for start in (0, 5)]
    assert len(batches[0]) == 70
    assert all(
        torch.equal(a, b) for x, y in zip(batches[0][5:], batches[1], strict=True) for a, b in zip(x, y, strict=True)
    )
    other = next(data.train.train_batches(2, 64, "cpu"))[0]
    assert not torch.equal(other, batches[0][0][0])
    seen = {
        (tuple(row), label)
        for x, y in data.train.batches(999, "cpu")
        for row, label in zip(x.tolist(), y.tolist(), strict=True)
    }
    held = {
        (tuple(row), label)
        for x, y in data.val.batches(999, "cpu")
        for row, label in zip(x.tolist(), y.tolist(), strict=True)
    }
    assert len(seen) == 4500
    assert not seen & held


def test_settings_of_images_and_of_texts_stay_apart() -> None:
    with pytest.raises(
        ConfigError, match="sentences is text, which has no crop = 'shift': leave it out, or begin with"
    ):
        load_data(DataConfig(name="sentences", crop="shift"))
    with pytest.raises(ConfigError, match="digits has no vocabulary, that is a setting of text"):
        load_data(DataConfig(vocabulary=100))
    assert DATASETS[-2:] == ("sentences", "text")
    assert read_recipe({"data": {"name": "digits", "pad": 1}}, "old").data.tokens is None


# --- Texts of the user's -----------------------------------------------------------------------------------

ROWS = [("good", "a fine thing"), ("bad", 'not "fine", bad'), ("good", "grand\nindeed"), ("bad", "awful, really")]


def table(path: Path, rows=ROWS, header="label,text") -> Path:
    lines = [header, *(f'{label},"{text.replace(chr(34), chr(34) * 2)}"' for label, text in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def folder(root: Path, part: str, rows=ROWS) -> Path:
    for number, (label, text) in enumerate(rows):
        path = root / part / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def read(path: Path, **settings):
    return load_data(DataConfig(name="text", **{"validation": 0.0, **settings}), data_dir=path)


def contents(split) -> list[tuple[list[int], int]]:
    ((tokens, labels),) = split.batches(1000, "cpu")
    return sorted(zip(tokens.tolist(), labels.tolist(), strict=True))


def test_folders_and_tables_are_the_same_data(tmp_path: Path) -> None:
    folder(tmp_path / "files", "train")
    folder(tmp_path / "files", "test", ROWS[:1])
    (tmp_path / "tables").mkdir()
    table(tmp_path / "tables" / "train.csv")
    (tmp_path / "tables" / "test.csv").write_text("\ufeffid,text,label\r\n7,a fine thing, good \r\n", encoding="utf-8")
    one, other = (read(tmp_path / name, tokens=9, vocabulary=5000) for name in ("files", "tables"))
    for data in (one, other):
        assert (data.classes, data.input, data.val) == (("bad", "good"), TextInput(9, 5000), None)
    expected = sorted((tokenise(text, one.input).tolist(), int(label == "good")) for label, text in ROWS)
    assert contents(one.train) == contents(other.train) == expected
    assert contents(one.test) == contents(other.test) == [(tokenise("a fine thing", one.input).tolist(), 1)]


def test_one_table_is_split_once_and_for_all(tmp_path: Path) -> None:
    rows = [(("up", "down")[n % 2], f"text number {n}") for n in range(20)]
    path = table(tmp_path / "all.csv", rows)
    splits = [load_data(DataConfig(name="text", validation=0), data_dir=path, seed=seed) for seed in (0, 9)]
    assert [(len(data.train), len(data.test)) for data in splits] == [(16, 4)] * 2
    assert contents(splits[0].test) == contents(splits[1].test)
    assert len({tuple(row) for data in (splits[0].train, splits[0].test) for row, _ in contents(data)}) == 20


def test_a_validation_part_of_its_own_and_bytes(tmp_path: Path) -> None:
    for part, rows in (("train", ROWS), ("val", ROWS[:2]), ("test", ROWS[2:])):
        table(tmp_path / f"{part}.csv", rows)
    data = read(tmp_path, unit="bytes", validation=0.5)
    assert [len(part) for part in (data.train, data.val, data.test)] == [4, 2, 2]
    assert data.input == TextInput(512, 257, "bytes")
    (tmp_path / "test.csv").unlink()
    assert [len(part) for part in (read(tmp_path).train, read(tmp_path).test)] == [4, 2]


def write(path: Path, data: bytes | str) -> None:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


BAD_TABLES = {
    "no header": ("good,a\nbad,b\n", r"train\.csv: expected a header with the columns label and text.*got 'good, a'"),
    "empty file": ("", r"train\.csv: expected a header with .*got ''"),
    "twice": ("label,text,text\n", "expected a header"),
    "no rows": ("label,text\n", r"train\.csv: a header and no texts"),
    "an empty text": ("label,text\na,x\nb, \n", r"train\.csv, line 3: an empty text: remove it"),
    "an empty label": ("label,text\na,x\n ,y\n", r"line 3: class name: expected 1 to 512 bytes of text, got 0"),
    "a comma too many": (
        "label,text\na,x,y\n",
        r"line 2: expected 2 columns .* got 3: put texts with commas in double",
    ),
    "an open quote": ('label,text\na,"x\n', r"train\.csv, line 2: not CSV \(unexpected end of data\)"),
    "not UTF-8": (b"label,text\na,\xff\n", r"train\.csv, line 2: not UTF-8 \(byte 13 of the file\): convert it"),
    "one class": ("label,text\na,x\na,y\n", "train: expected two classes or more, got a"),
    "no words": ("label,text\ngood,x\nbad,\u200b\n", r"no words, numbers or marks in the text '\\u200b': remove it"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(name: str, tmp_path: Path) -> None:
    content, message = BAD_TABLES[name]
    write(tmp_path / "train.csv", content)
    table(tmp_path / "test.csv")
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_absent_or_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="text: nothing given to read: give --data-dir"):
        load_data(DataConfig(name="text"))
    with pytest.raises(DataError, match=r"absent: no such folder or file"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"has neither train/ nor train\.csv"):
        read(tmp_path)
    folder(tmp_path, "train")
    with pytest.raises(DataError, match=r"has no test/, test\.csv, val/ or val\.csv"):
        read(tmp_path)
    table(tmp_path / "test.csv", [("ugly", "a third class")])
    with pytest.raises(
        DataError, match=r"test\.csv, line 2: class 'ugly' is not among the training texts; .*: bad, good"
    ):
        read(tmp_path)
    table(tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"has both train/ and train\.csv: remove one"):
        read(tmp_path)
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"class .*empty has no texts: expected \.txt files"):
        read(tmp_path)
    (tmp_path / "none" / "train").mkdir(parents=True)
    (tmp_path / "none" / "test").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        read(tmp_path / "none")
    monkeypatch.setattr(texts_module, "LARGEST_FILE", 5)
    with pytest.raises(DataError, match=r"all\.csv: \d+ bytes; expected 5 at most: split it"):
        read(table(tmp_path / "all.csv"))


# --- The transformer ---------------------------------------------------------------------------------------


def transformer(length: int = 7, vocabulary: int = 50, **settings) -> nn.Module:
    arch = TextArchitecture("text-transformer", 4, length, vocabulary, **settings)
    return mask_model(build_model(arch, seed=0), make_settings(seed=5)).eval()


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def attention(x: np.ndarray, weights: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """One text ``[L, width]`` without padding, head by head."""
    query, key, value = (x @ weights[name].T for name in ("query", "key", "value"))
    size = x.shape[1] // heads
    mixed = np.empty_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / np.sqrt(size)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        mixed[:, part] = shares / shares.sum(1, keepdims=True) @ value[:, part]
    return mixed @ weights["out"].T


def in_numpy(weights: dict[str, np.ndarray], tokens: list[int], heads: int) -> np.ndarray:
    """The logits of one text without padding, in double precision."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    x = weights["tokens.weight"][tokens] + weights["places.weight"][: len(tokens)]
    for block in ("blocks.0.", "blocks.1."):
        inner = {name: weights[f"{block}attention.{name}.weight"] for name in ("query", "key", "value", "out")}
        x = x + attention(normalised(x), inner, heads)
        hidden = np.maximum(normalised(x) @ weights[f"{block}mlp.0.weight"].T, 0)
        x = x + hidden @ weights[f"{block}mlp.2.weight"].T
    return normalised(x).mean(0) @ weights["classifier.weight"].T


def test_attention_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    layer = Attention(64, 2)
    x = torch.randn(3, 5, 64)
    present = torch.ones(3, 5, dtype=torch.bool)
    weights = {name: child.weight.detach().numpy() for name, child in layer.named_children()}
    with torch.no_grad():
        found = layer(x, present).numpy()
        for row in range(3):
            np.testing.assert_allclose(found[row], attention(x[row].numpy(), weights, 2), atol=2e-5)
        # What stands in a padded place changes nothing elsewhere.
        present[0, 3:] = False
        found = layer(x, present).numpy()
    np.testing.assert_allclose(found[0, :3], attention(x[0, :3].numpy(), weights, 2), atol=2e-5)


def test_the_network_computes_what_numpy_computes() -> None:
    model = transformer(width=0.5)
    weights = {name: value.numpy() for name, value in to_dense(model).state_dict().items()}
    rows = [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3], [49]]
    padded = torch.tensor([row + [0] * (7 - len(row)) for row in rows])
    with torch.no_grad():
        found = model(padded).numpy()
    for row, logits in zip(rows, found, strict=True):
        np.testing.assert_allclose(logits, in_numpy(weights, row, heads=2), atol=2e-5)


def test_padding_changes_nothing_and_a_text_of_nothing_else_is_no_nan() -> None:
    model = transformer(length=9)
    text = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        alone = model(text)
        for width in (4, 9):
            torch.testing.assert_close(model(nn.functional.pad(text, (0, width - 3))), alone, rtol=0, atol=1e-6)
        assert torch.equal(model(torch.zeros(2, 9, dtype=torch.int64)), torch.zeros(2, 4))
        assert not torch.equal(model(torch.tensor([[9, 8, 7]])), alone), "the order counts"
    model.train()
    model(torch.zeros(2, 9, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["iterand", "edge-popup", "dense"])
def test_it_learns_by_heart_who_did_it_to_whom(method: str) -> None:
    """Six pairs of sentences with the same words, in both orders."""
    pairs = [(a, b) for a in ANIMALS[:4] for b in ANIMALS[:4] if a != b]
    spec = TextInput(8, 100)
    tokens = torch.from_numpy(tokenise_all([f"the {a} chased the {b}" for a, b in pairs], spec))
    labels = torch.tensor([ANIMALS.index(a) for a, _ in pairs])
    arch = TextArchitecture("text-transformer", 4, 8, 100, 0.25)
    model = mask_model(
        build_model(arch, seed=0), make_settings(method, seed=1, **({"every": 10} if method == "iterand" else {}))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(80):
        refresh(model, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), labels).backward()
        optimizer.step()
    assert (model(tokens).argmax(1) == labels).all()


def test_every_matrix_of_the_network_is_masked() -> None:
    model = transformer()
    arch = TextArchitecture("text-transformer", 6, 28, 512)
    plain = build_model(arch, seed=0)
    assert all(".parametrizations.weight." in name for name, _ in model.named_parameters())
    assert sum(p.numel() for p in plain.parameters()) == (512 + 28 + 6) * 128 + 2 * (4 * 128**2 + 2 * 128 * 256)
    assert not list(plain.buffers())
    affine = build_model(TextArchitecture("text-transformer", 6, 28, 512, affine=True), seed=0)
    assert sum(p.numel() for p in affine.parameters()) - sum(p.numel() for p in plain.parameters()) == 5 * 2 * 128


def test_architecture_goes_through_json_scalars() -> None:
    arch = TextArchitecture("text-transformer", 6, 28, 512, 0.5)
    values = {
        "name": "text-transformer",
        "num_classes": 6,
        "length": 28,
        "vocabulary": 512,
        "width": 0.5,
        "affine": False,
    }
    assert arch.to_dict() == values
    assert read_architecture(values) == arch
    image = Architecture("conv2", 10, 3, 32)
    assert read_architecture(image.to_dict()) == image
    with pytest.raises(ConfigError, match="architecture: missing affine"):
        read_architecture({key: value for key, value in values.items() if key != "affine"})
    with pytest.raises(ConfigError, match=r"length: expected an integer in \[1, 65536\], got 0"):
        read_architecture({**values, "length": 0})
    with pytest.raises(ConfigError, match="unknown key 'image_size'"):
        read_architecture({**values, "image_size": 8})


SPEC = TextInput(7, 50)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "conv2"}, "conv2 takes images, and the data are texts: give --model text-transformer"),
        ({"name": "torchvision:resnet18"}, "torchvision:resnet18 takes images"),
        ({"name": "text-transfomer"}, "unknown 'text-transfomer'; did you mean 'text-transformer'?"),
        ({"name": "text-transformer", "stem": "cifar"}, "does not take stem = 'cifar'"),
        ({"name": "mine:net", "width": 0.5}, "mine:net does not take width = 0.5"),
    ],
)
def test_models_that_do_not_take_texts(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(ModelConfig(**config), num_classes=2, input=SPEC)


def test_a_network_of_texts_takes_no_images() -> None:
    with pytest.raises(ConfigError, match="text-transformer takes texts, not images: give --data text"):
        resolve(ModelConfig(name="text-transformer"), num_classes=2, input=ImageInput((1, 8, 8), 0, 1))
    with pytest.raises(ConfigError, match="text-transformer takes texts, and this architecture describes images"):
        build_model(Architecture("text-transformer", 2, 1, 8), seed=0)
    with pytest.raises(ConfigError, match="conv2 takes images, and this architecture describes texts"):
        build_model(TextArchitecture("conv2", 2, 7, 50), seed=0)


# --- The file ----------------------------------------------------------------------------------------------

INPUT = TextInput(length=12, unit="words", vocabulary=300)


def small(text: TextInput | None = INPUT) -> Network:
    from golden.make import masked

    return Network(seed=7, tensors=(masked("tokens.weight", (5, 4), "uniform", 1),), input=text, classes=["a", "b"])


def test_the_bytes_of_a_file_for_texts() -> None:
    data = dumps(small())
    assert b'\\"input\\":{\\"length\\":12,\\"unit\\":\\"words\\",\\"vocabulary\\":300}' in data
    assert b'\\"required_features\\":[\\"text\\"]' in data
    assert hashlib.sha256(data).hexdigest() == FILE
    found = loads(data)
    assert found.manifest.input == INPUT
    assert dumps(found.network()) == data


FILE = "efb1a073adb3073083fc6f80cffd744cf045993091a92f24f4ff5f752da7515e"


def test_an_older_reader_refuses_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dumps(small())
    monkeypatch.setattr(manifest_module, "FEATURES", manifest_module.FEATURES - {"text"})
    with pytest.raises(SeedMaskError, match="the file requires the feature 'text', which this version lacks; update"):
        loads(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input": {"length": 0, "unit": "words", "vocabulary": 300}},
            r"manifest: input: text: length: expected an int",
        ),
        (
            {"input": {"length": 1, "unit": "words", "vocabulary": 9, "x": 1}},
            r"manifest: input: text: expected .*, got \[.*.x.\]",
        ),
        (
            {"input": {"length": "1", "unit": "words", "vocabulary": 9}},
            r"manifest: input: text: length: expected an integer in \[1, 65536\], got .1.",
        ),
        (
            {"input": {"unit": "words", "vocabulary": 9}},
            r"manifest: input: text: expected .*, got \[.unit.,",
        ),
        ({"input": 5}, "manifest: input: image: expected shape, mean and std, got 5"),
        ({"input": None}, r"expected required_features \[\], got \['text'\]"),
        ({"required_features": []}, r"expected required_features \['text'\], got \[\]"),
    ],
)
def test_damaged_manifests(change: dict, message: str) -> None:
    manifest = json.loads(loads(dumps(small())).manifest.to_text())
    manifest |= change
    manifest["digests"]["manifest"] = "0" * 64
    manifest["digests"]["manifest"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    with pytest.raises(SeedMaskError, match="(?i)" + message):
        manifest_module.parse_manifest(canonical_json(manifest), 2**33)


# --- From sentences to ONNX --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small network, trained for one epoch, and what the commands make of it."""
    root = tmp_path_factory.mktemp("text")
    files = SimpleNamespace(root=root, checkpoint=root / "t.ckpt", seedmask=root / "t.seedmask", onnx=root / "t.onnx")
    settings = ("--width", 0.25, "--epochs", 1, "--set=train.warmup_epochs=0", "--set=subnetwork.resample.every=5")
    settings += ("--set=data.validation=0.8", "--device", "cpu")  # of the sentences, so that the epoch is short
    files.printed = succeed("train", "--data", "sentences", *settings, "--out", files.checkpoint)
    succeed("pack", files.checkpoint, "--out", files.seedmask)
    files.report = json.loads(succeed("export", files.seedmask, "--onnx", files.onnx, "--json"))
    return files


@pytest.mark.slow
def test_training_speaks_of_texts(trained: SimpleNamespace) -> None:
    assert trained.printed.startswith(
        "iterand on sentences (1,200 training, 4,800 validation and 1,500 test texts of 28 words; 6 classes: bear, "
    )
    assert "): text-transformer, 33,856 weights" in trained.printed
    assert " texts/s, " in trained.printed


def test_recovered_weights_are_those_of_the_checkpoint(trained: SimpleNamespace) -> None:
    before, after = (load_network(file).model.state_dict() for file in (trained.checkpoint, trained.seedmask))
    assert list(before) == list(after)
    for name, value in before.items():
        assert torch.equal(value.view(torch.int32), after[name].view(torch.int32)), name
        assert (value == 0).sum() == value.numel() // 2
    assert all(torch.equal(value, load(trained.seedmask).state_dict()[name]) for name, value in before.items())


@pytest.mark.slow
def test_the_same_accuracy_in_every_form(trained: SimpleNamespace) -> None:
    found = [
        json.loads(succeed("eval", file, "--json")) for file in (trained.checkpoint, trained.seedmask, trained.onnx)
    ]
    assert len({(score["correct"], score["images"]) for score in found}) == 1
    assert found[0]["images"] == 1500
    assert found[2]["loss"] == pytest.approx(found[0]["loss"], abs=1e-5)
    line = f"test accuracy {100 * found[0]['accuracy']:.2f} %"
    assert line in trained.printed


def test_onnx_describes_itself(trained: SimpleNamespace) -> None:
    assert trained.report["samples"] == 64
    assert trained.report["argmax_agreement"] == 1.0
    assert trained.report["max_abs_difference"] < 1e-5
    model = onnx.load(trained.onnx)
    (source,), (target,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in (source, target)]
    assert (source.name, target.name, shapes) == ("tokens", "logits", [["batch", 28], ["batch", 6]])
    assert source.type.tensor_type.elem_type == onnx.TensorProto.INT64
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(entries["iterand.text"]) == {"length": 28, "unit": "words", "vocabulary": 512}
    assert json.loads(entries["iterand.classes"]) == list(ANIMALS)
    assert "iterand.mean" not in entries


def test_weights_in_onnx_are_the_recovered_ones(trained: SimpleNamespace) -> None:
    model = onnx.load(trained.onnx)
    initialisers = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    # A Linear over the tokens is stored as its MatMul reads it.
    turned = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"} & initialisers.keys()
    weights = read_seedmask(trained.seedmask).weights()
    assert len(weights) == 15
    assert turned < weights.keys()
    for name, value in weights.items():
        assert initialisers[name].tobytes() == (value.T if name in turned else value).tobytes(), name
    succeed("recover", trained.seedmask, "--out", trained.root / "w.safetensors")
    stored = load_file(trained.root / "w.safetensors")
    assert all(stored[name].tobytes() == value.tobytes() for name, value in weights.items())


def test_onnx_takes_sentences(trained: SimpleNamespace) -> None:
    classifier, model, raw = OnnxClassifier(trained.onnx), load(trained.seedmask), load_sentences()
    assert (classifier.input, classifier.normalize_baked) == (TextInput(28, 512), None)
    texts = list(raw.test.texts[:50])
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokenise_all(texts, classifier.input))).numpy()
    np.testing.assert_allclose(classifier.logits(texts), wanted, atol=1e-5)
    np.testing.assert_array_equal(classifier.logits(texts), classifier.logits(tokenise_all(texts, classifier.input)))
    assert classifier.classify(texts) == [ANIMALS[number] for number in wanted.argmax(1)]
    assert classifier.logits(["", "one", "x " * 99]).shape == (3, 6)
    np.testing.assert_array_equal(classifier.logits([""]), np.zeros((1, 6)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("one text", "takes texts: expected a list of them, got 'one text'"),
        ([1, 2], "takes texts: expected a list of them"),
        (np.zeros((2, 27), np.int64), r"expected texts, or tokens int64 \[N, 28\], got int64 \[2, 27\]"),
        (np.zeros((2, 28), np.float32), r"got float32 \[2, 28\]"),
    ],
)
def test_what_onnx_does_not_take(trained: SimpleNamespace, inputs: object, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        OnnxClassifier(trained.onnx).logits(inputs)


def test_damaged_metadata(trained: SimpleNamespace, tmp_path: Path) -> None:
    for value, message in (
        ("{", "damaged metadata"),
        ("[1]", r"damaged metadata: text: expected length, vocabulary and unit, got \[1\]"),
        ('{"length": 28}', r"damaged metadata: text: expected length, vocabulary and unit, got \[.length.\]"),
        ('{"length": 28, "vocabulary": 1, "unit": "words"}', r"vocabulary: expected an integer"),
    ):
        model = onnx.load(trained.onnx)
        helper.set_model_props(model, {"iterand.text": value})
        onnx.save(model, tmp_path / "f.onnx")
        with pytest.raises(ExportError, match=message):
            OnnxClassifier(tmp_path / "f.onnx")


@pytest.mark.slow
def test_probabilities(trained: SimpleNamespace, tmp_path: Path) -> None:
    report = json.loads(succeed("export", trained.checkpoint, "--onnx", tmp_path / "p.onnx", "--softmax", "--json"))
    assert report["max_abs_difference"] < 1e-5
    plain, soft = OnnxClassifier(trained.onnx), OnnxClassifier(tmp_path / "p.onnx")
    model = onnx.load(tmp_path / "p.onnx")
    assert [output.name for output in model.graph.output] == ["probabilities"]
    texts = ["The cat chased the dog.", "The cat was chased by the dog."]
    logits = plain.logits(texts).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(soft.logits(texts), expected, atol=1e-5)
    one, other = (json.loads(succeed("eval", file, "--json")) for file in (trained.onnx, tmp_path / "p.onnx"))
    assert one["correct"] == other["correct"]
    assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_probabilities_of_images_and_of_their_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = {"input": ImageInput((1, 4, 4), [0.5], [0.5]), "softmax": True}
    export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), tmp_path / "i.onnx", **image)
    found = np.exp(
        OnnxClassifier(tmp_path / "i.onnx").logits(np.random.default_rng(0).random((5, 1, 4, 4), np.float32))
    )
    np.testing.assert_allclose(found.sum(1), np.ones(5), atol=1e-5)
    export_onnx(nn.Conv2d(1, 2, 3), tmp_path / "c.onnx", **image)  # of classes of pixels, the channels
    (found,) = load_session(tmp_path / "c.onnx").run(None, {"pixels": np.zeros((1, 1, 4, 4), np.float32)})
    np.testing.assert_allclose(found.sum(1), np.ones((1, 2, 2)), atol=1e-5)


@pytest.mark.slow
def test_export_in_python_takes_texts_or_tokens_or_neither(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(28, 3))
    samples = (None, ["a b c", "d"], torch.tensor([[1, 2, 3, 0, 0, 0, 0]]))
    reports = [export_onnx(model, tmp_path / "m.onnx", input=SPEC, samples=given) for given in samples]
    assert [report.samples for report in reports] == [8, 2, 1]
    assert all(report.max_abs_difference < 1e-5 for report in reports)
    with pytest.raises(ConfigError, match=r"samples have the shape \[1, 6\], expected tokens \[N, 7\]"):
        export_onnx(model, tmp_path / "m.onnx", input=SPEC, samples=torch.zeros(1, 6, dtype=torch.int64))
    assert OnnxClassifier(tmp_path / "m.onnx").classify(["a"])[0] in {"0", "1", "2"}


def test_commands_that_make_no_sense_for_texts(trained: SimpleNamespace, tmp_path: Path) -> None:
    line = fail(2, "export", trained.seedmask, "--onnx", tmp_path / "x.onnx", "--no-normalize")
    assert line.endswith("texts have no normalisation to leave out; drop normalize=False (--no-normalize)")
    line = fail(1, "eval", trained.seedmask, "--data", "digits")
    assert line.endswith("takes texts, which digits does not have")
    line = fail(2, "train", "--recipe", "digits", "--data", "sentences", "--out", tmp_path / "x.ckpt")
    assert "sentences is text, which has no" in line
    line = fail(2, "train", "--recipe", "text", "--data", "digits", "--out", tmp_path / "x.ckpt")
    assert "text-transformer takes texts, not images" in line
    line = fail(2, "train", "--data", "sentences", "--method", "synflow", "--out", tmp_path / "x.ckpt")
    assert "synflow: it sends ones through the network" in line
    line = fail(2, "estimate", "--model", "text-transformer", "--sparsity", 0.5)
    assert "--tokens and --vocabulary" in line
    line = fail(2, "estimate", "--model", "text-transformer", "--sparsity", 0.5, "--tokens", 5)
    assert "--tokens and --vocabulary belong together" in line


def test_eval_takes_other_texts_as_the_network_was_taught(trained: SimpleNamespace, tmp_path: Path) -> None:
    """The folder says nothing of tokens; those of the network are taken, not the defaults of the data set."""
    raw = load_sentences()
    rows = [(ANIMALS[label], text) for text, label in zip(raw.test.texts[:200], raw.test.labels[:200], strict=True)]
    table(tmp_path / "train.csv", rows)
    table(tmp_path / "test.csv", rows)
    for file in (trained.seedmask, trained.onnx):
        found = json.loads(succeed("eval", file, "--data", "text", "--data-dir", tmp_path, "--json"))
        wanted = [ANIMALS[label] for label in raw.test.labels[:200]]
        named = OnnxClassifier(trained.onnx).classify(raw.test.texts[:200])
        assert found["correct"] == sum(a == b for a, b in zip(wanted, named, strict=True))
        assert found["images"] == 200


@pytest.mark.slow
def test_inspect_and_estimate(trained: SimpleNamespace) -> None:
    assert "takes texts of 28 words, vocabulary 512" in succeed("inspect", trained.seedmask)
    listing = json.loads(succeed("inspect", trained.seedmask, "--json"))
    assert listing["input"] == {"length": 28, "unit": "words", "vocabulary": 512}
    assert listing["architecture"]["vocabulary"] == 512
    size = trained.seedmask.stat().st_size
    found = estimate(
        ModelConfig(name="text-transformer", width=0.25),
        make_settings(),
        num_classes=6,
        input=TextInput(28, 512),
        redrawn=0.05,
    )
    assert found.weights == 33_856
    assert found.file_bytes == pytest.approx(size, rel=0.1)
    arguments = ("--model", "text-transformer", "--sparsity", 0.5, "--width", 0.25, "--classes", 6)
    printed = json.loads(succeed("estimate", *arguments, "--tokens", 28, "--vocabulary", 512, "--json"))
    assert printed["totals"]["mask_bytes"] == found.mask_bytes


def test_a_finished_run_is_read_and_its_settings_compared(trained: SimpleNamespace, tmp_path: Path) -> None:
    line = fail(2, "train", "--data", "sentences", "--out", trained.checkpoint, "--resume", "--width", 0.5)
    assert "cannot resume with other settings" in line
    assert "test_accuracy" in succeed("train", "--out", trained.checkpoint, "--resume", "--json")


OWN = """
import torch

class Bag(torch.nn.Module):
    def __init__(self, classes, vocabulary):
        super().__init__()
        self.table = torch.nn.Embedding(vocabulary, 16)
        self.head = torch.nn.Linear(16, classes, bias=False)

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(dim=1))

def bag(num_classes, length, vocabulary):
    assert length == 28
    return Bag(num_classes, vocabulary)
"""


@pytest.mark.slow
def test_a_network_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bag_for_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "bag_for_test:bag"
    settings = ("--method", "edge-popup", "--epochs", 1, "--set=train.warmup_epochs=0", "--set=data.validation=0.8")
    succeed("train", "--data", "sentences", "--model", name, *settings, "--device", "cpu", "--out", "own.ckpt")
    succeed("pack", "own.ckpt")
    found = [
        json.loads(succeed("eval", file, "--model", name, "--json"))["correct"] for file in ("own.ckpt", "own.seedmask")
    ]
    assert found[0] == found[1]
