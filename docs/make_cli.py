"""Writes docs/CLI.md from the help texts: ``python docs/make_cli.py``. A test compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from iterand_compress.cli.app import cli

HEADER = """# Command line

Made from `--help` by `docs/make_cli.py`; do not edit by hand.

Exit codes: 0 done; 1 a damaged file, bad data, or work that failed; 2 a request that makes no sense; 130 stopped.
Failures print one line on standard error. Nothing is overwritten before the new file is whole.
"""


def reference() -> str:
    """The whole page."""
    settings: dict[str, Any] = {"max_content_width": 100, "terminal_width": 100}
    top = click.Context(cli, info_name="iterand-compress", **{**cli.context_settings, **settings})
    parts = [HEADER, f"```\n{cli.get_help(top)}\n```\n"]
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=top, **settings)
        parts.append(f"## {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("CLI.md").write_text(reference(), encoding="utf-8")
