"""Sessions of onnxruntime that print nothing, and whose failures are one line. Nothing else opens sessions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime

from ..compress.errors import ExportError

__all__ = ["failing_as", "first_line", "model_source", "open_session", "session_options", "shown"]


def session_options() -> onnxruntime.SessionOptions:
    """The default options of onnxruntime, so that checks run what users run, but without output."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures are raised anyway, warnings are not for the user
    return options


def model_source(path: str | os.PathLike[str]) -> str | bytes:
    """A file as onnx and onnxruntime take it: by its name, or, where that is not UTF-8, by its content."""
    name = os.fspath(path)
    return name if os.fsencode(name) == name.encode(errors="replace") else Path(name).read_bytes()


def open_session(
    model: bytes | str | os.PathLike[str], options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Load a model (serialised, or a path) on the CPU, with these options, or `session_options`.

    Raises:
        ExportError: onnxruntime refuses it; the message is its reason alone.
    """
    with failing_as(""):
        source = model if isinstance(model, bytes) else model_source(model)
        return onnxruntime.InferenceSession(source, options or session_options(), providers=["CPUExecutionProvider"])


@contextmanager
def failing_as(problem: str) -> Iterator[None]:
    """Whatever onnx or onnxruntime raise in the block becomes an `ExportError`: ``problem``, and its first line."""
    try:
        yield
    except Exception as error:  # their exceptions have no common base class
        raise ExportError(f"{problem}{first_line(error)}") from error


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of an error of a C++ library, without colours and source locations."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.strip())
    text = re.sub(r"^/\S+:\d+:? .*?\) (?=[A-Z])", "", text)  # "/src/x.cc:46 void f(const Model&, bool) Reason"
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown(value: object, limit: int = 60) -> str:
    """What a user gave, as the end of a message: its ``repr`` on one line, cut off."""
    return " ".join(repr(value).split())[:limit]
