"""The share of each batch that one of several processes computes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WHOLE", "Shard"]


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count`` contiguous slices of every batch, whose sizes differ by one at most."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard: expected an index in [0, {self.count}), got {self.index}")

    def of(self, start: int, stop: int) -> slice:
        """The slice of the positions from ``start`` to ``stop`` (exclusive); it may be empty."""
        size = max(0, stop - start)
        return slice(start + size * self.index // self.count, start + size * (self.index + 1) // self.count)

    def micro_batches(self, size: int, count: int) -> list[slice]:
        """Split this shard of a batch of ``size`` positions into ``count`` slices, counted from its first position.

        They are the shards of ``count`` times as many processes.
        """
        own = self.of(0, size)
        shards = [Shard(self.index * count + number, self.count * count).of(0, size) for number in range(count)]
        return [slice(shard.start - own.start, shard.stop - own.start) for shard in shards]


#: The shard of a single process: all of the batch.
WHOLE = Shard()
