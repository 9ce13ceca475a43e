"""Keep the memory that one step frees for the next one.

A step on a CPU frees and asks for the same hundreds of megabytes again and again. By default, glibc gives large blocks
back to the system each time, which then has to clear every page anew.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library's allocator, for the whole process, to keep what is freed. Returns whether it understood.

    Only programs whose work is training should call it: it changes the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
