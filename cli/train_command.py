"""``iterand-compress train``."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..compress.errors import ConfigError, IterandError
from .options import FilePath, data_options, device_option, json_option, max_weights_option, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ..compress.config import Recipe
    from ..compress.training.distributed import Group

__all__ = ["command"]

# Flags of single settings: flag, where the setting lives in a recipe, type, help.
_SETTINGS: tuple[tuple[str, str, Any, str], ...] = (
    ("--model", "model.name", str, "Built-in name, torchvision:NAME, or package.module:factory."),
    ("--width", "model.width", float, "Factor on the number of channels."),
    ("--affine/--no-affine", "model.affine", bool, "Trained scales and shifts in BatchNorm or LayerNorm."),
    ("--activation", "model.activation", str, "relu, or binary: ±1."),
    (
        "--method",
        "subnetwork.method",
        str,
        (
            "Subnetworks: iterand, edge-popup, recycling, biprop, biprop-recycling. Pruned first, then trained: "
            "magnitude, random, snip, grasp, synflow. Baseline: dense."
        ),
    ),
    ("--distribution", "subnetwork.distribution", str, "signed-constant, uniform or normal."),
    ("--selection", "subnetwork.selection.rule", str, "Keep the largest signed scores or magnitudes."),
    ("--scope", "subnetwork.selection.scope", str, "layerwise, or global: one threshold for all layers."),
    ("--ramp-epochs", "subnetwork.selection.ramp_epochs", int, "Epochs over which the sparsity rises."),
    ("--score-bound", "subnetwork.selection.score_bound", float, "Scores start uniform on ± this / √fan_in."),
    ("--sparsity", "subnetwork.sparsity", float, "Fraction of weights pruned, in [0, 1)."),
    ("--resample-every", "subnetwork.resample.every", int, "Steps between resampling events (IteRand)."),
    ("--resample-rate", "subnetwork.resample.rate", float, "Chance that an event redraws a pruned weight."),
    ("--draws", "subnetwork.resample.draws", int, "Number of values a weight cycles through, at most 256."),
    ("--recycle-every", "subnetwork.recycle.every", int, "Epochs between recyclings; 0 for none."),
    ("--recycle-rate", "subnetwork.recycle.rate", float, "Share of a layer that is overwritten."),
    ("--recycle-after", "subnetwork.recycle.after", int, "First epoch that may begin with a recycling."),
    ("--binarise/--no-binarise", "subnetwork.binarise", bool, "Kept weights become α·sign(w) (Biprop)."),
    ("--multiplicity", "subnetwork.selection.multiplicity", int, "Number of nested masks."),
    ("--frozen", "subnetwork.selection.frozen", float, "Share of the mask that follows from the seed."),
    ("--frozen-kept", "subnetwork.selection.frozen_kept", float, "Share of the weights that is fixed to kept."),
    ("--scale-fan/--no-scale-fan", "subnetwork.scale_fan", bool, "Scale weights for the inputs that are kept."),
    ("--seed", "subnetwork.seed", int, "Seed of everything random, 64 bits."),
    ("--epochs", "train.epochs", int, "Passes over the training images."),
    ("--batch-size", "train.batch_size", int, "Images per step, of all processes together."),
    ("--optimizer", "train.optimizer", str, "sgd or adam."),
    ("--lr", "train.lr", float, "Peak learning rate."),
    ("--lr-batch", "train.lr_batch", int, "Batch size that --lr is meant for; others scale it."),
    ("--weight-decay", "train.weight_decay", float, "L2 factor."),
    ("--label-smoothing", "train.label_smoothing", float, "Of the cross entropy."),
    ("--warmup-epochs", "train.warmup_epochs", int, "Epochs of linear warm-up."),
    ("--precision", "train.precision", str, "auto, float32 or bfloat16."),
    (
        "--sync-batchnorm/--no-sync-batchnorm",
        "train.sync_batchnorm",
        bool,
        "BatchNorm over the batch of all processes.",
    ),
    ("--validation", "data.validation", float, "Fraction of the training images held out."),
    ("--image-size", "data.image_size", int, "Scale images to this side."),
    ("--pad", "data.pad", int, "Pixels around a training image before cropping."),
    ("--pad-value", "data.pad_value", str, "black or mean: colour of these pixels."),
    ("--crop", "data.crop", str, "none, shift or resized."),
    ("--flip/--no-flip", "data.flip", bool, "Mirror half of the training images."),
    ("--tokens", "data.tokens", int, "Length of a text in tokens."),
    ("--vocabulary", "data.vocabulary", int, "Number of different tokens of texts."),
    ("--unit", "data.unit", str, "words or bytes: what a token of a text is."),
)


def _setting_options(function: Any) -> Any:
    for flag, dotted, kind, text in reversed(_SETTINGS):
        name = dotted.replace(".", "__")
        if kind is bool:
            function = click.option(flag, name, default=None, help=text)(function)
        else:
            function = click.option(flag, name, type=kind, help=text)(function)
    return function


@click.command(
    "train",
    short_help="Search for a subnetwork and leave a checkpoint.",
    epilog="Example: iterand-compress train --recipe cifar10-conv6 --data-dir data --width 0.25 --out conv6.ckpt",
)
@click.option("--recipe", metavar="NAME|FILE.toml", help="Settings to start from; flags override them.")
@click.option(
    "--ticket",
    type=FilePath,
    metavar="FILE.seedmask",
    help="Prune by the masks of a file instead of finding them; without --recipe, settings start from its recipe.",
)
@data_options
@_setting_options
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any other setting of a recipe.")
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
    metavar="N",
    help="Compute each batch in N micro-batches, one after the other, to need less memory.",
)
@click.option("--profile", is_flag=True, help="Trace some steps, and print where their time goes.")
@click.option(
    "--channels-last/--no-channels-last",
    default=None,
    help="Memory format of activations; default: on a GPU.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=0,
    metavar="STEPS",
    help="Save within epochs, too.",
)
@click.option(
    "--peer-timeout",
    type=float,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one of several processes waits for the others.",
)
@click.option("--tensorboard", type=FilePath, metavar="DIR", help="Write TensorBoard event files.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@max_weights_option
@json_option
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
    channels_last: bool | None,
    checkpoint_every: int,
    peer_timeout: float,
    tensorboard: Path | None,
    quiet: bool,
    max_weights: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Search for the subnetwork of a random network that does the job.

    Without options: IteRand on the bundled digits. Data that are texts begin with the recipe "text". Progress
    goes to the terminal and to a .metrics.jsonl beside the checkpoint. Ctrl-C saves the run; --resume continues it.

    Several GPUs, or machines: torchrun --nproc-per-node 4 --no-python iterand-compress train … trains one network in
    four processes, with the same result; --batch-size is that of all of them together.
    """
    # Of several processes, one that loses another says so in a line; torch's log would add pages.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from ..compress.files.names import shell_word
    from ..compress.training.allocator import keep_freed_memory
    from ..compress.training.distributed import join
    from ..compress.training.loop import train
    from ..compress.training.recipe import override
    from ..compress.training.run_options import RunOptions
    from ..compress.training.threads import keep_threads
    from .progress import SilentReporter, reporter

    silent = SilentReporter()
    if not 1 <= peer_timeout <= 1e6:  # nor NaN
        raise ConfigError(f"--peer-timeout: expected 1 to 1,000,000 seconds, got {peer_timeout:g}")
    keep_freed_memory()
    group = join(peer_timeout)
    try:
        with group.together():
            with group.agreed():
                changes = {name.replace("__", "."): value for name, value in flags.items() if value is not None}
                if data is not None:
                    changes["data.name"] = data
                changes |= dict(_parse_setting(text) for text in settings)
                if ticket is not None and resume:
                    raise ConfigError(
                        "--ticket with --resume: the masks are in the checkpoint already; leave out --ticket"
                    )
                masks, of_ticket = _read_ticket(ticket, max_weights) if ticket is not None else (None, None)
            base = _base(group, recipe, ticket, of_ticket, data, out if resume else None)
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
                    channels_last=channels_last,
                    checkpoint_every=checkpoint_every,
                    tensorboard=tensorboard,
                    # A file never makes us import code: only a name that the user gave may.
                    allow_import=ticket is None or recipe is not None or "model.name" in changes,
                    peer_timeout=peer_timeout,
                    one_thread_if_small="OMP_NUM_THREADS" not in os.environ,
                    masks=masks,
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
    if as_json:
        print_json(
            {
                "checkpoint": str(result.checkpoint),
                "test_correct": result.test.correct,
                "test_images": result.test.images,
                "test_accuracy": result.test.accuracy,
                "left_out": dict(silent.left_out),
            }
        )
    elif not quiet:
        click.echo(f"{out}: next, iterand-compress pack {shell_word(out)}")


def _base(
    group: Group,
    recipe: str | None,
    ticket: Path | None,
    of_ticket: Recipe | None,
    data: str | None,
    stored: Path | None,
) -> Recipe:
    """The recipe that flags change: the one that was named, or that of the run to resume, or of the ticket."""
    from ..compress.data.catalogue import TEXT_DATASETS
    from ..compress.training.prepare import stored_recipe
    from ..compress.training.recipe import DEFAULT_RECIPE, TEXT_RECIPE, load_recipe

    if recipe is None and stored is not None:
        return stored_recipe(stored, group)
    with group.agreed():
        if recipe is not None:
            return load_recipe(recipe)
        if ticket is None:
            return load_recipe(TEXT_RECIPE if data in TEXT_DATASETS else DEFAULT_RECIPE)
        if of_ticket is None:
            raise ConfigError(f"{ticket}: holds no recipe that this version knows; give --recipe")
        return of_ticket


def _read_ticket(path: Path, max_weights: int | None) -> tuple[Mapping[str, NDArray[np.bool_]], Recipe | None]:
    from ..compress.recover import load_ticket

    found = load_ticket(path, max_weights=max_weights)
    return found.masks, found.recipe


def _parse_setting(text: str) -> tuple[str, Any]:
    import json

    key, sign, value = text.partition("=")
    if not sign or "." not in key:
        raise ConfigError(f"--set: expected SECTION.KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
