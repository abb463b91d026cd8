"""The heavy step, spread over processes: `hash_and_blind` and `blind` in chunks of up to 65,536 points."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from types import TracebackType
from typing import Self, TypeAlias

import pyarrow as pa

from clean_room.errors import ComityError, Misuse
from clean_room.group.blinding import Blinder, check_canonical, check_lengths, choose_blinder
from clean_room.group.hash_to_curve import DST, hash_column
from clean_room.group.points import WHOLE, Buffer

__all__ = ["CHUNK", "BlindingPool", "Progress"]

CHUNK = 65_536
"""Points in the largest chunk."""
_SMALLEST_CHUNK = 512

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (points done, points in all), from the calling thread, as chunks come back."""

_engine: Blinder | None = None


class PoolBroken(ComityError):
    """A worker process died (out of memory, killed). The step can be tried again with a new pool."""

    code = "pool_broken"
    retryable = True


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _start_worker(engine: str) -> None:
    """A worker that outlived a killed parent would wait forever: the executor's pipes never close."""
    global _engine  # noqa: PLW0603  one engine a process, chosen once
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _engine = choose_blinder(engine)


def _worker_engine() -> Blinder:
    if _engine is None:
        raise Misuse("This process was not started as a blinding worker.")
    return _engine


def _hash_and_blind(values: pa.BinaryArray, scalar: bytes, dst: bytes) -> bytes:
    return _worker_engine().blind(scalar, hash_column(values, dst))


def _blind(scalar: bytes, points: bytes) -> bytes:
    return _worker_engine().blind(scalar, points)


class BlindingPool:
    """Worker processes that hash and blind; a context manager.

    `workers` = 0 does everything in the calling thread. Workers start with the first call, are fresh
    interpreters (forkserver or spawn: a fork of a process with threads may deadlock), and end with
    `close()`, with the `with` block, and with the parent if it is killed. Secrets go to the workers
    through a pipe and are kept nowhere. Scripts that use workers need the usual
    `if __name__ == "__main__":` guard.

    Calls may come from several threads; each gets its answer in the order of its input.
    """

    def __init__(self, workers: int = 0, *, engine: str = "auto", chunk: int = CHUNK) -> None:
        if workers < 0 or not 0 < chunk <= CHUNK:
            raise Misuse(f"A pool has 0 or more workers and chunks of 1 to {CHUNK} points.")
        self._blinder = choose_blinder(engine)
        self._workers, self._chunk, self._engine = workers, chunk, engine
        self._executor: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def engine(self) -> str:
        """Name of the engine in use: `cryptography` or `ipp`."""
        return self._blinder.name

    @property
    def blinder(self) -> Blinder:
        """The engine itself, in this process, for a handful of points."""
        return self._blinder

    @property
    def workers(self) -> int:
        """Number of worker processes; 0 means inline."""
        return self._workers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and wait for them. Idempotent; calls after it raise Misuse."""
        with self._lock:
            executor, self._executor, self._closed = self._executor, None, True
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def hash_and_blind(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        scalar: bytes,
        *,
        dst: bytes = DST,
        progress: Progress | None = None,
    ) -> bytes:
        """H(c)^scalar for every canonical identifier c, in order: len(canonicals) · 32 bytes.

        Raises BadInput on nulls.
        """
        check_lengths(scalar, b"")
        column = canonicals.combine_chunks() if isinstance(canonicals, pa.ChunkedArray) else canonicals
        if isinstance(column, pa.ChunkedArray):  # combine_chunks of an empty column, or past 2 GB
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.binary())
        size = self._chunk_size(len(column))
        if not self._workers:
            return self._inline(
                len(column),
                size,
                lambda i, j: self._blinder.blind(scalar, hash_column(column.slice(i, j - i), dst)),
                progress,
            )
        executor = self._start()
        # A slice pickles with the whole column behind it; a copy of the slice does not.
        return self._spread(
            len(column),
            size,
            lambda i, j: executor.submit(
                _hash_and_blind, pa.concat_arrays([column.slice(i, j - i), column.slice(0, 0)]), scalar, dst
            ),
            progress,
        )

    def blind(self, scalar: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """X25519(scalar, u) for every u of the flat buffer, in order. Errors as `Blinder.blind`."""
        n = check_lengths(scalar, points)
        check_canonical(points)
        flat, size = memoryview(points).cast("B") if n else memoryview(b""), self._chunk_size(n)
        if not self._workers:
            return self._inline(
                n, size, lambda i, j: self._blinder.blind(scalar, flat[i * WHOLE : j * WHOLE]), progress
            )
        executor = self._start()
        return self._spread(
            n,
            size,
            lambda i, j: executor.submit(_blind, scalar, bytes(flat[i * WHOLE : j * WHOLE])),
            progress,
        )

    def _chunk_size(self, n: int) -> int:
        """Small inputs are cut finer, so that every worker gets some and progress is seen."""
        return max(min(self._chunk, -(-n // (4 * max(self._workers, 1)))), min(_SMALLEST_CHUNK, self._chunk))

    def _start(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise Misuse("This pool is closed.")
            if self._executor is None:
                methods = multiprocessing.get_all_start_methods()
                context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
                self._executor = ProcessPoolExecutor(
                    self._workers, context, initializer=_start_worker, initargs=(self._blinder.name,)
                )
            return self._executor

    def _inline(
        self, n: int, size: int, work: Callable[[int, int], bytes], progress: Progress | None
    ) -> bytes:
        if self._closed:
            raise Misuse("This pool is closed.")
        parts = []
        for start in range(0, n, size):
            stop = min(start + size, n)
            parts.append(work(start, stop))
            if progress:
                progress(stop, n)
        return b"".join(parts)

    def _spread(
        self, n: int, size: int, submit: Callable[[int, int], Future[bytes]], progress: Progress | None
    ) -> bytes:
        """At most two chunks a worker are in flight: the input is not copied into a queue all at once."""
        bounds: Iterator[int] = iter(range(0, n, size))
        running: dict[Future[bytes], int] = {}
        parts: dict[int, bytes] = {}
        done = 0
        try:
            while True:
                while len(running) < 2 * self._workers and (start := next(bounds, None)) is not None:
                    running[submit(start, min(start + size, n))] = start
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    start = running.pop(future)
                    parts[start] = future.result()
                    done += min(size, n - start)
                    if progress:
                        progress(done, n)
        except BrokenProcessPool:
            with self._lock:
                self._executor = None
            raise PoolBroken("A blinding worker ended before its work was done.") from None
        finally:
            for future in running:
                future.cancel()
        return b"".join(parts[start] for start in sorted(parts))
