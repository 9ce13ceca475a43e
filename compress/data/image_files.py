"""Image files: which ones Pillow decodes, and their pixels in the upright orientation.

``examples/edge/classify.py`` reads files in the same way without this package.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from PIL import Image

from ..errors import DataError
from ..files.names import printable

__all__ = ["image_header", "read_image", "suffixes", "upright", "without_warnings"]

#: Formats that Pillow knows by name only, or hands to another program (EPS to Ghostscript).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
#: 16-bit and floating-point images would be clipped to white by a conversion.
_TOO_DEEP = ("I", "F")
_ORIENTATION = 0x0112
#: Keys under which formats keep the orientation, except TIFF, which Pillow turns itself.
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
#: How to turn an image upright, by its EXIF tag Orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = [_TURNS[tag] for tag in (5, 6, 7, 8)]


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The formats that Pillow may try on a file, the usual ones first."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_DECODED, key=lambda name: (name not in ("JPEG", "PNG"), name)))


def suffixes() -> tuple[str, ...]:
    """Return the endings, in lower case, of the files that the installed Pillow decodes."""
    known = {*_formats(), "MPO"}  # several JPEG images in one file, which Pillow opens as JPEG
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in known))


def read_image(path: str, channels: int) -> Image.Image:
    """Decode a file to mode L or RGB, upright by its EXIF orientation.

    Of several frames or pages it takes the first. It ignores transparency and colour profiles and returns the colours
    that the file holds for each pixel.

    Args:
        path: the file.
        channels: 1 or 3.

    Raises:
        DataError: it cannot be read or decoded, or has more than 8 bits a channel; the path is named.
    """
    with _readable(path), Image.open(path, formats=_formats()) as image:
        return upright(image, channels, path)


def upright(image: Image.Image, channels: int, name: str = "an image in memory") -> Image.Image:
    """Convert an image as `read_image` does.

    Args:
        image: of Pillow, in any mode; it stays as it is.
        channels: 1 or 3.
        name: of the image, for messages.

    Raises:
        DataError: it has more than 8 bits a channel, or cannot be decoded.
    """
    with _readable(name):
        _require_shallow(image, name)
        image.load()
        turn = _turn(image)
        wanted = "L" if channels == 1 else "RGB"
        result = image
        if "transparency" in image.info:  # a palette with alpha only converts by way of RGBA
            result = result.convert("RGBA")
        if result.mode != wanted:
            result = result.convert(wanted)
        return result if turn is None else result.transpose(turn)


def image_header(path: str, *, turned: bool = False) -> tuple[tuple[int, int], str]:
    """Read ((width, height), mode) of an image file, mostly without decoding it.

    Args:
        path: the file.
        turned: give the size of the upright image, which needs its EXIF data.

    Raises:
        DataError: the file is not an image, or has more than 8 bits a channel.
    """
    with _readable(path), Image.open(path, formats=_formats()) as image:
        _require_shallow(image, path)
        mode = image.mode
        if not turned or image.width == image.height:
            return image.size, mode
        if image.format != "JPEG":
            image.load()  # for PNG may tell it behind the pixels, and TIFF turns them itself
        return image.size[::-1] if _turn(image) in _ON_ITS_SIDE else image.size, mode


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about large images, and about damaged metadata beside sound pixels.

    `read_image` does not do this itself, because only decoding would take longer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _require_shallow(image: Image.Image, path: str) -> None:
    if image.mode.startswith(_TOO_DEEP):
        raise DataError(
            f"{printable(path)}: an image with more than 8 bits a channel (mode {image.mode}): convert it to 8 bits"
        )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{printable(name)}: no such file") from error
    except Exception as error:  # of a damaged file, decoders raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{printable(name)}: not a readable image ({reason}): repair or remove it") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    if image.info.keys().isdisjoint(_METADATA):
        return None
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return None  # the EXIF data are damaged; viewers show such images as they are stored
