"""The best file under a limit of bytes: candidates of several sparsities, by successive halving.

Successive halving (Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 2016) trains all candidates for a short time, keeps the better half, doubles the time, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint, load_checkpoint
from ..config import Recipe
from ..data.bundle import DataBundle, Split
from ..data.loading import load_data
from ..errors import CheckpointError, ConfigError, DataError, IterandError, SeedMaskError
from ..files.atomic import atomic_path
from ..files.outputs import beside, only_writer
from ..methods.recycling import recycling_is_due
from ..models.from_shapes import skeleton
from ..networks import resolve_device
from ..pack import network_of_checkpoint, with_form, with_state_dtype
from ..recover import load_network
from ..seedmask import Network, dumps, read_seedmask, write_seedmask
from ..seedmask.state_dtype import SMALLEST_STATE
from ..training.evaluate import EVAL_BATCH, Score, evaluate, network_logits
from ..training.interrupt import RunStoppedError
from ..training.loop import train
from ..training.recipe import flattened, override
from ..training.reporter import Reporter
from ..training.run_options import RunOptions
from ..training.schedule import check_schedule
from ..training.threads import keep_threads, may_choose_threads
from .candidates import Candidate, FileSizes, propose
from .estimate import DEFAULT_REDRAWN

__all__ = ["SearchPlan", "SearchResult", "SearchStoppedError", "Trial", "halve", "plan_search", "search", "shortened"]

#: Share of the training images that is held out in rounds, if the recipe holds out none.
VALIDATION = 0.1
#: What a finished or interrupted search knows, in its folder; and its result there.
_STATE, _BEST = "search.json", "best.seedmask"
_FORMAT = "iterand-compress search 1"


class SearchStoppedError(IterandError):
    """Ctrl-C or SIGTERM came while a candidate was trained."""

    exit_code = 130


@dataclass(frozen=True)
class SearchPlan:
    """What a search will train.

    Attributes:
        max_bytes: the limit.
        candidates: in the order in which they are trained.
        rounds: number of networks and of epochs of each round; the last one trains one network by the recipe itself.
        examples: number of training images or texts.
    """

    max_bytes: int
    candidates: tuple[Candidate, ...]
    rounds: tuple[tuple[int, int], ...]
    examples: int

    @property
    def epochs(self) -> int:
        """Epochs of all runs together."""
        return sum(networks * epochs for networks, epochs in self.rounds)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of the forward passes of training, at most: if the largest candidates stay.

        ``None`` if those of a candidate are not known.
        """
        each = [candidate.multiply_adds for candidate in self.candidates]
        known = sorted((count for count in each if count is not None), reverse=True)
        if len(known) < len(each):
            return None
        return self.examples * sum(epochs * sum(known[:networks]) for networks, epochs in self.rounds)


@dataclass(frozen=True)
class Trial:
    """A candidate that was trained in a round.

    Attributes:
        number: of the round, from 1.
        epochs: that it was trained for.
        candidate: narrower than planned, if the file of that came out too large.
        file_bytes: size of its file.
        accuracy: of that file on held-out training images, in [0, 1]; ``None`` if it was trained on all of them.
    """

    number: int
    epochs: int
    candidate: Candidate
    file_bytes: int
    accuracy: float | None


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        plan: what was planned.
        trials: in the order of training; the last one is the result.
        file: the result, a ``.seedmask`` file.
        test: its score on the test images, which nothing was chosen by.
    """

    plan: SearchPlan
    trials: tuple[Trial, ...]
    file: Path
    test: Score


def halve(
    candidates: Sequence[Candidate],
    rounds: Sequence[tuple[int, int]],
    measure: Callable[[int, int, Candidate], Trial],
) -> list[Trial]:
    """Measure all candidates, go on with those of the highest accuracies, and so on.

    Args:
        candidates: of equal ones, the first goes on.
        rounds: number of candidates and of epochs of each round.
        measure: trains a candidate in a round (its number, its epochs).
    """
    trials: list[Trial] = []
    for number, (networks, epochs) in enumerate(rounds, 1):
        done = [measure(number, epochs, candidate) for candidate in candidates[:networks]]
        trials += done
        candidates = [trial.candidate for trial in sorted(done, key=lambda trial: -(trial.accuracy or 0))]
    return trials


def _rounds(candidates: int, epochs: int) -> tuple[tuple[int, int], ...]:
    """Half as many candidates and twice as many epochs from round to round, one and all of them in the last."""
    counts = [candidates]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    last = len(counts) - 1
    return tuple((networks, max(1, epochs >> (last - number))) for number, networks in enumerate(counts))


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe for fewer epochs: everything that it counts in epochs shrinks in proportion.

    Args:
        recipe: for more epochs.
        epochs: at least 1.
    """
    settings, selection, recycle = recipe.train, recipe.subnetwork.selection, recipe.subnetwork.recycle

    def fitted(number: int) -> int:
        return max(1, round(number * epochs / settings.epochs)) if number else 0

    warmup, cooldown = fitted(settings.warmup_epochs), fitted(settings.cooldown_epochs)
    if warmup + cooldown >= epochs:
        warmup = cooldown = 0
    changes: dict[str, Any] = {"epochs": epochs, "warmup_epochs": warmup, "cooldown_epochs": cooldown}
    if settings.milestones:
        steps = sorted({fitted(milestone) for milestone in settings.milestones})
        left = [step for step in steps if warmup < step < epochs - cooldown]
        changes |= {"milestones": left, "gamma": settings.gamma if left else None}
    changes = {f"train.{key}": value for key, value in changes.items()}
    if selection is not None and selection.ramp_epochs:
        changes["subnetwork.selection.ramp_epochs"] = min(epochs, fitted(selection.ramp_epochs))
    if recycle is not None:
        rule = recycle.model_copy(update={"every": fitted(recycle.every), "warmup": fitted(recycle.warmup)})
        due = any(recycling_is_due(rule, epoch, epochs) for epoch in range(epochs))
        changes["subnetwork.recycle"] = rule.model_dump() if due else "none"
    return override(recipe, changes)


def plan_search(
    recipe: Recipe,
    *,
    max_bytes: int,
    candidates: int = 5,
    redrawn: float | None = None,
    data_dir: Path | None = None,
    download: bool = False,
) -> SearchPlan:
    """Tell what `search` would train, from the data and from predicted sizes; nothing is trained or written.

    Args:
        recipe: as in `search`, like the others.
        max_bytes: the limit.
        candidates: number of networks.
        redrawn: see `search`.
        data_dir: folder of the data set.
        download: whether it may be downloaded.

    Raises:
        ConfigError: no network is that small; a model without a factor on its width, or a method that trains weights.
        DataError: the data are absent or damaged.
    """
    return _planned(_checked(recipe, max_bytes, candidates), max_bytes, candidates, redrawn, data_dir, download)[0]


def search(
    recipe: Recipe,
    *,
    max_bytes: int,
    out: str | Path,
    candidates: int = 5,
    redrawn: float | None = None,
    data_dir: Path | None = None,
    download: bool = False,
    device: str = "auto",
    reporter_of: Callable[[str], Reporter] = lambda _: Reporter(),
) -> SearchResult:
    """Find the best ``.seedmask`` file of a recipe under a limit of bytes.

    Of each sparsity the widest network is trained whose smallest file (bare, state rounded) is within the limit, by
    successive halving on held-out training images. The last one is trained by the recipe itself. The folder keeps every
    run, and the same call goes on where another one stopped.

    Args:
        recipe: of all runs; width and sparsity are chosen, and epochs are those of the last run.
        max_bytes: the limit, in bytes.
        out: a folder, new or of the same search.
        candidates: number of networks in the first round.
        redrawn: share of the kept weights that are predicted to be redrawn, overwritten or inverted, for methods that
            do so; by default a hundredth for each event of IteRand, up to what `estimate` takes, or that.
        data_dir: folder of the data set.
        download: whether it may be downloaded.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        reporter_of: returns the reporter of a training run, by its name.

    Returns:
        The file ``best.seedmask`` in the folder, its test score, and all runs.

    Raises:
        ConfigError: as `plan_search`; or the folder holds something else.
        SearchStoppedError: Ctrl-C or SIGTERM came; the folder holds all that is done.
        IterandError: the data, a run or a file failed.

    Example:
        >>> import tempfile, iterand_compress as ic
        >>> recipe = ic.load_recipe("digits", subnetwork={"method": "edge-popup"}, train={"epochs": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = ic.search(recipe, max_bytes=2000, out=folder, candidates=1)
        ...     result.file.name, result.file.stat().st_size <= 2000
        ('best.seedmask', True)
    """
    recipe, folder, where = _checked(recipe, max_bytes, candidates), Path(out), resolve_device(device)
    settings = {"max_bytes": max_bytes, "candidates": candidates, "redrawn": redrawn, **recipe.model_dump(mode="json")}
    known = _read_state(folder, settings)
    found = tuple(Candidate(**values) for values in known["candidates"]) if known else None
    plan, sizes, data = _planned(recipe, max_bytes, candidates, redrawn, data_dir, download, found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from None
    with only_writer(folder / _STATE):
        state = _read_state(folder, settings) or {
            "format": _FORMAT,
            "settings": settings,
            "candidates": [asdict(candidate) for candidate in plan.candidates],
            "trials": {},
        }
        options = RunOptions(
            folder,
            data_dir=data_dir,
            download=download,
            device=device,
            allow_import=False,
            one_thread_if_small=may_choose_threads(),  # as `train` does, so that the same run has the same bits
        )
        runs = _Runs(plan, sizes, data, folder, state, options, where, reporter_of)
        runs.save()
        trials = halve(plan.candidates, plan.rounds, runs.measure)
        return SearchResult(plan, tuple(trials), folder / _BEST, runs.finish(trials[-1]))


@dataclass(frozen=True, eq=False)
class _Runs:
    """The runs of a search in its folder: each is trained once, whatever comes between."""

    plan: SearchPlan
    sizes: FileSizes
    data: DataBundle
    folder: Path
    state: dict[str, Any]
    options: RunOptions
    device: torch.device
    reporter_of: Callable[[str], Reporter]

    def save(self) -> None:
        """Write down what is known."""
        with atomic_path(self.folder / _STATE) as temporary:
            temporary.write_text(json.dumps(self.state, indent=1), encoding="utf-8")

    def measure(self, number: int, epochs: int, candidate: Candidate) -> Trial:
        """Train a candidate and measure its file, or read what an earlier call found."""
        trials, key = self.state["trials"], f"{number}-s{candidate.sparsity:g}"
        if key not in trials:
            trials[key] = asdict(self._trained(number, epochs, candidate))
            self.save()
        return Trial(**{**trials[key], "candidate": Candidate(**trials[key]["candidate"])})

    def _trained(self, number: int, epochs: int, candidate: Candidate) -> Trial:
        while True:
            recipe = self.sizes.recipe_of(candidate.sparsity, candidate.width)
            if number < len(self.plan.rounds):
                recipe = shortened(_held_out(recipe), epochs)
            path = self._checkpoint(number, candidate)
            _train(recipe, replace(self.options, out=path, resume=path.exists()), self.reporter_of(path.stem))
            network = _smallest(load_checkpoint(path))
            excess = len(dumps(network)) - self.plan.max_bytes
            if excess <= 0:
                break
            candidate = self.sizes.narrower(candidate, excess)  # rare, as predictions are a little too large
        file = beside(path, ".seedmask")
        size = write_seedmask(network, file).file_bytes
        held_out = self.data.val if recipe.data.validation else None
        accuracy = None if held_out is None else _score(file, held_out, self.device).accuracy
        return Trial(number, epochs, candidate, size, accuracy)

    def _checkpoint(self, number: int, candidate: Candidate) -> Path:
        return self.folder / f"round{number}-s{candidate.sparsity:g}-w{candidate.width:g}.ckpt"

    def finish(self, trial: Trial) -> Score:
        """Give the file of the last run its name, check it, and look at the test images, once."""
        best = self.folder / _BEST
        if "test" not in self.state or not best.exists():
            packed = beside(self._checkpoint(trial.number, trial.candidate), ".seedmask")
            with atomic_path(best) as temporary:
                temporary.write_bytes(packed.read_bytes())
            self.state["test"] = asdict(_score(best, self.data.test, self.device))
            self.save()
        read_seedmask(best).verify()
        return Score(**self.state["test"])


def _checked(recipe: Recipe, max_bytes: int, candidates: int) -> Recipe:
    """The recipe, unless a search makes no sense for it."""
    if max_bytes < 1 or candidates < 1:
        raise ConfigError(f"search: expected at least 1 byte and 1 candidate, got {max_bytes} and {candidates}")
    if recipe.subnetwork.selection is None:
        raise ConfigError(
            f"search: {recipe.subnetwork.method} trains weights, which no small file holds: give --method edge-popup, "
            "or another one that trains masks"
        )
    if ":" in recipe.model.name:
        raise ConfigError(
            f"search: {recipe.model.name} has no factor on its width to meet a limit with: give a built-in --model "
            "(iterand-compress models)"
        )
    check_schedule(recipe.train)
    return recipe


def _held_out(recipe: Recipe) -> Recipe:
    return recipe if recipe.data.validation else override(recipe, {"data.validation": VALIDATION})


def _planned(
    recipe: Recipe,
    max_bytes: int,
    candidates: int,
    redrawn: float | None,
    data_dir: Path | None,
    download: bool,
    known: tuple[Candidate, ...] | None = None,
) -> tuple[SearchPlan, FileSizes, DataBundle]:
    """The plan, with candidates that are known from before or predicted now."""
    config = _held_out(recipe).data
    data = load_data(config, data_dir=data_dir, download=download, seed=recipe.subnetwork.seed)
    if data.val is None:
        raise DataError(f"{data.name}: no training images could be held out, by which candidates are compared")
    if redrawn is None:
        redrawn = _redrawn(recipe, recipe.train.epochs * data.train.steps_per_epoch(recipe.train.batch_size))
    sizes = FileSizes(recipe, len(data.classes), data.input, redrawn)
    found = known or propose(sizes, max_bytes, candidates)
    return SearchPlan(max_bytes, found, _rounds(len(found), recipe.train.epochs), len(data.train)), sizes, data


def _redrawn(recipe: Recipe, steps: int) -> float | None:
    """The share of the kept weights that IteRand redraws in so many steps; ``None`` for other methods.

    Measured on the digits at a rate of 0.1, 3 to 60 events and sparsities of 0.5 to 0.95: 0.003 to 0.012 an event.
    """
    rule = recipe.subnetwork.resample
    return None if rule is None else min(DEFAULT_REDRAWN["resample"], 0.1 * rule.rate * (steps // rule.every))


def _read_state(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a folder knows of this search; ``None`` if it knows nothing.

    Raises:
        CheckpointError: what it knows is damaged.
        ConfigError: it is of another search, or of something else.
    """
    path = folder / _STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        ours = state["format"] == _FORMAT
        stored = flattened(state["settings"])
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and (not folder.is_dir() or any(path.name[0] != "." for path in folder.iterdir())):
            raise ConfigError(f"{folder}: holds something else than a search; choose a new folder for --out") from None
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        ours, stored = False, {}
    if not ours:
        raise CheckpointError(f"{path}: damaged, or not of a search; choose a new folder for --out")
    asked = flattened(settings)
    keys = dict.fromkeys((*stored, *asked))
    changed = [f"{key}: {stored.get(key)!r} → {asked.get(key)!r}" for key in keys if stored.get(key) != asked.get(key)]
    if changed:
        raise ConfigError(
            f"{folder}: holds a search with other settings ({'; '.join(changed)}); give the same ones to go on with "
            "it, or choose another folder for --out"
        )
    return dict(state)


def _train(recipe: Recipe, options: RunOptions, reporter: Reporter) -> None:
    try:
        with keep_threads():
            train(recipe, options, reporter)
    except RunStoppedError:
        raise SearchStoppedError(
            f"stopped in run {options.out.stem}; {options.out.parent} holds all that is done: give the same command "
            "again to go on"
        ) from None


def _smallest(checkpoint: Checkpoint) -> Network:
    """The network of a checkpoint as it takes the fewest bytes; its state is exact if it cannot be rounded."""
    plain = skeleton(checkpoint.architecture, seed=0, allow_import=False)
    network = with_form(network_of_checkpoint(checkpoint), "compact", plain, bare=True)
    try:
        return with_state_dtype(network, SMALLEST_STATE, plain)[0]
    except SeedMaskError:
        return network


def _score(file: Path, split: Split, device: torch.device) -> Score:
    network = load_network(file)
    with network_logits(network.model.to(device), network.known_data(file).input.normalize) as logits:
        return evaluate(logits, split, batch_size=EVAL_BATCH, device=device)
