"""Image files as people have them: upright, of every kind that Pillow decodes, the same in training and at the edge."""

from __future__ import annotations

import importlib.util
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from odd_images import STORED, deep_png, noise, odd_images, turned
from PIL import Image, ImageOps, features

from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data import loading
from iterand_compress.compress.data.image_files import image_header, read_image, suffixes, without_warnings
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.errors import DataError

LOSSLESS = ["png", "tif", *(["webp"] if features.check("webp") else [])]


@pytest.fixture(autouse=True)
def unwarned() -> Iterator[None]:
    """As within ``load_data``."""
    with without_warnings():
        yield


@pytest.fixture(scope="module")
def edge() -> ModuleType:
    """examples/edge/classify.py as a module."""
    path = Path(__file__).parent.parent / "examples" / "edge" / "classify.py"
    spec = importlib.util.spec_from_file_location("edge_classify", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["edge_classify"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def at_the_edge(edge: ModuleType, path: Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """What classify.py reads of an image of (width, height), back in uint8 as Pillow has it."""
    pixels = edge.read_image(path, (channels, size[1], size[0]), invert=False)
    whole = np.rint(255 * pixels).astype(np.uint8)
    return whole[0] if channels == 1 else whole.transpose(1, 2, 0)


def data_folder(root: Path, suffix: str, size: tuple[int, int] = (10, 10)) -> Path:
    """Two classes with an image of noise for each orientation, in both parts."""
    for number, part in enumerate(("train", "test")):
        for label, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            for tag in STORED:
                upright = noise(100 * number + 10 * label + tag, *size, 3)
                turned(root / part / name / f"{tag}.{suffix}", upright, tag)
    return root


def expected_pixels(part: int, size: tuple[int, int] = (10, 10)) -> np.ndarray:
    every = [noise(100 * part + 10 * label + tag, *size, 3) for label in range(2) for tag in STORED]
    return np.stack(every).transpose(0, 3, 1, 2)


def pixels_of(split) -> np.ndarray:
    return np.rint(255 * np.concatenate([x.numpy() for x, _ in split.batches(5, "cpu")]))


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("size", [(10, 10), (9, 12)])
@pytest.mark.parametrize("streamed", [False, True])
def test_images_stand_upright_in_training_and_evaluation(suffix, size, streamed, tmp_path, monkeypatch):
    if streamed:
        monkeypatch.setattr(loading, "LARGEST_IN_MEMORY", 100)
    data = load_data(DataConfig(name="folder", validation=0), data_dir=data_folder(tmp_path, suffix, size))
    assert data.input.shape == (3, *size)
    np.testing.assert_array_equal(pixels_of(data.train), expected_pixels(0, size))
    np.testing.assert_array_equal(pixels_of(data.test), expected_pixels(1, size))
    ((pixels, labels),) = data.train.train_batches(0, 16, "cpu")
    found = zip(np.rint(255 * pixels.numpy()).astype(np.uint8), labels.tolist(), strict=True)
    wanted = zip(expected_pixels(0, size), data.train.labels.tolist(), strict=True)
    assert {(x.tobytes(), y) for x, y in found} == {(x.tobytes(), y) for x, y in wanted}


@pytest.mark.parametrize("tag", STORED)
@pytest.mark.parametrize("suffix", ["jpg", *LOSSLESS])
def test_orientation_is_that_of_pillow_and_the_same_at_the_edge(suffix, tag, tmp_path, edge):
    upright = noise(tag, 9, 12, 3)
    path = turned(tmp_path / f"image.{suffix}", upright, tag)
    pixels = np.array(read_image(str(path), 3))
    with Image.open(path) as image:
        image.load()
        np.testing.assert_array_equal(pixels, np.array(ImageOps.exif_transpose(image)))
    if suffix != "jpg":
        np.testing.assert_array_equal(pixels, upright)
    np.testing.assert_array_equal(at_the_edge(edge, path, 3, (12, 9)), pixels)
    assert image_header(str(path), turned=True)[0] == (12, 9)


def test_every_kind_of_file_is_the_same_at_the_edge(tmp_path, edge):
    for name, path in odd_images(tmp_path).items():
        for channels in (1, 3):
            image = read_image(str(path), channels)
            assert image.mode == {1: "L", 3: "RGB"}[channels], name
            np.testing.assert_array_equal(at_the_edge(edge, path, channels, image.size), np.array(image), name)


def test_what_counts_in_files_of_many_kinds(tmp_path):
    files, colour = odd_images(tmp_path), noise(1, 9, 12, 3)
    first = ("alpha.png", "moving.png", "moving.webp", "pages.tiff", "picture.tga", "picture.bmp")
    for name in first:  # the colours as they are stored, whatever lies in front of or behind them
        np.testing.assert_array_equal(np.array(read_image(str(files[name]), 3)), colour, name)
    np.testing.assert_array_equal(np.array(read_image(str(files["alpha.webp"]), 3)), np.rot90(colour))
    for name in ("grey_alpha.png", "grey_key.png"):
        np.testing.assert_array_equal(np.array(read_image(str(files[name]), 1)), noise(2, 9, 12), name)
    inks = 255 - np.array(read_image(str(files["cmyk.tif"]), 3)).astype(int)
    np.testing.assert_array_equal(inks, 255 - colour.astype(int))  # Pillow's CMYK has no black ink
    deep = noise(9, 9, 12, 6).view(np.uint16)
    np.testing.assert_array_equal(np.array(read_image(str(files["deep.png"]), 3)), deep >> 8)
    for name in ("damaged_exif.jpg", "short_exif.jpg"):
        assert read_image(str(files[name]), 3).size == (12, 9)


BAD_FILES = {
    "nothing.jpg": (b"", "cannot identify image file"),
    "text.png": (b"hello", "cannot identify image file"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify image file"),
}


def test_bad_files_are_one_line_everywhere(tmp_path, edge, monkeypatch):
    for name, (content, reason) in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, reason, edge)
    Image.fromarray(noise(0, 40, 40, 3)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    refused(tmp_path / "cut.jpg", "truncated", edge)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png: not a readable image \(.*Is a directory"):
        read_image(str(tmp_path / "folder.png"), 3)
    with pytest.raises(DataError, match=r"absent\.png: no such file$"):
        read_image(str(tmp_path / "absent.png"), 3)
    path = deep_png(tmp_path / "large.png", noise(0, 30, 30, 6).view(np.uint16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # twice as many raise a warning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(str(path), 3).size == (30, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    refused(path, "exceeds limit of 800 pixels", edge)


def refused(path: Path, reason: str, edge: ModuleType) -> None:
    for channels in (1, 3):
        with pytest.raises(DataError, match=reason) as caught:
            read_image(str(path), channels)
        assert str(caught.value).startswith(f"{path}: not a readable image (")
        assert "\n" not in str(caught.value)
        with pytest.raises(edge.UnusableError, match=reason) as found:
            edge.read_image(path, (channels, 9, 9), invert=False)
        assert "\n" not in str(found.value)


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_alike(tmp_path, edge, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    # libtiff prints its own lines, from C.
    files = [path for path in odd_images(tmp_path).values() if not path.suffix.startswith(".tif")]
    chance, verdicts = random.Random(3), set()
    for _ in range(400):
        path = chance.choice(files)
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 3, 9))):
            data[chance.randrange(min(len(data), chance.choice((60, 10**6))))] = chance.randrange(256)
        (tmp_path / "damaged").write_bytes(data[: chance.choice((len(data), len(data) // 2))])
        try:
            image = read_image(str(tmp_path / "damaged"), 3)
        except DataError:
            verdicts.add("refused")
            with pytest.raises(edge.UnusableError):
                edge.read_image(tmp_path / "damaged", (3, 9, 12), invert=False)
        else:
            verdicts.add("read")
            found = at_the_edge(edge, tmp_path / "damaged", 3, image.size)
            np.testing.assert_array_equal(found, np.array(image))
    assert verdicts == {"read", "refused"}


def test_all_that_pillow_decodes_is_taken():
    assert {".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"} <= set(
        suffixes()
    )
    assert (".webp" in suffixes(), ".avif" in suffixes()) == (features.check("webp"), features.check("avif"))
    assert set(suffixes()).isdisjoint({".eps", ".ps", ".wmf", ".h5", ".mpg", ".grib", ".pdf", ".heic"})
