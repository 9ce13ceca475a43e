"""What every benchmark says about itself: hardware, versions, and where results go."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["environment", "save"]

PACKAGES = ("iterand-compress", "torch", "torchvision", "numpy", "onnx", "onnxruntime", "safetensors")


def environment() -> dict[str, Any]:
    """Hardware and versions of this machine."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        # Names instead of absolute paths: the folders of one machine mean nothing elsewhere.
        "command": " ".join(Path(word).name if Path(word).is_absolute() else word for word in _command()),
    }


def save(results: dict[str, Any], path: Path | None) -> None:
    """Write results as JSON, if a path was given."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _command() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
