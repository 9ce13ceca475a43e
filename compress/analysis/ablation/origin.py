"""The file that an ablation begins with: its masks, and all that is needed to train or evaluate them again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...checkpoint import DataInfo, is_checkpoint, load_checkpoint
from ...config import Recipe
from ...errors import CheckpointError, ConfigError
from ...files.names import shell_word
from ...pack import network_of_checkpoint
from ...recover import data_info, known_recipe
from ...seedmask import Network, read_seedmask
from ...training.evaluate import Score

__all__ = ["AblationSource", "open_source"]


@dataclass(frozen=True, eq=False)
class AblationSource:
    """A network with masks, from a checkpoint or a ``.seedmask`` file.

    Attributes:
        path: the file.
        network: masks and random weights.
        recipe: of the run that it comes from.
        data: that the run learned from.
        is_ticket: whether it was pruned before its weights were trained; else its weights are untrained.
        test: the final score of the run, if the file holds it.
        data_dir: folder of the data on the machine of the run, if the file names it.
    """

    path: Path
    network: Network
    recipe: Recipe
    data: DataInfo
    is_ticket: bool
    test: Score | None
    data_dir: Path | None


def open_source(path: Path, *, max_weights: int | None) -> AblationSource:
    """Read a file.

    Raises:
        ConfigError: there is no mask to ablate, or the file does not say how it came to be.
        CheckpointError: the search for a subnetwork is not complete.
        IterandError: the file is damaged.
    """
    return _from_checkpoint(path) if is_checkpoint(path) else _from_seedmask(path, max_weights)


def _from_checkpoint(path: Path) -> AblationSource:
    checkpoint = load_checkpoint(path)
    is_ticket = _is_ticket(checkpoint.recipe, path)
    if not is_ticket and not checkpoint.complete:
        raise CheckpointError(
            f"{path}: the search is not complete ({checkpoint.position.epoch} of {checkpoint.recipe.train.epochs} "
            f"epochs); finish it with: iterand-compress train --resume --out {shell_word(path)}"
        )
    return AblationSource(
        path=path,
        network=network_of_checkpoint(checkpoint),
        recipe=checkpoint.recipe,
        data=checkpoint.data,
        is_ticket=is_ticket,
        test=Score(**checkpoint.test) if checkpoint.test is not None else None,
        data_dir=Path(checkpoint.data_dir) if checkpoint.data_dir else None,
    )


def _from_seedmask(path: Path, max_weights: int | None) -> AblationSource:
    file = read_seedmask(path, max_weights=max_weights)
    recipe, data = known_recipe(file), data_info(file)
    if recipe is None:
        raise ConfigError(
            f"{path}: holds no recipe that this version knows, so it does not say how its masks came to be; ablate "
            "the checkpoint"
        )
    if data is None:
        raise ConfigError(f"{path}: holds neither input shape nor normalisation; ablate the checkpoint")
    is_ticket = _is_ticket(recipe, path)
    if is_ticket and recipe.subnetwork.seed != file.seed:
        raise ConfigError(
            f"{path}: its weights are of seed {file.seed}, its recipe is of seed {recipe.subnetwork.seed}; pack it "
            "with the recipe of its run"
        )
    file.verify()
    return AblationSource(path, file.network(), recipe, data, is_ticket, None, None)


def _is_ticket(recipe: Recipe, path: Path) -> bool:
    config = recipe.subnetwork
    if not config.has_masks:
        raise ConfigError(f"{path}: no mask to ablate: {config.method} keeps all weights; give a pruned network")
    return config.prune is not None
