"""A blinding pool that hashes nobody to the curve a second time (`clean_room.point_cache`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clean_room.group.blinding import Blinder
from clean_room.group.hash_to_curve import DST
from clean_room.group.points import WHOLE, Buffer
from clean_room.group.pool import BlindingPool, Progress
from clean_room.point_cache import PointSet
from privacy.errors import Misuse

__all__ = ["CachedPool"]


class CachedPool(BlindingPool):
    """The work of `pool`, with the points of `people` from a cache, which gets those that it lacks.

    Whoever is in a column and not among `people` (padding is not) is hashed as ever and not kept. It has no
    workers of its own and is not closed.
    """

    def __init__(  # the work is that of the pool given
        self, pool: BlindingPool, points: PointSet, people: Sequence[pa.BinaryArray]
    ) -> None:
        self._pool = pool
        self._points = points
        self._people = pa.concat_arrays([column.cast(pa.binary()) for column in people])

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

    def hash(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        *,
        dst: bytes = DST,
        progress: Progress | None = None,
    ) -> bytes:
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
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        scalar: bytes,
        *,
        dst: bytes = DST,
        progress: Progress | None = None,
    ) -> bytes:
        """As the pool given."""
        if dst != DST or canonicals.null_count:
            return self._pool.hash_and_blind(canonicals, scalar, dst=dst, progress=progress)
        return self._pool.blind(scalar, self.hash(canonicals), progress=progress)

    def blind(self, scalar: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        return self._pool.blind(scalar, points, progress=progress)

    def pair_hash(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        key: bytes,
        salt: bytes,
        *,
        progress: Progress | None = None,
    ) -> bytes:
        """As the pool given; nothing of it is kept."""
        return self._pool.pair_hash(canonicals, key, salt, progress=progress)

    def pair_encrypt(self, key: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        return self._pool.pair_encrypt(key, points, progress=progress)
