"""The group of all commands, and the one place where failures become one line and an exit code.

Exit codes: 0 done, 1 the input is damaged or the work failed, 2 the request makes no sense, 130 stopped.
"""

from __future__ import annotations

import codecs
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from ..compress.errors import DiscardedWeightsWarning, IterandError
from .options import discard_output

__all__ = ["cli", "main"]

_PLAIN = str.maketrans({"×": "x", "→": "->", "–": "-", "…": "...", "±": "+-", "α": "alpha"})

# Command modules import torch inside their functions only, so that --help and inspect stay quick.
_COMMANDS = (
    "train",
    "search",
    "estimate",
    "pack",
    "inspect",
    "verify",
    "recover",
    "diff",
    "ablate",
    "eval",
    "predict",
    "export",
    "theory",
    "recipes",
    "models",
    "doctor",
)


class _Commands(click.Group):
    """Loads a command's module when it is needed, and reports expected failures in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}_command", __package__)
        command: click.Command = module.command
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _print_anything()
        with warnings.catch_warnings():
            warnings.showwarning = _warner(warnings.showwarning)
            return self._main(args, prog_name, complete_var, **extra)

    def _main(self, args: Any, prog_name: str | None, complete_var: str | None, **extra: Any) -> Any:
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except IterandError as error:
            _fail(str(error), error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "iterand-compress"
            _fail(f"{error.format_message()} See '{command} --help'.", 2)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail("stopped", 130)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "torchvision"):
                raise
            _fail(
                f"{error.name} is not installed, and this needs it: pip install torch torchvision; without it, "
                "inspect, verify and recover read .seedmask files, and predict takes an ONNX file, named *.onnx",
                1,
            )
        except MemoryError:
            _fail("out of memory; use a machine with more, or ask for less", 1)
        except OSError as error:
            where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
            if _is_of_output(error):
                discard_output(sys.stdout)
                where = "standard output: cannot be written: "
            _fail(f"{where}{error.strerror or error}; check the disk and the path", 1)
        sys.exit(result if isinstance(result, int) else 0)


def _warner(show: Any) -> Any:
    """What prints a warning: of ours as one line, all others as before."""

    def print_warning(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, DiscardedWeightsWarning):
            click.echo(f"warning: {message}", err=True)
        else:
            show(message, category, *where, **options)

    return print_warning


def _is_of_output(error: OSError) -> bool:
    """Return whether an error without a file name came from printing."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _fail(message: str, code: int) -> None:
    try:
        click.echo("error: " + " ".join(message.split()), err=True)
    except OSError:
        discard_output(sys.stderr)  # or Python ends with another exit code
    sys.exit(code)


def _print_anything() -> None:
    """Replace characters that a terminal lacks, as a message must not fail for them."""
    codecs.register_error("iterand-compress", _substitute)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="iterand-compress")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end].translate(_PLAIN)
    return missing.encode("ascii", "backslashreplace").decode(), error.end


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"iterand-compress {version('iterand-compress')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Turn a neural network into a seed, a mask and a few bits of log, and run it at the edge.

    \b
    iterand-compress train                                  # IteRand on the bundled digits
    iterand-compress pack model.ckpt --out model.seedmask
    iterand-compress export --onnx                          # the one .seedmask in this folder
    """


def main() -> None:
    """Entry point of the console script."""
    cli()
