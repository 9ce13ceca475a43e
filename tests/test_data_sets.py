"""Digits, torchvision's data sets and folders of images, small and streamed, good and bad."""

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data import decode
from iterand_compress.compress.data import loading as loading_module
from iterand_compress.compress.data.augment import Augmentation
from iterand_compress.compress.data.builtin import TORCHVISION_LOADERS
from iterand_compress.compress.data.catalogue import DATASETS, TEXT_DATASETS
from iterand_compress.compress.data.image_source import FileSource
from iterand_compress.compress.data.loading import load_data
from iterand_compress.compress.data.memory_split import MemorySplit
from iterand_compress.compress.data.order import augmentation_words, epoch_order, fixed_order
from iterand_compress.compress.data.shard import Shard
from iterand_compress.compress.data.stream import StreamSplit, StreamTransform
from iterand_compress.compress.data.text_loading import SIZES
from iterand_compress.compress.errors import ConfigError, DataError, MissingExtraError


def pixels_of(split) -> np.ndarray:
    return torch.cat([x for x, _ in split.batches(64, "cpu")]).numpy()


def noise(index: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def make_folder(root: Path, parts=("train", "test"), classes=("cat", "dog"), each=5, size=(10, 10), channels=3) -> Path:
    """A folder of PNGs; the image at position k of a class of a part is ``noise(hash of its place)``."""
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(each):
                Image.fromarray(noise(1000 * p + 100 * c + k, *size, channels)).save(folder / f"{k}.png")
    return root


def folder_config(**settings) -> DataConfig:
    return DataConfig(name="folder", **{"validation": 0.0, **settings})


# --- Digits ------------------------------------------------------------------------------------------------


def test_digits_are_the_scans_split_without_overlap():
    from sklearn.datasets import load_digits

    data = load_data(DataConfig(validation=0.25), seed=3)
    assert (len(data.train), len(data.val), len(data.test)) == (1078, 359, 360)
    assert data.classes == tuple("0123456789")
    assert data.input.shape == (1, 8, 8)
    scans = load_digits()
    expected = {
        (np.floor(image * 255 / 16 + 0.5).astype(np.uint8).tobytes(), label)
        for image, label in zip(scans.images, scans.target, strict=True)
    }
    found = []
    for part in (data.train, data.val, data.test):
        pixels = np.rint(pixels_of(part) * 255).astype(np.uint8)
        found += [(x.tobytes(), y) for x, y in zip(pixels, part.labels.tolist(), strict=True)]
    assert len(found) == 1797
    assert len(set(found)) == len(expected)  # hence no image is in two parts
    assert set(found) == expected


def test_digits_test_set_and_statistics_do_not_depend_on_the_seed():
    first = load_data(DataConfig(), seed=0)
    second = load_data(DataConfig(), seed=1)
    assert torch.equal(first.test.labels, second.test.labels)
    assert np.array_equal(pixels_of(first.test), pixels_of(second.test))
    assert not np.array_equal(pixels_of(first.val), pixels_of(second.val))
    assert (first.input.mean, first.input.std) == (second.input.mean, second.input.std)
    whole = pixels_of(load_data(DataConfig(validation=0.0)).train).astype(np.float64)
    assert first.input.mean == pytest.approx([whole.mean()], abs=6e-7)
    assert first.input.std == pytest.approx([whole.std()], abs=6e-7)
    assert first.input.mean == tuple(round(value, 6) for value in first.input.mean)


def test_digits_test_set_is_the_same_for_ever():
    from sklearn.datasets import load_digits

    scans = load_digits()
    chosen = np.sort(fixed_order(1797)[:360])
    data = load_data(DataConfig())
    assert data.test.labels.tolist() == scans.target[chosen].tolist()
    np.testing.assert_array_equal(np.rint(pixels_of(data.test)[:, 0] * 255), np.rint(scans.images[chosen] * 255 / 16))


def test_constants_of_the_normalisation_are_a_setting():
    own = load_data(DataConfig()).input
    chosen = load_data(DataConfig(mean=0.5, std=(0.25,)))
    assert (chosen.input.mean, chosen.input.std) == ((0.5,), (0.25,))
    pixels = pixels_of(chosen.test)
    np.testing.assert_array_equal(pixels, pixels_of(load_data(DataConfig()).test))
    np.testing.assert_array_equal(chosen.input.normalize(pixels), (pixels - np.float32(0.5)) / np.float32(0.25))
    only_std = load_data(DataConfig(std=2.0)).input
    assert (only_std.mean, only_std.std) == (own.mean, (2.0,))
    with pytest.raises(
        ConfigError, match=r"image: mean: expected one number for each of 1 channels, got \(0\.1, 0\.2\)"
    ):
        load_data(DataConfig(mean=[0.1, 0.2]))
    with pytest.raises(ConfigError, match=r"sentences is text, which has no std = \(0\.5,\)"):
        load_data(DataConfig(name="sentences", std=0.5))


def test_digits_without_validation():
    data = load_data(DataConfig(validation=0.0))
    assert data.val is None
    assert len(data.train) == 1437


def test_digits_without_scikit_learn(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'scikit-learn>=1.4' \(the extra 'demo'\)"):
        load_data(DataConfig())


def test_digits_scaled_up():
    data = load_data(DataConfig(image_size=16))
    assert data.input.shape == (1, 16, 16)
    assert pixels_of(data.test).shape == (360, 1, 16, 16)


def test_unknown_data_set():
    with pytest.raises(ConfigError, match=r"data: unknown 'cifar11'; did you mean .*'cifar10'"):
        load_data(DataConfig(name="cifar11"))


# --- torchvision -------------------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    """The real format of the MNIST files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(
    ("name", "folder", "mean"), [("mnist", "MNIST", 0.1307), ("fashion-mnist", "FashionMNIST", 0.2860)]
)
def test_mnist_files(tmp_path, name, folder, mean):
    train, test = noise(0, 20, 28 * 28, 1).reshape(20, 28, 28), noise(1, 8, 28 * 28, 1).reshape(8, 28, 28)
    raw = tmp_path / folder / "raw"
    write_idx(raw / "train-images-idx3-ubyte", train)
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(20, dtype=np.uint8) % 10)
    write_idx(raw / "t10k-images-idx3-ubyte", test)
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(8, dtype=np.uint8))
    data = load_data(DataConfig(name=name, validation=0.2), data_dir=tmp_path, seed=1)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 8)
    assert data.input.shape == (1, 28, 28)
    assert data.input.mean == (mean,)
    assert len(data.classes) == 10
    np.testing.assert_array_equal(pixels_of(data.test)[:, 0], test.astype(np.float32) / np.float32(255))
    assert data.test.labels.tolist() == list(range(8))


@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
def test_mnist_as_it_is_published(tmp_path, place):
    """Compressed, as its authors have it; torchvision wants it unpacked."""
    arrays = {
        "train-images-idx3-ubyte": noise(0, 20, 28 * 28, 1).reshape(20, 28, 28),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": noise(1, 8, 28 * 28, 1).reshape(8, 28, 28),
        "t10k-labels-idx1-ubyte": np.arange(8, dtype=np.uint8),
    }
    for folder, ending in ((tmp_path / "plain" / "MNIST" / "raw", ""), (tmp_path / "packed" / place, ".gz")):
        for name, array in arrays.items():
            write_idx(folder / name, array)
            if ending:
                (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
                (folder / name).unlink()
    config = DataConfig(name="mnist", validation=0.2)
    plain, packed = (load_data(config, data_dir=tmp_path / name, seed=1) for name in ("plain", "packed"))
    assert (plain.classes, plain.input) == (packed.classes, packed.input)
    for one, other in ((plain.train, packed.train), (plain.val, packed.val), (plain.test, packed.test)):
        np.testing.assert_array_equal(pixels_of(one), pixels_of(other))
        assert torch.equal(one.labels, other.labels)
    whole = (tmp_path / "packed" / place / "t10k-labels-idx1-ubyte.gz").read_bytes()
    for damaged in (
        whole[:-9],
        gzip.compress(gzip.decompress(whole)[:-1]),
        gzip.compress(gzip.decompress(whole) + b"x"),
        gzip.compress(b"\0\0"),
        b"no gzip",
        gzip.compress(struct.pack(">HBBI", 0, 8, 1, 7) + bytes(7)),
    ):
        (tmp_path / "packed" / place / "t10k-labels-idx1-ubyte.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"mnist: not found, or damaged, in .*packed"):
            load_data(config, data_dir=tmp_path / "packed", seed=1)


def test_a_rim_that_mirrors_more_than_there_is():
    with pytest.raises(ConfigError, match="a rim of 8 pixels mirrors more than there is of images of 8×8"):
        load_data(DataConfig(pad=8, pad_value="reflect", crop="shift"))
    assert load_data(DataConfig(pad=7, pad_value="reflect", crop="shift")).input.shape == (1, 8, 8)


class FakeCifar:
    """The constructor and attributes of torchvision's CIFAR10."""

    classes = ("plane", "car", "bird")

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        if not Path(root).is_dir():
            raise RuntimeError("Dataset not found or corrupted.\nYou can use download=True to download it")
        count = 12 if train else 6
        self.data = noise(int(train), count, 32 * 32 * 3, 1).reshape(count, 32, 32, 3)
        self.targets = [k % 3 for k in range(count)]


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar(tmp_path, monkeypatch, name, kind):
    import torchvision

    monkeypatch.setattr(torchvision.datasets, kind, FakeCifar)
    data = load_data(DataConfig(name=name, validation=0.0), data_dir=tmp_path)
    assert data.classes == FakeCifar.classes
    assert len(data.input.mean) == len(data.input.std) == 3
    expected = FakeCifar(str(tmp_path)).data.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(pixels_of(data.train), expected.astype(np.float32) / np.float32(255))
    assert data.train.labels.tolist() == [k % 3 for k in range(12)]


def test_imagenet_streams_files(tmp_path, monkeypatch):
    import torchvision

    make_folder(tmp_path, parts=("train", "val"), size=(30, 40), each=2)

    class FakeImageNet:
        classes = (("tench", "Tinca tinca"), ("crane",))

        def __init__(self, root: str, split: str = "train") -> None:
            files = sorted((Path(root) / split).glob("*/*.png"))
            self.samples = [(str(file), int(file.parent.name == "dog")) for file in files]

    monkeypatch.setattr(torchvision.datasets, "ImageNet", FakeImageNet)
    data = load_data(DataConfig(name="imagenet", validation=0.0), data_dir=tmp_path)
    assert data.classes == ("tench, Tinca tinca", "crane")
    assert isinstance(data.test, StreamSplit)
    assert pixels_of(data.test).shape == (4, 3, 224, 224)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.input.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_absent_data_says_where_and_what_to_do(tmp_path, name):
    folder = tmp_path / "nowhere"
    with pytest.raises(DataError, match=f"{name}: not found, or damaged, in {folder}: give --data-dir") as caught:
        load_data(DataConfig(name=name), data_dir=folder)
    assert "or --download" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_imagenet_points_to_folder(tmp_path):
    with pytest.raises(DataError, match=r"imagenet: not found.* archives of ILSVRC2012 .*--data folder"):
        load_data(DataConfig(name="imagenet"), data_dir=tmp_path, download=True)


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    import torchvision

    def fail(root, train, download):
        assert download
        raise OSError("<urlopen error\nno route to host>")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(DataError, match=r"cifar10: download to .* failed: <urlopen error no route to host>$"):
        load_data(DataConfig(name="cifar10"), data_dir=tmp_path, download=True)


def test_without_a_data_dir_the_cache_folder_is_looked_in(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path / "iterand-compress")):
        load_data(DataConfig(name="cifar10"))


def test_every_name_has_a_loader():
    assert set(DATASETS) == {"digits", "folder", *TORCHVISION_LOADERS, *TEXT_DATASETS}
    assert set(TEXT_DATASETS) == set(SIZES)


# --- Small folders -----------------------------------------------------------------------------------------


def test_folder_images_and_labels(tmp_path):
    (make_folder(tmp_path) / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load_data(folder_config(), data_dir=tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.input.shape == (3, 10, 10)
    assert isinstance(data.train, MemorySplit)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    expected = np.stack([noise(100 * c + k, 10, 10) for c in range(2) for k in range(5)])
    np.testing.assert_array_equal(
        pixels_of(data.train), expected.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    )
    scaled = expected.reshape(-1, 3) / 255
    assert data.input.mean == pytest.approx(scaled.mean(0), abs=6e-7)
    assert data.input.std == pytest.approx(scaled.std(0), abs=6e-7)


def test_many_files_are_decoded_by_processes_to_the_same_pixels_in_the_same_order(tmp_path, monkeypatch):
    folder = make_folder(tmp_path, each=7)
    one = load_data(folder_config(), data_dir=folder)
    monkeypatch.setattr(decode, "_MANY", 1)
    monkeypatch.setattr(decode, "_CHUNK", 4)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    many = load_data(folder_config(), data_dir=folder)
    np.testing.assert_array_equal(pixels_of(many.train), pixels_of(one.train))
    np.testing.assert_array_equal(pixels_of(many.test), pixels_of(one.test))
    _truncate(folder, "train/dog/3.png")
    with pytest.raises(DataError, match=r"train/dog/3\.png: not a readable image"):
        load_data(folder_config(), data_dir=folder)


def test_folder_validation_comes_from_train_and_never_from_test(tmp_path):
    make_folder(tmp_path)
    plain = load_data(folder_config(), data_dir=tmp_path)
    data = load_data(folder_config(validation=0.3), data_dir=tmp_path, seed=8)
    assert (len(data.train), len(data.val), len(data.test)) == (7, 3, 10)
    assert (data.input.mean, data.input.std) == (plain.input.mean, plain.input.std)
    together = {x.tobytes() for part in (data.train, data.val) for x in pixels_of(part)}
    assert together == {x.tobytes() for x in pixels_of(plain.train)}
    assert np.array_equal(pixels_of(data.test), pixels_of(plain.test))


def test_val_folder_is_the_test_set_if_there_is_no_other(tmp_path):
    data = load_data(folder_config(), data_dir=make_folder(tmp_path, parts=("train", "val")))
    assert data.val is None
    np.testing.assert_allclose(pixels_of(data.test)[0], noise(1000, 10, 10).transpose(2, 0, 1) / 255, atol=1e-6)


def test_with_val_and_test_each_has_its_name(tmp_path):
    make_folder(tmp_path, parts=("train", "val", "test"))
    data = load_data(folder_config(validation=0.5), data_dir=tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (10, 10, 10)
    np.testing.assert_allclose(pixels_of(data.val)[0], noise(1000, 10, 10).transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_allclose(pixels_of(data.test)[0], noise(2000, 10, 10).transpose(2, 0, 1) / 255, atol=1e-6)
    train = pixels_of(data.train).astype(np.float64)
    assert data.input.mean == pytest.approx(train.mean((0, 2, 3)), abs=1e-6)


def test_grey_folder_has_one_channel_until_one_image_has_colour(tmp_path):
    make_folder(tmp_path, channels=1)
    data = load_data(folder_config(), data_dir=tmp_path)
    assert data.input.shape == (1, 10, 10)
    np.testing.assert_allclose(pixels_of(data.train)[0, 0], noise(0, 10, 10, 1) / 255, atol=1e-6)
    Image.fromarray(noise(5, 10, 10)).save(tmp_path / "test" / "dog" / "9.png")
    data = load_data(folder_config(), data_dir=tmp_path)
    assert data.input.shape == (3, 10, 10)
    np.testing.assert_allclose(pixels_of(data.train)[0], [noise(0, 10, 10, 1) / 255] * 3, atol=1e-6)


def test_palette_images_with_alpha_become_rgb_without_a_warning(tmp_path):
    make_folder(tmp_path)
    palette = Image.fromarray(noise(1, 10, 10)).quantize(16)
    palette.save(tmp_path / "train" / "cat" / "0.png", transparency=bytes(range(0, 256, 16)))
    data = load_data(folder_config(), data_dir=tmp_path)
    expected = np.array(palette.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(np.rint(pixels_of(data.train)[0] * 255), expected)


def test_image_size_scales_the_shorter_side_and_cuts_out_the_centre(tmp_path):
    make_folder(tmp_path, size=(24, 16))
    data = load_data(folder_config(image_size=8), data_dir=tmp_path)
    assert data.input.shape == (3, 8, 8)
    scaled = np.array(Image.fromarray(noise(0, 24, 16)).resize((8, 12), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(np.rint(pixels_of(data.train)[0] * 255), scaled[2:10].transpose(2, 0, 1))


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    make_folder(tmp_path)
    for file in tmp_path.glob("train/*/*.png"):
        Image.new("RGB", (10, 10), (51, 0, 255)).save(file)
    data = load_data(folder_config(), data_dir=tmp_path)
    assert data.input.mean == (0.2, 0.0, 1.0)
    assert data.input.std == (1.0, 1.0, 1.0)


def _remove(root: Path, name: str) -> None:
    import shutil

    shutil.rmtree(root / name)


def _truncate(root: Path, name: str) -> None:
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[: len(data) // 2])


def _empty_class(root: Path) -> None:
    for file in (root / "train" / "dog").iterdir():
        file.unlink()


def _no_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        _remove(root, f"test/{name}")


def _sixteen_bits(root: Path) -> None:
    Image.fromarray(np.zeros((10, 10), dtype=np.uint16)).save(root / "train" / "cat" / "0.png")


BAD_FOLDERS = [
    (lambda r: _remove(r, "train"), r"has no train/: expected train/<class>/"),
    (lambda r: _remove(r, "test"), r"has neither test/ nor val/: one of them must hold the test images"),
    (_no_classes, r"test has no class folders: expected one folder of images for each class"),
    (_empty_class, r"class .*train/dog has no images: expected \.png, .+; put some in, or remove the folder$"),
    (lambda r: (r / "test" / "dog").rename(r / "test" / "god"), r"test lacks 'dog'; .*train lacks 'god'"),
    (
        lambda r: _truncate(r, "test/dog/3.png"),
        r"test/dog/3\.png: not a readable image \(.+\): repair or remove it",
    ),
    (lambda r: (r / "train/cat/0.png").write_text("hello"), r"train/cat/0\.png: not a readable image"),
    (lambda r: (r / "train/dog/2.png").write_bytes(b""), r"train/dog/2\.png: not a readable image"),
    (_sixteen_bits, r"train/cat/0\.png: an image with more than 8 bits a channel \(mode I;16\): convert it"),
    (
        lambda r: Image.fromarray(noise(0, 7, 9)).save(r / "test/cat/1.png"),
        r"test/cat/1\.png: 9×7 pixels, but the first training image has 10×10: give --set data.image_size=SIDE",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BAD_FOLDERS)
def test_bad_folders_get_one_line(tmp_path, damage, message):
    damage(make_folder(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        load_data(folder_config(), data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="folder: no folder given: give --data-dir"):
        load_data(folder_config())
    with pytest.raises(DataError, match=f"folder: {tmp_path}/x is not a folder: give --data-dir"):
        load_data(folder_config(), data_dir=tmp_path / "x")


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    make_folder(tmp_path, classes=("only",))
    with pytest.raises(DataError, match=rf"^folder: {tmp_path}/train: expected two classes or more, got only$"):
        load_data(folder_config(), data_dir=tmp_path)


# --- Large images ------------------------------------------------------------------------------------------


def large_folder(root: Path) -> Path:
    make_folder(root, size=(130, 150), each=4)
    Image.fromarray(noise(0, 200, 120)).save(root / "train" / "cat" / "0.png")
    return root


def test_one_number_normalises_all_channels_and_the_rim_keeps_the_colour_of_the_data(tmp_path):
    settings = {"image_size": 112, "crop": "shift", "pad": 6, "pad_value": "mean"}
    own = load_data(folder_config(**settings), data_dir=large_folder(tmp_path))
    data = load_data(folder_config(**settings, mean=0.5, std=[0.2, 0.3, 0.4]), data_dir=tmp_path)
    assert (data.input.mean, data.input.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    assert own.input.mean != data.input.mean
    for (first, _), (second, _) in zip(
        own.train.train_batches(0, 4, "cpu"), data.train.train_batches(0, 4, "cpu"), strict=True
    ):
        assert torch.equal(first, second)


def test_large_images_are_streamed_scaled_with_a_margin_and_cut(tmp_path):
    data = load_data(folder_config(image_size=112), data_dir=large_folder(tmp_path))
    assert isinstance(data.train, StreamSplit)
    assert data.input.shape == (3, 112, 112)
    ((pixels, labels),) = data.train.batches(64, "cpu")
    assert labels.tolist() == [0] * 4 + [1] * 4
    scaled = Image.fromarray(noise(1, 130, 150)).resize((148, 128), Image.Resampling.BILINEAR)
    expected = np.array(scaled)[8:120, 18:130].transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels[1].numpy(), expected.astype(np.float32) / np.float32(255))
    whole = pixels.double()
    assert data.input.mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), abs=1e-6)


@pytest.mark.parametrize("crop", ["none", "shift", "resized"])
def test_streamed_training_equals_a_loop_with_pillow(tmp_path, crop):
    pad = 6
    fill = "mean" if crop == "shift" else "black"
    config = folder_config(image_size=112, crop=crop, pad=pad, flip=True, pad_value=fill)
    data = load_data(config, data_dir=large_folder(tmp_path), seed=5)
    colour = tuple(round(255 * value) for value in data.input.mean) if fill == "mean" else (0, 0, 0)
    found = list(data.train.train_batches(3, 4, "cpu"))
    order = epoch_order(5, 3, 8)
    assert torch.cat([y for _, y in found]).tolist() == data.train.labels[order].tolist()
    results = torch.cat([x for x, _ in found]).numpy()
    words = augmentation_words(5, 3, 8)
    files = sorted(tmp_path.glob("train/cat/*")) + sorted(tmp_path.glob("train/dog/*"))
    flips = 0
    for position, index in enumerate(order):
        image = Image.open(files[index])
        if crop != "resized":
            scale = 128 / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        if crop == "none":
            left, top = (image.width - 112) // 2, (image.height - 112) // 2
            box, flip = (left, top, left + 112, top + 112), words[position, 2] >= 2**31
        else:
            augmentation = Augmentation(pad, (), crop, True)
            row = augmentation.boxes(words[position : position + 1], image.size[::-1], (112, 112))[0]
            top, left, height, width, flip = (int(value) for value in row)
            canvas = Image.new("RGB", (image.width + 2 * pad, image.height + 2 * pad), colour)
            canvas.paste(image, (pad, pad))
            image, box = canvas, (left, top, left + width, top + height)
        expected = image.crop(box).resize((112, 112), Image.Resampling.BILINEAR)
        array = np.array(expected)[:, ::-1] if flip else np.array(expected)
        flips += bool(flip)
        np.testing.assert_array_equal(np.rint(results[position] * 255), array.transpose(2, 0, 1))
    assert 0 < flips < 8


def test_streamed_epoch_resumes_in_the_middle(tmp_path):
    config = folder_config(image_size=100, crop="resized", flip=True)
    data = load_data(config, data_dir=large_folder(tmp_path))
    skipped = list(data.train.train_batches(1, 3, "cpu"))[1:]
    resumed = list(data.train.train_batches(1, 3, "cpu", start=1))
    assert len(resumed) == len(skipped) == 1
    assert torch.equal(skipped[0][0], resumed[0][0])
    assert torch.equal(skipped[0][1], resumed[0][1])
    assert [len(x) for x, _ in data.train.batches(3, "cpu")] == [3, 3, 2]


def test_a_shard_decodes_no_more_than_its_part(tmp_path, monkeypatch):
    config = folder_config(image_size=100, crop="resized", flip=True)
    data = load_data(config, data_dir=large_folder(tmp_path))
    decoded = []
    real = FileSource.image
    monkeypatch.setattr(FileSource, "image", lambda self, index: decoded.append(index) or real(self, index))
    for way in (
        lambda shard: list(data.train.train_batches(1, 5, "cpu", shard=shard)),
        lambda shard: list(data.train.batches(5, "cpu", shard)),
    ):
        whole, expected = way(Shard()), decoded.copy()
        decoded.clear()
        shares = [way(Shard(index, 2)) for index in range(2)]
        assert sorted(decoded) == sorted(expected)
        for parts in zip(whole, *shares, strict=True):
            for all_of_it, first, second in zip(*parts, strict=True):
                assert torch.equal(torch.cat((first, second)), all_of_it)
                assert abs(len(first) - len(second)) <= 1
        decoded.clear()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12+ about any fork beside threads
def test_workers_change_nothing_and_report_errors_in_one_line(tmp_path):
    large_folder(tmp_path)
    config = folder_config(image_size=100, crop="resized", flip=True)
    alone = load_data(config, data_dir=tmp_path, workers=0)
    helped = load_data(config, data_dir=tmp_path, workers=1)
    state = torch.get_rng_state()
    for epoch in (0, 1):
        pairs = zip(
            alone.train.train_batches(epoch, 4, "cpu"),
            helped.train.train_batches(epoch, 4, "cpu"),
            strict=True,
        )
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)
    assert torch.equal(torch.get_rng_state(), state)
    (tmp_path / "train" / "dog" / "3.png").write_text("no image")
    with pytest.raises(DataError, match=r"train/dog/3\.png: not a readable image") as caught:
        list(helped.train.train_batches(0, 4, "cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_large_images_of_one_size_need_no_image_size(tmp_path):
    make_folder(tmp_path, size=(120, 100), each=2)
    data = load_data(folder_config(), data_dir=tmp_path)
    assert data.input.shape == (3, 120, 100)
    np.testing.assert_array_equal(np.rint(pixels_of(data.test)[0] * 255), noise(1000, 120, 100).transpose(2, 0, 1))
    Image.fromarray(noise(0, 120, 101)).save(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(
        DataError, match=r"dog/1\.png: 101×120 pixels, but the first .* 100×120: give --set data.image_size=SIDE"
    ):
        load_data(folder_config(), data_dir=tmp_path)


def test_many_small_images_are_streamed_to_the_same_pixels(tmp_path, monkeypatch):
    make_folder(tmp_path)
    config = folder_config(crop="shift", pad=2, flip=True, image_size=8)
    memory = load_data(config, data_dir=tmp_path)
    monkeypatch.setattr(loading_module, "LARGEST_IN_MEMORY", 100)
    streamed = load_data(config, data_dir=tmp_path)
    assert isinstance(streamed.train, StreamSplit)
    assert (streamed.input.mean, streamed.input.std) == (memory.input.mean, memory.input.std)
    assert np.array_equal(pixels_of(streamed.test), pixels_of(memory.test))
    ((x, y),) = memory.train.train_batches(2, 10, "cpu")
    ((u, v),) = streamed.train.train_batches(2, 10, "cpu")
    assert torch.equal(x, u)
    assert torch.equal(y, v)


def test_workers_default_to_none_for_few_images():
    transform = StreamTransform(8, 8, False, Augmentation())

    class Many:
        def __len__(self):
            return 10_000

    few = StreamSplit([], torch.zeros(0), transform, 0, None)
    many = StreamSplit(Many(), torch.zeros(10_000), transform, 0, None)
    assert few._workers == 0
    assert many._workers == min(8, os.cpu_count() - 1)
    assert StreamSplit(Many(), torch.zeros(10_000), transform, 0, None, os.cpu_count())._workers == 0


def test_an_epoch_of_imagenet_is_planned_batch_by_batch():
    count = 1_281_167

    class Many:
        def __len__(self):
            return count

        def image(self, index):
            return Image.new("RGB", (8, 8), (index % 256, 0, 0))

    transform = StreamTransform(8, 8, False, Augmentation(flip=True))
    split = StreamSplit(Many(), torch.arange(count), transform, 3, 0)
    order = epoch_order(3, 5, count)
    tracemalloc.start()
    try:
        batches = split.train_batches(5, 4, "cpu", start=2)
        pixels, labels = next(batches)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert labels.tolist() == order[8:12].tolist()
    assert np.rint(pixels[:, 0, 0, 0].numpy() * 255).tolist() == (order[8:12] % 256).tolist()
    assert size < count * (8 + 4 * 8) + 2**22, "the order and the random words of all images, and no more"
