"""Before the first step: settings, outputs, data, network, optimizer; or all of these as a checkpoint has them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint, Position, load_checkpoint
from ..config import Recipe
from ..data.bundle import DataBundle
from ..data.loading import load_data
from ..errors import CheckpointError, ConfigError, DataError
from ..files.atomic import check_output
from ..files.outputs import only_writer
from ..mask.fused import FusedLayers
from ..mask.layers import masked_layers
from ..models import has_batch_norm, resolve
from ..models.airbench import fit_whitening, has_whitening
from ..models.state import load_state
from ..networks import build_network, describe
from ..pack import masked_keys
from ..rebuild import require_same_answers
from .checks import check_batch, check_classes, check_logits, check_packing, check_training, prune_before_training
from .distributed import Group
from .evaluate import EVAL_BATCH
from .metrics import check_tensorboard, metrics_path
from .optimizer import load_optimizer_state, make_optimizer, trains_scores_scale_free
from .profile import StepProfile, trace_path
from .recipe import differences, flattened, override
from .replica import equalise_start, replicate, require_same_network, unused_parameters
from .run import NEVER, Run
from .run_options import RunOptions, best_path
from .schedule import check_refresh, check_schedule
from .sync_batchnorm import synchronise_batchnorm
from .threads import is_small

__all__ = ["only_run", "prepare", "read_checkpoint", "resolve_settings", "stored_recipe"]

#: Training images from which whitening follows, and numbers in them at most.
WHITENED, VALUES = 5000, 2**25
# Options that every process must have alike; where files lie may differ from machine to machine.
_SAME_OPTIONS = ("resume", "force", "compile", "accumulate", "channels_last", "checkpoint_every", "tensorboard")


def resolve_settings(recipe: Recipe, options: RunOptions, group: Group) -> tuple[Recipe, torch.device]:
    """The recipe with nothing left open, as it is stored, and the device of this process.

    Raises:
        ConfigError: settings that contradict each other, or that differ between the processes.
    """
    with group.agreed():
        check_schedule(recipe.train)
        check_refresh(recipe)
        device = group.device(options.device)
        if recipe.train.precision == "auto":
            precision = "bfloat16" if device.type == "cuda" else "float32"
            recipe = override(recipe, {"train.precision": precision})
        if has_batch_norm(recipe.model):
            recipe = override(recipe, {"model.batch_norm": True})
    versions = {f"version of {name}": _version(name) for name in ("iterand-compress", "torch")}
    group.require_same(versions, ConfigError, "install the same versions on all machines")
    settings = flattened(recipe.model_dump())
    settings |= {name: getattr(options, name) for name in _SAME_OPTIONS}
    settings |= {"device": device.type, "ticket": options.masks is not None}
    group.require_same(settings, ConfigError, "give all processes the same settings")
    return recipe, device


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@contextmanager
def only_run(options: RunOptions, group: Group) -> Iterator[None]:
    """Refuse outputs that cannot be written, would replace something else, or that another run is writing.

    Raises:
        IterandError: one of these.
    """
    with ExitStack() as locks:
        with group.agreed():
            if group.main:
                # The reader of a resumed file has the better message.
                kinds = {options.out: "any" if options.resume else "torch", best_path(options.out): "torch"}
                outputs = [*kinds, metrics_path(options.out)]
                traces = [trace_path(options.out)] if options.profile else []
                for number, path in enumerate((*outputs, *traces)):
                    check_output(path, *options.inputs, *outputs[:number], kind=kinds.get(path))
                if options.tensorboard is not None:
                    check_tensorboard(options.tensorboard)
                locks.enter_context(only_writer(*outputs))
        yield


def stored_recipe(out: Path, group: Group) -> Recipe:
    """The recipe in a checkpoint, which only the main process has to see.

    Raises:
        CheckpointError: see ``load_checkpoint``.
    """
    recipe = None
    with group.agreed():
        if group.main:
            recipe = load_checkpoint(out).recipe
    recipe = group.from_main(recipe)
    assert recipe is not None
    return recipe


def read_checkpoint(recipe: Recipe, options: RunOptions, group: Group) -> Checkpoint | None:
    """The checkpoint to go on from, which only the main process has to see; ``None`` for a new run.

    Raises:
        CheckpointError: it cannot be read; or a new run would replace one.
        ConfigError: its settings are others.
    """
    out, stored, content = options.out, None, b""
    with group.agreed():
        if group.main and options.resume:
            stored = load_checkpoint(out)
            if stored.of_best_epoch:
                raise CheckpointError(
                    f"{out}: {stored.unfinished}; a run goes on from its own checkpoint, with the optimizer: give that "
                    "as --out"
                )
            if recipe.train.scale_free is None:
                recipe = override(recipe, {"train.scale_free": stored.recipe.train.scale_free})
            changed = differences(stored.recipe, recipe)
            if changed:
                advice = "leave them out, or start a new run"
                if stored.recipe.train.epochs != recipe.train.epochs:  # which would be another run from its start
                    advice = (
                        f"a run of {recipe.train.epochs} epochs has schedules of its own (learning rate, ramps, "
                        "recycling), so this one cannot be extended: train anew, by the same command with another "
                        "--out instead of --resume"
                    )
                raise ConfigError(f"{out}: cannot resume with other settings ({'; '.join(changed)}); {advice}")
            content = out.read_bytes() if group.size > 1 else b""
        elif group.main and not options.force and out.exists():
            raise CheckpointError(
                f"{out}: exists already; --resume goes on from it, --force replaces it, --out writes elsewhere"
            )
        elif group.main and not options.force and metrics_path(out).exists():
            raise CheckpointError(
                f"{metrics_path(out)}: exists already, from another run; --force replaces it, --out writes elsewhere"
            )
    if options.resume and group.size > 1:
        content = group.from_main(content)
        stored = stored or load_checkpoint(out, content)
    return stored


def _keep_other_run(best: Path, stored: Checkpoint | None) -> None:
    """Refuse to replace a best epoch that is not one of the run that goes on (``None``: a new run)."""
    if not best.exists():
        return
    if stored is None:
        raise CheckpointError(f"{best}: exists already, from another run; --force replaces it, --out writes elsewhere")
    other = load_checkpoint(best)
    if not other.of_best_epoch or other.recipe != stored.recipe:
        raise CheckpointError(
            f"{best}: is of another run, whose file would be lost; give it another name, or remove it"
        )


def prepare(recipe: Recipe, options: RunOptions, device: torch.device, stored: Checkpoint | None, group: Group) -> Run:
    """Load the data, build the network with its masks, and check all that can be checked before the first step.

    Args:
        recipe: with nothing left open.
        options: of the run.
        device: of this process.
        stored: what the run goes on from, if it does.
        group: the processes.

    Raises:
        IterandError: the data, the network and the settings do not fit together, or differ between the processes.
    """
    settings = recipe.train
    data_dir = options.data_dir or (Path(stored.data_dir) if stored and stored.data_dir else None)
    data = _load_data(recipe, options, data_dir, group)
    group.require_same(_facts(data), DataError, "give all processes the same data")
    data_info = describe(data)
    batch_size = min(settings.batch_size, len(data.train))
    channels_last = options.channels_last
    if channels_last is None:  # 1.4 times as fast on a CPU with bfloat16
        channels_last = device.type == "cuda" or settings.precision == "bfloat16"
    with group.agreed():
        if stored and stored.data != data_info:
            raise DataError(f"{options.out}: the data are not those that the run began with; give the same --data-dir")
        if group.main and data.val is not None and not options.force:
            _keep_other_run(best_path(options.out), stored)
        check_batch(batch_size, recipe, options, group.size)
        check_classes(data)
        architecture = resolve(recipe.model, num_classes=len(data.classes), input=data.input)
        model = build_network(
            recipe,
            architecture,
            allow_import=options.allow_import,
            masked={keys.name for keys in masked_keys(stored.model)[0]} if stored else options.masks or (),
            warn=group.main and not stored,
        )
        if settings.scale_free is None:
            chosen = stored.recipe.train.scale_free if stored else trains_scores_scale_free(model)
            recipe = override(recipe, {"train.scale_free": chosen})
            settings = recipe.train
        one_thread = (
            options.one_thread_if_small
            and device.type == "cpu"
            and is_small(model, data.input.example(1).shape[1:], batch_size)
        )
        if one_thread:
            torch.set_num_threads(1)
        check_logits(model, data)
        check_training(model, data, batch_size, recipe, group.size * options.accumulate)
        model.to(device)
        run = Run(
            recipe=recipe,
            options=options,
            group=group,
            device=device,
            data=data,
            data_info=data_info,
            data_dir=data_dir,
            architecture=architecture,
            model=model,
            network=model,
            forward=model,
            optimizer=make_optimizer(model, settings),
            fused=None,
            channels_last=channels_last and data.input.noun == "image",
            batch_size=batch_size,
            one_thread=one_thread,
            steps_per_epoch=data.train.steps_per_epoch(settings.batch_size),
            micro_batches=group.shard.micro_batches(batch_size, options.accumulate),
            profile=StepProfile(device) if options.profile and group.main else None,
            position=stored.position if stored else Position(),
            saved=stored.position.step if stored else None,
            best=stored.best if stored else None,
            meter=torch.zeros(3, dtype=torch.float64, device=device),
            first_bad=torch.full((), NEVER, dtype=torch.int64, device=device),
        )
        if stored:
            load_state(model, stored.model)
            require_same_answers(model, stored, options.out)
            if stored.optimizer is not None:
                load_optimizer_state(run.optimizer, stored.optimizer)
            if group.main:
                run.meter += torch.tensor(stored.meter, dtype=torch.float64, device=device)
        elif group.main:
            _look_at_images(run)
            prune_before_training(model, recipe, data, device, options.masks)
            check_packing(model, run.checkpoint(), options.out, allow_import=options.allow_import)
    equalise_start(model, group)
    require_same_network(model, group, 0, options.out)
    with group.agreed():
        partly_unused = group.size > 1 and unused_parameters(model, torch.from_numpy(data.input.example(2)).to(device))
    if settings.sync_batchnorm:
        synchronise_batchnorm(model, group, device)
    run.network = replicate(model, group, device=device, partly_unused=partly_unused)
    try:
        run.forward = torch.compile(run.network, mode=options.compile) if options.compile else run.network
    except RuntimeError as error:  # which modes there are depends on the version of torch
        raise group.joint(ConfigError(f"--compile: {error}")) from None
    run.fused = FusedLayers.of(model, masked_layers(model), channels_last=run.channels_last)
    return run


def _look_at_images(run: Run) -> None:
    """Let layers that follow from the data, and are not trained, see some training images, taken evenly."""
    if run.data.input.noun != "image" or not has_whitening(run.model):
        return
    train, chosen, start = run.data.train, [], 0
    wanted = min(WHITENED, VALUES // math.prod(run.data.input.example(1).shape))
    stride = max(1, len(train) // max(1, wanted))
    for pixels, _ in train.batches(EVAL_BATCH, run.device):
        chosen.append(run.data.input.normalize(pixels[-start % stride :: stride]))
        start += len(pixels)
    fit_whitening(run.model, torch.cat(chosen))


def _load_data(recipe: Recipe, options: RunOptions, data_dir: Path | None, group: Group) -> DataBundle:
    """Of the processes on a machine, only the first one downloads; the others wait for it."""
    data: DataBundle | None = None
    for first in (True, False):
        with group.agreed():
            if data is None and (not first or group.local_rank == 0 or not options.download):
                data = load_data(
                    recipe.data,
                    data_dir=data_dir,
                    download=options.download,
                    seed=recipe.subnetwork.seed,
                    sharing=group.local_size,
                )
    assert data is not None
    return data


def _facts(data: DataBundle) -> dict[str, Any]:
    """What must be the same in all processes."""
    facts: dict[str, Any] = asdict(describe(data))
    for name, split in (("training", data.train), ("validation", data.val), ("test", data.test)):
        labels = split.labels.numpy().tobytes() if split is not None else b""
        facts[f"number of {name} examples"] = len(split) if split is not None else 0
        facts[f"labels of {name} examples (sha256)"] = hashlib.sha256(labels).hexdigest()[:16]
    return facts
