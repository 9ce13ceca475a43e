"""``predict``: what it says of pictures and texts is what evaluation sees, for every kind of file and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from odd_images import STORED, noise, turned
from PIL import Image
from torch import nn

from conftest import fail, invoke, succeed
from iterand_compress import (
    ImageInput,
    OnnxClassifier,
    Recipe,
    SubnetworkConfig,
    TextInput,
    export_onnx,
    load_network,
    read_seedmask,
)
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.errors import DataError, ExportError

pytestmark = pytest.mark.usefixtures("captured_once")
KINDS = ("checkpoint", "seedmask", "onnx")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The first 40 test images of the digits, 8×8, as files that their orientation stands upright."""
    folder = tmp_path_factory.mktemp("scans")
    pixels, labels = next(iter(load_data(DataConfig()).test.batches(40, "cpu")))
    files = []
    for number, image in enumerate(pixels.numpy()):
        upright = np.rint(255 * image[0]).astype(np.uint8)
        files.append(turned(folder / f"{number:02}.png", upright, 1 + number % 8))
    return SimpleNamespace(folder=folder, files=files, pixels=pixels.numpy(), labels=labels.tolist())


def predicted(*arguments: object) -> list[dict]:
    answer = json.loads(succeed("predict", *arguments, "--json"))
    assert answer["failed"] == []
    return answer["predictions"]


def test_three_kinds_of_files_agree_with_evaluation(digits, scans):
    classifier = OnnxClassifier(digits.onnx)
    powers = np.exp(classifier.logits(scans.pixels).astype(np.float64))
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert np.mean(expected.argmax(axis=1) == scans.labels) > 0.7
    for kind in KINDS:
        found = predicted(getattr(digits, kind), scans.folder, "--device", "cpu", "--top", 3)
        assert [entry["input"] for entry in found] == [str(path) for path in scans.files]
        for entry, row in zip(found, expected, strict=True):
            best = np.argsort(-row)[:3]
            assert [place["label"] for place in entry["top"]] == [str(number) for number in best]
            np.testing.assert_allclose([place["probability"] for place in entry["top"]], row[best], atol=1e-5)
            assert {key: entry[key] for key in ("label", "probability")} == entry["top"][0]
            assert 0 < entry["ms"] < 60_000


@pytest.mark.parametrize("kind", KINDS)
def test_flips_give_the_mean_of_an_image_and_its_mirror(kind, digits, scans):
    classifier, path = OnnxClassifier(digits.onnx), getattr(digits, kind)
    logits = (classifier.logits(scans.pixels) + classifier.logits(scans.pixels[..., ::-1].copy())) / 2
    powers = np.exp(logits.astype(np.float64))
    expected = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    found = predicted(path, scans.folder, "--device", "cpu", "--flips")
    np.testing.assert_allclose([entry["probability"] for entry in found], expected, atol=1e-5)
    pixels, labels = next(iter(load_data(DataConfig()).test.batches(360, "cpu")))
    both = classifier.logits(pixels.numpy()) + classifier.logits(pixels.flip(-1).numpy())
    score = json.loads(succeed("eval", path, "--flips", "--device", "cpu", "--json"))
    assert score["flips"] is True
    assert score["correct"] == int((both.argmax(axis=1) == labels.numpy()).sum())
    assert score["correct"] != json.loads(succeed("eval", path, "--device", "cpu", "--json"))["correct"]
    assert succeed("eval", path, "--flips").endswith(", each image computed twice (--flips)\n")


def test_texts_have_no_mirror_images(text_model):
    assert "takes texts, which have no mirror images: leave out --flips" in fail(
        2, "predict", text_model, "a", "--flips"
    )


def test_batches_change_nothing(digits, scans):
    many, few = (predicted(digits.onnx, *scans.files[:5], "--batch-size", size) for size in (5, 2))
    assert [entry["label"] for entry in many] == [entry["label"] for entry in few]


def test_the_table_names_every_label(digits, scans):
    lines = succeed("predict", digits.seedmask, scans.files[0], "--top", 2).splitlines()
    assert lines[0].split() == ["input", "label", "probability", "ms"]
    (first,) = predicted(digits.seedmask, scans.files[0], "--top", 2)
    name, label, probability, milliseconds = lines[1].split()
    assert (name, label, probability) == (str(scans.files[0]), first["label"], f"{first['probability']:.4f}")
    assert float(milliseconds) > 0
    assert lines[2].split() == [first["top"][1]["label"], f"{first['top'][1]['probability']:.4f}"]


def test_folders_are_searched_and_the_rest_is_counted(digits, scans, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("z.PNG", "a/2.png", "a/b/1.png", ".hidden/3.png"):
        Image.open(scans.files[0]).save(tmp_path / name, format="PNG")
    for name in ("a/notes.txt", "a/more.txt", "README", ".DS_Store"):
        (tmp_path / name).write_text("no image")
    answer = json.loads(succeed("predict", digits.onnx, tmp_path, "--json"))
    assert [entry["input"] for entry in answer["predictions"]] == [
        str(tmp_path / name) for name in ("a/2.png", "a/b/1.png", "z.PNG")
    ]
    assert answer["left_out"] == {".txt files": 2, "files without an ending": 1}
    assert "left out: .txt files: 2; files without an ending: 1" in succeed("predict", digits.onnx, tmp_path)


def test_what_cannot_be_read_stops_nothing_else(digits, scans, tmp_path):
    (tmp_path / "broken.png").write_bytes(scans.files[0].read_bytes()[:50])
    (tmp_path / "empty").mkdir()
    inputs = [tmp_path / "absent.png", tmp_path / "broken.png", scans.files[0], tmp_path / "empty"]
    result = invoke("predict", digits.onnx, *inputs, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [entry["input"] for entry in answer["predictions"]] == [str(scans.files[0])]
    lines = result.stderr.splitlines()
    assert lines == [f"error: {entry['error']}" for entry in answer["failed"]]
    assert [entry["input"] for entry in answer["failed"]] == [str(inputs[place]) for place in (0, 3, 1)]
    assert f"{inputs[0]}: no such file or folder" in result.stderr
    assert f"{inputs[1]}: not a readable image" in result.stderr
    assert f"{inputs[3]}: holds no images" in result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_or_missing_file_is_one_line(kind, digits, scans, tmp_path):
    whole = getattr(digits, kind)
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes()[:200])
    assert path.name in fail(1, "predict", path, scans.files[0])
    assert "absent" in fail(1, "predict", whole.with_stem("absent"), scans.files[0])


# --- Pictures of other sizes -------------------------------------------------------------------------------


def pooled(path: Path, shape: tuple[int, int, int], data: DataConfig | None, mean: object, std: object) -> Path:
    """A network of a given input that names three classes, with the recipe's data section in its file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3))
    names = {"iterand.classes": json.dumps(["apple", "ein Käse", "pear"])}
    if data is not None:
        recipe = Recipe(data=data, subnetwork=SubnetworkConfig(method="dense", sparsity=0.0))
        names["iterand.recipe"] = recipe.model_dump_json()
    export_onnx(model, path, input=ImageInput(shape, mean, std), metadata=names)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "size"),
    [({"image_size": 112}, None), ({"image_size": 24}, None), ({}, (130, 150)), ({}, (20, 24))],
)
def test_classify_reads_photos_as_training_and_evaluation_do(settings, size, tmp_path):
    """Scaled with a margin, without one, and not at all; turned by their EXIF data; normalised by constants of ours."""
    for part in ("train", "test"):
        for number, name in enumerate(("apple", "pear")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for tag in STORED:
                turned(folder / f"{tag}.png", noise(10 * number + tag, *(size or (100 + tag, 150 - tag)), 3), tag)
    config = DataConfig(name="folder", validation=0, mean=0.4, std=[0.2, 0.3, 0.25], **settings)
    data = load_data(config, data_dir=tmp_path)
    pixels = torch.cat([x for x, _ in data.test.batches(4, "cpu")]).numpy()
    classifier = OnnxClassifier(pooled(tmp_path / "a.onnx", data.input.shape, config, data.input.mean, data.input.std))
    assert classifier.input == data.input
    paths = [path for name in ("apple", "pear") for path in sorted((tmp_path / "test" / name).iterdir())]
    expected = classifier.logits(pixels)
    np.testing.assert_array_equal(classifier.logits(paths), expected)
    np.testing.assert_array_equal(classifier.logits([str(path) for path in paths]), expected)
    opened = [Image.open(path) for path in paths]
    np.testing.assert_array_equal(classifier.logits(opened), expected)
    assert all(image.getexif().get(0x0112) == tag for image, tag in zip(opened, [*STORED] * 2, strict=True))
    names = [classifier.classes[number] for number in expected.argmax(axis=1)]
    assert classifier.classify(paths) == classifier.classify(opened) == classifier.classify(pixels) == names
    assert [entry["label"] for entry in predicted(classifier.path, *paths)] == names


def test_photos_of_other_sizes_cover_a_network_that_is_not_square(tmp_path):
    classifier = OnnxClassifier(pooled(tmp_path / "a.onnx", (3, 6, 8), DataConfig(name="folder"), 0, 1))
    own, large = noise(0, 6, 8, 3), noise(1, 60, 100, 3)
    scaled = Image.fromarray(large).resize((10, 6), Image.Resampling.BILINEAR).crop((1, 0, 9, 6))
    expected = np.stack([own, np.array(scaled)]).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    images = [Image.fromarray(own), Image.fromarray(large)]
    np.testing.assert_array_equal(classifier.logits(images), classifier.logits(expected))


def test_what_is_neither_an_array_nor_pictures_is_refused(tmp_path):
    classifier = OnnxClassifier(pooled(tmp_path / "a.onnx", (3, 8, 8), None, 0, 1))
    assert classifier.scaled
    for wrong in ("photo.jpg", Path("photo.jpg"), Image.new("L", (8, 8)), [], [3], [np.zeros((3, 8, 8), np.float32)]):
        with pytest.raises(ExportError, match="an array of pixels, or a list of paths or Pillow images, got"):
            classifier.classify(wrong)
    with pytest.raises(DataError, match=r"absent\.jpg: no such file"):
        classifier.classify([tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match="an image in memory: an image with more than 8 bits a channel"):
        classifier.classify([Image.new("I;16", (8, 8))])
    five = OnnxClassifier(pooled(tmp_path / "b.onnx", (5, 8, 8), None, 0, 1))
    with pytest.raises(DataError, match="takes images of 5 channels, image files have 1 or 3: give an array"):
        five.classify([Image.new("RGB", (8, 8))])


@pytest.mark.slow
def test_constants_of_the_normalisation_travel_with_every_file(scans, tmp_path):
    """From the recipe into checkpoint, packed file and graph; a run goes on with them, and not with others."""
    files = {
        kind: tmp_path / f"model.{ending}" for kind, ending in zip(KINDS, ("ckpt", "seedmask", "onnx"), strict=True)
    }
    settings = ("--width", 0.25, "--epochs", 1, "--device", "cpu", "--out", files["checkpoint"])
    constants = ("--set", "data.mean=0.3", "--set", "data.std=[0.7]")
    succeed("train", *settings, *constants)
    succeed("pack", files["checkpoint"], "--out", files["seedmask"])
    succeed("export", files["seedmask"], "--onnx", files["onnx"])
    assert json.loads(succeed("verify", files["seedmask"], "--deep", "--json"))["canonical"]
    assert read_seedmask(files["seedmask"]).manifest.input == ImageInput((1, 8, 8), 0.3, 0.7)
    assert OnnxClassifier(files["onnx"]).input == ImageInput((1, 8, 8), 0.3, 0.7)
    plain = load_network(files["checkpoint"]).model
    with torch.inference_mode():
        expected = plain((torch.from_numpy(scans.pixels) - 0.3) / 0.7).softmax(1).numpy()
    for kind in KINDS:
        found = [entry["probability"] for entry in predicted(files[kind], *scans.files, "--device", "cpu")]
        np.testing.assert_allclose(found, expected.max(axis=1), atol=1e-5)
    scores = [json.loads(succeed("eval", files[kind], "--json"))["correct"] for kind in KINDS]
    assert len(set(scores)) == 1
    assert succeed("train", *settings, *constants, "--resume")
    assert "data.mean: [0.3] → [0.4]" in fail(2, "train", *settings, "--resume", "--set", "data.mean=0.4")


# --- Texts -------------------------------------------------------------------------------------------------


@pytest.fixture
def text_model(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(300, 4), nn.Flatten(), nn.Linear(24, 2))
    path = tmp_path / "text.onnx"
    export_onnx(model, path, input=TextInput(6, 300), metadata={"iterand.classes": '["cat", "dog"]'})
    return path


def test_texts_in_quotes_in_files_and_in_folders(tmp_path, text_model):
    path = text_model
    texts = ["The cat sat.", "A dog, again and again!", "cat.txt or dog.txt"]
    (tmp_path / "folder").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "folder" / f"{number}.txt").write_text("\ufeff" + text, encoding="utf-8")
    (tmp_path / "folder" / "photo.jpg").write_text("")
    expected = OnnxClassifier(path).classify(texts)
    assert [entry["label"] for entry in predicted(path, *texts)] == expected
    assert [entry["label"] for entry in predicted(path, tmp_path / "folder")] == expected
    assert [entry["label"] for entry in predicted(path, tmp_path / "folder" / "1.txt")] == expected[1:2]
    assert succeed("predict", path, texts[0]).splitlines()[1].startswith("The cat sat.  ")
    result = invoke("predict", path, "absent.txt", "   ", "x" * 5000, "--json")
    assert result.exit_code == 1
    assert "absent.txt: no such file or folder" in result.stderr
    assert "no words, numbers or marks in this text" in result.stderr
    assert [entry["input"] for entry in json.loads(result.stdout)["predictions"]] == ["x" * 5000]


def test_a_table_is_not_one_text(tmp_path, text_model):
    """All of a CSV file was labelled as a single text."""
    (tmp_path / "my.csv").write_text("label,text\ncat,The cat sat.\n")
    for name in (tmp_path / "my.csv", "absent.CSV"):
        assert f"{name}: a table, not a text: write texts out" in fail(1, "predict", text_model, name)
    assert [entry["input"] for entry in predicted(text_model, "cat.csv or dog.csv")] == ["cat.csv or dog.csv"]


@pytest.mark.parametrize("name", ["a.JPG", "a.png", "broken.webp"])
def test_a_picture_in_the_place_of_the_network(name, digits, tmp_path):
    """It was called no .seedmask file, or a picture that was drawn of something."""
    path = tmp_path / name
    path.write_bytes(b"") if "broken" in name else Image.new("L", (8, 8)).save(path)
    line = fail(2, "predict", path, digits.onnx)
    assert line == f"error: {path}: a picture in the place of the network; first the network, then what it shall label"


# --- Without torch -----------------------------------------------------------------------------------------

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "onnxscript", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.processes
def test_an_onnx_file_predicts_where_torch_is_not_installed(digits, scans):
    code = BLOCKED + (
        "from iterand_compress import OnnxClassifier\n"
        "from iterand_compress.cli.app import main\n"
        "print(OnnxClassifier(sys.argv[2]).classify(sys.argv[3:]))\n"
        "main()\n"
    )
    arguments = ["predict", digits.onnx, *scans.files[:4]]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    labels = [entry["label"] for entry in predicted(*arguments[1:])]
    classified, _, *rows = done.stdout.splitlines()
    assert classified == str(labels)
    assert [row.split()[1] for row in rows] == labels


@pytest.mark.processes
def test_a_checkpoint_where_torch_is_not_installed_is_one_line(digits, scans):
    code = BLOCKED + ("from iterand_compress.cli.app import main\nmain()\n")
    arguments = ["predict", digits.checkpoint, scans.files[0]]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: torch is not installed, and this needs it: pip install torch torchvision; ")
    assert done.stderr.count("\n") == 1
