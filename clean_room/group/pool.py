"""The heavy step, spread over processes: `hash_and_blind` and `blind` in chunks of up to 65,536 points."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import pyarrow as pa

from clean_room.errors import BadInput, Misuse
from clean_room.group.blinding import Blinder, check_canonical, check_lengths
from clean_room.group.engines import choose_blinder
from clean_room.group.hash_to_curve import DST, hash_column
from clean_room.group.points import WHOLE, Buffer
from clean_room.group.ristretto import encrypt
from clean_room.group.worker import (
    BLIND,
    HASH,
    HASH_AND_BLIND,
    PAIR_ENCRYPT,
    PAIR_HASH,
    WorkerLost,
    decode_answer,
    encode_request,
    pack,
    pair_hash,
)

__all__ = ["CHUNK", "BlindingPool", "Progress"]

CHUNK = 65_536
"""Points in the largest chunk."""
_SMALLEST_CHUNK = 512
_SECONDS_TO_END = 10
_PROGRAM = "from clean_room.group.worker import main; main()"

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (points done, points in all), from the calling thread, as chunks come back."""


class _Worker:
    """One worker process, used by one thread at a time."""

    def __init__(self, engine: str) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            # -P: the working directory is not searched for modules.
            [sys.executable, "-P", "-c", _PROGRAM, engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    def call(self, task: int, scalar: bytes, tag: bytes, payload: list[Buffer]) -> bytes:
        """One request, one answer."""
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            raise WorkerLost("A blinding worker has no pipes.")
        try:
            for part in encode_request(task, scalar, tag, payload):
                requests.write(part)
            requests.flush()
        except OSError:
            raise WorkerLost("A blinding worker ended before its work was done.") from None
        return decode_answer(answers)

    def end(self) -> None:
        """Close its input, upon which it leaves; kill it if it does not."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # what was still to be flushed has nobody to go to
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _column(canonicals: pa.BinaryArray | pa.ChunkedArray) -> pa.BinaryArray:
    """One array without nulls. Raises BadInput."""
    if canonicals.null_count:
        raise BadInput("Missing identifiers cannot be hashed to the curve; filter them out first.")
    column = canonicals.combine_chunks() if isinstance(canonicals, pa.ChunkedArray) else canonicals
    if isinstance(column, pa.ChunkedArray):  # combine_chunks of an empty column, or past 2 GB
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.binary())
    return column


class BlindingPool:
    """Worker processes that hash and blind; a context manager.

    `workers` = 0 does everything in the calling thread. Workers start with the first call or `warm()`, and
    end with `close()`, with the `with` block, and by themselves when this process is gone. Secrets go to
    them through a pipe and are kept nowhere. A worker that dies makes the running call fail with
    `worker_lost` (retryable); the next call starts a fresh one.

    Calls may come from several threads; each gets its answer in the order of its input.
    """

    def __init__(self, workers: int = 0, *, engine: str = "auto", chunk: int = CHUNK) -> None:
        if workers < 0 or not 0 < chunk <= CHUNK:
            raise Misuse(f"A pool has 0 or more workers and chunks of 1 to {CHUNK} points.")
        self._blinder = choose_blinder(engine)
        self._workers, self._chunk = workers, chunk
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)  # a place where a worker can be started
        self._threads: ThreadPoolExecutor | None = None
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
            already, self._closed = self._closed, True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        for _ in range(0 if already else self._workers):
            worker = self._idle.get()
            if worker is not None:
                worker.end()

    def warm(self) -> None:
        """Start all workers now, so that the first real call does not wait for them."""
        self._open()
        taken = [self._idle.get() for _ in range(self._workers)]
        started = [worker or _Worker(self.engine) for worker in taken]
        try:
            for worker in started:
                worker.call(BLIND, bytes(WHOLE), b"", [])
        finally:
            for worker in started:
                self._idle.put(worker)

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
        column = _column(canonicals)

        def work(start: int, stop: int) -> bytes:
            part = column.slice(start, stop - start)
            if not self._workers:
                return self._blinder.blind(scalar, hash_column(part, dst))
            return self._call(HASH_AND_BLIND, scalar, dst, pack(part.cast(pa.binary())))

        return self._map(len(column), work, progress)

    def hash(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        *,
        dst: bytes = DST,
        progress: Progress | None = None,
    ) -> bytes:
        """H(c) for every canonical identifier c, in order, not blinded: to be kept, never to be sent.

        Raises BadInput on nulls.
        """
        column = _column(canonicals)

        def work(start: int, stop: int) -> bytes:
            part = column.slice(start, stop - start)
            if not self._workers:
                return hash_column(part, dst)
            return self._call(HASH, bytes(WHOLE), dst, pack(part.cast(pa.binary())))

        return self._map(len(column), work, progress)

    def blind(self, scalar: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """X25519(scalar, u) for every u of the flat buffer, in order. Errors as `Blinder.blind`."""
        n = check_lengths(scalar, points)
        check_canonical(points)
        flat = memoryview(points).cast("B") if n else memoryview(b"")

        def work(start: int, stop: int) -> bytes:
            part = flat[start * WHOLE : stop * WHOLE]
            # Two points in a message are not worth a trip to another process.
            if not self._workers or n < _SMALLEST_CHUNK // 8:
                return self._blinder.blind(scalar, part)
            return self._call(BLIND, scalar, b"", [part])

        return self._map(n, work, progress)

    def pair_hash(
        self,
        canonicals: pa.BinaryArray | pa.ChunkedArray,
        key: bytes,
        salt: bytes,
        *,
        progress: Progress | None = None,
    ) -> bytes:
        """PAIR's E(key, P(e)) for every address e (`clean_room.group.ristretto`), in order."""
        column = _column(canonicals)

        def work(start: int, stop: int) -> bytes:
            part = column.slice(start, stop - start).cast(pa.binary())
            if not self._workers:
                return pair_hash(part, key, salt)
            return self._call(PAIR_HASH, key, salt, pack(part))

        return self._map(len(column), work, progress)

    def pair_encrypt(self, key: bytes, points: Buffer, *, progress: Progress | None = None) -> bytes:
        """PAIR's E(key, P) for every point of a flat buffer, in order. Errors as `ristretto.encrypt`."""
        n = check_lengths(key, points)
        flat = memoryview(points).cast("B") if n else memoryview(b"")

        def work(start: int, stop: int) -> bytes:
            part = flat[start * WHOLE : stop * WHOLE]
            if not self._workers:
                return encrypt(key, part)
            return self._call(PAIR_ENCRYPT, key, b"", [part])

        return self._map(n, work, progress)

    def _call(self, task: int, scalar: bytes, tag: bytes, payload: list[Buffer]) -> bytes:
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self.engine)
            return worker.call(task, scalar, tag, payload)
        except WorkerLost:
            if worker is not None:
                worker.end()
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def _open(self) -> ThreadPoolExecutor | None:
        with self._lock:
            if self._closed:
                raise Misuse("This pool is closed.")
            if self._threads is None and self._workers:
                self._threads = ThreadPoolExecutor(self._workers, "blinding")
            return self._threads

    def _map(self, n: int, work: Callable[[int, int], bytes], progress: Progress | None) -> bytes:
        """Small inputs are cut finer, so that every worker gets some and progress is seen.

        At most two chunks a worker are in flight: the input is not copied into a queue all at once.
        """
        threads = self._open()
        size = max(min(self._chunk, -(-n // (4 * max(self._workers, 1)))), min(_SMALLEST_CHUNK, self._chunk))
        bounds: Iterator[int] = iter(range(0, n, size))
        running: dict[Future[bytes], int] = {}
        parts: dict[int, bytes] = {}
        done = 0
        if threads is None:
            for at in bounds:
                parts[at] = work(at, min(at + size, n))
                if progress:
                    progress(min(at + size, n), n)
            return b"".join(parts.values())
        try:
            while True:
                while len(running) < 2 * self._workers and (start := next(bounds, None)) is not None:
                    running[threads.submit(work, start, min(start + size, n))] = start
                if not running:
                    return b"".join(parts[start] for start in sorted(parts))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    start = running.pop(future)
                    parts[start] = future.result()
                    done += min(size, n - start)
                    if progress:
                        progress(done, n)
        except (CancelledError, RuntimeError):
            if not self._closed:
                raise
            raise Misuse("This pool was closed while it was at work.") from None
        finally:
            for future in running:
                future.cancel()
