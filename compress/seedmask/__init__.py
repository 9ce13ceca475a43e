"""The ``.seedmask`` file: write, read, recover. Specified in docs/FORMAT.md. Never imports torch."""

from .layer_report import LayerReport
from .log import ResamplingLog
from .manifest import FORMAT_VERSION, Manifest, TensorEntry
from .network import FILE_FORMS, JsonScalar, MaskedTensor, Network
from .reader import MAX_WEIGHTS, default_max_weights, loads, read_seedmask
from .seedmask import SeedMask
from .stored import StoredTensor
from .trained import Trained, quantise
from .unpack import write_tensors
from .writer import PackReport, dumps, write_seedmask

__all__ = [
    "FILE_FORMS",
    "FORMAT_VERSION",
    "MAX_WEIGHTS",
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
    "Trained",
    "default_max_weights",
    "dumps",
    "loads",
    "quantise",
    "read_seedmask",
    "write_seedmask",
    "write_tensors",
]
