"""Whether this installation, on this machine, does what it must: versions, devices, and self-tests of its own.

Every import is inside a function, to report what cannot be imported.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..seedmask import Network, SeedMask

__all__ = ["Check", "Diagnosis", "examine"]

#: Distributions whose versions matter to a bug report.
DISTRIBUTIONS = (
    "iterand-compress", "numpy", "torch", "torchvision", "safetensors", "onnx", "onnxruntime", "onnxscript", "pydantic",
    "click", "rich", "scikit-learn", "tensorboard", "matplotlib",
)  # fmt: skip

_GOLDEN_SEED = 0x0123456789ABCDEF
#: SHA-256 that stands for the recovered weights of `_golden_network`, for ever.
_GOLDEN_DIGEST = "8b64447c51620c4839fb83095d1ec06ee616f9a2b333914019f347dbdef5add5"

_WITHOUT_TORCH = "inspect, verify, recover and diff work without it, the other commands do not"


@dataclass(frozen=True)
class Check:
    """A self-test.

    Attributes:
        name: what was tested.
        status: ``ok``, ``failed``, or ``skipped`` because something that it needs is absent.
        detail: the result, or why the test failed or was skipped.
    """

    name: str
    status: Literal["ok", "failed", "skipped"]
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """What this installation is, and whether it works.

    Attributes:
        python: version of Python.
        platform: operating system and processor.
        cpus: processors that Python sees.
        versions: of distributions; ``None`` = not installed.
        devices: that weights can be computed on, by name, with a description.
        checks: the self-tests.
    """

    python: str
    platform: str
    cpus: int
    versions: dict[str, str | None]
    devices: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The self-tests that failed."""
        return tuple(check for check in self.checks if check.status == "failed")


class _SkippedError(Exception):
    """What a self-test needs is absent."""


class _FailedError(Exception):
    """A self-test failed."""


def examine() -> Diagnosis:
    """Collect versions and run all self-tests; never raises because one fails."""
    torch, problem = _import_torch()
    devices = {"cpu": platform.processor() or platform.machine() or "unknown"}
    if torch is not None and torch.cuda.is_available():
        devices |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    tests: list[tuple[str, Callable[[], str]]] = [
        ("random numbers, NumPy", _known_answers_numpy),
        ("codings", _codings),
        ("golden network", _golden),
        ("writing files", _writing),
    ]
    for device in devices:

        def on_device(device: str = device) -> str:
            if torch is None:
                raise _SkippedError(f"torch cannot be used ({problem}): {_WITHOUT_TORCH}")
            return _device(torch.device(device))

        tests.append((f"random numbers, torch on {device}", on_device))
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        cpus=os.cpu_count() or 1,
        versions={name: _version(name) for name in DISTRIBUTIONS},
        devices=devices,
        checks=tuple(_run(name, test) for name, test in tests),
    )


def _run(name: str, test: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", test())
    except _SkippedError as reason:
        return Check(name, "skipped", str(reason))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in a self-test is its result
        message = str(error) if isinstance(error, _FailedError) else f"{type(error).__name__}: {error}"
        return Check(name, "failed", " ".join(message.split())[:300])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _import_torch() -> tuple[ModuleType | None, str]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing or of another machine
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return torch, ""


def _expect(what: str, result: object, expected: object) -> None:
    if result != expected:
        raise _FailedError(f"{what}: expected {expected}, got {result}")


def _known_answers_numpy() -> str:
    import numpy as np

    from ..seed.philox import KNOWN_ANSWERS, philox4x32

    for (block, draw, tensor, purpose), key, words in KNOWN_ANSWERS:
        result = philox4x32(key, np.array([block], np.uint64), draw, tensor, purpose)
        _expect(f"Philox4x32-10 of block {block:#x}", tuple(result[0].tolist()), words)
    return f"{len(KNOWN_ANSWERS)} published vectors of Philox4x32-10"


def _device(device: torch.device) -> str:
    """The generator of torch against the published vectors and NumPy, and the recovery of a file."""
    import torch

    from ..recover import recover_on_device
    from ..seed.philox import KNOWN_ANSWERS
    from ..seed.philox_torch import philox4x32
    from ..seedmask import dumps, loads

    for (block, draw, tensor, purpose), key, words in KNOWN_ANSWERS:
        result = philox4x32(key, torch.tensor([block], device=device), draw, tensor, purpose)
        _expect(f"Philox4x32-10 of block {block:#x}", tuple(int(word) for word in result), words)
    seedmask = loads(dumps(_golden_network()))
    recovered = recover_on_device(seedmask, device)  # raises unless every weight has the bits of NumPy
    for name, weights in seedmask.weights().items():
        _expect(name, recovered[name].cpu().numpy().tobytes() == weights.tobytes(), True)
    count = sum(entry.weights for entry in seedmask.tensors)
    return f"{len(KNOWN_ANSWERS)} published vectors, and {count:,} weights equal to NumPy's bit for bit"


def _golden_network() -> Network:
    """A small network with a tensor of each codebook; masks and draws come from the generator, too."""
    import numpy as np

    from ..seed.codebooks import CODEBOOKS
    from ..seed.philox import Purpose, random_bytes
    from ..seedmask import MaskedTensor, Network, StoredTensor

    def drawn(index: int, count: int, draw: int) -> NDArray[np.uint8]:
        return random_bytes(_GOLDEN_SEED, 0, count, draw=draw, tensor=index, purpose=Purpose.SCORES)

    tensors = []
    for index, codebook in enumerate(CODEBOOKS):
        count = 20_011 + index
        keep = drawn(index, count, 0) < (128, 77, 3)[index]
        redrawn = drawn(index, count, 1)
        draws = np.where(redrawn < 128, redrawn % 5, 0).astype(np.uint8)
        tensors.append(MaskedTensor(f"{codebook}.weight", (count,), codebook, np.float32(0.125), keep, draws))
    state = {"bn.running_mean": StoredTensor.from_numpy(np.array([0.5, -1.25], np.float32))}
    return Network(seed=_GOLDEN_SEED, tensors=tuple(tensors), state=state)


def _golden() -> str:
    """Pack, read, verify and recover; the weights must be those they have always been."""
    from ..seedmask import dumps, loads
    from ..seedmask.codings import CODING_CHOICES

    sizes = []
    for coding in CODING_CHOICES:
        content = dumps(_golden_network(), coding=coding)
        seedmask: SeedMask = loads(content)
        seedmask.verify()
        _expect(f"SHA-256 of the recovered weights (coding {coding})", seedmask.weights_digest, _GOLDEN_DIGEST)
        sizes.append(f"{coding} {len(content):,}")
    return f"packed and recovered, weights sha256 {_GOLDEN_DIGEST[:8]}…; bytes: {', '.join(sizes)}"


def _codings() -> str:
    """Rows of bits and of values through every coding and back."""
    import numpy as np

    from ..seed.philox import random_bytes
    from ..seedmask.bits import Row
    from ..seedmask.codings import CODINGS, decode_rows, encode_rows, plan

    noise = random_bytes(_GOLDEN_SEED, 0, 100_003, draw=0, tensor=0)
    dense, sparse = (Row.pack((noise < ones).view(np.uint8), 1) for ones in (128, 3))
    values = Row.pack(noise >> np.uint8(5), 3)
    for coding in CODINGS:
        rows = [sparse] if coding == "gaps" else [dense, sparse, values]
        coded = encode_rows([plan(row, only=(coding,)) for row in rows], "rans")
        _expect("coding", {payload.coding for payload in coded}, {coding})
        result = decode_rows([(coding, payload) for payload in coded])
        same = [row.packed() == again.packed() for row, again in zip(rows, result, strict=True)]
        _expect(f"rows that came back from coding {coding}", same, [True] * len(rows))
    return f"{', '.join(CODINGS)}: rows of {len(noise):,} values there and back"


def _writing() -> str:
    """A file in the folder for temporary files, whole and with its content."""
    from ..files.atomic import atomic_path

    content = os.urandom(1 << 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe"
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        _expect("content read back is what was written", path.read_bytes() == content, True)
        _expect("files left behind", [name.name for name in Path(folder).iterdir()], ["probe"])
    return f"{tempfile.gettempdir()}: {len(content):,} bytes written and read"
