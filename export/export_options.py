"""The options of an exported file, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from ..compress.errors import ConfigError, did_you_mean
from .opsets import BASE_OPSET, check_versions
from .session import shown

__all__ = ["AUTO", "FLOAT16", "FORMS", "RUNTIMES", "ExportOptions"]

FORMS = ("dense", "packed", "int8", "seeded")
"""In the order in which ties of size are resolved."""
FLOAT16 = "float16"
"""Not among these, as its weights are rounded."""
AUTO = "auto"
RUNTIMES = {
    "onnxruntime": FORMS,
    "onnxruntime-web": FORMS,
    "openvino": ("dense", "packed", "int8"),
    "other": ("dense", "int8"),
}
"""The forms that give right results on a runtime. OpenVINO computes 64-bit integers in 32 bits, so it cannot expand
``seeded``; ``other`` stands for runtimes that know only the common operators."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of an exported file; `export_onnx` documents each of them.

    Raises:
        ConfigError: a choice that does not exist, or that does not go with another.
    """

    form: str = "dense"
    runtime: str = "onnxruntime"
    normalize: bool = True
    softmax: bool = False
    opset: int = BASE_OPSET
    ir_version: int | None = None
    keep_quantized: bool = False
    inline: bool = False
    shrink: bool = False

    def __post_init__(self) -> None:
        for name, known in (("form", (*FORMS, FLOAT16, AUTO)), ("runtime", tuple(RUNTIMES))):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                hint = did_you_mean(value, known) if isinstance(value, str) else ""
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {shown(value)}{hint}")
        for name in ("opset", "ir_version"):
            if type(value := getattr(self, name)) is not int and (name, value) != ("ir_version", None):
                raise ConfigError(f"{name}: expected a whole number, got {shown(value)}")
        if self.form not in (AUTO, FLOAT16, *RUNTIMES[self.runtime]):
            raise ConfigError(
                f"form {self.form} is not right on {self.runtime}: expected one of {', '.join(RUNTIMES[self.runtime])}"
            )
        if self.keep_quantized and self.form != "int8":
            raise ConfigError(f"keep-quantized belongs to form int8, got form {self.form}")
        if self.keep_quantized and self.runtime == "openvino":
            raise ConfigError("keep-quantized is not right on openvino, which rounds activations to int8; leave it out")
        check_versions(self.opset, self.ir_version)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The forms to try; the smallest is written."""
        return RUNTIMES[self.runtime] if self.form == AUTO else (self.form,)

    @property
    def plain(self) -> bool:
        """Whether the form holds any numbers, not only masked weights."""
        return self.form in ("dense", FLOAT16)

    @property
    def inlined(self) -> bool:
        """Whether functions are written out: on request, and for OpenVINO, which does not know any."""
        return self.inline or self.runtime == "openvino"
