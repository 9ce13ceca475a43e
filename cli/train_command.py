"""``iterand-compress train``."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.errors import ConfigError, IterandError, did_you_mean
from .options import (
    METHOD_CHOICES,
    FilePath,
    NamedChoice,
    data_options,
    device_option,
    json_option,
    max_weights_option,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..compress.config import Recipe
    from ..compress.training.distributed import Group

__all__ = ["RUN_SETTINGS", "command", "recipe_changes"]

# Headings of --help, and the options under each; all others come last.
_HEADINGS = {
    "Settings": ("recipe", "ticket", "settings"),
    "What is learned": ("data", "data_dir", "download", "model__name", "model__width"),
    "How the weights come to be": ("subnetwork__method", "subnetwork__sparsity", "subnetwork__seed"),
    "How the search runs": ("train__epochs", "train__batch_size", "train__lr"),
    "Run": ("out", "resume", "force", "device", "compile_mode", "accumulate", "profile"),
}
# Settings of a run that no recipe has, since they belong to a machine: `--set run.KEY=VALUE`.
_OF_RUN = "run."
RUN_SETTINGS: dict[str, click.ParamType[Any]] = {
    "channels_last": click.BOOL,
    "checkpoint_every": click.IntRange(min=0),
    "peer_timeout": click.FLOAT,
    "tensorboard": FilePath,
}


class _Command(click.Command):
    """Shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = {param.name: param for param in self.get_params(ctx)}
        under = {heading: [params.pop(name) for name in names] for heading, names in _HEADINGS.items()}
        for heading, shown in {**under, "Other": list(params.values())}.items():
            with formatter.section(heading):
                formatter.write_dl([record for param in shown if (record := param.get_help_record(ctx)) is not None])


@click.command(
    "train",
    cls=_Command,
    short_help="Search for a subnetwork and leave a checkpoint.",
    epilog="Example: iterand-compress train --recipe cifar10-conv6 --data-dir data --width 0.25 --out conv6.ckpt",
)
@click.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    show_default="digits; photos or digits, by their size, for a folder of images; text for texts",
    help="Settings to start from; options override them. `iterand-compress recipes` lists them.",
)
@click.option(
    "--ticket",
    type=FilePath,
    metavar="FILE.seedmask",
    help="Take the masks of a file instead of searching for them; without --recipe, settings start from its recipe.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting, for instance data.crop=shift, train.weight_decay=1e-4, subnetwork.resample.every=50, "
    "or subnetwork.recycle=none to remove a section; `iterand-compress recipes digits` shows all keys. Of this run: "
    "run.checkpoint_every=STEPS, run.tensorboard=DIR, run.channels_last=true|false, run.peer_timeout=SECONDS.",
)
@data_options
@click.option(
    "--model",
    "model__name",
    metavar="NAME",
    show_default="digits: digits-cnn",
    help="Built-in name (`iterand-compress models` lists them), torchvision:NAME, or package.module:factory.",
)
@click.option(
    "--width", "model__width", type=float, show_default="digits: 1.0", help="Factor on the number of channels."
)
@click.option(
    "--method",
    "subnetwork__method",
    type=NamedChoice(METHOD_CHOICES),
    metavar="NAME",
    show_default="digits: iterand",
    help="Trains a mask: iterand, edge-popup, recycling, biprop, biprop-recycling, signed-supermask. Prunes first, "
    "then trains weights: magnitude, random, snip, grasp, synflow. Trains all weights: dense.",
)
@click.option(
    "--sparsity",
    "subnetwork__sparsity",
    type=float,
    show_default="digits: 0.5",
    help="Fraction of the weights that is pruned, in [0, 1).",
)
@click.option(
    "--seed", "subnetwork__seed", type=int, show_default="digits: 0", help="Seed of everything random, 64 bits."
)
@click.option(
    "--epochs", "train__epochs", type=int, show_default="digits: 30", help="Passes over the training examples."
)
@click.option(
    "--batch-size",
    "train__batch_size",
    type=int,
    show_default="digits: 64",
    help="Examples per step, of all processes together.",
)
@click.option("--lr", "train__lr", type=float, show_default="digits: 0.1", help="Peak learning rate.")
@click.option("--out", type=FilePath, default=Path("model.ckpt"), show_default=True, help="The checkpoint.")
@click.option("--resume", is_flag=True, help="Go on from --out, exactly where it stopped.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@device_option
@click.option(
    "--compile",
    "compile_mode",
    is_flag=False,
    flag_value="default",
    metavar="[MODE]",
    help="Run the network through torch.compile; MODE reduce-overhead uses CUDA graphs.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Compute each batch in N micro-batches, one after the other, to need less memory.",
)
@click.option("--profile", is_flag=True, help="Trace some steps, and print where their time goes.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@json_option
@max_weights_option
def command(
    recipe: str | None,
    ticket: Path | None,
    data: str | None,
    data_dir: Path | None,
    download: bool,
    settings: tuple[str, ...],
    out: Path,
    resume: bool,
    force: bool,
    device: str,
    compile_mode: str | None,
    accumulate: int,
    profile: bool,
    quiet: bool,
    max_weights: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Search for the subnetwork of a random network that does the job.

    Without options: IteRand on the bundled digits. Progress goes to the terminal and to a .metrics.jsonl beside the
    checkpoint. Ctrl-C saves the run; --resume continues it.

    Several GPUs, or machines: torchrun --nproc-per-node 4 --no-python iterand-compress train … trains one network in
    four processes, with the same result; --batch-size is that of all of them together.
    """
    # Of several processes, one that loses another says so in a line; torch's log would add pages.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from ..compress.files.names import shell_word
    from ..compress.recover import load_ticket
    from ..compress.training.allocator import keep_freed_memory
    from ..compress.training.distributed import join
    from ..compress.training.loop import train
    from ..compress.training.recipe import override
    from ..compress.training.run_options import RunOptions, best_path
    from ..compress.training.threads import keep_threads, may_choose_threads
    from .progress import SilentReporter, reporter

    silent = SilentReporter()
    of_run = _run_settings(settings)
    keep_freed_memory()
    group = join(of_run["peer_timeout"])
    try:
        with group.together():
            with group.agreed():
                changes = recipe_changes({**flags, "data": data, "settings": settings})
                if ticket is not None and resume:
                    raise ConfigError(
                        "--ticket with --resume: the masks are in the checkpoint already; leave out --ticket"
                    )
                packed = None if ticket is None else load_ticket(ticket, max_weights=max_weights)
            stored = out if resume else None
            method = changes.get("subnetwork.method")
            base = _base(group, recipe, ticket, packed.recipe if packed else None, data, data_dir, stored, method)
            with group.agreed():
                resolved = override(base, changes)
        with keep_threads():
            result = train(
                resolved,
                RunOptions(
                    out=out,
                    data_dir=data_dir,
                    download=download,
                    device=device,
                    resume=resume,
                    force=force,
                    compile=compile_mode,
                    accumulate=accumulate,
                    profile=profile,
                    inputs=tuple(Path(path) for path in (ticket, data_dir, recipe) if path is not None),
                    # A file never makes us import code: only a name that the user gave may.
                    allow_import=ticket is None or recipe is not None or "model.name" in changes,
                    one_thread_if_small=may_choose_threads(),
                    masks=packed.masks if packed else None,
                    **of_run,
                ),
                silent if quiet or as_json or not group.main else reporter(quiet=False),
            )
    except IterandError as error:
        if group.size > 1:
            # Python would end by waiting for threads that wait for the other processes.
            atexit.register(os._exit, error.exit_code)
        if error.silent:
            raise click.exceptions.Exit(error.exit_code) from None
        raise
    if not group.main:
        return
    best = result.best
    if as_json:
        print_json(
            {
                "checkpoint": str(result.checkpoint),
                "test_correct": result.test.correct,
                "test_images": result.test.images,
                "test_accuracy": result.test.accuracy,
                "best_epoch": best.epoch if best else None,
                "best_val_accuracy": best.accuracy if best else None,
                "examples": dict(silent.info.examples) if silent.info else {},
                "classes": list(silent.info.data.classes) if silent.info else [],
                "split_note": silent.info.split_note if silent.info else "",
                "left_out": dict(silent.info.left_out) if silent.info else {},
            }
        )
    elif not quiet:
        if best:
            shown = (
                f"epoch {best.epoch} of {resolved.train.epochs}, the best by validation ({100 * best.accuracy:.2f} %)"
            )
            click.echo(f"{best_path(out)}: {shown}")
        command = f"pack {shell_word(out)}" if resolved.subnetwork.has_masks else f"export {shell_word(out)} --onnx"
        click.echo(f"{out}: next, iterand-compress {command}")


def _base(
    group: Group,
    recipe: str | None,
    ticket: Path | None,
    ticket_recipe: Recipe | None,
    data: str | None,
    data_dir: Path | None,
    stored: Path | None,
    method: str | None,
) -> Recipe:
    """The recipe that options change: the one that was named, or that of the run to resume, or of the ticket.

    A recipe has settings of its own for dense training.
    """
    from ..compress.data.catalogue import TEXT_DATASETS
    from ..compress.training.prepare import stored_recipe
    from ..compress.training.recipe import DEFAULT_RECIPE, TEXT_RECIPE, load_recipe, recipe_for_folder

    if recipe is None and stored is not None:
        return stored_recipe(stored, group)
    with group.agreed():
        if recipe is None and ticket is None and data == "folder":
            return recipe_for_folder(data_dir, method)
        if recipe is not None or ticket is None:
            name = recipe or (TEXT_RECIPE if data in TEXT_DATASETS else DEFAULT_RECIPE)
            return load_recipe(name, **({"subnetwork": {"method": method}} if method is not None else {}))
        if ticket_recipe is None:
            raise ConfigError(f"{ticket}: holds no recipe that this version knows; give --recipe")
        return ticket_recipe


def recipe_changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a recipe that options change, as ``{"section.key": value}``.

    Args:
        given: values of the options by the names of their parameters; those that change no recipe may be among them.

    Raises:
        ConfigError: a text of ``--set`` is not ``SECTION.KEY=VALUE``.
    """
    changes = {name.replace("__", "."): value for name, value in given.items() if "__" in name and value is not None}
    if given["data"] is not None:
        changes["data.name"] = given["data"]
    pairs = map(_parse_setting, given["settings"])
    return changes | {key: _value(text) for key, text in pairs if not key.startswith(_OF_RUN)}


def _run_settings(texts: Iterable[str]) -> dict[str, Any]:
    """The fields of `RunOptions` that ``--set run.KEY=VALUE`` gives."""
    values: dict[str, Any] = {"peer_timeout": 600.0}
    for key, text in map(_parse_setting, texts):
        name = key.removeprefix(_OF_RUN)
        if name == key:
            continue
        if name not in RUN_SETTINGS:
            raise ConfigError(f"--set: unknown key {key!r}{did_you_mean(name, RUN_SETTINGS)}")
        try:
            values[name] = RUN_SETTINGS[name].convert(text, None, None)
        except click.BadParameter as error:
            raise ConfigError(f"{key}: {error.message}") from None
    timeout = values["peer_timeout"]
    if not 1 <= timeout <= 1e6:  # nor NaN
        raise ConfigError(f"run.peer_timeout: expected 1 to 1,000,000 seconds, got {timeout:g}")
    return values


def _parse_setting(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or "." not in key:
        raise ConfigError(f"--set: expected SECTION.KEY=VALUE, got {text!r}")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
