"""Recognise the kind of a file by its content, and refuse a wrong kind with advice on what to do with it."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from ..errors import CheckpointError, ConfigError, SeedMaskError
from .names import shell_word

__all__ = ["NO_SEED", "OLD_TORCH", "WHAT", "ZIP", "check_ending", "check_kind", "content_kind", "kind_of"]

_SEEDMASK = b'{"__metadata__":{"seedmask":'  # every header of ours begins so
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # protobuf tags that may follow the version in a model

_PLAIN = " without seed and masks"
#: Names of the kinds in messages.
WHAT = {
    "seedmask": "a .seedmask file",
    "torch": "a file of torch.save",
    "onnx": "an ONNX file",
    "safetensors": f"a safetensors file{_PLAIN}",
    "png": "a PNG picture",
}
ZIP = b"PK\x03\x04"
#: What torch.save wrote before its zip archives.
OLD_TORCH = b"\x80\x02\x8a\n"
_PNG = b"\x89PNG\r\n\x1a\n"
#: Endings of each kind that is written, the usual one first.
_ENDINGS = {
    "seedmask": (".seedmask",),
    "torch": (".ckpt", ".pt", ".pth", ".tar"),  # PyTorch's tutorials name checkpoints .tar and .pth.tar
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "png": (".png",),
}
#: Endings that promise something that is never written.
_OTHER_FORMATS = {
    **dict.fromkeys((".tflite", ".lite"), "TensorFlow Lite"),
    **dict.fromkeys((".pb", ".h5", ".hdf5", ".keras"), "TensorFlow"),
    **dict.fromkeys((".mlmodel", ".mlpackage"), "Core ML"),
    **dict.fromkeys((".engine", ".plan", ".trt"), "TensorRT"),
    **dict.fromkeys((".pt2", ".pte", ".ptl", ".torchscript"), "a program of PyTorch"),
    **dict.fromkeys((".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf"), "another kind of picture"),
    **dict.fromkeys((".json", ".jsonl", ".csv", ".toml", ".yaml", ".yml", ".txt", ".md", ".py", ".c", ".h"), "text"),
    **dict.fromkeys((".npy", ".npz"), "NumPy arrays"),
    **dict.fromkeys((".zip", ".gz", ".xz", ".zst"), "an archive"),
    ".ort": "the ORT format of onnxruntime",
    ".xml": "OpenVINO",
    ".gguf": "GGUF",
}
#: What to do with trained weights.
NO_SEED = (
    "only a network whose weights come from a seed can be packed, one that 'iterand-compress train' or Subnetwork() "
    "has made and trained from new; weights that are trained already go to ONNX as they are, with export_onnx() in "
    "Python"
)
_ADVICE = {
    "seedmask": "it is packed already: iterand-compress inspect {path}",
    "torch": "if it is a checkpoint, pack it first: iterand-compress pack {path}",
    "png": "give the file that it was drawn of",
    "onnx": "verify, eval and predict take it if its name ends in .onnx; else give the file that it was exported from",
    "safetensors": NO_SEED,
}


def kind_of(path: Path) -> str | None:
    """``seedmask``, ``torch``, ``onnx``, ``safetensors`` or ``png``, by content; ``None`` for all else, and if it is no
    file.
    """
    try:
        return content_kind(path)
    except OSError:
        return None


def content_kind(path: Path) -> str | None:
    """`kind_of` a file that is there.

    Raises:
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        head = file.read(8 + len(_SEEDMASK))
    if head.startswith(ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (ValueError, zipfile.BadZipFile):
            return None
        return "torch" if any(name.endswith("/data.pkl") for name in names) else None
    if head.startswith(OLD_TORCH):
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "seedmask" if head[8:] == _SEEDMASK else "safetensors"
    if head[:8] == _PNG:
        return "png"
    if head[:1] == b"\x08" and len(head) > 2 and head[1] < 64 and head[2] in _ONNX_FIELDS:
        return "onnx"
    return None


def check_ending(path: str | os.PathLike[str], kind: str) -> None:
    """Refuse an output whose ending promises another format. No ending, and an unknown one, promise nothing.

    Args:
        path: the output.
        kind: what will be written, as `kind_of` names it.

    Raises:
        ConfigError: the ending is that of another kind, or of a format that is never written.
    """
    name = os.fspath(path)
    ending = Path(name).suffix.lower()
    of_kind = next((other for other, endings in _ENDINGS.items() if ending in endings), None)
    promised = WHAT[of_kind] if of_kind else _OTHER_FORMATS.get(ending)
    if of_kind == kind or promised is None:
        return
    raise ConfigError(
        f"{name}: the ending {ending} promises {promised.removesuffix(_PLAIN)}, and this will be "
        f"{WHAT[kind].removesuffix(_PLAIN)}: name it {Path(name).stem}{_ENDINGS[kind][0]}"
    )


def check_kind(path: Path, expected: str) -> None:
    """Refuse a file that is known to be of another kind, before it is read.

    Args:
        path: the file.
        expected: a kind, ``seedmask`` or ``torch``.

    Raises:
        SeedMaskError: a ``.seedmask`` file was expected; safetensors files are left to its reader, which says more.
        CheckpointError: a checkpoint was expected.
    """
    kind = kind_of(path)
    if kind in (None, expected) or (kind, expected) == ("safetensors", "seedmask"):
        return
    wanted = {"seedmask": "a .seedmask file", "torch": "a checkpoint"}[expected]
    error = {"seedmask": SeedMaskError, "torch": CheckpointError}[expected]
    raise error(f"{path}: {WHAT[kind]}, not {wanted}; {_ADVICE[kind].format(path=shell_word(path))}")
