"""Erasure, suppression, merged subjects, and the version of the key that lookups are hashed under."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from consent import tables as t
from consent.rows import ErasureRow, OutboxRow, SuppressionRow
from consent.sql.rows import ReadRows
from consent.sql.standings import StandingsChanges

_SUBJECT = "subject"


class ErasureView(ReadRows):
    """Reads of what erasure, merging and rekeying keep."""

    def any_suppression(self) -> bool:
        return self._c.execute(sa.select(t.suppressions.c.version).limit(1)).first() is not None

    def suppressions(self, lookups: Sequence[bytes]) -> dict[bytes, SuppressionRow]:
        columns = ", ".join(SuppressionRow._fields)
        rows = self._in(columns, t.suppressions, "lookup", lookups)
        return {bytes(row[0]): SuppressionRow(bytes(row[0]), *row[1:]) for row in rows}

    def all_suppressions(self) -> Iterator[SuppressionRow]:
        for row in self._stream(sa.select(*t.suppressions.c)):
            yield SuppressionRow(bytes(row[0]), *row[1:])

    def erasure(self, request: str) -> ErasureRow | None:
        return next(iter(self._erasures(t.erasures.c.request == request)), None)

    def erasures(self, state: str | None = None) -> list[ErasureRow]:
        return self._erasures(*([] if state is None else [t.erasures.c.state == state]))

    def unscrubbed(self) -> list[ErasureRow]:
        return self._erasures(t.erasures.c.completed_at.is_not(None), t.erasures.c.scrubbed_at.is_(None))

    def _erasures(self, *where: sa.ColumnElement[bool]) -> list[ErasureRow]:
        query = sa.select(*t.erasures.c).where(*where).order_by(t.erasures.c.requested_index)
        return [_erasure(row) for row in self._c.execute(query).mappings()]

    def outbox_of(self, subject: bytes) -> list[OutboxRow]:
        query = sa.select(*t.outbox.c).where(t.outbox.c.subject == subject)
        rows = self._c.execute(query).mappings()
        return [OutboxRow(**row)._replace(subject=bytes(row["subject"])) for row in rows]

    def merged_parts(self, subject: bytes) -> list[tuple[bytes, int]]:
        c = t.subjects.c
        query = sa.select(c.handle, c.merged_at).where(c.merged_into == subject).order_by(c.merged_at)
        return [(bytes(handle), at) for handle, at in self._c.execute(query)]

    def merged_subjects(self) -> dict[bytes, bytes]:
        c = t.subjects.c
        query = sa.select(c.handle, c.merged_into).where(c.merged_into.is_not(None))
        return {bytes(handle): bytes(into) for handle, into in self._c.execute(query)}

    def lookup_version(self) -> int:
        return int(self._rows("SELECT lookup_version FROM consent_head")[0][0])

    def lookup_versions(self) -> list[tuple[int, int]]:
        c = t.lookup_keys.c
        query = sa.select(c.since_index, c.version).order_by(c.since_index, c.version)
        return [(since, version) for since, version in self._c.execute(query)]


class ErasureChanges(StandingsChanges):
    """Writes of the same."""

    def put_suppressions(self, rows: Sequence[SuppressionRow]) -> None:
        self._upsert(t.suppressions, [row._asdict() for row in rows])

    def drop_suppressions(self, lookups: Sequence[bytes]) -> None:
        self._c.execute(sa.delete(t.suppressions).where(t.suppressions.c.lookup.in_(list(lookups))))

    def expire_suppressions(self, at: int) -> int:
        return self._c.execute(sa.delete(t.suppressions).where(t.suppressions.c.expires_at <= at)).rowcount

    def put_erasure(self, row: ErasureRow) -> None:
        self._upsert(t.erasures, [asdict(row)])

    def forget(self, subject: bytes) -> None:
        for table in t.metadata.sorted_tables:
            if _SUBJECT not in table.c or table is t.state:
                continue
            mine = table.c[_SUBJECT] == subject
            if table is t.outbox:
                self._c.execute(sa.update(table).where(mine).values(subject=b""))
            else:
                self._c.execute(sa.delete(table).where(mine))
        self._c.execute(sa.delete(t.subjects).where(t.subjects.c.handle == subject))

    def move_aliases(self, lookups: Sequence[bytes], subject: bytes) -> None:
        self._c.execute(
            sa.update(t.aliases).where(t.aliases.c.lookup.in_(list(lookups))).values(subject=subject)
        )

    def set_merged(self, subject: bytes, into: bytes | None, at: int | None) -> None:
        c = t.subjects.c
        self._c.execute(
            sa.update(t.subjects).where(c.handle == subject).values(merged_into=into, merged_at=at)
        )

    def rewrap(self, subject: bytes, wrapped_key: bytes, aliases: Sequence[tuple[bytes, str]]) -> None:
        self._c.execute(
            sa.update(t.subjects).where(t.subjects.c.handle == subject).values(wrapped_key=wrapped_key)
        )
        self._c.execute(sa.delete(t.aliases).where(t.aliases.c.subject == subject))
        self._insert(t.aliases, ("lookup", "kind", "subject"), sorted((*alias, subject) for alias in aliases))

    def reseal(self, first_index: int, sealed: bytes) -> None:
        self._c.execute(sa.update(t.side).where(t.side.c.first_index == first_index).values(sealed=sealed))

    def set_lookup_version(self, version: int, since_index: int) -> None:
        self._c.execute(sa.update(t.head).where(t.head.c.id == 1).values(lookup_version=version))
        self._upsert(t.lookup_keys, [{"version": version, "since_index": since_index}])


def _erasure(row: Any) -> ErasureRow:
    fields = dict(row)
    if fields["subjects"] is not None:
        fields["subjects"] = bytes(fields["subjects"])
    return ErasureRow(**fields)
