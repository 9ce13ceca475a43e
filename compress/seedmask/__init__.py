"""The ``.seedmask`` file: write, read, recover. Specified in docs/FORMAT.md. Never imports torch."""

from ..files.atomic import atomic_path, check_output
from .container import write_safetensors
from .free_bits import Frozen, frozen_masks
from .layer_report import LayerReport
from .log import ResamplingLog
from .manifest import FORMAT_VERSION, Manifest, TensorEntry
from .network import InputSpec, JsonScalar, MaskedTensor, Network, TextInput
from .reader import MAX_WEIGHTS, default_max_weights, loads, read_seedmask
from .seedmask import SeedMask
from .stored import StoredTensor
from .trained import Trained, quantise
from .unpack import write_masks, write_weights
from .writer import PackReport, dumps, write_seedmask

__all__ = [
    "FORMAT_VERSION",
    "MAX_WEIGHTS",
    "Frozen",
    "InputSpec",
    "JsonScalar",
    "LayerReport",
    "Manifest",
    "MaskedTensor",
    "Network",
    "PackReport",
    "ResamplingLog",
    "SeedMask",
    "StoredTensor",
    "TensorEntry",
    "TextInput",
    "Trained",
    "atomic_path",
    "check_output",
    "default_max_weights",
    "dumps",
    "frozen_masks",
    "loads",
    "quantise",
    "read_seedmask",
    "write_masks",
    "write_safetensors",
    "write_seedmask",
    "write_weights",
]
