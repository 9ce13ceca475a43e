"""examples/edge/classify.py answers as the package does, without the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from torch import nn

from iterand_compress import IteRand, OnnxClassifier, export_onnx, read_seedmask
from iterand_compress.compress.config import DataConfig, Recipe
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.inputs import ImageInput, TextInput
from iterand_compress.compress.recover import load_network

SCRIPT = Path(__file__).parent.parent / "examples" / "edge" / "classify.py"
CLASSES = ["apple", "ein Käse", "pear"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"},
        check=False,
    )


def answers(*arguments: object) -> list[dict[str, object]]:
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["images"]


def refused(code: int, *arguments: object) -> str:
    """The one line on standard error."""
    done = run(*arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    return line


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def agree(found: list[dict[str, object]], model: Path, pixels: np.ndarray) -> None:
    """Labels and probabilities are those of the package for these pixels."""
    classifier = OnnxClassifier(model)
    assert [entry["label"] for entry in found] == classifier.classify(pixels)
    expected = softmax(classifier.logits(pixels)).max(axis=1)
    np.testing.assert_allclose([entry["probability"] for entry in found], expected, rtol=1e-5)


def network(shape: tuple[int, int, int]) -> nn.Module:
    """One whose three logits tell small differences of the pixels apart."""
    torch.manual_seed(2)
    layers = nn.Sequential(nn.Conv2d(shape[0], 4, 5, stride=3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    layers(torch.zeros(1, *shape))
    return layers


def exported(
    path: Path, shape: tuple[int, int, int], *, metadata: dict[str, str] | None = None, **options: bool
) -> Path:
    image = ImageInput(shape, [0.4, 0.5, 0.3][: shape[0]], [0.2, 0.3, 0.25][: shape[0]])
    names = {"iterand.classes": json.dumps(CLASSES, ensure_ascii=False)}
    export_onnx(network(shape), path, input=image, metadata=names | (metadata or {}), **options)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder whose test images have many sizes, formats and modes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)

    def image(width: int, height: int, mode: str = "RGB") -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)

    for name in ("a", "b"):
        image(60, 60).save(folder / "train" / name / "0.png")
    test = folder / "test"
    image(130, 90).save(test / "a" / "0.jpg")
    image(33, 201).save(test / "a" / "1.png")
    image(24, 24).save(test / "a" / "2.bmp")
    image(17, 19, "L").save(test / "b" / "0.png")
    image(70, 40, "RGBA").save(test / "b" / "1.png")
    image(40, 61).quantize(20).save(test / "b" / "2.gif", transparency=3)
    image(50, 31).quantize(20).save(test / "b" / "3.png", transparency=bytes(range(0, 200, 10)))
    return folder


def evaluation_pixels(photos: Path, side: int | None) -> np.ndarray:
    """Test images as the package evaluates them."""
    bundle = load_data(DataConfig(name="folder", image_size=side), data_dir=photos)
    batches = [images.numpy() for images, _ in bundle.test.batches(4, "cpu")]
    return np.concatenate(batches)


@pytest.mark.parametrize(
    ("side", "options"),
    [(24, {}), (24, {"normalize": False}), (24, {"softmax": True}), (112, {"normalize": False, "softmax": True})],
)
def test_images_of_any_size_are_scaled_as_for_evaluation(side, options, photos, tmp_path):
    model = exported(tmp_path / "model.onnx", (3, side, side), **options)
    files = sorted((photos / "test").glob("*/*"))
    found = answers(model, *files, "--batch-size", 4)
    assert [entry["file"] for entry in found] == [str(file) for file in files]
    agree(found, model, evaluation_pixels(photos, side))


SIZES = {
    "exact": [(1, 1)] * 4,
    "mixed": [(1, 1), (2, 2), (0.5, 0.5), (1.4, 0.8), (1, 1.3), (0.7, 1)],
}


def folder_of(root: Path, sizes: list[tuple[int, int]]) -> Path:
    """An image folder whose test images have these sizes (width, height), in files that sort in this order."""
    for part in ("train", "test"):
        for label in "ab":
            (root / part / label).mkdir(parents=True)
    rng = np.random.default_rng(8)
    for number, (width, height) in enumerate(sizes):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        for part in ("train", "test"):
            image.save(root / part / "ab"[number >= len(sizes) // 2] / f"{number}.png")
    return root


@pytest.mark.parametrize("side", [32, 96, 97, 128])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("recipe", [True, False])
def test_every_size_is_scaled_as_for_evaluation(recipe, sizes, side, tmp_path):
    data = folder_of(tmp_path, [(round(a * side), round(b * side)) for a, b in SIZES[sizes]])
    settings = Recipe(subnetwork=IteRand(), data={"name": "folder", "image_size": side})
    names = {"iterand.recipe": settings.model_dump_json()} if recipe else {}
    model = exported(tmp_path / "model.onnx", (3, side, side), metadata=names)
    found = answers(model, *sorted((data / "test").glob("*/*")))
    agree(found, model, evaluation_pixels(data, side))


@pytest.mark.parametrize("shape", [(32, 32), (128, 128), (100, 120)])
def test_images_of_one_size_that_evaluation_does_not_scale(shape, tmp_path):
    data = folder_of(tmp_path, [shape[::-1]] * 4)
    names = {"iterand.recipe": Recipe(subnetwork=IteRand(), data={"name": "folder"}).model_dump_json()}
    model = exported(tmp_path / "model.onnx", (3, *shape), metadata=names)
    found = answers(model, *sorted((data / "test").glob("*/*")))
    agree(found, model, evaluation_pixels(data, None))


def test_scans_of_digits(digits, tmp_path):
    images, _ = next(iter(load_data(DataConfig(name="digits")).test.batches(24, "cpu")))
    files = [tmp_path / f"{number:02}.png" for number in range(24)]
    for file, pixels in zip(files, images.numpy(), strict=True):
        Image.fromarray(np.rint(255 * pixels[0]).astype(np.uint8)).save(file)
    agree(answers(digits.onnx, *files, "--threads", 1, "--repeat", 2), digits.onnx, images.numpy())


@pytest.mark.parametrize("form", ["packed", "int8", "seeded"])
def test_every_form_gives_the_same_answer(form, digits, tmp_path):
    network = load_network(digits.seedmask)
    names = {"iterand.classes": json.dumps(network.data.classes)}
    weights = read_seedmask(digits.seedmask)
    path = tmp_path / "model.onnx"
    export_onnx(network.model, path, input=network.data.input, metadata=names, form=form, weights=weights)
    scan = np.random.default_rng(4).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(scan).save(tmp_path / "scan.png")
    dense, other = (answers(model, tmp_path / "scan.png") for model in (digits.onnx, tmp_path / "model.onnx"))
    assert other[0]["label"] == dense[0]["label"]
    assert other[0]["probability"] == pytest.approx(dense[0]["probability"], rel=1e-6)


def test_dark_ink_on_light_paper(digits, tmp_path):
    scan = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(255 - scan).save(tmp_path / "paper.png")
    pixels = scan[None, None].astype(np.float32) / 255
    agree(answers(digits.onnx, tmp_path / "paper.png", "--invert"), digits.onnx, pixels)


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path):
    model = exported(tmp_path / "model.onnx", (3, 100, 120))
    pixels = np.random.default_rng(1).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    agree(answers(model, tmp_path / "image.png"), model, pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model.onnx`` and ``image.png`` that fits it."""
    folder = tmp_path_factory.mktemp("small")
    exported(folder / "model.onnx", (1, 9, 9))
    pixels = np.random.default_rng(3).integers(0, 256, (9, 9), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


def test_further_labels(small):
    (found,) = answers(small / "model.onnx", small / "image.png", "--top", 2)
    (everything,) = answers(small / "model.onnx", small / "image.png", "--top", 9)
    assert found["top"] == everything["top"][:2]
    assert {"label": found["label"], "probability": found["probability"]} == found["top"][0]
    assert {entry["label"] for entry in everything["top"]} == set(CLASSES)
    probabilities = [entry["probability"] for entry in everything["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert found["latency_ms"] > 0


def test_a_table(small):
    done = run(small / "model.onnx", small / "image.png", "--top", 3)
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = answers(small / "model.onnx", small / "image.png", "--top", 3)
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["file", "label", "probability", "latency"]
    labels = [(entry["label"], f"{entry['probability']:.4f}") for entry in found["top"]]
    assert rows[0].startswith(f"{small / 'image.png'}  {labels[0][0]} ")
    assert rows[0].split()[-3] == labels[0][1]
    assert rows[0].endswith(" ms")
    assert [tuple(row.strip().rsplit(maxsplit=1)) for row in rows[1:]] == labels[1:]


def test_neither_torch_nor_the_package_is_imported(small):
    program = (
        "import runpy, sys\n"
        f"sys.argv = {['classify.py', str(small / 'model.onnx'), str(small / 'image.png')]!r}\n"
        f"try:\n    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert {"numpy", "onnxruntime", "PIL"} <= loaded
    assert not {"torch", "torchvision", "iterand_compress", "onnx", "sklearn"} & loaded


def test_a_bad_image_does_not_stop_the_others(small, tmp_path):
    (tmp_path / "letter.png").write_text("Dear Sir,")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    good, absent = small / "image.png", tmp_path / "absent.png"
    images = [tmp_path / "letter.png", good, absent, tmp_path / "deep.png", good]
    done = run(small / "model.onnx", *images, "--json", "--batch-size", 2)
    assert done.returncode == 1
    assert [entry["file"] for entry in json.loads(done.stdout)["images"]] == [str(good)] * 2
    first, second, third = done.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path / 'letter.png'}: not a readable image: cannot identify")
    assert second == f"error: {absent}: no such file"
    assert third.startswith(f"error: {tmp_path / 'deep.png'}: more than 8 bits a channel")


def test_names_that_a_terminal_lacks(tmp_path):
    model = exported(tmp_path / "model.onnx", (1, 8, 8))
    image = tmp_path / "caf\u00e9 \udcff.png"
    try:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take such names")
    for encoding in ("utf-8", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
        command = [sys.executable, str(SCRIPT), str(model), os.fsencode(image)]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert rb"\udcff.png" in done.stdout
        assert (rb"caf\xe9" in done.stdout) is (encoding == "ascii")


def test_no_such_model(small, tmp_path):
    line = refused(1, tmp_path / "absent.onnx", small / "image.png")
    assert line == f"error: {tmp_path / 'absent.onnx'}: no such file"


def test_not_an_onnx_model(small):
    assert "image.png: onnxruntime cannot load it as an ONNX model: " in refused(1, *[small / "image.png"] * 2)


def changed(source: Path, path: Path, **changes: str | None) -> Path:
    """The model with other metadata; None drops an entry."""
    model = onnx.load(source)
    entries: dict[str, str | None] = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {f"iterand.{key}": value for key, value in changes.items()}
    helper.set_model_props(model, {key: value for key, value in entries.items() if value is not None})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize": None}, "not exported by iterand-compress: it does not say what its input is"),
        ({"image_shape": None}, "its metadata lack 'iterand.image_shape': export it again"),
        ({"image_shape": "[1, 9"}, "damaged metadata ("),
        ({"image_shape": "[2, 9, 9]"}, "expected 1 or 3 channels"),
        ({"image_shape": "[1, 7, 9]"}, "onnxruntime cannot run it: "),
        ({"normalize": "perhaps"}, "iterand.normalize is 'perhaps': expected 'baked' or 'none'"),
        ({"classes": "7"}, "damaged metadata ("),
        ({"classes": '["a"]'}, "expected an output [batch, 1], got [1, "),
    ],
)
def test_models_that_do_not_describe_themselves(changes, message, small, tmp_path):
    model = changed(small / "model.onnx", tmp_path / "changed.onnx", **changes)
    line = refused(1, model, small / "image.png")
    assert line.startswith(f"error: {model}: ")
    assert message in line


def test_a_model_of_texts(small, tmp_path):
    text = TextInput(length=4, vocabulary=40)
    model = nn.Sequential(nn.Embedding(40, 2), nn.Flatten(), nn.Linear(8, 3))
    export_onnx(model, tmp_path / "text.onnx", input=text)
    assert "text.onnx: takes texts, this program classifies images" in refused(
        1, tmp_path / "text.onnx", small / "image.png"
    )


@pytest.mark.parametrize("option", ["--top", "--repeat", "--batch-size", "--threads"])
def test_numbers_below_one(option, small):
    done = run(small / "model.onnx", small / "image.png", option, 0)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"argument {option}: expected at least 1, got 0")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_outputs_that_cannot_be_written(options, small):
    command = [sys.executable, str(SCRIPT), str(small / "model.onnx"), str(small / "image.png"), *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    line = "error: standard output: cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, str(SCRIPT), str(small / "absent"), str(small / "image.png")]
        settings = os.environ | {"PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, env=settings, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_what_is_no_file(small, tmp_path):
    model, image = small / "model.onnx", small / "image.png"
    assert refused(1, model, tmp_path) == f"error: {tmp_path}: expected a file, got a folder"
    assert refused(1, tmp_path, image) == f"error: {tmp_path}: expected a file, got a folder"
    assert refused(1, model, "x" * 300) == f"error: {'x' * 300}: File name too long"
    for words, argument in (([model, ""], "image"), (["", image], "model")):
        done = run(*words)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(f"argument {argument}: expected the name of a file, got nothing")


def test_a_model_that_is_not_exported_yet(digits, small, tmp_path):
    for source in (digits.seedmask, digits.checkpoint):
        line = refused(1, source, small / "image.png")
        assert line == f"error: {source}: not ONNX, export it first: iterand-compress export {source} --onnx"
    names = {"a b.seedmask": "'{}'", "猫.seedmask": "FILE"}
    for name, word in names.items():
        copy = tmp_path / name
        copy.write_bytes(digits.seedmask.read_bytes())
        assert refused(1, copy, small / "image.png").endswith(f"compress export {word.format(copy)} --onnx")


def test_odd_names_of_files(small, tmp_path):
    for name in ("-x.png", "a\nb.png"):
        (tmp_path / name).write_bytes((small / "image.png").read_bytes())
    (tmp_path / os.fsdecode(b"caf\xe9.onnx")).write_bytes((small / "model.onnx").read_bytes())
    command = [sys.executable, str(SCRIPT), b"caf\xe9.onnx", "a\nb.png", "--", "-x.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["file", r"a\nb.png", "-x.png"]
    assert "put -- before names that begin with -" in " ".join(run("--help").stdout.split())
    assert refused(1, small / "model.onnx", "x\ny") == r"error: x\ny: no such file"
