"""The erasure journal: which suppressions were made, sealed, in a file beside the database.

A database restored from a backup that is older than an erasure has the person again. The log says that
somebody was erased, not who; the journal does, to the node alone, so that the erasure can be repeated.
It holds no identifier: only the keyed hashes that `consent.suppression` keeps, sealed under the ring.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consent.encoding import canonical_json, parse_json
from consent.rows import SuppressionRow
from privacy.errors import ComityError, StorageError, Tampered
from privacy.keys import KeyRing

__all__ = ["ErasureJournal", "JournalEntry"]

_CONTEXT = b"consent/erasure-journal"
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One erasure: the index of its `erasure.completed`, when, and (suppression lookup, key version)."""

    index: int
    at: int
    basis: str
    lookups: tuple[tuple[bytes, int], ...] = field(repr=False)


class ErasureJournal:
    """An append-only file of sealed lines; one that a crash cut short counts for nothing."""

    def __init__(self, path: Path, ring: KeyRing) -> None:
        self._path = Path(path)
        self._ring = ring

    def add(self, index: int, at: int, rows: Sequence[SuppressionRow]) -> None:
        """Durable on return. Raises StorageError."""
        body = {
            "index": index,
            "at": at,
            "basis": rows[0].basis if rows else "",
            "lookups": [[row.lookup.hex(), row.version] for row in rows],
        }
        line = base64.b64encode(self._ring.seal(canonical_json(body), _CONTEXT)) + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                # After a crash the last line may be half there; its erasure was never acknowledged.
                kept = self._whole_lines(handle)
                os.ftruncate(handle, kept)
                os.pwrite(handle, line, kept)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(f"The erasure journal could not be written (errno {error.errno}).") from error

    @staticmethod
    def _whole_lines(handle: int) -> int:
        size = os.fstat(handle).st_size
        start = max(0, size - _LIMIT)
        return start + os.pread(handle, size - start, start).rfind(b"\n") + 1

    def entries(self) -> list[JournalEntry]:
        """Every erasure in the file, oldest first. Raises StorageError; Tampered for a changed line."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"The erasure journal could not be read (errno {error.errno}).") from error
        found = []
        for line in lines[:-1]:
            try:
                body = parse_json(self._ring.open(base64.b64decode(line), _CONTEXT), limit=_LIMIT)
                lookups = tuple((bytes.fromhex(lookup), int(version)) for lookup, version in body["lookups"])
                found.append(JournalEntry(int(body["index"]), int(body["at"]), str(body["basis"]), lookups))
            except (ComityError, binascii.Error, ValueError, KeyError, TypeError):
                raise Tampered("The erasure journal was changed.", code="bad_journal") from None
        return found
