"""From a changed network to its score on the test images: by evaluation, or by training it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from ...checkpoint import load_checkpoint
from ...config import Recipe
from ...data.bundle import DataBundle
from ...data.loading import load_data
from ...errors import CheckpointError, DataError, IterandError
from ...networks import describe, resolve_device
from ...pack import network_of_checkpoint
from ...recover import load_network
from ...seedmask import Network
from ...training.evaluate import EVAL_BATCH, Score, evaluate, network_logits
from ...training.interrupt import RunStoppedError
from ...training.loop import train
from ...training.recipe import override
from ...training.reporter import Reporter
from ...training.run_options import RunOptions
from ...training.threads import keep_threads, may_choose_threads
from .altered import start_weights
from .origin import AblationSource

__all__ = ["CHANGES", "AblationOptions", "AblationStoppedError", "ReporterOf", "ScoreOf", "as_they_are", "trained"]

CHANGES = ("reinit", "shuffle")
#: From the name of a run, such as ``reinit-1``, to its reporter.
ReporterOf = Callable[[str], Reporter]
#: From the name of a run and its network to the score on the test images.
ScoreOf = Callable[[str, Network], Score]


class AblationStoppedError(IterandError):
    """Ctrl-C or SIGTERM came while a variant was trained."""

    exit_code = 130


@dataclass(frozen=True)
class AblationOptions:
    """What to change, and where and how the runs take place.

    Attributes:
        changes: of ``CHANGES``.
        repetitions: of each change, at least 1; each with other random numbers.
        epochs: of the training of tickets; ``None`` = as the recipe says.
        data: name of the data set, to be certain; ``None`` = that of the recipe.
        data_dir: its folder.
        download: whether torchvision may download it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        model: name of the model, for files whose architecture is the user's own code.
        folder: where checkpoints of the runs stay; runs that are there already are read, unfinished ones go on.
            ``None`` = nothing stays.
        max_weights: refuse ``.seedmask`` files that declare more weights; see ``read_seedmask``.
    """

    changes: tuple[str, ...] = CHANGES
    repetitions: int = 1
    epochs: int | None = None
    data: str | None = None
    data_dir: Path | None = None
    download: bool = False
    device: str = "auto"
    model: str | None = None
    folder: Path | None = None
    max_weights: int | None = None


@contextmanager
def as_they_are(source: AblationSource, recipe: Recipe, options: AblationOptions) -> Iterator[ScoreOf]:
    """Evaluate the network of the file with other weights."""
    device = resolve_device(options.device)
    bundle = _data(source, recipe, options)
    model = load_network(source.path, model=options.model, max_weights=options.max_weights).model.to(device)
    weights = model.state_dict()

    def score_of(_: str, network: Network) -> Score:
        for index, tensor in enumerate(network.tensors):
            weights[tensor.name].copy_(torch.from_numpy(start_weights(network, index).reshape(tensor.shape)))
        with network_logits(model, bundle.input.normalize) as classifier:
            return evaluate(classifier, bundle.test, batch_size=EVAL_BATCH, device=device)

    yield score_of


@contextmanager
def trained(
    source: AblationSource, recipe: Recipe, options: AblationOptions, reporter_of: ReporterOf
) -> Iterator[ScoreOf]:
    """Train a ticket with given masks from given initial weights, in the folder of the options or a temporary one."""
    _data(source, recipe, options)  # each run loads its own; here, so that other data are refused before the first one
    images_seed = recipe.subnetwork.seed if recipe.data.seed is None else recipe.data.seed

    def score_of(name: str, network: Network) -> Score:
        settings = recipe
        if network.seed != recipe.subnetwork.seed:  # other weights, but the same images in the same order
            settings = override(recipe, {"subnetwork.seed": network.seed, "data.seed": images_seed})
        return _train(folder / f"{name}.ckpt", network, settings, options, reporter_of(name))

    if options.folder is not None:
        folder = options.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IterandError(f"{folder}: cannot be made: {error.strerror}; choose another --folder") from None
        yield score_of
        return
    with TemporaryDirectory(prefix="iterand-compress-") as name_of_folder:
        folder = Path(name_of_folder)
        yield score_of


def _data(source: AblationSource, recipe: Recipe, options: AblationOptions) -> DataBundle:
    """Load the data, and refuse them if they are not those that the file describes."""
    bundle = load_data(recipe.data, data_dir=options.data_dir, download=options.download, seed=recipe.subnetwork.seed)
    got = describe(bundle).to_dict()
    for key, expected in source.data.to_dict().items():
        if got.get(key) != expected:
            raise DataError(
                f"{source.path}: was trained on other data: expected {key} {str(expected)[:80]}, got "
                f"{str(got.get(key))[:80]}; give the --data-dir of the run"
            )
    return bundle


def _train(path: Path, network: Network, recipe: Recipe, options: AblationOptions, reporter: Reporter) -> Score:
    """Train a ticket, or go on with its run, or read its score if the run is complete."""
    masks = {tensor.name: tensor.mask for tensor in network.tensors}
    there = path.exists()
    if there:
        _check_masks(path, masks)
    run = RunOptions(
        out=path,
        data_dir=options.data_dir,
        download=options.download,
        device=options.device,
        resume=there,
        # A file never makes us import code: only a name that the user gave may.
        allow_import=options.model is not None,
        one_thread_if_small=may_choose_threads(),  # as `train` does, so that the same run has the same bits
        masks=masks,
    )
    try:
        with keep_threads():
            return train(recipe, run, reporter).test
    except RunStoppedError:
        where = (
            f"{options.folder} holds it; give the same command again to go on"
            if options.folder
            else ("nothing is kept; with --folder, the same command goes on where it stopped")
        )
        raise AblationStoppedError(f"stopped in run {path.stem}; {where}") from None


def _check_masks(path: Path, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    stored = {tensor.name: tensor.mask for tensor in network_of_checkpoint(load_checkpoint(path)).tensors}
    if stored.keys() != masks.keys() or any(not np.array_equal(stored[name], masks[name]) for name in masks):
        raise CheckpointError(f"{path}: a run with other masks than those of this ablation; choose another --folder")
