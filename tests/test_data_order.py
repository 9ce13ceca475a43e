"""Data order and augmentation are pure functions of seed, epoch and position; crops equal slow ones."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from iterand_compress import ImageInput
from iterand_compress.compress.config import DataConfig
from iterand_compress.compress.data.augment import Augmentation, augment
from iterand_compress.compress.data.memory_split import MemorySplit
from iterand_compress.compress.data.order import (
    augmentation_words,
    below,
    epoch_order,
    fixed_order,
    held_out,
)
from iterand_compress.compress.data.shard import Shard
from iterand_compress.compress.errors import DataError
from iterand_compress.compress.seed.philox import Purpose, philox4x32, random_words


def images(count: int, channels: int = 3, height: int = 12, width: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8))


def split(count: int = 50, seed: int = 3, **augmentation) -> MemorySplit:
    return MemorySplit(images(count), torch.arange(count), seed, Augmentation(**augmentation))


# --- Order -------------------------------------------------------------------------------------------------


def test_epoch_order_is_the_stable_argsort_of_64_bit_keys():
    words = random_words(5, 200, draw=7, tensor=0, purpose=Purpose.DATA_ORDER).tolist()
    keys = [(words[2 * i] | words[2 * i + 1] << 32, i) for i in range(100)]
    assert epoch_order(5, 7, 100).tolist() == [index for _, index in sorted(keys)]


def test_epoch_order_is_a_permutation_that_depends_on_epoch_and_seed():
    orders = [epoch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(1000)) for order in orders)
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert np.mean(first == second) < 0.02
    assert np.array_equal(epoch_order(1, 1, 1000), orders[3])


def test_below_multiplies_and_shifts():
    words = np.array([0, 1, 2**31, 2**32 - 1], dtype=np.uint32)
    assert below(words, 10).tolist() == [int(w) * 10 >> 32 for w in words.tolist()] == [0, 0, 5, 9]
    assert below(words, np.array([1, 1, 7, 2**31 - 1])).tolist() == [0, 0, 3, 2**31 - 2]


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    augmentation, count = Augmentation(flip="alternating"), 1000
    mirrored = []
    for epoch in range(4):
        order = epoch_order(3, epoch, count)
        table = augmentation.boxes(augmentation.words(3, epoch, order), (8, 8), (8, 8))
        by_image = np.empty(count, dtype=np.int64)
        by_image[order] = table[:, 4]
        mirrored.append(by_image)
    assert np.array_equal(mirrored[0], 1 - mirrored[1])
    assert np.array_equal(mirrored[0], mirrored[2])
    assert np.array_equal(mirrored[1], mirrored[3])
    assert 440 < mirrored[0].sum() < 560
    shifted = Augmentation(2, crop="shift", flip="alternating")
    plain = Augmentation(2, crop="shift", flip=True)
    words = [kind.words(3, 1, epoch_order(3, 1, count)) for kind in (shifted, plain)]
    boxes = [kind.boxes(one, (8, 8), (8, 8))[:, :4] for kind, one in zip((shifted, plain), words, strict=True)]
    assert np.array_equal(*boxes), "only the flips differ"


@pytest.mark.parametrize("pad", [1, 4])
def test_reflected_rims_are_those_of_numpy(pad):
    pixels = images(16, height=9, width=7)
    augmentation = Augmentation(pad, crop="shift", reflect=True)
    table = augmentation.boxes(augmentation_words(1, 2, 16), (9, 7), (9, 7))
    found = augment(pixels, torch.from_numpy(table), augmentation).numpy()
    for image, (top, left, height, width, _), result in zip(pixels.numpy(), table, found, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        np.testing.assert_array_equal(
            result, padded[:, top : top + height, left : left + width].astype(np.float32) / 255
        )


def test_held_out_is_a_seeded_partition():
    kept, out = held_out(4, 101, 0.1)
    assert (len(kept), len(out)) == (91, 10)
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(101))
    assert np.array_equal(out, np.sort(out))
    assert np.array_equal(held_out(4, 101, 0.1)[1], out)
    assert not np.array_equal(held_out(5, 101, 0.1)[1], out)
    assert [len(part) for part in held_out(0, 3, 0.01)] == [2, 1]
    assert [len(part) for part in held_out(0, 3, 0.99)] == [1, 2]
    assert [len(part) for part in held_out(0, 3, 0.0)] == [3, 0]


def test_one_image_cannot_be_split():
    with pytest.raises(DataError, match="1 training image cannot be split for validation"):
        held_out(0, 1, 0.5)


def test_fixed_order_never_changes():
    # In clear: everybody's digits test set hangs on it.
    assert fixed_order(1797)[:6].tolist() == [970, 172, 713, 1690, 132, 414]


# --- Crops and flips ---------------------------------------------------------------------------------------


def batch(count: int, crop: str, pad: int, flip: bool, height: int = 12, width: int = 9, fill: tuple[int, ...] = ()):
    augmentation = Augmentation(pad, fill, crop, flip)
    pixels = images(count, height=height, width=width)
    table = augmentation.boxes(augmentation_words(1, 2, count), (height, width), (height, width))
    return pixels.numpy(), table, augment(pixels, torch.from_numpy(table), augmentation).numpy()


@pytest.mark.parametrize(
    ("crop", "pad", "flip", "fill"),
    [("shift", 4, True, ()), ("shift", 2, False, ()), ("none", 0, True, ()), ("shift", 3, True, (10, 200, 30))],
)
def test_shift_and_flip_equal_a_loop_over_images(crop, pad, flip, fill):
    pixels, table, found = batch(64, crop, pad, flip, fill=fill)
    for image, (top, left, height, width, mirror), result in zip(pixels, table, found, strict=True):
        padded = np.zeros((3, 12 + 2 * pad, 9 + 2 * pad), dtype=np.uint8)
        padded[:] = np.array(fill or (0, 0, 0), dtype=np.uint8)[:, None, None]
        padded[:, pad : pad + 12, pad : pad + 9] = image
        expected = padded[:, top : top + 12, left : left + 9]
        if mirror:
            expected = expected[:, :, ::-1]
        assert (height, width) == (12, 9)
        np.testing.assert_array_equal(result, expected.astype(np.float32) / np.float32(255))
    assert {*table[:, 0]} == {*range(2 * pad + 1)} == {*table[:, 1]}
    assert {*table[:, 4]} == ({0, 1} if flip else {0})


def weights_of(size: int, box: int) -> np.ndarray:
    """What each pixel of a box counts in each of ``size`` output pixels: Pillow's bilinear filter, pixel by pixel."""
    scale = box / size
    found = np.zeros((size, box))
    for out in range(size):
        for pixel in range(box):
            found[out, pixel] = max(0, 1 - abs(pixel + 0.5 - (out + 0.5) * scale) / max(scale, 1))
        found[out] /= found[out].sum()
    return found


@pytest.mark.parametrize("pad", [0, 4, 12])
def test_resized_crop_equals_a_slow_filter_and_pillow(pad):
    pixels, table, found = batch(40, "resized", pad, flip=True)
    assert {*table[:, 4]} == {0, 1}
    for image, (top, left, height, width, mirror), result in zip(pixels, table, found, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))[:, top : top + height, left : left + width]
        rows, columns = weights_of(12, height), weights_of(9, width)
        expected = np.einsum("ih,chw,jw->cij", rows, padded / 255, columns)
        pillow = Image.fromarray(padded.transpose(1, 2, 0)).resize((9, 12), Image.Resampling.BILINEAR)
        rounded = np.array(pillow).transpose(2, 0, 1)
        if mirror:
            expected, rounded = expected[:, :, ::-1], rounded[:, :, ::-1]
        np.testing.assert_allclose(result, expected, atol=2e-6)
        np.testing.assert_allclose(255 * result, rounded, atol=1.01)  # Pillow rounds twice


def test_resized_crop_of_the_whole_image_is_torchs_interpolation():
    pixels = images(2, height=8, width=8)
    augmentation = Augmentation(4, crop="resized")
    table = torch.tensor([[0, 0, 16, 16, 0]] * 2)
    expected = F.interpolate(F.pad(pixels.float() / 255, [4] * 4), (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(augment(pixels, table, augmentation), expected, atol=1e-6, rtol=0)


def torchvisions_box(words: list[int], height: int, width: int) -> tuple[int, int, int, int]:
    """Torchvision's rule for one image, in plain Python, with our draws: top, left, height, width."""

    def units():
        yield words[3], words[4]
        for attempt in range(1, 10):
            block, draw = np.array([words[5]], np.uint64), np.array([words[6]], np.uint64)
            yield philox4x32(0, block, draw, attempt, Purpose.AUGMENTATION)[0, :2].tolist()

    for first, second in units():
        area = height * width * (0.08 + 0.92 * first / 2**32)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * second / 2**32)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return words[0] * (height - h + 1) >> 32, words[1] * (width - w + 1) >> 32, h, w
    h, w = height, width
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(40, 40), (375, 500), (30, 200), (200, 30), (3, 2), (1, 1), (7, 900)])
def test_resized_boxes_follow_torchvisions_rule(size):
    words = augmentation_words(7, 1, 500)
    table = Augmentation(crop="resized").boxes(words, size, (8, 8))
    assert table[:, :4].tolist() == [list(torchvisions_box(row, *size)) for row in words.tolist()]
    padded = Augmentation(pad=1, crop="resized").boxes(words, (size[0] - 2, size[1] - 2), (8, 8))
    assert np.array_equal(padded, table)
    alone = [Augmentation(crop="resized").boxes(row[None], size, (8, 8))[0].tolist() for row in words[:50]]
    assert alone == table[:50].tolist()


@pytest.mark.parametrize(
    ("size", "area", "full"), [((40, 40), 0.485, 0.051), ((375, 500), 0.433, 0.006), ((60, 200), 0.212, 0.102)]
)
def test_resized_boxes_are_distributed_as_torchvision_draws_them(size, area, full):
    """Share of the area, of boxes that span a side, aspect and place, each beside torchvision's own sampling."""
    count, (height, width) = 20_000, size
    ours = Augmentation(crop="resized").boxes(augmentation_words(0, 0, count), size, size)[:, :4]
    image = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    measures = []
    for top, left, h, w in (ours.T, np.array(draws).T):
        middle = [(top + h / 2) / height, (left + w / 2) / width]
        values = [h * w / (height * width), (h == height) | (w == width), np.log(w / h), *middle]
        measures.append(np.array([(value.mean(), value.std()) for value in values]))
    np.testing.assert_allclose(*measures, atol=0.012)
    assert measures[0][0, 0] == pytest.approx(area, abs=0.005)
    assert measures[0][1, 0] == pytest.approx(full, abs=0.003)


def test_flip_comes_for_half_of_the_images():
    table = Augmentation(flip=True).boxes(augmentation_words(0, 0, 10_000), (8, 8), (8, 8))
    assert abs(table[:, 4].mean() - 0.5) < 0.02


def test_padding_without_a_crop_does_nothing():
    assert Augmentation.from_config(DataConfig(pad=4), (0.5,)) == Augmentation()
    mean = DataConfig(pad=4, crop="shift", pad_value="mean")
    assert Augmentation.from_config(mean, (0.5, 0.1, 1.0)) == Augmentation(4, (128, 26, 255), "shift")


# --- Batches -----------------------------------------------------------------------------------------------


def test_batches_are_in_order_complete_and_untouched():
    part = split(50, crop="shift", pad=4, flip=True)
    pixels, labels = zip(*part.batches(16, "cpu"), strict=True)
    assert [len(x) for x in pixels] == [16, 16, 16, 2]
    assert torch.cat(labels).tolist() == list(range(50))
    assert torch.equal(torch.cat(pixels), images(50).float() / 255)
    assert pixels[0].dtype == torch.float32
    assert labels[0].dtype == torch.int64


def test_train_batches_follow_the_order_and_drop_the_rest():
    part = split(50)
    found = list(part.train_batches(2, 16, "cpu"))
    assert len(found) == part.steps_per_epoch(16) == 3
    order = epoch_order(3, 2, 50)[:48]
    assert torch.cat([y for _, y in found]).tolist() == order.tolist()
    assert torch.equal(torch.cat([x for x, _ in found]), images(50)[order].float() / 255)


def test_augmentation_belongs_to_the_position_not_to_the_batch():
    part = split(48, crop="resized", pad=2, flip=True)
    whole = torch.cat([x for x, _ in part.train_batches(1, 48, "cpu")])
    parts = torch.cat([x for x, _ in part.train_batches(1, 16, "cpu")])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, torch.cat([x for x, _ in part.train_batches(2, 48, "cpu")]))


@pytest.mark.parametrize("crop", ["none", "shift", "resized"])
@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_starting_inside_an_epoch_equals_skipping(crop, start):
    part = split(50, crop=crop, pad=4 if crop != "none" else 0, flip=True)
    skipped = list(part.train_batches(1, 12, "cpu"))[start:]
    resumed = list(part.train_batches(1, 12, "cpu", start=start))
    assert len(resumed) == max(0, 4 - start)
    for (x, y), (u, v) in zip(skipped, resumed, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_fewer_images_than_a_batch_are_one_batch():
    part = split(5)
    ((_, labels),) = part.train_batches(0, 16, "cpu")
    assert sorted(labels.tolist()) == list(range(5))
    assert part.steps_per_epoch(16) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_the_contiguous_parts_of_every_batch(count):
    """Pixels of the parts are those of the whole: what an image looks like does not depend on who computes it."""
    memory = split(50, crop="resized", pad=2, flip=True)
    tokens = MemorySplit(torch.arange(150, dtype=torch.int32).reshape(50, 3), torch.arange(50), 3)
    for part in (memory, tokens):
        ways = (
            lambda shard, part=part: list(part.train_batches(1, 12, "cpu", start=1, shard=shard)),
            lambda shard, part=part: list(part.batches(12, "cpu", shard)),
        )
        for way in ways:
            whole = way(Shard())
            shares = [way(Shard(index, count)) for index in range(count)]
            for number, (pixels, labels) in enumerate(whole):
                present = [share[number] for share in shares if number < len(share)]
                sizes = [len(y) for _, y in present]
                assert max(sizes) - min(sizes) <= 1
                assert torch.equal(torch.cat([y for _, y in present]), labels)
                assert torch.equal(torch.cat([x for x, _ in present]), pixels)


def test_parts_are_disjoint_complete_and_of_almost_one_size():
    for size in range(40):
        for count in range(1, 12):
            parts = [range(100)[Shard(index, count).of(5, 5 + size)] for index in range(count)]
            assert [at for part in parts for at in part] == list(range(5, 5 + size))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=r"shard: expected an index in \[0, 2\), got 2"):
        Shard(2, 2)


def test_global_generators_are_neither_used_nor_read():
    part = split(50, crop="resized", pad=4, flip=True)

    def epoch():
        return torch.cat([x for x, _ in part.train_batches(0, 10, "cpu")])

    torch.manual_seed(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    first = epoch()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(2)
    assert torch.equal(epoch(), first)


def test_normalize_is_per_channel_and_reusable_under_autograd():
    image = ImageInput((3, 4, 4), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = image.normalize(pixels)
    assert np.array_equal(image.normalize(pixels.numpy()), found.numpy())
    for channel, (mean, std) in enumerate(zip(image.mean, image.std, strict=True)):
        torch.testing.assert_close(found[:, channel], (pixels[:, channel] - mean) / std)
    pixels.requires_grad_(True)
    image.normalize(pixels).square().sum().backward()
    assert pixels.grad is not None
