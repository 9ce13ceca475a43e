"""Image files of many kinds, for tests of what reads them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

#: How an upright array ``[H, W, …]`` is stored under each value of the EXIF tag Orientation (Exif 2.32, table 6).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def turned(path: Path, upright: np.ndarray, orientation: int) -> Path:
    """Save pixels so that a viewer shows them upright; lossless but for JPEG."""
    options = {".webp": {"lossless": True, "exact": True}, ".jpg": {"quality": 95, "subsampling": 0}}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(path, exif=exif(orientation), **options.get(path.suffix, {}))
    return path


def deep_png(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits a channel, which Pillow does not write: uint16 ``[H, W, 3]``."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def odd_images(folder: Path) -> dict[str, Path]:
    """Sound files of many formats and modes, 12 wide and 9 high unless they stand on their side."""
    colour, grey = Image.fromarray(noise(1, 9, 12, 3)), Image.fromarray(noise(2, 9, 12))
    alpha, palette = Image.fromarray(noise(3, 9, 12)), colour.quantize(12)
    others = [Image.fromarray(noise(4 + k, 9, 12, 3)) for k in range(2)]
    with_alpha, grey_alpha = colour.copy(), grey.copy()
    with_alpha.putalpha(alpha)
    grey_alpha.putalpha(alpha)
    files = {
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "grey.jpg": (grey, {}),
        "photo.jfif": (colour, {"format": "JPEG", "exif": exif(6)}),
        "profile.jpg": (colour, {"icc_profile": b"no profile"}),
        "several.mpo": (colour, {"save_all": True, "append_images": [other.copy() for other in others]}),
        "alpha.png": (with_alpha, {}),
        "grey_alpha.png": (grey_alpha, {}),
        "grey_key.png": (grey, {"transparency": 7}),
        "bits.png": (grey.convert("1"), {}),
        "palette.png": (palette, {"transparency": bytes(range(0, 240, 20))}),
        "moving.png": (colour, {"save_all": True, "append_images": [other.copy() for other in others]}),
        "moving.gif": (colour, {"save_all": True, "append_images": [other.copy() for other in others]}),
        "key.gif": (palette, {"transparency": 3}),
        "moving.webp": (
            colour,
            {"save_all": True, "append_images": [other.copy() for other in others], "lossless": True},
        ),
        "alpha.webp": (with_alpha, {"lossless": True, "exact": True, "exif": exif(8)}),
        "pages.tiff": (colour, {"save_all": True, "append_images": [other.copy() for other in others]}),
        "turned.tif": (colour, {"exif": exif(5)}),
        "cmyk.tif": (colour.convert("CMYK"), {"compression": "tiff_lzw"}),
        "ycbcr.tif": (colour.convert("YCbCr"), {}),
        "picture.bmp": (colour, {}),
        "picture.tga": (with_alpha, {}),
        "picture.ico": (with_alpha, {"sizes": [(12, 9)]}),
        "picture.ppm": (colour, {}),
        "picture.pcx": (palette, {}),
    }
    for name, (image, options) in files.items():
        image.copy().save(folder / name, **options)  # a copy, as saving leaves traces in an image
    deep_png(folder / "deep.png", noise(9, 9, 12, 6).view(np.uint16))
    damaged = exif(6).tobytes()
    colour.save(folder / "damaged_exif.jpg", exif=damaged[:10] + b"\xff" * 8 + damaged[18:])
    colour.save(folder / "short_exif.jpg", exif=damaged[:12])
    return {path.name: path for path in sorted(folder.iterdir())}
