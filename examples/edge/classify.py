"""Classify image files with an exported model. Needs onnxruntime, NumPy and Pillow, nothing else of this project.

    python classify.py model.onnx photo.jpg another.png
    python classify.py model.onnx scans/*.png --top 3 --repeat 20 --threads 1
    python classify.py model.onnx photo.jpg --json
    python classify.py model.onnx -- -name-with-a-dash.jpg

The model is a file of ``iterand-compress export``, in any form; its metadata say how pixels become its input and how
the classes are called. Every image, of the model's size too, is scaled and cut to its centre as images are when the
project evaluates: the shorter side to the model's, or, for models above 96 pixels, to 256/224 of it. Models that
learned from images that were not scaled (without `data.image_size`; or not square) get no such margin: images of
their size are taken as they are. Images become grey for models with one channel and RGB for models with three.

The latency is that of onnxruntime alone, without reading and scaling: the median over --repeat runs of a batch,
divided by its images. Exit code 0; 1 if the model or any of the images cannot be used (the others are classified
nevertheless); 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import stat
import statistics
import struct
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

NOT_EXPORTED = (b'{"__metadata__":{"seedmask":', b"PK\x03\x04")  # how a .seedmask goes on after 8 bytes; a checkpoint
#: What brings an image into its upright position, by the EXIF tag Orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LARGE_SIDE = 96  # models above it are trained on images scaled with a margin, if these are scaled at all


class UnusableError(Exception):
    """A file that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Model:
    """An exported classifier.

    ``session`` takes float32 ``[batch, channels, height, width]`` in [0, 1], minus ``mean`` and divided by ``std``
    (float32 ``[1, channels, 1, 1]``) unless they are None: then the graph does that itself. With a ``margin``, images
    are scaled to more than height and width, and cut.
    """

    path: Path
    session: onnxruntime.InferenceSession
    shape: tuple[int, int, int]
    margin: bool
    mean: np.ndarray | None
    std: np.ndarray | None
    classes: list[str]
    gives_probabilities: bool

    @classmethod
    def load(cls, path: Path, threads: int) -> Model:
        """Open a file of ``iterand-compress export``.

        Args:
            path: the file.
            threads: of onnxruntime; 0 leaves the choice to it.

        Raises:
            UnusableError: the file is missing, not ONNX, not exported by iterand-compress, damaged, or takes texts.
        """
        require_exported(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures are raised anyway
        options.intra_op_num_threads = threads
        try:
            readable = os.fsencode(path) == str(path).encode(errors="replace")  # as onnxruntime takes a name for UTF-8
            source = str(path) if readable else path.read_bytes()
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            raise UnusableError(
                f"{shown(path)}: onnxruntime cannot load it as an ONNX model: {one_line(error)}"
            ) from error
        metadata = session.get_modelmeta().custom_metadata_map
        if "iterand.text" in metadata:
            raise UnusableError(
                f"{shown(path)}: takes texts, this program classifies images: use OnnxClassifier.classify"
            )
        if "iterand.normalize" not in metadata:
            raise UnusableError(f"{shown(path)}: not exported by iterand-compress: it does not say what its input is")
        try:
            return cls.described_by(metadata, path, session)
        except KeyError as error:
            raise UnusableError(f"{shown(path)}: its metadata lack {error}: export it again") from error
        except (ValueError, TypeError) as error:
            raise UnusableError(f"{shown(path)}: damaged metadata ({one_line(error)}): export it again") from error

    @classmethod
    def described_by(cls, metadata: dict[str, str], path: Path, session: onnxruntime.InferenceSession) -> Model:
        """Read what the exporter wrote about input and output.

        Raises:
            KeyError: an entry is missing.
            ValueError: an entry is damaged, or of another kind of image.
            TypeError: an entry is damaged.
        """
        channels, height, width = (int(size) for size in json.loads(metadata["iterand.image_shape"]))
        if channels not in (1, 3) or min(height, width) < 1:
            raise ValueError(f"images of {channels} channels, {height}×{width} pixels: expected 1 or 3 channels")
        if metadata["iterand.normalize"] not in ("baked", "none"):
            raise ValueError(f"iterand.normalize is {metadata['iterand.normalize']!r}: expected 'baked' or 'none'")
        mean = std = None
        if metadata["iterand.normalize"] == "none":
            mean, std = (
                np.array(json.loads(metadata[f"iterand.{name}"]), np.float32).reshape(1, channels, 1, 1)
                for name in ("mean", "std")
            )
        return cls(
            path=path,
            session=session,
            shape=(channels, height, width),
            margin=max(height, width) > LARGE_SIDE and learned_from_scaled(metadata, height, width),
            mean=mean,
            std=std,
            classes=[str(name) for name in json.loads(metadata.get("iterand.classes", "[]"))],
            gives_probabilities=metadata.get("iterand.output") == "probabilities",
        )

    def probabilities(self, pixels: np.ndarray, repeat: int) -> tuple[np.ndarray, float]:
        """Classify float32 ``[n, channels, height, width]`` in [0, 1].

        Returns:
            Probabilities, float64 ``[n, classes]``, and seconds per image.

        Raises:
            UnusableError: onnxruntime cannot run the model, or it gives something else than classes.
        """
        if self.mean is not None:
            pixels = np.asarray((pixels - self.mean) / self.std, np.float32)
        feed = {self.session.get_inputs()[0].name: pixels}
        seconds = []
        try:
            for _ in range(repeat):
                start = time.perf_counter()
                output, *_ = self.session.run(None, feed)
                seconds.append(time.perf_counter() - start)
        except Exception as error:
            raise UnusableError(f"{shown(self.path)}: onnxruntime cannot run it: {one_line(error)}") from error
        values = np.asarray(output, np.float64)
        if values.ndim != 2 or (self.classes and len(self.classes) != values.shape[1]):
            expected = f"an output [batch, {len(self.classes) or 'classes'}]"
            raise UnusableError(f"{shown(self.path)}: expected {expected}, got {list(values.shape)}")
        if not self.gives_probabilities:
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        return values, statistics.median(seconds) / len(pixels)

    def label(self, number: int) -> str:
        """The name of a class, or its number where the file names none."""
        return self.classes[number] if self.classes else str(number)


def learned_from_scaled(metadata: dict[str, str], height: int, width: int) -> bool:
    """Whether the images of training and evaluation were scaled; without a recipe: all squares may have been."""
    if "iterand.recipe" not in metadata:
        return height == width
    data = json.loads(metadata["iterand.recipe"])["data"]
    return data["image_size"] is not None or data["name"] == "imagenet"


def read_image(path: Path, shape: tuple[int, int, int], *, invert: bool, margin: bool = False) -> np.ndarray:
    """Pixels of an image file as a model takes them: float32 ``[channels, height, width]`` in [0, 1].

    It stands upright by its EXIF orientation; of several frames or pages it is the first. Transparency and colour
    profiles are left out: what counts are the colours that the file holds for each pixel.

    Raises:
        UnusableError: the file is missing, not an image, or has more than 8 bits a channel.
    """
    channels, height, width = shape
    require_file(path)
    try:
        with Image.open(path, formats=formats()) as image:
            require_shallow(path, image)
            image.load()
            converted = image.convert("RGBA") if "transparency" in image.info else image
            converted = upright(image, converted.convert("L" if channels == 1 else "RGB"))
    except UnusableError:
        raise
    except Exception as error:  # of a damaged file, decoders raise anything
        raise UnusableError(f"{shown(path)}: not a readable image: {one_line(error)}") from error
    if invert:
        converted = ImageOps.invert(converted)
    pixels = np.asarray(fitted(converted, width, height, margin=margin), np.float32) / 255
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def shown(text: object) -> str:
    """``text`` as one line can hold it: what has no glyph, as a line break, is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def require_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise UnusableError(f"{shown(path)}: {'no such file' if missing else error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise UnusableError(f"{shown(path)}: expected a file, got {'a folder' if stat.S_ISDIR(mode) else 'a device'}")


def require_exported(path: Path) -> None:
    """Tell what the exporter takes from what it makes."""
    require_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(8 + len(NOT_EXPORTED[0]))
    except OSError as error:
        raise UnusableError(f"{shown(path)}: {error.strerror}") from error
    if head.startswith(NOT_EXPORTED[1]) or head[8:] == NOT_EXPORTED[0]:
        name = str(path)  # one that a terminal may lack could not be pasted
        word = shlex.quote(name) if name.isascii() and name.isprintable() and name[0] != "-" else "FILE"
        raise UnusableError(f"{shown(path)}: not ONNX, export it first: iterand-compress export {word} --onnx")


def require_shallow(path: Path, image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise UnusableError(f"{shown(path)}: more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")


def formats() -> list[str]:
    """What Pillow decodes itself: some formats it only knows by name, and EPS it hands to Ghostscript."""
    Image.init()
    return sorted(set(Image.OPEN) - {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})


def upright(image: Image.Image, converted: Image.Image) -> Image.Image:
    """Turn ``converted`` as the EXIF data of ``image`` say; damaged ones say nothing."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return converted
    turn = TURNS.get(orientation)
    return converted if turn is None else converted.transpose(turn)


def fitted(image: Image.Image, width: int, height: int, *, margin: bool) -> Image.Image:
    """Scale an image so that it covers ``width``×``height``, or with a margin, and cut out the centre."""
    wide, high = width, height
    if margin:
        wide, high = round(width * 256 / 224), round(height * 256 / 224)
    if image.width * high < image.height * wide:
        target = (wide, max(high, round(image.height * wide / image.width)))
    else:
        target = (max(wide, round(image.width * high / image.height)), high)
    image = image.resize(target, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def one_line(error: BaseException) -> str:
    """The first line of an error, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def complain(error: UnusableError) -> None:
    try:
        print(f"error: {error}", file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """What waits to be written shall not fail once more when Python ends, which would change the exit code."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def file_name(text: str) -> Path:
    """A name, for argparse; the empty one would be the working folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("expected the name of a file, got nothing")
    return Path(text)


def count(text: str) -> int:
    """A whole number that is at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def read_batch(paths: list[Path], model: Model, *, invert: bool) -> tuple[list[str], list[np.ndarray]]:
    """Names and pixels of the images that can be read; a line on standard error for each that cannot."""
    names, pixels = [], []
    for path in paths:
        try:
            pixels.append(read_image(path, model.shape, invert=invert, margin=model.margin))
        except UnusableError as error:  # noqa: PERF203  (a bad image must not stop the others)
            complain(error)
        else:
            names.append(str(path))
    return names, pixels


def classify(model: Model, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Classify the images that can be read, batch by batch."""
    results = []
    for start in range(0, len(args.images), args.batch_size):
        names, pixels = read_batch(args.images[start : start + args.batch_size], model, invert=args.invert)
        if not names:
            continue
        probabilities, seconds = model.probabilities(np.stack(pixels), args.repeat)
        for name, row in zip(names, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[: args.top].tolist()
            top = [{"label": model.label(number), "probability": float(row[number])} for number in best]
            results.append({"file": name, **top[0], "top": top, "latency_ms": 1000 * seconds})
    return results


def show(results: list[dict[str, Any]]) -> None:
    """Print a table: a line for each image, and one for each further label of it."""
    rows = [("file", "label", "probability", "latency")]
    for result in results:
        first, *others = [(shown(entry["label"]), f"{entry['probability']:.4f}") for entry in result["top"]]
        rows.append((shown(result["file"]), *first, f"{result['latency_ms']:.3f} ms"))
        rows.extend(("", *other, "") for other in others)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, label, probability, latency in rows:
        print(f"{name:{widths[0]}}  {label:{widths[1]}}  {probability:>{widths[2]}}  {latency}".rstrip())


def main() -> int:
    """Run the command line; a reader that went away ends it quietly, an output that fails in one line."""
    try:
        try:
            return run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            complain(UnusableError(f"standard output: cannot be written: {error.strerror}"))
        return 1


def run() -> int:
    """Do what the arguments say; an `OSError` is one of standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=file_name, help="a file of `iterand-compress export`")
    parser.add_argument(
        "images",
        type=file_name,
        nargs="+",
        metavar="image",
        help="image files that Pillow can read; put -- before names that begin with -",
    )
    parser.add_argument("--top", type=count, default=1, metavar="N", help="labels to print for each image (1)")
    parser.add_argument("--batch-size", type=count, default=16, metavar="N", help="images run at once, at most (16)")
    parser.add_argument("--repeat", type=count, default=3, metavar="N", help="runs of each batch, for the latency (3)")
    parser.add_argument("--threads", type=count, metavar="N", help="threads of onnxruntime; by default it chooses")
    parser.add_argument(
        "--invert", action="store_true", help="for dark ink on light paper, where the model learned light on dark"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in the place of the table")
    args = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and classes that the terminal lacks
    warnings.simplefilter("ignore")  # Pillow's, of large images, and of damaged metadata beside sound pixels
    try:
        results = classify(Model.load(args.model, args.threads or 0), args)
    except UnusableError as error:
        complain(error)
        return 1
    if args.json:
        print(json.dumps({"model": str(args.model), "repeat": args.repeat, "images": results}))
    elif results:
        show(results)
    return 0 if len(results) == len(args.images) else 1


if __name__ == "__main__":
    sys.exit(main())
