"""The value objects cannot be built wrong, and say why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iterand_compress.compress.errors import ConfigError, IterandError, SeedMaskError
from iterand_compress.compress.seedmask import MaskedTensor, Network, StoredTensor, dumps

MASK = np.array([True, False, True, True, False, True])


def tensor(**changes: Any) -> MaskedTensor:
    fields: dict[str, Any] = {
        "name": "w", "shape": (2, 3), "codebook": "normal", "scale": np.float32(0.5), "mask": MASK
    }  # fmt: skip
    return MaskedTensor(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "tensor name: expected 1 to 512 bytes of text, got 0"),
        ({"name": "ä" * 257}, "tensor name: expected 1 to 512 bytes of text, got 514"),
        ({"name": "a\x1b[31m"}, r"tensor name: 'a\\x1b\[31m' contains the control character '\\x1b'"),
        ({"name": "a\u202eb"}, "contains the control character"),
        ({"name": "a\ud800"}, "contains the control character"),
        ({"shape": (2, 0)}, r"tensor 'w': expected a shape of integers >= 1, got \[2, 0\]"),
        ({"shape": (-2, -3)}, "expected a shape of integers >= 1"),
        ({"shape": (1,) * 17}, "tensor 'w': expected at most 16 dimensions, got 17"),
        ({"shape": (2**20, 2**17)}, r"tensor 'w': expected at most 2\*\*36 items"),
        ({"shape": (7,)}, r"tensor 'w': expected mask as bool of shape \[7\], got bool of shape \[6\]"),
        ({"mask": MASK.reshape(2, 3)}, r"expected mask as bool of shape \[6\], got bool of shape \[2, 3\]"),
        ({"mask": MASK.astype(np.uint8)}, r"expected mask as bool of shape \[6\], got uint8"),
        ({"draws": np.zeros(6, np.int64)}, r"expected draws as uint8 of shape \[6\], got int64"),
        (
            {"draws": np.zeros(5, np.uint8)},
            r"expected draws as uint8 of shape \[6\], got uint8 of shape \[5\]",
        ),
        ({"scale": 0.5}, "tensor 'w': expected the scale as numpy.float32, got float"),
        (
            {"scale": np.float32(0)},
            "tensor 'w': expected a positive, finite, normal float32 as scale, got 0.0",
        ),
        ({"scale": np.float32(-1)}, "normal float32 as scale, got -1.0"),
        ({"scale": np.float32(np.nan)}, "normal float32 as scale, got nan"),
        ({"scale": np.float32(np.inf)}, "normal float32 as scale, got inf"),
        ({"scale": np.float32(3e38)}, "normal float32 as scale"),
        ({"scale": np.float32(1e-39)}, "normal float32 as scale"),
    ],
)
def test_a_masked_tensor_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SeedMaskError, match=message):
        tensor(**changes)


def test_an_unknown_codebook() -> None:
    with pytest.raises(ConfigError, match="unknown 'gauss'"):
        tensor(codebook="gauss")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: expected an integer from 0"),
        ({"tensors": ()}, "expected at least one masked tensor, got none"),
        ({"tensors": (tensor(), tensor())}, "tensor 'w': expected unique names, got it twice"),
        ({"state": {"w": StoredTensor.from_numpy(np.zeros(1))}}, "tensor 'w': expected unique names"),
        ({"state": {"a\nb": StoredTensor.from_numpy(np.zeros(1))}}, "control character"),
        ({"classes": ["a", "b\x07"]}, r"class name: 'b\\x07' contains the control character"),
        ({"recipe": {"lr": float("nan")}}, "recipe.lr: expected a finite number, got nan"),
        (
            {"recipe": {"a": {"b": {1, 2}}}},
            "recipe.a.b: expected text, number, boolean, list or dict, got set",
        ),
        ({"recipe": {1: 2}}, "recipe: expected text as key, got 1"),
        ({"recipe": {"n": 2**70}}, r"recipe.n: expected an integer below 2\*\*64"),
        ({"recipe": {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}}, "recipe.a: nested deeper than 16 levels"),
        ({"architecture": {"name": "x\x00"}}, "architecture.name: .* control character"),
    ],
)
def test_a_network_that_cannot_be_stored(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IterandError, match=message):
        Network(**{"seed": 1, "tensors": (tensor(),), **changes})


def test_an_architecture_must_be_flat() -> None:
    network = Network(seed=1, tensors=(tensor(),), architecture={"sizes": [1, 2]})  # type: ignore[dict-item]
    with pytest.raises(SeedMaskError, match=r"manifest: architecture\.sizes"):
        dumps(network)


@pytest.mark.parametrize(
    ("dtype", "tag", "data"),
    [
        ("?", "BOOL", "0100"),
        ("u1", "U8", "0100"),
        ("i1", "I8", "0100"),
        ("u2", "U16", "01000000"),
        ("i2", "I16", "01000000"),
        ("f2", "F16", "003c0000"),
        ("u4", "U32", "0100000000000000"),
        ("i4", "I32", "0100000000000000"),
        ("f4", "F32", "0000803f00000000"),
        ("u8", "U64", "01" + "00" * 15),
        ("i8", "I64", "01" + "00" * 15),
        ("f8", "F64", "000000000000f03f" + "00" * 8),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_dtype_is_stored_little_endian(dtype: str, tag: str, data: str, order: str) -> None:
    array = np.array([1, 0]).astype(order + dtype)
    stored = StoredTensor.from_numpy(array)
    assert (stored.dtype, stored.shape, stored.data.tobytes().hex()) == (tag, (2,), data)
    assert np.array_equal(stored.numpy(), array)


def test_bfloat16_comes_as_its_bits() -> None:
    stored = StoredTensor.from_numpy(np.array([[0x3F80]], np.uint16), dtype="BF16")
    assert (stored.dtype, stored.shape, stored.data.tobytes().hex()) == ("BF16", (1, 1), "803f")
    assert stored.numpy().tolist() == [[0x3F80]]


def test_a_scalar_an_empty_and_a_transposed_tensor() -> None:
    for array in (np.array(3), np.zeros((0, 4), np.float32), np.arange(6.0).reshape(2, 3).T):
        back = StoredTensor.from_numpy(array).numpy()
        assert back.shape == array.shape
        assert np.array_equal(back, array)


def test_the_array_of_a_stored_tensor_is_a_writable_copy() -> None:
    stored = StoredTensor.from_numpy(np.zeros(2, np.float32))
    stored.numpy()[0] = 1
    assert stored.numpy().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("F8", (1,), b"\0", "state: unknown dtype 'F8'; known: BOOL, U8"),
        (
            "F32",
            (2,),
            b"\0" * 4,
            r"state: expected 8 bytes as uint8 for F32 of shape \[2\], got uint8 of shape \[4\]",
        ),
        ("F32", (-1,), b"", "expected a shape of integers >= 0"),
        ("BOOL", (1,), b"\2", "expected bytes 0 and 1 in a BOOL tensor"),
    ],
)
def test_a_stored_tensor_that_does_not_fit(dtype: str, shape: tuple[int, ...], data: bytes, message: str) -> None:
    with pytest.raises(SeedMaskError, match=message):
        StoredTensor(dtype, shape, np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8))


@pytest.mark.parametrize("dtype", ["c8", "O", "M8[s]"])
def test_an_array_that_cannot_be_stored(dtype: str) -> None:
    with pytest.raises(SeedMaskError, match="state: cannot store"):
        StoredTensor.from_numpy(np.zeros(2, dtype))
