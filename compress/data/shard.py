"""Which part of each batch is one process's, when several share the work."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WHOLE", "Shard"]


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count`` contiguous parts of every batch; sizes of parts differ by one at most."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard: expected an index in [0, {self.count}), got {self.index}")

    def of(self, start: int, stop: int) -> slice:
        """The own part of the positions from ``start`` to ``stop`` (exclusive); it may be empty."""
        size = max(0, stop - start)
        return slice(start + size * self.index // self.count, start + size * (self.index + 1) // self.count)

    def micro_batches(self, size: int, count: int) -> list[slice]:
        """``count`` contiguous pieces of this shard of ``size`` positions, counted from its first one.

        They are the shards that there would be if there were ``count`` times as many.
        """
        own = self.of(0, size)
        shards = [Shard(self.index * count + number, self.count * count).of(0, size) for number in range(count)]
        return [slice(shard.start - own.start, shard.stop - own.start) for shard in shards]


#: All of it.
WHOLE = Shard()
