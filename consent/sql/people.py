"""Subjects: their handles, sealed identifiers, and the keyed hashes they are found by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from consent import tables as t
from consent.rows import SubjectRow
from consent.sql.rows import ReadRows, WriteRows


class PeopleView(ReadRows):
    """Reads of subjects."""

    def find_subjects(self, lookups: Sequence[bytes]) -> dict[bytes, bytes]:
        return {bytes(k): bytes(v) for k, v in self._in("lookup, subject", t.aliases, "lookup", lookups)}

    def subjects(self, handles: Sequence[bytes]) -> dict[bytes, SubjectRow]:
        rows = self._in("handle, wrapped_key, identifiers, created_at", t.subjects, "handle", handles)
        return {bytes(h): SubjectRow(bytes(h), bytes(k), bytes(i), at) for h, k, i, at in rows}

    def all_subjects(self) -> Iterator[SubjectRow]:
        c = t.subjects.c
        for h, k, i, at in self._stream(sa.select(c.handle, c.wrapped_key, c.identifiers, c.created_at)):
            yield SubjectRow(bytes(h), bytes(k), bytes(i), at)

    def aliases_of(self, subject: bytes) -> dict[bytes, str]:
        query = sa.select(t.aliases.c.lookup, t.aliases.c.kind).where(t.aliases.c.subject == subject)
        return {bytes(lookup): kind for lookup, kind in self._c.execute(query)}

    def count_aliases(self) -> int:
        return int(self._c.execute(sa.select(sa.func.count()).select_from(t.aliases)).scalar_one())


class PeopleChanges(WriteRows):
    """Writes of subjects."""

    def add_subjects(self, rows: Sequence[SubjectRow]) -> None:
        self._insert(t.subjects, SubjectRow._fields, sorted(rows))

    def put_identifiers(self, handle: bytes, sealed: bytes) -> None:
        self._c.execute(sa.update(t.subjects).where(t.subjects.c.handle == handle).values(identifiers=sealed))

    def add_aliases(self, rows: Sequence[tuple[bytes, str, bytes]]) -> None:
        self._insert(t.aliases, ("lookup", "kind", "subject"), sorted(rows))
