"""The experiment: baseline, reinit, shuffle, each measured in the same way."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from ...config import Recipe
from ...errors import ConfigError
from ...seedmask import Network
from ...training.evaluate import Score
from ...training.recipe import override
from ...training.reporter import Reporter
from .altered import other_seed, reinitialised, shuffled
from .layer_statistics import LayerStatistics, layer_statistics
from .origin import AblationSource, open_source
from .runs import CHANGES, AblationOptions, ReporterOf, as_they_are, trained

__all__ = ["Ablation", "Repetition", "Variant", "ablate"]


@dataclass(frozen=True)
class Repetition:
    """One network: its test score and layers.

    Attributes:
        score: on the test images.
        layers: in the order of the network.
    """

    score: Score
    layers: tuple[LayerStatistics, ...]

    def share(self, what: str) -> float:
        """``mask_changed`` or ``changed_by_chance`` of all layers together."""
        total: float = sum(layer.weights * getattr(layer, what) for layer in self.layers)
        return total / sum(layer.weights for layer in self.layers)


@dataclass(frozen=True)
class Variant:
    """The baseline, or a change with all its repetitions."""

    name: str
    repetitions: tuple[Repetition, ...]

    @property
    def accuracy(self) -> float:
        """Mean over the repetitions, in [0, 1]."""
        return statistics.fmean(repetition.score.accuracy for repetition in self.repetitions)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the accuracy (n - 1); ``None`` of a single repetition."""
        accuracies = [repetition.score.accuracy for repetition in self.repetitions]
        return statistics.stdev(accuracies) if len(accuracies) > 1 else None


@dataclass(frozen=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        path: the file.
        recipe: of the original, or of the training of tickets.
        trained: whether this is a ticket, whose variants were trained.
        baseline_read: whether the score of the original was in the file; else it was measured like the others.
        chance: accuracy of guessing, 1 / number of classes.
        variants: the baseline and then the changes.
    """

    path: Path
    recipe: Recipe
    trained: bool
    baseline_read: bool
    chance: float
    variants: tuple[Variant, ...]


def ablate(
    path: str | Path, options: AblationOptions | None = None, reporter_of: ReporterOf = lambda _: Reporter()
) -> Ablation:
    """Change a pruned network as ``options`` say, and measure its accuracy.

    A subnetwork is evaluated with the BatchNorm statistics of its file. The baseline of a ticket is the score in its
    checkpoint, unless that run was not complete or had other epochs: then it is trained again, as it is for a
    ``.seedmask`` file, which holds no score.

    Args:
        path: a checkpoint or a ``.seedmask`` file.
        options: what to change, and how to measure it.
        reporter_of: returns the reporter of a training run, by its name.

    Raises:
        ConfigError: there is no mask to ablate, the file does not say how it came to be, or an option has no meaning
            for it.
        DataError: the data are absent, or not those that the network was trained on.
        CheckpointError: a search that is not complete; runs in the folder that belong to something else.
        IterandError: the file is damaged, or a run failed.
    """
    options = options or AblationOptions()
    if options.repetitions < 1 or not options.changes or not set(options.changes) <= set(CHANGES):
        raise ConfigError(f"ablation: expected changes among {', '.join(CHANGES)}, and at least one repetition")
    source = open_source(Path(path), max_weights=options.max_weights)
    recipe = _recipe(source, options)
    options = replace(options, data_dir=options.data_dir or source.data_dir)
    network, known = source.network, _known_baseline(source, recipe)
    runs = trained(source, recipe, options, reporter_of) if source.is_ticket else as_they_are(source, recipe, options)
    with runs as score_of:
        score = score_of("baseline", network) if known is None else known
        variants = [Variant("baseline", (Repetition(score, _layers(network, network)),))]
        for change in options.changes:
            repetitions = []
            for number in range(1, options.repetitions + 1):
                changed = _changed(network, change, number)
                score = score_of(f"{change}-{number}", changed)
                repetitions.append(Repetition(score, _layers(changed, network)))
            variants.append(Variant(change, tuple(repetitions)))
    return Ablation(
        path=source.path,
        recipe=recipe,
        trained=source.is_ticket,
        baseline_read=known is not None,
        chance=1 / len(source.data.classes),
        variants=tuple(variants),
    )


def _recipe(source: AblationSource, options: AblationOptions) -> Recipe:
    """The recipe of all runs, after options that have no meaning for the file are refused."""
    recipe = source.recipe
    if options.data not in (None, recipe.data.name):
        raise ConfigError(
            f"{source.path}: was trained on {recipe.data.name}; its accuracy on {options.data} is no baseline; "
            "leave out --data"
        )
    for flag, value in (("--epochs", options.epochs), ("--folder", options.folder)):
        if value is not None and not source.is_ticket:
            raise ConfigError(
                f"{flag}: {recipe.subnetwork.method} does not train weights, so changed ones are evaluated as they "
                f"are, and nothing is trained; leave out {flag}"
            )
    if options.model is not None:
        recipe = override(recipe, {"model.name": options.model})
    return recipe if options.epochs is None else override(recipe, {"train.epochs": options.epochs})


def _known_baseline(source: AblationSource, recipe: Recipe) -> Score | None:
    """The score of the original, if the file holds it and it was trained as the variants are."""
    return source.test if source.is_ticket and recipe.train == source.recipe.train else None


def _changed(network: Network, change: str, number: int) -> Network:
    if change == "reinit":
        return reinitialised(network, other_seed(network.seed, number))
    return shuffled(network, number)


def _layers(network: Network, original: Network) -> tuple[LayerStatistics, ...]:
    return tuple(layer_statistics(network, original, index) for index in range(len(network.tensors)))
