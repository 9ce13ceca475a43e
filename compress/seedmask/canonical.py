"""Whether a file is what this packer writes, byte for byte, for the network that it recovers to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .reader import read_seedmask
from .seedmask import SeedMask
from .writer import write_seedmask

__all__ = ["packer_coding"]


def packer_coding(seedmask: SeedMask) -> str | None:
    """Pack the recovered network again and compare, in memory bounded by the largest tensor.

    The new file goes to the folder for temporary files and needs as much space there as the old one.

    Args:
        seedmask: an open file.

    Returns:
        The choice of ``coding`` (``auto`` first) with which this version writes these very bytes. ``None`` if
        there is none: another version or program has written the file, which may still be right.

    Raises:
        SeedMaskError: a payload is damaged.
        IterandError: there is no space for the new file.
    """
    network = seedmask.lazy_network()
    codings = {entry.mask.coding for entry in seedmask.tensors}
    # `raw` writes nothing else, and `rans` never writes a mask raw, so one of them need not be tried.
    choices = ("auto", "raw") if codings == {"raw"} else ("auto",) if "raw" in codings else ("auto", "rans")
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "again.seedmask"
        for coding in choices:
            write_seedmask(network, again, coding=coding)
            # Equal manifests mean equal files: a manifest determines all bytes but the payloads, of which it holds
            # the digest, beside its own.
            result = read_seedmask(again, verify=False, max_weights=seedmask.manifest.expanded)
            if result.manifest == seedmask.manifest:
                return coding
    return None
