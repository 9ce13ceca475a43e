"""The command line: thin commands over the library, one file each."""

from .app import main

__all__ = ["main"]
