"""The manifest: one canonical JSON text that determines every byte of a file outside the payloads."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from ..errors import ConfigError, SeedMaskError
from ..inputs import AnyInput, TextInput, read_input
from ..seed.codebooks import CODEBOOKS, get_codebook
from ..seed.frozen import Frozen, check_frozen_weights
from .codings import check_coding
from .container import Slots
from .json_text import DAMAGED, canonical_json, located, parse_json
from .log import LOG_KINDS
from .network import JsonScalar, check_names, check_scale, check_settings
from .stored import ITEM_SIZE, check_shape, data_bytes
from .tensor_recovery import combined_digest
from .trained import VALUE_DTYPES, rows_of

__all__ = [
    "COMPACT",
    "CONSTANTS",
    "FORMAT_VERSION",
    "GENERATORS",
    "Manifest",
    "TensorEntry",
    "build_manifest",
    "check_meaning",
    "parse_manifest",
    "parse_stub",
]

FORMAT_VERSION = 1
#: The feature of files whose manifest is a directory.
COMPACT = "compact"
#: The feature of files with state tensors of one value.
CONSTANTS = "constants"
#: Features that a file may require of its reader: what came after the first release of the format.
FEATURES = frozenset({"coats", COMPACT, CONSTANTS, "deltas", "frozen", "gaps", "rans", "text", "values"})
GENERATORS = ("philox4x32-10",)
UPDATE = "update: pip install --upgrade iterand-compress"
NO_DIGEST = "0" * 64


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _SparseEntry(_Entry):
    """An entry whose fields of the value ``None`` are absent."""

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {key: value for key, value in serialise(self).items() if value is not None}


class MaskEntry(_Entry):
    """How the mask of a tensor, or of its free weights, is stored: the coding, and the size of the payload in bytes."""

    coding: str
    bytes: int = Field(ge=0)


class LogEntry(_Entry):
    """How the resampling log of a tensor is stored; ``width`` is the bits of a value before coding."""

    kind: str
    coding: str
    width: int = Field(ge=0, le=8)
    bytes: int = Field(ge=0)


class FrozenEntry(_Entry):
    """Thresholds of the weights that the generator fixes (see `Frozen`), and how many weights it leaves free."""

    pruned: int
    kept: int
    free: int = Field(ge=0)

    @property
    def thresholds(self) -> Frozen:
        """The thresholds alone."""
        return Frozen(self.pruned, self.kept)


class CoatsEntry(_Entry):
    """How the multiplicities of a tensor (``coats`` in the file format) are stored; ``width`` is a value's bits."""

    coding: str
    width: int = Field(ge=1, le=7)
    bytes: int = Field(ge=0)


class ValuesEntry(_Entry):
    """How the trained values of a tensor are stored."""

    dtype: str
    coding: str
    bytes: int = Field(ge=0)


class TensorEntry(_SparseEntry):
    """One masked tensor; its index in the manifest is the tensor word of its random numbers.

    Fields that may be absent are ``None`` then: the seed fixes no bit of the mask, all multiplicities are 1, values are
    not trained, the file is compact and has no digest of each tensor.
    """

    name: str
    shape: tuple[int, ...] = Field(strict=False)
    codebook: str
    scale: str = Field(pattern="^[0-9a-f]{8}$")
    kept: int = Field(ge=0)
    mask: MaskEntry
    log: LogEntry
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    frozen: FrozenEntry | None = None
    coats: CoatsEntry | None = None
    values: ValuesEntry | None = None

    @property
    def weights(self) -> int:
        """Number of weights, kept or pruned."""
        return math.prod(self.shape)

    @property
    def mask_values(self) -> int:
        """Number of weights whose mask bit is stored."""
        return self.weights if self.frozen is None else self.frozen.free

    @property
    def coat_bits(self) -> int:
        """Bits of the payload of multiplicities."""
        return 0 if self.coats is None else 8 * self.coats.bytes

    @property
    def scale_bits(self) -> int:
        """Bits of the scales of trained values."""
        return 32 * rows_of(self.shape) if self.values is not None and self.values.dtype == "I8" else 0

    @property
    def value_bits(self) -> int:
        """Bits of trained values and their scales."""
        return 0 if self.values is None else 8 * self.values.bytes + self.scale_bits

    @property
    def features(self) -> set[str]:
        """What a reader must know to recover the tensor."""
        sections = (self.mask, self.log, self.coats, self.values)
        used = {section.coding for section in sections if section is not None} | {self.log.kind}
        used |= {name for name in ("frozen", "coats", "values") if getattr(self, name) is not None}
        return used & FEATURES

    def slots(self) -> Slots:
        """The safetensors entries of its payloads."""
        slots: dict[str, tuple[str, tuple[int, ...]]] = {f"mask/{self.name}": ("U8", (self.mask.bytes,))}
        if self.log.kind != "none":
            slots[f"log/{self.name}"] = ("U8", (self.log.bytes,))
        if self.coats is not None:
            slots[f"coats/{self.name}"] = ("U8", (self.coats.bytes,))
        if self.values is not None and self.values.dtype == "I8":
            slots[f"values/{self.name}"] = ("U8", (self.values.bytes,))
            slots[f"scales/{self.name}"] = ("F32", (rows_of(self.shape),))
        elif self.values is not None:
            slots[f"values/{self.name}"] = (self.values.dtype, (self.kept,))
        return slots

    @property
    def scale_value(self) -> np.float32:
        """The scale that the hexadecimal digits stand for."""
        value: np.float32 = np.float32(struct.unpack(">f", bytes.fromhex(self.scale))[0])
        return value


def _read_input(value: Any) -> AnyInput | None:
    if value is None or isinstance(value, AnyInput):
        return value
    try:
        return read_input(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _input_values(value: AnyInput | None) -> dict[str, Any] | None:
    return None if value is None else value.to_dict()


class StateEntry(_SparseEntry):
    """One tensor that is stored as it is, or by the one value that all its items have, most significant byte first."""

    name: str
    dtype: str
    shape: tuple[int, ...] = Field(strict=False)
    value: str | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensor."""
        return data_bytes(self.dtype, self.shape)

    @property
    def stored_bytes(self) -> int:
        """Size of what the file holds of it."""
        return self.bytes if self.value is None else ITEM_SIZE[self.dtype]


class Digests(_Entry):
    """SHA-256 digests in hexadecimal; see docs/FORMAT.md for what each one covers.

    Of a compact file that of the payload covers the manifest, too, which then has none of its own.
    """

    payload: str = Field(pattern="^[0-9a-f]{64}$")
    weights: str = Field(pattern="^[0-9a-f]{64}$")
    manifest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class Manifest(_Entry):
    """The manifest of format version 1, in whichever form the file holds it; field by field in docs/FORMAT.md."""

    format_version: int
    required_features: tuple[str, ...] = Field(strict=False)
    generator: str
    seed: str = Field(pattern="^[0-9a-f]{16}$")
    tensors: tuple[TensorEntry, ...] = Field(strict=False, min_length=1)
    state: tuple[StateEntry, ...] = Field(strict=False)
    architecture: dict[str, JsonScalar] | None
    input: Annotated[AnyInput | None, PlainValidator(_read_input), PlainSerializer(_input_values)]
    classes: tuple[str, ...] | None = Field(strict=False)
    recipe: dict[str, JsonValue] | None
    digests: Digests

    @property
    def form(self) -> str:
        """``compact`` if the file holds a directory, ``json`` if it holds the canonical JSON."""
        return COMPACT if COMPACT in self.required_features else "json"

    @property
    def expanded(self) -> int:
        """Number of weights, and one for each 4 bytes of the tensors of one value: what a reader has to limit."""
        constants = sum(-(-entry.bytes // 4) for entry in self.state if entry.value is not None)
        return sum(tensor.weights for tensor in self.tensors) + constants

    def to_text(self) -> str:
        """The canonical JSON of the manifest."""
        return canonical_json(self.model_dump(mode="json"))

    def slots(self) -> Slots:
        """The safetensors entries of the file: payloads as U8, and the state."""
        slots: dict[str, tuple[str, tuple[int, ...]]] = {}
        for tensor in self.tensors:
            slots |= tensor.slots()
        for entry in self.state:
            if entry.value is None:
                slots[f"state/{entry.name}"] = (entry.dtype, entry.shape)
        return slots


def required_features(manifest: Manifest, form: str) -> list[str]:
    """The features that the entries use, ``text`` for a network that takes texts, and the form; sorted."""
    used = {feature for entry in manifest.tensors for feature in entry.features}
    used |= {"text"} if isinstance(manifest.input, TextInput) else set()
    used |= {CONSTANTS} if any(entry.value is not None for entry in manifest.state) else set()
    return sorted(used | {form} & FEATURES)


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its own digest filled in."""
    blank = manifest.model_copy(update={"digests": manifest.digests.model_copy(update={"manifest": NO_DIGEST})})
    digest = hashlib.sha256(blank.to_text().encode("ascii")).hexdigest()
    return manifest.model_copy(update={"digests": blank.digests.model_copy(update={"manifest": digest})})


def build_manifest(fields: dict[str, Any]) -> Manifest:
    """Validate fields by their types.

    Raises:
        SeedMaskError: a field is absent, unknown, or of another type; the message names it.
    """
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ascii(".".join(str(section) for section in problem["loc"]))[1:-1]  # may be text of the file
        message = problem["msg"].removeprefix("Value error, ")
        raise SeedMaskError(f"manifest: {where[:120]}: {message}, got {str(problem['input'])[:80]!a}") from None


def parse_manifest(text: str, max_weights: int) -> Manifest:
    """Parse and check a manifest, version and features first: a newer file is called newer, not damaged.

    Raises:
        SeedMaskError: the file is too new, damaged, or describes something impossible.
    """
    fields = parse_stub(text)
    if not text.isascii() or canonical_json(fields) != text:
        raise SeedMaskError(f"manifest: expected canonical JSON (sorted keys, no spaces, ASCII); {DAMAGED}")
    manifest = build_manifest(fields)
    if manifest.digests.manifest is None or any(tensor.sha256 is None for tensor in manifest.tensors):
        what = "expected digests of the manifest and of each tensor, got none of one"
        raise SeedMaskError(f"manifest: {what}; {DAMAGED}")
    if manifest.to_text() != text:  # an integer where a float belongs, for instance
        raise SeedMaskError(f"manifest: a value is not in its canonical form; {DAMAGED}")
    expected = sealed(manifest).digests.manifest
    if manifest.digests.manifest != expected:
        got = manifest.digests.manifest
        raise SeedMaskError(f"manifest digest: expected {expected}, got {got}; {DAMAGED}")
    check_meaning(manifest, max_weights)
    expected = combined_digest(tensor.sha256 or "" for tensor in manifest.tensors)
    if manifest.digests.weights != expected:
        raise SeedMaskError(f"weights digest: expected {expected}, got {manifest.digests.weights}; {DAMAGED}")
    return manifest


def parse_stub(text: str) -> dict[str, Any]:
    """Parse a manifest, or the stub of it that a compact file has, as far as every version promises to keep it.

    Returns:
        The JSON object, whose version is known and whose ``required_features`` is a list of known names.

    Raises:
        SeedMaskError: it is no JSON object, or the file is too new.
    """
    fields = parse_json(text, "manifest")
    _check_version(fields)
    return fields


def _check_version(fields: dict[str, Any]) -> None:
    version, features = fields.get("format_version"), fields.get("required_features")
    if type(version) is not int or version < 1:
        raise SeedMaskError(f"manifest: expected a format_version of 1 or more, got {version!a}; {DAMAGED}")
    if version > FORMAT_VERSION:
        raise SeedMaskError(
            f"format version {version} was made by a newer iterand-compress; "
            f"this one reads up to {FORMAT_VERSION}; {UPDATE}"
        )
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise SeedMaskError(f"manifest: expected required_features as a list of names; {DAMAGED}")
    unknown = [feature for feature in features if feature not in FEATURES]
    if unknown:
        raise SeedMaskError(f"the file requires the feature {unknown[0][:80]!a}, which this version lacks; {UPDATE}")


def check_meaning(manifest: Manifest, max_weights: int) -> None:
    """Refuse a manifest that cannot be, whatever the form that it was read from.

    Raises:
        SeedMaskError: the first field that is impossible, or more weights than allowed.
    """
    if manifest.generator not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise SeedMaskError(f"unknown generator {manifest.generator[:80]!a}; known: {known}; {UPDATE}")
    check_names([tensor.name for tensor in manifest.tensors], [entry.name for entry in manifest.state])
    check_settings(manifest.architecture, manifest.classes, manifest.recipe)
    for tensor in manifest.tensors:
        with located(f"tensor {tensor.name!r}"):
            _check_tensor(tensor)
    features = required_features(manifest, manifest.form)
    if list(manifest.required_features) != features:
        raise SeedMaskError(
            f"manifest: expected required_features {features}, got {list(manifest.required_features)}; {DAMAGED}"
        )
    names = [entry.name for entry in manifest.state]
    if names != sorted(names):
        raise SeedMaskError(f"state: expected entries sorted by name, got {names[:3]}; {DAMAGED}")
    for entry in manifest.state:
        if entry.dtype not in ITEM_SIZE:
            raise SeedMaskError(f"state {entry.name!r}: unknown dtype {entry.dtype[:80]!a}; {UPDATE}")
        check_shape(entry.shape, f"state {entry.name!r}", least=0)
        if entry.value is not None:
            with located(f"state {entry.name!r}"):
                _check_value(entry, entry.value)
    total = manifest.expanded
    if total > max_weights:
        constants = " (4 bytes of a tensor of one value count as one)" * (CONSTANTS in features)
        raise SeedMaskError(
            f"expected at most {max_weights} weights{constants}, got {total}; "
            f"raise max_weights (--max-weights {total}) if you trust the file"
        )


def _check_value(entry: StateEntry, value: str) -> None:
    digits = 2 * ITEM_SIZE[entry.dtype]
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise SeedMaskError(f"value: expected {digits} hexadecimal digits, got {value[:80]!a}; {DAMAGED}")
    if math.prod(entry.shape) < 2:
        raise SeedMaskError(f"value: expected it of a tensor of 2 items or more, got {list(entry.shape)}; {DAMAGED}")
    if entry.dtype == "BOOL" and int(value, 16) > 1:
        raise SeedMaskError(f"value: expected 00 or 01 in a BOOL tensor, got {value}; {DAMAGED}")


def _check_tensor(tensor: TensorEntry) -> None:
    check_shape(tensor.shape, "shape", least=1)
    if tensor.codebook not in CODEBOOKS:
        known = ", ".join(CODEBOOKS)
        raise SeedMaskError(f"unknown codebook {tensor.codebook[:80]!a}; known: {known}; {UPDATE}")
    book = get_codebook(tensor.codebook)
    check_scale(tensor.scale_value, book, "scale", multiplied=tensor.coats is not None)
    if tensor.kept > tensor.weights:
        raise SeedMaskError(f"expected at most {tensor.weights} kept weights, got {tensor.kept}; {DAMAGED}")
    check_coding(tensor.mask.coding)
    _check_log(tensor.log, tensor.codebook)
    if tensor.frozen is not None:
        check_frozen_weights(tensor.weights)
        Frozen(tensor.frozen.pruned, tensor.frozen.kept)  # refuses thresholds that cannot be
        if tensor.frozen.free > tensor.weights:
            raise SeedMaskError(
                f"frozen: expected at most {tensor.weights} free weights, got {tensor.frozen.free}; {DAMAGED}"
            )
    if tensor.coats is not None:
        check_coding(tensor.coats.coding)
        if not book.two_valued:
            raise SeedMaskError(f"coats: expected a two-valued codebook, got {tensor.codebook!r}; {DAMAGED}")
    if tensor.values is not None:
        _check_values(tensor, tensor.values)


def _check_values(tensor: TensorEntry, values: ValuesEntry) -> None:
    if values.dtype not in VALUE_DTYPES:
        known = ", ".join(VALUE_DTYPES)
        raise SeedMaskError(f"values: unknown dtype {values.dtype[:80]!a}; known: {known}; {UPDATE}")
    check_coding(values.coding)
    if tensor.log.kind != "none" or tensor.coats is not None:
        raise SeedMaskError(f"values: expected neither log nor coats beside them, got one; {DAMAGED}")
    if values.dtype == "I8":
        return
    expected = tensor.kept * VALUE_DTYPES[values.dtype].itemsize
    if values.coding != "raw" or values.bytes != expected:
        raise SeedMaskError(
            f"values: expected {expected} bytes of coding raw for {tensor.kept} kept weights in {values.dtype}, "
            f"got {values.bytes} of {values.coding}; {DAMAGED}"
        )


def _check_log(log: LogEntry, codebook: str) -> None:
    check_coding(log.coding)
    if log.kind not in LOG_KINDS:
        raise SeedMaskError(f"unknown log kind {log.kind[:80]!a}; known: {', '.join(LOG_KINDS)}; {UPDATE}")
    widths = {"none": range(1), "flips": range(1, 2), "draws": range(1, 9), "deltas": range(1, 9)}[log.kind]
    if log.width not in widths:
        raise SeedMaskError(f"log {log.kind!r}: expected a width in {list(widths)}, got {log.width}; {DAMAGED}")
    if log.kind == "none" and (log.bytes or log.coding != "raw"):
        raise SeedMaskError(f"log 'none': expected an empty raw payload, got {log.bytes} bytes; {DAMAGED}")
    two_valued = get_codebook(codebook).two_valued
    if log.kind == "flips" and not two_valued:
        raise SeedMaskError(f"log 'flips': expected a two-valued codebook, got {codebook!r}; {DAMAGED}")
    if log.kind == "deltas" and two_valued:
        raise SeedMaskError(f"log 'deltas': expected a codebook of many values, got {codebook!r}; {DAMAGED}")
