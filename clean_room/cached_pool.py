"""A blinding pool that hashes nobody to the curve a second time (`clean_room.point_cache`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.group.blinding import Blinder
from clean_room.group.hash_to_curve import DST
from clean_room.group.points import WHOLE, Buffer
from clean_room.group.pool import BlindingPool, Progress
from clean_room.point_cache import PointCache, PointSet
from privacy.errors import Misuse

Column: TypeAlias = "pa.BinaryArray | pa.ChunkedArray"

__all__ = ["CachedPool", "CachingPool", "with_points"]


class _Through(BlindingPool):
    """The work of `pool`, which is closed by whoever made it; this has no workers of its own."""

    def __init__(self, pool: BlindingPool) -> None:
        self._pool = pool

    @property
    def engine(self) -> str:
        """As the pool given."""
        return self._pool.engine

    @property
    def blinder(self) -> Blinder:
        """As the pool given."""
        return self._pool.blinder

    @property
    def workers(self) -> int:
        """As the pool given."""
        return self._pool.workers

    def warm(self) -> None:
        """As the pool given."""
        self._pool.warm()

    def close(self) -> None:
        """The pool given is closed by whoever made it."""
        raise Misuse("A pool with a cache is not closed; close the pool it works with.")

    def hash(self, canonicals: Column, *, dst: bytes = DST, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        return self._pool.hash(canonicals, dst=dst, progress=progress)

    def hash_and_blind(
        self, canonicals: Column, scalar: bytes, *, dst: bytes = DST, progress: Progress | None = None
    ) -> bytes:
        """As the pool given."""
        return self._pool.hash_and_blind(canonicals, scalar, dst=dst, progress=progress)

    def blind(self, scalar: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        return self._pool.blind(scalar, points, progress=progress)

    def pair_hash(
        self, canonicals: Column, key: bytes, salt: bytes, *, progress: Progress | None = None
    ) -> bytes:
        """As the pool given; nothing of it is kept."""
        return self._pool.pair_hash(canonicals, key, salt, progress=progress)

    def pair_encrypt(self, key: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        return self._pool.pair_encrypt(key, points, progress=progress)


class CachingPool(_Through):
    """The work of `pool`, and the cache that `with_points` takes the points of larger lists from.

    Lists of fewer than `least` people are hashed each time: that takes no longer than to look them up.
    """

    def __init__(self, pool: BlindingPool, cache: PointCache, *, least: int) -> None:
        super().__init__(pool)
        self._cache = cache
        self._least = least

    def worth_it(self, people: Sequence[pa.BinaryArray]) -> bool:
        """Whether there are so many people that the cache is quicker."""
        return sum(map(len, people)) >= self._least

    def of(self, lineage: str, kind: str, profile: str, people: Sequence[pa.BinaryArray]) -> BlindingPool:
        """A pool that takes the points of `people` from the cache, if there are enough of them."""
        if not self.worth_it(people):
            return self._pool
        return CachedPool(self._pool, self._cache.set_of(lineage, kind, profile), people)


class CachedPool(_Through):
    """The work of `pool`, with the points of `people` from a cache, which gets those that it lacks.

    Whoever is in a column and not among `people` (padding is not) is hashed as ever and not kept.
    """

    def __init__(self, pool: BlindingPool, points: PointSet, people: Sequence[pa.BinaryArray]) -> None:
        super().__init__(pool)
        self._points = points
        self._people = pa.concat_arrays([column.cast(pa.binary()) for column in people])

    def hash(self, canonicals: Column, *, dst: bytes = DST, progress: Progress | None = None) -> bytes:
        """As the pool given; own people come from the cache."""
        if dst != DST or canonicals.null_count:
            return self._pool.hash(canonicals, dst=dst, progress=progress)
        column = (
            pa.concat_arrays(canonicals.chunks) if isinstance(canonicals, pa.ChunkedArray) else canonicals
        )
        column = column.cast(pa.binary())
        place = pc.fill_null(pc.index_in(column, value_set=self._people), -1).to_numpy()
        own, others = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
        points = np.zeros(len(column), dtype=f"V{WHOLE}")
        if len(own):
            kept = self._points.points(column.take(pa.array(own)), self._pool.hash)
            points[own] = np.frombuffer(kept, dtype=f"V{WHOLE}")
        if len(others):
            made = self._pool.hash(column.take(pa.array(others)))
            points[others] = np.frombuffer(made, dtype=f"V{WHOLE}")
        return points.tobytes()

    def hash_and_blind(
        self, canonicals: Column, scalar: bytes, *, dst: bytes = DST, progress: Progress | None = None
    ) -> bytes:
        """As the pool given."""
        if dst != DST or canonicals.null_count:
            return self._pool.hash_and_blind(canonicals, scalar, dst=dst, progress=progress)
        return self._pool.blind(scalar, self.hash(canonicals), progress=progress)


def with_points(
    pool: BlindingPool, lineage: str, kind: str, profile: str, people: Sequence[pa.BinaryArray]
) -> BlindingPool:
    """`pool` for a run about `people`, with their points from a cache where the pool has one.

    Rows that are joined on several keys are not columns of identifiers; they are hashed each time.
    """
    columns = all(pa.types.is_binary(column.type) for column in people)
    if isinstance(pool, CachingPool) and columns:
        return pool.of(lineage, kind, profile, people)
    return pool
