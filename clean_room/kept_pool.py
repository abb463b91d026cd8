"""A blinding pool that remembers: what was computed before a crash is not computed again.

Calls are told apart by their order, which in a replay is the same. Each is kept in slices of about a
million points, so that a crash costs at most one slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pyarrow as pa

from clean_room.conversations.workshop import Keep
from clean_room.group.blinding import Blinder
from clean_room.group.hash_to_curve import DST
from clean_room.group.points import WHOLE, Buffer
from clean_room.group.pool import BlindingPool, Progress
from privacy.errors import Misuse, Tampered

__all__ = ["KeptPool"]

_SLICE = 1 << 20
_WORTH_KEEPING = 64
_MARK = 16


class KeptPool(BlindingPool):
    """The work of `pool` for one conversation, kept by `keep`; make a new one for each replay.

    It has no workers of its own and is not closed.
    """

    def __init__(self, pool: BlindingPool, keep: Keep) -> None:  # the work is that of the pool given
        self._pool = pool
        self._keep = keep
        self._calls = 0

    @property
    def engine(self) -> str:
        """As the pool given."""
        return self._pool.engine

    @property
    def blinder(self) -> Blinder:
        """As the pool given; what it does is not kept."""
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
        raise Misuse("A pool that remembers is not closed; close the pool it works with.")

    def hash_and_blind(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        scalar: bytes,
        *,
        dst: bytes = DST,
        progress: Progress | None = None,
    ) -> bytes:
        """As the pool given."""

        def work(start: int, stop: int, told: Progress | None) -> bytes:
            part = canonicals.slice(start, stop - start)
            return self._pool.hash_and_blind(part, scalar, dst=dst, progress=told)

        return self._kept(b"hash" + dst + scalar, len(canonicals), work, progress)

    def blind(self, scalar: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        flat = memoryview(points).cast("B") if memoryview(points).nbytes else memoryview(b"")

        def work(start: int, stop: int, told: Progress | None) -> bytes:
            return self._pool.blind(scalar, flat[start * WHOLE : stop * WHOLE], progress=told)

        return self._kept(b"blind" + scalar, flat.nbytes // WHOLE, work, progress, odd=flat.nbytes % WHOLE)

    def pair_hash(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        key: bytes,
        salt: bytes,
        *,
        progress: Progress | None = None,
    ) -> bytes:
        """As the pool given."""

        def work(start: int, stop: int, told: Progress | None) -> bytes:
            return self._pool.pair_hash(canonicals.slice(start, stop - start), key, salt, progress=told)

        return self._kept(b"pair hash" + salt + key, len(canonicals), work, progress)

    def pair_encrypt(self, key: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """As the pool given."""
        flat = memoryview(points).cast("B") if memoryview(points).nbytes else memoryview(b"")

        def work(start: int, stop: int, told: Progress | None) -> bytes:
            return self._pool.pair_encrypt(key, flat[start * WHOLE : stop * WHOLE], progress=told)

        return self._kept(b"pair" + key, flat.nbytes // WHOLE, work, progress, odd=flat.nbytes % WHOLE)

    def _kept(
        self,
        task: bytes,
        n: int,
        work: Callable[[int, int, Progress | None], bytes],
        progress: Progress | None,
        *,
        odd: int = 0,
    ) -> bytes:
        """The slices of one call, kept or computed now. `odd` bytes beyond whole points `work` refuses."""
        if n < _WORTH_KEEPING or odd:
            return work(0, n + (1 if odd else 0), progress)
        number, self._calls = self._calls, self._calls + 1
        mark = hashlib.sha256(task + n.to_bytes(8, "big")).digest()[:_MARK]
        parts = []
        for start in range(0, n, _SLICE):
            stop = min(start + _SLICE, n)

            def told(done: int, _: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + done, n)

            kept = self._keep(
                f"points-{number}.{start // _SLICE}",
                lambda start=start, stop=stop: mark + work(start, stop, told),  # type: ignore[misc]
            )
            if kept[:_MARK] != mark or len(kept) != _MARK + (stop - start) * WHOLE:
                raise Tampered("a replay takes another course than the run it stands for.")
            parts.append(kept[_MARK:] if n > stop - start else memoryview(kept)[_MARK:])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
