"""Networks for files of a size: for each sparsity the widest network whose file is predicted to be within a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from ..config import Recipe
from ..errors import ConfigError
from ..inputs import AnyInput
from ..seedmask.state_dtype import SMALLEST_STATE
from ..training.recipe import override
from .estimate import estimate

__all__ = ["SPARSITIES", "STEPS", "Candidate", "FileSizes", "largest", "propose"]

#: In the order in which they are tried: at equal bytes 0.8 was the best, and then its neighbours (BENCHMARKS.md, "Width
#: or sparsity").
SPARSITIES = (0.8, 0.7, 0.9, 0.5, 0.95, 0.6, 0.85, 0.3, 0.98)
#: Widths are multiples of 1/256, and at most 64: the channels of built-in models change at most so often.
STEPS, _WIDEST = 256, 64


@dataclass(frozen=True)
class Candidate:
    """A network that may be trained.

    Attributes:
        sparsity: fraction of its weights that is pruned.
        width: factor on the number of channels.
        weights: number of masked weights.
        predicted_bytes: size of the smallest file, estimated.
        multiply_adds: with one example, of the dense network; ``None`` if they cannot be counted.
    """

    sparsity: float
    width: float
    weights: int
    predicted_bytes: int
    multiply_adds: int | None


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest whole number up to ``most`` that fits, found by bisection; 0 if 1 does not.

    Args:
        fits: if a number fits, all smaller ones do.
        most: the limit.

    Example:
        >>> largest(lambda number: number**2 <= 1000, 100), largest(lambda number: True, 5)
        (31, 5)
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class FileSizes:
    """Predicts the smallest files of the networks of a recipe: bare, with their state rounded.

    Attributes:
        recipe: its width and sparsity are replaced.
        num_classes: outputs.
        input: the images or texts that the network takes.
        redrawn: share of the kept weights that have another value than at first; see `estimate`.
    """

    recipe: Recipe
    num_classes: int
    input: AnyInput
    redrawn: float | None = None

    def recipe_of(self, sparsity: float, width: float) -> Recipe:
        """The recipe with another sparsity and width."""
        return override(self.recipe, {"subnetwork.sparsity": sparsity, "model.width": width})

    def predicted(self, recipe: Recipe) -> Candidate:
        """The network of a recipe.

        Raises:
            ConfigError: settings that make no sense together, or a layer that would lose all its weights.
        """
        size = estimate(
            recipe.model,
            recipe.subnetwork,
            num_classes=self.num_classes,
            input=self.input,
            redrawn=self.redrawn,
            bare=True,
            state_dtype=SMALLEST_STATE,
        )
        sparsity, width = recipe.subnetwork.sparsity, recipe.model.width
        return Candidate(sparsity, width, size.weights, size.file_bytes, size.multiply_adds)

    def candidate(self, sparsity: float, steps: int) -> Candidate | None:
        """The network of a width, in steps; ``None`` if it is too narrow for the sparsity."""
        try:
            return self.predicted(self.recipe_of(sparsity, steps / STEPS))
        except ConfigError:
            return None

    def widest(self, sparsity: float, max_bytes: int) -> tuple[Candidate | None, Candidate | None]:
        """The widest network whose file is within a limit, and the next wider one, whose file is not.

        Either is ``None`` if there is none.
        """
        candidate = cache(partial(self.candidate, sparsity))  # the bisection ends beside networks that it has met

        def fits(steps: int) -> bool:
            found = candidate(steps)
            return found is None or found.predicted_bytes <= max_bytes

        steps = largest(fits, _WIDEST * STEPS)
        return (candidate(steps) if steps else None), candidate(steps + 1)

    def narrower(self, candidate: Candidate, excess: int) -> Candidate:
        """The widest network of the same sparsity whose file is smaller by so many bytes.

        Raises:
            ConfigError: there is none.
        """
        found, _ = self.widest(candidate.sparsity, candidate.predicted_bytes - excess)
        if found is None:
            raise ConfigError(
                f"search: the file of sparsity {candidate.sparsity:g}, width {candidate.width:g} is {excess:,} bytes "
                "too large, and no narrower network is small enough; raise --max-bytes"
            )
        return found


def propose(sizes: FileSizes, max_bytes: int, count: int) -> tuple[Candidate, ...]:
    """The widest networks within a limit, for so many sparsities.

    Args:
        sizes: predicts the files.
        max_bytes: the limit.
        count: number of networks; fewer if sparsities are left for which none is small enough.

    Raises:
        ConfigError: no network is that small, or the recipe makes no sense as it is.
    """
    sizes.predicted(sizes.recipe)  # what is wrong with the recipe itself is wrong with every width
    found, above = [], []
    for sparsity in SPARSITIES:
        candidate, wider = sizes.widest(sparsity, max_bytes)
        if candidate is not None:
            found.append(candidate)
        elif wider is not None:
            above.append(wider)
        if len(found) == count:
            break
    if not found:
        least = min(above, key=lambda candidate: candidate.predicted_bytes, default=None)
        known = (
            f"; the smallest has about {least.predicted_bytes:,} (sparsity {least.sparsity:g}, width {least.width:g})"
            if least
            else ""
        )
        raise ConfigError(
            f"search: no network of this recipe has a file of at most {max_bytes:,} bytes{known}: raise --max-bytes, "
            "or choose another --model"
        )
    return tuple(found)
