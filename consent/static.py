"""The log as static files that any web server can serve: tiles, entry bundles, checkpoint.

Files appear whole or not at all (temporary name, fsync, rename). Full tiles are never written twice; the
checkpoint comes last, so that whatever it promises is already there. What was signed and published is also
the witness against a database that was rolled back: nothing smaller, and nothing else, is ever signed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.cosignatures import add_signatures
from consent.errors import RolledBack
from consent.notes import NoteSignature, VerifierKey
from consent.tiles import TILE_WIDTH, Tile, bundle_path, parse_path, tile_path
from consent.trust_policy import TrustPolicy
from privacy.errors import Misuse, StorageError, Tampered

__all__ = ["CHECKPOINT", "COSIGNED", "StaticLog", "write_file"]

CHECKPOINT = "checkpoint"
COSIGNED = "checkpoint.cosigned"
"""The newest checkpoint that witnesses have cosigned. While the log grows faster than they answer, the newest
checkpoint of all has not been cosigned yet; each that is verified against a trust policy has been."""
_PARALLEL = 8

FileWriter = Callable[[Path, bytes], None]
T = TypeVar("T")


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, durable on return (but for the directory entry)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unpublished(error: OSError) -> StorageError:
    return StorageError(
        f"The log could not be published (errno {error.errno}).",
        advice="What was recorded is safe in the database and is published at the next start.",
    )


class StaticLog:
    """A log directory. `write` is how a file is written, replaceable to inject faults."""

    def __init__(self, directory: Path, key: VerifierKey, write: FileWriter = write_file) -> None:
        self.directory = Path(directory)
        self._key = key
        self._write = write
        self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="log-files")
        self.directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One publisher at a time, across processes."""
        try:
            lock = (self.directory / ".lock").open("a")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise _unpublished(error) from error
        with lock:
            yield

    def published(self) -> Checkpoint | None:
        """The checkpoint on disk; None before the first. Raises RolledBack if it is not this log's."""
        return self._open(CHECKPOINT)

    def cosigned(self) -> Checkpoint | None:
        """The newest cosigned checkpoint on disk; None before the first. Raises RolledBack likewise."""
        return self._open(COSIGNED)

    def _open(self, name: str) -> Checkpoint | None:
        try:
            data = (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError("The published checkpoint cannot be read.") from error
        try:
            return open_checkpoint(data, [self._key])
        except Tampered as error:
            raise RolledBack(
                "The published checkpoint is damaged, or another log's.",
                advice="Restore it from a partner or a backup; do not delete it without finding out why.",
            ) from error

    def read(self, path: str) -> bytes | None:
        """The bytes at a tile path or `checkpoint`; None where there is nothing. Stays inside."""
        if path not in (CHECKPOINT, COSIGNED):
            try:
                parse_path(path)
            except Misuse:
                return None
        try:
            return (self.directory / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StorageError("A published file cannot be read.") from error

    def publish(self, files: Iterator[tuple[Tile, bytes]], checkpoint: Checkpoint) -> None:
        """Write tiles and bundles, then the checkpoint. Raises Tampered where a full tile differs."""
        touched: set[Path] = set()
        completed: list[Path] = []
        try:
            self._each(self._place, self._targets(files, touched, completed))
            self._each(_sync_directory, sorted(touched, reverse=True))
            self._write(self.directory / CHECKPOINT, checkpoint.text.encode())
            _sync_directory(self.directory)
            for stale in completed:
                shutil.rmtree(stale, ignore_errors=True)
        except OSError as error:
            raise _unpublished(error) from error

    def _each(self, do: Callable[[T], None], items: Iterable[T]) -> None:
        """`do` every item, several at a time. When this returns or raises, nothing of it runs any more.

        Else a file of a failed publication could be cut short or put in place during the next one, which may
        be another process's: the lock has been let go by then.
        """
        done: list[Future[None]] = []
        try:
            done.extend(self._pool.submit(do, item) for item in items)
        finally:
            wait(done)
        for each in done:
            each.result()

    def add_cosignatures(
        self, checkpoint: Checkpoint, signatures: Sequence[NoteSignature], policy: TrustPolicy
    ) -> None:
        """Publish verified cosignatures of a checkpoint of this log.

        They go into the published checkpoint while it is still this one, and into the cosigned one unless
        that is newer, or is of a quorum of `policy` where these are not.
        """
        with self.exclusive():
            published, cosigned = self.published(), self.cosigned()
            try:
                if published is not None and published.body == checkpoint.body:
                    merged = add_signatures(published.text, signatures)
                    if merged != published.text:
                        self._write(self.directory / CHECKPOINT, merged.encode())
                same = cosigned is not None and cosigned.body == checkpoint.body
                text = add_signatures(cosigned.text if same and cosigned else checkpoint.text, signatures)
                better = (
                    cosigned is None
                    or (same and text != cosigned.text)
                    or (
                        checkpoint.size > cosigned.size
                        and (policy.open(text, self._key)[1] or not policy.open(cosigned.text, self._key)[1])
                    )
                )
                if better:
                    self._write(self.directory / COSIGNED, text.encode())
                _sync_directory(self.directory)
            except OSError as error:
                raise StorageError(
                    f"The cosigned checkpoint could not be published (errno {error.errno})."
                ) from error

    def _targets(
        self, files: Iterator[tuple[Tile, bytes]], touched: set[Path], completed: list[Path]
    ) -> Iterator[tuple[Path, bytes, bool]]:
        for tile, data in files:
            path = self.directory / (
                bundle_path(tile.index, tile.width) if tile.level < 0 else tile_path(tile)
            )
            folder = path.parent
            new = []
            while folder not in touched and folder != self.directory:
                new.append(folder)
                folder = folder.parent
            path.parent.mkdir(parents=True, exist_ok=True)
            touched.update(new, [self.directory])
            if tile.width == TILE_WIDTH:
                completed.append(path.with_name(path.name + ".p"))
            yield path, data, tile.full

    def _place(self, target: tuple[Path, bytes, bool]) -> None:
        path, data, full = target
        if full:
            try:
                there = path.read_bytes()
            except FileNotFoundError:
                pass
            else:
                if there != data:
                    raise Tampered("A published tile differs from the database.", code="tile_changed")
                return
        self._write(path, data)
