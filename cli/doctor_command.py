"""``iterand-compress doctor``."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..compress.errors import IterandError
from .options import json_option, print_json
from .table import print_table

__all__ = ["command"]


@click.command(
    "doctor",
    short_help="Versions, devices, and self-tests of this installation.",
    epilog="Example: iterand-compress doctor --json",
)
@json_option
def command(as_json: bool) -> None:
    """Show what is installed and test what must work: random numbers, codings, a recovery, writing files.

    The random numbers are compared with published vectors, and between NumPy and torch on every device. Exit
    code 1 if a self-test fails. What is absent is said, and is no failure. Put the output in a bug report.
    """
    from ..compress.analysis.doctor import examine

    diagnosis = examine()
    if as_json:
        print_json({**asdict(diagnosis), "ok": not diagnosis.failed})
    else:
        rows = [
            ("Python", diagnosis.python),
            ("platform", diagnosis.platform),
            ("processors", str(diagnosis.cpus)),
            *((name, version or "absent") for name, version in diagnosis.versions.items()),
            *((f"device {name}", text) for name, text in diagnosis.devices.items()),
        ]
        print_table(rows, left=(0, 1))
        click.echo()
        print_table([(check.name, check.status, check.detail) for check in diagnosis.checks], left=(0, 1, 2))
    if diagnosis.failed:
        problems = "; ".join(f"{check.name}: {check.detail}" for check in diagnosis.failed)
        raise IterandError(f"doctor: self-test failed: {problems}")
